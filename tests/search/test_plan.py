# SPDX-License-Identifier: AGPL-3.0-or-later
"""The cost model of an index: limits, growth, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("faiss")

from imgfp.search import blocks, index, plan
from imgfp.search.plan import CodecCost, SearchCost

COST = SearchCost(
    centre_ns=5.0,
    coded_centre_ns=4.0,
    uneven=1.5,
    codecs={
        "Flat": CodecCost(0.0, 10.0, 0.3, 0.0),
        "SQ8_direct": CodecCost(1.0, 8.0, 0.5, 0.0),
        "PQ16": CodecCost(3.0, 6.0, 4.0, 20.0),
        index.PRODUCT_CODEC: CodecCost(3.0, 6.0, 4.0, 20.0),
    },
)
ROOM = {"memory_bytes": 1e15, "disk_bytes": 1e15, "written_bytes": 0.0}


def local(vectors, factory="auto", nprobe=0):
    return plan.plan_index(vectors, "local", 128, factory, nprobe)


@pytest.mark.parametrize("kind", ["local", "global"])
@pytest.mark.parametrize(
    "factory",
    ["Flat", "IVF2,Flat", "IVF2,SQ8", "IVF2,SQ4", "IVF2,PQ16", "IVF2,PQ32x4fsr", "IVF2,SQfp16"],
)
def test_bytes_are_those_of_a_built_index(kind, factory, rng):
    vectors = rng.integers(0, 60, (300, 128), dtype=np.uint8)
    vectors = vectors if kind == "local" else vectors.astype(np.float32)
    planned = plan.plan_index(300, kind, 128, factory)
    trained = index.train(factory, vectors)
    ids = index.ids_of(np.arange(300), np.ones(300))
    part = index.open_part(b"".join(map(bytes, index.encode(trained, vectors, ids))), trained)
    data = b"".join(map(bytes, index.merge([part])))
    filling = 2 * blocks.BLOCK * planned.vector_bytes // 2 if "fs" in factory else 0
    assert len(data) == pytest.approx(planned.bytes, abs=64 + filling)


@pytest.mark.parametrize("lists", [256, 5000])
def test_centres_take_what_their_file_takes(lists, rng):
    sample = rng.integers(0, 60, (6000, 128), dtype=np.uint8)
    trained = index.train(f"IVF{lists},SQ8_direct", sample)
    size = len(index.to_bytes(trained))
    assert local(10**6, f"IVF{lists},SQ8_direct").trained_bytes == pytest.approx(size, rel=0.1)


@pytest.mark.parametrize("vectors", [10_000_001, 10**8, 10**10, 10**12])
def test_a_keypoint_takes_at_most_26_bytes_beyond_ten_million(vectors):
    planned = local(vectors)
    assert (planned.bytes + planned.trained_bytes) / vectors <= 26
    assert local(vectors, "Flat").vector_bytes == 136, "unless the user asks for exact"


def test_what_the_user_asks_for_is_planned():
    assert local(1000).factory == "Flat"
    asked = local(10**8, "IVF512,PQ32", nprobe=20)
    assert (asked.lists, asked.visited, asked.vector_bytes) == (512, 20, 40)
    assert local(10**8, "IVF16,PQ16", nprobe=20).visited == 16
    with pytest.raises(ValueError, match="IVF<lists>"):
        local(10**8, "HNSW32")


def test_more_work_takes_longer():
    grown = [plan.search_s(local(10**power), COST) for power in range(7, 13)]
    assert np.all(np.diff(grown) > 0) and grown[0] > 0
    visited = [plan.search_s(local(10**8, nprobe=nprobe), COST) for nprobe in (1, 8, 64)]
    assert np.all(np.diff(visited) > 0)
    planned = local(10**9)
    assert plan.search_s(planned, COST) < plan.search_s(planned, COST, parts=9)
    assert plan.search_s(planned, COST) < plan.search_s(planned, COST, machines=9)


def test_a_search_of_every_list_compares_every_code():
    every = local(10**7, "IVF1024,PQ16", nprobe=1024)
    assert plan.search_s(every, COST) == pytest.approx(
        1e-9 * 1024 * 5 + 1e-6 * 1024 * 3 + 1e-9 * 10**7 * 6
    )
    exact = local(10**7, "Flat")
    codes = SearchCost(5.0, 12.0, 1.5, COST.codecs | {"Flat": CodecCost(0.0, 10.0, 0.3, 0.0)})
    assert plan.search_s(exact, codes) == pytest.approx(0.1)


def test_an_exact_index_is_not_trained_and_others_ever_longer():
    assert plan.train_s(local(1000), COST) == 0
    trained = [plan.train_s(local(10**power), COST) for power in (6, 8, 10)]
    assert np.all(np.diff(trained) > 0)
    assert plan.add_s(local(10**8), COST) > plan.add_s(local(1000), COST)


def test_a_codec_without_a_price_names_the_command():
    with pytest.raises(ValueError, match=r"local_index=IVF64,SQ4 --plan"):
        plan.search_s(local(10**6, "IVF64,SQ4"), COST)


def test_recall_falls_with_every_tenfold_and_not_below_the_sample():
    at = [plan.expected_recall(0.97, 64, images) for images in (10, 64, 640, 6400)]
    assert at[0] == at[1] == 0.97
    assert at[1] - at[2] == pytest.approx(plan.LOSS_PER_TENFOLD)
    assert at[2] - at[3] == pytest.approx(plan.LOSS_PER_TENFOLD)
    assert plan.expected_recall(0.001, 1, 10**12) >= 0


def test_what_fits_is_not_refused():
    assert plan.refusal(local(10**9), **ROOM) == ""


def test_too_little_memory_is_refused_in_one_line():
    planned = local(4_000_000)
    said = plan.refusal(planned, **ROOM | {"memory_bytes": 2e8})
    assert "\n" not in said and "needs" in said and "200.0 MB are free" in said
    assert "local_index=IVF8192,PQ32x4fsr (99.2 MB)" in said and "cluster=tls://" in said
    assert plan.refusal(planned, **ROOM | {"memory_bytes": 2e8}, machines=4) == ""
    each = plan.refusal(planned, **ROOM | {"memory_bytes": 2e8}, machines=4, processes=32)
    assert "on each machine" in each
    smallest = plan.refusal(local(10**9), **ROOM | {"memory_bytes": 1e9})
    assert "local_index" not in smallest and "fewer references" in smallest


def test_too_little_disk_is_refused_in_one_line():
    said = plan.refusal(local(4_000_000), **ROOM | {"disk_bytes": 1e9, "written_bytes": 1.1e9})
    assert "\n" not in said and "writes 1.1 GB" in said and "1.0 GB of disk are free" in said
    assert "library_dir=" in said
