# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

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


FAMILIES = ["Flat", "IVF8,SQ8_direct", "IVF8,PQ16", "IVF8,PQ32x4fsr", "IVF8,SQfp16", "IVF8,Flat"]


def part_of(trained, vectors, first=0):
    """A part of vectors that are one image each, at places from `first`."""
    ids = index.ids_of(first + np.arange(len(vectors)), np.ones(len(vectors)))
    data = b"".join(bytes(piece) for piece in index.encode(trained, vectors, ids))
    return index.open_part(data, trained, f"part-{first}")


def built(factory, vectors):
    return index.build(vectors, "local", factory, seed=1)


def found_at(searched, queries, k, nprobe=8):
    distances, ids = index.search(searched, queries, k, nprobe)
    return distances, index.places_of(ids)


@pytest.mark.parametrize("factory", ["Flat", "IVF8,SQ8_direct"])
def test_distances_of_bytes_are_exact(factory, vectors):
    """Lists of plain bytes must not hold differences to the list's centre, which Faiss would cut at 0."""
    queries = vectors[:20] ^ 3
    distances, places = found_at(built(factory, vectors), queries, 3)
    expected, rows = nearest(queries, vectors, 3)
    assert distances.dtype == np.float32 and places.dtype == np.int64
    assert np.array_equal(places, rows)
    assert np.array_equal(distances, expected.astype(np.float32))


@pytest.mark.parametrize("factory", ["Flat", "IVF8,SQ8_direct"])
def test_nothing_to_find_is_minus_one(factory, vectors):
    trained = index.train(factory, vectors)
    empty = index.Index(trained, [part_of(trained, vectors[:0])])
    distances, ids = index.search(empty, vectors[:2], 3, 8)
    assert len(empty) == 0 and (ids == -1).all() and np.isinf(distances).all()
    two = index.Index(trained, [part_of(trained, vectors[:2], 10)])
    distances, ids = index.search(two, vectors[:2], 3, 8)
    assert index.places_of(ids[:, 0]).tolist() == [10, 11] and (ids[:, 2] == -1).all()
    assert (index.places_of(ids[:, 2]) == -1).all() and np.isinf(distances[:, 2]).all()


def test_no_queries(vectors):
    distances, ids = index.search(built("Flat", vectors), vectors[:0], 4)
    assert distances.shape == ids.shape == (0, 4)


@pytest.mark.parametrize("factory", FAMILIES)
def test_parts_answer_like_one_index(factory, vectors):
    vectors[400] = vectors[7]  # equal distances from two parts
    whole = built(factory, vectors)
    spans = ((350, 600), (0, 1), (1, 350))
    parts = [part_of(whole.trained, vectors[a:b], a) for a, b in spans]
    for nprobe in (1, 8):
        one = index.search(whole, vectors, 5, nprobe)
        many = index.search(index.Index(whole.trained, parts), vectors, 5, nprobe)
        assert np.array_equal(one[0], many[0])
        # Of equal distances in the last place either may be cut off.
        assert np.array_equal(one[1][:, :4], many[1][:, :4])


@pytest.mark.parametrize("factory", FAMILIES)
def test_merged_parts_have_the_bytes_of_one(factory, vectors):
    whole = built(factory, vectors)
    parts = [part_of(whole.trained, vectors[a:b], a) for a, b in ((0, 9), (9, 9), (9, 600))]
    merged, one = (
        b"".join(bytes(piece) for piece in index.merge(some)) for some in (parts, whole.parts)
    )
    assert merged == one
    if "fs" not in factory:
        assert merged == whole.parts[0].data.tobytes()


def test_results_of_several_machines_merge_exactly(vectors):
    whole = built("IVF8,SQ8_direct", vectors)
    shares = [
        index.Index(whole.trained, [part_of(whole.trained, vectors[a:b], a)])
        for a, b in ((0, 200), (200, 210), (210, 600))
    ]
    merged = index.merge_results([index.search(share, vectors, 5, 2) for share in shares])
    for one, other in zip(index.search(whole, vectors, 5, 2), merged, strict=True):
        assert np.array_equal(one, other)


def test_threads_of_a_worker_may_search_the_same_index(vectors):
    whole = built("IVF8,SQ8_direct", vectors)
    spans = [(start, start + 50) for start in range(0, 600, 50)]
    many = index.Index(whole.trained, [part_of(whole.trained, vectors[a:b], a) for a, b in spans])
    expected = index.search(whole, vectors, 5, 8)
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(lambda _: index.search(many, vectors, 5, 8), range(40)):
            assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])


@pytest.mark.parametrize("factory", FAMILIES)
def test_removed_vectors_are_not_found_and_take_no_place(factory, vectors):
    whole = built(factory, vectors)
    removed = index.ids_of(np.arange(0, 600, 2), np.ones(300))
    masked = index.Index(whole.trained, whole.parts, removed=removed)
    rest = part_of(whole.trained, vectors[1::2], 0)
    distances, ids = index.search(masked, vectors[:50], 4, 8)
    expected, others = index.search(index.Index(whole.trained, [rest]), vectors[:50], 4, 8)
    assert np.array_equal(distances, expected)
    assert np.array_equal(index.places_of(ids), 2 * index.places_of(others) + 1)


@pytest.mark.parametrize("width", [128, 9])
def test_blocks_are_those_of_faiss(width, rng):
    """Merged parts lie in the order in which Faiss itself adds codes, and give the codes back."""
    vectors = rng.integers(0, 256, (600, width), np.uint8)
    trained = index.train(f"IVF8,PQ{width if width == 9 else 32}x4fsr", vectors)
    flat = [part_of(trained, vectors[a:b], a) for a, b in ((0, 9), (9, 600))]
    merged = b"".join(bytes(piece) for piece in index.merge(flat))
    part = index.open_part(merged, trained)
    assert len(part) == 600 and part.data.nbytes > sum(one.data.nbytes for one in flat)
    own = faiss.deserialize_index(faiss.serialize_index(trained))
    own.add(vectors.astype(np.float32))
    for number in range(8):
        size, first = own.invlists.list_size(number), part.starts[number]
        bytes_in_blocks = int(part.rows[number]) * trained.code_size
        stored = faiss.rev_swig_ptr(own.invlists.get_codes(number), bytes_in_blocks)
        assert np.array_equal(part.data[first : first + len(stored)], stored)
        assert size == part.sizes[number]
        pieces = np.concatenate([one.codes(number) for one in flat])
        assert np.array_equal(part.codes(number), pieces)
        assert np.array_equal(part.ids(number), np.concatenate([one.ids(number) for one in flat]))


def test_a_part_in_blocks_that_lies_is_refused(vectors):
    """Faiss reads whole blocks, so sizes that are none would have it read past the end."""
    trained = index.train("IVF8,PQ32x4fsr", vectors)
    whole = part_of(trained, vectors)
    data = b"".join(bytes(piece) for piece in index.merge([whole]))
    assert len(index.open_part(data, trained)) == 600
    sizes, last = np.frombuffer(data, "<u8", 8, 32), data[-1]
    for fill in (32, 255):
        with pytest.raises(ValueError, match="part-3"):
            index.open_part(data[:-1] + bytes([fill]), trained, "part-3")
    for wrong in (sizes[0] - 1, 0):
        lying = sizes.copy()
        lying[0], lying[1] = wrong, sizes[1] + sizes[0] - wrong
        with pytest.raises(ValueError, match="part-3"):
            index.open_part(data[:32] + lying.tobytes() + data[96:], trained, "part-3")
    assert last < 32


@pytest.mark.parametrize("factory", FAMILIES)
def test_bytes_and_back(factory, vectors):
    made = built(factory, vectors)
    trained = index.from_bytes(index.to_bytes(made.trained))
    again = index.Index(trained, [index.open_part(made.parts[0].data.tobytes(), trained)])
    for one, other in zip(
        index.search(made, vectors, 2, 8), index.search(again, vectors, 2, 8), strict=True
    ):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("n_vectors", [10**4, 10**5, 10**6, 3 * 10**7, 10**8])
def test_every_planned_index_can_be_opened_again(n_vectors, rng):
    """The reader's limits must allow what the header honestly needs, at the real number of lists: Faiss's table
    of product codes and centres takes a gigabyte at 65,536 lists."""
    factory = index.plan(n_vectors, "local")
    lists = index.lists_of_factory(factory)
    vectors = rng.integers(0, 256, (max(lists, 300) + 50, 128), np.uint8)
    made = index.build(vectors, "local", factory)
    data = index.to_bytes(made.trained)
    opened = index.from_bytes(data, "trained")
    part = index.open_part(made.parts[0].data.tobytes(), opened)
    _, places = found_at(index.Index(opened, [part]), vectors[:20], 2, 4)
    assert opened.nlist == lists and (places[:, 0] == np.arange(20)).mean() > 0.9
    with pytest.raises(ValueError, match="trained"):
        index.from_bytes(data[: len(data) // 2], "trained")


@pytest.mark.parametrize("width", [128, 63])
def test_many_lists_are_found_by_codes_of_their_centres(width, rng):
    """Above `MOST_FLAT_LISTS` few clusters of centres are visited, and the best by codes are compared exactly, as many
    for one list as for eight; a file keeps all of that."""
    vectors = rng.integers(0, 256, (12_000, width), np.uint8)
    trained = index.train("IVF8192,SQ8_direct", vectors)
    quantiser = faiss.downcast_index(trained.quantizer)
    assert isinstance(quantiser, faiss.IndexRefineFlat) and quantiser.ntotal == 8192
    clusters = faiss.downcast_index(quantiser.base_index)
    assert clusters.nprobe * 4 < clusters.nlist
    centres = quantiser.reconstruct_n(0, 8192)
    queries = vectors[:300].astype(np.float32)
    exact, numbers = faiss.knn(queries, centres, 8)
    for lists in (trained, index.from_bytes(index.to_bytes(trained))):
        _, found = index.nearest_lists(lists, queries, 8)
        assert (found[:, 0] == numbers[:, 0]).mean() > 0.9
        assert np.mean([np.isin(*rows).mean() for rows in zip(numbers, found, strict=True)]) > 0.6
        first, nearest = index.nearest_lists(lists, queries, 1)
        assert np.array_equal(nearest[:, 0], found[:, 0])
        right = nearest[:, 0] == numbers[:, 0]
        np.testing.assert_allclose(first[right, 0], exact[right, 0], rtol=1e-4)


@pytest.mark.parametrize("factory", ["IVF8,SQ8_direct", "IVF5000,PQ32x4fsr"])
def test_training_repeats_by_seed(factory, rng):
    vectors = rng.integers(0, 256, (6000, 128), np.uint8)
    one, same, other = (index.to_bytes(index.train(factory, vectors, s)) for s in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize("cut", [0, 3, 40, 500])
def test_damaged_bytes_are_refused(vectors, cut):
    made = built("IVF8,SQ8_direct", vectors)
    with pytest.raises(ValueError, match="trained-3"):
        index.from_bytes(index.to_bytes(made.trained)[:cut], "trained-3")
    data = made.parts[0].data.tobytes()
    for damaged in (data[:cut], data + b"\0", data[:-8]):
        with pytest.raises(ValueError, match="part-3"):
            index.open_part(damaged, made.trained, "part-3")


def test_a_part_that_lies_about_its_sizes_is_refused(vectors):
    made = built("IVF8,SQ8_direct", vectors)
    data = made.parts[0].data.tobytes()
    sizes = np.frombuffer(data, "<u8", 8, 32).copy()
    for wrong in (1 << 63, (1 << 64) - 1, 1 << 40):
        lying = sizes.copy()
        lying[3] = wrong
        with pytest.raises(ValueError, match="part-3"):
            index.open_part(data[:32] + lying.tobytes() + data[96:], made.trained, "part-3")
    other = built("IVF4,SQ8_direct", vectors)
    with pytest.raises(ValueError, match="no part of this index"):
        index.open_part(data, other.trained)


def test_lists_in_another_file_are_refused(vectors):
    data = index.to_bytes(built("IVF8,SQ8_direct", vectors).trained)
    at = data.index(b"ilar")
    with pytest.raises(ValueError, match="another file"):
        index.from_bytes(data[:at] + b"ilod" + data[at + 4 :])


def test_another_kind_of_index_is_refused(vectors):
    flat = faiss.IndexFlatL2(128)
    with pytest.raises(ValueError, match=r"mine: a IndexFlat.* is no index of a library"):
        index.from_bytes(faiss.serialize_index(flat).tobytes(), "mine")


def test_processes_share_the_memory_of_a_mapped_part(vectors, tmp_path):
    made = built("IVF8,SQ8_direct", vectors)
    path = tmp_path / "part.faiss"
    store.save(path, index.merge(made.parts), made_with())
    data = store.load(path)
    part = index.open_part(data, made.trained)
    distances, places = found_at(index.Index(made.trained, [part]), vectors[5:6], 1)
    assert distances[0, 0] == 0 and places[0, 0] == 5
    inside = np.frombuffer(data, np.uint8)
    start = inside.__array_interface__["data"][0]
    assert start <= int(part.lists.get_codes(0)) < start + inside.size


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_not_finite_is_refused(vectors, wrong):
    made = built("Flat", vectors.astype(np.float32))
    bad = vectors[:4].astype(np.float32)
    bad[2, 5] = wrong
    with pytest.raises(ValueError, match="row 2"):
        part_of(made.trained, bad)
    with pytest.raises(ValueError, match="row 2"):
        index.search(made, bad, 1)
    with pytest.raises(ValueError, match="row 2"):
        index.train("IVF2,Flat", bad)


def test_wrong_arguments_are_named(vectors):
    made = built("Flat", vectors)
    with pytest.raises(ValueError, match=r"\(n, 128\).*\(2, 64\)"):
        index.search(made, vectors[:2, :64], 1)
    with pytest.raises(ValueError, match="no index"):
        index.search(index.Index(made.trained, []), vectors, 1)
    with pytest.raises(ValueError, match=r"Nonsense7.*expected auto, Flat"):
        index.resolve("Nonsense7", 5, "local")
    with pytest.raises(ValueError, match="PQ77"):
        index.train("IVF2,PQ77", vectors)
    with pytest.raises(ValueError, match="1024 lists but 600"):
        index.train("IVF1024,SQ8_direct", vectors)
    with pytest.raises(ValueError, match="kind"):
        index.plan(5, "sideways")


def test_ids_hold_the_place_and_the_number_of_a_vector():
    ids = index.ids_of(np.array([7, 3 << 40, 9]), np.array([2, 0, 3]))
    assert index.places_of(ids).tolist() == [7, 7, 9, 9, 9] and len(set(ids.tolist())) == 5
    assert index.places_of(np.array([[-1]])).tolist() == [[-1]]
    most = index.ids_of(np.array([(1 << 43) - 1]), np.array([2]))
    assert (most > 0).all() and (index.places_of(most) == (1 << 43) - 1).all()
    with pytest.raises(ValueError, match="1,048,576 vectors"):
        index.ids_of(np.array([1]), np.array([1 << 20]))


def test_plan_grows_from_exact_to_compressed():
    sizes = [10**power for power in range(1, 11)]
    plans = [index.plan(size, "local") for size in sizes]
    assert plans[0] == "Flat" and plans[-1].endswith(index.PRODUCT_CODEC)
    lists = [index.lists_of_factory(plan) for plan in plans]
    assert lists == sorted(lists)
    assert index.plan(3000, "global") == "Flat"
    assert index.training_size("Flat") == 0
    for n in (10**5, 10**7):
        assert index.training_size(index.plan(n, "local")) <= n


def test_the_work_of_a_search_grows_more_slowly_than_the_square_root():
    """Vectors scanned for a query keypoint in a planned index, from ten million keypoints on."""
    sizes = [2 * 10**7, 2 * 10**8, 2 * 10**9]
    lists = [index.lists_for(size, "local") for size in sizes]
    work = [size / n * index.nprobe_for(n, "local") for size, n in zip(sizes, lists, strict=True)]
    assert work[1] / work[0] < 10**0.5 and work[2] / work[1] < 10**0.5
