# SPDX-License-Identifier: AGPL-3.0-or-later
"""A dataset of FiftyOne: queries and references as samples, with the regions that they share.

Written in its FiftyOneDataset format (https://docs.voxel51.com/user_guide/import_datasets.html#fiftyonedataset), so that
FiftyOne is not needed to write it:

    dataset = fiftyone.Dataset.from_dir(folder, dataset_type=fiftyone.types.FiftyOneDataset)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from imgfp import store
from imgfp.crops.rule import CORNERS
from imgfp.exchange.answers import Answer, answers, save_pictures
from imgfp.results import Results, Side
from imgfp.stages.inventory import resolved_paths

#: The layout of the documents below. FiftyOne of this or any later version reads it, and brings it to its own.
VERSION = "1.0.0"


def write(results: Results, folder: Path) -> list[Path]:
    """Write `metadata.json`, `samples.json` and `data/`, with a JPEG of each query, and of each reference of an answer."""
    found = answers(results)
    queries = [*results.queries.index, *(answer.query.image_id for answer in found)]
    pictures = save_pictures(results, "query", queries, folder / "data")
    seen = save_pictures(
        results, "reference", (a.reference.image_id for a in found), folder / "data"
    )
    boxes = results.detections.groupby("image_id", sort=False)
    of_query: dict[str, list[Answer]] = {image_id: [] for image_id in pictures}
    for answer in found:
        of_query[answer.query.image_id].append(answer)
    samples = _samples(results, "query", pictures, found)
    for sample in samples:
        image_id = sample["image_id"]
        sample["verdict"] = _verdict(results, image_id, of_query[image_id])
        if image_id in boxes.groups:
            size = results.size("query", image_id)
            sample["crops"] = _detections(boxes.get_group(image_id), size, image_id)
    samples += _samples(results, "reference", seen, found)
    metadata = {
        "version": VERSION,
        "media_type": "image",
        "sample_fields": [_field(*field) for field in _SCHEMA],
        "info": {"made_by": "imgfp", "run": results.run.name},
    }
    written = []
    for name, document in (("metadata", metadata), ("samples", {"samples": samples})):
        written.append(folder / f"{name}.json")
        store.write_bytes(written[-1], json.dumps(document, allow_nan=False).encode())
    return [*written, *pictures.values(), *seen.values()]


def _samples(
    results: Results, side: Side, pictures: dict[str, Path], found: list[Answer]
) -> list[dict[str, Any]]:
    """The documents of the images of one side, with their regions; pictures: image id -> JPEG."""
    copies: dict[str, list[dict[str, Any]]] = {image_id: [] for image_id in pictures}
    for answer in found:
        shown = answer.query if side == "query" else answer.reference
        copies[shown.image_id].append(_polyline(side, answer, results.probabilities))
    collection = results.run if side == "query" else results.library
    places = resolved_paths(collection, list(pictures))
    samples = []
    for (image_id, path), place in zip(pictures.items(), places, strict=True):
        number = _number(side, image_id)
        lines = copies[image_id]
        samples.append(
            {
                "_id": {"$oid": number},
                "_rand": int(number[:8], 16) / 2**32,
                "_media_type": "image",
                "filepath": f"data/{path.name}",
                "tags": [side],
                "image_id": image_id,
                "path": place,
                "verdict": None,
                "copies": {"_cls": "Polylines", "polylines": lines} if lines else None,
                "crops": None,
            }
        )
    return samples


def _field(name: str, kind: str, inner: str = "", document: str = "", fields: tuple = ()) -> dict:
    """The document of one field. kind, inner: its type and that of its items; fields: those of its documents."""
    return {
        "name": name,
        "ftype": f"fiftyone.core.fields.{kind}",
        "subfield": f"fiftyone.core.fields.{inner}" if inner else None,
        "embedded_doc_type": f"fiftyone.core.{document}" if document else None,
        "fields": [_field(*field) for field in fields],
        "db_field": "_id" if name == "id" else name,
    }


_ID, _TAGS = ("id", "ObjectIdField"), ("tags", "ListField", "StringField")
_DOCUMENT, _TEXT, _NUMBER, _FLAG = (
    "EmbeddedDocumentField",
    "StringField",
    "FloatField",
    "BooleanField",
)
_LABEL = (_ID, _TAGS, ("label", _TEXT), ("confidence", _NUMBER))
_POLYLINE = (
    *_LABEL,
    ("points", "PolylinePointsField"),
    *((name, _FLAG) for name in ("closed", "filled", "reported", "located")),
    ("score", _NUMBER),
    *((name, _TEXT) for name in ("relation", "transform", "decision", "reviewer")),
)
_DETECTION = (*_LABEL, ("bounding_box", "ListField", _NUMBER))
_PIXELS = ((name, "IntField") for name in ("size_bytes", "width", "height", "num_channels"))
#: The fields of a sample: what FiftyOne expects of each, and ours.
_SCHEMA = (
    _ID,
    ("filepath", _TEXT),
    _TAGS,
    ("metadata", _DOCUMENT, "", "metadata.ImageMetadata", (("mime_type", _TEXT), *_PIXELS)),
    ("created_at", "DateTimeField"),
    ("last_modified_at", "DateTimeField"),
    ("image_id", _TEXT),
    ("path", _TEXT),
    ("verdict", _DOCUMENT, "", "labels.Classification", (*_LABEL, ("score", _NUMBER))),
    (
        *("copies", _DOCUMENT, "", "labels.Polylines"),
        (("polylines", "ListField", _DOCUMENT, "labels.Polyline", _POLYLINE),),
    ),
    (
        *("crops", _DOCUMENT, "", "labels.Detections"),
        (("detections", "ListField", _DOCUMENT, "labels.Detection", _DETECTION),),
    ),
)


def _verdict(results: Results, image_id: str, held: list[Answer]) -> dict[str, Any]:
    best = max((answer.score for answer in held), default=None)
    label = "copy" if any(answer.reported for answer in held) else "no copy found"
    number = _number("verdict", image_id)
    verdict = {"_id": {"$oid": number}, "_cls": "Classification", "tags": [], "label": label}
    return verdict | {"confidence": best if results.probabilities else None, "score": best}


def _polyline(side: Side, answer: Answer, is_probability: bool) -> dict[str, Any]:
    """The region of a pair in one of its images; its label is the other image. is_probability: the score is one."""
    here, other = answer.query, answer.reference
    if side == "reference":
        here, other = other, here
    decided = answer.decided
    return {
        "_id": {"$oid": _number(side, answer.query_id, answer.reference_id)},
        "_cls": "Polyline",
        "tags": [decided.decision] if decided else [],
        "label": other.image_id,
        "points": [np.round(here.relative, 6).tolist()],
        "confidence": answer.score if is_probability else None,
        "closed": True,
        "filled": False,
        "score": answer.score,
        "reported": answer.reported,
        "located": answer.located,
        "relation": answer.relation,
        "transform": answer.transform,
        "decision": decided.decision if decided else "",
        "reviewer": decided.reviewer if decided else "",
    }


def _detections(rows: Any, size: tuple[int, int], image_id: str) -> dict[str, Any]:
    """The boxes of the crop detector in one query, as fractions of its sides."""
    corners = np.clip(rows[CORNERS].to_numpy(float) / np.tile(size, 2), 0, 1)
    found = [
        {
            "_id": {"$oid": _number("crop", image_id, place)},
            "_cls": "Detection",
            "tags": [],
            "label": "pasted image",
            "bounding_box": np.round([x0, y0, x1 - x0, y1 - y0], 6).tolist(),
            "confidence": float(confidence),
        }
        for place, ((x0, y0, x1, y1), confidence) in enumerate(
            zip(corners, rows["confidence"], strict=True)
        )
    ]
    return {"_cls": "Detections", "detections": found}


def _number(*parts: Any) -> str:
    """An object id of 24 hexadecimal digits, the same in every export."""
    return store.hash_of(*parts)[:24]
