"""The index of a library: built once, extended by its last part, opened with its owners."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("faiss")

from small_run import made_with

from imgfp import stages, store
from imgfp.datatypes import LocalFeatures
from imgfp.search import index
from imgfp.stages.index import index_inputs, open_index

FLAT = {"factory": "Flat", "seed": 0, "part_images": 4}


def shard(library, number, images, rng, settings=None):
    """A shard of made-up features: `images` images of ten keypoints each."""
    parts = [
        (np.zeros((10, 4), np.float32), rng.integers(0, 255, (10, 128), dtype=np.uint8))
        for _ in range(images)
    ]
    record = LocalFeatures.from_images([f"{number}-{i}" for i in range(images)], parts)
    path = library.local_features / f"shard-{number:05d}.h5"
    store.save(path, record, made_with(**(settings or {})))
    return record


def written(library):
    paths = [path for path in library.index("local").root.iterdir() if path.suffix != ".json"]
    return {path.name: path.stat().st_mtime_ns for path in paths}


@pytest.fixture
def library(tmp_path, rng):
    made = store.Library(tmp_path / "library")
    for number in range(2):
        shard(made, number, 2, rng)
    return made


def test_new_shards_extend_the_index_by_a_part(library, rng):
    report = stages.build_index(library, "local", **FLAT)
    assert (report.factory, report.vectors, report.parts) == ("IDMap2,Flat", 40, 1)
    assert "40 vectors in 1 part," in report._repr_markdown_()
    before, inputs = written(library), index_inputs(library, "local")
    stages.build_index(library, "local", **FLAT)
    assert written(library) == before
    shard(library, 2, 3, rng)
    assert stages.build_index(library, "local", **FLAT).parts == 2
    after = written(library)
    same = {"trained.faiss", "part-000.faiss"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert after["owners.parquet"] != before["owners.parquet"]
    assert index_inputs(library, "local") != inputs
    assert stages.build_index(library, "local", **FLAT | {"part_images": 9}).parts == 1
    assert not library.index("local").part(1).exists()


def test_every_vector_is_found_as_its_own_neighbour_and_owner(library, rng):
    last = shard(library, 2, 3, rng)
    stages.build_index(library, "local", **FLAT)
    opened = open_index(library, "local")
    assert open_index(library, "local") is opened
    distances, ids = index.search(opened.parts, last.descriptors, 1)
    assert (distances == 0).all() and ids[:, 0].tolist() == list(range(40, 70))
    rows = index.rows_of_ids(ids[:, 0], opened.offsets)
    assert opened.image_ids[rows].tolist() == [i for i in last.image_ids for _ in range(10)]


def test_another_extraction_builds_another_index(library, rng):
    stages.build_index(library, "local", **FLAT)
    before = written(library)
    for number in range(2):
        shard(library, number, 2, rng, {"short_side_px": 200})
    stages.build_index(library, "local", **FLAT)
    assert all(written(library)[name] != before[name] for name in before)


def test_a_library_that_cannot_be_indexed_says_why(tmp_path, rng):
    library = store.Library(tmp_path / "empty")
    with pytest.raises(store.StoreError, match="local_features holds nothing yet"):
        stages.build_index(library, "local", **FLAT)
    with pytest.raises(store.StoreError, match="has no index yet; run the notebook"):
        open_index(library, "local")
    shard(library, 0, 0, rng)
    with pytest.raises(ValueError, match="no reference has any local_features"):
        stages.build_index(library, "local", **FLAT)
