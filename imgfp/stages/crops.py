# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebook 04: boxes of pasted images, and the crops that the rules choose."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.crops.detectors import DETECTORS, load_detector
from imgfp.crops.locate import MAX_DIFFERENCE, locate
from imgfp.crops.rule import CORNERS, crop_table
from imgfp.datatypes import Boxes, frame_of, table
from imgfp.decoding import Limits, read_image
from imgfp.images import ImageError, cut_box
from imgfp.inference import check_device
from imgfp.runner.cluster import MapReport, ShardResult, map_shards
from imgfp.stages.certain import explained_queries
from imgfp.stages.inventory import decoded, image_tasks, left_out, on_gpu, read_images
from imgfp.store import Run, isc2021
from imgfp.store.formats import FormatError


def detect_crops(
    run: Run,
    *,
    crop_detector: str,
    global_crop_detector: str = "",
    local_crops_dir: str = "",
    global_crops_dir: str = "",
    local_crop_list: str = "",
    device: str = "cpu",
    cluster: str = "local",
    workers: int = 0,
) -> MapReport:
    """Detect pasted images in every query that is not explained; `crop_detector` and `device` as in
    `imgfp.crops.detectors.load_detector`, whose errors it raises. A relative path counts from the project
    root.

    global_crop_detector: another detector, for the global operating point; "": the same. local_crops_dir,
    global_crops_dir: folders of crops that were cut elsewhere, in place of a detector, see `locate_crops`; "": none.
    local_crop_list: names and confidences of those of the first, see `isc2021.read_crop_list`; "": all, with 1.
    """
    where: dict[str, Any] = {"cluster": cluster, "workers": workers}
    if local_crops_dir:
        report = _locate(run, run.detections, local_crops_dir, local_crop_list, **where)
    else:
        report = _detect(run, run.detections, crop_detector, device, **where)
    if global_crops_dir:
        other = _locate(run, run.global_detections, global_crops_dir, "", **where)
    elif global_crop_detector or local_crops_dir:
        detector = global_crop_detector or crop_detector
        other = _detect(run, run.global_detections, detector, device, **where)
    else:
        for path in store.shards(run.global_detections, ".parquet"):
            store.remove(path)
        return report
    rejects = [*report.rejects, *other.rejects]
    return MapReport(report.computed + other.computed, report.reused + other.reused, rejects)


def _detect(
    run: Run, folder: Path, crop_detector: str, device: str, *, cluster: str, workers: int
) -> MapReport:
    crop_detector = store.located(crop_detector, DETECTORS)
    detector = load_detector(crop_detector, device=device)
    settings: dict[str, Any] = {
        "crop_detector": crop_detector,
        "weights_hash": detector.weights_hash,
    }
    tasks = image_tasks(run, folder, ".parquet", explained_queries(run))
    if detector.device != "cpu":  # what a CPU has made is recorded without a device
        settings["device"] = detector.device
        tasks, workers = on_gpu(tasks, device, workers)
    return map_shards(
        detect_boxes,
        tasks,
        settings,
        cluster=cluster,
        workers=workers,
        title="detect",
        lock_dir=run.root,
        output_dir=folder,
    )


def _locate(
    run: Run, folder: Path, crops_dir: str, crop_list: str, *, cluster: str, workers: int
) -> MapReport:
    where = store.project_path(crops_dir)
    if not where.is_dir():
        raise FileNotFoundError(f"there is no folder {crops_dir}; check the path")
    listed = store.project_path(crop_list) if crop_list else None
    names = _file_names(run)
    if names and not any((where / name).is_file() for name in names):
        wrong = f"expected a picture per query, of its file name, such as {names[0]}, got none"
        raise FormatError(where, None, wrong)
    if listed:
        _check_list(listed, where, {*names})
    settings = {
        "crops": str(where),
        "crops_hash": store.state_of(where),
        "crop_list": str(listed or ""),
        "list_hash": store.sha256_of(listed) if listed else "",
    }
    return map_shards(
        locate_crops,
        image_tasks(run, folder, ".parquet", explained_queries(run)),
        settings,
        cluster=cluster,
        workers=workers,
        title="locate crops",
        lock_dir=run.root,
        output_dir=folder,
    )


def _file_names(run: Run) -> list[str]:
    """The names that the 2021 system's files give the queries."""
    images = read_images(run, ["image_id", "path"])
    return [*map(isc2021.name_of, images["image_id"], images["path"])]


def _check_list(path: Path, crops: Path, known: set[str]) -> None:
    """Raise FormatError for a listed query of the run that has no crop, and where none is a query of the run; say how
    many are not. known: the file names of the queries."""
    listed = isc2021.read_crop_list(path)
    foreign = []
    for line, name in enumerate(listed, 1):
        if name not in known:
            foreign.append((line, name))
        elif not (crops / name).is_file():
            wrong = f"expected a crop of this name in {store.show(crops)}, got no {name!r}"
            raise FormatError(path, line, wrong)
    if foreign:
        line, name = foreign[0]
        if len(foreign) == len(listed):
            raise FormatError(path, line, f"expected the file name of a query, got {name!r}")
        print(
            f"{path.name}: {len(foreign):,} names are of no query of this run: first line {line}, {name!r}"
        )


@store.produces("located_crops")
def locate_crops(
    images: Iterable[dict],
    limits: Limits | None = None,
    *,
    crops: str,
    crops_hash: str,
    crop_list: str,
    list_hash: str,
) -> ShardResult:
    """The boxes that the crops of a folder were cut from, as the `detections` table, at most one per image.

    crops: a folder with a picture per image, of its file name; one of the size of its query is the query itself, and
    where there is none there is no box. crop_list: a file that names those that count, with their confidence; "": all,
    with 1. crops_hash, list_hash: change with what they hold. A picture that is no part of its query is rejected.
    """
    listed = isc2021.read_crop_list(Path(crop_list)) if crop_list else None
    rows: list[tuple] = []
    rejects: list[tuple[str, str]] = []
    for record, image in decoded(images, rejects, limits):
        name = isc2021.name_of(record["image_id"], record["path"])
        file = Path(crops) / name
        confidence = 1.0 if listed is None else listed.get(name)
        if frame_of(record["image_id"]) or confidence is None or not file.exists():
            continue
        try:
            crop = read_image(file, limits)
        except ImageError as error:
            rejects.append((str(file), error.reason))
            continue
        xyxy, difference = locate(image, crop)
        if difference > MAX_DIFFERENCE:
            rejects.append(
                (
                    str(file),
                    f"is no part of {record['path']}: expected pixels of it, found them {difference:.0f} grey levels apart",
                )
            )
        elif crop.shape != image.shape:
            rows.append((record["image_id"], *xyxy, confidence))
    return ShardResult(_detections(rows), rejects, left_out(images))


def _detections(rows: list[tuple]) -> pd.DataFrame:
    columns = ["image_id", *CORNERS, "confidence"]
    return table("detections", pd.DataFrame(rows, columns=columns))


@store.produces("detections", formerly=["imgfp.stages.local.detect_boxes"])
def detect_boxes(
    images: Iterable[dict],
    limits: Limits | None = None,
    gpu: str = "",
    *,
    crop_detector: str,
    weights_hash: str,
    device: str = "cpu",
) -> ShardResult:
    """Every box that the detector finds in each image, as the `detections` table.

    `weights_hash` distinguishes states of the detector's weights in the fingerprint; device: "cpu" or "cuda", then by the device `gpu`.
    """
    detector = _detector(crop_detector, weights_hash, gpu or device)
    check_device(detector.device, device)
    rows = []
    rejects: list[tuple[str, str]] = []
    for record, image in decoded(images, rejects, limits):
        boxes = detector.detect([image], [record["image_id"]])[0]
        for xyxy, confidence in zip(boxes.xyxy, boxes.confidence, strict=True):
            rows.append((record["image_id"], *xyxy, confidence))
    return ShardResult(_detections(rows), rejects, left_out(images))


@lru_cache(maxsize=2)
def _detector(name: str, weights_hash: str, device: str):
    return load_detector(name, device=device)


def choose_crops(run: Run, **rules: float) -> pd.DataFrame:
    """Apply the rules of both operating points to the detections of every query; saves and returns
    the `crops` table. rules: of `imgfp.crops.rule.crop_table`."""
    folders = run.detections, run.global_detections
    paths = [path for folder in folders for path in store.shards(folder, ".parquet")]
    inputs = [store.describe(path)["sha256"] for path in paths]
    others = read_detections(run, "global") if store.shards(folders[1], ".parquet") else None
    crops = crops_of(read_images(run), read_detections(run), others, **rules)
    with store.lock(run.root):
        store.save(run.crops_parquet, crops, store.origin(crops_of, rules, inputs))
    return crops


@store.produces("crops", formerly=["notebook 02"])
def crops_of(
    queries: pd.DataFrame,
    detections: pd.DataFrame,
    global_detections: pd.DataFrame | None = None,
    **rules,
) -> pd.DataFrame:
    """The `crops` table of all queries: `rule.crop_table` with the same rules for each. global_detections: those of
    the global operating point, where it has others."""
    sizes = queries.set_index("image_id")[["width", "height"]]
    sides = (
        {str(name): boxes_of(rows, str(name)) for name, rows in found.groupby("image_id")}
        for found in (
            [detections] if global_detections is None else [detections, global_detections]
        )
    )
    boxes, others = next(sides), next(sides, None)
    none = Boxes(np.empty((0, 4)), np.empty(0))
    tables = [
        crop_table(
            query_id,
            boxes.get(query_id, none),
            *sizes.loc[query_id],
            **rules,
            global_boxes=None if others is None else others.get(query_id, none),
        )
        for query_id in sorted({*boxes, *(others or ())})
        if query_id in sizes.index  # others are masked
    ]
    return table("crops", pd.concat(tables)) if tables else table("crops")


def read_detections(run: Run, point: Literal["local", "global"] = "local") -> pd.DataFrame:
    """Every box the detector found, most confident first within its image; no rows before notebook 04. point: the
    operating point; both have the same, unless the global one has a detector of its own."""
    own = store.shards(run.global_detections, ".parquet") if point == "global" else []
    parts = [store.load(path) for path in own or store.shards(run.detections, ".parquet")]
    filled = [part for part in parts if len(part)]
    found = table("detections", pd.concat(filled)) if filled else table("detections")
    order = np.lexsort((-found["confidence"], found["image_id"]))
    return found.iloc[order].reset_index(drop=True)


def read_crops(run: Run) -> pd.DataFrame:
    """The boxes that were cut out, as the `crops` table; no rows before notebook 04."""
    return store.load(run.crops_parquet) if run.crops_parquet.exists() else table("crops")


def boxes_of(detections: pd.DataFrame, image_id: str) -> Boxes:
    """The detections of one image as a record."""
    rows = detections[detections["image_id"] == image_id]
    return Boxes(rows[CORNERS].to_numpy(), rows["confidence"].to_numpy())


def box_of_each(crops: pd.DataFrame) -> dict[str, np.ndarray]:
    """The box of each crop, xyxy (4,) float64 in original pixels, by crop id. A view without a box is
    a whole query."""
    corners = crops[CORNERS].to_numpy(np.float64)
    return dict(zip(crops["crop_id"], corners, strict=True))


def cut_all(crops: pd.DataFrame, queries: pd.DataFrame) -> list[np.ndarray]:
    """The pixels of each row of a `crops` table, from the files of its queries."""
    paths = queries.set_index("image_id")["path"].loc[crops["query_id"]]
    boxes = crops[CORNERS].to_numpy()
    return [
        cut_box(read_image(path, frame=frame_of(image_id)), box)
        for image_id, path, box in zip(crops["query_id"], paths, boxes, strict=True)
    ]
