# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebook 01: which images a folder holds and which files cannot be read; shards with thumbnails."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from imgfp import __version__, store, urls
from imgfp.datatypes import file_of, files_of, frame_id, frame_of, table
from imgfp.decoding import Limits, Picture, may_pass_later, read_frames, read_image
from imgfp.descriptors.views import VIEWS
from imgfp.images import (
    ImageError,
    decode_image,
    encode_jpeg,
    file_digest,
    file_states,
    list_folder,
    printable,
    resize_short_side,
    restored,
    sampled_digest,
)
from imgfp.runner.cluster import MapReport, ShardResult, Task, map_shards
from imgfp.store import Collection, Library, Run, formats

#: Columns of the images table without those that few readers need.
FACTS = [name for name in table("images").columns if name not in ("thumbnail", "blocks")]
#: Local processes that share a GPU where the number is left open: each takes about half a gigabyte of it
#: before any network. Estimated, not measured.
PROCESSES_PER_GPU = 4


#: Extensions of the pictures among files that differ in it alone. All files are read, whatever they are called.
_PICTURES = (
    *(".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".jp2"),
    *(".heic", ".heif", ".jxl"),
)
#: What the ids of crops and of views have after the id of their image.
_CROP, _VIEW = re.compile(r"#\d+\Z"), re.compile(rf"@({'|'.join(VIEWS)})\Z")

#: A name without parts that begin with a dot, and with one extension.
_USUAL_NAME = re.compile(r"((?:[^/.][^/]*/)*[^/.]+)\.[^/.]+")

#: Hints that a file is the one which a shard holds: they may change though its bytes do not.
_HINTS = ["path", "file_bytes", "mtime_ns", "source"]
#: What an image shard is made from.
_STATE = ["image_id", *_HINTS]
#: The hints as they were when the shard was made.
_WAS = [f"was_{name}" for name in _HINTS]
#: What a listing needs of the rows of image shards. Texts are large, as in pandas, which then takes them as they lie.
_ROWS = pa.schema(
    [("place", pa.int64())]
    + [
        (name, pa.int64() if name in ("file_bytes", "mtime_ns") else pa.large_string())
        for name in _STATE
    ]
    + [("width", pa.int32()), ("height", pa.int32())]
    + [(name, pa.large_string()) for name in ("sha256", "reason", "blocks")]
)
#: Files that look unchanged of which each is compared; of more, as many drawn at random.
COMPARED_FILES = 10_000


@store.produces("catalogue")
def list_images(
    collection: Collection,
    source: str,
    *,
    shard_images: int,
    thumbnail_short_side_px: int,
    most_lost_share: float = 0.5,
    cluster: str = "local",
    workers: int = 0,
    limits: Limits | None = None,
) -> MapReport:
    """Bring the image shards of a library or run up to date with a folder or manifest.

    source, most_lost_share: of `survey`. limits: of a file that is decoded; where they have changed, files that
    exceeded the former ones are tried again, as are all that another trial may read when `imgfp retry` asks for
    it, or another version. Shards only grow in number: new and changed images make new ones, a file that has gone
    is masked where it is and comes back with all that was computed from it when it returns. The state is written
    last, so that a run which is killed before finds the former one. Raises what `survey` raises, before anything
    is changed, and ValueError where no reference can be read.
    """
    if shard_images < 1:
        raise ValueError(f"shard_images: expected 1 or more, got {shard_images}")
    settings = {"thumbnail_short_side_px": thumbnail_short_side_px}
    limits = limits or Limits()
    files = _files_of(collection, source)  # before the lock, which makes the folder
    with store.lock(collection.root):
        save_rows(collection)
        rows, new = _compared(collection, files, most_lost_share, limits)
        first = int(rows["shard"].max() + 1 if len(rows) else 0)
        shards = new_shards(new, shard_images, first)
        tasks = [
            listing_task(collection, number, files, limits) for number, files in shards.items()
        ]
        for path in _image_shards(collection):
            # The inputs are the files that its own rows name.
            made_of = store.origin(inspect_files, settings)
            made_of = replace(made_of, inputs=store.describe(path).get("inputs", ""))
            number = store.shard_number(path)
            if number not in shards and not store.is_current(path, made_of):
                tasks.append(
                    listing_task(collection, number, rows[rows["shard"] == number], limits)
                )
        map_shards(
            inspect_files,
            tasks,
            settings,
            cluster=cluster,
            workers=workers,
            title=collection.contents,
            lock_dir=collection.root,
        )
        save_rows(collection)
        made = _with_hints(_made_rows(collection), rows[_have_moved(rows)])
        live = made["place"].isin(rows.loc[rows["live"], "place"]) | made["shard"].isin([*shards])
        made = _frames_follow(made.assign(live=live))
        rejects = made.loc[live & (made["reason"] != ""), ["path", "reason"]]
        if isinstance(collection, Library) and not (live & (made["reason"] == "")).any():
            reason = rejects["reason"].iloc[0] if len(rejects) else "it is empty"
            raise ValueError(f"no readable picture in {source}: the first file {reason}")
        save_state(collection, made, limits)
    made = made[~_are_frames(made)]
    now_made = made["shard"].isin([store.shard_number(task.path) for task in tasks])
    refused = list(rejects.itertuples(index=False, name=None))
    live = made["live"]
    return MapReport(int((live & now_made).sum()), int((live & ~now_made).sum()), refused)


def survey(
    collection: Collection,
    source: str,
    *,
    most_lost_share: float = 0.5,
    limits: Limits | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare a library or run with a folder or manifest, and change nothing: all its rows, see `image_rows`, as they
    will be, and the files that make new ones.

    source: a folder, walked recursively, or a CSV manifest with the columns image_id, path, either also by URL;
    blank: what is there. An image is its bytes: a file of another date, or of an archive that was moved or copied,
    is read and recognised; of one that looks unchanged a few blocks are compared. Images of other sources stay.
    Raises FileNotFoundError and ValueError in one clear line: where a source has lost more than
    `most_lost_share` of its pictures, two sources have one id, or a run holds queries of another source.
    """
    files = _files_of(collection, source)
    return _compared(collection, files, most_lost_share, limits or Limits())


def _files_of(collection: Collection, source: str) -> pd.DataFrame | None:
    """`list_files`, None for a blank source. Raises ValueError where there are no images either."""
    if source:
        return list_files(source)
    if not _image_shards(collection):
        raise ValueError(
            f"{collection.root} has no images yet and no folder was named to fill it from"
        )
    return None


def _compared(
    collection: Collection, files: pd.DataFrame | None, most_lost_share: float, limits: Limits
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`survey` of files that are listed."""
    store.mend_state(collection)
    every = image_rows(collection)
    if files is None:
        return every, every.head(0)
    source = files["source"].iloc[0]
    again = _asked_again(collection, every, limits)
    rows = every[~_are_frames(every)]
    # A refused file may be read when it comes back.
    usable = ~rows["place"].isin([*again]) & (rows["live"] | (rows["reason"] == ""))
    place = match_files(rows, usable.to_numpy(), files)
    recognised = rows["place"].isin(place)
    # A source that has gone, and of which there are pictures in this one, has been moved here.
    former = {name for name in rows.loc[recognised, "source"].unique() if _has_gone(name)} | {
        source
    }
    elsewhere = ~_among(rows["source"], [*former])
    _refuse_loss(collection, source, rows, recognised | elsewhere, files, most_lost_share)
    others = rows["live"] & ~recognised & elsewhere
    twins = rows[others][_among(rows.loc[others, "image_id"], files["image_id"])]
    superseded = (twins["reason"] != "") | twins["path"].map(_has_gone).astype(bool)
    others &= ~rows["place"].isin(twins.loc[superseded, "place"])
    _refuse_others(collection, source, rows.loc[others, ["image_id", "source"]], files)
    known = np.flatnonzero(place >= 0)
    at = np.searchsorted(rows["place"], place[known])
    other = np.zeros(len(known), bool)
    for hint in _HINTS:
        other |= np.asarray(files[hint].array[known] != rows[hint].array[at], bool)
    moved = files.iloc[known[other]].assign(place=place[known[other]])
    live = every["place"].isin(rows.loc[recognised | others, "place"])
    now = _frames_follow(_with_hints(every, moved).assign(live=live))
    return now, files.loc[place < 0, _STATE]


def _among(values: pd.Series, others: pd.Series | Sequence[str]) -> np.ndarray:
    """`values.isin(others)` of texts, of which pandas makes an object each."""
    texts = (pa.array(one, pa.large_string()) for one in (values, others))
    return np.asarray(pc.is_in(next(texts), value_set=next(texts)))


def _refuse_loss(
    collection: Collection,
    source: str,
    rows: pd.DataFrame,
    stays: pd.Series,
    files: pd.DataFrame,
    most_lost_share: float,
) -> None:
    """Raise ValueError when too many of the live images neither stay nor are changed in place."""
    pictures = rows["live"] & (rows["reason"] == "")
    lost = rows.loc[pictures & ~stays, ["image_id", "source"]]
    lost = lost[~_among(lost["image_id"], files["image_id"])]
    named = lost["source"].unique()
    held = pictures & _among(rows["source"], [*named, source])
    if len(lost) > most_lost_share * held.sum():
        raise ValueError(
            f"{source} lacks {len(lost):,} of {held.sum():,} {collection.contents} that {collection.root} has from "
            f"{' and '.join(sorted(named))}, so nothing was changed; is it the right folder, and whole? "
            "If they are to be left out: most_lost_share=1"
        )


def _refuse_others(
    collection: Collection, source: str, others: pd.DataFrame, files: pd.DataFrame
) -> None:
    """Raise ValueError when the images of other sources cannot stay beside these files."""
    if isinstance(collection, Run) and len(others):
        raise ValueError(
            f"{collection.root} holds the queries of {others['source'].iloc[0]}; name another run_dir for those of "
            f"{source}"
        )
    twins = others[_among(others["image_id"], files["image_id"])]
    if len(twins):
        raise ValueError(
            f"id {twins['image_id'].iloc[0]!r} comes from {twins['source'].iloc[0]} already and again from "
            f"{source}; take another library_dir (or run_dir), or name ids in a manifest (CSV: image_id,path)"
        )


def _has_gone(path: str) -> bool:
    return not (urls.is_url(path) or os.path.exists(path) or os.path.exists(restored(path)))


def match_files(rows: pd.DataFrame, usable: np.ndarray, files: pd.DataFrame) -> np.ndarray:
    """The `place` of the row that holds an image of the same id and bytes, for each file; -1 where none does.

    rows: of `image_rows`; usable: of them, bool; files: of `list_files`. What looks unchanged is compared in a few
    blocks, see `COMPARED_FILES`; another file is read where an image of its id and size is known. Objects by
    URL are known by their marks alone.
    """
    live = np.flatnonzero(rows["live"].to_numpy() & usable)
    ids, live_ids = (
        pa.array(one, pa.large_string())
        for one in (files["image_id"], rows["image_id"].array[live])
    )
    found = np.asarray(pc.fill_null(pc.index_in(ids, value_set=live_ids), -1))
    file = np.flatnonzero(found >= 0)
    row = live[found[file]]
    same = np.ones(len(file), bool)
    for name in ("path", "file_bytes", "mtime_ns"):
        same &= np.asarray(files[name].array[file] == rows[name].array[row], bool)
    file, row = file[same], row[same]
    sampled = np.flatnonzero(np.asarray(rows["blocks"].array[row] != "", bool))
    paths, blocks = files["path"].array[file], rows["blocks"].array[row]
    drawn = sampled
    if len(sampled) > COMPARED_FILES:
        seed = secrets.randbits(32)
        print(
            f"{len(sampled):,} files have the size and date that is known of them; "
            f"{COMPARED_FILES:,} of them, drawn with seed {seed}, are compared"
        )
        drawn = np.random.default_rng(seed).choice(sampled, COMPARED_FILES, replace=False)
    changed = drawn[_differ(paths[drawn], blocks[drawn])]
    if len(changed) and len(drawn) < len(sampled):
        changed = sampled[_differ(paths[sampled], blocks[sampled])]
    place = np.full(len(files), -1, np.int64)
    place[np.delete(file, changed)] = rows["place"].to_numpy()[np.delete(row, changed)]

    rest = np.flatnonzero(place < 0)
    if len(rest):
        asked = files.iloc[rest]
        known = usable & ~rows["place"].isin(place).to_numpy()
        known &= _among(rows["image_id"], asked["image_id"])
        place[rest] = _match_changed(rows[known], asked)
    return place


def _differ(paths: Iterable[str], blocks: Iterable[str]) -> np.ndarray:
    """Of which files other blocks are known."""
    return np.array(urls.in_parallel(sampled_digest, paths), object) != np.array([*blocks], object)


def _match_changed(known: pd.DataFrame, files: pd.DataFrame) -> np.ndarray:
    """`match_files` of files that are not as a live row has them, with all rows of their ids."""
    # Of several the last is taken: a live one, else the newest.
    known = known.sort_values(["live", "place"], kind="stable")
    looks = ["image_id", "path", "file_bytes", "mtime_ns"]
    latest = known.drop_duplicates(looks, keep="last")[[*looks, "place", "blocks"]]
    matched = files.merge(latest, on=looks, how="left").fillna({"place": -1, "blocks": ""})
    place, path = matched["place"].to_numpy(np.int64, copy=True), matched["path"].to_numpy(object)
    sampled = np.flatnonzero(matched["blocks"] != "")
    place[sampled[_differ(path[sampled].tolist(), matched["blocks"].iloc[sampled])]] = -1

    readable = known[(known["sha256"] != "") & ~known["place"].isin(place)]
    place_of = dict(
        zip(
            zip(readable["image_id"], readable["sha256"], strict=True),
            readable["place"],
            strict=True,
        )
    )
    sized = set(zip(readable["image_id"], readable["file_bytes"], strict=True))
    named = list(zip(files["image_id"], files["file_bytes"], strict=True))
    read = [
        row
        for row in np.flatnonzero(place < 0)
        if named[row] in sized and not urls.is_url(path[row])
    ]
    for row, digest in zip(read, urls.in_parallel(file_digest, path[read]), strict=True):
        place[row] = place_of.get((named[row][0], digest), -1)
    return place


def new_shards(files: pd.DataFrame, shard_images: int, first: int) -> dict[int, pd.DataFrame]:
    """Files in shards of at most `shard_images`, by number from `first`."""
    starts = range(0, len(files), shard_images)
    return {
        first + number: files.iloc[start : start + shard_images].reset_index(drop=True)
        for number, start in enumerate(starts)
    }


def listing_task(collection: Collection, number: int, rows: pd.DataFrame, limits: Limits) -> Task:
    """The task that makes an image shard from rows of `list_files`, or anew from those of its files."""
    files = rows.loc[~_are_frames(rows), _STATE]
    return Task(
        _shard_path(collection, store.shard_name(number)),
        listed_from(files),
        {"files": files.to_dict("records"), "limits": limits},
        len(files),
    )


def listed_from(rows: pd.DataFrame) -> tuple[str, ...]:
    """The inputs of the image shard that holds these files."""
    files = rows.loc[~_are_frames(rows), _STATE]
    return tuple(map(str, files.itertuples(index=False, name=None)))


def _are_frames(rows: pd.DataFrame) -> pd.Series:
    """Which rows are frames of a file that is another row."""
    return files_of(rows["image_id"]) != rows["image_id"]


def _frames_follow(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `image_rows` in which each frame lies where its file does, in the same shard, and is as live."""
    frames = _are_frames(rows)
    if not frames.any():
        return rows
    followed = [*_HINTS, "live"]
    named = rows.assign(file_id=files_of(rows["image_id"]))
    files = named.loc[~frames, ["shard", "file_id", *followed]]
    keys = named.loc[frames, ["shard", "file_id"]]
    found = keys.merge(files, "left", ["shard", "file_id"], validate="many_to_one")
    rows = rows.copy()
    for name in followed:
        rows.loc[frames, name] = found[name].to_numpy()
    return rows


def image_rows(collection: Collection) -> pd.DataFrame:
    """Every row of image shards: its state as in `list_files`, and as it was when the shard was made (`was_`);
    blocks of `sampled_digest`; shard, place, whether it is live; width, height, sha256 and reason. A row that is newer
    than the state, which a killed writer leaves, is live in the place of another of its id."""
    masked = store.load(collection.masked)["place"] if collection.masked.exists() else []
    rows = _made_rows(collection)
    if collection.moved.exists():
        rows = _with_hints(rows, store.load(collection.moved).to_pandas())
    live = ~rows["place"].isin(masked)
    last = store.describe(collection.masked)["last_shard"] if collection.masked.exists() else -1
    newer = (rows["shard"] > last).to_numpy()
    if newer.any():
        live &= newer | ~_among(rows["image_id"], rows.loc[newer, "image_id"])
    return _frames_follow(rows.assign(live=live))


def _made_rows(collection: Collection) -> pd.DataFrame:
    """`image_rows` as they were when the shards were made."""
    made, _ = stored_rows(collection)
    rows = made.to_pandas(split_blocks=True)
    shard, _ = store.shard_and_row(rows["place"].to_numpy())
    return rows.assign(shard=shard, **{f"was_{name}": rows[name] for name in _HINTS})


def _have_moved(rows: pd.DataFrame) -> np.ndarray:
    """Of which rows the hints are no longer those that they were made with."""
    moved = np.zeros(len(rows), bool)
    for now, was in zip(_HINTS, _WAS, strict=True):
        moved |= (rows[now] != rows[was]).to_numpy(bool)
    return moved


@store.produces("image_rows")
def stored_rows(collection: Collection) -> tuple[pa.Table, list[list]]:
    """Every row of the image shards by place, see `_ROWS`, and number, SHA-256 and rows of each shard. It lies in a
    mapped file as far as the shards are those that the file was made from; others are read."""
    paths = _image_shards(collection)
    digests = [[store.shard_number(path), store.describe(path)["sha256"]] for path in paths]
    held: list[list] = []
    parts = [_ROWS.empty_table()]
    try:
        recorded = store.describe(collection.rows)["shards"] if collection.rows.exists() else []
        held = [one for one, now in zip(recorded, digests, strict=False) if one[:2] == now]
        while held != recorded[: len(held)]:
            held.pop()
        if held:
            parts = [store.load(collection.rows).slice(0, sum(rows for *_, rows in held))]
    except store.StoreError as error:
        print(f"{error}; every shard is read")
        held = []
    for path, digest in list(zip(paths, digests, strict=True))[len(held) :]:
        rows = _read_rows(path)
        held.append([*digest, len(rows)])
        parts.append(rows)
    return (parts[0] if len(parts) == 1 else pa.concat_tables(parts)), held


def save_rows(collection: Collection) -> None:
    """Bring the file of `stored_rows` up to date; of a fetched library, which is not written to, there may be none."""
    rows, shards = stored_rows(collection)
    made = store.origin(stored_rows, {}, [store.hash_of(one) for one in shards])
    if shards and not (
        store.read_marker(collection.root) or store.is_current(collection.rows, made)
    ):
        store.save(collection.rows, rows, made, shards=shards)


def _read_rows(path: Path) -> pa.Table:
    names = [name for name in _ROWS.names if name != "place"]
    if "blocks" not in store.columns_of(path):  # in tables of version 0.1.0
        names.remove("blocks")
    rows = store.load(path, names)
    places = store.place_of(store.shard_number(path), np.arange(len(rows)))
    rows = rows.assign(**{"place": places, "blocks": rows.get("blocks", "")})
    return pa.Table.from_pandas(rows[_ROWS.names], _ROWS, preserve_index=False)


def _with_hints(rows: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Rows with the hints of the others that have the same place."""
    if others.empty:
        return rows
    hints = others.set_index("place")[_HINTS]
    at = rows["place"].isin(hints.index)
    found = hints.loc[rows.loc[at, "place"]]
    rows = rows.copy()
    for name in _HINTS:
        rows.loc[at, name] = found[name].to_numpy()
    return rows


def _asked_again(collection: Collection, existing: pd.DataFrame, limits: Limits) -> set[int]:
    """Places of images that are read again though their files have not changed: some artefact of their shard was
    computed without them, since they were masked then, or a reader refused them and another trial may not.
    existing: of `image_rows`."""
    all_again = bool(os.environ.get(store.RETRY)) or limits != limits_of(collection)
    refused = [reason for reason in existing["reason"].unique() if may_pass_later(reason)]
    asked = existing[
        ~existing["live"]
        | existing["path"].str.contains("://", regex=False).to_numpy(bool)
        | _among(existing["reason"], refused)
        | all_again
    ]
    found: set[int] = set()
    if limits.max_frames != limits_of(collection).max_frames:
        for path in _image_shards(collection):
            notes = store.load(path, ["notes"])["notes"]
            rows_with = np.flatnonzero(notes.str.contains("frame", regex=False))
            found.update(store.place_of(store.shard_number(path), rows_with).tolist())
    rows_of = dict(iter(asked.groupby("shard")))
    for sidecar in collection.root.glob("**/shard-*.*.json") if rows_of else ():
        path = sidecar.with_suffix("")
        rows = rows_of.get(store.shard_number(path))
        if rows is None:
            continue
        made = store.describe(path)
        again = all_again or made.get("imgfp") != __version__
        unread = [
            name
            for name, reason in made.get("rejects", [])
            if urls.is_temporary(reason) or (again and may_pass_later(reason))
        ]
        at = rows["image_id"].isin(made.get("without", [])) | rows[["path", "was_path"]].isin(
            unread
        ).any(axis=1)
        found.update(rows.loc[at, "place"])
    return found


def limits_of(collection: Collection) -> Limits:
    """The limits under which the files of a library or run were last listed."""
    if not collection.catalogue.exists():
        return Limits()
    settings = store.describe(collection.catalogue)["settings"]
    return Limits(**{name: settings[name] for name in asdict(Limits()) if name in settings})


def save_state(collection: Collection, rows: pd.DataFrame, limits: Limits) -> None:
    """Write which rows of `image_rows` are live, and where the files of those lie that have been moved."""
    gone = rows.loc[~rows["live"], ["place", "image_id", "was_path"]]
    moved = rows[_have_moved(rows)]
    moved = moved.sort_values("place")[["place", *_HINTS, "was_path"]].reset_index(drop=True)
    inputs = [store.describe(path)["sha256"] for path in _image_shards(collection)]
    inputs.append(store.hash_of(gone["place"].tolist()))
    last = int(rows["shard"].max())

    def readable() -> pd.DataFrame:
        return store.catalogue_table(rows[rows["live"] & (rows["reason"] == "")])

    masked = gone.rename(columns={"was_path": "path"}).reset_index(drop=True)
    for path, record, made_of in (
        (collection.moved, lambda: moved, [store.hash_of(moved.to_csv())]),
        (collection.masked, lambda: masked, inputs),
        (collection.catalogue, readable, inputs),
    ):
        wanted = store.origin(list_images, {"file": path.name, **asdict(limits)}, made_of)
        if not store.is_current(path, wanted):
            store.save(path, record(), wanted, last_shard=last)


def list_files(source: str | Path) -> pd.DataFrame:
    """The entries of a folder or manifest, also by URL: image_id, path, file_bytes, mtime_ns (or another mark
    of the last change, see `urls`), source; by id. A folder that is not entered is an entry, too, with a slash
    at the end of both names: reading it gives the reason.

    Raises ValueError naming both files when a manifest gives two the same id, and for a source without files
    or a URL that cannot be listed.
    """
    place = source.rstrip("/") if urls.is_url(source) else store.project_path(source)
    ids, paths, states = _listed(place)
    if not len(paths):
        raise ValueError(f"{printable(place)} holds no files; is it the right folder?")
    files = pd.DataFrame({"image_id": ids, "path": paths}, dtype="str")
    files["file_bytes"], files["mtime_ns"] = np.asarray(states, np.int64).T
    files["source"] = printable(place)
    in_order = pc.all(
        pc.less_equal(pa.array(files["image_id"][:-1]), pa.array(files["image_id"][1:]))
    )
    return files if in_order.as_py() else files.sort_values("image_id", ignore_index=True)


def _listed(
    place: str | Path,
) -> tuple[Sequence[str] | pd.Series, Sequence[str] | pd.Series, Any]:
    """Ids, paths or URLs, and states of the entries of a folder or manifest, as valid Unicode."""
    is_file = urls.is_file(place) if urls.is_url(place) else os.path.isfile(place)
    if is_file and str(place).lower().endswith(".csv"):
        manifest = formats.read_manifest(place)
        _refuse_twins(manifest)
        return manifest["image_id"], manifest["path"], file_states(manifest["path"])
    if urls.is_url(place):
        objects = urls.find(place)
        names = _texts([o.name for o in objects])
        states = np.array([(o.size_bytes, o.mark) for o in objects])
    else:
        names = list_folder(Path(place))
        states = file_states([os.path.join(place, name) for name in names])
        names = _texts(names)
    top = os.path.join(printable(place), "")
    return image_ids(names), [top + name for name in names], states


def _texts(names: Sequence[str]) -> list[str]:
    """Names as `printable`, each another text. A name that is not UTF-8 and could not be found by its text,
    since another name reads like it, is marked, so that it is refused and its text is nobody's."""
    texts = [printable(name) for name in names]
    read_as = Counter(texts)
    for at, name in enumerate(names):
        if texts[at] != name and (read_as[texts[at]] > 1 or restored(texts[at]) != name):
            while texts[at] in read_as:
                texts[at] += " (not UTF-8)"
            read_as[texts[at]] = 1
    return texts


def image_ids(names: Sequence[str]) -> list[str]:
    """An id for each name of an entry of one source; names: below the source, each once, "/" between parts.

    The id is the name without extension. Files that would share one have their whole names as ids, unless
    exactly one of them has the extension of a picture, as `a.jpg` beside `a.xmp`, and keeps the short one.
    So has a file whose short id is the name of another file, or could be that of another's crop or view, or of a frame.
    """
    short = [name if name.endswith("/") else _without_extension(name) for name in names]
    is_picture = [name.lower().endswith(_PICTURES) for name in names]
    claims, whole = Counter(short), set(names)
    pictures = Counter(one for one, picture in zip(short, is_picture, strict=True) if picture)
    ids = []
    for name, one, picture in zip(names, short, is_picture, strict=True):
        alone = claims[one] == 1 or (picture and pictures[one] == 1)
        ids.append(one if alone and one not in whole else name)
    taken = set(ids)
    for at, name in enumerate(names):
        if _is_derived(ids[at], taken):
            # No name of a file begins with "./".
            ids[at] = f"./{name}" if _is_derived(name, taken) else name
        if file_of(ids[at]) != ids[at]:
            ids[at] += "."
    return ids


def _without_extension(name: str) -> str:
    usual = _USUAL_NAME.fullmatch(name)
    if usual:  # the same in less than half the time
        return usual[1]
    return PurePosixPath(name.lstrip("/")).with_suffix("").as_posix()


def _is_derived(image_id: str, taken: Container[str]) -> bool:
    """Could an id be that of a crop or view of another image, or of a frame?"""
    if "#" not in image_id and "@" not in image_id:
        return False
    viewed = _VIEW.sub("", image_id)
    bases = viewed, _CROP.sub("", viewed), file_of(viewed)
    return file_of(image_id) != image_id or any(b != image_id and b in taken for b in bases)


def _refuse_twins(manifest: pd.DataFrame) -> None:
    ids = manifest["image_id"]
    if pc.count_distinct(pa.array(ids)).as_py() < len(ids):
        twin = ids[ids.duplicated()].iloc[0]
        first, second = manifest["path"][ids == twin].iloc[:2]
        raise ValueError(
            f"{first} and {second} share the id {twin!r} in the manifest; give each its own"
        )
    marked = manifest[ids.str.contains("#", regex=False) | ids.str.contains("@", regex=False)]
    taken = {*ids} if len(marked) else set()
    for image_id, path in marked.itertuples(index=False, name=None):
        if _is_derived(image_id, taken):
            raise ValueError(
                f"the id {image_id!r} of {path} in the manifest could be that of a crop, view or frame of another; "
                "give one that does not end so"
            )


@store.produces("images", formerly=["imgfp.stages.inventory.inspect_files"])
def inspect_files(
    files: list[dict], limits: Limits, *, thumbnail_short_side_px: int
) -> ShardResult:
    """Decode every file once: its facts, SHA-256 and a thumbnail, or the reason for its rejection. Further frames that
    are searched have rows after those of the files."""
    rows, frames, rejects = [], [], []
    for file in files:
        row = {
            **file,
            "sha256": "",
            "format": "",
            "width": 0,
            "height": 0,
            "notes": "",
            "reason": "",
            "blocks": "" if urls.is_url(file["path"]) else sampled_digest(file["path"]),
            "thumbnail": b"",
        }
        try:
            pictures = read_frames(file["path"], limits)
            _, first = next(pictures)
            count = first.facts.frames
            others = [
                _described(picture, thumbnail_short_side_px, count)
                | {
                    "image_id": frame_id(file["image_id"], number),
                    "sha256": _sha256_of_frame(picture.sha256, number),
                }
                for number, picture in pictures
            ]
            row |= _described(first, thumbnail_short_side_px, count)
            if count:
                row["notes"] += f", {1 + len(others)} of {count} frames searched"
            frames += [row | other | {"blocks": ""} for other in others]
        except ImageError as error:
            row["reason"] = error.reason
            rejects.append((file["path"], error.reason))
        rows.append(row)
    return ShardResult(table("images", pd.DataFrame(rows + frames)), rejects)


def _described(picture: Picture, thumbnail_short_side_px: int, count: str) -> dict[str, Any]:
    """What the images table says of a picture. count: of the frames of its file, blank for a single one."""
    facts = picture.facts
    notes = [f"frame {facts.frame} of {count}"] if count else []
    notes += [note for note in facts.notes if not note.startswith("frame")]
    small = resize_short_side(picture.pixels, thumbnail_short_side_px)
    return {
        "sha256": picture.sha256,
        "format": facts.format,
        "width": facts.width,
        "height": facts.height,
        "notes": ", ".join(notes),
        "thumbnail": encode_jpeg(small, 90),
    }


def _sha256_of_frame(sha256: str, number: int) -> str:
    """What a further frame of a file has as SHA-256, so that frames of identical files are identical."""
    return hashlib.sha256(frame_id(sha256, number).encode()).hexdigest()


def read_images(collection: Collection, columns: Sequence[str] = FACTS) -> pd.DataFrame:
    """The readable images of a library or run, one row per image, with the `shard` that holds it and
    its row there, `shard_row`. The whole table is in memory: for notebooks; workers read their own shard."""
    names = [path.stem for path in _image_shards(collection)]
    if not names:
        raise store.StoreError(f"{collection.root} holds no images yet; run notebook 01 first")
    return pd.concat([read_shard(collection, name, columns) for name in names], ignore_index=True)


def sample_images(
    collection: Collection, count: int, columns: Sequence[str] = FACTS, seed: int = 0
) -> pd.DataFrame:
    """`read_images` of `count` images drawn at random, or of all where there are fewer, from a few shards."""
    paths = store.draw_shards(_image_shards(collection), count, seed)
    if not paths:
        raise store.StoreError(f"{collection.root} holds no images yet; run notebook 01 first")
    rows = pd.concat([read_shard(collection, path.stem, columns) for path in paths])
    return rows.sample(min(count, len(rows)), random_state=seed, ignore_index=True)


def read_shard(collection: Collection, name: str, columns: Sequence[str] = FACTS) -> pd.DataFrame:
    """`read_images` of one image shard."""
    path = _shard_path(collection, name)
    rows = store.load(path, [*dict.fromkeys([*columns, "reason"])])
    rows = rows.assign(shard=name, shard_row=np.arange(len(rows)))
    live = (rows["reason"] == "") & ~rows["shard_row"].isin(_masked_of(collection, name)["row"])
    return _at_present(collection, name, rows)[live].reset_index(drop=True)


def _at_present(collection: Collection, name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a shard, by their number, with the hints of files that have been moved since it was made."""
    if not collection.moved.exists():
        return rows
    moved = _opened(collection.moved, store.describe(collection.moved)["sha256"])
    number = int(name.rpartition("-")[2])
    first, end = np.searchsorted(
        np.asarray(moved["place"]),
        [store.place_of(n, np.zeros(1))[0] for n in (number, number + 1)],
    )
    here = moved.slice(first, end - first).to_pandas()
    _, at = store.shard_and_row(here["place"].to_numpy())
    rows = rows.copy()
    for hint in rows.columns.intersection(_HINTS):
        rows.loc[at, hint] = here[hint].to_numpy()
    return rows


def masked_ids(collection: Collection, name: str) -> list[str]:
    """Ids of the images of a shard that have left the collection, or have changed and are in another shard."""
    return _masked_of(collection, name)["image_id"].tolist()


def _masked_of(collection: Collection, name: str) -> pd.DataFrame:
    """row and image_id of what is masked in a shard."""
    if not collection.masked.exists():
        return pd.DataFrame({"row": [], "image_id": []})
    masked = _opened(collection.masked, store.describe(collection.masked)["sha256"])
    shards, rows = store.shard_and_row(masked["place"].to_numpy())
    here = shards == int(name.rpartition("-")[2])
    return pd.DataFrame({"row": rows[here], "image_id": masked["image_id"][here]})


@lru_cache(maxsize=4)
def _opened(path: Path, digest: str) -> Any:
    return store.load(path)


class ShardImages:
    """The images of one shard as records (image_id, path), read by the worker that iterates over them. Images
    that are masked are left out and listed in `without`; those in `skipped` are left out as well."""

    def __init__(self, collection: Collection, name: str, skipped: Sequence[str] = ()) -> None:
        self._collection, self._name, self._skipped = collection, name, skipped
        self.without: list[str] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        path = _shard_path(self._collection, self._name)
        rows = store.load(path, ["image_id", "path", "reason"])
        masked = rows.index.isin(_masked_of(self._collection, self._name)["row"])
        readable = rows["reason"] == ""
        self.without = rows.loc[readable & masked, "image_id"].tolist()
        wanted = readable & ~masked & ~rows["image_id"].isin(self._skipped)
        now = _at_present(self._collection, self._name, rows)
        yield from now.loc[wanted, ["image_id", "path"]].to_dict("records")


def file_ids(collection: Collection) -> list[str]:
    """Ids of the files that a library or run holds, readable or not."""
    rows = image_rows(collection)
    return rows.loc[rows["live"] & ~_are_frames(rows), "image_id"].tolist()


def gather_rejects(*collections: Collection) -> pd.DataFrame:
    """Every file that any stage rejected in these collections, with the reason, once."""
    pairs: dict[tuple[str, str], None] = {}
    for collection in collections:
        gone = set()
        if collection.masked.exists():
            masked = store.load(collection.masked)
            shards, _ = store.shard_and_row(masked["place"].to_numpy())
            gone = set(zip(shards.tolist(), masked["path"], strict=True))
        moved = {}
        if collection.moved.exists():
            rows = store.load(collection.moved).to_pandas()
            shards, _ = store.shard_and_row(rows["place"].to_numpy())
            moved = dict(zip(zip(shards, rows["was_path"], strict=True), rows["path"], strict=True))
        for sidecar in sorted(collection.root.glob("**/shard-*.*.json")):
            path = sidecar.with_suffix("")
            for name, reason in store.describe(path).get("rejects", []):
                key = store.shard_number(path), name
                if key not in gone:
                    pairs[moved.get(key, name), reason] = None
    return table("rejects", pd.DataFrame(list(pairs), columns=["path", "reason"]))


def save_rejects(run: Run, library: Library) -> pd.DataFrame:
    """Write `rejects.csv` of a run: every file that any stage so far rejected on either side."""
    rejects = gather_rejects(library, run)
    store.write_sheet(run.rejects_csv, rejects)
    return rejects


def thumbnails(collection: Collection, image_ids: Iterable[str]) -> list[np.ndarray]:
    """Thumbnails (h,w,3) uint8 RGB of a library or run in the order asked; little else is read.

    Raises KeyError for an unknown id.
    """
    ids = list(image_ids)
    jpegs = read_thumbnails(collection, ids)
    return [decode_image(jpeg, name)[0] for jpeg, name in zip(jpegs, ids, strict=True)]


def read_thumbnails(collection: Collection, image_ids: Sequence[str]) -> list[bytes]:
    """The stored JPEG of each image. Raises KeyError for an unknown id."""
    return read_column(collection, image_ids, "thumbnail")


def read_column(collection: Collection, image_ids: Sequence[str], column: str) -> list[Any]:
    """One column of the images table for these images; little else is read. Raises KeyError for an
    unknown id."""
    shards, rows = store.shard_and_row(store.open_catalogue(collection).places_of(image_ids))
    values = np.empty(len(shards), object)
    for number in np.unique(shards).tolist():
        at = np.flatnonzero(shards == number)
        path = _shard_path(collection, store.shard_name(number))
        values[at] = store.load_rows(path, rows[at].tolist(), [column])[column].to_numpy()
    return list(values)


def resolved_paths(collection: Collection, image_ids: Sequence[str]) -> list[str]:
    """Where the file of each image lies now, without links, or its URL. Raises KeyError for an unknown id."""
    paths = read_column(collection, image_ids, "path")
    if collection.moved.exists():
        moved = _opened(collection.moved, store.describe(collection.moved)["sha256"]).to_pandas()
        places = store.open_catalogue(collection).places_of(image_ids)
        now = moved.set_index("place")["path"].reindex(places)
        paths = now.where(now.notna(), paths).tolist()
    return [path if urls.is_url(path) else os.path.realpath(path) for path in paths]


def _image_shards(collection: Collection) -> list[Path]:
    return shards_of(collection, collection.images, ".parquet")


def shards_of(collection: Collection, folder: Path, suffix: str) -> list[Path]:
    """The finished shards of a folder of a library or run; of a library at a snapshot, those that it had."""
    paths = store.shards(folder, suffix)
    if isinstance(collection, Library) and collection.snapshot is not None:
        last = store.describe(collection.masked)["last_shard"]
        paths = [path for path in paths if store.shard_number(path) <= last]
    return paths


def _shard_path(collection: Collection, name: str) -> Path:
    return collection.images / f"{name}.parquet"


def image_tasks(
    collection: Collection,
    folder: Path,
    suffix: str,
    skipped: AbstractSet[str] = frozenset(),
    names: Sequence[str] | None = None,
) -> list[Task]:
    """One task per shard of images of a library or run, without those of the files in `skipped`; its artefact goes to
    `folder`. names: of the shards; None: all.

    What is masked counts among the inputs, so that nothing is computed again when an image goes or returns.
    """
    tasks, limits = [], limits_of(collection)
    rows, shards = stored_rows(collection)
    ends = np.cumsum([count for *_, count in shards])
    for (number, _, count), end in zip(shards, ends.tolist(), strict=True):
        name = store.shard_name(number)
        if names is not None and name not in names:
            continue
        here = rows.slice(end - count, count)
        readable = pc.equal(here["reason"], "")
        of_skipped = files_of(here["image_id"].to_pandas()).isin(skipped) if skipped else False
        left = pc.and_(readable, pa.array(np.broadcast_to(of_skipped, len(here))))
        images = ShardImages(collection, name, here["image_id"].filter(left).to_pylist())
        inputs = _Inputs(here, pc.and_not(readable, left))
        if len(inputs):
            arguments = {"images": images, "limits": limits}
            tasks.append(Task(folder / f"{name}{suffix}", inputs, arguments, len(inputs)))
    return tasks


class _Inputs(Sequence[str]):
    """What names the images of a task to its artefact. The texts are made when they are asked for: those of all tasks
    of a large library would take much memory."""

    def __init__(self, rows: pa.Table, chosen: pa.ChunkedArray) -> None:
        self._rows, self._chosen = rows, chosen
        self._count = int(pc.sum(chosen).as_py() or 0)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        rows = self._rows.select(["image_id", "sha256"]).filter(self._chosen)
        yield from pc.binary_join_element_wise(
            *rows.columns, pa.scalar("", pa.large_string())
        ).to_pylist()

    def __getitem__(self, at: Any) -> Any:
        return [*self][at]


def computed_from(rows: pd.DataFrame) -> tuple[str, ...]:
    """The inputs, as in `image_tasks`, of what is computed from these readable images."""
    return tuple(rows["image_id"] + rows["sha256"])


def on_gpu(tasks: Sequence[Task], device: str, workers: int) -> tuple[list[Task], int]:
    """Tasks with the device that they take as the argument `gpu`, which is no setting, since any GPU gives the
    same; and the number of local processes, where 0 is as many as a GPU takes."""
    tasks = [replace(task, arguments={**task.arguments, "gpu": device}) for task in tasks]
    return tasks, workers or min(PROCESSES_PER_GPU, os.cpu_count() or 1)


def left_out(images: Iterable[dict]) -> list[str]:
    """Ids of masked images that were not among these records; known after an iteration."""
    return images.without if isinstance(images, ShardImages) else []


def decoded(
    images: Iterable[dict], rejects: list, limits: Limits | None = None
) -> Iterator[tuple[dict, np.ndarray]]:
    """Each record with its image, which is read once for consecutive records of one frame of one path; what can no
    longer be read goes to `rejects`."""
    last, last_image = None, None
    for record in images:
        wanted = record["path"], frame_of(record["image_id"])
        if wanted != last:
            try:
                last_image = read_image(record["path"], limits, wanted[1])
            except ImageError as error:
                # It was readable when listed: it is gone, or has changed.
                rejects.append((record["path"], error.reason))
                last_image = None
            last = wanted
        if last_image is not None:
            yield record, last_image
