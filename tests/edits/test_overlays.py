"""Overlays: the mask loses what they cover, and more with the strength."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.edits import overlays
from imgfp.edits.families import FAMILIES

NAMES = [name for name in FAMILIES if hasattr(overlays, name)]
OPAQUE = [name for name in NAMES if name != "blend"]


@pytest.mark.parametrize("name", OPAQUE)
def test_the_mask_loses_what_an_overlay_covers(name, hosts):
    plain = np.full((120, 150, 3), (31, 97, 143), np.uint8)
    covered = 0
    for seed in range(12):
        edited = FAMILIES[name](plain, 0.9, np.random.default_rng(seed), hosts)
        untouched = (edited.image == plain).all(axis=2)
        assert not (untouched & ~edited.mask).any()
        far = np.abs(edited.image.astype(int) - plain).max(axis=2) > 128
        assert far[edited.mask].mean() < 0.01  # only where transparent layers add up
        covered += (~edited.mask).sum()
    assert covered > 1000


@pytest.mark.parametrize("name", OPAQUE)
def test_strength_zero_is_mild_and_one_is_not(name, textured, hosts):
    weak, strong = (
        np.mean(
            [
                1 - FAMILIES[name](textured, s, np.random.default_rng(i), hosts).mask.mean()
                for i in range(8)
            ]
        )
        for s in (0, 1)
    )
    assert weak < 0.2 and strong > max(0.1, 3 * weak)


def test_a_blend_shows_more_of_the_other_image_with_its_strength(textured, hosts):
    change = [
        np.abs(
            FAMILIES["blend"](textured, s, np.random.default_rng(0), hosts).image.astype(int)
            - textured
        ).mean()
        for s in (0, 0.5, 1)
    ]
    assert change[0] < 10 < change[1] < change[2]
    assert change[2] / change[0] == pytest.approx(0.5 / 0.08, rel=0.1)
