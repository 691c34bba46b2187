"""Which detected boxes are cut out: one image at a time, and a whole table for widgets."""

from __future__ import annotations

import numpy as np
import pandas as pd

from imgfp.crops.boxes import iou
from imgfp.datatypes import Boxes, table


def choose_box(
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
        if not taken or (iou(xyxy[[row]], xyxy[taken], "smaller") <= max_overlap).all():
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
    _, local = choose_box(
        boxes, width, height, min_confidence=local_min_confidence, max_crops=max_crops, **limits
    )
    _, single = choose_box(boxes, width, height, min_confidence=global_min_confidence, **limits)
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


CORNERS = ["x0", "y0", "x1", "y1"]


def box_facts(detections: pd.DataFrame, sizes: pd.DataFrame) -> pd.DataFrame:
    """Each detection's shape as `rule.choose_box` sees it, once, for `taken_boxes`.

    detections: the table of that name; sizes: width, height by image id. Columns image_id, confidence,
    x0, y0, x1, y1 (clipped, shares of the image's sides), area (share of the image), aspect (height /
    width of the box normalised by the image's sides).
    """
    size = sizes.loc[detections["image_id"], ["width", "height"]].to_numpy(np.float32)
    corners = detections[CORNERS].to_numpy(np.float32)
    corners = np.clip(corners, 0, np.tile(size, 2)) / np.tile(size, 2)
    sides = corners[:, 2:] - corners[:, :2]
    with np.errstate(divide="ignore", invalid="ignore"):
        aspect = sides[:, 1] / sides[:, 0]
    facts = detections[["image_id", "confidence"]].reset_index(drop=True)
    facts[CORNERS] = corners
    return facts.assign(area=sides.prod(axis=1), aspect=aspect)


def taken_boxes(
    facts: pd.DataFrame,
    *,
    min_confidence: float,
    max_area: float,
    max_aspect: float,
    max_crops: int = 1,
    max_overlap: float = 0.5,
) -> pd.DataFrame:
    """The rows of `facts` that the rule of `rule.choose_box` takes, for all images at once.

    facts: of `box_facts`, most confident first within its image.
    """
    good = (facts["confidence"] > min_confidence) & (facts["area"] > 0)
    good &= (facts["area"] <= max_area) & facts["aspect"].between(1 / max_aspect, max_aspect)
    left, rounds = facts[good], []
    for _ in range(max_crops):
        rounds.append(left.drop_duplicates("image_id"))
        best = rounds[-1].set_index("image_id").loc[left["image_id"]]
        low, high = (
            pick(best[names].to_numpy(), left[names].to_numpy())
            for pick, names in ((np.maximum, CORNERS[:2]), (np.minimum, CORNERS[2:]))
        )
        shared = (high - low).clip(0).prod(axis=1)
        smaller = np.minimum(best["area"].to_numpy(), left["area"].to_numpy())
        left = left[shared <= max_overlap * smaller]
    return pd.concat(rounds) if rounds else left
