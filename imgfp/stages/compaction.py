# SPDX-License-Identifier: AGPL-3.0-or-later
"""`imgfp compact`: delete what a library keeps of images that have gone or changed.

What is new is written first, then the state that names it, and what is former is deleted last. So at each moment
a library answers as before, and the next listing or compaction goes on where one was killed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import Descriptors, LocalFeatures
from imgfp.stages.index import build_index, largest_part, remove_former_parts
from imgfp.stages.inventory import (
    computed_from,
    image_rows,
    limits_of,
    listed_from,
    save_rows,
    save_state,
)
from imgfp.store import IndexKind, Library


@dataclass(frozen=True)
class Compaction:
    """What a compaction has removed, or would: images, the shards of images that it copies without them and those
    that it deletes, and the size of the library before and after (the same where nothing was changed)."""

    images: int
    copied: int
    deleted: int
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        size = f"{self.bytes_before / 1e6:,.1f} MB"
        if self.bytes_after != self.bytes_before:
            size += f" before, {self.bytes_after / 1e6:,.1f} MB after"
        return (
            f"{self.images:,} images that have gone or changed, {self.copied:,} shards copied without them, "
            f"{self.deleted:,} deleted; {size}"
        )


def compact(library: Library, *, dry_run: bool = False, cluster: str = "local") -> Compaction:
    """Delete the rows of images that have gone or changed, all that was computed from them, and their vectors in
    both indexes; what was computed from the others is copied, not computed again. A file that comes back is
    computed anew.

    Only the snapshot of the present state stays, so that a run which began with another is refused. dry_run:
    change nothing. Raises StoreError for a library without images, or opened by URL.
    """
    if not library.catalogue.exists():
        raise store.StoreError(f"{store.show(library.root)} holds no images; run notebook 01 first")
    store.refuse_fetched(library.catalogue)
    with store.lock(library.root):
        store.mend_state(library)
        rows = image_rows(library)
        shares = rows.groupby("shard")["live"].mean()
        mixed = shares.index[(shares > 0) & (shares < 1)]
        empty = shares.index[shares == 0]
        gone, before = int((~rows["live"]).sum()), _bytes_of(library.root)
        if not dry_run:
            store.take_snapshot(library)  # what a killed writer of the state goes back to
            for number, shard in enumerate(mixed, int(rows["shard"].max()) + 1):
                _copy_shard(library, rows[rows["shard"] == shard], number)
            # An index masks the vectors of the new rows until the state names them, and then those of the former.
            _build_indexes(library, cluster, merge=False)
            save_state(library, image_rows(library), limits_of(library))
            _build_indexes(library, cluster, merge=False)
            store.forget_former(library)
            _delete_empty_shards(library)
            save_rows(library)
            save_state(library, image_rows(library), limits_of(library))
            _build_indexes(library, cluster)
        return Compaction(gone, len(mixed), len(empty), before, _bytes_of(library.root))


def _copy_shard(library: Library, rows: pd.DataFrame, number: int) -> None:
    """Copy the live rows of an image shard, and what was computed from them, to a new one; the images last, with
    which it counts."""
    former, name = store.shard_name(int(rows["shard"].iloc[0])), store.shard_name(number)
    readable, live = rows[rows["reason"] == ""], rows[rows["live"]]
    kept = readable[readable["live"]]
    for folder in (library.local_features, library.descriptors):
        path = folder / f"{former}.h5"
        if len(kept) and _is_of(path, computed_from(readable)):
            record = _without_others(store.load(path), {*kept["image_id"]})
            _save_copy(path, folder / f"{name}.h5", record, kept, computed_from(kept))
    path = library.images / f"{former}.parquet"
    images = store.load(path)[rows["live"].to_numpy()].reset_index(drop=True)
    # Where the files lie now, and their dates.
    hints = [column.removeprefix("was_") for column in map(str, live) if column.startswith("was_")]
    present = images.assign(**{hint: live[hint].to_numpy() for hint in hints})
    _save_copy(path, library.images / f"{name}.parquet", present, live, listed_from(live))


def _is_of(path: Path, inputs: tuple[str, ...]) -> bool:
    """Is an artefact there that was made of these inputs?"""
    try:
        return store.describe(path).get("inputs") == store.hash_of(list(inputs))
    except store.StoreError:
        return False


def _without_others(
    record: LocalFeatures | Descriptors, image_ids: set[str]
) -> LocalFeatures | Descriptors:
    if isinstance(record, LocalFeatures):
        ids = [image_id for image_id in record.image_ids if image_id in image_ids]
        return LocalFeatures.from_images(ids, [record.of(image_id) for image_id in ids])
    kept = np.array([image_id in image_ids for image_id in record.image_ids], bool)
    return Descriptors(record.image_ids[kept], record.vectors[kept])


def _save_copy(
    path: Path, target: Path, record: object, rows: pd.DataFrame, inputs: tuple[str, ...]
) -> None:
    """Save a record of some rows of an artefact as that artefact of these rows would be."""
    former = store.describe(path)
    present = dict(zip([*rows["was_path"], *rows["path"]], [*rows["path"]] * 2, strict=True))
    rejects = [[present[at], why] for at, why in former.get("rejects", []) if at in present]
    # Its version of imgfp tells whether refused files are tried again.
    facts = {"rejects": rejects, "items": len(rows), "imgfp": former.get("imgfp")}
    store.save(target, record, store.origin_of(path, inputs), **facts)


def _build_indexes(library: Library, cluster: str, merge: bool = True) -> None:
    """Bring the indexes of a library up to date, as they were trained; merge: new parts with others, up to the
    size of the largest."""
    kinds: tuple[IndexKind, ...] = get_args(IndexKind)
    for kind in kinds:
        folder = library.index(kind)
        if folder.manifest.exists():
            trained = store.describe(folder.trained)["settings"]
            build_index(
                library,
                kind,
                factory=trained["factory"],
                seed=trained["seed"],
                part_images=largest_part(library, kind) if merge else 1,
                cluster=cluster,
            )
            remove_former_parts(library, kind)


def _delete_empty_shards(library: Library) -> None:
    """Delete image shards without a live row, and all that belongs to no image shard."""
    live = image_rows(library).groupby("shard")["live"].any()
    for number in live.index[~live]:
        store.remove(library.images / f"{store.shard_name(number)}.parquet")
    for folder in (library.local_features, library.descriptors):
        for path in store.shards(folder, ".h5"):
            if not live.get(store.shard_number(path), False):
                store.remove(path)


def _bytes_of(folder: Path) -> int:
    """Size of the files below a folder; of one file under two names once."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({status.st_ino: status.st_size for status in found}.values())
