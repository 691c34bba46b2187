# SPDX-License-Identifier: AGPL-3.0-or-later
"""Capacity: tables from prices."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("faiss")

from imgfp.benchmarks import capacity
from imgfp.benchmarks.capacity import Assumptions, Costs, Indexes
from imgfp.search.plan import CodecCost, SearchCost

CODECS = {
    "Flat": CodecCost(0.0, 10.0, 0.3, 0.0),
    "SQ8_direct": CodecCost(1.0, 8.0, 0.5, 0.0),
    "PQ32x4fsr": CodecCost(3.0, 6.0, 4.0, 20.0),
    "SQfp16": CodecCost(1.0, 18.0, 1.0, 0.0),
}
COSTS = Costs(
    images=64, queries=32, keypoints=400.0, thumbnail_bytes=15_000.0, inspect_s=0.002, extract_s=0.02,
    describe_s=0.01, query_keypoints=500.0, query_inspect_s=0.003, query_extract_s=0.02,
    query_describe_s=0.1, query_vectors=9.0, crops=1.0, crop_keypoints=300.0, crops_s=0.04,
    vector_width=256, vote_s=1e-5, pair_s=0.01, local=SearchCost(5.0, 12.0, 1.5, CODECS),
    similar=SearchCost(7.0, 20.0, 1.3, CODECS), copies=32, recall_exact=0.97, recall_planned=0.96,
)  # fmt: skip
ASSUMED = Assumptions()
SIZES = [10**power for power in range(4, 11)]


def grown(queries=50_000, **machine):
    machine = {"cores": 16, "memory_gb": 64.0} | machine
    return capacity.capacity(
        SIZES, queries, COSTS, indexes=Indexes(), assumed=ASSUMED, **machine
    ).set_index("references")


def of_query(assumed, costs=COSTS):
    times = capacity.stage_times(10_000, 1000, costs, Indexes(), assumed).set_index("stage")
    return times["query_s"]


def test_nothing_takes_no_time_and_no_disk():
    assert capacity.stage_times(0, 0, COSTS, Indexes(), ASSUMED)["hours"].sum() == 0
    assert sum(capacity.disk_bytes(0, 0, COSTS, Indexes()).values()) < 10_000


def test_hours_are_those_of_all_images():
    times = capacity.stage_times(10_000, 1000, COSTS, Indexes(), ASSUMED).set_index("stage")
    assert times.loc["local features", "hours"] == pytest.approx(
        (10_000 * 0.02 + 1000 * 0.02) / 3600
    )
    assert times.loc["further pairs", "query_s"] == pytest.approx((1 - 0.5 * 0.73) * 4 * 3 * 0.01)


def test_queries_that_are_answered_early_cost_less():
    none, half, every = (of_query(replace(ASSUMED, certain_share=share)) for share in (0, 0.5, 1))
    late = ["crops", "crop search", "global descriptors", "global search", "further pairs"]
    assert (none[late] > half[late]).all() and (half[late] > every[late]).all()
    early = ["images", "local features", "local search", "first pairs"]
    assert np.allclose(none[early], every[early]) and (none[early] > 0).all()
    explained = of_query(Assumptions(certain_share=1, explained_share=1))
    assert explained["crops"] == explained["further pairs"] == 0 < every["crops"]
    assert explained["global descriptors"] == every["global descriptors"] == COSTS.describe_s


def test_a_library_of_a_million_takes_what_its_parts_take():
    disk = capacity.disk_bytes(1_000_000, 0, COSTS, Indexes())
    assert disk["local features"] == 400e6 * 144
    assert disk["global vectors"] == 1e6 * 1024
    assert disk["local index"] == pytest.approx(400e6 * 24, rel=0.03)
    exact = capacity.disk_bytes(1_000_000, 0, COSTS, Indexes(local="Flat"))
    assert exact["local index"] == pytest.approx(400e6 * 136, rel=0.01)


def test_everything_grows_with_the_library():
    table = grown()
    for name in ("disk_gb", "query_s", "machines"):
        assert table[name].is_monotonic_increasing, name
    assert table["recall"].is_monotonic_decreasing and table["recall"].between(0.5, 1).all()
    assert table.loc[10_000, "machines"] == 1 < table.loc[10**9, "machines"]


def test_machines_hold_the_index_and_answer_in_a_day():
    table = grown()
    assert (table["memory_gb"] <= 64).all()
    busy = 50_000 * table["query_s"] / (table["machines"] * 16 * 86_400)
    assert (busy <= ASSUMED.busy_share + 1e-9).all()
    larger = grown(cores=64, memory_gb=512.0)
    assert (larger["machines"] <= table["machines"]).all()
    assert grown(queries=5_000_000).loc[10_000, "machines"] > 1


def test_more_machines_may_never_be_enough():
    # Centres alone take 2^20 x 528 bytes a process.
    assert math.isinf(grown(cores=128, memory_gb=8.0).loc[10**9, "machines"])
    # Finding lists for that many queries takes each machine longer than a day, whatever its share.
    assert math.isinf(grown(queries=10**9, cores=1).loc[10**9, "machines"])
