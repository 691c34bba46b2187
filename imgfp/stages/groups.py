# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebook 03: the groups of references that show the same picture, so that a library knows its own copies.

A picture that is in a library eleven times would silence its own keypoints: their eleventh neighbour is as near as
the first. A group therefore votes, and competes with others, as one picture; see `imgfp.search.voting`.

Copies are found by SHA-256, and by the search of a few keypoints of every reference among the earlier ones. What they
propose is verified as any pair is, and then compared at full resolution, because two forms of one printer share nearly
all keypoints. Nothing but format, size, quality, tone or handedness may differ: a copy with another text on it stays by itself.

The same comparison marks what two different references have in common: a form, a letterhead, a logo, the frame of an app.
What a query shares with a reference there tells little, see `imgfp.scoring.fusion`; in the search a keypoint that is as near
to more groups than it has neighbours has no vote, see `imgfp.search.voting`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import TABLES, table
from imgfp.images import ImageError
from imgfp.runner.cluster import ShardResult, Task, map_shards
from imgfp.scoring.fusion import OTHER_CONTENT, are_exact, are_rewritten
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
from imgfp.verify.differences import compare_blocks
from imgfp.verify.evidence import score_pair

#: Keypoints of a reference that are searched, and neighbours of each.
_SAMPLED, _NEIGHBOURS = 48, 16
#: Squared distance of RootSIFT bytes between keypoints of two copies.
_NEAR = 15_000
#: Share of the sampled keypoints that an earlier reference must have near, and references compared at most.
_MIN_SHARE, _COMPARED = 0.2, 4
#: Of a form that many references share, every keypoint has some of them near, and no reference is near many: neighbours
#: of different references that make a keypoint crowded. Two that share a part are enough to mark it.
_CROWDED, _SHARING = 8, 2
#: What two references must reach to be copies: the overlap's share of both, guided inliers, and the largest share of
#: blocks that differ at full resolution.
_MIN_AREA, _MIN_INLIERS, _MAX_DIFFERENT = 0.8, 20, 0.002

_LINK = [*TABLES["links"]]

IDENTICAL, SAME_PICTURE, SHARED_PART = "identical", "same picture", "shared part"


@dataclass(frozen=True)
class GroupReport:
    """Groups of references that show the same picture, references in them, and those of them whose file the library
    holds more than once; sharing: references that have a part in common with others, which show something else."""

    groups: int
    references: int
    identical: int
    sharing: int

    def __str__(self) -> str:
        text = "no two references show the same picture"
        if self.groups:
            text = (
                f"{self.references:,} references in {self.groups:,} groups show the same picture; {self.identical:,} "
                "of them are files that the library holds already"
            )
        return f"{text}; {self.sharing:,} share a form, a logo or a frame" if self.sharing else text


def group_copies(library: Library, *, cluster: str = "local", workers: int = 0) -> GroupReport:
    """Find which references of an indexed library show the same picture, and which have a part in common; save them as
    `groups` and `shared`. Those that are added later are searched; of the others only what was linked to one that has
    gone is searched again."""
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
    made: dict[Path, Callable[..., pd.DataFrame]] = {
        library.groups: groups_of,
        library.shared: shared_of,
    }
    if not all(store.is_current(p, _origin_of(made[p], library, tasks)) for p in made):
        # A reference that was linked to one which has gone may have other copies.
        catalogue = store.open_catalogue(library)
        for task in tasks:
            if (catalogue.rows_of(store.load(task.path)["other_id"].tolist()) < 0).any():
                store.remove(task.path)
        map_shards(find_links, tasks, {}, **where)
        links = table("links", pd.concat([store.load(task.path) for task in tasks]))
        is_part = links["relation"].eq(SHARED_PART)
        with store.lock(library.root):
            members = groups_of(library, links[~is_part])
            shared = shared_of(library, links[is_part], members)
            store.save(library.shared, shared, _origin_of(shared_of, library, tasks))
            store.save(library.groups, members, _origin_of(groups_of, library, tasks))
    groups = store.open_groups(library)
    identical = groups.members["relation"].eq(IDENTICAL).sum()
    sharing = len(store.open_shared(library))
    return GroupReport(len(groups), len(groups.members), int(identical), sharing)


def _origin_of(
    function: Callable[..., pd.DataFrame], library: Library, tasks: list[Task]
) -> store.Origin:
    paths = [*(task.path for task in tasks), library.catalogue]
    return store.origin(function, {}, [store.describe(path)["sha256"] for path in paths])


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
    one, and earlier ones that have a part in common with it: the table `links`."""
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
        near = _near_places(places, int(catalogue.places[row]))
        rows_near = np.searchsorted(catalogue.places, near)
        rows_near = rows_near[catalogue.places[rows_near] == near]  # the index may hold more
        links += compared.links(image_id, catalogue.ids_at(rows_near))
    return ShardResult(table("links", pd.DataFrame(links, columns=_LINK)))


def _near_places(places: np.ndarray, own: int) -> list[int]:
    """Places of the references that may show the same as the one at `own`, or have a part in common with it, most likely
    first; earlier ones, so that no pair is compared twice. places (s,k) int64: of the near neighbours of each sampled keypoint, -1: none."""
    of_each = [{*row} - {-1, own} for row in places.tolist()]
    counts = Counter(place for found in of_each for place in found if place < own)
    enough = max(4, _MIN_SHARE * len(places))
    order = sorted(counts, key=lambda place: (-counts[place], place))
    near = [place for place in order if counts[place] >= enough]
    if not near and sum(len(found) >= _CROWDED for found in of_each) >= enough:
        near = order[:_SHARING]
    return near


@store.produces("groups")
def groups_of(library: Library, links: pd.DataFrame) -> pd.DataFrame:
    """The table `groups` of a library, from its links: every member is a copy of the first, not only of another
    member, so that a row of pictures each of which is like the next is no group."""
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
        component = _components([end[kept] for end in linked], len(leader))[left]
        later = []
        for number in np.unique(component):
            head, *members = left[component == number].tolist()
            names = catalogue.ids_at(first_of[[head, *members]])
            for name, member in zip(names[1:], members, strict=True):
                if (head, member) in directly or compared.are_copies(name, names[0]):
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


@store.produces("shared")
def shared_of(library: Library, links: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """The table `shared` of a library, from its links of shared parts. groups: its table `groups`; what two members of one
    have in common is not shared."""
    catalogue = store.open_catalogue(library)
    leader = dict(zip(groups["image_id"], groups["group_id"], strict=True))
    ends = [links[name].map(lambda one: leader.get(one, one)) for name in ("image_id", "other_id")]
    known = ends[0].ne(ends[1]).to_numpy()
    for name in ("image_id", "other_id"):
        known = known & (catalogue.rows_of(links[name].tolist()) >= 0)
    links, ends = links[known], [end[known] for end in ends]
    numbers, names = pd.factorize(pd.concat(ends))
    component = _components(numbers.reshape(2, -1), len(names))
    sizes = groups["group_id"].value_counts().reindex(names, fill_value=1).to_numpy()
    total = np.bincount(component, sizes, minlength=1).astype(np.int64)
    others = dict(zip(names, total[component] - sizes, strict=True))
    sides = [("image_id", "image_part"), ("other_id", "other_part")]
    parts = pd.concat(
        pd.DataFrame({"image_id": links[name], "part": links[part]}) for name, part in sides
    )
    merged = parts.groupby("image_id")["part"].agg(_union).reset_index()
    references = [others[leader.get(one, one)] for one in merged["image_id"]]
    return table("shared", merged.assign(references=references))


def _components(edges: Sequence[np.ndarray] | np.ndarray, count: int) -> np.ndarray:
    """The connected component (count,) of each node; edges: the nodes (n,) of either end."""
    from scipy.sparse import coo_array  # a look-up does not wait for them
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(edges[0])), tuple(edges)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _union(parts: pd.Series) -> str:
    return store.part_of(np.any([store.cells_of(part) for part in parts], axis=0))


class _Comparison:
    """What references of a library have in common."""

    def __init__(self, library: Library) -> None:
        self._library, self._catalogue = library, store.open_catalogue(library)
        self._views = ViewReader(library, frame_short_side_px(library))
        self._classifier = load_classifier("")

    def links(self, image_id: str, others: list[str]) -> list[tuple[str, ...]]:
        """Rows of the table `links` that begin with a reference: those of the others that have a part in common with it, until
        one shows the same picture."""
        if not others:
            return []
        digest, *digests = self._catalogue.digests_of([image_id, *others])
        if digest in digests:
            return [(image_id, others[digests.index(digest)], IDENTICAL, "", "")]
        found = []
        distinct = [o for at, o in enumerate(others) if digests[at] not in digests[:at]]
        for other in distinct[:_COMPARED]:
            relation, *parts = self._relation(image_id, other)
            if relation:
                found.append((image_id, other, relation, *parts))
            if relation == SAME_PICTURE or len(found) == _SHARING:
                break
        return found

    def are_copies(self, image_id: str, other: str) -> bool:
        """Whether two references show the same picture."""
        return any(link[2] != SHARED_PART for link in self.links(image_id, [other]))

    def _relation(self, image_id: str, other: str) -> tuple[str, str, str]:
        """How two references are related, "" where they are not, and the part of each that they share, as of links."""
        nothing = "", "", ""
        views = self._views.read({name: name for name in (image_id, other)})
        row = score_pair(views[image_id], views[other], classifier=self._classifier)
        if row["refused"] or row["guided_inliers"] < _MIN_INLIERS:
            return nothing
        with suppress(ImageError):  # what cannot be looked at has nothing in common
            sides = full_grey(self._library, image_id), full_grey(self._library, other)
            blocks = compare_blocks(Alignment(*sides, homography_of_row(row)))
            if blocks is None:
                return nothing
            differences = blocks.count()
            whole = min(row["query_area"], row["reference_area"]) >= _MIN_AREA
            if whole and differences.share <= _MAX_DIFFERENT:
                return SAME_PICTURE, "", ""
            differ = differences.share > OTHER_CONTENT or are_rewritten(row | differences.columns)
            if differ and are_exact(row):
                sizes = [(side.shape[1], side.shape[0]) for side in sides]
                own, others = blocks.shared_cells(*sizes)
                if own.any() and others.any():
                    return SHARED_PART, store.part_of(own), store.part_of(others)
        return nothing
