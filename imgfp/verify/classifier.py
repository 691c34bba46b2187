# SPDX-License-Identifier: AGPL-3.0-or-later
"""CNN that tells copies from second photographs of the same scene, given two aligned images.

Counts of matching blocks cannot tell a sticker from a moved hand, nor faint texture under a blur
from a scene photographed twice. A small network that sees both images can. It sees no colours, and
only pairs whose alignment was refined (`imgfp.verify.refinement`).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from imgfp.inference import SHIPPED, onnx_session, sha256_of
from imgfp.verify.correlation import Alignment

SHIPPED_CLASSIFIER = SHIPPED / "pair_classifier.onnx"

#: Side in pixels of the network's square input; a power of two, so that rounding never makes the
#: overlay larger.
SIDE_PX = 128
#: Side in pixels of the window in which local brightness and contrast are normalised.
_WINDOW_PX = 17
#: Grey levels added to the standard deviation of the whole overlap and of a window, so that flat
#: regions stay flat.
_FLAT_WHOLE, _FLAT_LOCAL = 8.0, 6.0
#: Log-odds from which one TTA variant decides: of 645 proposed pairs it then never had the other sign than the
#: mean of four, and was at most 0.6 from it.
_DECIDED = 1.0


def pair_planes(alignment: Alignment) -> np.ndarray | None:
    """(3,SIDE_PX,SIDE_PX) uint8: query, reference, and a mask that is 255 where the query has
    pixels, in one frame no finer than the coarser image, centred on black; None if the images
    hardly overlap."""
    overlay = alignment.overlay(SIDE_PX)
    if overlay is None:
        return None
    height, width = overlay.query.shape
    planes = np.zeros((3, SIDE_PX, SIDE_PX), np.uint8)
    y, x = (SIDE_PX - height) // 2, (SIDE_PX - width) // 2
    levels = np.stack([overlay.query, overlay.reference, 255 * overlay.mask])
    planes[:, y : y + height, x : x + width] = np.clip(np.rint(levels), 0, 255)
    return planes


def network_input(planes: np.ndarray) -> np.ndarray:
    """The network's input (5,h,w) float32 from `pair_planes` (3,h,w) uint8: the query less its
    mean, divided by its standard deviation, over the whole overlap and in a window around every
    pixel; the reference likewise; the mask."""
    mask = (planes[2] > 127).astype(np.float32)
    count, near = max(float(mask.sum()), 1.0), np.maximum(_box(mask), 1e-3)
    normalised = []
    for side in planes[:2]:
        grey = side * mask
        whole = (grey - grey.sum() / count) * mask
        deviation = np.sqrt(np.square(whole).sum() / count)
        mean = _box(grey) / near
        spread = np.sqrt(np.maximum(_box(grey * grey) / near - mean * mean, 0))
        normalised += [
            whole / (deviation + _FLAT_WHOLE),
            (grey - mean) * mask / (spread + _FLAT_LOCAL),
        ]
    return np.stack([*normalised, mask])


def tta_variants(planes: np.ndarray) -> np.ndarray:
    """(4,5,h,h): TTA variants of (5,h,h): as it is, mirrored, upside down, transposed."""
    variants = [planes, planes[:, :, ::-1], planes[:, ::-1], planes.transpose(0, 2, 1)]
    return np.stack(variants)


def _box(plane: np.ndarray) -> np.ndarray:
    return cv2.boxFilter(plane, -1, (_WINDOW_PX, _WINDOW_PX), borderType=cv2.BORDER_CONSTANT)


class PairClassifier:
    """The network of an ONNX file written by `training.pairs.classifier`; "" is the one that ships.

    Raises ValueError naming a file that is missing or holds another network.
    """

    def __init__(self, path: str = ""):
        self.path = Path(path) if path else SHIPPED_CLASSIFIER
        try:
            self.weights_hash = sha256_of(self.path)
        except OSError as error:
            raise ValueError(f"pair classifier {str(self.path)!r}: {error.strerror}") from None
        self._session = onnx_session(self.path)
        inputs = self._session.get_inputs()
        if [side.shape[1:] for side in inputs] != [[5, SIDE_PX, SIDE_PX]]:
            raise ValueError(
                f"pair classifier {str(self.path)!r}: not a network of notebook 23, its inputs are "
                + ", ".join(f"{side.name} {side.shape}" for side in inputs)
            )
        self._input = inputs[0].name

    def __call__(self, planes: np.ndarray) -> float:
        """The probability, 0..1, that the images of `pair_planes` (3,SIDE_PX,SIDE_PX) are copy and
        original, for a prior of one half: the logistic function of the log-odds, which is the mean over
        `tta_variants` where that of the first is less than _DECIDED from 0."""
        variants = tta_variants(network_input(planes))
        log_odds = self._run(variants[:1])
        if abs(log_odds[0]) < _DECIDED:
            log_odds = np.concatenate([log_odds, self._run(variants[1:])])
        return float(1 / (1 + np.exp(-log_odds.mean(dtype=np.float64))))

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        """Log-odds (n,) of network inputs (n,5,SIDE_PX,SIDE_PX)."""
        return self._session.run(None, {self._input: inputs})[0].reshape(len(inputs))


@lru_cache(maxsize=2)
def load_classifier(path: str = "") -> PairClassifier:
    """A `PairClassifier`, loaded once per process."""
    return PairClassifier(path)
