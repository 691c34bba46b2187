# SPDX-License-Identifier: AGPL-3.0-or-later
"""`imgfp run PROFILE --plan`: what a run will cost on this machine, before anything is computed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.benchmarks import capacity, sample
from imgfp.benchmarks.capacity import Assumptions, Costs, Indexes
from imgfp.runner.machine import Machine, this_machine
from imgfp.runner.schema import Parameters
from imgfp.search import plan
from imgfp.stages import inventory
from imgfp.stages.verification import FIRST
from imgfp.store import Library

#: Files of each side that are read.
SAMPLED = {"references": 64, "queries": 32}


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run: number of references and queries, what was measured, what was asked and assumed, the machine."""

    references: int
    queries: int
    costs: Costs
    indexes: Indexes
    assumed: Assumptions
    machine: Machine

    def refusal(self) -> str:
        """Why the run does not fit on this machine, in one line; blank if it does."""
        for built in self.indexes.of(self.references, self.costs):
            reason = plan.refusal(
                built,
                memory_bytes=self.machine.memory_bytes,
                disk_bytes=self.machine.disk_bytes,
                written_bytes=2 * built.bytes,
                processes=self.machine.cores,
            )
            if reason:
                return reason
        sizes = (self.references, self.queries, self.costs, self.indexes)
        needed, free = sum(capacity.disk_bytes(*sizes).values()), self.machine.disk_bytes
        if needed > free:
            return (
                f"{self.references:,} references and {self.queries:,} queries need {needed / 1e9:,.1f} GB of disk, "
                f"{free / 1e9:,.1f} GB are free; take another disk (library_dir=...), or fewer references"
            )
        return ""


@store.produces("plan")
def plan_run(values: dict[str, Any], library: Library) -> RunPlan:
    """Measure a sample of the images that a profile names, plan the run, and store the plan with the library.

    values: checked values of a profile. Raises what `inventory.list_files` raises, StoreError for a library without images,
    and ValueError where no sampled reference can be read.
    """
    known = {name: value for name, value in values.items() if name in Parameters.model_fields}
    settings = Parameters(**known)
    references = _listed(settings.reference_dir, library)
    queries = inventory.list_files(settings.query_dir)
    rng = np.random.default_rng(settings.seed)
    sampled = [
        files.iloc[np.sort(rng.permutation(len(files))[: SAMPLED[side]])]
        for side, files in (("references", references), ("queries", queries))
    ]
    indexes = Indexes(
        settings.local_index, settings.global_index, settings.local_nprobe, settings.global_nprobe
    )
    costs = sample.measure(settings, *sampled, indexes=indexes, planned_references=len(references))
    assumed = Assumptions(
        certain_share=Assumptions.certain_share if settings.certain_score < 1 else 0.0,
        first_pairs=float(FIRST) if settings.certain_score < 1 else 0.0,
        pairs_per_view=settings.candidates_verified or settings.local_candidates,
        variants=len(settings.descriptor_variants),
        part_images=settings.index_part_images,
    )
    made = RunPlan(
        len(references), len(queries), costs, indexes, assumed, this_machine(library.root)
    )
    store.refuse_fetched(library.plan_json)
    with store.lock(library.root):
        store.save(library.plan_json, asdict(made), store.origin(plan_run, {}))
    return made


def read_plan(library: Library) -> RunPlan:
    """The plan that is stored with a library. Raises StoreError where there is none, or one of another version."""
    if not library.plan_json.exists():
        raise store.StoreError(f"{library.root} has no plan yet; run imgfp run PROFILE --plan")
    stored = store.load(library.plan_json)
    try:
        return RunPlan(
            stored["references"],
            stored["queries"],
            capacity.from_json(stored["costs"]),
            Indexes(**stored["indexes"]),
            Assumptions(**stored["assumed"]),
            Machine(**stored["machine"] | {"gpus": tuple(stored["machine"]["gpus"])}),
        )
    except (KeyError, TypeError):
        raise store.StoreError(
            f"{library.plan_json} is of another version; run imgfp run PROFILE --plan again"
        ) from None


def lines(planned: RunPlan) -> list[str]:
    """The plan in words and a table, for a terminal."""
    costs, here, assumed = planned.costs, planned.machine, planned.assumed
    sizes = (planned.references, planned.queries, costs, planned.indexes)
    local, similar = planned.indexes.of(planned.references, costs)
    times = capacity.stage_times(*sizes, assumed)
    wall = times["hours"] / (assumed.busy_share * here.cores)
    disk = capacity.disk_bytes(*sizes)
    memory = capacity.memory_bytes(
        planned.references, costs, planned.indexes, assumed, here.cores, machines=1
    )
    recall = plan.expected_recall(costs.recall_planned, costs.images, planned.references)
    said = [
        f"references      {planned.references:,}, {costs.keypoints:,.0f} keypoints each ({costs.images} sampled)",
        f"queries         {planned.queries:,}, {costs.query_keypoints:,.0f} keypoints each, {costs.crops:.1f} crops "
        f"({costs.queries} sampled)",
        f"machine         {here.cores} cores, {here.memory_bytes / 1e9:,.1f} GB of memory and "
        f"{here.disk_bytes / 1e9:,.1f} GB of disk free, {', '.join(here.gpus) or 'no GPU'}",
        f"local index     {local.factory}, {local.visited} of {local.lists:,} lists visited, "
        f"{local.vector_bytes} bytes per keypoint, {local.bytes / 1e9:,.3f} GB",
        f"global index    {similar.factory}, {similar.visited} of {similar.lists:,} lists visited, "
        f"{similar.bytes / 1e9:,.3f} GB",
        "",
        f"{'stage':<20}{'reference':>12}{'query':>12}{'wall time':>12}",
    ]
    for row, hours in zip(times.itertuples(), wall, strict=True):
        each = (
            f"{1000 * s:,.1f} ms" if s else "" for s in (float(row.reference_s), float(row.query_s))
        )
        said.append(f"{row.stage:<20}{next(each):>12}{next(each):>12}{_time(hours):>12}")
    total = (
        f"{times['reference_s'].sum() * 1000:,.1f} ms",
        f"{times['query_s'].sum() * 1000:,.1f} ms",
    )
    return [
        *said,
        f"{'all':<20}{total[0]:>12}{total[1]:>12}{_time(wall.sum()):>12}",
        "",
        f"on disk         {sum(disk.values()) / 1e9:,.2f} GB: "
        + ", ".join(f"{name} {size / 1e9:,.2f}" for name, size in disk.items()),
        f"in memory       {memory / 1e9:,.2f} GB with {here.cores} processes",
        f"local branch    {costs.copies} copies of the sample: reference among the candidates {costs.recall_exact:.3f} "
        f"in an exact search, {costs.recall_planned:.3f} as planned; expected at {planned.references:,} "
        f"references {recall:.3f}",
        f"assumed         {assumed.certain_share:.0%} of the queries are answered by their first candidates; "
        f"cores are busy {assumed.busy_share:.0%} of the time; nothing is stored yet",
    ]


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:,.1f} s"
    return f"{60 * hours:,.1f} min" if hours < 1 else f"{hours:,.1f} h"


def _listed(source: str, library: Library) -> pd.DataFrame:
    """The files of a folder or manifest, or of the library where none is named."""
    if source:
        return inventory.list_files(source)
    return inventory.read_images(library, ["image_id", "path", "file_bytes", "mtime_ns", "source"])
