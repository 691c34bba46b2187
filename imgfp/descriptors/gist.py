# SPDX-License-Identifier: AGPL-3.0-or-later
"""A descriptor without training: gradient directions and low frequencies on a grid."""

from __future__ import annotations

import cv2
import numpy as np

from imgfp.descriptors.base import Model, check_image


class GistGrid(Model):
    """A baseline without weights, 223 values: histograms of gradient directions and low frequencies.

    Two grids (4x4, 2x2) of 8 signed gradient directions, after Oliva & Torralba 2001 and Dalal &
    Triggs 2005, and the 8x8 lowest DCT coefficients of the luminance without the mean. A flat
    image gets a constant vector.
    """

    name = "gist-grid"
    weights_hash = "gist-grid-1"
    dim = 8 * (16 + 4) + 63
    _side = 64

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """(64,64) float32 luminance."""
        grey = cv2.cvtColor(check_image(image), cv2.COLOR_RGB2GRAY)
        return cv2.resize(grey, (self._side, self._side), interpolation=cv2.INTER_AREA).astype(
            np.float32
        )

    def _vectors(self, batch: np.ndarray) -> np.ndarray:
        return np.stack([self._describe(grey) for grey in batch])

    def _describe(self, grey: np.ndarray) -> np.ndarray:
        smooth = cv2.GaussianBlur(grey, (0, 0), 1)
        dx, dy = (cv2.Sobel(smooth, cv2.CV_32F, 1 - axis, axis) for axis in (0, 1))
        strength, angle = cv2.cartToPolar(dx, dy)
        bins = np.floor(angle * (8 / (2 * np.pi)) + 0.5).astype(int) % 8
        planes = np.where(bins == np.arange(8)[:, None, None], strength, 0)
        grids = [
            np.sqrt(planes.reshape(8, n, 64 // n, n, 64 // n).sum(axis=(2, 4))).ravel()
            for n in (4, 2)
        ]
        waves = cv2.dct(cv2.resize(smooth, (32, 32), interpolation=cv2.INTER_AREA))[:8, :8].ravel()
        blocks = [*grids, np.sign(waves[1:]) * np.sqrt(np.abs(waves[1:]))]
        vector = np.concatenate([block / (np.linalg.norm(block) + 1e-3) for block in blocks])
        return vector if np.linalg.norm(vector) > 0.1 else np.ones(self.dim, np.float32)
