# SPDX-License-Identifier: AGPL-3.0-or-later
"""`imgfp run PROFILE --plan`: what a run will cost on this machine, before anything is computed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.benchmarks import capacity, sample
from imgfp.benchmarks.capacity import Assumptions, Costs, Indexes
from imgfp.runner import cluster
from imgfp.runner.machine import Machine, this_machine
from imgfp.runner.schema import Parameters
from imgfp.search import plan
from imgfp.stages import inventory
from imgfp.store import Collection, Library

#: Files of each side that are read.
SAMPLED = {"references": 64, "queries": 32}


@dataclass(frozen=True)
class RunPlan:
    """The plan of a run: number of references and queries, what was measured, what was asked and assumed, this machine
    (cores: as many as have a worker process), and how many of its like the cluster has."""

    references: int
    queries: int
    costs: Costs
    indexes: Indexes
    assumed: Assumptions
    machine: Machine
    machines: int = 1

    def stages(self) -> pd.DataFrame:
        """`capacity.stage_times` with wall_hours on this machine, and a last row of all stages."""
        times = capacity.stage_times(
            self.references, self.queries, self.costs, self.indexes, self.assumed, self.machines
        )
        times.loc[len(times)] = ["all", *times.drop(columns="stage").sum()]
        cores = self.machine.cores * self.machines
        return times.assign(wall_hours=times["hours"] / (self.assumed.busy_share * cores))

    def disk_bytes(self) -> float:
        """Of the library and the run."""
        sizes = capacity.disk_bytes(self.references, self.queries, self.costs, self.indexes)
        return sum(sizes.values())

    def memory_bytes(self) -> float:
        """Of each machine, see `capacity.memory_bytes`."""
        return capacity.memory_bytes(
            self.references,
            self.costs,
            self.indexes,
            self.assumed,
            self.machine.cores,
            self.machines,
        )

    def refusal(self) -> str:
        """Why the run does not fit on this machine, in one line; blank if it does."""
        for built in self.indexes.of(self.references, self.costs):
            reason = plan.refusal(
                built,
                memory_bytes=self.machine.memory_bytes,
                disk_bytes=self.machine.disk_bytes,
                written_bytes=2 * built.bytes,
                machines=self.machines,
                processes=self.machine.cores,
            )
            if reason:
                return reason
        what = f"{self.references:,} references and {self.queries:,} queries"
        needed, free = self.memory_bytes(), self.machine.memory_bytes
        if needed > free:
            return (
                f"{what} need {needed / 1e9:,.1f} GB of memory with {self.machine.cores} processes, {free / 1e9:,.1f} GB "
                "are free; take fewer (workers=...), more machines (cluster=tls://...), or fewer references"
            )
        needed, free = self.disk_bytes(), self.machine.disk_bytes
        if needed > free:
            return (
                f"{what} need {needed / 1e9:,.1f} GB of disk, {free / 1e9:,.1f} GB are free; "
                "take another disk (library_dir=...), or fewer references"
            )
        return ""


@store.produces("plan")
def plan_run(values: dict[str, Any], library: Library) -> RunPlan:
    """Measure a sample of the images that a profile names, plan the run, and store the plan with the library.

    values: checked values of a profile. Raises what `inventory.list_files` raises, StoreError for a fetched library or,
    where no folder is named, for one without images, and ValueError where no sampled file of a side can be read.
    """
    store.refuse_fetched(library.plan_json)
    known = {name: value for name, value in values.items() if name in Parameters.model_fields}
    settings = Parameters(**known)
    machines = cluster.machines(settings.cluster)
    references = _listed(settings.reference_dir, library)
    queries = _listed(settings.query_dir, store.Run(settings.run_dir))
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
        first_pairs=Assumptions.first_pairs if settings.certain_score < 1 else 0.0,
        pairs_per_view=settings.candidates_verified or settings.local_candidates,
        variants=len(settings.descriptor_variants),
        part_images=settings.index_part_images,
    )
    here = this_machine(library.root)
    here = replace(here, cores=settings.workers or here.cores)
    made = RunPlan(len(references), len(queries), costs, indexes, assumed, here, machines)
    with store.lock(library.root):
        store.save(library.plan_json, asdict(made), store.origin(plan_run, {}))
    return made


def stored_or_made(values: dict[str, Any], library: Library) -> RunPlan:
    """The plan that is stored with a library, else one that is made now: see `read_plan`, `plan_run`."""
    return read_plan(library) if library.plan_json.exists() else plan_run(values, library)


def read_plan(library: Library) -> RunPlan:
    """The plan that is stored with a library. Raises StoreError where there is none, or one of another version."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(RunPlan).validate_python(store.load(library.plan_json))
    except ValidationError:
        raise store.StoreError(
            f"{library.plan_json} is of another version; run imgfp run PROFILE --plan again"
        ) from None


def lines(planned: RunPlan) -> list[str]:
    """The plan as a table and in words, for a terminal."""
    costs, here, assumed = planned.costs, planned.machine, planned.assumed
    times = planned.stages()
    recall = plan.expected_recall(costs.recall_planned, costs.images, planned.references)
    said = {
        "references": f"{planned.references:,} of {costs.keypoints:,.0f} keypoints ({costs.images} sampled)",
        "queries": f"{planned.queries:,} of {costs.query_keypoints:,.0f} keypoints and {costs.crops:.1f} crops "
        f"({costs.queries} sampled)",
        "machines": f"{planned.machines} of {here.cores} cores, {', '.join(here.gpus) or 'no GPU'}, "
        f"free: {here.memory_bytes / 1e9:,.1f} GB of memory, {here.disk_bytes / 1e9:,.1f} GB of disk",
    }
    for index in planned.indexes.of(planned.references, costs):
        visited = (
            f"{index.visited} of {index.lists:,} lists visited" if index.lists > 1 else "exact"
        )
        said[f"{index.kind} index"] = (
            f"{index.factory}: {visited}, {index.vector_bytes} bytes per vector, {index.bytes / 1e9:,.3f} GB"
        )
    said |= {
        "on disk": f"{planned.disk_bytes() / 1e9:,.2f} GB",
        "in memory": f"{planned.memory_bytes() / 1e9:,.2f} GB, with {here.cores} processes",
        "local search": f"finds {costs.recall_planned:.3f} of {costs.copies} edited copies among the sample "
        f"({costs.recall_exact:.3f} if exact); expected among all references: {recall:.3f}",
        "assumed": f"{assumed.certain_share:.0%} of the queries are answered by their first candidates, cores are busy "
        f"{assumed.busy_share:.0%} of the time, nothing is stored yet",
    }
    table = [f"{'':<20}{'a reference':>14}{'a query':>14}{'wall time':>14}"]
    for row in times.to_dict("records"):
        each = (_milliseconds(row[name]) for name in ("reference_s", "query_s"))
        table.append(
            f"{row['stage']:<20}{next(each):>14}{next(each):>14}{_time(row['wall_hours']):>14}"
        )
    return [*(f"{name:<14} {text}" for name, text in said.items()), "", *table]


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms" if seconds else ""


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:,.1f} s"
    return f"{60 * hours:,.1f} min" if hours < 1 else f"{hours:,.1f} h"


def _listed(source: str, collection: Collection) -> pd.DataFrame:
    """The files of a folder or manifest, or of the library or run where none is named."""
    if source:
        return inventory.list_files(source)
    return inventory.read_images(
        collection, ["image_id", "path", "file_bytes", "mtime_ns", "source"]
    )
