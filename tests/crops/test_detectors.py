# SPDX-License-Identifier: AGPL-3.0-or-later
"""Detectors by name or from files, and the shipped one."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from imgfp.crops import detectors, rule
from imgfp.geometry import iou
from imgfp.inference import onnx_session


def test_no_detector_and_unknown_names():
    image = np.zeros((10, 10, 3), np.uint8)
    assert [len(found) for found in detectors.load_detector("none").detect([image] * 2)] == [0, 0]
    with pytest.raises(ValueError, match=r"'clasical'.*'classical'"):
        detectors.load_detector("clasical")
    with pytest.raises(FileNotFoundError, match=r"absent\.onnx does not exist; check the path"):
        detectors.load_detector("absent.onnx")


def test_the_edge_detector_is_that_of_edges(pasted):
    found, plain = detectors.load_detector("classical").detect([pasted, np.zeros_like(pasted)])
    assert iou(found.xyxy[0], [200, 100, 500, 300]) > 0.9 and len(plain) == 0


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


def test_a_folder_without_both_files_names_the_missing_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks crop_detector\.onnx"):
        detectors.load_detector(tmp_path)
    (tmp_path / detectors.NETWORK_FILE).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"lacks box_scorer\.onnx; give a folder"):
        detectors.load_detector(tmp_path)


def test_pt_is_refused_without_being_opened(tmp_path):
    path = tmp_path / "mine.pt"
    path.write_bytes(b"cos\nsystem\n(S'exit 3'\ntR.")
    message = r"mine.pt: .*can run code .*: imgfp convert \S+mine.pt \S+mine.onnx"
    with pytest.raises(ValueError, match=message):
        detectors.load_detector(path)


def test_damaged_onnx_names_the_file(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"broken.onnx: not an ONNX model"):
        detectors.load_detector(path)


class FakeSession:
    """A session whose network always gives the same output."""

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
    ids=["yolov8", "yolov5", "end to end"],
)
def test_layouts_of_exported_networks(output, end_to_end, monkeypatch):
    detector = detectors.NetworkDetector(detectors.SHIPPED / detectors.NETWORK_FILE)
    monkeypatch.setattr(detector, "_session", FakeSession(output))
    monkeypatch.setattr(detector, "_size", (100, 100))
    monkeypatch.setattr(detector, "_end_to_end", end_to_end)
    (found,) = detector.detect([np.zeros((100, 100, 3), np.uint8)])
    assert found.xyxy == pytest.approx(np.array([[40, 30, 60, 70]]))
    assert found.confidence == pytest.approx([0.9])


@pytest.mark.parametrize("layout", ["yolov5", "yolov8"])
def test_two_exported_layouts_are_told_apart_by_their_shapes(layout, tmp_path):
    """A file as each of the two exporters writes it: (1, n, 5 + classes), or (1, 4 + classes, n)."""
    from onnx import TensorProto, helper, numpy_helper

    boxes = np.zeros((84, 6), np.float32)
    boxes[:, :4] = 8
    boxes[7] = [32, 28, 20, 10, 0.9, 0.8]  # centre, size, objectness, score of the only class
    output = boxes[None]
    if layout == "yolov8":
        boxes[:, 5] *= boxes[:, 4]
        output = np.delete(boxes, 4, axis=1).T[None].copy()
    shapes = {"images": (1, 3, 64, 64), "output0": output.shape}
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    node = helper.make_node("Constant", [], ["output0"], value=numpy_helper.from_array(output))
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "own.onnx").write_bytes(model.SerializeToString())
    detector = detectors.load_detector(tmp_path / "own.onnx")
    (found,) = detector.detect([np.zeros((64, 128, 3), np.uint8)])
    assert found.xyxy == pytest.approx(np.array([[44, 14, 84, 34]]))
    assert found.confidence == pytest.approx([0.72])


def test_shipped_detector_finds_pastes_and_does_not_depend_on_the_batch(
    photograph, other_photograph, pasted
):
    detector = detectors.load_detector("imgfp")
    collage = np.hstack([photograph, other_photograph])
    together = detector.detect([pasted, collage, photograph])
    chosen, _ = rule.choose_box(together[0], 640, 427, min_confidence=0.3)
    assert iou(chosen[0], [200, 100, 500, 300]) > 0.8
    halves, _ = rule.choose_box(together[1], 1280, 427, min_confidence=0.3, max_crops=4)
    truth = np.array([[0, 0, 640, 427], [640, 0, 1280, 427]])
    assert (iou(truth[:, None], halves).max(1) > 0.8).all()
    alone = detector.detect([pasted])[0]
    assert (alone.xyxy == together[0].xyxy).all()
    assert (alone.confidence == together[0].confidence).all()
    assert not (together[2].confidence > 0.8).any()


def test_a_detector_without_ultralytics_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)  # as if it were not installed
    path = tmp_path / "own.safetensors"
    path.write_bytes(b"")
    message = (
        "a detector of ultralytics needs ultralytics, which is not installed: "
        "pip install 'imgfp[train]'"
    )
    with pytest.raises(ModuleNotFoundError, match=re.escape(message)):
        detectors.load_detector(path)


def test_shipped_detector_loads_neither_torch_nor_ultralytics():
    code = (
        "import sys, numpy as np; from imgfp.crops.detectors import load_detector;"
        "load_detector('imgfp').detect([np.zeros((50, 60, 3), np.uint8)]);"
        "assert not {'torch', 'ultralytics'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["imgfp", "network"])
def test_an_onnx_detector_is_where_its_session_is(name, monkeypatch):
    asked = []

    def session(path, device="cpu"):
        asked.append((path.name, device))
        return onnx_session(path)

    path = "imgfp" if name == "imgfp" else detectors.SHIPPED / detectors.NETWORK_FILE
    assert detectors.load_detector(path, device="auto").device == "cpu"
    monkeypatch.setattr(detectors, "onnx_session", session)
    monkeypatch.setattr(detectors, "session_device", lambda _: "cuda")
    assert detectors.load_detector(path, device="cuda:1").device == "cuda"
    assert asked[0] == (detectors.NETWORK_FILE, "cuda:1")
    assert asked[1:] == ([(detectors.SCORER_FILE, "cpu")] if name == "imgfp" else [])
