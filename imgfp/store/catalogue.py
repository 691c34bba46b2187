# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where every image of a library or run is stored, by id and by place: one table that lies in a mapped file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from imgfp.datatypes import frame_of
from imgfp.store.artefacts import describe, digest_of, load, shards
from imgfp.store.layout import Collection

#: Bits of a place that number the rows of one image shard; the others number the shards.
ROW_BITS = 18


class Catalogue:
    """The readable images of a collection, in the order of their places.

    `places` and `digests` are columns: the place and the SHA-256 of the file of each image. A place is the int64 number of a row of an image shard, see `place_of`. Columns are views into a file that
    all processes map, so that opening a catalogue of a million images costs nothing.
    """

    def __init__(self, table: pa.Table) -> None:
        self.places = _column(table, "place").to_numpy()
        self._ids = _column(table, "image_id")
        self._sizes = [_column(table, name).to_numpy() for name in ("width", "height")]
        self.digests = _column(table, "sha256")
        self._hashes = _column(table, "id_hash").to_numpy()
        self._rows = _column(table, "id_row").to_numpy()

    def __len__(self) -> int:
        return len(self.places)

    def frame_ids(self) -> list[str]:
        """Ids of the images that are further frames of a file."""
        marked = self._ids.filter(pc.match_substring(self._ids, "#frame="))
        return [image_id for image_id in marked.to_pylist() if frame_of(image_id)]

    def count_files(self) -> int:
        """Number of files that these are the images of."""
        return len(self) - len(self.frame_ids())

    def __contains__(self, image_id: str) -> bool:
        return bool(self.rows_of([image_id])[0] >= 0)

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Row of each image in this catalogue, int64, -1 for an id that it does not hold."""
        wanted = _hashes(ids)
        rows = np.full(len(wanted), -1, np.int64)
        at = np.searchsorted(self._hashes, wanted)
        open_ = np.flatnonzero(at < len(self._hashes))
        while len(open_):  # a second round only for ids of equal hash
            open_ = open_[self._hashes[at[open_]] == wanted[open_]]
            found = self._rows[at[open_]].astype(np.int64)
            same = self._ids.take(pa.array(found)).to_pylist() if len(found) else []
            equal = np.array([ids[i] == name for i, name in zip(open_, same, strict=True)], bool)
            rows[open_[equal]] = found[equal]
            open_ = open_[~equal]
            at[open_] += 1
            open_ = open_[at[open_] < len(self._hashes)]
        return rows

    def known_rows(self, ids: Sequence[str]) -> np.ndarray:
        """`rows_of`, but raises KeyError naming the first id that the catalogue does not hold."""
        rows = self.rows_of(ids)
        if (rows < 0).any():
            raise KeyError(ids[int(np.argmax(rows < 0))])
        return rows

    def places_of(self, ids: Sequence[str]) -> np.ndarray:
        """Place of each image, int64. Raises KeyError for an unknown id."""
        return self.places[self.known_rows(ids)]

    def sizes_of(self, ids: Sequence[str]) -> np.ndarray:
        """Width and height (n,2) int64 of each image. Raises KeyError for an unknown id."""
        rows = self.known_rows(ids)
        return np.stack([side[rows] for side in self._sizes], 1).astype(np.int64)

    def digests_of(self, ids: Sequence[str]) -> list[str]:
        """SHA-256 of the file of each image. Raises KeyError for an unknown id."""
        return self.digests.take(pa.array(self.known_rows(ids))).to_pylist()

    def rows_with(self, digests: pa.Array) -> np.ndarray:
        """Rows of the images whose file has one of these SHA-256, int64."""
        return np.flatnonzero(pc.is_in(self.digests, value_set=digests))

    def ids_at(self, rows: np.ndarray) -> list[str]:
        """Ids of the images in some rows."""
        return self._ids.take(pa.array(rows)).to_pylist()


def open_catalogue(collection: Collection) -> Catalogue:
    """The catalogue of a library or run, opened once while it does not change.

    A folder that an earlier version has made has none: it is put together from its image shards.
    """
    path = collection.catalogue
    if path.exists():
        return _opened(path, describe(path)["sha256"])
    return _from_shards(collection, digest_of(collection.images, ["*"]))


@lru_cache(maxsize=4)
def _opened(path: Path, digest: str) -> Catalogue:
    return Catalogue(load(path))


@lru_cache(maxsize=4)
def _from_shards(collection: Collection, digest: str) -> Catalogue:
    columns = ["image_id", "width", "height", "sha256", "reason"]
    parts = []
    for path in shards(collection.images, ".parquet"):
        rows = load(path, columns)
        rows["place"] = place_of(shard_number(path), np.arange(len(rows)))
        parts.append(rows[rows["reason"] == ""])
    made = catalogue_table(pd.concat(parts) if parts else pd.DataFrame(columns=[*columns, "place"]))
    return Catalogue(pa.Table.from_pandas(made, preserve_index=False).combine_chunks())


def catalogue_table(images: pd.DataFrame) -> pd.DataFrame:
    """The table of a catalogue from the place, image_id, width, height and sha256 of each image."""
    columns = ["place", "image_id", "width", "height", "sha256"]
    made = images.sort_values("place", kind="stable")[columns].reset_index(drop=True)
    hashes = _hashes(made["image_id"].tolist())
    order = np.argsort(hashes, kind="stable")
    return made.assign(id_hash=hashes[order], id_row=order.astype(np.int32)).astype(
        {"place": "int64", "image_id": "str", "width": "int32", "height": "int32", "sha256": "str"}
    )


def place_of(shard: int, rows: np.ndarray) -> np.ndarray:
    """Places of rows of an image shard. Raises ValueError for a row that a place cannot number."""
    rows = np.asarray(rows, np.int64)
    if rows.size and rows.max() >= 1 << ROW_BITS:
        raise ValueError(
            f"shard {shard} has {rows.max() + 1:,} images; at most {1 << ROW_BITS:,} fit"
        )
    return (shard << ROW_BITS) | rows


def shard_and_row(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the image shard of each place, and the row there."""
    places = np.asarray(places, np.int64)
    return places >> ROW_BITS, places & ((1 << ROW_BITS) - 1)


def shard_number(path: Path) -> int:
    """The number in the name of a shard."""
    return int(path.name.split(".")[0].rpartition("-")[2])


def shard_name(number: int) -> str:
    """The name that all artefacts of a shard have, without suffix."""
    return f"shard-{number:05d}"


def _hashes(ids: Iterable[str]) -> np.ndarray:
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(b"".join(digests), "<u8")


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)
