# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebook 03: the groups of references that show the same picture, so that a library knows its own copies.

A picture that is in a library eleven times would silence its own keypoints: their eleventh neighbour is as near as
the first. A group therefore votes, and competes with others, as one picture; see `imgfp.search.voting`.

Copies are found by SHA-256, and by the search of a few keypoints of every reference among the earlier ones. What they
propose is verified as any pair is, and then compared at full resolution, because two forms of one printer share nearly
all keypoints. Nothing but format, size, quality, tone or handedness may differ: a copy with another text on it stays by itself.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import table
from imgfp.images import ImageError
from imgfp.runner.cluster import ShardResult, Task, map_shards
from imgfp.search import index
from imgfp.stages.identical import own_pairs
from imgfp.stages.index import open_index
from imgfp.stages.verification import (
    ViewReader,
    frame_short_side_px,
    full_grey,
    homography_of_row,
)
from imgfp.store import Library, Run
from imgfp.verify.classifier import load_classifier
from imgfp.verify.correlation import Alignment
from imgfp.verify.differences import find_differences
from imgfp.verify.evidence import score_pair

#: Keypoints of a reference that are searched, and neighbours of each.
_SAMPLED, _NEIGHBOURS = 48, 16
#: Squared distance of RootSIFT bytes between keypoints of two copies.
_NEAR = 15_000
#: Share of the sampled keypoints that an earlier reference must have near, and references compared at most.
_MIN_SHARE, _COMPARED = 0.2, 4
#: What two references must reach to be copies: the overlap's share of both, guided inliers, and the largest share of
#: blocks that differ at full resolution.
_MIN_AREA, _MIN_INLIERS, _MAX_DIFFERENT = 0.8, 20, 0.002

IDENTICAL, SAME_PICTURE = "identical", "same picture"


@dataclass(frozen=True)
class GroupReport:
    """Groups of references that show the same picture, references in them, and those of them whose file the library
    holds more than once."""

    groups: int
    references: int
    identical: int

    def __str__(self) -> str:
        if not self.groups:
            return "no two references show the same picture"
        return (
            f"{self.references:,} references in {self.groups:,} groups show the same picture; {self.identical:,} "
            "of them are files that the library holds already"
        )


def group_copies(library: Library, *, cluster: str = "local", workers: int = 0) -> GroupReport:
    """Find which references of an indexed library show the same picture, and save them as `groups`. Those that
    are added later are searched; of the others only what had a copy that has gone is searched again."""
    trained = store.describe(library.index("local").trained)["sha256"]
    tasks = [
        Task(
            library.links / f"{path.stem}.parquet",
            (store.describe(path)["sha256"], trained),
            {"library": library, "features": path},
            store.describe(path)["items"],
        )
        for path in store.shards(library.local_features, ".h5")
    ]
    where: dict[str, Any] = {"cluster": cluster, "workers": workers, "lock_dir": library.root}
    where |= {"title": "copies among references", "output_dir": library.links}
    map_shards(find_links, tasks, {}, **where)
    if not store.is_current(library.groups, _grouping(library, tasks)):
        # A reference that was linked to one which has gone may have other copies.
        catalogue = store.open_catalogue(library)
        for task in tasks:
            if (catalogue.rows_of(store.load(task.path)["other_id"].tolist()) < 0).any():
                store.remove(task.path)
        map_shards(find_links, tasks, {}, **where)
        links = table("links", pd.concat([store.load(task.path) for task in tasks]))
        with store.lock(library.root):
            store.save(library.groups, groups_of(library, links), _grouping(library, tasks))
    groups = store.open_groups(library)
    identical = groups.members["relation"].eq(IDENTICAL).sum()
    return GroupReport(len(groups), len(groups.members), int(identical))


def _grouping(library: Library, tasks: list[Task]) -> store.Origin:
    paths = [*(task.path for task in tasks), library.catalogue]
    return store.origin(groups_of, {}, [store.describe(path)["sha256"] for path in paths])


def name_copies(predictions: pd.DataFrame, run: Run, library: Library) -> pd.DataFrame:
    """Predictions with `other_copies`: the other references of the same group, as a JSON list; "" without any. The file
    of the query itself is none."""
    groups, own = store.open_groups(library), {*own_pairs(run, library).itertuples(index=False)}
    named = []
    for query_id, reference_id in predictions[["query_id", "reference_id"]].itertuples(index=False):
        others = [other for other in groups.others(reference_id) if (query_id, other) not in own]
        named.append(json.dumps(others) if others else "")
    return predictions.assign(other_copies=named)


@store.produces("links")
def find_links(library: Library, features: Path) -> ShardResult:
    """For each reference of a shard an earlier one that shows the same picture, if the search of its keypoints finds
    one: the table `links`."""
    catalogue, compared = store.open_catalogue(library), _Comparison(library)
    searched = open_index(library, "local").index
    record = store.load(features)
    links = []
    rows = catalogue.rows_of(record.image_ids.tolist())  # -1: masked
    for image_id, row in zip(record.image_ids.tolist(), rows.tolist(), strict=True):
        descriptors = record.of(image_id)[1]
        if row < 0 or not len(descriptors):
            continue
        at = np.unique(np.linspace(0, len(descriptors) - 1, _SAMPLED).astype(int))
        distances, ids = index.search(searched, descriptors[at], _NEIGHBOURS)
        places = np.where(distances < _NEAR, index.places_of(ids), -1)
        counts = Counter(place for of_one in places.tolist() for place in {*of_one})
        enough = max(4, _MIN_SHARE * len(at))
        # Earlier ones, so that no pair is compared twice.
        earlier = range(catalogue.places[row])
        near = sorted(p for p, count in counts.items() if p in earlier and count >= enough)
        rows_near = np.searchsorted(catalogue.places, near)
        rows_near = rows_near[catalogue.places[rows_near] == near]  # the index may hold more
        others = catalogue.ids_at(rows_near)
        found = compared.first_copy(image_id, others)
        if found:
            links.append((image_id, *found))
    return ShardResult(
        table("links", pd.DataFrame(links, columns=["image_id", "other_id", "relation"]))
    )


@store.produces("groups")
def groups_of(library: Library, links: pd.DataFrame) -> pd.DataFrame:
    """The table `groups` of a library, from its links: every member is a copy of the first, not only of another
    member, so that a row of pictures each of which is like the next is no group."""
    from scipy.sparse import coo_array  # a look-up does not wait for them
    from scipy.sparse.csgraph import connected_components

    catalogue, compared = store.open_catalogue(library), _Comparison(library)
    digests = catalogue.digests.dictionary_encode().indices.to_numpy()
    # The first row of each file: the digests are numbered in the order of the rows.
    first_of = np.unique(digests, return_index=True)[1]
    ends = [catalogue.rows_of(links[name].tolist()) for name in ("image_id", "other_id")]
    linked = [digests[end[(ends[0] >= 0) & (ends[1] >= 0)]] for end in ends]
    directly = {*zip(*(end.tolist() for end in linked), strict=True)}
    directly |= {(b, a) for a, b in directly}
    leader = np.arange(len(first_of))
    left = np.unique(np.concatenate(linked))
    while len(left):
        kept = np.isin(linked[0], left) & np.isin(linked[1], left)
        edges = [end[kept] for end in linked]
        graph = coo_array((np.ones(len(edges[0])), edges), shape=(len(leader),) * 2)
        component = connected_components(graph, directed=False)[1][left]
        later = []
        for number in np.unique(component):
            head, *members = left[component == number].tolist()
            names = catalogue.ids_at(first_of[[head, *members]])
            for name, member in zip(names[1:], members, strict=True):
                if (head, member) in directly or compared.first_copy(name, names[:1]):
                    leader[member] = head
                else:
                    later.append(member)
        left = np.array(later, np.int64)
    leaders = first_of[leader[digests]]
    sizes = np.bincount(leaders, minlength=len(leaders))
    rows = np.flatnonzero(sizes[leaders] > 1)
    same = rows != first_of[digests[rows]]
    relation = np.where(same, IDENTICAL, np.where(leaders[rows] == rows, "", SAME_PICTURE))
    return table(
        "groups",
        pd.DataFrame(
            {
                "image_id": catalogue.ids_at(rows),
                "group_id": catalogue.ids_at(leaders[rows]),
                "relation": relation,
            }
        ),
    )


class _Comparison:
    """Whether references of a library show the same picture."""

    def __init__(self, library: Library) -> None:
        self._library, self._catalogue = library, store.open_catalogue(library)
        self._views = ViewReader(library, frame_short_side_px(library))
        self._classifier = load_classifier("")

    def first_copy(self, image_id: str, others: list[str]) -> tuple[str, str] | None:
        """The first of some references that shows the same picture, and how they are related."""
        if not others:
            return None
        digest, *digests = self._catalogue.digests_of([image_id, *others])
        if digest in digests:
            return others[digests.index(digest)], IDENTICAL
        distinct = [o for at, o in enumerate(others) if digests[at] not in digests[:at]]
        for other in distinct[:_COMPARED]:
            if self._are_copies(image_id, other):
                return other, SAME_PICTURE
        return None

    def _are_copies(self, image_id: str, other: str) -> bool:
        views = self._views.read({name: name for name in (image_id, other)})
        row = score_pair(views[image_id], views[other], classifier=self._classifier)
        areas = row["query_area"], row["reference_area"]
        if row["refused"] or min(areas) < _MIN_AREA or row["guided_inliers"] < _MIN_INLIERS:
            return False
        with suppress(ImageError):  # what cannot be looked at is no copy
            sides = full_grey(self._library, image_id), full_grey(self._library, other)
            alignment = Alignment(*sides, homography_of_row(row))
            return find_differences(alignment).share <= _MAX_DIFFERENT
        return False
