# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebook 01: which images a folder holds and which files cannot be read; shards with thumbnails."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from imgfp import store, urls
from imgfp.datatypes import table
from imgfp.images import (
    ImageError,
    decode_image,
    encode_jpeg,
    file_states,
    image_id_of,
    printable,
    read_bytes,
    read_image,
    refuse_twins,
    resize_short_side,
    walk_images,
)
from imgfp.runner.cluster import MapReport, ShardResult, Task, map_shards, mark_in_progress
from imgfp.store import Collection, Library, Run, formats

#: Columns of the images table without the thumbnails, which few readers need.
FACTS = [name for name in table("images").columns if name != "thumbnail"]


def list_images(
    collection: Collection,
    source: str,
    *,
    shard_images: int,
    thumbnail_short_side_px: int,
    cluster: str = "local",
    workers: int = 0,
) -> MapReport:
    """Bring the image shards of a library or run up to date with a folder or manifest.

    source: a folder, walked recursively, or a CSV manifest with the columns image_id, path, either also
    by URL; blank: keep what is there. New files make new shards, changed or removed files touch only their own
    shard, and images of other sources stay. Raises FileNotFoundError and ValueError in one clear line.
    """
    if source:
        files = list_files(source)
        plan = plan_shards(existing_shards(collection), files, source, shard_images)
        _forget(collection, keep=set(plan))
    else:
        plan = existing_shards(collection)
    if not plan:
        raise ValueError(
            f"{collection.root} has no images yet and no folder was named to fill it from"
        )
    tasks = [
        Task(
            _shard_path(collection, name),
            tuple(map(str, rows.itertuples(index=False, name=None))),
            {"files": rows.to_dict("records")},
            len(rows),
        )
        for name, rows in plan.items()
    ]
    report = map_shards(
        inspect_files,
        tasks,
        {"thumbnail_short_side_px": thumbnail_short_side_px},
        cluster=cluster,
        workers=workers,
        title=collection.contents,
        lock_dir=collection.root,
    )
    if not len(read_images(collection, ["image_id"])):
        reason = report.rejects[0][1] if report.rejects else "it is empty"
        raise ValueError(f"no readable picture in {source}: the first file {reason}")
    return report


def list_files(source: str | Path) -> pd.DataFrame:
    """The files of a folder or manifest, also by URL: image_id, path, file_bytes, mtime_ns (or another mark
    of the last change, see `urls`), source; by id.

    Raises ValueError naming both files when two would share an id, and for a source without files or a
    URL that cannot be listed.
    """
    place = source.rstrip("/") if urls.is_url(source) else store.project_path(source)
    ids, paths, states = _listed(place)
    if not paths:
        raise ValueError(f"{printable(place)} holds no files; is it the right folder?")
    refuse_twins(ids, paths)
    # Names that are not UTF-8 cannot enter tables; they go on escaped and are refused there.
    rows = [
        (printable(image_id), printable(path), size, mark, printable(place))
        for image_id, path, (size, mark) in zip(ids, paths, states, strict=True)
    ]
    columns = ["image_id", "path", "file_bytes", "mtime_ns", "source"]
    return pd.DataFrame(rows, columns=columns).sort_values("image_id", ignore_index=True)


def _listed(place: str | Path) -> tuple[list[str], Sequence[str | Path], list[tuple[int, int]]]:
    """Ids, paths or URLs, and states of the files of a folder or manifest."""
    is_file = urls.is_file(place) if urls.is_url(place) else os.path.isfile(place)
    if is_file and str(place).lower().endswith(".csv"):
        manifest = formats.read_manifest(place)
        ids, names = manifest["image_id"].tolist(), manifest["path"].tolist()
        return ids, names, file_states(names)
    if urls.is_url(place):
        objects = urls.find(place)
        # A doubled slash makes an empty part of a name in a bucket, and none of an id.
        ids = [image_id_of(PurePosixPath(o.name.lstrip("/")), PurePosixPath()) for o in objects]
        return ids, [o.url for o in objects], [(o.size_bytes, o.mark) for o in objects]
    paths = list(walk_images(Path(place)))
    ids = [image_id_of(path, Path(place)) for path in paths]
    return ids, paths, file_states(paths)


def existing_shards(collection: Collection) -> dict[str, pd.DataFrame]:
    """The files of each finished image shard, in the columns of `list_files`."""
    columns = ["image_id", "path", "file_bytes", "mtime_ns", "source"]
    return {path.stem: store.load(path, columns) for path in _image_shards(collection)}


def plan_shards(
    existing: dict[str, pd.DataFrame], files: pd.DataFrame, source: str, shard_images: int
) -> dict[str, pd.DataFrame]:
    """Which files each shard is to hold: old shards keep their files, new files are appended in shards
    of at most `shard_images`. Raises ValueError for a shard size under 1."""
    if shard_images < 1:
        raise ValueError(f"shard_images: expected 1 or more, got {shard_images}")
    source = files["source"].iloc[0]
    listed = files.set_index("image_id", drop=False)
    plan: dict[str, pd.DataFrame] = {}
    taken: set[str] = set()
    for name, rows in existing.items():
        ours = rows["source"] == source
        twins = rows.loc[~ours & rows["image_id"].isin(listed.index), "image_id"]
        if len(twins):
            raise ValueError(
                f"id {twins.iloc[0]!r} comes from {rows['source'].iloc[0]} already and again from "
                f"{source}; take another library_dir (or run_dir), or name ids in a manifest (CSV: image_id,path)"
            )
        still = rows.loc[ours & rows["image_id"].isin(listed.index), "image_id"]
        now = pd.concat([rows[~ours], listed.loc[still]], ignore_index=True)
        taken.update(still)
        if len(now):
            plan[name] = now
    new = files[~files["image_id"].isin(taken)]
    number = max((int(name.split("-")[1]) for name in existing), default=-1) + 1
    for start in range(0, len(new), shard_images):
        part = new.iloc[start : start + shard_images].reset_index(drop=True)
        plan[f"shard-{number:05d}"] = part
        number += 1
    return plan


@store.produces("images", formerly=["imgfp.stages.inventory.inspect_files"])
def inspect_files(files: list[dict], *, thumbnail_short_side_px: int) -> ShardResult:
    """Decode every file once: its facts, SHA-256 and a thumbnail, or the reason for its rejection."""
    rows, rejects = [], []
    for file in files:
        row = {
            **file,
            "sha256": "",
            "format": "",
            "width": 0,
            "height": 0,
            "notes": "",
            "reason": "",
            "thumbnail": b"",
        }
        try:
            mark_in_progress(file["path"])
            data = read_bytes(file["path"])
            image, facts = decode_image(data, file["path"])
            small = resize_short_side(image, thumbnail_short_side_px)
            row |= {
                "sha256": hashlib.sha256(data).hexdigest(),
                "format": facts.format,
                "width": facts.width,
                "height": facts.height,
                "notes": ", ".join(facts.notes),
                "thumbnail": encode_jpeg(small, 90),
            }
        except ImageError as error:
            row["reason"] = error.reason
            rejects.append((file["path"], error.reason))
        rows.append(row)
    return ShardResult(table("images", pd.DataFrame(rows)), rejects)


def read_images(collection: Collection, columns: Sequence[str] = FACTS) -> pd.DataFrame:
    """The readable images of a library or run, one row per image, with the `shard` that holds it and
    its row there, `shard_row`."""
    parts = []
    for path in _image_shards(collection):
        part = store.load(path, [*dict.fromkeys([*columns, "reason"])])
        parts.append(part.assign(shard=path.stem, shard_row=np.arange(len(part))))
    if not parts:
        raise store.StoreError(f"{collection.root} holds no images yet; run notebook 01 first")
    images = pd.concat(parts, ignore_index=True)
    return images[images["reason"] == ""].reset_index(drop=True)


def truth_of_run(run: Run, truth: pd.DataFrame) -> pd.DataFrame:
    """The rows of a truth table whose queries are files of this run, readable or not."""
    files = store.load_tables(run.images, ["image_id"])["image_id"]
    return truth[truth["query_id"].isin(files)].reset_index(drop=True)


def gather_rejects(*collections: Collection) -> pd.DataFrame:
    """Every file that any stage rejected in these collections, with the reason, once."""
    pairs = {
        tuple(pair): None
        for collection in collections
        for path in sorted(collection.root.glob("**/shard-*.*.json"))
        for pair in store.describe(path.with_suffix("")).get("rejects", [])
    }
    return table("rejects", pd.DataFrame(list(pairs), columns=["path", "reason"]))


def save_rejects(run: Run, library: Library) -> pd.DataFrame:
    """Write `rejects.csv` of a run: every file that any stage so far rejected on either side."""
    rejects = gather_rejects(library, run)
    store.write_csv(run.rejects_csv, rejects)
    return rejects


def _forget(collection: Collection, keep: set[str]) -> None:
    """Delete what was made from shards whose images have all gone."""
    for name in {path.stem for path in _image_shards(collection)} - keep:
        for path in collection.root.glob(f"**/{name}.*"):
            if path.suffix != ".json":
                store.remove(path)


def thumbnails(collection: Collection, image_ids: Iterable[str]) -> list[np.ndarray]:
    """Thumbnails (h,w,3) uint8 RGB of a library or run in the order asked; little else is read.

    Raises KeyError for an unknown id.
    """
    places = _places(collection, store.digest_of(collection.images, ["*"]))
    return decode_thumbnails(collection, places.loc[list(image_ids)])


def decode_thumbnails(collection: Collection, places: pd.DataFrame) -> list[np.ndarray]:
    """The thumbnail (h,w,3) uint8 RGB of each row of `places`, which is indexed by image id."""
    jpegs = read_thumbnails(collection, places)
    return [decode_image(jpeg, name)[0] for jpeg, name in zip(jpegs, places.index, strict=True)]


def read_thumbnails(collection: Collection, places: pd.DataFrame) -> list[bytes]:
    """The stored JPEG of each row of `places` (columns shard, shard_row as in `read_images`)."""
    jpegs = np.empty(len(places), object)
    for shard, at in places.groupby("shard", sort=False).indices.items():
        rows = places["shard_row"].iloc[at].tolist()
        loaded = store.load_rows(_shard_path(collection, str(shard)), rows, ["thumbnail"])
        jpegs[at] = loaded["thumbnail"].to_numpy()
    return list(jpegs)


@lru_cache(maxsize=4)
def _places(collection: Collection, digest: str) -> pd.DataFrame:
    """Where each image is stored, by id. `digest` makes a changed folder a new question."""
    images = read_images(collection, ["image_id"]).set_index("image_id")
    return images[["shard", "shard_row"]]


def _image_shards(collection: Collection) -> list[Path]:
    return store.shards(collection.images, ".parquet")


def _shard_path(collection: Collection, name: str) -> Path:
    return collection.images / f"{name}.parquet"


def image_tasks(collection: Collection, folder: Path, suffix: str) -> list[Task]:
    """One task per shard of images of a library or run; its artefact goes to `folder`."""
    images = read_images(collection, ["image_id", "path", "sha256"])
    return [
        Task(
            folder / f"{name}{suffix}",
            tuple(rows["image_id"] + rows["sha256"]),
            {"images": rows[["image_id", "path"]].to_dict("records")},
            len(rows),
        )
        for name, rows in images.groupby("shard", sort=True)
    ]


def decoded(images: list[dict], rejects: list) -> Iterator[tuple[dict, np.ndarray]]:
    """Each record with its image, which is read once for consecutive records of one path; what can no
    longer be read goes to `rejects`."""
    last_path, last_image = None, None
    for record in images:
        if record["path"] != last_path:
            try:
                mark_in_progress(record["path"])
                last_image = read_image(record["path"])
            except ImageError as error:
                # It was readable when listed: it is gone, has changed, or is too large for a worker.
                rejects.append((record["path"], error.reason))
                last_image = None
            last_path = record["path"]
        if last_image is not None:
            yield record, last_image
