"""Photometric edits: same shape, no pixel moved, an effect that grows with the strength."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.edits import photometric
from imgfp.edits.families import FAMILIES

NAMES = [name for name in FAMILIES if hasattr(photometric, name)]


@pytest.mark.parametrize("name", NAMES)
def test_the_record_but_for_the_pixels_stays(name, textured):
    edited = FAMILIES[name](textured, 0.7, np.random.default_rng(0))
    assert edited.image.shape == textured.shape and edited.image.dtype == np.uint8
    assert edited.mask.all() and (edited.homography == np.eye(3)).all() and not len(edited.quads)


@pytest.mark.parametrize("name", NAMES)
def test_strength_zero_is_mild_and_one_is_not(name, textured):
    change = [
        np.mean(
            [
                np.abs(
                    getattr(photometric, name)(textured, s, np.random.default_rng(i)).astype(int)
                    - textured
                ).mean()
                for i in range(4)
            ]
        )
        for s in (0, 1)
    ]
    assert change[0] < 5 < change[1]


def test_grey_and_sepia_leave_one_tint(textured):
    grey = photometric.grey(textured, 0.5, np.random.default_rng(0)).astype(int)
    assert np.ptp(grey, axis=2).max() <= 1
    brown = photometric.sepia(textured, 1.0, np.random.default_rng(0)).astype(float)
    dark = brown[brown.max(axis=2) < 200]
    assert (dark[:, 0] >= dark[:, 1]).all() and (dark[:, 1] >= dark[:, 2]).all()


def test_a_negative_of_all_channels_reverses_the_contrast(textured):
    seeds = (np.random.default_rng(seed) for seed in range(20))
    images = [photometric.invert(textured, 1.0, rng) for rng in seeds]
    assert any((image == 255 - textured).all() for image in images)
    assert any((image == textured).all(axis=(0, 1)).any() for image in images)  # fewer channels
