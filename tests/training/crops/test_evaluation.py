"""Measures of crop detectors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from imgfp.datatypes import Boxes
from imgfp.training.crops import evaluation

TRUTH = np.array([[0.0, 0, 10, 10]])


def detected(*rows: tuple) -> Boxes:
    array = np.array(rows, float).reshape(-1, 5)
    return Boxes(array[:, :4], array[:, 4])


def test_measures_of_nothing_are_nan():
    table = evaluation.measure([np.empty((0, 4))], [np.empty((0, 4))], ["none"])
    assert np.isnan(table.recall_70["all"])
    assert np.isnan(table.precision["all"])
    assert table.false_per_100["all"] == 0


def test_measure_by_hand():
    chosen = [np.array([[0.0, 0, 10, 8]]), np.empty((0, 4)), np.array([[5.0, 5, 9, 9]])]
    truths = [TRUTH, TRUTH, np.empty((0, 4))]
    table = evaluation.measure(chosen, truths, ["a", "a", "b"])
    assert table.loc["a", ["recall_70", "recall_90", "mean_iou"]].tolist() == pytest.approx(
        [0.5, 0, 0.4]
    )
    assert table.precision[["a", "b", "all"]].tolist() == pytest.approx([1, 0, 0.5])
    assert table.false_per_100["b"] == 100


def test_the_other_half_of_a_collage_is_no_error_and_no_gain():
    other = np.array([[10.0, 0, 20, 10]])
    table = evaluation.measure([other], [TRUTH], ["collage"], also_right=[other])
    assert table.precision["all"] == 1
    assert table.recall_70["all"] == 0


def test_a_second_box_on_the_same_truth_is_false():
    detections = [detected((0, 0, 10, 10, 0.9), (0, 0, 10, 9, 0.8)), detected((5, 5, 9, 9, 0.85))]
    curve = evaluation.precision_recall(detections, [TRUTH, np.empty((0, 4))])
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    assert curve.recall.tolist() == [1, 1, 1]
    assert evaluation.average_precision(curve) == 1


def test_average_precision_without_detections_is_zero():
    curve = evaluation.precision_recall([detected()], [TRUTH])
    assert evaluation.average_precision(curve) == 0


def test_sweep_and_pick_point():
    detections = [detected((0, 0, 10, 10, 0.9)), detected((5, 5, 9, 9, 0.4))]
    sizes, truths = [(20, 20)] * 2, [TRUTH, np.empty((0, 4))]
    swept = evaluation.sweep(detections, sizes, truths, [0.1, 0.5, 0.95])
    assert swept.recall_70.tolist() == [1, 1, 0]
    assert swept.false_per_100.tolist() == [100, 0, 0]
    assert swept.boxes_per_image.tolist() == [1, 0.5, 0]
    pick = evaluation.pick_point
    assert pick(swept.iloc[:2], min_precision=0.9, max_false_per_100=5) == 0.5
    assert pick(swept.iloc[:2], min_precision=0.4, max_false_per_100=100) == 0.1
    assert pick(swept, max_boxes_per_image=0.7) == 0.5
    assert pick(swept.iloc[:1], min_precision=0.9, max_false_per_100=5) == 0.1


def test_worst_and_surest():
    far = np.array([[50.0, 50, 60, 60]])
    nothing = np.empty((0, 4))
    worst = evaluation.worst_scenes([TRUTH, nothing, far, nothing], [TRUTH, TRUTH, TRUTH, nothing])
    assert worst.tolist() == [1, 2, 0]
    detections = [
        detected((0, 0, 9, 9, 0.3)),
        detected((0, 0, 9, 9, 0.8)),
        detected(),
        detected((0, 0, 9, 9, 0.9)),
    ]
    assert evaluation.surest_false(detections, [nothing] * 3 + [TRUTH]).tolist() == [1, 0]


def test_known_queries_and_the_other_half_of_a_collage():
    meta = pd.DataFrame(
        [
            ("a", "crop+overlay", 0.1, 0.2, 0.5, 0.6),
            ("b", "collage+text", 0, 0, 0.4, 1),
            ("c", "collage", 0, 0.7, 1, 1),
            ("d", "meme+blur", *[None] * 4),
            ("e", "overlay+meme", *[None] * 4),  # its box is not recorded
            ("f", None, *[None] * 4),
        ],
        columns=["query_id", "ops", "x0", "y0", "x1", "y1"],
    )
    known = evaluation.known_queries(meta)
    assert dict(zip(known.query_id, known.kind, strict=True)) == {
        "a": "paste", "b": "collage", "c": "collage", "d": "bars", "f": "whole"
    }  # fmt: skip
    truths, others = evaluation.known_boxes(known, [(200, 100)] * 5)
    assert truths[0].tolist() == [[20, 20, 100, 60]]
    assert [len(truth) for truth in truths] == [1, 1, 1, 0, 0]
    assert others[0].shape == (0, 4)
    assert others[1].tolist() == [[80, 0, 200, 100]]
    assert others[2].ravel() == pytest.approx([0, 0, 200, 70])


def test_compare_names_detector_point_and_kind():
    found = {
        "ours": [detected((0, 0, 10, 10, 0.9)), detected()],
        "theirs": [detected(), detected()],
    }
    points = {name: {"local": {"min_confidence": 0.5}} for name in found}
    table = evaluation.compare(found, points, [(20, 20)] * 2, [TRUTH, TRUTH], ["a", "b"])
    assert len(table) == 2 * 3
    both = table[table.kind == "all"].set_index("detector").recall_70
    assert both.to_dict() == {"ours": 0.5, "theirs": 0.0}
