# SPDX-License-Identifier: AGPL-3.0-or-later
"""Candidate references of a query, from its keypoints or its global vectors.

Pure functions on arrays. The stages that search a library and the calibration of scores both call them, so
that a score is fitted on the candidates that a run produces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from imgfp import sift
from imgfp.search import index, voting
from imgfp.search.normalisation import background_similarity, best_over_views, normalise_scores

#: Variants of a query's descriptors that can be searched.
DESCRIPTOR_VARIANTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": lambda descriptors: descriptors,
    "mirrored": sift.mirror_descriptors,
    "contrast_reversed": sift.reverse_contrast,
}

#: Votes of a variant's first reference that leave the variants after it uncounted: a query is not both plain and
#: mirrored.
DECISIVE_VOTES = 40

#: Copies of one picture, in one library, beyond which its neighbours may be all of one group.
MOST_COPIES = 64

#: Results of `index.search`: squared_distances (q,k) float32, ids (q,k) int64.
Neighbours = tuple[np.ndarray, np.ndarray]


class Copies(Protocol):
    """Groups of references that show the same picture: `store.groups.Groups`. `largest`: members of the largest."""

    largest: int

    def of_places(self, places: np.ndarray) -> np.ndarray:
        """Place of the first member of the group that holds each place."""


def searched_for(neighbours: int, copies: Copies | None) -> int:
    """Neighbours to search for, so that `neighbours` remain where copies count as one picture."""
    return neighbours + min(copies.largest - 1, MOST_COPIES) if copies else neighbours


def one_of_each_group(found: Neighbours, neighbours: int, copies: Copies | None) -> Neighbours:
    """The nearest of what a search for `searched_for` has found, where copies count as one picture."""
    if copies is None:
        return found
    distances, ids = found
    places = index.places_of(ids)
    columns = voting.one_member_of_each_group(places, copies.of_places(places), neighbours)
    absent = columns < 0
    distances, ids = (np.take_along_axis(array, columns, 1) for array in (distances, ids))
    return np.where(absent, np.float32(np.inf), distances), np.where(absent, -1, ids)


def nearest_keypoints(
    searched: index.Index,
    descriptors: np.ndarray,
    *,
    variants: Sequence[str],
    neighbours: int,
    nprobe: int,
    copies: Copies | None = None,
) -> dict[str, Neighbours]:
    """The reference keypoints nearest to each query keypoint, per variant of its descriptor (n,128) uint8; as many
    as `one_of_each_group` needs.

    variants: keys of DESCRIPTOR_VARIANTS; neighbours: reference keypoints per query keypoint; nprobe: lists
    visited.
    """
    return {
        variant: index.search(
            searched,
            DESCRIPTOR_VARIANTS[variant](descriptors),
            searched_for(neighbours, copies),
            nprobe,
        )
        for variant in variants
    }


def nearest_of_each(
    searched: index.Index,
    queries: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    variants: Sequence[str],
    neighbours: int,
    nprobe: int,
    rule: str,
    ratio: float,
    copies: Copies | None = None,
    own: Sequence[Sequence[int]] = (),
) -> list[dict[str, Neighbours]]:
    """`nearest_keypoints` of several queries or crops, each its keypoints and descriptors, without the variants that
    `by_votes` would not count. They are searched together, which costs a third less.

    own: for each query the places of references that are not to be found, see `without`; none by default.
    """
    own = own or [()] * len(queries)
    asked = searched_for(neighbours, copies) + max(map(len, own), default=0)
    found: list[dict[str, Neighbours]] = [{} for _ in queries]
    pending = [at for at, (keypoints, _) in enumerate(queries) if len(keypoints)]
    for variant in variants if pending else ():
        descriptors = DESCRIPTOR_VARIANTS[variant](
            np.concatenate([queries[at][1] for at in pending])
        )
        distances, ids = index.search(searched, descriptors, asked, nprobe)
        ends = np.cumsum([len(queries[at][1]) for at in pending])[:-1]
        for at, *nearest in zip(
            pending, np.split(distances, ends), np.split(ids, ends), strict=True
        ):
            pair = nearest[0], nearest[1]
            found[at][variant] = remaining(pair, neighbours, own[at], copies)
        pending = [
            at
            for at in pending
            if not _decides(_vote(found[at][variant], queries[at][0], rule, ratio, copies), rule)
        ]
        if not pending:
            break
    return found


def without(places: Sequence[int], found: Neighbours, neighbours: int) -> Neighbours:
    """The first neighbours of each row of `found` (q,k) that are not in the images at these places, (q,neighbours).
    Where fewer are left, an id is -1, at the distance of the last that was found."""
    distances, ids = found
    if not len(places):
        return distances[:, :neighbours], ids[:, :neighbours]
    own = np.isin(index.places_of(ids), places)
    order = np.argsort(own, axis=1, kind="stable")[:, :neighbours]
    distances, ids = np.where(own, distances[:, -1:], distances), np.where(own, -1, ids)
    return np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)


def remaining(
    found: Neighbours, neighbours: int, own: Sequence[int], copies: Copies | None
) -> Neighbours:
    """The nearest of what was found for one query: `without` its own places, and `one_of_each_group`."""
    others = without(own, found, searched_for(neighbours, copies))
    return one_of_each_group(others, neighbours, copies)


def from_keypoints(
    searched: index.Index,
    keypoints: np.ndarray,
    descriptors: np.ndarray,
    *,
    variants: Sequence[str],
    neighbours: int,
    nprobe: int,
    rule: str,
    ratio: float,
    copies: Copies | None = None,
    **rules: Any,
) -> pd.DataFrame:
    """The references that the keypoints of one query (or crop) vote for: `by_votes` of `nearest_of_each`."""
    counted: dict[str, Any] = {"rule": rule, "ratio": ratio, "copies": copies}
    asked: dict[str, Any] = {"variants": variants, "neighbours": neighbours, "nprobe": nprobe}
    (found,) = nearest_of_each(searched, [(keypoints, descriptors)], **asked, **counted)
    return by_votes(found, keypoints, **counted, **rules)


def _hits(
    nearest: Neighbours, keypoints: np.ndarray, rule: str, ratio: float, copies: Copies | None
) -> dict[str, Any]:
    """Arguments of `voting.vote`."""
    distances, ids = nearest
    places = index.places_of(ids)
    hits: dict[str, Any] = {"image_rows": places, "squared_distances": distances}
    hits["group_rows"] = copies.of_places(places) if copies else None
    if rule == "robust":
        hits |= {"ratio": ratio, "hit_ids": ids, "cells": voting.cells(keypoints)}
    return hits


def _vote(
    nearest: Neighbours, keypoints: np.ndarray, rule: str, ratio: float, copies: Copies | None
) -> voting.Votes:
    return voting.vote(**_hits(nearest, keypoints, rule, ratio, copies))


def _decides(votes: voting.Votes, rule: str) -> bool:
    """Whether the variants after the one that gave these votes are not counted."""
    best, second = (*votes.votes[:2].tolist(), 0, 0)[:2]
    return rule == "robust" and best >= max(DECISIVE_VOTES, 2 * second)


def by_votes(
    found: Mapping[str, Neighbours],
    keypoints: np.ndarray,
    *,
    candidates: int,
    rule: str,
    ratio: float,
    copies: Copies | None = None,
    **acceptance: Any,
) -> pd.DataFrame:
    """The references that the keypoints of one query (or crop) vote for, best first.

    found: of `nearest_keypoints` for the keypoints (n,>=2) of the query; each variant votes on its own, by the rule
    "robust" until the first reference of one has DECISIVE_VOTES, and twice as many as the second; candidates:
    references kept, each with its best variant; rule: "seed" counts every hit, "robust" counts one hit per place
    and reference keypoint and applies `ratio` (see `voting.vote`); copies: groups that vote as one picture; acceptance: min_hits, min_hits_single,
    max_mean_squared_distance of `voting.accept_seed`.

    Returns reference_row int64 (a place, see `index.places_of`), score float32 (votes, higher is more alike),
    mean_squared_distance float32 of the votes, mirrored bool, accepted bool. A query without keypoints has no
    rows.
    """
    places, counts, distances_of, mirrored, accepted = ([np.empty(0)] for _ in range(5))
    for variant, nearest in found.items() if len(keypoints) else ():
        votes = _vote(nearest, keypoints, rule, ratio, copies)
        first = np.arange(min(len(votes.votes), candidates))
        places.append(votes.reference_row[first])
        counts.append(votes.votes[first])
        distances_of.append(votes.mean_squared_distance[first])
        mirrored.append(np.full(len(first), variant == "mirrored"))
        accepted.append((first == 0) & voting.accept_seed(votes, **acceptance))
        if _decides(votes, rule):
            break
    order = np.lexsort((np.concatenate(distances_of), -np.concatenate(counts)))
    # Of the variants that hit one reference the best counts.
    once = np.unique(np.concatenate(places)[order], return_index=True)[1]
    order = order[np.sort(once)[:candidates]]
    return pd.DataFrame(
        {
            "reference_row": np.concatenate(places)[order].astype(np.int64),
            "score": np.concatenate(counts)[order].astype(np.float32),
            "mean_squared_distance": np.concatenate(distances_of)[order].astype(np.float32),
            "mirrored": np.concatenate(mirrored)[order].astype(bool),
            "accepted": np.concatenate(accepted)[order].astype(bool),
        }
    )


def voters(
    found: Mapping[str, Neighbours],
    keypoints: np.ndarray,
    places: np.ndarray,
    *,
    rule: str,
    ratio: float,
    copies: Copies | None = None,
) -> list[np.ndarray]:
    """The keypoints (m,) int64 of a query whose votes `by_votes` counts for the references at these places (r,) int64, each
    by the variant that gives it most; found: of `nearest_of_each`, the other arguments as there."""
    groups = (copies.of_places(places) if copies else places).tolist()
    most = [np.empty(0, np.int64) for _ in groups]
    for nearest in found.values():
        hits = _hits(nearest, keypoints, rule, ratio, copies)
        each = [voting.voters(group, **hits) for group in groups]
        most = [max(pair, key=len) for pair in zip(most, each, strict=True)]
    return most


def from_vectors(
    searched: index.Index,
    vectors: np.ndarray,
    queries: Sequence[Any] | np.ndarray,
    *,
    nprobe: int,
    candidates: int,
    normalise_neighbours: int,
    background: np.ndarray | None = None,
) -> pd.DataFrame:
    """The references most similar to each query: `by_similarity` of the nearest vectors of an index."""
    count = neighbours_of_vectors(candidates, normalise_neighbours, background is None)
    found = index.search(searched, vectors, count, nprobe)
    return by_similarity(
        found,
        vectors,
        queries,
        candidates=candidates,
        normalise_neighbours=normalise_neighbours,
        background=background,
    )


def neighbours_of_vectors(
    candidates: int, normalise_neighbours: int, among_references: bool
) -> int:
    """Neighbours per vector that `by_similarity` needs; among_references: it has no background of its own."""
    return max(candidates, 1 + normalise_neighbours) if among_references else candidates


def by_similarity(
    found: Neighbours,
    vectors: np.ndarray,
    queries: Sequence[Any] | np.ndarray,
    *,
    candidates: int,
    normalise_neighbours: int,
    background: np.ndarray | None = None,
    copies: Copies | None = None,
) -> pd.DataFrame:
    """The references most similar to each query, over all vectors of the query; per query, best first.

    found: `index.search` for vectors (n,d) float32 of unit norm, of whole queries, their views and crops;
    queries (n,): the query that each vector belongs to; candidates: references kept per query.
    normalise_neighbours: subtract from every cosine the mean cosine of the vector to this many nearest background
    vectors; 0 is off. background (b,d): None takes the references themselves and leaves out the nearest, which
    may be the source of the query. copies: groups that count as one picture, named by their best member; found
    then holds as many as `searched_for`.

    Returns query_id (sorted), vector_row (of `vectors`, the one with the best score), reference_row (a place,
    see `index.places_of`), rank, score (normalised cosine, higher is more alike) and mean_squared_distance of
    the two vectors.
    """
    if not len(vectors):
        columns = ["query_id", "vector_row", "reference_row", "rank"]
        return pd.DataFrame(columns=[*columns, "score", "mean_squared_distance"])
    count = neighbours_of_vectors(candidates, normalise_neighbours, background is None)
    distances, ids = one_of_each_group(found, count, copies)
    groups = copies.of_places(index.places_of(ids)) if copies else ids
    cosine = 1 - distances / 2
    means = np.zeros(len(cosine), np.float32)
    if normalise_neighbours and background is not None:
        means = background_similarity(vectors, background, normalise_neighbours)
    elif normalise_neighbours:
        others = slice(1, 1 + normalise_neighbours)
        known = ids[:, others] >= 0  # a small library has fewer neighbours
        means = np.where(known, cosine[:, others], 0).sum(axis=1)
        means = means / np.maximum(known.sum(axis=1), 1)
    scores = normalise_scores(cosine, means)
    tables = []
    for query_id, rows in pd.Series(np.arange(len(vectors))).groupby(np.asarray(queries, object)):
        at = rows.to_numpy()
        named = _best_of_each_group(scores[at], ids[at], groups[at]) if copies else ids[at]
        best, best_ids, best_views = best_over_views(scores[at], named, len(at), candidates)
        kept = best_ids[0] >= 0
        vector_row = at[best_views[0][kept]]
        tables.append(
            pd.DataFrame(
                {
                    "query_id": query_id,
                    "vector_row": vector_row,
                    "reference_row": index.places_of(best_ids[0][kept]),
                    "rank": np.arange(kept.sum()),
                    "score": best[0][kept],
                    "mean_squared_distance": 2 - 2 * (best[0][kept] + means[vector_row]),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _best_of_each_group(scores: np.ndarray, ids: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Ids (v,k) of one query's neighbours, each replaced by that of its group which has the best score."""
    order = np.argsort(-scores, axis=None, kind="stable")
    _, first, of_each = np.unique(groups.ravel()[order], return_index=True, return_inverse=True)
    named = np.empty_like(ids).ravel()
    named[order] = ids.ravel()[order][first][of_each]
    return named.reshape(ids.shape)


def within_limits(
    candidates: pd.DataFrame,
    identical: np.ndarray,
    *,
    candidates_scored: str = "all",
    candidates_verified: int = 0,
    local_min_votes: int = 0,
    crop_min_votes: int = 0,
    global_min_similarity: float = -2.0,
) -> np.ndarray:
    """Which candidates (n,) are good enough to be verified: bool. identical (n,) bool: two files of the same bytes, which
    need neither votes nor a rule.

    candidates_scored: "all", or "accepted" for those that their branch's own rule accepted; candidates_verified: the
    best of each branch and view, 0 for all; the others: lowest score of a candidate of a branch.
    """
    least = {"local": local_min_votes, "crop": crop_min_votes, "global": global_min_similarity}
    branch = candidates["branch"].astype(pd.CategoricalDtype([*least])).cat.codes.to_numpy()
    score = candidates["score"].to_numpy()
    kept = score >= np.array([*least.values()], np.float32)[branch]
    if candidates_scored == "accepted":
        kept &= candidates["accepted"].to_numpy()
    kept |= identical
    if candidates_verified:
        kept &= (candidates["rank"] < candidates_verified).to_numpy()
    return kept
