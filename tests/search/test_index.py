# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

faiss = pytest.importorskip("faiss")

from small_run import made_with

from imgfp import store
from imgfp.search import index


def nearest(queries, vectors, k):
    """Exact reference: squared distances and rows, equal distances by row."""
    distances = ((queries[:, None].astype(float) - vectors[None].astype(float)) ** 2).sum(axis=2)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, rows, 1), rows


@pytest.fixture
def vectors(rng):
    return rng.integers(0, 256, (600, 128), np.uint8)


def built(factory, vectors, first_id=0):
    made = index.train(factory, vectors, seed=1)
    index.add(made, vectors, first_id)
    return made


@pytest.mark.parametrize("factory", ["IDMap2,SQ8_direct", "IDMap2,Flat", "IVF8,SQ8_direct"])
def test_distances_of_bytes_are_exact(factory, vectors):
    """Lists of plain bytes must not hold differences to the list's centre, which Faiss would cut at 0."""
    queries = vectors[:20] ^ 3
    distances, ids = index.search(built(factory, vectors), queries, 3, nprobe=8)
    expected, rows = nearest(queries, vectors, 3)
    assert distances.dtype == np.float32 and ids.dtype == np.int64
    assert np.array_equal(ids, rows)
    assert np.array_equal(distances, expected.astype(np.float32))


def test_nothing_to_find_is_minus_one(vectors):
    empty = index.train("IDMap2,SQ8_direct", vectors)
    distances, ids = index.search(empty, vectors[:2], 3)
    assert (ids == -1).all() and np.isinf(distances).all()
    index.add(empty, vectors[:2], 10)
    distances, ids = index.search(empty, vectors[:2], 3)
    assert ids[:, 0].tolist() == [10, 11] and (ids[:, 2] == -1).all()
    assert np.isinf(distances[:, 2]).all()


def test_no_queries(vectors):
    distances, ids = index.search(built("IDMap2,Flat", vectors), vectors[:0], 4)
    assert distances.shape == ids.shape == (0, 4)


@pytest.mark.parametrize("factory", ["IDMap2,SQ8_direct", "IVF8,SQ8_direct"])
def test_shards_answer_like_one_index(factory, vectors):
    vectors[400] = vectors[7]  # equal distances from two shards
    whole = built(factory, vectors)
    trained = index.to_bytes(index.train(factory, vectors, seed=1))
    shards = []
    for start, stop in ((350, 600), (0, 1), (1, 350)):
        shard = index.from_bytes(trained)
        index.add(shard, vectors[start:stop], start)
        shards.append(shard)
    for nprobe in (1, 8):
        one = index.search(whole, vectors, 5, nprobe)
        many = index.search(shards, vectors, 5, nprobe)
        assert np.array_equal(one[0], many[0])
        # Of equal distances in the last place either may be cut off.
        assert np.array_equal(one[1][:, :4], many[1][:, :4])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("factory", ["IDMap2,SQ8_direct", "IVF8,SQ8_direct", "IVF8,PQ16np"])
def test_bytes_and_back(factory, shared, vectors):
    made = built(factory, vectors)
    again = index.from_bytes(index.to_bytes(made), shared=shared)
    for one, other in zip(
        index.search(made, vectors, 2), index.search(again, vectors, 2), strict=True
    ):
        assert np.array_equal(one, other)


def test_training_repeats_by_seed(vectors):
    one, same, other = (
        index.to_bytes(index.train("IVF8,SQ8_direct", vectors, s)) for s in (1, 1, 2)
    )
    assert one == same != other


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("cut", [0, 3, 40, 5000])
def test_damaged_bytes_are_refused(vectors, cut, shared):
    data = index.to_bytes(built("IVF8,SQ8_direct", vectors))
    with pytest.raises(ValueError, match="part-3"):
        index.from_bytes(data[:cut], "part-3", shared=shared)


def test_lists_in_another_file_are_refused(vectors):
    data = index.to_bytes(built("IVF8,SQ8_direct", vectors))
    at = data.index(b"ilar")
    with pytest.raises(ValueError, match="another file"):
        index.from_bytes(data[:at] + b"ilod" + data[at + 4 :])


def test_processes_share_the_memory_of_a_mapped_index(vectors, tmp_path):
    path = tmp_path / "part.faiss"
    store.save(path, index.to_bytes(built("IVF8,SQ8_direct", vectors)), made_with())
    data = store.load(path)
    mapped = index.from_bytes(data, shared=True)
    distances, ids = index.search(mapped, vectors[5:6], 1, 8)
    assert distances[0, 0] == 0 and ids[0, 0] == 5
    codes = faiss.extract_index_ivf(mapped).invlists.get_codes(0)
    inside = np.frombuffer(data, np.uint8)
    start = inside.__array_interface__["data"][0]
    assert start <= int(codes) < start + inside.size


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_not_finite_is_refused(vectors, wrong):
    made = built("IDMap2,Flat", vectors.astype(np.float32))
    bad = vectors[:4].astype(np.float32)
    bad[2, 5] = wrong
    with pytest.raises(ValueError, match="row 2"):
        index.add(made, bad, 600)
    with pytest.raises(ValueError, match="row 2"):
        index.search(made, bad, 1)
    with pytest.raises(ValueError, match="row 2"):
        index.train("IVF2,Flat", bad)


def test_wrong_arguments_are_named(vectors):
    made = built("IDMap2,Flat", vectors)
    with pytest.raises(ValueError, match=r"\(n, 128\).*\(2, 64\)"):
        index.search(made, vectors[:2, :64], 1)
    with pytest.raises(ValueError, match="no index"):
        index.search([], vectors, 1)
    with pytest.raises(ValueError, match="Nonsense7"):
        index.train("Nonsense7", vectors)
    with pytest.raises(ValueError, match="1024 lists but 600"):
        index.train("IVF1024,SQ8_direct", vectors)
    with pytest.raises(ValueError, match="kind"):
        index.plan(5, "sideways")


def test_rows_of_ids_passes_empty_images_and_misses():
    offsets = np.array([0, 0, 3, 3, 5, 5])
    ids = np.array([[0, 2, 3], [4, -1, -1]])
    assert index.rows_of_ids(ids, offsets).tolist() == [[1, 1, 3], [3, -1, -1]]
    with pytest.raises(ValueError, match="keypoint 5"):
        index.rows_of_ids(np.array([5]), offsets)


def test_plan_grows_from_exact_to_compressed():
    plans = [index.plan(10**power, "local") for power in range(1, 10)]
    assert plans[0] == "IDMap2,SQ8_direct" and plans[-1].endswith("PQ16")
    lists = [int(p.split(",")[0][3:]) for p in plans if p.startswith("IVF")]
    assert lists == sorted(lists)
    assert index.plan(3000, "global") == "IDMap2,Flat"
    assert index.training_size("IDMap2,Flat") == 0
    for n in (10**5, 10**7):
        assert index.training_size(index.plan(n, "local")) <= n
