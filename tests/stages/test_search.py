# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebooks 03, 05 and 07 without their notebooks: which references are proposed for whom."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("faiss")

import gpu_stand_in
import small_run
from small_run import made_with

from imgfp import stages, store
from imgfp.datatypes import Descriptors, LocalFeatures
from imgfp.descriptors.views import DIHEDRAL
from imgfp.search import gpu
from imgfp.stages import index as index_stage
from imgfp.stages.crops import read_crops
from imgfp.stages.descriptors import first_views, read_descriptors
from imgfp.stages.index import open_index
from imgfp.stages.inventory import read_images
from imgfp.stages.search import read_candidates, search_tasks, voters_of, votes_of
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

    itself = pd.DataFrame({"query_id": [WHOLE], "reference_id": [CHINA]})
    monkeypatch.setattr("imgfp.stages.search.own_pairs", lambda run, library: itself)
    alone = found()
    assert CHINA not in of(alone, WHOLE)["reference_id"].tolist()
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


def test_the_voters_of_a_query_are_as_many_as_its_votes(indexed, address, monkeypatch):
    run, library = indexed
    itself = pd.DataFrame({"query_id": [WHOLE], "reference_id": [CHINA]})
    monkeypatch.setattr("imgfp.stages.search.own_pairs", lambda run, library: itself)
    stages.local_search(run, library, **VOTE, cluster=address)
    asked = ("rule", "ratio", "variants", "neighbours", "nprobe")
    settings = {name: VOTE[name] for name in asked}
    for query_id in (MIRRORED, WHOLE):
        rows = of(read_candidates(run, "local"), query_id)
        ids = rows["reference_id"].tolist()
        voters = voters_of(run, library, query_id, query_id, ids, **settings)
        assert [len(keypoints) for keypoints in voters] == rows["score"].tolist() != []
    known = store.FeatureLookup(run.local_features).of(WHOLE)[0]
    assert all((known == keypoint).all(axis=1).any() for keypoint in voters[0])


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
    asked = first_views(run, 0)
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
    formats.write_descriptors(path, [asked], [far])
    named = {"candidates": 1, "normalise_neighbours": 1, "background": str(path)}
    named = proposed(sides, address, **named).set_index("query_id").score
    means = dict(zip(asked.image_ids, (asked.vectors @ far.vectors.T).max(axis=1), strict=True))
    np.testing.assert_allclose(named, plain.score[named.index] - named.index.map(means), atol=1e-5)
    formats.write_descriptors(path, [asked], [far], "imgfp 0123")
    with pytest.raises(formats.FormatError, match="of imgfp 0123, expected those of gist-grid"):
        proposed(sides, address, normalise_neighbours=1, background=str(path))


# -------------------------------------------------------------------------------------------- GPU


@pytest.fixture
def two_gpus(monkeypatch):
    yield gpu_stand_in.install(monkeypatch, 2)
    index_stage.release_gpus()


@pytest.fixture
def searchable(sides, address):
    """Run and library with all that the three searches read, the local index in two parts."""
    run, library = sides
    for collection in sides:
        stages.extract_local_features(collection, cluster=address)
    stages.extract_crop_features(run, cluster=address)
    stages.describe_references(library, cluster=address, **GRID)
    stages.describe_queries(run, views=["whole"], described="all", cluster=address, **GRID)
    halve(library.local_features)
    stages.build_index(library, "local", **FLAT | {"part_images": 1}, cluster=address)
    stages.build_index(library, "global", **FLAT, cluster=address)
    return run, library


def searched(sides, **where) -> dict[str, pd.DataFrame]:
    """The candidates of each branch."""
    stages.local_search(*sides, **VOTE, **where)
    stages.crop_search(*sides, **VOTE, **where)
    stages.global_search(*sides, **ASK, **where)
    branches = ("local", "crop", "global")
    return {branch: read_candidates(sides[0], branch) for branch in branches}


def devices(run) -> list[str | None]:
    """What the candidates of each branch are recorded with."""
    folders = [run.candidates(branch) for branch in ("local", "crop", "global")]
    paths = [path for folder in folders for path in store.shards(folder, ".parquet")]
    return [store.describe(path)["settings"].get("device") for path in paths]


def same(found, expected):
    for branch in ("local", "crop"):  # bytes are exact in half floats
        pd.testing.assert_frame_equal(found[branch], expected[branch])
    pd.testing.assert_frame_equal(found["global"], expected["global"], atol=2e-3)
    assert all(len(table) for table in found.values())


@pytest.mark.parametrize("factory", ["Flat", "IVF2,SQ8_direct"])
def test_a_gpu_proposes_the_candidates_of_a_cpu(
    searchable, address, in_process, monkeypatch, factory
):
    run, library = searchable
    stages.build_index(library, "local", **FLAT | {"factory": factory}, cluster=address)
    on_cpu = searched(searchable, device="cpu", cluster=address)
    assert devices(run) == [None] * 3
    asked = []
    with monkeypatch.context() as patched:
        two_gpus = gpu_stand_in.install(patched, 2)
        search = gpu.GpuIndex.search
        patched.setattr(gpu.GpuIndex, "search", lambda *given: asked.append(1) or search(*given))
        on_gpu = searched(searchable, device="auto", cluster=in_process)
        same(on_gpu, on_cpu)
        # Each branch, and of keypoints the variants that are counted.
        assert 3 <= len(asked) <= 2 * len(VOTE["variants"]) + 1
        assert devices(run) == ["cuda"] * 3 and not index_stage._copies
        # Keypoints for the two branches, then vectors, which are exact and go to both.
        assert [number for number, *_ in two_gpus.moved] == (
            [0, 1] * 3 if factory == "Flat" else [0, 0, 0, 1]
        )
        moved = len(two_gpus.moved)
        again = stages.local_search(*searchable, **VOTE, device="cuda:1", cluster=in_process)
        assert again.computed == 0 and len(two_gpus.moved) == moved  # whichever GPU it was
    back = stages.local_search(*searchable, **VOTE, device="auto", cluster=address)
    assert back.computed and devices(run)[0] is None
    pd.testing.assert_frame_equal(read_candidates(run, "local"), on_cpu["local"])


def test_a_named_gpu_is_the_one_that_searches(searchable, in_process, two_gpus):
    stages.local_search(*searchable, **VOTE, device="cuda:1", cluster=in_process)
    assert {number for number, *_ in two_gpus.moved} == {1}


def test_machines_search_their_shares_on_their_gpus(
    searchable, address, in_process, two_gpus, monkeypatch
):
    run, library = searchable
    alone = searched(searchable, device="cpu", cluster=address)["local"]
    monkeypatch.setattr("imgfp.stages.search.machines", lambda cluster: 2)
    shares = {p.arguments["parts"] for p in search_tasks(run, library, "local")[0].pieces}
    sizes = [len(open_index(library, "local", share).index) for share in shares]
    whole = len(open_index(library, "local").index)
    assert len(sizes) == 2 and max(sizes) < whole - 2
    # Two GPUs have room for the larger share and not for the whole.
    two_gpus.free = gpu.RESERVED_BYTES + (max(sizes) + 1) * 260 // 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stages.local_search(run, library, **VOTE, device="auto", cluster=in_process)
    pd.testing.assert_frame_equal(read_candidates(run, "local"), alone)
    assert devices(run)[0] == "cuda" and len(two_gpus.moved) == 4


def test_what_a_gpu_cannot_hold_or_do_is_searched_by_the_cpu(searchable, address, two_gpus):
    two_gpus.free = gpu.RESERVED_BYTES
    with pytest.warns(UserWarning, match="the search runs on the CPU: needs .* GB on GPU 0"):
        assert stages.local_search(*searchable, **VOTE, cluster=address).computed
    two_gpus.free = 80 * gpu_stand_in.GB
    many = ASK | {"normalise_neighbours": gpu.MOST_SELECTED}
    with pytest.warns(UserWarning, match="2,049 neighbours; a GPU finds at most 2,048"):
        assert stages.global_search(*searchable, **many, cluster=address).computed
    assert devices(searchable[0])[-1] is None and not two_gpus.moved


def test_a_local_run_on_a_gpu_has_one_process(searchable, two_gpus, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "imgfp.stages.search.map_shards", lambda *given, **more: asked.append((given, more))
    )
    stages.local_search(*searchable, **VOTE, device="auto", workers=7)
    stages.local_search(*searchable, **VOTE, device="cpu", workers=7)
    assert [more["workers"] for _, more in asked] == [1, 7]
    assert ["device" in given[2] for given, _ in asked] == [True, False]


def test_a_copy_stays_until_others_need_its_memory(searchable, two_gpus):
    _, library = searchable
    copies = index_stage._copies
    local = open_index(library, "local", device="cuda").index.gpu
    assert open_index(library, "local", device="cuda").index.gpu is local
    assert open_index(library, "local").index.gpu is None
    both = open_index(library, "global", device="cuda").index.gpu
    assert list(copies.values()) == [local, both]
    two_gpus.free = 0
    named = open_index(library, "local", device="cuda:1").index.gpu
    assert list(copies.values()) == [named] and named.held.count() == 1
    index_stage.release_gpus()
    assert not copies
