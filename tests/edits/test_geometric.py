# SPDX-License-Identifier: AGPL-3.0-or-later
"""Geometric edits: masks of bent images, mirrors, and an effect that grows with the strength."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.edits import geometric
from imgfp.edits.families import FAMILIES
from imgfp.edits.record import corners

NAMES = [name for name in FAMILIES if hasattr(geometric, name)]
BENDING = ["lens", "wave"]
WITHOUT_DEGREES = ["rot90", "mirror", "flip"]


@pytest.mark.parametrize("name", BENDING)
def test_the_mask_of_a_bent_image_is_where_the_homography_still_holds(name, ramp):
    kept = []
    for seed in range(12):
        edited = FAMILIES[name](ramp, seed / 11, np.random.default_rng(seed))
        off = np.abs(edited.image[..., :2].astype(float) - ramp[..., :2]).max(axis=2)
        assert off[edited.mask].max(initial=0) <= 1.5, seed
        kept.append(edited.mask.mean())
    assert kept[0] > 0.3 > kept[-1] and max(off.ravel()) > 3


def test_mirrors_have_a_negative_determinant(ramp, rng):
    for name in ("mirror", "flip"):
        assert np.linalg.det(FAMILIES[name](ramp, 0.5, rng).homography) < 0
    assert np.linalg.det(FAMILIES["rot90"](ramp, 0.5, rng).homography) > 0


def _corner_shift(edited) -> float:
    """Mean distance of the source's corners from their former place, seen from the image's centre,
    as a share of half the diagonal."""
    height, width = 200, 240
    source = corners(width, height)[0] - 0.5
    moved = np.column_stack([source, np.ones(4)]) @ edited.homography.T
    moved = moved[:, :2] / moved[:, 2:]
    centres = [(np.array(size) - 1) / 2 for size in ((width, height), edited.mask.shape[::-1])]
    shift = (moved - centres[1]) - (source - centres[0])
    return float(np.linalg.norm(shift, axis=1).mean() / np.hypot(width, height) * 2)


def _mean(measure, name: str, image: np.ndarray, strength: float) -> float:
    return float(
        np.mean(
            [measure(FAMILIES[name](image, strength, np.random.default_rng(i))) for i in range(8)]
        )
    )


@pytest.mark.parametrize("name", NAMES)
def test_strength_zero_is_mild_and_one_is_not(name, ramp):
    if name in WITHOUT_DEGREES:
        weak, strong = (FAMILIES[name](ramp, s, np.random.default_rng(0)).image for s in (0, 1))
        assert (weak == strong).all() and weak.shape[0] in ramp.shape[:2]
    elif name in ("crop", *BENDING):  # source pixels that are still where the homography has them
        shown = [_mean(lambda e: e.mask.sum() / (200 * 240), name, ramp, s) for s in (0, 1)]
        assert shown[0] > 0.95 and shown[1] < 0.35
    else:
        moved = [_mean(_corner_shift, name, ramp, s) for s in (0, 1)]
        assert moved[0] < 0.03 and moved[1] > 0.35
