# SPDX-License-Identifier: AGPL-3.0-or-later
"""Evaluation of crop detectors: recall, precision and false boxes, of all detections or of a rule.

Truth is one (m,4) array of xyxy boxes per image, in its pixels, m = 0 where nothing is pasted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from imgfp.crops.detectors import Detector
from imgfp.crops.rule import choose_box
from imgfp.datatypes import Boxes
from imgfp.decoding import read_image
from imgfp.geometry import iou
from imgfp.training.crops.scenes import Scene, make_scene

#: A box is found if its intersection over union with a chosen box reaches this.
LOOSE, TIGHT = 0.7, 0.9


def fixed_scenes(photographs: Sequence[np.ndarray], count: int, seed: int) -> list[Scene]:
    """`count` generated scenes to validate on; give photographs that are not trained on."""
    return [make_scene(photographs, seed, index) for index in range(count)]


def precision_recall(
    detections: Sequence[Boxes], truths: Sequence[np.ndarray], min_iou: float = LOOSE
) -> pd.DataFrame:
    """Precision and recall of all detections above each confidence, in falling order.

    A detection is right if it overlaps a true box that no more confident detection has matched. Columns: confidence, precision, recall.
    """
    rows = []
    for boxes, truth in zip(detections, truths, strict=True):
        share = iou(boxes.xyxy[:, None], truth)
        for number, confidence in enumerate(boxes.confidence):
            best = int(share[number].argmax()) if len(truth) else -1
            right = best >= 0 and share[number, best] >= min_iou
            if right:
                share[:, best] = 0
            rows.append((confidence, right))
    rows.sort(key=lambda row: -row[0])
    confidence, right = np.array(rows, float).reshape(-1, 2).T
    found = right.cumsum()
    n_true = sum(len(truth) for truth in truths)
    return pd.DataFrame(
        {
            "confidence": confidence,
            "precision": found / np.arange(1, len(found) + 1),
            "recall": found / max(1, n_true),
        }
    )


def average_precision(curve: pd.DataFrame) -> float:
    """Area under the envelope of a `precision_recall` curve, 0..1."""
    falling = np.maximum.accumulate(curve.precision.to_numpy()[::-1])[::-1]
    return float((falling * np.diff(curve.recall, prepend=0)).sum())


def evaluate_on(
    scenes: Sequence[Scene], image_size: int, predict: Callable[..., list[Boxes]]
) -> Callable[[object], dict[str, float]]:
    """A function from a network to its average precision on `scenes`, loose and tight; predict:
    (network, images, image_size) -> boxes of each image."""

    def evaluate(network: object) -> dict[str, float]:
        detections = predict(network, [scene.image for scene in scenes], image_size)
        truths = [scene.boxes for scene in scenes]
        return {
            f"ap_{round(100 * iou)}": average_precision(precision_recall(detections, truths, iou))
            for iou in (LOOSE, TIGHT)
        }

    return evaluate


def detect_files(
    detector: Detector, paths: Sequence[Path]
) -> tuple[list[Boxes], list[tuple[int, int]], float]:
    """Run a detector over image files, one at a time. Returns the boxes of each, the (width,
    height) of each in pixels, and the mean milliseconds per image, without reading it."""
    found, sizes, seconds = [], [], 0.0
    for path in paths:
        image = read_image(path)
        began = time.perf_counter()
        found += detector.detect([image])
        seconds += time.perf_counter() - began
        sizes.append(image.shape[1::-1])
    return found, sizes, 1000 * seconds / max(1, len(found))


def chosen_boxes(
    detections: Sequence[Boxes], sizes: Sequence[tuple[int, int]], **rule
) -> list[np.ndarray]:
    """`imgfp.crops.rule.choose_box` for every image: a (k,4) array each. `sizes`: (width, height) px."""
    return [
        choose_box(boxes, width, height, **rule)[0]
        for boxes, (width, height) in zip(detections, sizes, strict=True)
    ]


def measure(
    chosen: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    kinds: Sequence[str],
    also_right: Sequence[np.ndarray] | None = None,
) -> pd.DataFrame:
    """Measures of the chosen boxes, one row per kind and one for "all".

    images, boxes_true, boxes_chosen; recall_70, recall_90: share of the true boxes that a chosen
    box overlaps by that much; mean_iou: of each true box with its best chosen box, 0 if there is none;
    precision: share of chosen boxes that overlap a true box by 70 %; false_per_100: the others, per
    100 images. A chosen box that matches `also_right` (such as the other parts of a collage) is no
    error and does not count for recall. NaN where there is nothing to divide by.
    """
    rows = []
    for number, (boxes, truth, kind) in enumerate(zip(chosen, truths, kinds, strict=True)):
        truth = np.asarray(truth, float).reshape(-1, 4)
        best = iou(truth[:, None], boxes).max(1, initial=0)
        fine = np.concatenate([truth, also_right[number]]) if also_right is not None else truth
        right = iou(boxes[:, None], fine).max(1, initial=0) >= LOOSE
        rows.append(
            {
                "kind": kind,
                "images": 1,
                "boxes_true": len(truth),
                "boxes_chosen": len(boxes),
                "loose": (best >= LOOSE).sum(),
                "tight": (best >= TIGHT).sum(),
                "iou": best.sum(),
                "right": right.sum(),
            }
        )
    frame = pd.DataFrame(rows)
    sums = frame.groupby("kind").sum()
    sums.loc["all"] = frame.drop(columns="kind").sum()
    found = sums[["loose", "tight", "iou"]].div(sums.boxes_true.replace(0, np.nan), axis=0)
    found.columns = ["recall_70", "recall_90", "mean_iou"]
    counts = sums[["images", "boxes_true", "boxes_chosen"]].astype(int)
    return counts.join(found).assign(
        precision=sums.right / sums.boxes_chosen.replace(0, np.nan),
        false_per_100=100 * (sums.boxes_chosen - sums.right) / sums.images,
    )


def sweep(
    detections: Sequence[Boxes],
    sizes: Sequence[tuple[int, int]],
    truths: Sequence[np.ndarray],
    thresholds: Sequence[float],
    **rule,
) -> pd.DataFrame:
    """What the rule chooses at each minimum confidence: one row each, with recall_70, precision,
    false_per_100 over the images where nothing is pasted, and the mean number of boxes per image."""
    rows = []
    for threshold in thresholds:
        chosen = chosen_boxes(detections, sizes, min_confidence=threshold, **rule)
        kinds = ["pasted" if len(truth) else "whole" for truth in truths]
        table = measure(chosen, truths, kinds)
        false = table.false_per_100.get("whole", np.nan)
        boxes = table.boxes_chosen["all"] / len(truths)
        rows.append((threshold, table.recall_70["all"], table.precision["all"], false, boxes))
    columns = ["min_confidence", "recall_70", "precision", "false_per_100", "boxes_per_image"]
    return pd.DataFrame(rows, columns=columns)


def pick_point(
    swept: pd.DataFrame,
    *,
    min_precision: float = 0.0,
    max_false_per_100: float = np.inf,
    max_boxes_per_image: float = np.inf,
) -> float:
    """The lowest minimum confidence from which on a `sweep` stays within all bounds, which gives the highest
    recall; the highest threshold of the sweep if none does."""
    bad = (swept.precision < min_precision) | (swept.false_per_100 > max_false_per_100)
    bad |= swept.boxes_per_image > max_boxes_per_image
    good = swept.min_confidence[bad[::-1].cumsum()[::-1] == 0]
    return float(good.min() if len(good) else swept.min_confidence.max())


def compare(
    detections: Mapping[str, Sequence[Boxes]],
    points: Mapping[str, Mapping[str, Mapping]],
    sizes: Sequence[tuple[int, int]],
    truths: Sequence[np.ndarray],
    kinds: Sequence[str],
    also_right: Sequence[np.ndarray] | None = None,
) -> pd.DataFrame:
    """`measure` for several detectors, each at its own operating points, in one table.

    detections[detector] are its boxes of every image; points[detector][point] the keywords of
    `imgfp.crops.rule.choose_box`. Columns: detector, point, kind, then those of `measure`.
    """
    tables = []
    for detector, by_point in points.items():
        for point, rule in by_point.items():
            chosen = chosen_boxes(detections[detector], sizes, **rule)
            table = measure(chosen, truths, kinds, also_right).reset_index()
            tables.append(table.assign(detector=detector, point=point))
    return (
        pd.concat(tables, ignore_index=True).set_index(["detector", "point", "kind"]).reset_index()
    )


def worst_scenes(chosen: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> np.ndarray:
    """Numbers of the images with a paste, ordered by the IoU of their worst box, lowest first."""
    best = [
        iou(truth[:, None], boxes).max(1, initial=0).min(initial=1)
        for boxes, truth in zip(chosen, truths, strict=True)
    ]
    pasted = np.flatnonzero([len(truth) > 0 for truth in truths])
    return pasted[np.argsort(np.array(best)[pasted], kind="stable")]


def surest_false(detections: Sequence[Boxes], truths: Sequence[np.ndarray]) -> np.ndarray:
    """Numbers of the images without a paste that have a detection, the most confident first."""
    top = np.array([boxes.confidence.max(initial=0) for boxes in detections])
    whole = np.flatnonzero([len(truth) == 0 for truth in truths])
    whole = whole[top[whole] > 0]
    return whole[np.argsort(-top[whole], kind="stable")]


# ------------------------------------------------------------------------- queries with known boxes

_PASTES = {"overlay": "paste", "screenshot": "screenshot", "collage": "collage"}


def known_queries(meta: pd.DataFrame) -> pd.DataFrame:
    """The queries of a table `query_id,ops,x0,y0,x1,y1` that can be evaluated, with a `kind`.

    `ops` are the edits in order, joined by "+"; corners are shares of the query's sides. Kind is
    paste, screenshot or collage where the box is known, "bars" where text was added on a bar beside
    the whole image (cutting the bar off is right, but its box is not recorded), else "whole".
    Queries with a paste whose box is not known are dropped.
    """
    ops = meta.ops.fillna("").str.split("+")
    paste = ops.map(lambda names: next((_PASTES[n] for n in names if n in _PASTES), ""))
    boxed = meta.x0.notna()
    bars = ops.map(lambda names: "meme" in names)
    kind = paste.where(boxed, np.where(bars, "bars", "whole"))
    return meta.assign(kind=kind)[boxed | (paste == "")].reset_index(drop=True)


def other_parts(row: pd.Series) -> np.ndarray:
    """The other part of a collage of two, one of which is known as `x0,y0,x1,y1`: the rest of the query,
    (1,4) shares; (0,4) for another kind."""
    x0, y0, x1, y1 = (float(row[name]) for name in ("x0", "y0", "x1", "y1"))
    if row["kind"] != "collage":
        return np.empty((0, 4))
    if x1 - x0 > y1 - y0:  # one above the other
        return np.array([[0, y1, 1, 1] if y0 < 0.01 else [0, 0, 1, y0]])
    return np.array([[x1, 0, 1, 1] if x0 < 0.01 else [0, 0, x0, 1]])


def known_boxes(
    known: pd.DataFrame, sizes: Sequence[tuple[int, int]]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each row of `known_queries`, in pixels: its true boxes (0 or 1,4), and `other_parts`."""
    truths, others = [], []
    for (_, row), (width, height) in zip(known.iterrows(), sizes, strict=True):
        scale = [width, height, width, height]
        corners = row[["x0", "y0", "x1", "y1"]].to_numpy(float)
        truths.append(corners[None] * scale if np.isfinite(corners).all() else np.empty((0, 4)))
        others.append(other_parts(row) * scale)
    return truths, others
