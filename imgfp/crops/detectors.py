# SPDX-License-Identifier: AGPL-3.0-or-later
"""Detect images that are pasted inside a query.

A detector returns every box above its floor (`Boxes`); the rule of `imgfp.crops.rule` chooses among
them, so that its thresholds can be changed without running a detector again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from imgfp.crops.box_features import box_features
from imgfp.crops.boxes import nms, run_detector, to_yolo8_layout
from imgfp.crops.edges import detect_rectangles, snap_to_edges
from imgfp.crops.ultralytics_models import planned_session
from imgfp.datatypes import Boxes
from imgfp.inference import (
    MAX_SIDE_PX,
    SHIPPED,
    check_installed,
    check_model_file,
    onnx_session,
    session_device,
    sha256_of,
)

#: Detectors that can be named instead of giving a file.
DETECTORS = ("none", "classical", "imgfp")
NETWORK_FILE, SCORER_FILE = "crop_detector.onnx", "box_scorer.onnx"


class Detector(Protocol):
    """Anything that detects boxes. `weights_hash` identifies its weights; `device` is "cpu" or "cuda", where it
    runs."""

    weights_hash: str
    device: str

    def detect(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str] | None = None
    ) -> list[Boxes]:
        """Boxes of each (H,W,3) uint8 RGB image, in its pixels."""
        ...


class EdgeDetector:
    """`imgfp.crops.edges.detect_rectangles` for many images."""

    weights_hash, device = "classical-1", "cpu"

    def detect(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str] | None = None
    ) -> list[Boxes]:
        """Boxes of each (H,W,3) uint8 RGB image; `image_ids` are not needed."""
        return [detect_rectangles(image) for image in images]


class NoDetector:
    """Detects nothing: queries are searched whole only."""

    weights_hash, device = "none", "cpu"

    def detect(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str] | None = None
    ) -> list[Boxes]:
        """No boxes for each image."""
        return [Boxes(np.empty((0, 4)), np.empty(0)) for _ in images]


class KnownBoxes:
    """Boxes known beforehand, from a CSV file of `image_id,x0,y0,x1,y1`: corners as shares of the image's
    width and height (0..1), and an optional `confidence` (1 where the column is absent)."""

    device = "cpu"

    def __init__(self, path: str | Path):
        self.weights_hash = sha256_of(Path(path))
        frame = pd.read_csv(path, dtype={"image_id": str}, keep_default_na=False, na_values=[""])
        missing = {"image_id", "x0", "y0", "x1", "y1"} - set(frame.columns)
        if missing:
            raise ValueError(f"{path}: a table of known boxes lacks the columns {sorted(missing)}")
        if "confidence" not in frame:
            frame["confidence"] = 1.0
        self._rows = {
            image_id: (rows[["x0", "y0", "x1", "y1"]].to_numpy(float), rows.confidence.to_numpy())
            for image_id, rows in frame.dropna(subset=["x0", "y0", "x1", "y1"]).groupby("image_id")
        }

    def detect(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str] | None = None
    ) -> list[Boxes]:
        """The known boxes of each image; none for an id that is not in the table."""
        if image_ids is None:
            raise ValueError("known boxes are looked up by image id: pass image_ids")
        boxes = []
        for image, image_id in zip(images, image_ids, strict=True):
            xyxy, confidence = self._rows.get(image_id, (np.empty((0, 4)), np.empty(0)))
            height, width = image.shape[:2]
            boxes.append(Boxes(xyxy * [width, height, width, height], confidence))
        return boxes


class NetworkDetector:
    """A detector network in a file: ONNX, run by onnxruntime on one thread or a GPU, or safetensors with its plan, run by
    torch (`imgfp.crops.ultralytics_models`). One image at a time, so that no result depends on the other images of a
    batch.

    The network takes (1,3,H,W) float32 RGB in 0..1 and returns (1, 4 + classes, n): box centres and
    sizes in its own pixels, then class scores in 0..1, as `yolo export format=onnx` writes it; the
    layouts of YOLOv5 and of end-to-end networks are accepted too. A file with the metadata
    `resize: stretch` (the shipped one) gets the image stretched to its input size, any other gets it
    letterboxed on grey.
    """

    def __init__(self, path: str | Path, device: str = "cpu", *, floor: float = 0.02):
        path = Path(path)
        self.weights_hash = sha256_of(path)
        self.floor = floor
        opened = onnx_session if path.suffix.lower() == ".onnx" else planned_session
        self._session = opened(path, device)
        self.device = session_device(self._session)
        feed = self._session.get_inputs()[0]
        if list(feed.shape[:2]) != [1, 3] or not all(
            isinstance(n, int) and 0 < n <= MAX_SIDE_PX for n in feed.shape[2:]
        ):
            raise ValueError(
                f"{path}: expected an input of fixed shape (1,3,height,width), got {feed.shape}; "
                "export with a fixed image size and batch 1"
            )
        self._input, self._size = feed.name, (feed.shape[3], feed.shape[2])
        meta = self._session.get_modelmeta().custom_metadata_map
        self._stretch = meta.get("resize") == "stretch"
        self._end_to_end = meta.get("end2end") == "True"
        self._path = path

    def detect(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str] | None = None
    ) -> list[Boxes]:
        """Boxes of each (H,W,3) uint8 RGB image, in its pixels; `image_ids` are not needed."""
        return [
            run_detector(self._run, image, self._size, stretch=self._stretch, floor=self.floor)
            for image in images
        ]

    def _run(self, feed: np.ndarray) -> np.ndarray:
        output = self._session.run(None, {self._input: feed})[0]
        if output.ndim != 3 or min(output.shape[1:]) < 5:
            raise ValueError(
                f"{self._path}: expected an output (1, 4 + classes, boxes), or YOLOv5's (1, boxes, 5 + classes), got "
                f"{output.shape}; export boxes, not the maps before them"
            )
        return to_yolo8_layout(output[0], end_to_end=self._end_to_end)


class PasteDetector:
    """The shipped detector: a network and straight edges propose boxes, and a box scorer, a second, tiny
    network, computes the confidence of each box from its features (`imgfp.crops.box_features`).

    The network recognises pasted images, straight edges locate their sides. `folder` holds the two
    ONNX files that notebook 20 writes. `device` is that of the network; the scorer, a few numbers per box, stays
    on the CPU.
    """

    def __init__(self, folder: str | Path, device: str = "cpu"):
        scorer = Path(folder) / SCORER_FILE
        self._network = NetworkDetector(Path(folder) / NETWORK_FILE, device)
        self.device = self._network.device
        self._scorer = onnx_session(scorer)
        self._scorer_input = self._scorer.get_inputs()[0].name
        parts = (self._network.weights_hash, sha256_of(scorer))
        self.weights_hash = hashlib.sha256("".join(parts).encode()).hexdigest()

    def detect(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str] | None = None
    ) -> list[Boxes]:
        """Boxes of each (H,W,3) uint8 RGB image, in its pixels; `image_ids` are not needed."""
        boxes = []
        for image, detected in zip(images, self._network.detect(images), strict=True):
            xyxy, features = propose(image, detected)
            confidence = self._scorer.run(None, {self._scorer_input: features})[0]
            keep = nms(xyxy, confidence, max_overlap=0.5)
            boxes.append(Boxes(xyxy[keep], confidence[keep]))
        return boxes


def propose(image: np.ndarray, network: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """All proposed boxes, (n,4) xyxy, and their features (n, N_FEATURES): the 16 best boxes of a network,
    their sides moved to the nearest edges, and the rectangles between straight edges."""
    network = Boxes(snap_to_edges(image, network.xyxy[:16]), network.confidence[:16])
    edges = detect_rectangles(image, max_boxes=24, max_overlap=0.75)
    xyxy = np.concatenate([network.xyxy, edges.xyxy])
    return xyxy, box_features(image, xyxy, network, edges)


def load_detector(name_or_path: str | Path, *, device: str = "cpu") -> Detector:
    """A detector by its name or file.

    "imgfp": the shipped weights; "classical": straight edges, no weights; "none": detects nothing; a
    folder that notebook 20 wrote; a path ending in `.onnx` or `.safetensors`: a network of the user's
    own, without edges and scorer; `.csv`: boxes known beforehand (`KnownBoxes`). device: see
    `imgfp.inference`; ONNX files run on onnxruntime, `.safetensors` on torch. Raises ValueError for
    anything else, FileNotFoundError for a missing file, ModuleNotFoundError for a missing package.
    """
    check_detector(name_or_path)
    if name_or_path in ("classical", "none"):
        return EdgeDetector() if name_or_path == "classical" else NoDetector()
    path = SHIPPED if name_or_path == "imgfp" else Path(name_or_path)
    if path.is_dir():
        return PasteDetector(path, device)
    if path.suffix.lower() == ".csv":
        return KnownBoxes(path)
    return NetworkDetector(path, device)


def check_detector(name_or_path: str | Path) -> None:
    """Raises what `load_detector` raises for a name, a path or a missing package, and reads no file."""
    if name_or_path in ("classical", "none"):
        return
    path = SHIPPED if name_or_path == "imgfp" else Path(name_or_path)
    if path.is_dir():
        for missing in (path / name for name in (NETWORK_FILE, SCORER_FILE)):
            if not missing.is_file():
                raise FileNotFoundError(
                    f"crop detector {str(name_or_path)!r} lacks {missing.name}; "
                    "give a folder that notebook 20 wrote"
                )
        return
    suffix = path.suffix.lower()
    if not suffix:
        raise ValueError(
            f"crop detector {str(name_or_path)!r}: expected one of {DETECTORS}, a folder with "
            f"{NETWORK_FILE} and {SCORER_FILE}, or a path ending in .onnx, .safetensors or .csv"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"crop detector {str(name_or_path)!r}: file {path} does not exist; check the path"
        )
    if suffix != ".csv":
        check_model_file(path)
    if suffix == ".safetensors":
        check_installed("ultralytics", "train", "a detector of ultralytics")
