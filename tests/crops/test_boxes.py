"""Non-maximum suppression, letterboxing, decoding of network outputs."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.crops.boxes import decode_yolo, letterbox, nms, run_detector, to_yolo8_layout


def test_nms_keeps_the_best_of_each_group():
    xyxy = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], float)
    assert nms(xyxy, np.array([0.5, 0.9, 0.1])).tolist() == [1, 2]
    assert nms(xyxy, np.array([0.5, 0.9, 0.1]), max_overlap=0.95).tolist() == [1, 0, 2]
    assert nms(xyxy, np.array([0.5, 0.9, 0.1]), max_boxes=1).tolist() == [1]
    assert nms(np.empty((0, 4)), np.empty(0)).tolist() == []


@pytest.mark.parametrize("stretch", [True, False])
@pytest.mark.parametrize("shape", [(100, 400, 3), (640, 480, 3), (7, 3, 3)])
def test_letterbox_and_back(stretch, shape):
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


def test_older_and_newer_layouts_become_that_of_yolo8():
    today = np.array([[50.0, 50, 20, 40, 0.9, 0.3]] * 8).T
    assert to_yolo8_layout(today) is today
    yolov5 = np.array([[50.0, 50, 20, 40, 0.5, 0.8, 0.4]] * 8)
    assert to_yolo8_layout(yolov5)[:, 0] == pytest.approx([50, 50, 20, 40, 0.4, 0.2])
    end_to_end = np.array([[40.0, 30, 60, 70, 0.9, 1]] * 8)
    assert to_yolo8_layout(end_to_end, end_to_end=True)[:, 0] == pytest.approx(
        [50, 50, 20, 40, 0.9]
    )


def test_boxes_of_a_network_come_back_in_pixels_of_the_image():
    fed = []

    def network(feed: np.ndarray) -> np.ndarray:
        fed.append(feed)
        return np.array([[32.0, 32], [32, 32], [16, 200], [8, 200], [0.9, 0.5]])

    found = run_detector(network, np.full((100, 200, 3), 255, np.uint8), (64, 64), stretch=True)
    assert fed[0].shape == (1, 3, 64, 64) and fed[0].dtype == np.float32 and fed[0].max() == 1
    assert found.xyxy == pytest.approx(np.array([[75, 43.75, 125, 56.25], [0, 0, 200, 100]]))
    assert found.confidence == pytest.approx([0.9, 0.5])
