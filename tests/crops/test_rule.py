"""The rule that chooses boxes: for one image, and for a table at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from imgfp.crops import rule
from imgfp.datatypes import TABLES, Boxes, table

EVERYTHING = {"min_confidence": 0.0, "max_area": 1.0, "max_aspect": 1e9}


def boxes(*rows: tuple[float, float, float, float, float]) -> Boxes:
    """Boxes from rows of x0, y0, x1, y1, confidence."""
    array = np.array(rows, np.float32).reshape(-1, 5)
    return Boxes(array[:, :4], array[:, 4])


def test_no_boxes_no_crop():
    chosen, rows = rule.choose_box(boxes(), 100, 100, min_confidence=0.5)
    assert chosen.shape == (0, 4)
    assert chosen.dtype == np.float32
    assert rows.shape == (0,)


def test_most_confident_wins_and_rows_point_into_the_boxes():
    found = boxes((0, 0, 50, 50, 0.6), (10, 10, 60, 60, 0.9))
    chosen, rows = rule.choose_box(found, 100, 100, min_confidence=0.5)
    assert chosen.tolist() == [[10, 10, 60, 60]]
    assert found.confidence[rows].tolist() == pytest.approx([0.9])


def test_confidence_must_be_above_not_at_the_threshold():
    found = boxes((0, 0, 50, 50, 0.5))
    assert len(rule.choose_box(found, 100, 100, min_confidence=0.5)[0]) == 0
    assert len(rule.choose_box(found, 100, 100, min_confidence=0.499)[0]) == 1


def test_area_may_be_at_the_limit_and_is_a_share_of_the_image():
    found = boxes((0, 0, 85, 200, 0.9))
    assert len(rule.choose_box(found, 100, 200, min_confidence=0, max_aspect=9)[0]) == 1
    found = boxes((0, 0, 86, 200, 0.9))
    assert len(rule.choose_box(found, 100, 200, min_confidence=0, max_aspect=9)[0]) == 0


def test_aspect_is_of_the_normalised_box():
    tall_strip = boxes((0, 0, 50, 400, 0.9))  # 8 : 1 in pixels, but 4 : 1 in a 200 x 400 image
    assert len(rule.choose_box(tall_strip, 200, 400, min_confidence=0)[0]) == 1
    flat = boxes((0, 0, 400, 80, 0.9))  # 5 : 1 in pixels, 1 : 2.5 in a 400 x 200 image
    assert len(rule.choose_box(flat, 400, 200, min_confidence=0)[0]) == 1
    square = boxes((0, 0, 60, 60, 0.9))  # square in pixels, 1 : 5 in a 100 x 500 image
    assert len(rule.choose_box(square, 100, 500, min_confidence=0)[0]) == 0


def test_a_refused_box_does_not_hide_a_weaker_good_one():
    found = boxes((0, 0, 100, 100, 0.99), (20, 20, 80, 80, 0.6))
    assert rule.choose_box(found, 100, 100, min_confidence=0.5)[0].tolist() == [[20, 20, 80, 80]]


def test_boxes_are_clipped_and_empty_ones_dropped():
    found = boxes((-10, -10, 50, 50, 0.9), (120, 120, 150, 150, 0.8))
    chosen, _ = rule.choose_box(found, 100, 100, **EVERYTHING, max_crops=5)
    assert chosen.tolist() == [[0, 0, 50, 50]]


def test_a_collage_gives_several_crops_and_a_nested_box_none():
    found = boxes((0, 0, 50, 100, 0.9), (5, 5, 45, 60, 0.8), (50, 0, 100, 100, 0.7))
    chosen, rows = rule.choose_box(found, 100, 100, min_confidence=0.5, max_crops=3)
    assert rows.tolist() == [0, 2]
    assert chosen.tolist() == [[0, 0, 50, 100], [50, 0, 100, 100]]
    assert len(rule.choose_box(found, 100, 100, min_confidence=0.5)[0]) == 1
    _, rows = rule.choose_box(found, 100, 100, **EVERYTHING, max_crops=9, max_overlap=1.0)
    assert rows.tolist() == [0, 1, 2]  # each once, even if boxes may overlap wholly


def test_crop_table_joins_the_operating_points():
    found = boxes((0, 0, 50, 100, 0.9), (50, 0, 100, 100, 0.7), (0, 40, 50, 60, 0.2))
    points = {"local_min_confidence": 0.6, "global_min_confidence": 0.8}
    crops = rule.crop_table('q"1,', found, 100, 100, **points, max_crops=2)
    assert list(crops.columns) == list(TABLES["crops"])
    assert crops.crop_id.tolist() == ['q"1,#0', 'q"1,#1']
    assert crops.local_rank.tolist() == [0, 1]
    assert crops.is_global.tolist() == [True, False]


def test_crop_table_without_boxes_keeps_its_columns():
    points = {"local_min_confidence": 0.6, "global_min_confidence": 0.8}
    crops = rule.crop_table("q", boxes(), 100, 100, **points)
    assert len(crops) == 0
    assert list(crops.columns) == list(TABLES["crops"])


def test_a_global_box_that_the_local_point_did_not_take_is_a_row_of_rank_minus_one():
    found = boxes((0, 0, 50, 100, 0.9))
    points = {"local_min_confidence": 1.0, "global_min_confidence": 0.5}
    crops = rule.crop_table("q", found, 100, 100, **points)
    assert crops.local_rank.tolist() == [-1]
    assert crops.is_global.tolist() == [True]


@pytest.mark.parametrize("most", [1, 3])
def test_boxes_of_all_images_at_once_are_those_of_each_alone(most):
    rng = np.random.default_rng(0)
    limits = {"max_area": 0.6, "max_aspect": 2.5, "max_crops": most}
    tables, sizes, expected = [], {}, set()
    for number in range(60):
        image_id, size = f"q{number}", tuple(rng.integers(50, 400, 2))
        corners = rng.uniform(-20, 420, (rng.integers(0, 12), 4))
        corners = np.sort(corners.reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        found = Boxes(corners, np.sort(rng.random(len(corners)))[::-1])
        sizes[image_id] = size
        columns = dict(zip(("x0", "y0", "x1", "y1"), found.xyxy.T, strict=True))
        ids = [image_id] * len(found)
        tables.append(table("detections", image_id=ids, confidence=found.confidence, **columns))
        rows = rule.choose_box(found, *size, min_confidence=0.3, **limits)[1]
        expected |= {(image_id, row) for row in rows}
    detections = pd.concat(tables, ignore_index=True)
    facts = rule.box_facts(detections, pd.DataFrame(sizes, index=["width", "height"]).T)
    taken = rule.taken_boxes(facts, min_confidence=0.3, **limits)
    first = facts.drop_duplicates("image_id").reset_index().set_index("image_id")["index"]
    rows = {(entry.image_id, entry.Index - first[entry.image_id]) for entry in taken.itertuples()}
    assert rows == expected and len(taken) == len(expected)


def test_no_detections_are_no_boxes():
    sizes = pd.DataFrame(columns=["width", "height"])
    facts = rule.box_facts(table("detections"), sizes)
    assert not len(rule.taken_boxes(facts, min_confidence=0, max_area=1, max_aspect=9))
