# SPDX-License-Identifier: AGPL-3.0-or-later
"""The copy of an index to GPUs, with Faiss's CPU indexes in the place of its GPU ones."""

from __future__ import annotations

import ctypes
import types
import warnings

import faiss
import numpy as np
import pytest
from gpu_stand_in import GB, install

from imgfp.search import gpu, index


@pytest.fixture
def two_gpus(monkeypatch):
    return install(monkeypatch, 2)


@pytest.fixture
def sift(rng) -> np.ndarray:
    """(3000,128) uint8 with the norm of RootSIFT x 255."""
    made = rng.gamma(0.6, size=(3000, 128))
    return np.rint(255 * np.sqrt(made / made.sum(axis=1, keepdims=True))).astype(np.uint8)


def library(vectors, kind, factory, parts=3, removed=()) -> index.Index:
    """An index of vectors in several parts, ids from 1000."""
    trained = index.train(factory, vectors[: max(index.training_size(factory), 1)])
    ids = np.arange(1000, 1000 + len(vectors))
    made = [
        index.open_part(
            b"".join(map(bytes, index.encode(trained, vectors[rows], ids[rows]))), trained
        )
        for rows in np.array_split(np.arange(len(vectors)), parts)
    ]
    nprobe = index.nprobe_for(trained.nlist, kind)
    return index.Index(trained, made, nprobe, np.array(removed, np.int64))


def both(made, queries, k, nprobe, device="cuda"):
    """Distances and ids on the CPU, and on the stand-ins."""
    chosen = gpu.search_device(made.trained, len(made), device, k, nprobe)
    assert chosen.startswith("cuda")
    moved = gpu.to_gpu(made.trained, made.parts, made.removed, chosen)
    found = moved.search(np.asarray(queries, np.float32), k, min(nprobe, made.trained.nlist))
    return index.search(made, queries, k, nprobe), index.merge_results([found])


def test_an_exact_index_is_shared_by_all_gpus_as_half_floats(two_gpus, sift):
    made = library(sift, "local", "Flat", removed=[1000, 1700, 3999])
    (distances, ids), (on_gpu, ids_on_gpu) = both(made, sift[::50], 5, 1)
    assert two_gpus.moved == [(0, "IndexFlatL2", True), (1, "IndexFlatL2", True)]
    np.testing.assert_array_equal(on_gpu, distances)  # bytes are exact in half floats
    np.testing.assert_array_equal(ids_on_gpu, ids)
    assert ids[1, 0] == 1050 and ids[0, 0] != 1000
    shards = gpu.to_gpu(made.trained, made.parts, made.removed, "cuda").held
    assert [shards.at(i).ntotal for i in range(shards.count())] == [1498, 1499]


def test_a_named_gpu_holds_all_of_an_exact_index(two_gpus, sift):
    made = library(sift, "local", "Flat")
    (distances, _), (on_gpu, _) = both(made, sift[:7], 3, 1, device="cuda:1")
    assert {number for number, *_ in two_gpus.moved} == {1}
    np.testing.assert_array_equal(on_gpu, distances)


def test_vectors_of_floats_lose_what_half_floats_lose(two_gpus, rng):
    vectors = rng.normal(size=(2000, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    (distances, ids), (on_gpu, ids_on_gpu) = both(
        library(vectors, "global", "Flat"), vectors[:40], 4, 1
    )
    assert (ids_on_gpu[:, 0] == ids[:, 0]).all()
    assert 0 < np.abs(on_gpu - distances).max() < 2e-3


def test_fewer_vectors_than_neighbours_or_gpus(two_gpus, sift):
    made = library(sift[:3], "local", "Flat", parts=1, removed=[1000, 1001])
    (distances, ids), (on_gpu, ids_on_gpu) = both(made, sift[:2], 4, 1)
    assert ids.tolist() == ids_on_gpu.tolist() == [[1002, -1, -1, -1]] * 2
    np.testing.assert_array_equal(on_gpu, distances)


@pytest.mark.parametrize(
    "codec", ["SQ8_direct", "PQ16", "PQ32x4fsr", "PQ64", "SQfp16", "SQ8", "SQ4", "Flat"]
)
def test_an_index_of_lists_goes_to_one_gpu(two_gpus, sift, codec):
    made = library(sift, "local", f"IVF16,{codec}", removed=np.arange(1000, 1100))
    (distances, ids), (on_gpu, ids_on_gpu) = both(made, sift[:300], 6, 4)
    (number, _, half), *others = two_gpus.moved
    assert number == 0 and not others and half == (codec == "PQ64")
    if codec == "PQ32x4fsr":  # tables of bytes on a CPU
        np.testing.assert_allclose(on_gpu, distances, rtol=0.01)
        assert np.mean([np.isin(*rows).mean() for rows in zip(ids, ids_on_gpu, strict=True)]) > 0.9
    else:
        np.testing.assert_allclose(on_gpu, distances, rtol=1e-4, atol=0.5)
        assert (ids_on_gpu == ids).mean() > 0.99
    assert not np.isin(ids_on_gpu, np.arange(1000, 1100)).any()
    assert made.trained.ntotal == 0  # as it was


def test_centres_in_an_index_of_their_own_are_laid_flat(two_gpus, sift, monkeypatch):
    monkeypatch.setattr(index, "MOST_FLAT_LISTS", 8)
    made = library(sift, "local", "IVF64,SQ8_direct")
    assert isinstance(faiss.downcast_index(made.trained.quantizer), faiss.IndexRefineFlat)
    every = gpu.to_gpu(made.trained, made.parts, made.removed, "cuda:1").search(
        sift[:50].astype(np.float32), 1, 64
    )
    assert two_gpus.moved == [(1, "IndexIVFScalarQuantizer", False)]
    assert every[1][:, 0].tolist() == list(range(1000, 1050)) and not every[0].any()
    fewer = gpu.to_gpu(made.trained, made.parts, made.removed, "cuda").search(
        sift[:300].astype(np.float32) + 9, 5, 1
    )
    more = gpu.to_gpu(made.trained, made.parts, made.removed, "cuda").search(
        sift[:300].astype(np.float32) + 9, 5, 64
    )
    assert (fewer[0][:, 0] > more[0][:, 0]).any()  # the lists visited count


@pytest.mark.parametrize(
    ("factory", "k", "nprobe", "reason"),
    [
        ("IVF16,SQ6", 5, 4, "no GPU code for SQ6"),
        ("IVF16,SQbf16", 5, 4, "no GPU code for SQ6 and SQbf16"),
        ("IVF16,PQ16x4", 5, 4, "no GPU code for PQ16x4"),
        ("IVF16,PQ2x6", 5, 4, "no GPU code for PQ2x6"),
        ("IVF16,PQ16", 2049, 4, "2,049 neighbours; a GPU finds at most 2,048"),
        ("Flat", 4000, 1, "4,000 neighbours"),
    ],
)
def test_what_a_gpu_cannot_do_stays_on_the_cpu_with_one_line(
    two_gpus, sift, factory, k, nprobe, reason
):
    trained = index.train(factory, sift)
    for device in ("auto", "cuda"):
        with pytest.warns(UserWarning) as said:
            assert gpu.search_device(trained, 3000, device, k, nprobe) == "cpu"
        (line,) = (str(one.message) for one in said)
        assert line.startswith(f"device {device}: the search runs on the CPU: ") and reason in line
        assert "\n" not in line
    assert not two_gpus.moved


def test_lists_visited_are_bounded_by_the_lists_there_are(two_gpus, sift):
    trained = index.train("IVF16,PQ16", sift)
    assert gpu.search_device(trained, 3000, "cuda:1", 2048, 5000) == "cuda:1"
    many = types.SimpleNamespace(nlist=4096, d=128, code_size=128)
    with pytest.warns(UserWarning, match="5,000 lists visited"):
        assert gpu.search_device(many, 3000, "cuda", 5, 5000) == "cpu"


def test_an_index_that_does_not_fit_is_refused_with_its_size(two_gpus, sift):
    flat, listed = index.train("Flat", sift), index.train("IVF16,PQ16", sift)
    # The keypoints of 2021 on eight GPUs of 32 GB, as then, and on half of them.
    two_gpus.free, two_gpus.count = 32 * 2**30, 8
    assert gpu.search_device(flat, 600_000_000, "auto", 1, 1) == "cuda"
    two_gpus.count = 4
    with pytest.warns(
        UserWarning, match=r"needs 39\.0 GB on GPU 0, which has 32\.2 GB free for it"
    ):
        assert gpu.search_device(flat, 600_000_000, "auto", 1, 1) == "cpu"
    assert gpu.search_device(listed, 600_000_000, "cuda", 11, 8) == "cuda"
    two_gpus.free = 14 * GB
    with pytest.warns(UserWarning, match=r"needs 14\.4 GB on GPU 0, which has 11\.9 GB"):
        assert gpu.search_device(listed, 600_000_000, "cuda", 11, 8) == "cpu"


def test_without_gpus_auto_is_silent_and_cuda_says_so(monkeypatch, sift):
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    trained = index.train("Flat", sift)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for device in ("auto", "cpu"):
            assert gpu.search_device(trained, 10, device, 1, 1) == "cpu"
    with pytest.warns(
        UserWarning, match="device cuda: .*Faiss sees 0 GPUs; faiss-gpu may see more"
    ):
        assert gpu.search_device(trained, 10, "cuda", 1, 1) == "cpu"


def test_this_faiss_has_as_many_gpus_as_it_says(monkeypatch):
    assert gpu.gpus() == faiss.get_num_gpus()
    monkeypatch.delattr(faiss, "get_num_gpus")
    assert gpu.gpus() == 0


def test_a_failure_of_faiss_is_one_line(two_gpus, sift, monkeypatch):
    def fail(*_):
        raise RuntimeError("Error in x.cpp:\nError: 'err == cudaSuccess' failed: out of memory")

    monkeypatch.setattr(faiss, "index_cpu_to_gpu", fail)
    made = library(sift, "local", "IVF16,PQ16")
    with pytest.raises(
        RuntimeError, match=r"^Faiss could not copy .*: Error: .*memory; set device: cpu$"
    ):
        gpu.to_gpu(made.trained, made.parts, None, "cuda")
    broken = gpu.GpuIndex(types.SimpleNamespace(search=fail), np.arange(3))
    with pytest.raises(
        RuntimeError, match=r"^Faiss could not search on the GPU: .*memory; set device: cpu$"
    ):
        broken.search(sift[:1].astype(np.float32), 1, 1)


def test_a_process_without_the_gpu_stops(two_gpus, sift):
    made = library(sift, "local", "Flat")
    with pytest.raises(RuntimeError, match="device cuda:2: Faiss sees 2 GPUs in this process"):
        gpu.to_gpu(made.trained, made.parts, None, "cuda:2")
    two_gpus.count = 0
    with pytest.raises(RuntimeError, match="device cuda: Faiss sees 0 GPUs in this process"):
        gpu.to_gpu(made.trained, made.parts, None, "cuda")


class Driver:
    """NVIDIA's driver with one device, 3 of 4 GB free; `fails` names the call that does not succeed."""

    def __init__(self, fails=""):
        self.fails, self.calls = fails, []

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append(name)
            if name == self.fails:
                return 100
            if name == "cuMemGetInfo_v2":
                for argument, value in zip(arguments, (3 * GB, 4 * GB), strict=True):
                    argument._obj.value = value
            return 0

        return call


def test_free_memory_is_the_drivers(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert gpu.free_bytes(0) == 3 * GB
    assert driver.calls[-2:] == ["cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2"]
    for fails in list(driver.calls[:5]):
        broken = Driver(fails)
        monkeypatch.setattr(ctypes, "CDLL", lambda name, broken=broken: broken)
        assert gpu.free_bytes(0) == 0
        retained = (
            "cuDevicePrimaryCtxRetain" in broken.calls and fails != "cuDevicePrimaryCtxRetain"
        )
        assert ("cuDevicePrimaryCtxRelease_v2" in broken.calls) == retained

    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert gpu.free_bytes(0) == 0
