# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which references of a library show the same picture, by id and by place, and which have a part in common."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import pandas as pd

from imgfp.datatypes import file_of, files_of, table
from imgfp.store.artefacts import describe, load
from imgfp.store.catalogue import Catalogue, open_catalogue
from imgfp.store.layout import Library


class Groups:
    """Groups of at least two references each. A group is named after one of its members.

    members: image_id, group_id, relation (`groups` table); places (m,) int64, ascending, and group_places (m,) of
    the members in the library, see `catalogue.place_of`.
    """

    def __init__(self, members: pd.DataFrame, catalogue: Catalogue) -> None:
        # Some may have left the library since.
        rows = catalogue.rows_of(members["image_id"].tolist())
        known = members.assign(place=catalogue.places[rows])[rows >= 0].sort_values("place")
        known = known[known.duplicated("group_id", keep=False)]
        known["group_place"] = known.groupby("group_id")["place"].transform("min")
        self.members = known[["image_id", "group_id", "relation"]].reset_index(drop=True)
        self.places, self._group_places = known["place"].to_numpy(), known["group_place"].to_numpy()
        self.largest = int(known["group_id"].value_counts().max()) if len(known) else 1
        self._group_of = dict(zip(known["image_id"], known["group_id"], strict=True))
        known["file_id"] = files_of(known["image_id"])
        self._members = known.groupby("group_id")["file_id"].agg(list).to_dict()
        self._groups_of = known.groupby("file_id")["group_id"].agg(list).to_dict()

    def __len__(self) -> int:
        return len(self._members)

    def of_places(self, places: np.ndarray) -> np.ndarray:
        """Place of the first member of the group that holds each place; the place itself where none does."""
        places = np.asarray(places)
        if not len(self.places):
            return places
        at = np.minimum(np.searchsorted(self.places, places), len(self.places) - 1)
        return np.where(self.places[at] == places, self._group_places[at], places)

    def of_ids(self, ids: pd.Series) -> pd.Series:
        """Name of the group of each image; its own id where it is in none."""
        return ids.map(lambda one: self._group_of.get(one, one)).astype("str")

    def others(self, image_id: str) -> list[str]:
        """The other members of an image's group, in the order of the library: files, by any of their frames."""
        file_id = file_of(image_id)
        groups = self._groups_of.get(file_id, [])
        members = dict.fromkeys(other for group in groups for other in self._members[group])
        return [other for other in members if other != file_id]


def open_groups(library: Library) -> Groups:
    """The groups of a library, opened once while it does not change; none before notebook 03."""
    catalogue = library.catalogue
    return _opened(
        library, *(describe(p)["sha256"] if p.exists() else "" for p in (library.groups, catalogue))
    )


@lru_cache(maxsize=4)
def _opened(library: Library, *digests: str) -> Groups:
    members = load(library.groups) if library.groups.exists() else table("groups")
    return Groups(members, open_catalogue(library))


class Shared:
    """Parts of references that other references, no copies of them, share: forms, letterheads, logos, frames.

    rows: the `shared` table. A part is a grid of square cells over the picture, (n,n) bool, as a hexadecimal number of its
    bits row by row.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = rows
        self._row_of = {image_id: at for at, image_id in enumerate(rows["image_id"])}

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, image_id: str) -> tuple[np.ndarray, int] | None:
        """The part of a reference, (n,n) bool, and how many references share it; None where none do."""
        at = self._row_of.get(image_id)
        if at is None:
            return None
        row = self.rows.iloc[at]
        return cells_of(row["part"]), int(row["references"])


def cells_of(part: str) -> np.ndarray:
    """The cells (n,n) bool of a part."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(part), np.uint8))
    side = math.isqrt(len(bits))
    return bits.reshape(side, side).astype(bool)


def part_of(cells: np.ndarray) -> str:
    """A part from its cells (n,n) bool, n a multiple of 4."""
    return np.packbits(cells).tobytes().hex()


def open_shared(library: Library) -> Shared:
    """The shared parts of a library, opened once while it does not change; none before notebook 03."""
    if not library.shared.exists():
        return Shared(table("shared"))
    return _opened_shared(library, describe(library.shared)["sha256"])


@lru_cache(maxsize=4)
def _opened_shared(library: Library, digest: str) -> Shared:
    return Shared(load(library.shared))
