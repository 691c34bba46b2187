"""The trained eye: how a pair is laid before it, what it is given, what it says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imgfp import sift
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
from imgfp.verify.correlation import to_grey
from imgfp.verify.evidence import score_pair
from imgfp.verify.view import View


def picture(image: np.ndarray) -> View:
    keypoints, descriptors = sift.extract(image)
    return View(keypoints, descriptors, image, image.shape[1], image.shape[0])


def test_a_pair_is_laid_in_one_frame_with_its_mask(photograph):
    grey = to_grey(photograph)
    height, width = grey.shape
    x, y, part = 40, 30, grey[30:330, 40:340]
    laid = pair_planes(part, grey, np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float))
    assert laid.shape == (3, SIDE_PX, SIDE_PX) and laid.dtype == np.uint8
    query, reference, mask = laid.astype(int)
    assert mask.min() == 255, "all of a square part lies in the reference"
    assert np.abs(query - reference).mean() < 2
    wide = pair_planes(grey, grey, np.eye(3))[2]
    rows, columns = (np.flatnonzero(wide.max(axis=axis)) for axis in (1, 0))
    assert len(columns) == SIDE_PX and abs(len(rows) - SIDE_PX * height / width) <= 1
    assert abs(rows[0] - (SIDE_PX - 1 - rows[-1])) <= 1, "in the middle"
    assert pair_planes(part, grey, np.array([[1, 0, 2 * width], [0, 1, 0], [0, 0, 1.0]])) is None


def test_what_the_eye_is_given_has_no_brightness_and_no_contrast(photograph):
    grey = to_grey(photograph)
    laid = pair_planes(grey, grey, np.eye(3))
    paler = laid.copy()
    paler[0] = 100 + laid[0] // 2
    negative = laid.copy()
    negative[0] = 255 - laid[0]
    plain, pale, turned = (network_input(pair) for pair in (laid, paler, negative))
    assert plain.shape == (5, SIDE_PX, SIDE_PX) and plain.dtype == np.float32
    for plane in (0, 1):
        assert np.corrcoef(plain[plane].ravel(), pale[plane].ravel())[0, 1] > 0.97
        inside = plain[4] > 0
        assert np.allclose(turned[plane][inside], -plain[plane][inside], atol=0.05)
    assert not plain[:4, plain[4] == 0].any(), "nothing is shown outside of the overlap"


def test_its_word_does_not_depend_on_how_the_pair_is_turned(photograph, other_photograph):
    grey, classifier = to_grey(photograph), load_classifier()
    twin = simulate_second_photograph(photograph, other_photograph, np.random.default_rng(3))
    laid = pair_planes(to_grey(twin), grey, np.eye(3))
    for turned in (laid[:, :, ::-1], laid[:, ::-1]):
        assert abs(classifier(turned) - classifier(laid)) < 0.25
    four = tta_variants(network_input(laid))
    assert four.shape == (4, 5, SIDE_PX, SIDE_PX) and (four[3, 1] == four[0, 1].T).all()
    assert (four[1, 4, :, 0] == four[0, 4, :, -1]).all() and (four[2, 4, 0] == four[0, 4, -1]).all()


def test_the_shipped_eye_tells_edits_from_a_second_photograph(photograph, other_photograph):
    classifier = load_classifier()
    reference = picture(photograph)
    copies, others = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        chain = families.draw(2, rng, ["text", "stickers", "blur"][seed % 3 :][:1])
        edited = families.apply(photograph, chain, rng, [other_photograph], 0.4)
        copies.append(
            score_pair(picture(edited.image), reference, classifier=classifier)["copy_probability"]
        )
        twin = simulate_second_photograph(photograph, other_photograph, rng)
        others.append(
            score_pair(picture(twin), reference, classifier=classifier)["copy_probability"]
        )
    assert np.median(copies) > 0.9 and np.median(others) < 0.5
    assert min(copies + others) >= 0 and max(copies + others) <= 1


def test_it_is_asked_only_about_pairs_that_got_a_close_look(photograph, other_photograph):
    asked = []

    def classifier(laid: np.ndarray) -> float:
        asked.append(laid.shape)
        return 0.25

    reference = picture(photograph)
    row = score_pair(
        picture(np.ascontiguousarray(photograph[:, ::-1])), reference, classifier=classifier
    )
    assert row["copy_probability"] == 0.25 and asked == [(3, SIDE_PX, SIDE_PX)]
    row = score_pair(picture(other_photograph), reference, classifier=classifier)
    assert row["copy_probability"] == 0 and len(asked) == 1
    assert score_pair(reference, reference)["copy_probability"] == 0, "nobody was asked"


def test_files_that_are_no_judge_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.onnx.*No such file"):
        PairClassifier(str(tmp_path / "absent.onnx"))
    (tmp_path / "text.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"text\.onnx: not an ONNX model"):
        PairClassifier(str(tmp_path / "text.onnx"))
    with pytest.raises(ValueError, match=r"box_scorer\.onnx.*notebook 23.*signs"):
        PairClassifier(str(SHIPPED_CLASSIFIER.with_name("box_scorer.onnx")))


def test_a_tiny_overlap_is_not_laid():
    small = cv2.resize(np.random.default_rng(0).uniform(0, 255, (8, 8)).astype(np.float32), (9, 9))
    assert pair_planes(small, small, np.eye(3)) is None
