# SPDX-License-Identifier: AGPL-3.0-or-later
"""Queries that their first candidates answer: which they are, and what is spared for them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import small_run

from imgfp import stages, store
from imgfp.scoring import fusion
from imgfp.stages import certain, crops, descriptors, verification
from imgfp.stages.search import read_candidates

WHOLE, CROPPED, PASTED = *small_run.HOSTILE[:2], "q-pasted"
GRID = {"model": "gist-grid", "weights": "", "device": "cpu", "batch_size": 32}


@pytest.fixture
def answered(sides, address):
    run, library = sides
    stages.verify_first(run, library, certain_score=0.9, cluster=address)
    return run, library


def test_a_copy_is_certain_and_one_that_fills_the_query_explains_it(answered, address):
    run, library = answered
    found = certain.read_certain(run).set_index("query_id")
    assert (found["score"] >= 0.9).all() and found.index.is_unique
    assert {WHOLE, CROPPED, PASTED} <= set(found.index)
    assert "q-grey" not in found.index
    assert found.loc[PASTED, "query_area"] < certain.EXPLAINED < found.loc[WHOLE, "query_area"]
    explained = certain.explained_queries(run)
    assert {WHOLE, CROPPED} <= explained < certain.certain_queries(run)
    again = stages.verify_first(run, library, certain_score=0.9, cluster=address)
    assert again.computed == 0 and certain.read_certain(run).set_index("query_id").equals(found)


def test_a_query_that_two_references_are_in_is_not_certain(answered):
    run, _ = answered
    first = verification.read_evidence(run)
    candidates = read_candidates(run).merge(first[verification.KEYS])
    proposals = verification.join_evidence(candidates, first)
    whole = proposals[proposals["query_id"] == WHOLE].assign(
        identical=False, explained_cells=2**21 - 1
    )
    below = whole.assign(reference_id="r-below", explained_cells=2**49 - 2**28)
    model = fusion.load_model()
    assert len(verification.certain_pairs(whole, 0.9, model)) == 1
    both = pd.concat([whole, below], ignore_index=True)
    assert (fusion.calibrated(both, model)["score"] >= 0.9).sum() == 2
    assert verification.certain_pairs(both, 0.9, model).empty


def test_what_is_explained_has_no_crops_and_what_is_certain_one_vector(answered, address):
    run, _ = answered
    stages.detect_crops(run, crop_detector="classical", cluster=address)
    looked_at = {name for path in store.shards(run.detections, ".parquet") for name in seen(path)}
    assert PASTED in looked_at and not looked_at & certain.explained_queries(run)
    crops.choose_crops(run, local_min_confidence=0.1, global_min_confidence=0.5)
    stages.describe_queries(run, **GRID, cluster=address)
    ids = descriptors.read_descriptors(run).image_ids
    query_of = descriptors.query_of_each_view(run)
    views = [descriptors.view_of_vector(name, query_of) for name in ids]
    counts = dict(zip(*np.unique(views, return_counts=True), strict=True))
    every = set(descriptors.first_views(run, 0).image_ids)
    assert every == set(small_run.HOSTILE[:3]) | every  # each query has a vector
    for query_id in every:
        expected = 1 if query_id in certain.certain_queries(run) else len(descriptors.QUERY_VIEWS)
        assert counts[query_id] == expected
    assert not set(counts) & set(crops.read_crops(run).query("query_id == @PASTED")["crop_id"])


def seen(path):
    return store.load(path)["image_id"]


def test_first_pairs_keep_their_evidence_and_others_are_verified_once(answered, address):
    run, library = answered
    store.remove(run.evidence / "shard-00000.parquet")  # as before notebook 08
    first = verification.read_evidence(run)
    explained = certain.explained_queries(run)
    assert explained < set(first["query_id"])
    report = stages.verify_pairs(run, library, cluster=address)
    evidence = verification.read_evidence(run)
    assert evidence.head(len(first)).equals(first)
    others = read_candidates(run)
    others = others[~others["query_id"].isin(explained)][verification.KEYS].drop_duplicates()
    rest = others.merge(first, how="left", indicator=True).query("_merge == 'left_only'")
    assert report.computed == len(rest) < len(others)
    assert set(keys_of(evidence.tail(-len(first)))) == set(keys_of(rest))
    assert not evidence.duplicated(verification.KEYS).any()
    few = stages.verify_pairs(run, library, candidates_verified=1, cluster=address)
    assert few.computed < len(rest)


def keys_of(pairs):
    return pairs[verification.KEYS].itertuples(index=False, name=None)


def test_at_a_score_of_one_nothing_is_verified_first_and_no_query_is_certain(answered, address):
    run, library = answered
    report = stages.verify_first(run, library, certain_score=1.0, cluster=address)
    assert report.computed == 0 and not store.shards(run.first_evidence, ".parquet")
    assert certain.read_certain(run).empty and verification.read_evidence(run).empty is False


def test_before_the_local_search_it_says_what_to_do(tmp_path):
    run, library = store.Run(tmp_path / "run"), store.Library(tmp_path / "library")
    assert certain.read_certain(run).empty
    with pytest.raises(store.StoreError, match="no candidates yet; run notebook 03"):
        stages.verify_first(run, library, certain_score=0.9)
