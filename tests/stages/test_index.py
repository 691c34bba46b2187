# SPDX-License-Identifier: AGPL-3.0-or-later
"""The index of a library: built once, extended by its last part, opened with its owners."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("faiss")

from small_run import made_with

from imgfp import stages, store
from imgfp.datatypes import LocalFeatures
from imgfp.runner.machine import Machine
from imgfp.search import index
from imgfp.stages import index as stage_index
from imgfp.stages.index import index_inputs, open_index

FLAT = {"factory": "Flat", "seed": 0, "part_images": 4}


def shard(library, number, images, rng, settings=None, keypoints=10):
    """A shard of made-up features: `images` images of `keypoints` each."""
    parts = [
        (
            np.zeros((keypoints, 4), np.float32),
            rng.integers(0, 255, (keypoints, 128), dtype=np.uint8),
        )
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


@pytest.fixture
def build(address):
    def build(library, **changed):
        return stages.build_index(library, "local", **FLAT | changed, cluster=address)

    return build


def test_new_shards_extend_the_index_by_a_part(library, rng, build):
    report = build(library)
    assert (report.factory, report.vectors, report.parts) == ("Flat", 40, 1)
    assert "40 vectors in 1 part," in report._repr_markdown_()
    before, inputs = written(library), index_inputs(library, "local")
    build(library)
    assert written(library) == before and index_inputs(library, "local") == inputs
    shard(library, 2, 3, rng)
    assert build(library).parts == 2
    after = written(library)
    same = {"trained.faiss", "part-00000-00001.faiss"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert after["owners.arrow"] != before["owners.arrow"]
    assert index_inputs(library, "local") != inputs


def test_a_part_is_merged_with_the_one_before_it_when_it_is_half_as_large(library, rng, build):
    shard(library, 2, 1, rng)
    assert build(library, part_images=100).parts == 1
    shard(library, 3, 2, rng)
    assert build(library, part_images=100).parts == 2  # 5 and 2 images
    shard(library, 4, 1, rng)
    assert build(library, part_images=100).parts == 1
    extended = library.index("local").part(0, 4).read_bytes()
    for path in library.index("local").root.iterdir():
        path.unlink()
    build(library, part_images=100)
    assert library.index("local").part(0, 4).read_bytes() == extended
    assert [path.name for path in library.index("local").root.glob("part-*.faiss")] == [
        "part-00000-00004.faiss"
    ]


def test_a_killed_build_keeps_the_parts_that_it_finished(library, rng, build, monkeypatch):
    monkeypatch.setattr(stage_index, "TASK_IMAGES", 2)
    finish = stage_index._finish
    monkeypatch.setattr(stage_index, "_finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(library, part_images=2)
    with pytest.raises(store.StoreError, match="no index yet"):
        open_index(library, "local")
    before = written(library)
    monkeypatch.setattr(stage_index, "_finish", finish)
    assert build(library, part_images=2).parts == 2
    assert {name: written(library)[name] for name in before} == before


def test_a_changed_shard_is_encoded_again_and_its_neighbours_are_not(library, rng, build):
    shard(library, 2, 4, rng)
    assert build(library).parts == 2
    before = written(library)
    shard(library, 2, 4, rng)
    build(library)
    after = written(library)
    assert after["part-00000-00001.faiss"] == before["part-00000-00001.faiss"]
    assert after["part-00002-00002.faiss"] != before["part-00002-00002.faiss"]


def test_a_damaged_part_is_named_and_built_again_alone(library, rng, build):
    shard(library, 2, 4, rng)
    build(library)
    before = written(library)
    first = library.index("local").part(0, 1)
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(store.StoreError, match="part-00000-00001"):
        open_index(library, "local")
    build(library)
    open_index(library, "local")
    after = written(library)
    assert after["part-00002-00002.faiss"] == before["part-00002-00002.faiss"]


def test_lost_owners_are_made_again_and_no_part_is(library, build, capsys):
    build(library)
    before = written(library)
    store.remove(library.index("local").owners)
    build(library)
    assert "owners.arrow is missing" in capsys.readouterr().out
    after = written(library)
    assert after["part-00000-00001.faiss"] == before["part-00000-00001.faiss"]
    assert open_index(library, "local").owners.image_ids(np.array([0])) == ["0-0"]


@pytest.mark.parametrize("factory", ["Flat", "IVF4,SQ8_direct", "IVF4,PQ16", "IVF4,PQ128x4fsr"])
def test_every_vector_is_found_as_its_own_neighbour_and_owner(library, rng, build, factory):
    for number in range(2, 40):
        shard(library, number, 3, rng)
    last = shard(library, 41, 3, rng)
    build(library, factory=factory)
    opened = open_index(library, "local")
    assert open_index(library, "local") is opened and len(opened.index) == 4 * 10 + 39 * 30
    _, ids = index.search(opened.index, last.descriptors, 1, 4)
    found = opened.owners.image_ids(index.places_of(ids[:, 0]))
    assert found.tolist() == [i for i in last.image_ids for _ in range(10)]
    some = open_index(library, "local", ("part-00000-00001.faiss",))
    assert len(some.index) == 40
    with pytest.raises(ValueError, match="build it again"):
        opened.owners.image_ids(np.array([3]))


def test_the_same_shards_under_other_numbers_have_other_owners(library, build):
    """As when every file of an archive has a new date: the same features, in shards of new numbers."""
    build(library)
    for path in store.shards(library.local_features, ".h5"):
        number = store.shard_number(path) + 2
        store.save(path.with_name(f"shard-{number:05d}.h5"), store.load(path), made_with())
        store.remove(path)
    build(library)
    opened = open_index(library, "local")
    _, ids = index.search(opened.index, np.zeros((1, 128), np.uint8), 5)
    assert set(opened.owners.image_ids(index.places_of(ids[0]))) <= {"0-0", "0-1", "1-0", "1-1"}


def test_another_extraction_builds_another_index(library, rng, build):
    build(library)
    before = written(library)
    for number in range(2):
        shard(library, number, 2, rng, {"short_side_px": 200})
    build(library)
    after = written(library)
    assert all(after[name] != before[name] for name in before if name != "removed.parquet")


def test_a_growing_library_keeps_its_plan_until_it_has_four_times_the_vectors(
    library, build, monkeypatch
):
    monkeypatch.setattr(index, "plan", lambda n, kind: f"IVF{max(1, n // 40)},SQ8_direct")
    folder = library.index("local")
    assert build(library, factory="auto").factory == "IVF1,SQ8_direct"
    trained = folder.trained.read_bytes()
    rng = np.random.default_rng(5)
    for number in range(2, 5):
        shard(library, number, 4, rng)
    assert build(library, factory="auto").factory == "IVF1,SQ8_direct"
    assert folder.trained.read_bytes() == trained
    shard(library, 5, 4, rng)
    assert build(library, factory="auto").factory == "IVF5,SQ8_direct"


def test_a_library_that_cannot_be_indexed_says_why(tmp_path, rng, build):
    library = store.Library(tmp_path / "empty")
    with pytest.raises(store.StoreError, match="local_features holds nothing yet"):
        build(library)
    with pytest.raises(store.StoreError, match="has no index yet; run the notebook"):
        open_index(library, "local")


def test_a_library_without_keypoints_has_an_index_that_finds_nothing(tmp_path, rng, build):
    library = store.Library(tmp_path / "flat")
    shard(library, 0, 2, rng, keypoints=0)
    assert build(library, factory="IVF64,PQ16").factory == "Flat"
    searched = open_index(library, "local").index
    found = index.search(searched, np.zeros((2, 128), np.uint8), 3, 1)
    assert (found[1] == -1).all()


@pytest.mark.parametrize(
    ("room", "said"),
    [
        (
            (500, 10**15),
            r"local index Flat of 40 vectors needs .* of memory on one machine, 500.0 B are",
        ),
        (
            (10**15, 500),
            r"local index Flat of 40 vectors writes 5.4 kB .* 500.0 B of disk are free",
        ),
    ],
)
def test_an_index_that_does_not_fit_is_refused_before_it_is_trained(
    library, build, monkeypatch, room, said
):
    monkeypatch.setattr(stage_index, "this_machine", lambda folder: Machine(1, *room))
    with pytest.raises(store.StoreError, match=said):
        build(library)
    assert not library.index("local").root.exists()


def test_an_extension_is_refused_for_what_it_writes_alone(library, rng, build, monkeypatch):
    build(library)
    shard(library, 2, 1, rng)
    # Ten keypoints in a part of their own, and two parts of 40 and 10 are no merge.
    monkeypatch.setattr(stage_index, "this_machine", lambda folder: Machine(1, 10**15, 10 * 136))
    assert build(library).vectors == 50
    monkeypatch.setattr(
        stage_index, "this_machine", lambda folder: Machine(1, 10**15, 10 * 136 - 1)
    )
    shard(library, 3, 1, rng)
    with pytest.raises(store.StoreError, match="of disk are free"):
        build(library)
    assert open_index(library, "local").index.parts, "the former index is still there"
