# SPDX-License-Identifier: AGPL-3.0-or-later
"""Families that nothing is trained on: contract, geometry, and that no chain draws them."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.edits.families import FAMILIES
from imgfp.edits.unseen import UNSEEN


def test_no_chain_draws_them():
    assert not UNSEEN.keys() & FAMILIES.keys()
    assert not any(family.weight for family in UNSEEN.values())


@pytest.mark.parametrize("name", UNSEEN)
def test_every_family_keeps_the_contract_on_odd_images(name, hosts):
    for shape in ((1, 1), (1, 9), (9, 1), (5, 400), (61, 47)):
        for strength in (0, 0.5, 1):
            image = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
            kept = image.copy()
            for others in ((), hosts):
                one, two = (
                    UNSEEN[name](image, strength, np.random.default_rng(2), others)
                    for _ in range(2)
                )
                assert one.image.dtype == np.uint8 and one.image.shape == (*one.mask.shape, 3)
                assert (one.image == two.image).all() and one.ops == [(name, float(strength))]
            assert (image == kept).all(), "the source was modified"


@pytest.mark.parametrize("name", UNSEEN)
def test_more_strength_changes_more(name, textured, hosts):
    sides = [UNSEEN[name](textured, s, np.random.default_rng(3), hosts).image for s in (0, 1)]
    if name == "retarget":
        assert min(side.size for side in sides) == sides[1].size < 0.8 * sides[0].size
        return
    weak, strong = (np.abs(side.astype(float) - textured).mean() for side in sides)
    assert 0 < weak < 0.75 * strong


@pytest.mark.parametrize("name", ["swirl", "retarget", "lattice", "windows"])
def test_the_homography_holds_wherever_the_mask_says_so(name, ramp, hosts, misses):
    seen = 0
    for seed in range(8):
        edited = UNSEEN[name](ramp, 0.2 + seed / 14, np.random.default_rng(seed), hosts)
        distances = misses(edited)
        seen += len(distances)
        assert not len(distances) or np.abs(distances).max() < 2.5, seed
    assert seen
