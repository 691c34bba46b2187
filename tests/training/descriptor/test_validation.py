"""The copy-detection task that monitors training."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from imgfp.edits import families
from imgfp.training.descriptor.augmentation import TURNS
from imgfp.training.descriptor.validation import (
    Validation,
    make_validation,
    micro_ap,
    similarities,
    worst_misses,
)


def test_a_perfect_descriptor_scores_one_and_a_constant_one_almost_zero(photographs):
    validation = make_validation(photographs[:8], photographs[8:], side_px=16)
    assert validation.references.shape == (12, 16, 16, 3)
    assert list(validation.answers) == [0, 1, 2, 3, -1, -1, -1, -1]
    perfect = np.concatenate([np.eye(12)[:4], np.zeros((4, 12))]).astype(np.float32)
    known = {8: perfect, 12: np.eye(12, dtype=np.float32)}
    assert micro_ap(validation, lambda images: known[len(images)]) == 1
    constant = micro_ap(validation, lambda images: np.ones((len(images), 2), np.float32))
    assert constant < 0.2


def test_validation_uses_every_family(photographs, monkeypatch):
    used = set()
    real = families.apply
    monkeypatch.setattr(
        families,
        "apply",
        lambda image, ops, *rest: used.update(dict(ops)) or real(image, ops, *rest),
    )
    make_validation(photographs * 3, side_px=16)
    assert used == families.FAMILIES.keys() - set(TURNS)


def test_similarities_of_the_true_and_the_nearest_other_reference():
    blank = np.zeros((1, 1, 1, 3), np.uint8)
    validation = Validation(np.repeat(blank, 2, 0), np.repeat(blank, 2, 0), np.array([0, -1]))
    answers = iter([np.array([[1.0, 0], [0, 1]]), np.array([[0.8, 0], [0.3, 0.9]])])
    positives, others = similarities(validation, lambda images: next(answers))
    np.testing.assert_allclose(positives, [0.8])
    np.testing.assert_allclose(others, [0.3, 0.9])


def test_worst_misses_show_the_nearest_reference(photographs):
    validation = make_validation(photographs[:4], side_px=16)
    known = {4: np.array([[0, 1], [0, 1], [0.5, 0], [0, 0.9]]), 2: np.eye(2)}
    missed, false = worst_misses(validation, lambda images: known[len(images)], 5)
    assert len(missed) == 1 and len(false) == 2
    np.testing.assert_array_equal(missed[0][1], validation.references[0])
    np.testing.assert_array_equal(missed[0][2], validation.references[1])
    np.testing.assert_array_equal(false[0][0], validation.queries[3])
