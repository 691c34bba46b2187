# SPDX-License-Identifier: AGPL-3.0-or-later
"""Perceptual hashes of 256 bits as unit vectors, as baselines for learned descriptors.

A bit becomes +1/16 or -1/16, so that the dot product of two vectors is 1 - 2 d / 256 for a Hamming
distance of d bits. Hashes are therefore searched like any other descriptor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from imgfp.descriptors.base import Model, check_image
from imgfp.inference import require


class Hash(Model):
    """256 bits."""

    dim = 256

    def __init__(self, name: str, bits: Callable[[np.ndarray], np.ndarray]):
        self.name = self.weights_hash = name
        self._bits = bits

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """The 256 bits (256,) bool."""
        return np.asarray(self._bits(check_image(image)), bool).ravel()

    def _vectors(self, batch: np.ndarray) -> np.ndarray:
        return np.where(batch, 1 / 16, -1 / 16).astype(np.float32)


def _phash() -> Callable[[np.ndarray], np.ndarray]:
    imagehash = require("imagehash", "peers", "descriptor model 'phash'")
    return lambda image: imagehash.phash(Image.fromarray(image), hash_size=16).hash


def _pdq() -> Callable[[np.ndarray], np.ndarray]:
    pdqhash = require("pdqhash", "peers", "descriptor model 'pdq'")
    return lambda image: pdqhash.compute(image)[0]


_HASHES = {"phash": _phash, "pdq": _pdq}
#: pHash of ImageHash with 16 x 16 bits, PDQ of pdqhash; the package of each.
PACKAGES = {"phash": "imagehash", "pdq": "pdqhash"}
NAMES = tuple(PACKAGES)


def load(name: str) -> Hash:
    """A hash by name. Raises ModuleNotFoundError where its package is not installed."""
    return Hash(name, _HASHES[name]())
