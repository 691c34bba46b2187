# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compositing: the image as a part of a larger one, its box exact."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.edits import compositing
from imgfp.edits.families import FAMILIES

NAMES = [name for name in FAMILIES if hasattr(compositing, name)]


@pytest.mark.parametrize("name", NAMES)
def test_the_box_is_exactly_the_pasted_image(name, ramp, hosts):
    boxed = 0
    for seed in range(15):
        edited = FAMILIES[name](ramp, seed / 14, np.random.default_rng(seed), hosts)
        assert edited.quad is not None
        if edited.box is None:  # pasted at an angle
            assert name == "paste"
            continue
        boxed += 1
        y, x = np.nonzero(edited.mask)
        assert edited.box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert edited.box.dtype == np.float32
    assert boxed >= 10


def test_a_collage_records_every_cell(ramp, hosts):
    for seed in range(10):
        edited = FAMILIES["collage"](ramp, 1.0, np.random.default_rng(seed), hosts)
        boxes = edited.boxes
        assert 2 <= len(boxes) <= 4
        assert (boxes[0] == edited.box).all()
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum()
        assert area <= edited.mask.size  # cells never overlap
        assert area >= 0.6 * edited.mask.size


@pytest.mark.parametrize("name", NAMES)
def test_strength_zero_is_mild_and_one_is_not(name, textured, hosts):
    """The source's share of the edited image; some families are far from invisible at 0."""
    weak, strong = (
        np.mean(
            [
                FAMILIES[name](textured, s, np.random.default_rng(i), hosts).mask.mean()
                for i in range(8)
            ]
        )
        for s in (0, 1)
    )
    least, most = (0.85, 0.75) if name in ("padding", "border", "meme") else (0.45, 0.3)
    assert weak > least and strong < most
