# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a number of references and queries costs: disk, memory, time, machines. Numbers in, tables out.

The prices come from a sample of the user's own images on the user's own machine (`planning`); what cannot be sampled
is named in `Assumptions`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from imgfp.search import plan
from imgfp.search.plan import IndexPlan, SearchCost

#: Bytes of a stored keypoint (x, y, size, angle) and of its descriptor.
KEYPOINT_BYTES, DESCRIPTOR_BYTES = 16, 128
_DAY_S = 86_400


@dataclass(frozen=True)
class Costs:
    """What images of a sample took, per image, on one core.

    images, queries: in the sample. Of a reference: keypoints, thumbnail_bytes, and seconds of processor time to read it
    (inspect_s), find its keypoints (extract_s) and describe it in one view (describe_s). Of a query: the same with the prefix
    query_, where query_describe_s is of all its views and those of its crops, query_vectors in number; crops, the
    keypoints of all of them, and seconds to detect the crops and extract their keypoints (crops_s).
    vector_width: numbers of a global vector; vote_s: per searched keypoint, over all variants; pair_s: per verified pair;
    local, similar: searches by keypoints and by global vectors. copies: queries made from references of the sample,
    of which recall_exact have their reference among the candidates of the local branch in an exact search of the sample,
    and recall_planned in one by the planned codec at the planned length of a list.
    """

    images: int
    queries: int
    keypoints: float
    thumbnail_bytes: float
    inspect_s: float
    extract_s: float
    describe_s: float
    query_keypoints: float
    query_inspect_s: float
    query_extract_s: float
    query_describe_s: float
    query_vectors: float
    crops: float
    crop_keypoints: float
    crops_s: float
    vector_width: int
    vote_s: float
    pair_s: float
    local: SearchCost
    similar: SearchCost
    copies: int
    recall_exact: float
    recall_planned: float


@dataclass(frozen=True)
class Assumptions:
    """What a plan takes for granted.

    certain_share: queries that their first candidates answer, which are described in one view; explained_share: of
    these, those of which nothing else is to be found, so that no crops are searched and no more pairs verified;
    first_pairs: pairs that are verified first, per query; pairs_per_view: pairs that are verified per view of each
    other query, by the local search, the global search and each crop;
    variants: descriptor variants that are searched; busy_share: time that cores work rather than wait;
    process_bytes: memory of a worker without an index; part_images: references of one part of the index.
    """

    certain_share: float = 0.5
    explained_share: float = 0.73
    first_pairs: float = 1.0
    pairs_per_view: float = 4.0
    variants: int = 3
    busy_share: float = 0.7
    process_bytes: float = 0.5e9
    part_images: int = 1_000_000


@dataclass(frozen=True)
class Indexes:
    """What the user asks for, as in `search.plan.plan_index`: the factory strings of both indexes, and visited lists."""

    local: str = "auto"
    similar: str = "auto"
    local_nprobe: int = 0
    similar_nprobe: int = 0

    def of(self, references: int, costs: Costs) -> tuple[IndexPlan, IndexPlan]:
        """The indexes of the keypoints and of the vectors of this number of references. Raises ValueError."""
        keypoints = math.ceil(references * costs.keypoints)
        return (
            plan.plan_index(keypoints, "local", 128, self.local, self.local_nprobe),
            plan.plan_index(
                references, "global", costs.vector_width, self.similar, self.similar_nprobe
            ),
        )


def stage_times(
    references: int,
    queries: int,
    costs: Costs,
    indexes: Indexes,
    assumed: Assumptions,
    machines: int = 1,
) -> pd.DataFrame:
    """Processor time by stage: columns stage, reference_s and query_s (of one), hours (of all, on one core)."""
    local, similar = indexes.of(references, costs)
    parts = math.ceil(references / assumed.part_images)
    keypoint_s = (
        assumed.variants * plan.search_s(local, costs.local, machines, parts) + costs.vote_s
    )
    vector_s = plan.search_s(similar, costs.similar, machines, parts)
    described_share = 1 - assumed.certain_share
    open_share = 1 - assumed.certain_share * assumed.explained_share
    pairs = assumed.pairs_per_view * (2 + costs.crops)
    train_s = (plan.train_s(local, costs.local), plan.train_s(similar, costs.similar))
    local_s = costs.keypoints * plan.add_s(local, costs.local)
    similar_s = plan.add_s(similar, costs.similar)
    rows = [
        ("images", costs.inspect_s, costs.query_inspect_s, 0.0),
        ("local features", costs.extract_s, costs.query_extract_s, 0.0),
        ("local index", local_s, 0.0, train_s[0]),
        ("local search", 0.0, costs.query_keypoints * keypoint_s, 0.0),
        ("first pairs", 0.0, assumed.first_pairs * costs.pair_s, 0.0),
        ("crops", 0.0, open_share * costs.crops_s, 0.0),
        ("crop search", 0.0, open_share * costs.crop_keypoints * keypoint_s, 0.0),
        (
            "global descriptors",
            costs.describe_s,
            described_share * costs.query_describe_s + assumed.certain_share * costs.describe_s,
            0.0,
        ),
        ("global index", similar_s, 0.0, train_s[1]),
        (
            "global search",
            0.0,
            (described_share * costs.query_vectors + assumed.certain_share) * vector_s,
            0.0,
        ),
        ("further pairs", 0.0, open_share * pairs * costs.pair_s, 0.0),
    ]
    table = pd.DataFrame(rows, columns=["stage", "reference_s", "query_s", "once_s"])
    seconds = references * table["reference_s"] + queries * table["query_s"] + table.pop("once_s")
    return table.assign(hours=seconds / 3600)


def disk_bytes(references: int, queries: int, costs: Costs, indexes: Indexes) -> dict[str, float]:
    """Bytes on disk of a library and of one run, by kind."""
    per_keypoint = KEYPOINT_BYTES + DESCRIPTOR_BYTES
    local, similar = indexes.of(references, costs)
    in_queries = queries * (costs.query_keypoints + costs.crop_keypoints)
    return {
        "thumbnails": (references + queries) * costs.thumbnail_bytes,
        "local features": (references * costs.keypoints + in_queries) * per_keypoint,
        "global vectors": (references + queries * costs.query_vectors) * costs.vector_width * 4.0,
        "local index": float(local.bytes + local.trained_bytes),
        "global index": float(similar.bytes + similar.trained_bytes),
    }


def memory_bytes(
    references: int, costs: Costs, indexes: Indexes, assumed: Assumptions, cores: int, machines: int
) -> float:
    """Memory of one machine: its share of both indexes, and one process per core with the centres of both."""
    local, similar = indexes.of(references, costs)
    process = assumed.process_bytes + local.trained_bytes + similar.trained_bytes
    return (local.bytes + similar.bytes) / machines + cores * process


def machines_for(
    references: int,
    queries_per_day: int,
    costs: Costs,
    indexes: Indexes,
    assumed: Assumptions,
    cores: int,
    memory: float,
) -> float:
    """Machines of `cores` cores and `memory` bytes that hold the indexes and answer the queries of a day in a day;
    infinite where no number does."""
    fixed = memory_bytes(references, costs, indexes, assumed, cores, machines=1)
    shared = sum(index.bytes for index in indexes.of(references, costs))
    processes = fixed - shared
    if processes >= memory:
        return math.inf
    machines = max(1, math.ceil(shared / (memory - processes)))
    day_s = assumed.busy_share * cores * _DAY_S
    # Each machine more finds the nearest lists of all queries again, so that more may never be enough.
    for _ in range(64):
        times = stage_times(references, queries_per_day, costs, indexes, assumed, machines)
        needed = math.ceil(queries_per_day * times["query_s"].sum() / day_s)
        if needed <= machines:
            return machines
        machines = max(needed, machines + 1)
    return math.inf


def capacity(
    sizes: Sequence[int],
    queries_per_day: int,
    costs: Costs,
    *,
    indexes: Indexes,
    assumed: Assumptions,
    cores: int,
    memory_gb: float,
) -> pd.DataFrame:
    """One row per number of references: what a machine, or a cluster of machines of `cores` cores and `memory_gb`, needs.

    Columns references, storage (of keypoints), machines, disk_gb, memory_gb (of each machine), build_hours (wall
    time on all machines), query_s (processor time of one query), recall (expected candidate recall of the local branch).
    """
    rows = []
    for references in sizes:
        machines = machines_for(
            references, queries_per_day, costs, indexes, assumed, cores, memory_gb * 1e9
        )
        counted = 1 if math.isinf(machines) else int(machines)
        times = stage_times(references, queries_per_day, costs, indexes, assumed, counted)
        query_s = float(times["query_s"].sum())
        build_h = float(times["hours"].sum()) - queries_per_day * query_s / 3600
        disk = disk_bytes(references, queries_per_day, costs, indexes)
        memory = memory_bytes(references, costs, indexes, assumed, cores, counted)
        rows.append(
            {
                "references": references,
                "storage": indexes.of(references, costs)[0].factory,
                "machines": machines,
                "disk_gb": sum(disk.values()) / 1e9,
                "memory_gb": memory / 1e9,
                "build_hours": build_h / (assumed.busy_share * cores * counted),
                "query_s": query_s,
                "recall": plan.expected_recall(costs.recall_planned, costs.images, references),
            }
        )
    return pd.DataFrame(rows)
