# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebooks 02 and 04: keypoints and descriptors of references, queries and crops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from imgfp import sift, store
from imgfp.crops.rule import CORNERS
from imgfp.datatypes import LocalFeatures, frame_of
from imgfp.decoding import Limits
from imgfp.runner.cluster import MapReport, ShardResult, Task, map_shards
from imgfp.stages.crops import read_crops
from imgfp.stages.inventory import decoded, image_tasks, left_out, limits_of, read_images
from imgfp.store import Collection, Run, isc2021
from imgfp.store.formats import FormatError

#: Share of the sides of a picture by which a keypoint that was read may lie outside it.
_MARGIN = 0.02


def extract_local_features(
    collection: Collection,
    *,
    file: str = "",
    cluster: str = "local",
    workers: int = 0,
    **settings: Any,
) -> MapReport:
    """Keypoints and descriptors of every image of a library or run. settings: of `sift.extract`.

    file: keypoint texts of the 2021 system that are read instead, one image per file: one of them, or a folder that
    holds `<image id>.txt`; "": none. Raises FileNotFoundError, and FormatError for a file that holds something else.
    """
    tasks = image_tasks(collection, collection.local_features, ".h5")
    texts: dict[str, str] = {}
    if file:
        texts = _text_settings(file, read_images(collection, ["image_id"])["image_id"])
        where = {"collection": collection}
        tasks = [replace(task, arguments=task.arguments | where) for task in tasks]
    return map_shards(
        read_features if file else extract_features,
        tasks,
        settings | texts,
        cluster=cluster,
        workers=workers,
        title=f"features of {collection.contents}",
        lock_dir=collection.root,
    )


def extract_crop_features(
    run: Run, *, file: str = "", cluster: str = "local", workers: int = 0
) -> MapReport:
    """Keypoints and descriptors of every crop of a run, extracted as those of its queries.

    file: as in `extract_local_features`, of the best crop of each query, `<query id>.txt`; others are extracted.
    """
    crops = read_crops(run)
    tasks, settings = crop_tasks(run, crops), sift_settings(run)
    if file:
        rows = crops.loc[crops["local_rank"] == 0, ["crop_id", "query_id"]]
        where = {"collection": run, "text_of": dict(rows.itertuples(index=False, name=None))}
        tasks = [replace(task, arguments=task.arguments | where) for task in tasks]
        settings |= _text_settings(file, rows["query_id"])
    return map_shards(
        read_features if file else extract_features,
        tasks,
        settings,
        cluster=cluster,
        workers=workers,
        title="features of crops",
        lock_dir=run.root,
        output_dir=run.crop_features,
    )


def crop_tasks(run: Run, crops: pd.DataFrame) -> list[Task]:
    """One task per shard of query images that have crops; `crops` is the table of that name."""
    images = read_images(run, ["image_id", "path", "sha256"]).rename(
        columns={"image_id": "query_id"}
    )
    joined = crops.merge(images, on="query_id", validate="many_to_one")
    tasks, limits = [], limits_of(run)
    for name, rows in joined.groupby("shard", sort=True):
        boxes = rows[["crop_id", "path", *CORNERS]]
        described = boxes.drop(columns="path").astype(str).agg("|".join, axis=1) + rows["sha256"]
        records = boxes.rename(columns={"crop_id": "image_id"}).to_dict("records")
        path = run.crop_features / f"{name}.h5"
        tasks.append(Task(path, tuple(described), {"images": records, "limits": limits}, len(rows)))
    return tasks


@store.produces("local_features", formerly=["imgfp.stages.local.extract_features"])
def extract_features(
    images: Iterable[dict], limits: Limits | None = None, **settings: Any
) -> ShardResult:
    """Keypoints and descriptors of each image, or of the box of it that a record names.

    Coordinates are in pixels of the whole upright image in both cases.
    """
    ids, features = [], []
    rejects: list[tuple[str, str]] = []
    for record, image in decoded(images, rejects, limits):
        ids.append(record["image_id"])
        if "x0" in record:
            box = [record[corner] for corner in CORNERS]
            features.append(sift.extract_from_box(image, box, **settings))
        else:
            features.append(sift.extract(image, **settings))
    return ShardResult(LocalFeatures.from_images(ids, features), rejects, left_out(images))


@store.produces("imported_local_features")
def read_features(
    images: Iterable[dict],
    limits: Limits | None = None,
    *,
    collection: Collection,
    text_of: Mapping[str, str] | None = None,
    texts: str,
    texts_hash: str,
    **settings: Any,
) -> ShardResult:
    """Keypoints and descriptors of each image, or of a box of it, as `extract_features`, read from keypoint texts of
    the 2021 system.

    collection: that of the images; text_of: the image whose name the text of a crop has, None for images; what is
    not among its keys is extracted. texts: a file or folder; texts_hash: changes with what it holds; settings: of
    `sift.extract`. An image without a text has no keypoints and is rejected, unless it is a further frame of a file.
    """
    catalogue = store.open_catalogue(collection)
    ids, features, without = [], [], []
    rejects: list[tuple[str, str]] = []
    for record in images:
        image_id = record["image_id"]
        named = text_of.get(image_id, "") if text_of is not None else image_id
        if not named:
            without.append(record)
            continue
        text = Path(texts) if Path(texts).is_file() else Path(texts) / f"{named}.txt"
        if not text.exists():
            if not frame_of(image_id):
                rejects.append((record["path"], f"{store.show(Path(texts))} has no {named}.txt"))
            continue
        ((width, height),) = catalogue.sizes_of([named]).tolist()
        found = _read_text(text, named, (width, height), record, settings["short_side_px"])
        if found is not None:
            ids.append(image_id)
            features.append(found)
        elif not frame_of(image_id):
            rejects.append((record["path"], f"{store.show(text)} is of another image"))
    if without:
        extracted = extract_features(without, limits, **settings)
        rejects += extracted.rejects
        ids += extracted.record.image_ids.tolist()
        features += [extracted.record.of(one) for one in extracted.record.image_ids]
    return ShardResult(LocalFeatures.from_images(ids, features), rejects, left_out(images))


def _read_text(
    text: Path, named: str, size: tuple[int, int], record: Mapping[str, Any], short_side_px: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Keypoints in pixels of the whole image, and descriptors, of one text; None where it is of another image. size:
    width and height of the image, px; record: with the corners of a box, if any. Raises FormatError, also where the
    file has the name of one image and the keypoints of another."""
    box = np.array([record[corner] for corner in CORNERS]) if "x0" in record else None
    x0, y0, x1, y1 = isc2021.pixels_of(box, *size)
    scale = sift.frame_scale(x1 - x0, y1 - y0, short_side_px)
    image_id, keypoints, descriptors = isc2021.read_keypoints(text, scale)
    if image_id not in ("", named, PurePosixPath(named).name):
        if text.stem == PurePosixPath(named).name:
            raise FormatError(
                text, 1, f"expected keypoints of {named!r}, got those of {image_id!r}"
            )
        return None
    outside = (abs(keypoints[:, :2] / [x1 - x0, y1 - y0] - 0.5) > 0.5 + _MARGIN).any(axis=1)
    if outside.any():
        row = int(outside.argmax())
        x, y = keypoints[row, :2].tolist()
        raise FormatError(
            text,
            row + 1,
            f"expected a keypoint inside a picture of {x1 - x0} x {y1 - y0} px, got one at {x:.0f}, {y:.0f}; is "
            f"sift_short_side_px, {short_side_px}, that of its extractor?",
        )
    keypoints[:, :2] += [x0, y0]
    return keypoints, descriptors


def _text_settings(file: str, image_ids: Iterable[str]) -> dict[str, str]:
    """Settings of `read_features`. Raises FileNotFoundError, and FormatError for a folder without a text of any image."""
    path, ids = store.project_path(file), [*image_ids]
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {file}; check the path")
    if path.is_dir() and ids and not any((path / f"{one}.txt").is_file() for one in ids):
        wrong = f"expected a text per image, such as {ids[0]}.txt, got none of any image"
        raise FormatError(path, None, wrong)
    return {"texts": str(path), "texts_hash": store.state_of(path)}


def feature_settings(collection: Collection) -> dict[str, Any]:
    """How the keypoints of a library or run were extracted: of `sift.extract`, and of `read_features` where they
    were read, `crop_texts` where those of crops were; empty before notebook 02."""
    paths = store.shards(collection.local_features, ".h5")
    settings = store.describe(paths[0])["settings"] if paths else {}
    crops = store.shards(collection.crop_features, ".h5") if isinstance(collection, Run) else []
    of_crops = store.describe(crops[0])["settings"].get("texts_hash") if crops else None
    return settings | ({"crop_texts": of_crops} if of_crops else {})


def sift_settings(collection: Collection) -> dict[str, Any]:
    """`feature_settings` of `sift.extract` alone."""
    of_texts = ("texts", "texts_hash", "crop_texts")
    return {n: value for n, value in feature_settings(collection).items() if n not in of_texts}


def stored_features(collection: Collection) -> store.FeatureLookup:
    """The local features of the images of a library or run, each found by the catalogue."""
    catalogue = store.open_catalogue(collection)

    def shard_of(image_id: str) -> str:
        shards, _ = store.shard_and_row(catalogue.places_of([image_id]))
        return store.shard_name(int(shards[0]))

    return store.FeatureLookup(collection.local_features, shard_of)


def keypoint_counts(folder: Path, sampled: int = 0) -> pd.Series:
    """Keypoints of each image of a folder of feature shards, by image id. sampled: of as many images at least, in a
    few shards drawn at random; 0: of all."""
    paths = store.shards(folder, ".h5")
    drawn = store.draw_shards(paths, sampled) if sampled else paths
    parts = [store.feature_counts(path) for path in drawn]
    return pd.concat(parts) if parts else pd.Series(dtype="int64")
