"""Find pictures pasted inside a picture: detectors see boxes, a pure rule chooses among them.

A detector returns every box that it saw (`Boxes`); `choose` and `crop_table` decide, so that a
threshold can be moved without looking at the pixels again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from imgfp.box_signs import box_signs
from imgfp.boxes import overlap, see, standard_layout, suppress
from imgfp.datatypes import Boxes, table
from imgfp.onnx_session import onnx_session
from imgfp.own_detectors import PtDetector, SafetensorsDetector, file_hash
from imgfp.rectangles import detect_classical, snap_to_edges

#: Detectors that can be named instead of giving a file.
DETECTORS = ("none", "classical", "imgfp")
SHIPPED_WEIGHTS = Path(__file__).parent / "weights"
NETWORK_FILE, JUDGE_FILE = "crop_detector.onnx", "crop_judge.onnx"


# --------------------------------------------------------------------------------------- the rule


def choose(
    boxes: Boxes,
    width: int,
    height: int,
    *,
    min_confidence: float,
    max_area: float = 0.85,
    max_aspect: float = 4.0,
    max_crops: int = 1,
    max_overlap: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes worth cutting out, best first.

    A box counts when its confidence is above `min_confidence`, its area at most `max_area` of the
    image, and height / width of the box *normalised by the image's sides* within 1/`max_aspect` ..
    `max_aspect` (the rules of team imgFp, ISC2021). The most confident wins. With `max_crops` above
    1 further boxes follow when they share at most `max_overlap` of the smaller box with each one
    taken before: the parts of a collage do, a box inside a box does not.

    Returns (k,4) float32 xyxy clipped to the image, and the (k,) int64 rows of `boxes`; k may be 0.
    """
    xyxy = boxes.xyxy.clip(0, [width, height, width, height]).astype(np.float32)
    sides = (xyxy[:, 2:] - xyxy[:, :2]) / np.float32([width, height])
    area = sides.prod(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        aspect = sides[:, 1] / sides[:, 0]
    good = (boxes.confidence > min_confidence) & (area > 0) & (area <= max_area)
    good &= (aspect >= 1 / max_aspect) & (aspect <= max_aspect)
    taken: list[int] = []
    for row in np.flatnonzero(good):
        if len(taken) == max_crops:
            break
        if not taken or (overlap(xyxy[[row]], xyxy[taken], "smaller") <= max_overlap).all():
            taken.append(int(row))
    rows = np.array(taken, np.int64)
    return xyxy[rows], rows


def crop_table(
    query_id: str,
    boxes: Boxes,
    width: int,
    height: int,
    *,
    local_min_confidence: float,
    global_min_confidence: float,
    max_area: float = 0.85,
    max_aspect: float = 4.0,
    max_crops: int = 1,
) -> pd.DataFrame:
    """The `crops` rows of one query: both operating points applied to the same detections.

    The local point (recall) keeps up to `max_crops` boxes, ranked from 0; the global point
    (precision) keeps one. A box that both chose is one row. No box: an empty table.
    """
    limits = {"max_area": max_area, "max_aspect": max_aspect}
    _, local = choose(
        boxes, width, height, min_confidence=local_min_confidence, max_crops=max_crops, **limits
    )
    _, single = choose(boxes, width, height, min_confidence=global_min_confidence, **limits)
    rows = [*local, *(row for row in single if row not in local)]
    xyxy = boxes.xyxy[rows].clip(0, [width, height, width, height])
    return table(
        "crops",
        crop_id=[f"{query_id}#{number}" for number in range(len(rows))],
        query_id=[query_id] * len(rows),
        **dict(zip(("x0", "y0", "x1", "y1"), xyxy.T, strict=True)),
        confidence=boxes.confidence[rows],
        local_rank=[number if number < len(local) else -1 for number in range(len(rows))],
        is_global=[row in single for row in rows],
    )


# -------------------------------------------------------------------------------------- detectors


class Detector(Protocol):
    """Anything that sees boxes. `weights_hash` tells what it sees them with."""

    weights_hash: str

    def detect(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str] | None = None
    ) -> list[Boxes]:
        """Boxes of each (H,W,3) uint8 RGB image, in its pixels."""
        ...


class ClassicalDetector:
    """`detect_classical` for many images."""

    weights_hash = "classical-1"

    def detect(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str] | None = None
    ) -> list[Boxes]:
        """Boxes of each (H,W,3) uint8 RGB image; `image_ids` are not needed."""
        return [detect_classical(image) for image in images]


class NoDetector:
    """Sees nothing: every query stays whole."""

    weights_hash = "none"

    def detect(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str] | None = None
    ) -> list[Boxes]:
        """No boxes for each image."""
        return [Boxes(np.empty((0, 4)), np.empty(0)) for _ in images]


class KnownBoxes:
    """Boxes that are already known, from a CSV of `image_id,x0,y0,x1,y1`, corners as shares of the
    image's width and height (0..1), an optional `confidence` (1 where the column is absent)."""

    def __init__(self, path: str | Path):
        self.weights_hash = file_hash(Path(path))
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
        """The known boxes of each image, none for an id that the table does not name."""
        if image_ids is None:
            raise ValueError("known boxes are looked up by image id: pass image_ids")
        found = []
        for image, image_id in zip(images, image_ids, strict=True):
            xyxy, confidence = self._rows.get(image_id, (np.empty((0, 4)), np.empty(0)))
            height, width = image.shape[:2]
            found.append(Boxes(xyxy * [width, height, width, height], confidence))
        return found


class OnnxDetector:
    """A detector network in an ONNX file, run by onnxruntime on one thread, one image at a time,
    so that no result depends on its neighbours in a batch.

    The network takes (1,3,S,S) float32 RGB in 0..1 and gives (1, 4 + classes, n): box centres and
    sizes in its own pixels, then class scores in 0..1: what `yolo export format=onnx` writes; the
    layouts of YOLOv5 and of end-to-end networks are known too. A file with the metadata
    `resize: stretch` (ours) gets the image stretched to S x S, any other gets it centred on grey
    with its proportions kept.
    """

    def __init__(self, path: str | Path, *, floor: float = 0.02):
        path = Path(path)
        self.weights_hash = file_hash(path)
        self.floor = floor
        self._session = onnx_session(path)
        feed = self._session.get_inputs()[0]
        if list(feed.shape[:2]) != [1, 3] or not all(isinstance(n, int) for n in feed.shape[2:]):
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
        how = {"stretch": self._stretch, "floor": self.floor}
        return [see(self._run, image, self._size, **how) for image in images]

    def _run(self, feed: np.ndarray) -> np.ndarray:
        output = self._session.run(None, {self._input: feed})[0]
        if output.ndim != 3 or min(output.shape[1:]) < 5:
            raise ValueError(
                f"{self._path}: expected an output (1, 4 + classes, boxes), got {output.shape}"
            )
        return standard_layout(output[0], end_to_end=self._end_to_end)


class PasteDetector:
    """The shipped detector: a network and straight edges propose boxes, a second, tiny network
    judges what both saw (`imgfp.box_signs`) and gives each box its confidence.

    The network knows what a paste looks like, straight edges where exactly it ends. `folder` holds
    the two ONNX files that notebook 20 writes.
    """

    def __init__(self, folder: str | Path):
        judge = Path(folder) / JUDGE_FILE
        self._network = OnnxDetector(Path(folder) / NETWORK_FILE)
        self._judge = onnx_session(judge)
        parts = (self._network.weights_hash, file_hash(judge))
        self.weights_hash = hashlib.sha256("".join(parts).encode()).hexdigest()

    def detect(
        self, images: Sequence[np.ndarray], image_ids: Sequence[str] | None = None
    ) -> list[Boxes]:
        """Boxes of each (H,W,3) uint8 RGB image, in its pixels; `image_ids` are not needed."""
        found = []
        for image, seen in zip(images, self._network.detect(images), strict=True):
            xyxy, signs = propose(image, seen)
            confidence = self._judge.run(None, {"signs": signs})[0]
            keep = suppress(xyxy, confidence, max_overlap=0.5)
            found.append(Boxes(xyxy[keep], confidence[keep]))
        return found


def propose(image: np.ndarray, network: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """All boxes worth judging, (n,4) xyxy, and their signs (n, N_SIGNS): those that a network saw,
    moved to the edges near them, and those between straight edges."""
    network = Boxes(snap_to_edges(image, network.xyxy[:16]), network.confidence[:16])
    edges = detect_classical(image, max_boxes=24, max_overlap=0.75)
    xyxy = np.concatenate([network.xyxy, edges.xyxy])
    return xyxy, box_signs(image, xyxy, network, edges)


def load_detector(name_or_path: str | Path, *, trust_pt: bool = False) -> Detector:
    """A detector by its name or file.

    "imgfp": the shipped weights; "classical": straight edges, no weights; "none": sees nothing;
    a folder that notebook 20 wrote; a path ending in `.onnx` or `.safetensors`: your own network
    alone; `.csv`: boxes known beforehand (`KnownBoxes`); `.pt`: an ultralytics checkpoint, only
    with `trust_pt`, because loading it runs code inside it. Raises ValueError for anything else,
    FileNotFoundError for a file that is absent.
    """
    if name_or_path in ("classical", "none"):
        return ClassicalDetector() if name_or_path == "classical" else NoDetector()
    path = SHIPPED_WEIGHTS if name_or_path == "imgfp" else Path(name_or_path)
    if path.is_dir():
        for missing in (path / name for name in (NETWORK_FILE, JUDGE_FILE)):
            if not missing.is_file():
                raise FileNotFoundError(f"crop detector {str(name_or_path)!r} lacks {missing.name}")
        return PasteDetector(path)
    suffix = path.suffix.lower()
    if suffix not in (".onnx", ".safetensors", ".csv", ".pt"):
        raise ValueError(
            f"crop detector {str(name_or_path)!r}: expected one of {DETECTORS}, a folder with "
            f"{NETWORK_FILE} and {JUDGE_FILE}, or a path ending in .onnx, .safetensors, .csv or .pt"
        )
    if not path.is_file():
        raise FileNotFoundError(f"crop detector {str(name_or_path)!r}: there is no file {path}")
    if suffix == ".pt" and not trust_pt:
        raise ValueError(
            f"{path}: refused, because loading a .pt file can run code hidden in it; "
            f"`python -m imgfp convert-detector {path} {path.with_suffix('.safetensors')}` makes a "
            "file that cannot, or set trust_pt if you trust its author"
        )
    kinds = {".onnx": OnnxDetector, ".csv": KnownBoxes}
    kinds |= {".pt": PtDetector, ".safetensors": SafetensorsDetector}
    return kinds[suffix](path)
