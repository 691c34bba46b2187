# SPDX-License-Identifier: AGPL-3.0-or-later
"""The answers of a run as other tools take them: pairs with their regions and decisions, and copies of the pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgfp import store
from imgfp.geometry import corners_of
from imgfp.results import Results, Side
from imgfp.store import decisions
from imgfp.viz import svg

#: Longer side of a copied picture, in pixels, and quality of its JPEG.
LONG_SIDE_PX, QUALITY = 1024, 85


class Shown(NamedTuple):
    """One side of a pair: the image that its best evidence compares (a frame where a file has several), its size (width,
    height) in pixels, and the region (k,2) that it shares with the other, a polygon of x, y in pixels from the outer corner
    of the first one."""

    image_id: str
    size: tuple[int, int]
    region: np.ndarray

    @property
    def relative(self) -> np.ndarray:
        """The region as fractions of the sides."""
        return self.region / self.size


class Decided(NamedTuple):
    """The last decision in force on a pair; conflicting: reviewers differ."""

    time: str
    reviewer: str
    decision: str
    reason: str
    conflicting: bool


@dataclass(frozen=True)
class Answer:
    """One pair. transform: the edit in words; located: the regions were found by a transform, and are not the whole of what
    was compared; decided: None where nobody has decided."""

    query_id: str
    reference_id: str
    score: float
    reported: bool
    relation: str
    transform: str
    query: Shown
    reference: Shown
    located: bool
    decided: Decided | None


def answers(results: Results) -> list[Answer]:
    """The pairs that matter to a person, best first: those that are reported, those that somebody has decided on, and the
    best of each query. Raises StoreError for a pair whose picture the run or library does not know."""
    pairs = results.pairs
    reported = results.is_reported
    decided = _decided(results)
    ids = list(zip(pairs["query_id"], pairs["reference_id"], strict=True))
    is_decided = np.array([pair in decided for pair in ids], bool)
    wanted = pairs.assign(reported=reported)[reported | pairs["rank"].eq(0) | is_decided]
    columns = ["query_id", "reference_id", "score", "reported", "relation"]
    return [
        _answer(results, query_id, reference_id, decided.get((query_id, reference_id)), *rest)
        for query_id, reference_id, *rest in wanted[columns].itertuples(index=False)
    ]


def _decided(results: Results) -> dict[tuple[str, str], Decided]:
    reviewed = decisions.consensus(decisions.read(results.decisions_path))
    return {
        (row["query_id"], row["reference_id"]): Decided(*(row[name] for name in Decided._fields))
        for row in reviewed.to_dict("records")
    }


def _answer(
    results: Results,
    query_id: str,
    reference_id: str,
    decided: Decided | None,
    score: float,
    reported: bool,
    relation: str,
) -> Answer:
    query, reference = results.images_of(query_id, reference_id)
    sizes = size_of(results, "query", query), size_of(results, "reference", reference)
    shared = results.outlines(query_id, reference_id)
    evidence = results.best_evidence(query_id, reference_id)
    box = None if evidence is None else results.box_of(evidence["view_id"])
    whole = [corners_of(*size) for size in sizes]
    if box is not None:
        whole[0] = box[[[0, 1], [2, 1], [2, 3], [0, 3]]] - 0.5
    regions = [
        np.clip((part if seen is None else seen) + 0.5, 0, size)
        for seen, part, size in zip(shared, whole, sizes, strict=True)
    ]
    return Answer(
        query_id,
        reference_id,
        float(score),
        bool(reported),
        relation,
        "" if evidence is None else str(evidence.get("transform") or ""),
        Shown(query, sizes[0], regions[0]),
        Shown(reference, sizes[1], regions[1]),
        shared[0] is not None,
        decided,
    )


def size_of(results: Results, side: Side, image_id: str) -> tuple[int, int]:
    """Width and height of an image in pixels. Raises StoreError for one that the run or library does not know."""
    try:
        return results.size(side, image_id)
    except KeyError:
        raise store.StoreError(
            f"the {side} {image_id!r} is not known any more; run the queries again, then export"
        ) from None


def jpeg_of(results: Results, side: Side, image_id: str, long_side_px: int = LONG_SIDE_PX) -> bytes:
    """An image, upright and as a browser shows it, reduced to `long_side_px` on its longer side."""
    return svg.small_jpeg(results.picture(side, image_id), long_side_px, QUALITY)


def save_pictures(
    results: Results, side: Side, image_ids: Iterable[str], folder: Path
) -> dict[str, Path]:
    """Write `jpeg_of` of each image under a name that holds nothing of its id; returns image id -> file."""
    written: dict[str, Path] = {}
    for image_id in dict.fromkeys(image_ids):
        path = folder / f"{side}-{len(written):06d}.jpg"
        store.write_bytes(path, jpeg_of(results, side, image_id))
        written[image_id] = path
    return written
