"""Notebooks 06 and 07 without their notebooks: vectors of a library and a run, and who is proposed."""

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("faiss")

import small_run

from imgfp import store
from imgfp.datatypes import Descriptors
from imgfp.descriptors.registry import load_model
from imgfp.descriptors.views import EIGHT
from imgfp.stages import descriptors, index, search
from imgfp.store import formats

GRID = {
    "model": "gist-grid",
    "weights": "",
    "device": "cpu",
    "batch_size": 4,
    "weights_hash": "gist-grid-1",
}
ASK = {"nprobe": 1, "candidates": 2, "normalise_neighbours": 0, "background": ""}


def make(function, tasks, **settings):
    """What `cluster.map_shards` does, here; the refused."""
    rejects = []
    for task in tasks:
        made = function(**task.arguments, **settings)
        facts = {"settings": settings, "inputs": task.inputs, "items": task.items}
        store.save(task.path, made.record, maker="test", **facts)
        rejects += made.rejects
    return rejects


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("global")
    run = small_run.build(root, hostile=True)
    return root / "library", run


def proposed(folders, views=("whole",), described="sure", **ask):
    library, run = folders
    crops = store.load(run / "crops/crops.parquet")
    make(descriptors.describe, descriptors.reference_tasks(library), **GRID, views=["whole"])
    tasks = descriptors.query_tasks(run, crops, described=described)
    make(descriptors.describe, tasks, **GRID, views=list(views))
    index.build_index(library, "global", factory="Flat", seed=0, part_images=4)
    make(search.search_global, search.global_tasks(run, library), **{**ASK, **ask})
    return store.load_tables(run / "candidates/global")


def of(candidates, query):
    return candidates[candidates["query_id"] == query].reset_index(drop=True)


MIRRORED = small_run.HOSTILE[2]  # the ids that small_run gives to this query and its reference
ASTRONAUT = small_run.HOSTILE[5]


def test_views_of_a_query_propose_once_by_the_best_of_them(folders):
    plain = of(proposed(folders), MIRRORED)
    turned = proposed(folders, EIGHT)
    best = of(turned, MIRRORED).iloc[0]
    assert best.reference_id == ASTRONAUT and best.score > 0.99 > plain.score.max()
    assert best.view_id == MIRRORED  # of which the verification knows
    assert not turned.duplicated(["query_id", "reference_id"]).any()
    assert (turned.groupby("query_id").size() == 2).all()


def test_a_crop_is_asked_with_instead_of_or_beside_its_query(folders):
    run = folders[1]
    crops = store.load(run / "crops/crops.parquet")
    crop = crops[crops["is_global"]].iloc[0]
    alone = of(proposed(folders), crop.query_id)
    assert set(alone.view_id) == {crop.crop_id} and alone.score[0] > 0.95
    proposed(folders, ["whole", "mirror"], described="all")
    ids = [
        i for i in descriptors.read(run).image_ids if i.startswith((crop.query_id, crop.crop_id))
    ]
    assert set(ids) == {
        f"{i}@{v}" for i in crop[["query_id", "crop_id"]] for v in ("whole", "mirror")
    }
    first = descriptors.first_views(run)
    assert sorted(first.image_ids) == sorted(set(proposed(folders).query_id))


def test_all_crops_are_described_but_speak_for_their_query(folders):
    run = folders[1]
    crops = store.load(run / "crops/crops.parquet")
    searched = crops.iloc[:1].assign(crop_id=crops.crop_id[0] + "x", is_global=False)
    tasks = descriptors.query_tasks(run, pd.concat([crops, searched]), described="all")
    items = [record["image_id"] for task in tasks for record in task.arguments["images"]]
    assert set(items) == {*crops.crop_id, *searched.crop_id, *set(proposed(folders).query_id)}
    store.save(run / "crops/crops.parquet", pd.concat([crops, searched]), maker="t", settings={})
    try:
        make(descriptors.describe, tasks, **GRID, views=["whole"])
        assert not set(descriptors.first_views(run).image_ids) & {*searched.crop_id}
        with pytest.raises(ValueError, match="'some'"):
            descriptors.query_tasks(run, crops, described="some")
    finally:
        store.save(run / "crops/crops.parquet", crops, maker="test", settings={})


def test_scores_are_normalised_by_the_library_or_by_a_named_background(folders, tmp_path):
    plain = proposed(folders, candidates=1).set_index("query_id")
    library = descriptors.read(folders[0]).vectors
    asked = descriptors.first_views(folders[1])
    cosine = asked.vectors @ library.T
    less = proposed(folders, candidates=5, normalise_neighbours=3)
    less = less[less["rank"] == 0].set_index("query_id")
    means = dict(zip(asked.image_ids, -np.sort(-cosine, axis=1)[:, 1:4].mean(axis=1), strict=True))
    expected = plain.score - plain.index.map(means)
    np.testing.assert_allclose(less.score[plain.index], expected, atol=1e-5)
    np.testing.assert_allclose(
        less.mean_squared_distance, plain.mean_squared_distance[less.index], atol=1e-5
    )
    # All of the library cannot make so many neighbours: those that there are count.
    assert np.isfinite(proposed(folders, normalise_neighbours=50).score).all()

    path = tmp_path / "background.h5"
    far = Descriptors(np.array(["b1", "b2"], object), -asked.vectors[:2])
    formats.write_descriptors(path, asked, far)
    named = proposed(folders, candidates=1, normalise_neighbours=1, background=str(path))
    means = dict(zip(asked.image_ids, (asked.vectors @ far.vectors.T).max(axis=1), strict=True))
    named = named.set_index("query_id").score
    np.testing.assert_allclose(named, plain.score[named.index] - named.index.map(means), atol=1e-5)


def test_vectors_made_elsewhere_come_in_from_a_file(folders, tmp_path):
    library, run = folders
    expected = proposed(folders, candidates=2)
    references, queries = descriptors.read(library), descriptors.first_views(run)
    path = tmp_path / "d.h5"
    formats.write_descriptors(path, queries, references)
    of_references, of_queries = descriptors.file_settings(str(path))
    none = store.load(run / "crops/crops.parquet").head(0)
    assert not make(descriptors.imported, descriptors.reference_tasks(library), **of_references)
    assert not make(
        descriptors.imported, descriptors.query_tasks(run, none, described="sure"), **of_queries
    )
    index.build_index(library, "global", factory="Flat", seed=0, part_images=4)
    make(search.search_global, search.global_tasks(run, library), **ASK)
    found = store.load_tables(run / "candidates/global")
    columns = ["query_id", "reference_id", "rank", "score"]
    order = ["query_id", "rank"]
    assert (
        found.sort_values(order)[columns]
        .reset_index(drop=True)
        .equals(expected.sort_values(order)[columns].reset_index(drop=True))
    )
    short = Descriptors(queries.image_ids[1:], queries.vectors[1:])
    formats.write_descriptors(path, short, references)
    of_queries = descriptors.file_settings(str(path))[1]
    (task,) = descriptors.query_tasks(run, none, described="sure")
    ((missing, reason),) = descriptors.imported(**task.arguments, **of_queries).rejects
    assert missing.endswith(".jpg") and reason == "d.h5 holds no query of this id"
    with pytest.raises(FileNotFoundError):
        descriptors.file_settings(str(tmp_path / "absent.h5"))


def test_the_shipped_model_describes_forty_pictures_a_second():
    """On one core; a slow or busy machine is given three tries and processor time."""
    torch = pytest.importorskip("torch")
    import time

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model = load_model("imgfp")
    pictures = list(small_run.photographs().values()) * 10
    model.embed(pictures)
    speeds = []
    for _ in range(3):
        start = time.process_time()
        model.embed(pictures)
        speeds.append(len(pictures) / (time.process_time() - start))
    torch.set_num_threads(before)
    assert max(speeds) >= 40
