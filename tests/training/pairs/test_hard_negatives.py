"""Synthetic hard negatives."""

from __future__ import annotations

import numpy as np

from imgfp.training.pairs.hard_negatives import simulate_second_photograph


def test_a_second_photograph_is_of_the_same_scene_but_no_edit(photograph, other_photograph):
    kept = photograph.copy()
    one, two = (
        simulate_second_photograph(photograph, other_photograph, np.random.default_rng(5))
        for _ in range(2)
    )
    assert one.shape == photograph.shape and one.dtype == np.uint8
    assert (one == two).all() and (photograph == kept).all()
    other = simulate_second_photograph(photograph, other_photograph, np.random.default_rng(6))
    assert np.abs(one.astype(int) - other).mean() > 1
    small = simulate_second_photograph(
        photograph[:5, :4], other_photograph, np.random.default_rng(7)
    )
    assert small.shape == (5, 4, 3)
