"""Views of photographs by step, and the edits that make them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from imgfp.training.descriptor.augmentation import (
    OFTEN,
    TURNS,
    Curriculum,
    Steps,
    batch_rows,
    draw_chain,
    draw_edits,
    epoch_order,
    step_loader,
)

GROUPS = ["", "a", "", "b", "a", "", "b", *[""] * 9]
EASY = Curriculum(batch_images=4, start_px=32, end_px=64, ramp_steps=10)


def test_members_of_a_group_stay_together_and_none_is_lost():
    for seed in range(5):
        order = list(epoch_order(GROUPS, np.random.default_rng(seed)))
        assert sorted(order) == list(range(16))
        assert abs(order.index(1) - order.index(4)) == abs(order.index(3) - order.index(6)) == 1


def test_an_epoch_uses_every_photograph_once():
    rows = np.concatenate([batch_rows(GROUPS, step, EASY) for step in range(4)])
    assert sorted(rows) == list(range(16))
    again = np.concatenate([batch_rows(GROUPS, step, EASY) for step in range(4, 8)])
    assert sorted(again) == list(range(16)) and (again != rows).any()


def test_few_photographs_make_a_smaller_batch():
    assert sorted(batch_rows(["", ""], 3, EASY)) == [0, 1]


def test_edits_get_harder_and_views_larger():
    assert EASY.side_px(0) == 32 and EASY.side_px(10) == EASY.side_px(999) == 64
    assert EASY.strength(0) < EASY.strength(5) < EASY.strength(10) == 1
    assert (EASY.max_ops(0), EASY.max_ops(10)) == (1, 3)


def test_turns_are_left_to_query_views():
    rng = np.random.default_rng(0)
    drawn = [op for _ in range(200) for op in draw_edits(4, 1.0, rng)]
    assert not {name for name, _ in drawn} & set(TURNS)
    assert max(degree for name, degree in drawn if name == "rotate") <= 0.25
    assert {name for _ in range(200) for name, _ in draw_edits(4, 1.0, rng, turns=True)} & set(
        TURNS
    )


def test_a_chain_often_contains_the_frequent_families_strongly():
    rng = np.random.default_rng(0)
    chains = [dict(draw_chain(1, 1.0, rng)) for _ in range(1500)]
    assert {n for c in chains for n in c}.isdisjoint(TURNS)
    for share, names in OFTEN:
        met = np.mean([not c.keys().isdisjoint(names) for c in chains])
        assert share - 0.04 < met < share + 0.16
    drawn = [c["sketch"] for c in chains if "sketch" in c]
    assert 0.6 < np.mean(drawn) < 0.72  # the mean is 0.5 without preference
    assert max(d for c in chains for d in c.values()) <= 1


def test_a_step_is_the_same_in_any_process(photographs):
    steps = Steps(photographs, GROUPS, EASY)
    rows, views = steps[3]
    assert views.shape == (8, 48, 48, 3) and views.dtype == np.uint8
    for workers in (0, 1):
        made_rows, made = next(step_loader(steps, 3, 5, workers))
        np.testing.assert_array_equal(made_rows, rows)
        np.testing.assert_array_equal(made, views)
    assert (steps[4][1][:, :32, :32] != views[:, :32, :32]).any()


def test_a_worker_starts_after_opencv_has_used_its_threads(photographs):
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 5)
    rows, _ = next(step_loader(Steps(photographs, GROUPS, EASY), 0, 1, workers=1))
    assert len(rows) == 4


def test_no_photograph_of_the_same_group_is_a_host(photographs):
    steps = Steps(photographs[:2], ["a", "a"], EASY)
    other = steps._other(0, np.random.default_rng(0))
    assert (other == 128).all()
