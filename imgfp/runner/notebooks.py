# SPDX-License-Identifier: AGPL-3.0-or-later
"""Execute the numbered notebooks with one parameter file; skip those that are up to date."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgfp import store, urls
from imgfp.runner import cluster, machine, params, project, record
from imgfp.runner.progress import INDENT, Pace, StageLine, Step, duration

DEFAULT_STAGES = "01-09"
#: Seconds after which `status.json` is written again while a stage goes on.
_STATUS_S = 10.0
#: Tag of cells that show an example or a figure, which a batch can do without; JupyterLab, too, goes on after them.
EXAMPLE = "raises-exception"
#: Parameters that say where the work is done.
_WHERE = ("cluster", "insecure_cluster", "workers")
#: What a stage writes that lists the images of both sides.
_LISTING = "run:catalogue.arrow"


class StageFailed(RuntimeError):
    """A notebook that did not finish; the message names it, the cell, the reason and the executed copy."""


@dataclass(frozen=True)
class Stage:
    """A numbered notebook. `writes` are patterns below `run:`, `library:` or `project:`; `extra` is the
    extra of imgfp that it needs, "" for none."""

    path: Path
    declared: dict[str, params.Declared]
    writes: tuple[str, ...]
    always: bool
    extra: str

    @property
    def number(self) -> str:
        return self.path.stem[:2]

    @property
    def name(self) -> str:
        return self.path.stem


@dataclass(frozen=True)
class Plan:
    """A checked profile: its stages in order, its values, where each came from, and the two folders."""

    stages: list[Stage]
    values: dict[str, Any]
    sources: dict[str, str]
    profile: Path
    run: store.Run
    library: store.Library

    def values_of(self, stage: Stage) -> dict[str, Any]:
        """The parameters that this stage declares."""
        return {name: value for name, value in self.values.items() if name in stage.declared}

    def every_value(self, stage: Stage) -> dict[str, Any]:
        """All parameters of this stage, defaults included; paths are absolute."""
        defaults = {name: declared.value for name, declared in stage.declared.items()}
        return params.absolute(defaults | self.values_of(stage))

    def sources_of(self, stage: Stage) -> dict[str, str]:
        """Where each of them comes from, one of `record.SOURCES`."""
        return {name: self.sources.get(name, "default") for name in stage.declared}

    def shaping(self, stage: Stage) -> dict[str, Any]:
        """Those of them that can change a result; where the work is done cannot. Paths count from the run.

        A file that a parameter names (truth, weights, a model) counts with its content.
        """
        values = {n: v for n, v in self.every_value(stage).items() if n not in _WHERE}
        content = {f"{n} content": digest for n, digest in self.files(stage).items()}
        return params.portable(values, self.run.root) | content

    def files(self, stage: Stage) -> dict[str, str]:
        """SHA-256 of the files that parameters of this stage name, and of the state of folders that only it reads."""
        values = self.every_value(stage)
        named = {n: v for n, v in values.items() if isinstance(v, str) and v and n != "export_path"}
        paths = {n: store.project_path(v) for n, v in named.items()}
        found = {n: store.sha256_of(path) for n, path in paths.items() if os.path.isfile(path)}
        listed = [n for n in params.FOLDERS_READ if n in named and n not in found]
        return found | {n: store.state_of(paths[n]) for n in listed}

    def recorded(self, stage: Stage, code: str) -> record.StageRecord:
        """What shapes this stage now; code: hash of the package."""
        return record.StageRecord(
            values=self.every_value(stage),
            sources=self.sources_of(stage),
            profile=str(self.profile.absolute()),
            files=self.files(stage),
            notebook=store.sha256_of(stage.path),
            code=code,
            weights=record.weights(),
            versions=record.versions(),
        )


def prepare(profile: Path, assignments: list[str]) -> Plan:
    """Read a profile, or the folder of a run, and check it against every notebook, before anything starts.

    Raises params.ParameterError and FileNotFoundError with a message of one line.
    """
    every = [_stage(path) for path in sorted(project.notebooks().glob("[0-9][0-9]_*.ipynb"))]
    known = {name: entry for stage in every for name, entry in stage.declared.items()}
    run = store.Run(profile.absolute()) if profile.is_dir() else None
    asked = run.params_yaml if run else profile
    profile = project.profile(asked)
    if profile != asked:
        print(f"parameters               {store.show(profile)}")
    given, typed = record.of_profile(profile), params.override(assignments, known)
    of_run = _of_run(run, given.values) if run else {}
    values = params.check(given.values | of_run | typed, known)
    sources = given.sources_of(values) | dict.fromkeys(typed, "command line")
    wanted = _numbers(values.pop("stages", DEFAULT_STAGES), [stage.number for stage in every])
    # Checked now, as a late stage would fail after hours. Notebook 00 makes the demo's own folders.
    demo = ("truth", "reference_dir", "query_dir") if "00" in wanted else ()
    stages = [stage for stage in every if stage.number in wanted]
    params.check_extras({stage.name: stage.extra for stage in stages if stage.extra})
    defaults = {n: d.value for stage in stages for n, d in stage.declared.items()}
    cluster.trusted(values.get("cluster", "local"), values.get("insecure_cluster", False))
    params.check_files({n: values.get(n, v) for n, v in defaults.items()}, made=demo)
    if "descriptor_model" in defaults:
        _resolve_descriptor(values)
    values.setdefault("run_dir", f"runs/{profile.stem}")
    values.setdefault("library_dir", f"library/{profile.stem}")
    # One that is named by URL is fetched when the run starts.
    library = store.Library(store.library_folder(values["library_dir"]))
    return Plan(stages, values, sources, profile, store.Run(values["run_dir"]), library)


def _of_run(run: store.Run, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's parameters do not tell: the stages, and the folder, if it has been moved."""
    planned = read_status(run).get("planned", [])
    moved = store.project_path(given.get("run_dir", "")) != run.root
    stages = {"stages": ",".join(planned)} if planned else {}
    return stages | ({"run_dir": str(run.root)} if moved else {})


def _resolve_descriptor(values: dict[str, Any]) -> None:
    """Put the model that `descriptor_model: auto` means into the values of a run, and say which it is."""
    from imgfp.descriptors.registry import resolved

    asked, weights = values.get("descriptor_model", "auto"), values.get("descriptor_weights", "")
    if asked == "auto" and not values.get("descriptor_file"):
        values["descriptor_model"], reason = resolved(asked, weights)
        print(f"{'descriptor_model':<24} {values['descriptor_model']}{reason and ': '}{reason}")


def execute(
    plan: Plan,
    *,
    start: str = "",
    only: str = "",
    expect: Callable[[], Mapping[str, float]] = dict,
    tell: Callable[[str], list[str]] = lambda number: [],
) -> dict[str, Any]:
    """Run the stages that are not up to date; returns the status that is also in `status.json`.

    start: compute this stage ("04" or "4") and all after it again, whatever is stored; only: compute this one stage
    again, and no other. expect: number of a stage -> seconds that it is expected to take, asked after each stage; tell:
    the lines to print after the stage of a number. Waits for another run in the folder. Raises StageFailed,
    store.StoreError when a library cannot be fetched, and urls.UrlError for a URL.
    """
    numbers = [stage.number for stage in plan.stages]
    start, only = (number and number.zfill(2) for number in (start, only))
    for number in filter(None, (start, only)):
        if number not in numbers:
            raise params.ParameterError(f"no stage {number} here; there are {', '.join(numbers)}")
    if urls.is_url(plan.values["library_dir"]):
        print(f"library                  {store.fetch(plan.values['library_dir'])}", flush=True)
    os.environ["IMGFP_HEADLESS"] = "1"  # kernels inherit it: static figures, plain progress bars
    with store.lock(plan.run.notebooks), ExitStack() as open_until_done:
        recorded = _begin_record(plan)
        recorded.write(plan.run.params_yaml)
        status = read_status(plan.run) | {"left_s": None}
        status["planned"] = sorted({*status.get("planned", ()), *numbers})
        earlier, took = _seconds_of(status), dict[str, float]()
        code = _code_hash()
        before, where = store.hash_of(code), dict[str, Any]()
        for stage in plan.stages:
            key = _key(plan, stage, before)
            forced = stage.number == only or bool(start and stage.number >= start)
            entry = status["stages"].get(stage.name, {"state": "not run"})
            state = _state(plan, stage, key, entry)
            skip = (
                stage.number != only if only else state == "ok" and not forced and not stage.always
            )
            if not skip or (state == "ok" and stage.name not in recorded.stages):
                recorded = recorded.with_stage(stage.name, plan.recorded(stage, code))
                recorded.write(plan.run.params_yaml)
            if skip:
                # One that is recorded as running was killed, as the folder is locked here.
                said = {"ok": "up to date", "running": "interrupted"}.get(state, state)
                print(f"{stage.name:<{INDENT}}{said}", flush=True)
                before = store.hash_of(key, entry.get("outputs"))
                continue
            if not where:
                where = _workers_for(plan, stage, open_until_done, first=not took)
            os.environ[store.REDO] = "1" if forced else ""  # the kernel inherits it
            line = _run_stage(plan, stage, key, status, where)
            entry = status["stages"][stage.name]
            before = store.hash_of(key, entry["outputs"])
            if _LISTING in stage.writes:
                sides = store.open_sides(plan.library, plan.run)
                recorded = recorded.with_inputs(stage.name, *sides)
                recorded.write(plan.run.params_yaml)
            took[stage.number] = entry["seconds"]
            todo = [] if only else _todo(plan, stage, status["stages"], before, start)
            expected = {**expect(), **earlier} if start else {**earlier, **expect()}
            _end(plan, line, status, entry, Pace(expected, took).left_s(todo) if todo else None)
            for told in tell(stage.number):
                print(f"{'':<{INDENT}}{told}", flush=True)
    return status


def _workers_for(
    plan: Plan, stage: Stage, open_until_done: ExitStack, *, first: bool
) -> dict[str, Any]:
    """One set of worker processes for all notebooks, which otherwise each start their own: the parameters that name it, none
    for a stage that needs none. Of a scheduler elsewhere, say where its dashboard is."""
    where = plan.values.get("cluster", "local")
    if where == "local" and not stage.always:
        workers = cluster.processes(plan.values.get("workers", 0))
        return {"cluster": open_until_done.enter_context(workers)}
    if first and (link := cluster.dashboard(where)):
        print(f"{'dashboard':<{INDENT}}{link}", flush=True)
    return {}


def _seconds_of(status: dict[str, Any]) -> dict[str, float]:
    """Number of a stage -> the seconds that it took when it last ended well."""
    stages = status["stages"].items()
    return {name[:2]: entry["seconds"] for name, entry in stages if entry.get("state") == "ok"}


def _todo(
    plan: Plan, after: Stage, entries: dict[str, dict[str, Any]], before: str, start: str
) -> list[str]:
    """Numbers of the stages after one that will run; before: hash of all up to that one, see `_key`."""
    todo: list[str] = []
    for stage in plan.stages[plan.stages.index(after) + 1 :]:
        entry = entries.get(stage.name, {"state": "not run"})
        key = _key(plan, stage, before)
        before = store.hash_of(key, entry.get("outputs"))
        forced = bool(start and stage.number >= start)
        if todo or forced or stage.always or _state(plan, stage, key, entry) != "ok":
            todo.append(stage.number)
    return todo


def read_status(run: store.Run) -> dict[str, Any]:
    """State, duration and error of each stage of a run, and the snapshot of the library that it began with.
    Raises StoreError for a damaged file."""
    path = run.status_json
    return {"stages": {}} | (store.read_json(path) if path.exists() else {})


def states(plan: Plan) -> dict[str, str]:
    """Name of each stage -> its state: "ok", "out of date", "not run", "running", "interrupted", "failed"."""
    status = read_status(plan.run)["stages"]
    before = store.hash_of(_code_hash())
    found = {}
    for stage in plan.stages:
        entry = status.get(stage.name, {"state": "not run"})
        key = _key(plan, stage, before)
        before = store.hash_of(key, entry.get("outputs"))
        state = _state(plan, stage, key, entry)
        if state == "running" and not store.is_locked(plan.run.notebooks):
            state = "interrupted"  # killed before it could record it
        found[stage.name] = state
    return found


def stage_lines(plan: Plan, of_stages: Mapping[str, str]) -> list[str]:
    """One line per stage: its state (of `states`), duration, and the error if it failed or how far it is; then the time
    that is left, and the snapshot of the library."""
    status = read_status(plan.run)
    lines = []
    for name, state in of_stages.items():
        entry = status["stages"].get(name, {})
        seconds = f"{entry['seconds']:8.1f} s" if "seconds" in entry else " " * 10
        told = entry.get("step", "") if state == "running" else entry.get("error", "")
        lines.append(f"{name:<{INDENT}}{state:<12}{seconds}  {told}".rstrip())
    if "running" in of_stages.values() and (left := time_left(status)):
        lines.append(f"{'left':<{INDENT}}{left}")
    noted = store.begun_with(plan.run)
    if noted.get("snapshot"):
        lines.append(f"{'library':<{INDENT}}snapshot {noted['snapshot']} of {noted['library']}")
    return lines


def time_left(status: dict[str, Any]) -> str:
    """The time that a run which goes on still needs, as people say it, from its `status.json`; "" where it is not known."""
    if not status.get("left_s"):
        return ""
    return f"about {duration(max(0.0, status['left_s'] - (time.time() - status['left_at'])))}"


def finishes(plan: Plan) -> str:
    """Name of the stage that finds the answers of a run; "" where the plan has none."""
    return next((s.name for s in plan.stages if "run:metrics.json" in s.writes), "")


def _stage(path: Path) -> Stage:
    described = json.loads(path.read_bytes())["metadata"].get("imgfp", {})
    writes = tuple(described.get("writes", ()))
    always, extra = bool(described.get("always")), described.get("extra", "")
    return Stage(path, params.declared_by(path), writes, always, extra)


def _numbers(text: str, existing: list[str]) -> list[str]:
    wanted: list[str] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d\d?)(?:\s*-\s*(\d\d?))?\s*", part)
        if not ends:
            raise params.ParameterError(f"stages: expected e.g. '01-09' or '20', got {text!r}")
        first, last = (number.zfill(2) for number in (ends[1], ends[2] or ends[1]))
        wanted += [number for number in existing if first <= number <= last]
    if not wanted:
        raise params.ParameterError(f"stages: {text!r} names no notebook of {', '.join(existing)}")
    return wanted


def _code_hash() -> str:
    """Hash of the package: its code, the shipped weights, the template of the report."""
    package = Path(__file__).resolve().parents[1]
    shipped = (".py", ".json", ".onnx", ".safetensors", ".j2")
    paths = [path for path in sorted(package.rglob("*")) if path.suffix in shipped]
    return store.hash_of([store.sha256_of(path) for path in paths])


def _key(plan: Plan, stage: Stage, before: str) -> str:
    """Hash of what a stage is made from: the stages `before` it, its notebook, its parameters."""
    return store.hash_of(before, store.sha256_of(stage.path), plan.shaping(stage))


def _state(plan: Plan, stage: Stage, key: str, entry: dict[str, Any]) -> str:
    """The recorded state of a stage; "out of date" if it has finished with another key or its files have changed."""
    if entry["state"] != "ok":
        return entry["state"]
    current = entry.get("key") == key and _executed_copy(plan, stage).exists()
    return "ok" if current and entry.get("outputs") == _digest(plan, stage) else "out of date"


def _executed_copy(plan: Plan, stage: Stage) -> Path:
    return plan.run.notebooks / stage.path.name


def _digest(plan: Plan, stage: Stage) -> str:
    roots = {"run": plan.run.root, "library": plan.library.root, "project": store.project_path("")}
    parts = []
    for pattern in stage.writes:
        where, _, below = pattern.partition(":")
        parts.append(store.digest_of(roots[where], [below]))
    return store.hash_of(parts)


def _begin_record(plan: Plan) -> record.Record:
    """What is asked for, and how stages ran before, as the record of the run now has it."""
    stages = {
        stage.name: record.StageRecord(plan.every_value(stage), plan.sources_of(stage))
        for stage in plan.stages
    }
    given = {name: value for name, value in plan.values.items() if name in plan.sources}
    asked = record.Record(params.absolute(given), plan.sources, stages)
    return record.joined(asked, record.read(plan.run.params_yaml))


def _write_status(plan: Plan, status: dict[str, Any]) -> None:
    status["began_with"] = store.begun_with(plan.run)
    store.write_sealed(plan.run.status_json, json.dumps(status, indent=1).encode())


def _run_stage(
    plan: Plan, stage: Stage, key: str, status: dict[str, Any], where: dict[str, Any]
) -> StageLine:
    """Execute a notebook and record how it went; returns its line, which the caller ends. where: parameters of worker
    processes that this run has started."""
    copy = _executed_copy(plan, stage)
    began, spent = time.monotonic(), machine.processor_seconds()
    entry: dict[str, Any] = {"state": "running", "key": key}
    status["stages"][stage.name] = entry
    _write_status(plan, status)
    written = began

    def on_step(step: Step) -> None:
        nonlocal written
        entry["step"] = str(step)
        if time.monotonic() > written + _STATUS_S:
            written = time.monotonic()
            _write_status(plan, status)

    at = plan.stages.index(stage) + 1
    line = StageLine(f"{stage.name:<{INDENT}}stage {at} of {len(plan.stages)}: ", on_step)
    try:
        given = plan.values_of(stage)
        given |= {name: value for name, value in where.items() if name in stage.declared}
        _execute_notebook(stage, copy, given, entry, line)
        entry |= {"state": "ok", "outputs": _digest(plan, stage)}
    except StageFailed as failure:
        entry |= {"state": "failed", "error": str(failure).split("\n")[0]}
        line.end(f"FAILED after {time.monotonic() - began:.1f} s")
        raise
    except (KeyboardInterrupt, store.StoreError):
        entry |= {"state": "interrupted"}
        raise
    finally:
        entry.pop("step", None)
        entry["seconds"] = round(time.monotonic() - began, 2)
        entry["processor_seconds"] = round(machine.processor_seconds() - spent, 2)
        _write_status(plan, status)
        if copy.is_file():
            with suppress(
                store.StoreError
            ):  # a full disk; `imgfp verify` names a copy without a seal
                store.seal(copy)
    return line


def _end(
    plan: Plan, line: StageLine, status: dict[str, Any], entry: dict[str, Any], left_s: float | None
) -> None:
    """Say that a stage has ended, and record and say how many seconds are left, None where that is not known."""
    status |= {"left_s": left_s, "left_at": time.time()}
    _write_status(plan, status)
    left_out = ", ".join(map(str, entry.get("examples_left_out", ())))
    said = f"; nothing to show in cells {left_out}" if left_out else ""
    left = f"; about {duration(left_s)} left" if left_s else ""
    line.end(f"ok {entry['seconds']:.1f} s{said}{left}")


def _execute_notebook(stage: Stage, copy: Path, values: dict, entry: dict, line: StageLine) -> None:
    """Execute a notebook into its copy; its progress goes to the line."""
    import nbformat
    import papermill
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from nbformat.sign import NotebookNotary
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    # Where a notebook runs others, its kernel would warn of clients that papermill leaves open.
    logging.getLogger("IPKernelApp").setLevel(logging.ERROR)
    cell = {"number": 0}

    def started(cell_index: int, **_: Any) -> None:
        cell["number"] = cell_index + 1

    def executed(cell: Any, cell_index: int, execute_reply: Any) -> None:
        errors = [output for output in cell.outputs if output.output_type == "error"]
        if errors and EXAMPLE in cell.metadata.get("tags", ()):
            said = f"Nothing to show here: {errors[0].ename}: {errors[0].evalue}"
            cell.outputs[:] = [nbformat.v4.new_output("stream", name="stdout", text=said)]
            entry.setdefault("examples_left_out", []).append(cell_index + 1)

    with store.temporary_folder(sockets=True) as sockets:
        # The plain manager hangs when a kernel is killed; sockets by path cannot collide as ports do.
        kernel = AsyncKernelManager(
            kernel_name="python3",
            transport="ipc",
            ip=str(sockets / "k"),
            connection_file=str(sockets / "kernel.json"),
        )
        try:
            executed = papermill.execute_notebook(
                str(stage.path),
                str(copy),
                parameters=values,
                km=kernel,
                progress_bar=False,
                coalesce_streams=True,
                request_save_on_cell_execute=False,
                autosave_cell_every=30,
                on_cell_start=started,
                on_cell_executed=executed,
                stdout_file=line,
            )
        except PapermillExecutionError as error:
            reason = f"{error.ename}: {error.evalue}"
        except DeadKernelError:
            reason = "the kernel was killed, probably for want of memory; use fewer workers"
        except CellTimeoutError as error:
            reason = f"timed out: {error}"
        except OSError as error:
            raise store.StoreError(f"cannot write {store.show(copy)}: {error.strerror}") from None
        else:
            NotebookNotary().sign(executed)
            return
        finally:
            if kernel.has_kernel:
                run_sync(kernel.shutdown_kernel)(now=True)
    entry["cell"] = cell["number"]
    raise StageFailed(
        f"{stage.name}, cell {cell['number']}: {reason}\nthe executed copy is {store.show(copy)}"
    )
