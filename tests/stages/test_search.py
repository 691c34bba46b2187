# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebooks 03, 05 and 07 without their notebooks: which references are proposed for whom."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("faiss")

import small_run
from small_run import made_with

from imgfp import stages, store
from imgfp.datatypes import Descriptors, LocalFeatures
from imgfp.descriptors.views import DIHEDRAL
from imgfp.stages.crops import read_crops
from imgfp.stages.descriptors import first_views, read_descriptors
from imgfp.stages.inventory import read_images
from imgfp.stages.search import read_candidates, search_tasks, votes_of
from imgfp.store import formats

VOTE = {
    "nprobe": 1,
    "neighbours": 5,
    "variants": ["plain", "mirrored", "contrast_reversed"],
    "candidates": 3,
    "rule": "robust",
    "ratio": 1.5,
    "min_hits": 3,
    "min_hits_single": 5,
    "max_mean_squared_distance": 8000.0,
}
ASK = {"nprobe": 1, "candidates": 2, "normalise_neighbours": 0, "background": ""}
GRID = {"model": "gist-grid", "weights": "", "device": "cpu", "batch_size": 4}
FLAT = {"factory": "Flat", "seed": 0, "part_images": 4}
# The ids that small_run gives to the mirrored query, its reference, and the whole query's reference.
WHOLE, MIRRORED, ASTRONAUT, CHINA = (small_run.HOSTILE[i] for i in (0, 2, 5, 3))


def of(candidates, query):
    return candidates[candidates["query_id"] == query].reset_index(drop=True)


# ------------------------------------------------------------------------------------------ local


@pytest.fixture
def indexed(sides, address):
    run, library = sides
    for collection in sides:
        stages.extract_local_features(collection, cluster=address)
    stages.extract_crop_features(run, cluster=address)
    stages.build_index(library, "local", **FLAT)
    return sides


def test_keypoints_propose_the_reference_also_of_a_mirrored_query(indexed, address):
    run, library = indexed
    report = stages.local_search(run, library, **VOTE, cluster=address)
    assert report.computed == len(read_images(run))
    candidates = read_candidates(run, "local")
    assert (candidates["branch"] == "local").all() and (candidates["rank"] < 3).all()
    assert (candidates["view_id"] == candidates["query_id"]).all()
    for query, reference, mirrored in ((WHOLE, CHINA, False), (MIRRORED, ASTRONAUT, True)):
        best = of(candidates, query).iloc[0]
        assert best.reference_id == reference and best.accepted and best.mirrored == mirrored
    assert stages.local_search(run, library, **VOTE, cluster=address).computed == 0
    more = VOTE | {"candidates": 4}
    assert stages.local_search(run, library, **more, cluster=address).reused == 0


def test_crops_propose_for_their_query(indexed, address):
    run, library = indexed
    stages.crop_search(run, library, **VOTE, cluster=address)
    candidates, crops = read_candidates(run, "crop"), read_crops(run)
    query_of = dict(zip(crops["crop_id"], crops["query_id"], strict=True))
    assert set(candidates["view_id"]) <= set(query_of)
    assert candidates["query_id"].tolist() == [query_of[i] for i in candidates["view_id"]]
    assert (candidates["branch"] == "crop").all() and CHINA in set(candidates["reference_id"])


def halve(folder):
    """Make two shards of one."""
    path = folder / "shard-00000.h5"
    record, made = store.load(path), made_with(halved=1)
    for number, ids in enumerate(np.array_split(record.image_ids, 2)):
        if isinstance(record, LocalFeatures):
            part = LocalFeatures.from_images(ids, [record.of(image_id) for image_id in ids])
        else:
            part = Descriptors(ids, record.vectors[np.isin(record.image_ids, ids)])
        store.save(folder / f"shard-{number:05d}.h5", part, made)


@pytest.mark.parametrize("machines", [2, 3])
def test_machines_that_search_their_shares_find_the_same(indexed, address, monkeypatch, machines):
    run, library = indexed
    for path in (library.index("local").root, library.index("global").root):
        shutil.rmtree(path, ignore_errors=True)
    stages.describe_references(library, cluster=address, **GRID)
    crops = {"views": ["whole", "mirror"], "described": "all"}
    stages.describe_queries(run, cluster=address, **crops, **GRID)
    for folder in (library.local_features, library.descriptors):
        halve(folder)
    for kind in ("local", "global"):
        stages.build_index(library, kind, **FLAT | {"part_images": 1}, cluster=address)

    def found():
        stages.local_search(run, library, **VOTE, cluster=address)
        stages.global_search(run, library, **ASK, cluster=address)
        tables = read_candidates(run, "local", "global")
        for branch in ("local", "global"):
            shutil.rmtree(run.candidates(branch))
        return tables

    alone = found()
    monkeypatch.setattr("imgfp.stages.search.machines", lambda cluster: machines)
    assert len(search_tasks(run, library, "local")[0].pieces) == min(machines, 2)
    pd.testing.assert_frame_equal(found(), alone)
    assert len(alone)


def test_votes_of_one_query_are_its_candidates(indexed, address):
    run, library = indexed
    stages.local_search(run, library, **VOTE, cluster=address)
    stored = of(read_candidates(run, "local"), MIRRORED)
    votes = votes_of(run.local_features, library, MIRRORED, **VOTE)
    pd.testing.assert_frame_equal(stored[list(votes.columns)], votes)
    assert votes_of(run.local_features, library, "nobody", **VOTE).empty


def test_a_new_index_or_other_features_search_again(indexed):
    run, library = indexed
    (before,) = search_tasks(run, library, "local")
    path = store.shards(library.local_features, ".h5")[0]
    record = store.load(path)
    store.save(path, record.concatenate([record]), made_with(other=1))
    stages.build_index(library, "local", **FLAT | {"factory": "IVF2,SQ8"})
    (after,) = search_tasks(run, library, "local")
    assert before.path == after.path and before.inputs[0] == after.inputs[0]
    assert before.inputs != after.inputs


def test_candidates_are_read_by_branch_in_order(sides, tmp_path):
    run, _ = sides
    every = read_candidates(run)
    assert every["branch"].drop_duplicates().tolist() == ["local", "global"]
    pd.testing.assert_frame_equal(
        read_candidates(run, "global"), every[every["branch"] == "global"].reset_index(drop=True)
    )
    none = read_candidates(store.Run(tmp_path / "new"))
    assert none.empty and set(none.columns) == set(every.columns)


# ----------------------------------------------------------------------------------------- global


def proposed(sides, address, views=("whole",), described="sure", **ask):
    run, library = sides
    stages.describe_references(library, **GRID, cluster=address)
    stages.describe_queries(run, views=views, described=described, **GRID, cluster=address)
    stages.build_index(library, "global", **FLAT)
    stages.global_search(run, library, **ASK | ask, cluster=address)
    return read_candidates(run, "global")


def test_views_of_a_query_propose_once_by_the_best_of_them(sides, address):
    plain = of(proposed(sides, address), MIRRORED)
    turned = proposed(sides, address, DIHEDRAL)
    best = of(turned, MIRRORED).iloc[0]
    assert best.reference_id == ASTRONAUT and best.score > 0.99 > plain.score.max()
    assert best.view_id == MIRRORED  # which verification knows
    assert not turned.duplicated(["query_id", "reference_id"]).any()
    assert (turned.groupby("query_id").size() == 2).all()


def test_a_crop_is_searched_instead_of_its_query_or_beside_it(sides, address):
    crop = read_crops(sides[0]).query("is_global").iloc[0]
    alone = of(proposed(sides, address), crop.query_id)
    assert set(alone.view_id) == {crop.crop_id} and alone.score[0] > 0.95
    both = of(proposed(sides, address, described="all"), crop.query_id)
    assert set(both.view_id) <= {crop.crop_id, crop.query_id} and both.score[0] >= alone.score[0]


def test_scores_are_normalised_by_the_library_or_by_a_named_background(sides, address, tmp_path):
    run, library = sides
    plain = proposed(sides, address, candidates=1).set_index("query_id")
    known = read_descriptors(library).vectors
    asked = first_views(run)
    cosine = asked.vectors @ known.T
    less = proposed(sides, address, candidates=5, normalise_neighbours=3)
    less = less[less["rank"] == 0].set_index("query_id")
    means = dict(zip(asked.image_ids, -np.sort(-cosine, axis=1)[:, 1:4].mean(axis=1), strict=True))
    expected = plain.score - plain.index.map(means)
    np.testing.assert_allclose(less.score[plain.index], expected, atol=1e-5)
    np.testing.assert_allclose(
        less.mean_squared_distance, plain.mean_squared_distance[less.index], atol=1e-5
    )
    # The library has fewer neighbours than are asked for: those that it has count.
    assert np.isfinite(proposed(sides, address, normalise_neighbours=50).score).all()

    path = tmp_path / "background.h5"
    far = Descriptors(np.array(["b1", "b2"], object), -asked.vectors[:2])
    formats.write_descriptors(path, asked, far)
    named = {"candidates": 1, "normalise_neighbours": 1, "background": str(path)}
    named = proposed(sides, address, **named).set_index("query_id").score
    means = dict(zip(asked.image_ids, (asked.vectors @ far.vectors.T).max(axis=1), strict=True))
    np.testing.assert_allclose(named, plain.score[named.index] - named.index.map(means), atol=1e-5)
