# SPDX-License-Identifier: AGPL-3.0-or-later
"""Candidates from keypoints and from vectors, on arrays small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("faiss")

from imgfp import sift
from imgfp.search import index, propose

SEED = {
    "nprobe": 1,
    "neighbours": 1,
    "variants": ["plain"],
    "candidates": 5,
    "rule": "seed",
    "ratio": 1.0,
    "min_hits": 3,
    "min_hits_single": 5,
    "max_mean_squared_distance": 8000.0,
}
ROBUST = SEED | {"neighbours": 3, "rule": "robust", "ratio": 1.5}


@pytest.fixture
def library(rng):
    """Three references with 8, 6 and 4 keypoints: descriptors and index."""
    descriptors = rng.integers(0, 256, (18, 128), np.uint8)
    ids = index.ids_of(np.arange(3), np.array([8, 6, 4]))
    return descriptors, index.build(descriptors, "local", ids=ids)


def spread(count: int) -> np.ndarray:
    """Keypoints (count,4) far from each other."""
    return np.stack([100.0 * np.arange(count), 50.0 * np.arange(count), *np.ones((2, count))], 1)


def test_each_hit_is_a_vote_and_the_best_is_accepted(library):
    descriptors, searched = library
    query = descriptors[[0, 1, 2, 3, 4, 8, 9]]
    found = propose.from_keypoints(searched, spread(7), query, **SEED)
    assert found["reference_row"].tolist() == [0, 1] and found["score"].tolist() == [5, 2]
    assert found["mean_squared_distance"].tolist() == [0, 0]
    assert found["accepted"].tolist() == [True, False] and not found["mirrored"].any()
    one = propose.from_keypoints(searched, spread(7), query, **SEED | {"candidates": 1})
    assert one["reference_row"].tolist() == [0]


def test_a_mirrored_query_is_found_by_the_mirrored_variant_alone(library):
    descriptors, searched = library
    query = sift.mirror_descriptors(descriptors[8:14])
    settings = ROBUST | {"variants": ["plain", "mirrored"]}
    found = propose.from_keypoints(searched, spread(6), query, **settings)
    best = found.iloc[0]
    assert (best["reference_row"], best["score"], best["mirrored"]) == (1, 6, True)
    assert not found["reference_row"].duplicated().any()
    reversed_ = propose.from_keypoints(
        searched, spread(6), sift.reverse_contrast(descriptors[8:14]), **settings
    )
    assert not len(reversed_) or reversed_["score"].max() < 6
    every = settings | {"variants": list(propose.DESCRIPTOR_VARIANTS)}
    reversed_ = propose.from_keypoints(
        searched, spread(6), sift.reverse_contrast(descriptors[8:14]), **every
    )
    assert reversed_["score"].iloc[0] == 6 and not reversed_["mirrored"].iloc[0]


def test_a_decisive_variant_ends_the_search(rng, monkeypatch):
    descriptors = rng.integers(0, 256, (100, 128), np.uint8)
    owned = index.ids_of(np.arange(2), np.array([50, 50]))
    searched = index.build(descriptors, "local", ids=owned)
    searches = []
    search = index.search
    monkeypatch.setattr(index, "search", lambda *a: searches.append(len(a[1])) or search(*a))

    def variants_of(rows, rule=ROBUST):
        searches.clear()
        settings = rule | {"variants": list(propose.DESCRIPTOR_VARIANTS)}
        found = propose.from_keypoints(searched, spread(len(rows)), descriptors[rows], **settings)
        assert found["reference_row"].iloc[0] == 0
        return len(searches)

    enough = propose.DECISIVE_VOTES
    assert variants_of(range(enough)) == 1
    assert variants_of(range(enough - 1)) == 3
    assert variants_of([*range(enough), *range(50, 50 + enough // 2)]) == 1
    assert variants_of([*range(enough), *range(50, 51 + enough // 2)]) == 3, "no clear winner"
    assert variants_of(range(enough), SEED) == 3, "the system of 2021 searches all"
    searches.clear()
    queries = [(spread(len(rows)), descriptors[rows]) for rows in (range(45), [], range(5))]
    asked = {name: ROBUST[name] for name in ("neighbours", "nprobe", "rule", "ratio")}
    found = propose.nearest_of_each(searched, queries, variants=["plain", "mirrored"], **asked)
    assert searches == [50, 5] and [list(one) for one in found] == [
        ["plain"],
        [],
        ["plain", "mirrored"],
    ]


@pytest.mark.parametrize("rules", [SEED, ROBUST])
def test_references_left_out_are_as_if_they_were_not_in_the_library(rng, rules):
    # The query itself, a copy of most of it that is mirrored, and another.
    query = rng.integers(0, 200, (45, 128), np.uint8)
    copy = sift.mirror_descriptors(query[:40]) + rng.integers(0, 9, (40, 128), np.uint8)
    others = np.concatenate([copy, rng.integers(0, 200, (20, 128), np.uint8)])
    counts = np.array([45, 40, 20])
    with_it = index.build(
        np.concatenate([query, others]), "local", ids=index.ids_of(np.arange(3), counts)
    )
    without_it = index.build(others, "local", ids=index.ids_of(np.arange(1, 3), counts[1:]))
    asked = {name: rules[name] for name in ("neighbours", "nprobe", "rule", "ratio")}
    asked["variants"] = ["plain", "mirrored"]
    queries = [(spread(45), query)]
    (found,) = propose.nearest_of_each(with_it, queries, own=[[0]], **asked)
    (expected,) = propose.nearest_of_each(without_it, queries, **asked)
    assert [*found] == ["plain", "mirrored"], "its own votes decide nothing"
    counted = {n: rules[n] for n in rules if n not in ("neighbours", "nprobe", "variants")}
    votes = [propose.by_votes(one, spread(45), **counted) for one in (found, expected)]
    assert votes[0]["reference_row"][0] == 1 and votes[0]["mirrored"][0]
    assert min(one["score"][0] for one in votes) >= 40
    assert 0 not in votes[0]["reference_row"].tolist()
    distances, ids = found["mirrored"]
    assert ids.shape == (45, rules["neighbours"]) and np.isfinite(distances).all()
    beside, alone = propose.nearest_of_each(with_it, queries * 2, own=[[], [0, 1, 2]], **asked)
    assert (index.places_of(beside["plain"][1][:, 0]) == 0).all(), "of the other query none"
    assert (alone["plain"][1] == -1).all()


def test_the_robust_rule_counts_one_vote_per_place(library):
    descriptors, searched = library
    query = descriptors[[0, 1, 2, 3]]
    together = np.ones((4, 4))
    seed = propose.from_keypoints(searched, together, query, **SEED)
    robust = propose.from_keypoints(searched, together, query, **ROBUST)
    assert seed["score"].tolist() == [4] and robust["score"].tolist() == [1]


def test_a_query_without_keypoints_has_no_candidates(library):
    _, searched = library
    nothing = np.empty((0, 4)), np.empty((0, 128), np.uint8)
    found = propose.from_keypoints(searched, *nothing, **SEED)
    assert found.empty
    assert found.dtypes.astype(str).to_dict() == {
        "reference_row": "int64",
        "score": "float32",
        "mean_squared_distance": "float32",
        "mirrored": "bool",
        "accepted": "bool",
    }


def test_equal_votes_are_ordered_by_distance(library):
    descriptors, searched = library
    query = descriptors[[0, 1, 8, 9]].copy()
    query[:2, 0] ^= 7  # the hits in the first reference are a little further away
    found = propose.from_keypoints(searched, spread(4), query, **SEED)
    assert found["reference_row"].tolist() == [1, 0] and found["score"].tolist() == [2, 2]


# Vectors

SIMILARITY = {"nprobe": 1, "candidates": 2, "normalise_neighbours": 0}


def test_a_query_has_its_best_references_over_all_its_vectors():
    references = index.build(np.eye(4, dtype=np.float32), "global")
    vectors = np.array([[1, 0, 0, 0], [0, 0.8, 0.6, 0], [0, 0, 0, 1]], np.float32)
    found = propose.from_vectors(references, vectors, ["b", "b", "a"], **SIMILARITY)
    assert found["query_id"].tolist() == ["a", "a", "b", "b"]
    assert found["rank"].tolist() == [0, 1, 0, 1]
    of_b = found[found["query_id"] == "b"]
    assert of_b["reference_row"].tolist() == [0, 1] and of_b["vector_row"].tolist() == [0, 1]
    np.testing.assert_allclose(of_b["score"], [1, 0.8], atol=1e-6)
    np.testing.assert_allclose(of_b["mean_squared_distance"], [0, 0.4], atol=1e-6)


def test_scores_are_normalised_by_the_references_without_the_nearest():
    references = index.build(np.eye(3, dtype=np.float32), "global")
    query = np.array([[0.8, 0.6, 0]], np.float32)
    settings = SIMILARITY | {"candidates": 1}
    for neighbours, mean in ((1, 0.6), (2, 0.3), (9, 0.3)):  # there are two others at most
        found = propose.from_vectors(
            references, query, ["q"], **settings | {"normalise_neighbours": neighbours}
        )
        np.testing.assert_allclose(found["score"], 0.8 - mean, atol=1e-6)
        np.testing.assert_allclose(found["mean_squared_distance"], 2 - 2 * 0.8, atol=1e-6)


def test_a_background_of_its_own_is_taken_whole():
    references = index.build(np.eye(3, dtype=np.float32), "global")
    query = np.array([[0.8, 0.6, 0]], np.float32)
    settings = SIMILARITY | {"candidates": 1, "normalise_neighbours": 1}
    background = np.array([[0, 1, 0], [0, 0, 1]], np.float32)
    found = propose.from_vectors(references, query, ["q"], background=background, **settings)
    np.testing.assert_allclose(found["score"], 0.8 - 0.6, atol=1e-6)
    with pytest.raises(ValueError, match="from a background of 2 vectors"):
        settings = settings | {"normalise_neighbours": 3}
        propose.from_vectors(references, query, ["q"], background=background, **settings)


def test_no_vectors_have_no_candidates():
    references = index.build(np.eye(3, dtype=np.float32), "global")
    assert propose.from_vectors(references, np.empty((0, 3), np.float32), [], **SIMILARITY).empty


def test_votes_of_neighbours_found_elsewhere_are_the_same(library):
    """What other machines have found in their parts of the index is voted on here."""
    descriptors, searched = library
    query = descriptors[[0, 1, 2, 3, 4, 8, 9]] ^ 1
    asked = {name: ROBUST[name] for name in ("variants", "neighbours", "nprobe")}
    rules = {name: value for name, value in ROBUST.items() if name not in asked}
    found = propose.nearest_keypoints(searched, query, **asked)
    pd.testing.assert_frame_equal(
        propose.by_votes(found, spread(7), **rules),
        propose.from_keypoints(searched, spread(7), query, **ROBUST),
    )


def test_limits_leave_what_is_good_enough_and_every_identical_pair():
    """Least scores are those of the branch; an identical pair needs neither votes nor a rule, but a rank."""
    rows = [
        ("local", 0, 9.0),
        ("local", 1, 2.0),
        ("crop", 0, 3.0),
        ("global", 0, 0.1),
        ("local", 2, 0),
    ]
    candidates = pd.DataFrame(rows, columns=["branch", "rank", "score"])
    candidates["accepted"] = candidates["rank"] == 0
    identical = np.array([False] * 4 + [True])

    def kept(**limits):
        return propose.within_limits(candidates, identical, **limits).tolist()

    assert kept() == [True] * 5
    assert kept(local_min_votes=3) == [True, False, True, True, True]
    assert kept(crop_min_votes=4, global_min_similarity=0.2) == [True, True, False, False, True]
    assert kept(candidates_scored="accepted") == [True, False, True, True, True]
    assert kept(candidates_verified=2) == [True, True, True, True, False]
