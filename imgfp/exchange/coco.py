# SPDX-License-Identifier: AGPL-3.0-or-later
"""COCO object detection: which region of a query shows which reference, and the boxes of the crop detector.

Format: https://cocodataset.org/#format-data. An annotation has a `score`, too, so that the list of annotations is also
a file of results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imgfp import store
from imgfp.crops.rule import CORNERS
from imgfp.exchange.answers import answers
from imgfp.geometry import polygon_area
from imgfp.results import Results
from imgfp.stages.inventory import resolved_paths


def write(results: Results, folder: Path) -> list[Path]:
    """Write `copies.json`: each reported pair as a region of its query, whose category is the reference, and `boxes.json`:
    every box of the crop detector. Images are the queries, under the paths where their files lie; ids count from 1."""
    found = [answer for answer in answers(results) if answer.reported]
    references = sorted({answer.reference_id for answer in found})
    number = {reference_id: place for place, reference_id in enumerate(references, 1)}
    queries = list(results.query_images.index)
    place = {image_id: number for number, image_id in enumerate(queries, 1)}
    copies = [
        {
            "image_id": place[answer.query.image_id],
            "category_id": number[answer.reference_id],
            **_region(answer.query.region),
            "score": answer.score,
            "located": answer.located,
            "relation": answer.relation,
            "transform": answer.transform,
            "decision": answer.decided.decision if answer.decided else "",
            "reference_image": answer.reference.image_id,
            "reference_region": _flat(answer.reference.region),
        }
        for answer in found
    ]
    boxes = [
        {
            "image_id": place[image_id],
            "category_id": 1,
            **_region(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)),
            "score": float(confidence),
        }
        for image_id, x0, y0, x1, y1, confidence in results.detections[
            ["image_id", *CORNERS, "confidence"]
        ].itertuples(index=False)
        if image_id in place
    ]
    images = _images(results, place)
    paths = resolved_paths(results.library, references)
    known = [
        {
            "id": number[reference_id],
            "name": reference_id,
            "supercategory": "reference",
            "path": path,
        }
        for reference_id, path in zip(references, paths, strict=True)
    ]
    pasted = [{"id": 1, "name": "pasted image", "supercategory": "crop detector"}]
    return [
        _save(folder / "copies.json", results, images, known, copies),
        _save(folder / "boxes.json", results, images, pasted, boxes),
    ]


def _images(results: Results, place: Mapping[str, int]) -> list[dict[str, Any]]:
    paths = resolved_paths(results.run, list(place))
    sizes = results.query_images[["width", "height"]].itertuples(index=False)
    return [
        {
            "id": number,
            "file_name": path,
            "width": int(width),
            "height": int(height),
            "image_id": image_id,
        }
        for (image_id, number), path, (width, height) in zip(
            place.items(), paths, sizes, strict=True
        )
    ]


def _region(polygon: np.ndarray) -> dict[str, Any]:
    """The fields of an annotation that say where it is; polygon (k,2) in pixels."""
    left, top = polygon.min(axis=0).tolist()
    right, bottom = polygon.max(axis=0).tolist()
    return {
        "bbox": [round(value, 3) for value in (left, top, right - left, bottom - top)],
        "area": round(polygon_area(polygon), 3),
        "segmentation": [_flat(polygon)],
        "iscrowd": 0,
    }


def _flat(polygon: np.ndarray) -> list[float]:
    return [round(value, 3) for value in polygon.ravel().tolist()]


def _save(
    path: Path,
    results: Results,
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    annotations: Iterable[dict[str, Any]],
) -> Path:
    numbered = [{"id": number} | found for number, found in enumerate(annotations, 1)]
    info = {"description": f"imgfp, run {results.run.name}", "version": "1.0"}
    whole = {"info": info, "images": images, "categories": categories, "annotations": numbered}
    store.write_bytes(path, json.dumps(whole, indent=1, allow_nan=False).encode())
    return path
