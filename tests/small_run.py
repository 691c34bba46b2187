# SPDX-License-Identifier: AGPL-3.0-or-later
"""A small finished run, written in the pipeline's layout without running it: what the report, the
browsers and their tests look at."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import skimage.data

from imgfp import sift, store
from imgfp.crops.rule import crop_table
from imgfp.datatypes import Boxes, LocalFeatures, table
from imgfp.images import encode_jpeg, resize_short_side
from imgfp.runner.record import Record, StageRecord
from imgfp.scoring import fusion
from imgfp.scoring.metrics import evaluate
from imgfp.scoring.relations import relations
from imgfp.stages.inventory import save_rejects
from imgfp.verify.classifier import load_classifier
from imgfp.verify.evidence import score_query
from imgfp.verify.view import View

#: Ids that try to be markup, script, mathematics, another line, or another reading direction.
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\">",
    "a'b\"c&amp;{{7*7}}",
    "two\nlines\t$x_{1}$",
    "\u202egpj.live",
    "</script><script>document.title='owned'</script>",
    "NA",
)
#: An id that tries to be a picture of the page.
MARKUP = '<img src=x onerror="boom">'


@store.produces("test", formerly=["test"])
def _made() -> None:
    """What test artefacts are said to be made by."""


def made_with(*inputs: str, **settings) -> store.Origin:
    return store.origin(_made, settings, inputs)


def photographs() -> dict[str, np.ndarray]:
    """Six real photographs that ship with dependencies, of 200 px on the short side."""
    from sklearn.datasets import load_sample_image

    pictures = {
        "china": load_sample_image("china.jpg"),
        "flower": load_sample_image("flower.jpg"),
        "astronaut": skimage.data.astronaut(),
        "coffee": skimage.data.coffee(),
        "cat": skimage.data.chelsea(),
        "rocket": skimage.data.rocket(),
    }
    return {name: resize_short_side(np.array(image), 200) for name, image in pictures.items()}


def build(
    root: Path,
    *,
    with_truth: bool = True,
    hostile: bool = True,
    keep_originals: bool = True,
    rule: str = "sum",
) -> Path:
    """Write `root/library` and `root/run`, scored by fusion `rule`; returns the run folder."""
    pictures = photographs()
    names = dict(zip(pictures, [*HOSTILE[3:], *list(pictures)[3:]], strict=True)) if hostile else {}
    references = {names.get(name, name): image for name, image in pictures.items()}
    queries, truth, boxes = _queries(pictures, hostile)
    truth = {query: names.get(name, name) for query, name in truth.items()}
    library, run = root / "library", root / "run"
    rejects = [("one.txt", "is empty"), ("two.txt", "is empty")]
    _write_images(library, references, root / "originals/references", keep_originals, rejects)
    rejects = [("broken <b>.jpg", "is empty")]
    _write_images(run, queries, root / "originals/queries", keep_originals, rejects)
    features = {
        side: _write_features(folder, images)
        for side, folder, images in (("r", library, references), ("q", run, queries))
    }
    _write_crops(run, queries, boxes)
    candidates, evidence = _pairs(queries, references, *features.values())
    for branch, rows in candidates.groupby("branch"):
        _save(run / f"candidates/{branch}/shard-00000.parquet", rows.reset_index(drop=True))
    _save(run / "evidence/shard-00000.parquet", evidence)
    joined = candidates.drop(columns="mirrored").merge(
        evidence, on=["query_id", "view_id", "reference_id"]
    )
    told = relations(joined, fusion.merge(joined, "calibrated"))
    predictions = fusion.merge(joined, rule).merge(told)
    store.write_sheet(run / "predictions.csv", predictions)
    save_rejects(store.Run(run), store.Library(library))
    values = {
        "library_dir": str(library),
        "run_dir": str(run),
        "reference_dir": str(root / "originals/references"),
        "query_dir": str(root / "originals/queries"),
        "local_min_confidence": 0.5,
        "fusion": rule,
    }
    if with_truth:
        frame = table("truth", query_id=list(truth), reference_id=list(truth.values()))
        for folder in (root, run):
            store.write_sheet(folder / "truth.csv", frame)
        values["truth"] = str(root / "truth.csv")
        metrics = vars(evaluate(predictions, frame, candidates))
        store.write_bytes(run / "metrics.json", json.dumps(metrics).encode())
    stages = {
        "01_images": {"state": "ok", "seconds": 1.5},
        "03_local_search": {"state": "ok", "seconds": 12.0},
    }
    sources = dict.fromkeys(values, "profile")
    ran = StageRecord(values, sources, code="c0de", versions={"numpy": "2.4"})
    Record(values, sources, dict.fromkeys(stages, ran)).write(run / "params.yaml")
    store.write_bytes(run / "status.json", json.dumps({"stages": stages}).encode())
    return run


def build_self_search(root: Path) -> Path:
    """Write `root/library` and `root/run` of a folder that was searched in itself, without features; returns the run
    folder. "again" has the bytes of "whole", "rose" those of no other."""
    rng = np.random.default_rng(0)

    def picture(height: int, width: int) -> np.ndarray:
        return rng.integers(0, 255, (height, width, 3)).astype(np.uint8)

    whole = picture(120, 160)
    images = {"again": whole, "part": whole[:60, :80], MARKUP: picture(60, 80)}
    images |= {"red": picture(50, 50), "rose": picture(50, 60), "alone": picture(90, 90)}
    images["whole"] = whole
    for side in ("library", "run"):
        _write_images(root / side, images, root / "originals", True, [])
    # query, reference, score, relation of the query to the reference.
    found = [
        ("whole", "part", 0.9, "contains"),
        ("part", "whole", 0.95, "part of"),
        ("again", "part", 0.9, "contains"),
        ("part", MARKUP, 0.6, "edited copy"),
        ("red", "rose", 0.99, "re-encoded"),
        ("alone", "whole", 0.2, "unrelated"),
    ]
    columns = ["query_id", "reference_id", "score", "relation"]
    told = pd.DataFrame(found, columns=columns)
    told = told.assign(relation_probability=0.9, too_little_structure=False)
    store.write_sheet(root / "run/predictions.csv", told)
    names = {"library_dir": str(root / "library"), "run_dir": str(root / "run")}
    lines = "".join(f"{name}: {json.dumps(value)}\n" for name, value in names.items())
    store.write_bytes(root / "run/params.yaml", lines.encode())
    return root / "run"


def _queries(pictures: dict[str, np.ndarray], hostile: bool):
    """Edited copies and strangers: pictures, query -> reference name ("" for none), pasted boxes."""
    camera = np.repeat(skimage.data.camera()[:, :, None], 3, axis=2)
    pasted = cv2.resize(camera, (480, 360))
    pasted[60:260, 100:400] = cv2.resize(pictures["china"], (300, 200))
    height, width = pictures["cat"].shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 20, 1)
    made = {
        "q-whole": (pictures["china"], "china"),
        "q-cropped": (pictures["flower"][30:210, 60:300], "flower"),
        "q-mirrored": (np.ascontiguousarray(pictures["astronaut"][:, ::-1]), "astronaut"),
        "q-pasted": (pasted, "china"),
        "q-turned": (cv2.warpAffine(pictures["cat"], turn, (width, height)), "cat"),
        "q-negative": (255 - pictures["rocket"], "rocket"),
        "q-stranger": (np.ascontiguousarray(pictures["coffee"][::-1, :, ::-1]), ""),
        "q-grey": (np.full((200, 300, 3), 128, np.uint8), ""),
    }
    rename = dict(zip(made, HOSTILE[:3], strict=False)) if hostile else {}
    ids = {name: rename.get(name, name) for name in made}
    queries = {ids[name]: picture for name, (picture, _) in made.items()}
    truth = {ids[name]: reference for name, (_, reference) in made.items()}
    found = Boxes([[100, 60, 400, 260], [10, 10, 60, 350]], [0.83, 0.52])
    return (
        queries,
        truth,
        {ids["q-pasted"]: found, ids["q-turned"]: Boxes([[5, 5, 90, 120]], [0.47])},
    )


def _write_images(root: Path, images: dict, originals: Path, keep: bool, rejects: list) -> None:
    originals.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (image_id, image) in enumerate(images.items()):
        path = originals / f"{number}.jpg"
        data = encode_jpeg(image, 95)
        if keep:
            path.write_bytes(data)
        height, width = image.shape[:2]
        small = encode_jpeg(resize_short_side(image, 96), 85)
        rows.append(
            (
                image_id,
                str(path),
                len(data),
                0,
                hashlib.sha256(data).hexdigest(),
                "JPEG",
                width,
                height,
                "",
                "",
                "",
                "",
                small,
            )
        )
    columns = list(table("images").columns)
    record = table("images", pd.DataFrame(rows, columns=columns))
    store.save(root / "images/shard-00000.parquet", record, made_with(), rejects=rejects)


def _write_features(root: Path, images: dict) -> LocalFeatures:
    features = LocalFeatures.from_images(list(images), [sift.extract(i) for i in images.values()])
    _save(root / "local_features/shard-00000.h5", features)
    return features


def _write_crops(run: Path, queries: dict, boxes: dict[str, Boxes]) -> None:
    rows, tables = [], []
    rules = {"local_min_confidence": 0.5, "global_min_confidence": 0.55}
    rules |= {"max_area": 0.85, "max_aspect": 4.0, "max_crops": 1}
    for query_id, found in boxes.items():
        rows += [(query_id, *xyxy, c) for xyxy, c in zip(found.xyxy, found.confidence, strict=True)]
        height, width = queries[query_id].shape[:2]
        tables.append(crop_table(query_id, found, width, height, **rules))
    columns = list(table("detections").columns)
    _save(
        run / "crops/detections/shard-00000.parquet",
        table("detections", pd.DataFrame(rows, columns=columns)),
    )
    crops = pd.concat(tables, ignore_index=True)
    _save(run / "crops/crops.parquet", table("crops", crops), **rules)
    parts = []
    for crop in crops.itertuples():
        x0, y0, x1, y1 = (round(v) for v in (crop.x0, crop.y0, crop.x1, crop.y1))
        keypoints, descriptors = sift.extract(queries[crop.query_id][y0:y1, x0:x1])
        parts.append((keypoints + np.float32([x0, y0, 0, 0]), descriptors))
    _save(
        run / "crops/local_features/shard-00000.h5",
        LocalFeatures.from_images(list(crops.crop_id), parts),
    )


def _pairs(
    queries: dict, references: dict, of_references: LocalFeatures, of_queries: LocalFeatures
):
    """Every pair with a few matches: candidates of two branches, and their evidence."""
    known = {name: _side(image, *of_references.of(name)) for name, image in references.items()}
    classifier = load_classifier()
    parts = [
        score_query(_side(image, *of_queries.of(name)), known, classifier=classifier).assign(
            query_id=name, view_id=name
        )
        for name, image in queries.items()
    ]
    scored = pd.concat(parts, ignore_index=True)
    evidence = scored[scored["matches"] >= 2].reset_index(drop=True)
    order = evidence.groupby("query_id")["matches"].rank(ascending=False, method="first") - 1
    views = evidence[["query_id", "reference_id", "view_id", "mirrored"]].assign(
        rank=order, score=evidence["matches"], accepted=evidence["matches"] > 10
    )
    views["mean_squared_distance"] = 4000.0
    best = views[views["rank"] == 0].assign(branch="global", score=0.9)
    candidates = pd.concat(
        [table("candidates", views.assign(branch="local")), table("candidates", best)],
        ignore_index=True,
    )
    return candidates, evidence


def _side(image: np.ndarray, keypoints: np.ndarray, descriptors: np.ndarray) -> View:
    height, width = image.shape[:2]
    return View(keypoints, descriptors, resize_short_side(image, 192), width, height)


def _save(path: Path, record, **settings) -> None:
    store.save(path, record, made_with(**settings))
