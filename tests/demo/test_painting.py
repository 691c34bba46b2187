# SPDX-License-Identifier: AGPL-3.0-or-later
"""Procedural paintings: shape, determinism, texture."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.demo import painting
from imgfp.demo.painting.flat import FLAT


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


@pytest.mark.parametrize("kind", list(FLAT))
def test_flat_drawings_share_their_template_and_differ_in_contents(kind):
    def drawn(template: int, contents: int, size: tuple[int, int] = (240, 320)) -> np.ndarray:
        rngs = np.random.default_rng([1, template]), np.random.default_rng([2, contents])
        return FLAT[kind](*size, *rngs)

    one, again, other = drawn(0, 0), drawn(0, 0), drawn(0, 1)
    assert one.shape == (240, 320, 3) and one.dtype == np.uint8 and (one == again).all()
    differ = (one != other).any(axis=2)
    assert differ.mean() > 0.005 and (one != drawn(1, 0)).any()
    if kind != "logo":  # whose colours are contents
        corners = differ[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert differ.mean() < 0.6 and not corners.any()
    assert drawn(0, 0, (399, 241)).shape == (399, 241, 3)
