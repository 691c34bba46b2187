# SPDX-License-Identifier: AGPL-3.0-or-later
"""Execute the numbered notebooks with one parameter file; skip those that are up to date."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgfp import store, urls
from imgfp.runner import cluster, machine, params, project

DEFAULT_STAGES = "01-09"
#: Tag of cells that show an example or a figure, which a batch can do without; JupyterLab, too, goes on after them.
EXAMPLE = "raises-exception"


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
    """A checked profile: its stages in order, its values, and the two folders."""

    stages: list[Stage]
    values: dict[str, Any]
    run: store.Run
    library: store.Library

    def values_of(self, stage: Stage) -> dict[str, Any]:
        """The parameters that this stage declares."""
        return {name: value for name, value in self.values.items() if name in stage.declared}

    def shaping(self, stage: Stage) -> dict[str, Any]:
        """Those of them that can change a result; where the work is done cannot.

        A file that a parameter names (truth, weights, a model) counts with its content.
        """
        values = self.values_of(stage)
        where = ("cluster", "insecure_cluster", "workers")
        values = {n: v for n, v in values.items() if n not in where}
        named = {n: v for n, v in values.items() if isinstance(v, str) and v and n != "export_path"}
        files = {n: store.project_path(v) for n, v in named.items()}
        files = {n: path for n, path in files.items() if os.path.isfile(path)}
        return values | {f"{n} content": store.sha256_of(path) for n, path in files.items()}


def prepare(profile: Path, assignments: list[str]) -> Plan:
    """Read a profile and check it against every notebook, before anything starts.

    Raises params.ParameterError and FileNotFoundError with a message of one line.
    """
    every = [_stage(path) for path in sorted(project.notebooks().glob("[0-9][0-9]_*.ipynb"))]
    known = {name: entry for stage in every for name, entry in stage.declared.items()}
    asked, profile = profile, project.profile(profile)
    if profile != asked:
        print(f"parameters               {store.show(profile)}")
    given = params.read_profile(profile)
    values = params.check(given | params.override(assignments, known), known)
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
    run = store.Run(values["run_dir"])
    return Plan(stages, values, run, library)


def _resolve_descriptor(values: dict[str, Any]) -> None:
    """Put the model that `descriptor_model: auto` means into the values of a run, and say which it is."""
    from imgfp.descriptors.registry import resolved

    asked, weights = values.get("descriptor_model", "auto"), values.get("descriptor_weights", "")
    if asked == "auto" and not values.get("descriptor_file"):
        values["descriptor_model"], reason = resolved(asked, weights)
        print(f"{'descriptor_model':<24} {values['descriptor_model']}{reason and ': '}{reason}")


def execute(plan: Plan, *, start: str = "", only: str = "") -> dict[str, Any]:
    """Run the stages that are not up to date; returns the status that is also in `status.json`.

    start: compute this stage and all after it again, whatever is stored; only: compute this one stage
    again, and no other. Waits for another run in the folder. Raises StageFailed, store.StoreError when a library
    cannot be fetched, and urls.UrlError for a URL.
    """
    numbers = [stage.number for stage in plan.stages]
    for number in filter(None, (start, only)):
        if number not in numbers:
            raise params.ParameterError(f"no stage {number} here; there are {', '.join(numbers)}")
    if urls.is_url(plan.values["library_dir"]):
        print(f"library                  {store.fetch(plan.values['library_dir'])}", flush=True)
    os.environ["IMGFP_HEADLESS"] = "1"  # kernels inherit it: static figures, plain progress bars
    with store.lock(plan.run.notebooks), ExitStack() as open_until_done:
        _write_params(plan)
        status = read_status(plan.run)
        before = store.hash_of(_code_hash())
        for stage in plan.stages:
            key = _key(plan, stage, before)
            forced = stage.number == only or bool(start and stage.number >= start)
            entry = status["stages"].get(stage.name, {"state": "not run"})
            state = _state(plan, stage, key, entry)
            skip = (
                stage.number != only if only else state == "ok" and not forced and not stage.always
            )
            if skip:
                # One that is recorded as running was killed, as the folder is locked here.
                said = {"ok": "up to date", "running": "interrupted"}.get(state, state)
                print(f"{stage.name:<24} {said}", flush=True)
            else:
                if not stage.always and plan.values.get("cluster", "local") == "local":
                    # One set of worker processes for all notebooks, which otherwise each start their own.
                    workers = cluster.processes(plan.values.get("workers", 0))
                    plan.values["cluster"] = open_until_done.enter_context(workers)
                os.environ[store.REDO] = "1" if forced else ""  # the kernel inherits it
                _run_stage(plan, stage, key, status)
            before = store.hash_of(key, status["stages"].get(stage.name, {}).get("outputs"))
    return status


def read_status(run: store.Run) -> dict[str, Any]:
    """State, duration and error of each stage of a run, and the snapshot of the library that it began with.
    Raises StoreError for a damaged file."""
    path = run.status_json
    return {"stages": {}} | (store.read_json(path) if path.exists() else {})


def stage_lines(plan: Plan) -> list[str]:
    """One line per stage: its state, duration, and the error if it failed; then the snapshot of the library."""
    status = read_status(plan.run)["stages"]
    before = store.hash_of(_code_hash())
    lines = []
    for stage in plan.stages:
        entry = status.get(stage.name, {"state": "not run"})
        key = _key(plan, stage, before)
        before = store.hash_of(key, entry.get("outputs"))
        state = _state(plan, stage, key, entry)
        if state == "running" and not store.is_locked(plan.run.notebooks):
            state = "interrupted"  # killed before it could record it
        seconds = f"{entry['seconds']:8.1f} s" if "seconds" in entry else " " * 10
        lines.append(f"{stage.name:<24} {state:<12}{seconds}  {entry.get('error', '')}".rstrip())
    noted = store.begun_with(plan.run)
    if noted.get("snapshot"):
        lines.append(f"{'library':<24} snapshot {noted['snapshot']} of {noted['library']}")
    return lines


def summarise(plan: Plan) -> None:
    """Print the figures of a finished run and the paths of its results."""
    if not any("run:metrics.json" in stage.writes for stage in plan.stages):
        return
    path = plan.run.metrics_json
    metrics = store.read_json(path) if path.exists() else {}
    if metrics:
        figures = {
            "micro-AP": metrics["micro_ap"],
            f"recall at {metrics['target_precision']:.0%} precision": metrics["recall_at_p90"],
            "true pair proposed": metrics["candidate_recall"],
        }
        named = (f"{n} {'never' if v is None else format(v, '.4f')}" for n, v in figures.items())
        print("\n" + ", ".join(named))
    for path in (plan.run.predictions_csv, plan.run.report_html):
        if path.exists():
            print(f"{path.stem:<12} {store.show(path)}")


def _stage(path: Path) -> Stage:
    described = json.loads(path.read_bytes())["metadata"].get("imgfp", {})
    writes = tuple(described.get("writes", ()))
    always, extra = bool(described.get("always")), described.get("extra", "")
    return Stage(path, params.declared_by(path), writes, always, extra)


def _numbers(text: str, existing: list[str]) -> list[str]:
    wanted: list[str] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d\d)(?:\s*-\s*(\d\d))?\s*", part)
        if not ends:
            raise params.ParameterError(f"stages: expected e.g. '01-09' or '20', got {text!r}")
        first, last = ends[1], ends[2] or ends[1]
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


def _write_params(plan: Plan) -> None:
    lines = [f"{name}: {json.dumps(value)}" for name, value in sorted(plan.values.items())]
    store.write_sealed(plan.run.params_yaml, ("\n".join(lines) + "\n").encode())


def _write_status(plan: Plan, status: dict[str, Any]) -> None:
    status["began_with"] = store.begun_with(plan.run)
    store.write_sealed(plan.run.status_json, json.dumps(status, indent=1).encode())


def _run_stage(plan: Plan, stage: Stage, key: str, status: dict[str, Any]) -> None:
    copy = _executed_copy(plan, stage)
    began, spent = time.monotonic(), machine.processor_seconds()
    entry: dict[str, Any] = {"state": "running", "key": key}
    status["stages"][stage.name] = entry
    _write_status(plan, status)
    print(f"{stage.name:<24} ", end="", flush=True)
    try:
        _execute_notebook(stage, copy, plan.values_of(stage), entry)
        entry |= {"state": "ok", "outputs": _digest(plan, stage)}
    except StageFailed as failure:
        entry |= {"state": "failed", "error": str(failure).split("\n")[0]}
        print(f"FAILED after {time.monotonic() - began:.1f} s", flush=True)
        raise
    except (KeyboardInterrupt, store.StoreError):
        entry |= {"state": "interrupted"}
        raise
    finally:
        entry["seconds"] = round(time.monotonic() - began, 2)
        entry["processor_seconds"] = round(machine.processor_seconds() - spent, 2)
        _write_status(plan, status)
        if copy.is_file():
            with suppress(
                store.StoreError
            ):  # a full disk; `imgfp verify` names a copy without a seal
                store.seal(copy)
    left_out = ", ".join(map(str, entry.get("examples_left_out", ())))
    said = f"; nothing to show in cells {left_out}" if left_out else ""
    print(f"ok {entry['seconds']:.1f} s{said}", flush=True)


def _execute_notebook(stage: Stage, copy: Path, values: dict, entry: dict) -> None:
    import nbformat
    import papermill
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from nbformat.sign import NotebookNotary
    from papermill.exceptions import PapermillExecutionError
    from traitlets.log import get_logger

    logging.getLogger("papermill").setLevel(logging.ERROR)
    # Where a notebook runs others, its kernel would warn of clients that papermill leaves open.
    get_logger().setLevel(logging.ERROR)
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
                stdout_file=_Bars(),
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


class _Bars:
    """A text stream that passes only progress bars, and what is waited for, on to the terminal."""

    def write(self, text: str) -> None:
        bars = [
            line for line in re.split(r"[\r\n]", text) if re.search(r"\d+%\||^waiting for ", line)
        ]
        if bars:
            sys.stdout.write(f"\n{'':<25}{bars[-1].strip()}  ")
            sys.stdout.flush()

    def flush(self) -> None:
        sys.stdout.flush()
