"""Crops: the rule that chooses, the training-free detector, detectors from files."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.crops import detectors, edges, rule
from imgfp.crops.box_features import N_FEATURES, box_features
from imgfp.crops.boxes import decode_yolo, iou, letterbox, nms
from imgfp.crops.edges import snap_to_edges
from imgfp.datatypes import TABLES, Boxes

EVERYTHING = {"min_confidence": 0.0, "max_area": 1.0, "max_aspect": 1e9}


def boxes(*rows: tuple[float, float, float, float, float]) -> Boxes:
    """Boxes from rows of x0, y0, x1, y1, confidence."""
    array = np.array(rows, np.float32).reshape(-1, 5)
    return Boxes(array[:, :4], array[:, 4])


# ---------------------------------------------------------------------------------------- the rule


def test_no_boxes_no_crop():
    chosen, rows = rule.choose_box(boxes(), 100, 100, min_confidence=0.5)
    assert chosen.shape == (0, 4)
    assert chosen.dtype == np.float32
    assert rows.shape == (0,)


def test_most_confident_wins_and_rows_point_into_the_boxes():
    seen = boxes((0, 0, 50, 50, 0.6), (10, 10, 60, 60, 0.9))
    chosen, rows = rule.choose_box(seen, 100, 100, min_confidence=0.5)
    assert chosen.tolist() == [[10, 10, 60, 60]]
    assert seen.confidence[rows].tolist() == pytest.approx([0.9])


def test_confidence_must_be_above_not_at_the_threshold():
    seen = boxes((0, 0, 50, 50, 0.5))
    assert len(rule.choose_box(seen, 100, 100, min_confidence=0.5)[0]) == 0
    assert len(rule.choose_box(seen, 100, 100, min_confidence=0.499)[0]) == 1


def test_area_may_be_at_the_limit_and_is_a_share_of_the_image():
    seen = boxes((0, 0, 85, 200, 0.9))
    assert len(rule.choose_box(seen, 100, 200, min_confidence=0, max_aspect=9)[0]) == 1
    seen = boxes((0, 0, 86, 200, 0.9))
    assert len(rule.choose_box(seen, 100, 200, min_confidence=0, max_aspect=9)[0]) == 0


def test_aspect_is_of_the_normalised_box():
    tall_strip = boxes((0, 0, 50, 400, 0.9))  # 8 : 1 in pixels, but 4 : 1 in a 200 x 400 image
    assert len(rule.choose_box(tall_strip, 200, 400, min_confidence=0)[0]) == 1
    flat = boxes((0, 0, 400, 80, 0.9))  # 5 : 1 in pixels, 1 : 2.5 in a 400 x 200 image
    assert len(rule.choose_box(flat, 400, 200, min_confidence=0)[0]) == 1
    square = boxes((0, 0, 60, 60, 0.9))  # square in pixels, 1 : 5 in a 100 x 500 image
    assert len(rule.choose_box(square, 100, 500, min_confidence=0)[0]) == 0


def test_a_refused_box_does_not_hide_a_weaker_good_one():
    seen = boxes((0, 0, 100, 100, 0.99), (20, 20, 80, 80, 0.6))
    assert rule.choose_box(seen, 100, 100, min_confidence=0.5)[0].tolist() == [[20, 20, 80, 80]]


def test_boxes_are_clipped_and_empty_ones_dropped():
    seen = boxes((-10, -10, 50, 50, 0.9), (120, 120, 150, 150, 0.8))
    chosen, _ = rule.choose_box(seen, 100, 100, **EVERYTHING, max_crops=5)
    assert chosen.tolist() == [[0, 0, 50, 50]]


def test_a_collage_gives_several_crops_and_a_nested_box_none():
    seen = boxes((0, 0, 50, 100, 0.9), (5, 5, 45, 60, 0.8), (50, 0, 100, 100, 0.7))
    chosen, rows = rule.choose_box(seen, 100, 100, min_confidence=0.5, max_crops=3)
    assert rows.tolist() == [0, 2]
    assert chosen.tolist() == [[0, 0, 50, 100], [50, 0, 100, 100]]
    assert len(rule.choose_box(seen, 100, 100, min_confidence=0.5)[0]) == 1


def test_crop_table_joins_the_operating_points():
    seen = boxes((0, 0, 50, 100, 0.9), (50, 0, 100, 100, 0.7), (0, 40, 50, 60, 0.2))
    points = {"local_min_confidence": 0.6, "global_min_confidence": 0.8}
    table = rule.crop_table('q"1,', seen, 100, 100, **points, max_crops=2)
    assert list(table.columns) == list(TABLES["crops"])
    assert table.crop_id.tolist() == ['q"1,#0', 'q"1,#1']
    assert table.local_rank.tolist() == [0, 1]
    assert table.is_global.tolist() == [True, False]


def test_crop_table_without_boxes_keeps_its_columns():
    points = {"local_min_confidence": 0.6, "global_min_confidence": 0.8}
    table = rule.crop_table("q", boxes(), 100, 100, **points)
    assert len(table) == 0
    assert list(table.columns) == list(TABLES["crops"])


def test_a_global_box_that_the_local_point_did_not_take_is_a_row_of_rank_minus_one():
    seen = boxes((0, 0, 50, 100, 0.9))
    points = {"local_min_confidence": 1.0, "global_min_confidence": 0.5}
    table = rule.crop_table("q", seen, 100, 100, **points)
    assert table.local_rank.tolist() == [-1]
    assert table.is_global.tolist() == [True]


# ------------------------------------------------------------------------------- arithmetic of boxes


def test_overlap_of_known_boxes():
    a = [[0, 0, 10, 10], [20, 20, 20, 30]]
    b = [[5, 0, 15, 10], [0, 0, 10, 10], [50, 50, 60, 60]]
    assert iou(a, b) == pytest.approx(np.array([[1 / 3, 1, 0], [0, 0, 0]]))
    assert iou([[0, 0, 10, 10]], [[2, 2, 4, 4]], "smaller") == pytest.approx(1)
    assert iou(np.empty((0, 4)), b).shape == (0, 3)


def test_suppress_keeps_the_best_of_each_group():
    xyxy = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], float)
    assert nms(xyxy, np.array([0.5, 0.9, 0.1])).tolist() == [1, 2]
    assert nms(np.empty((0, 4)), np.empty(0)).tolist() == []


@pytest.mark.parametrize("stretch", [True, False])
@pytest.mark.parametrize("shape", [(100, 400, 3), (640, 480, 3), (7, 3, 3)])
def test_fit_and_back(stretch, shape):
    pixels, scale, shift = letterbox(np.full(shape, 200, np.uint8), 64, 64, stretch=stretch)
    assert pixels.shape == (64, 64, 3)
    inside = np.argwhere((pixels == 200).all(2))
    frame = np.array([*inside.min(0)[::-1], *(inside.max(0)[::-1] + 1)])
    assert (frame - shift) * scale == pytest.approx([0, 0, shape[1], shape[0]])


def test_decode_takes_the_best_class_above_the_floor():
    output = np.array([[10, 50], [20, 50], [4, 10], [8, 10], [0.1, 0.001], [0.7, 0.002]])
    xyxy, confidence = decode_yolo(output, floor=0.02)
    assert xyxy.tolist() == [[8, 16, 12, 24]]
    assert confidence.tolist() == [0.7]


# ------------------------------------------------------------------------------------- detectors


def test_classical_finds_an_opaque_paste_and_little_elsewhere(photograph, other_photograph):
    host = photograph.copy()
    host[100:300, 200:500] = other_photograph[50:250, 100:400]
    seen = edges.detect_rectangles(host)
    assert iou(seen.xyxy[:1], [[200, 100, 500, 300]])[0, 0] > 0.9
    assert seen.confidence[0] > 0.6


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 500, 3), (300, 200, 3)])
def test_classical_on_plain_pictures_sees_nothing(shape):
    assert len(edges.detect_rectangles(np.full(shape, 128, np.uint8))) == 0


def test_no_detector_and_unknown_names():
    image = np.zeros((10, 10, 3), np.uint8)
    assert [len(seen) for seen in detectors.load_detector("none").detect([image, image])] == [0, 0]
    with pytest.raises(ValueError, match=r"'clasical'.*'classical'"):
        detectors.load_detector("clasical")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        detectors.load_detector("absent.onnx")


def test_known_boxes_come_back_in_pixels(tmp_path):
    path = tmp_path / "known.csv"
    path.write_text(
        "image_id,x0,y0,x1,y1\n007,0.1,0.2,0.5,1\n007,0.6,0,1,1\nNA,,,,\n", encoding="utf-8"
    )
    detector = detectors.load_detector(path)
    image = np.zeros((100, 200, 3), np.uint8)
    first, blank, other = detector.detect([image] * 3, ["007", "NA", "7"])
    assert first.xyxy == pytest.approx(np.array([[20, 20, 100, 100], [120, 0, 200, 100]]))
    assert first.confidence.tolist() == [1, 1]
    assert len(blank) == len(other) == 0
    with pytest.raises(ValueError, match="image_ids"):
        detector.detect([image])


def test_known_boxes_without_a_column_are_refused(tmp_path):
    path = tmp_path / "known.csv"
    path.write_text("image_id,x0,y0,x1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"known.csv.*lacks the columns \['y1'\]"):
        detectors.load_detector(path)


def test_a_folder_without_both_files_says_which_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks crop_detector\.onnx"):
        detectors.load_detector(tmp_path)


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 400, 3), (60, 80, 3)])
def test_signs_are_finite_for_any_picture_and_no_boxes_give_no_rows(shape, rng):
    image = rng.integers(0, 256, shape).astype(np.uint8)
    height, width = shape[:2]
    seen = boxes((0, 0, width, height, 0.9), (0, 0, width / 2, height / 3, 0.2))
    signs = box_features(image, seen.xyxy, seen, boxes())
    assert signs.shape == (2, N_FEATURES)
    assert np.isfinite(signs).all()
    assert box_features(image, boxes().xyxy, boxes(), boxes()).shape == (0, N_FEATURES)


def test_signs_tell_a_paste_from_a_box_beside_it(photograph, other_photograph):
    host = photograph.copy()
    host[100:300, 200:500] = other_photograph[50:250, 100:400]
    beside = [[200, 100, 500, 300], [100, 60, 330, 260]]
    right, wrong = box_features(host, np.array(beside), boxes(), boxes())
    on_edge = [1, 6, 11, 16]  # share of each side that lies on an edge
    assert (right[on_edge] > 0.6).all()
    assert (wrong[on_edge] < 0.6).any()


def test_sides_snap_to_the_edge_and_to_the_border(photograph, other_photograph):
    host = photograph.copy()
    host[100:300, 200:500] = other_photograph[50:250, 100:400]
    near = np.array([[209, 94, 493, 306.5]])
    assert snap_to_edges(host, near) == pytest.approx(np.array([[200, 100, 500, 300]]), abs=1)
    plain = np.full((100, 200, 3), 90, np.uint8)
    loose = np.array([[3.0, 20, 150, 99]])
    assert snap_to_edges(plain, loose).tolist() == [[0, 20, 150, 100]]
    assert snap_to_edges(plain, np.empty((0, 4))).shape == (0, 4)


def test_pt_is_refused_without_being_opened(tmp_path):
    path = tmp_path / "mine.pt"
    path.write_bytes(b"cos\nsystem\n(S'exit 3'\ntR.")
    said = (
        r"mine.pt: refused.*can run code.*convert-detector \S+mine.pt \S+mine.safetensors.*trust_pt"
    )
    with pytest.raises(ValueError, match=said):
        detectors.load_detector(path)


def test_damaged_onnx_names_the_file(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"broken.onnx: not an ONNX model"):
        detectors.load_detector(path)


class FakeSession:
    """What an exported network would answer."""

    def __init__(self, output):
        self.output = np.array(output, np.float32)

    def run(self, names, feed):
        return [self.output]


@pytest.mark.parametrize(
    ("output", "end_to_end"),
    [
        (np.array([[50, 50, 20, 40, 0.9, 0.3]] + [[50, 20, 4, 8, 0.01, 0]] * 8).T[None], False),
        (
            np.array([[50, 50, 20, 40, 1, 0.9, 0.3]] + [[50, 20, 4, 8, 0.01, 0.9, 0]] * 8)[None],
            False,
        ),
        (np.array([[40, 30, 60, 70, 0.9, 0]] + [[48, 16, 52, 24, 0.01, 0]] * 8)[None], True),
    ],
    ids=["as trained today", "yolov5", "end to end"],
)
def test_layouts_of_exported_networks(output, end_to_end, monkeypatch):
    detector = detectors.OnnxDetector(detectors.SHIPPED / detectors.NETWORK_FILE)
    monkeypatch.setattr(detector, "_session", FakeSession(output))
    monkeypatch.setattr(detector, "_size", (100, 100))
    monkeypatch.setattr(detector, "_end_to_end", end_to_end)
    (seen,) = detector.detect([np.zeros((100, 100, 3), np.uint8)])
    assert seen.xyxy == pytest.approx(np.array([[40, 30, 60, 70]]))
    assert seen.confidence == pytest.approx([0.9])


def test_shipped_detector_finds_pastes_and_does_not_mind_its_batch(photograph, other_photograph):
    detector = detectors.load_detector("imgfp")
    host = photograph.copy()
    host[100:300, 200:500] = other_photograph[50:250, 100:400]
    collage = np.hstack([photograph, other_photograph])
    together = detector.detect([host, collage, photograph])
    chosen, _ = rule.choose_box(together[0], 640, 427, min_confidence=0.3)
    assert iou(chosen, [[200, 100, 500, 300]])[0, 0] > 0.8
    halves, _ = rule.choose_box(together[1], 1280, 427, min_confidence=0.3, max_crops=4)
    truth = [[0, 0, 640, 427], [640, 0, 1280, 427]]
    assert (iou(truth, halves).max(1) > 0.8).all()
    alone = detector.detect([host])[0]
    assert (alone.xyxy == together[0].xyxy).all()
    assert (alone.confidence == together[0].confidence).all()
    assert not (together[2].confidence > 0.8).any()


def test_shipped_detector_loads_neither_torch_nor_ultralytics():
    import subprocess
    import sys

    code = (
        "import sys, numpy as np; from imgfp.crops.detectors import load_detector;"
        "load_detector('imgfp').detect([np.zeros((50, 60, 3), np.uint8)]);"
        "assert not {'torch', 'ultralytics'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
