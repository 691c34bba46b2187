"""Procedural paintings: shape, determinism, texture."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.demo import painting


@pytest.mark.parametrize("kind", list(painting.KINDS))
def test_painted_images_are_neither_flat_nor_noise(kind):
    for seed, size in enumerate([(320, 440), (401, 301), (64, 64), (64, 200)]):
        image = painting.procedural(np.random.default_rng(seed), kind, size)
        again = painting.procedural(np.random.default_rng(seed), kind, size)
        assert image.shape == (*size, 3) and image.dtype == np.uint8
        assert (image == again).all()
        grey = image.mean(axis=2)
        assert grey.std() > 6  # not flat
        if min(size) > 300:  # not noise
            assert np.corrcoef(grey[:, :-1].ravel(), grey[:, 1:].ravel())[0, 1] > 0.75


def test_an_unknown_kind_is_named():
    with pytest.raises(
        ValueError, match="unknown kind of picture 'hils'; choose from leaves, hills"
    ):
        painting.procedural(np.random.default_rng(0), "hils", (64, 64))
