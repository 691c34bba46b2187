"""Map a function over shards on a Dask cluster: local processes by default, or a scheduler by address."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgfp import store
from imgfp.images import ImageError
from imgfp.runner.params import ParameterError


@dataclass(frozen=True)
class Task:
    """One shard of work: the artefact to write, hashes of its inputs, the arguments of the call, and the
    number of images (or pairs) for the progress bar."""

    path: Path
    inputs: tuple[str, ...]
    arguments: dict[str, Any]
    items: int


@dataclass(frozen=True)
class ShardResult:
    """What a shard function returns: the record to store, and (path, reason) of the inputs it refused."""

    record: Any
    rejects: Sequence[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class MapReport:
    """Outcome of a map over shards: items computed now, items reused, and every (path, reason) refused."""

    computed: int
    reused: int
    rejects: list[tuple[str, str]]

    def __str__(self) -> str:
        return f"{self.computed:,} computed, {self.reused:,} reused, {len(self.rejects):,} refused"


def map_shards(
    function: Callable[..., ShardResult],
    tasks: Iterable[Task],
    settings: dict[str, Any],
    *,
    cluster: str = "local",
    workers: int = 0,
    title: str = "",
    unit: str = "image",
    lock_dir: Path | None = None,
    output_dir: Path | None = None,
) -> MapReport:
    """Run `function(**task.arguments, **settings)` for every task whose artefact is not current.

    function: a module-level function marked by `store.produces`, which returns `ShardResult`; it runs
    in worker processes. cluster: "local" or the address of a Dask scheduler; workers: processes, 0 for
    one per core. lock_dir: the library or run folder that is locked against a second writer meanwhile.
    output_dir: a folder that holds the artefacts of these tasks and no others; shards that an earlier
    run with other settings left there are deleted.

    Finished shards are never computed again, unless the runner redoes the stage; a killed map resumes. A
    file that crashes the worker which reads it is left out when the shard is tried again, see
    `mark_in_progress`. Raises what the function raises.
    """
    tasks = list(tasks)
    todo = []
    for task in tasks:
        made = store.origin(function, settings, task.inputs)
        if not store.is_current(task.path, made):
            todo.append((task, made))
    if todo:
        differs = store.what_differs(todo[0][0].path, todo[0][1])
        if differs:
            print(f"{title}: computed again because {differs}")
        with store.lock(lock_dir) if lock_dir else nullcontext():
            if os.environ.get(store.REDO):
                # Removed first, so that a killed redo resumes and keeps no half of the former shards.
                for task, _ in todo:
                    store.remove(task.path)
            _run(function, todo, settings, cluster, workers, title, unit)
    if output_dir:
        for stale in {*store.shards(output_dir, ".*")} - {task.path for task in tasks}:
            store.remove(stale)
    done = sum(task.items for task, _ in todo)
    rejects = [
        tuple(pair) for task in tasks for pair in store.describe(task.path).get("rejects", [])
    ]
    return MapReport(done, sum(task.items for task in tasks) - done, rejects)


def _run(function, todo, settings, cluster, workers, title, unit) -> None:
    from distributed import as_completed

    wanted = workers or os.cpu_count() or 1
    total = sum(task.items for task, _ in todo)
    attempt = uuid.uuid4().hex
    with client(cluster, min(wanted, len(todo))) as connected, progress(title, unit, total) as bar:
        futures = {
            connected.submit(_make, function, task, made, settings, attempt, pure=False): task.items
            for task, made in todo
        }
        for future in as_completed(futures):
            future.result()
            bar.update(futures[future])
            future.release()


def _make(
    function: Callable[..., ShardResult],
    task: Task,
    made: store.Origin,
    settings: dict[str, Any],
    attempt: str,
) -> None:
    global _journal
    _one_thread()
    with store.Journal(task.path, attempt) as _journal:
        result = function(**task.arguments, **settings)
    _journal = None
    store.save(
        task.path,
        result.record,
        made,
        rejects=[list(pair) for pair in result.rejects],
        items=task.items,
    )


#: The crash journal of the shard that this worker process is computing.
_journal: store.Journal | None = None


def mark_in_progress(path: str) -> None:
    """Record that `path` is being processed. Raises ImageError if a previous worker crashed on it.

    A decoder that crashes or takes all memory ends its process, and a process cannot report that
    itself. The record tells the next worker, to which Dask gives the same shard.
    """
    if _journal is not None and not _journal.begin(path):
        raise ImageError(path, "ended the process that read it: crash, or out of memory")


def _one_thread() -> None:
    """Libraries that start threads of their own would fight with the other workers for the cores."""
    import cv2

    cv2.setNumThreads(1)
    for name in ("faiss", "torch"):
        if name in sys.modules:
            module = sys.modules[name]
            (module.omp_set_num_threads if name == "faiss" else module.set_num_threads)(1)


@contextmanager
def client(cluster: str = "local", workers: int = 0):
    """A Dask client: of processes started here, or of the scheduler at an address."""
    from distributed import Client

    with nullcontext(cluster) if cluster != "local" else processes(workers) as address:
        try:
            connected = Client(address, timeout="10s")
        except OSError:
            raise ValueError(
                f"cluster: no Dask scheduler answers at {address!r}; use 'local' or tcp://host:port"
            ) from None
        with connected:
            yield connected


@contextmanager
def processes(workers: int = 0):
    """Start worker processes on this machine, 0 for one per core; gives their scheduler's address.

    Raises ParameterError for fewer.
    """
    import dask
    from distributed import LocalCluster

    if workers < 0:
        raise ParameterError(f"workers: expected 0 (one per core) or more, got {workers}")
    # Shards bound the memory; Dask's own limits would kill a worker that is merely above its share.
    quiet = {
        "distributed.worker.memory.terminate": False,
        "distributed.admin.tick.limit": "60s",
        "distributed.scheduler.allowed-failures": 20,  # deaths of workers that a shard is tried after
    }
    with (
        dask.config.set(quiet),
        LocalCluster(
            n_workers=workers or os.cpu_count() or 1,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as local,
    ):
        yield local.scheduler_address


def progress(title: str, unit: str, total: int):
    """A progress bar with rate and remaining time: a widget in JupyterLab, plain text elsewhere."""
    if os.environ.get("IMGFP_HEADLESS"):
        from tqdm import tqdm

        return tqdm(total=total, desc=title, unit=unit, mininterval=5, file=sys.stdout, ascii=True)
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=title, unit=unit)
