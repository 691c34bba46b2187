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
    other, of `scoring.relations`, or SAME_PICTURE), score (NaN for the latter), query_id and reference_id (the same two
    as the run has compared them; query_id "" where that image is no query), group.
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
    """The verified pairs, each once: `Duplicates.links` without `group`."""
    run, library = results.run, results.library
    own = own_pairs(run, library).drop_duplicates("query_id").set_index("query_id")["reference_id"]
    own = own.map(file_of)
    same = identical_pairs(run, library).assign(relation=IDENTICAL, score=1.0)
    scored = results.pairs[results.pairs["score"].ge(results.threshold)]
    found = pd.concat([same, scored[["query_id", "reference_id", "relation", "score"]]])
    # A query may have another id as a reference.
    found = found.assign(image_id=found["query_id"].map(own), other_id=found["reference_id"])
    members = results.groups.members
    grouped = pd.DataFrame({"image_id": members["image_id"], "other_id": members["group_id"]})
    grouped = grouped.map(file_of).assign(relation=SAME_PICTURE, score=np.nan)
    query_of = pd.Series(own.index, own.to_numpy()).groupby(level=0).first()
    grouped["query_id"] = grouped["image_id"].map(query_of).fillna("")
    found = pd.concat([found, grouped.assign(reference_id=grouped["other_id"])])
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
    facts = pd.DataFrame({"image_id": names, "component": group}).astype({"image_id": "str"})
    for column in ("width", "height", "file_bytes"):
        facts[column] = read_column(library, names, column)
    facts["path"] = resolved_paths(library, names)
    first = _first_of_each(facts, links)
    facts["group"] = facts["component"].map(pd.Series(range(1, len(first) + 1), first["component"]))
    # All first pictures hang on one more node, so that one walk reaches every group.
    tree, root = tree.tocoo(), len(ids)
    data = np.concatenate([tree.data, np.ones(len(first))])
    ends = np.append(tree.row, np.full(len(first), root)), np.append(tree.col, first.index)
    joined = coo_array((data, ends), shape=(root + 1,) * 2).tocsr()
    reached, before = breadth_first_order(joined, root, directed=False)
    facts = facts.iloc[reached[1:]]
    facts["linked_to"] = np.append(ids, "")[before[reached[1:]]]
    columns = [*_PAIR, "relation", "score"]
    turned = links.rename(columns=dict(zip(_PAIR, _PAIR[::-1], strict=True)))
    turned["relation"] = turned["relation"].replace(_TURNED)
    told = pd.concat([links[columns], turned[columns]])
    told = told.rename(columns={"other_id": "linked_to"})
    facts = facts.merge(told, "left", on=["image_id", "linked_to"])
    facts = facts.sort_values("group", kind="stable", ignore_index=True)
    scored = facts.dropna(subset=["score"]).sort_values(["group", "score"], kind="stable")
    facts["weakest"] = facts.index.isin(scored.drop_duplicates("group").index)
    facts["relation"] = facts["relation"].fillna("")
    columns = ["group", "image_id", "path", "width", "height", "file_bytes"]
    return facts[[*columns, "linked_to", "relation", "score", "weakest", "component"]]


def _first_of_each(facts: pd.DataFrame, links: pd.DataFrame) -> pd.DataFrame:
    """The first picture of each component, of the largest first: one that no other contains, with most pixels."""
    parts = links.loc[links["relation"].eq(PART), "image_id"].tolist()
    parts += links.loc[links["relation"].eq(CONTAINS), "other_id"].tolist()
    ordered = facts.assign(
        part=facts["image_id"].isin(parts),
        pixels=-facts["width"] * facts["height"],
        spared=-facts["file_bytes"],
        smaller=-facts.groupby("component")["component"].transform("size"),
    ).sort_values(["component", "part", "pixels", "spared", "image_id"])
    return ordered.drop_duplicates("component").sort_values(["smaller", "image_id"])
