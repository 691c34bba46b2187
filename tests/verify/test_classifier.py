# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pair classifier: its input, its invariances, its answers, its errors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imgfp.edits import families
from imgfp.training.pairs.hard_negatives import simulate_second_photograph
from imgfp.verify.classifier import (
    SHIPPED_CLASSIFIER,
    SIDE_PX,
    PairClassifier,
    load_classifier,
    network_input,
    pair_planes,
    tta_variants,
)
from imgfp.verify.correlation import Alignment, to_grey
from imgfp.verify.evidence import score_pair


def test_a_pair_is_aligned_in_one_frame_with_its_mask(photograph):
    grey = to_grey(photograph)
    height, width = grey.shape
    x, y, part = 40, 30, grey[30:330, 40:340]
    shift = np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)
    planes = pair_planes(Alignment(part, grey, shift))
    assert planes.shape == (3, SIDE_PX, SIDE_PX) and planes.dtype == np.uint8
    query, reference, mask = planes.astype(int)
    assert mask.min() == 255, "all of a square part lies in the reference"
    assert np.abs(query - reference).mean() < 2
    wide = pair_planes(Alignment(grey, grey, np.eye(3)))[2]
    rows, columns = (np.flatnonzero(wide.max(axis=axis)) for axis in (1, 0))
    assert len(columns) == SIDE_PX and abs(len(rows) - SIDE_PX * height / width) <= 1
    assert abs(rows[0] - (SIDE_PX - 1 - rows[-1])) <= 1, "centred"
    apart = np.array([[1, 0, 2 * width], [0, 1, 0], [0, 0, 1.0]])
    assert pair_planes(Alignment(part, grey, apart)) is None


def test_the_input_has_no_brightness_and_no_contrast(photograph):
    grey = to_grey(photograph)
    planes = pair_planes(Alignment(grey, grey, np.eye(3)))
    paler, negative = planes.copy(), planes.copy()
    paler[0] = 100 + planes[0] // 2
    negative[0] = 255 - planes[0]
    plain, pale, reversed_ = (network_input(pair) for pair in (planes, paler, negative))
    assert plain.shape == (5, SIDE_PX, SIDE_PX) and plain.dtype == np.float32
    inside = plain[4] > 0
    for plane in (0, 1):
        assert np.corrcoef(plain[plane].ravel(), pale[plane].ravel())[0, 1] > 0.97
        assert np.allclose(reversed_[plane][inside], -plain[plane][inside], atol=0.05)
    assert not plain[:4, ~inside].any(), "0 outside of the overlap"


def test_the_probability_hardly_depends_on_the_orientation(photograph, other_photograph):
    classifier = load_classifier()
    second = simulate_second_photograph(photograph, other_photograph, np.random.default_rng(3))
    planes = pair_planes(Alignment(to_grey(second), to_grey(photograph), np.eye(3)))
    for turned in (planes[:, :, ::-1], planes[:, ::-1]):
        assert abs(classifier(turned) - classifier(planes)) < 0.25
    four = tta_variants(network_input(planes))
    assert four.shape == (4, 5, SIDE_PX, SIDE_PX) and (four[3, 1] == four[0, 1].T).all()
    assert (four[1, 4, :, 0] == four[0, 4, :, -1]).all() and (four[2, 4, 0] == four[0, 4, -1]).all()


@pytest.mark.parametrize(
    ("log_odds", "expected", "runs"),
    [([3, 9, 9, 9], 3, [1]), ([-1.5, 9, 9, 9], -1.5, [1]), ([0.5, 1, 2, -0.5], 0.75, [1, 3])],
)
def test_one_variant_decides_and_four_where_it_is_in_doubt(monkeypatch, log_odds, expected, runs):
    seen = []

    class Session:
        def run(self, _, inputs):
            (variants,) = inputs.values()
            seen.append(len(variants))
            start = sum(seen[:-1])
            return [np.array(log_odds[start : start + len(variants)], np.float32)[:, None]]

    classifier = PairClassifier()
    monkeypatch.setattr(classifier, "_session", Session())
    found = classifier(np.zeros((3, SIDE_PX, SIDE_PX), np.uint8))
    assert found == pytest.approx(1 / (1 + np.exp(-expected))) and seen == runs


def test_the_shipped_network_tells_edits_from_a_second_photograph(
    make_view, photograph, other_photograph
):
    classifier = load_classifier()
    reference = make_view(photograph, 427)
    copies, others = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        chain = families.draw(2, rng, ["text", "stickers", "blur"][seed % 3 :][:1])
        edited = families.apply(photograph, chain, rng, [other_photograph], 0.4).image
        second = simulate_second_photograph(photograph, other_photograph, rng)
        for image, found in ((edited, copies), (second, others)):
            query = make_view(image, min(image.shape[:2]))
            found.append(score_pair(query, reference, classifier=classifier)["copy_probability"])
    assert np.median(copies) > 0.9 and np.median(others) < 0.5
    assert min(copies + others) >= 0 and max(copies + others) <= 1


def test_files_that_are_not_a_pair_classifier_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.onnx.*No such file"):
        PairClassifier(str(tmp_path / "absent.onnx"))
    (tmp_path / "text.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"text\.onnx: not an ONNX model"):
        PairClassifier(str(tmp_path / "text.onnx"))
    with pytest.raises(ValueError, match=r"box_scorer\.onnx.*notebook 23.*signs"):
        PairClassifier(str(SHIPPED_CLASSIFIER.with_name("box_scorer.onnx")))


def test_a_tiny_overlap_gives_no_input():
    small = cv2.resize(np.random.default_rng(0).uniform(0, 255, (8, 8)).astype(np.float32), (9, 9))
    assert pair_planes(Alignment(small, small, np.eye(3))) is None
