# SPDX-License-Identifier: AGPL-3.0-or-later
"""Duplicates inside one folder: pictures that a search of a folder in itself has found to be copies, in groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import (
    breadth_first_order,
    connected_components,
    minimum_spanning_tree,
)

from imgfp import store
from imgfp.datatypes import file_of
from imgfp.results import Results
from imgfp.scoring.relations import CONTAINS, IDENTICAL, PART
from imgfp.stages.identical import identical_pairs, own_pairs
from imgfp.stages.inventory import read_column, resolved_paths

#: Relation of two references that the library itself knows as one picture, see `stages.groups`; it has no score.
SAME_PICTURE = "same picture"
#: What the other image of a pair is to the first, where that differs.
_TURNED = {PART: CONTAINS, CONTAINS: PART}
_PAIR = ["image_id", "other_id"]


@dataclass(frozen=True)
class Duplicates:
    """The pictures of a folder that are copies of each other.

    links: one row per pair that was verified, each pair once: image_id, other_id, relation (what the image is to the
    other, of `scoring.relations`, or SAME_PICTURE), score (NaN for the latter), group.
    members: one row per picture of a group, the groups numbered from 1, the largest first: group, image_id, path,
    width, height, file_bytes, linked_to, relation, score, weakest. The first picture of a group is the one that no
    other contains, and of several the one with most pixels; every other is `linked_to` one before it by its best chain
    of links. weakest: the link of this row is the one that would split the group first.
    """

    links: pd.DataFrame
    members: pd.DataFrame

    def __len__(self) -> int:
        """Number of groups."""
        return int(self.members["group"].max()) if len(self.members) else 0

    def __str__(self) -> str:
        if not len(self):
            return "No picture of this folder is a copy of another"
        spare = len(self.members) - len(self)
        bytes_ = self.members.loc[self.members["linked_to"].ne(""), "file_bytes"].sum()
        return (
            f"{len(self.members):,} pictures in {len(self):,} groups are copies of each other; {spare:,} files, "
            f"{bytes_ / 1e6:,.1f} MB, are left when one of each group is kept"
        )


def is_self_search(results: Results) -> bool:
    """Whether every query of a run is itself a reference, as where a folder is searched in itself."""
    return 0 < results.own_queries == len(results.queries)


def find_duplicates(results: Results) -> Duplicates:
    """The duplicates of a run that has searched a folder in itself. Raises StoreError for another run, and for one without
    a threshold."""
    if not is_self_search(results):
        raise store.StoreError(
            f"{store.show(results.run.root)} has not searched a folder in itself; imgfp duplicates DIR does"
        )
    if results.threshold is None:
        raise store.StoreError(
            f"{store.show(results.run.root)} has no threshold; set score_threshold"
        )
    links = _links(results)
    ids = np.unique(links[_PAIR].to_numpy(str))
    numbers = pd.Series(np.arange(len(ids)), ids)
    ends = tuple(numbers[links[name]].to_numpy() for name in _PAIR)
    # The heaviest link costs least; none costs 0, which would be no link.
    costs = 2 - links["score"].fillna(1).clip(0, 1).to_numpy()
    graph = coo_array((costs, ends), shape=(len(ids),) * 2).tocsr()
    group = connected_components(graph, directed=False)[1] if len(ids) else np.empty(0, np.int64)
    links["group"] = group[ends[0]]
    members = _members(results, links, minimum_spanning_tree(graph), ids, group)
    renumbered = members.drop_duplicates("component").set_index("component")["group"]
    links["group"] = links["group"].map(renumbered)
    order = ["group", "score", *_PAIR]
    links = links.sort_values(order, ascending=[True, False, True, True], ignore_index=True)
    return Duplicates(links, members.drop(columns="component"))


def _links(results: Results) -> pd.DataFrame:
    """The verified pairs, each once: image_id, other_id, relation, score."""
    run, library = results.run, results.library
    own = own_pairs(run, library).drop_duplicates("query_id").set_index("query_id")["reference_id"]
    own = own.map(file_of)
    names = {"query_id": "image_id", "reference_id": "other_id"}
    same = identical_pairs(run, library).rename(columns=names).assign(relation=IDENTICAL, score=1.0)
    scored = results.pairs[results.pairs["score"].ge(results.threshold)].rename(columns=names)
    found = pd.concat([same, scored[[*_PAIR, "relation", "score"]]])
    found["image_id"] = found["image_id"].map(own)  # a query may have another id as a reference
    members = results.groups.members
    grouped = pd.DataFrame({"image_id": members["image_id"], "other_id": members["group_id"]})
    found = pd.concat([found, grouped.map(file_of).assign(relation=SAME_PICTURE, score=np.nan)])
    turned = found["image_id"] > found["other_id"]
    found.loc[turned, _PAIR] = found.loc[turned, _PAIR[::-1]].to_numpy()
    found.loc[turned, "relation"] = found.loc[turned, "relation"].replace(_TURNED)
    found = found[found["image_id"] != found["other_id"]]
    # Of a pair that was found twice, the sounder answer; the same bytes before all.
    found["first"] = found["relation"].ne(IDENTICAL)
    found = found.sort_values(
        [*_PAIR, "first", "score"], ascending=[True, True, True, False], kind="stable"
    )
    return found.drop_duplicates(_PAIR).drop(columns="first").reset_index(drop=True)


def _members(
    results: Results, links: pd.DataFrame, tree: coo_array, ids: np.ndarray, group: np.ndarray
) -> pd.DataFrame:
    """`Duplicates.members`, with the number of the `component` (n,) that each of the ids (n,) is in."""
    library, names = results.library, ids.tolist()
    facts = pd.DataFrame({"image_id": names, "component": group})
    for column in ("width", "height", "file_bytes"):
        facts[column] = read_column(library, names, column)
    facts["path"] = resolved_paths(library, names)
    parts = links.loc[links["relation"].eq(PART), "image_id"].tolist()
    parts += links.loc[links["relation"].eq(CONTAINS), "other_id"].tolist()
    facts["part"] = facts["image_id"].isin(parts)
    facts["pixels"] = facts["width"] * facts["height"]
    facts["count"] = facts.groupby("component")["component"].transform("size")
    order = ["component", "part", "pixels", "file_bytes", "image_id"]
    first = facts.sort_values(order, ascending=[True, True, False, False, True]).drop_duplicates(
        "component"
    )
    first = first.sort_values(["count", "image_id"], ascending=[False, True])
    columns = [*_PAIR, "relation", "score"]
    known = {(one, other): told for one, other, *told in links[columns].itertuples(index=False)}
    rows = []
    for number, root in enumerate(first.index, 1):
        reached, before = breadth_first_order(tree, root, directed=False)
        linked = [("", "", np.nan)]
        for row in reached[1:]:
            linked.append(_linked(known, names[row], names[before[row]]))
        of_group = facts.loc[reached].assign(group=number, weakest=False)
        of_group[["linked_to", "relation", "score"]] = linked
        if of_group["score"].notna().any():
            of_group.loc[of_group["score"].astype(float).idxmin(), "weakest"] = True
        rows.append(of_group)
    dtypes = {
        "group": "int64",
        "image_id": "str",
        "path": "str",
        "width": "int64",
        "height": "int64",
    }
    dtypes |= {"file_bytes": "int64", "linked_to": "str", "relation": "str", "score": "float64"}
    dtypes |= {"weakest": "bool", "component": "int64"}
    every = pd.concat(rows) if rows else pd.DataFrame(columns=list(dtypes))
    return every[list(dtypes)].astype(dtypes).reset_index(drop=True)


def _linked(
    known: dict[tuple[str, str], list], image_id: str, other_id: str
) -> tuple[str, str, float]:
    """What a picture is linked to, what it is to it, and the score of the link."""
    if (image_id, other_id) in known:
        return other_id, *known[image_id, other_id]
    relation, score = known[other_id, image_id]
    return other_id, _TURNED.get(relation, relation), score
