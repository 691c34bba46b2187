# SPDX-License-Identifier: AGPL-3.0-or-later
"""Map a function over shards on a Dask cluster: local processes by default, or a scheduler by address."""

from __future__ import annotations

import json
import os
import platform
import queue
import signal
import sys
import tempfile
import threading
import urllib.request
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgfp import __version__, store
from imgfp.runner.params import ParameterError
from imgfp.runner.progress import bar_format

if TYPE_CHECKING:
    from distributed import LocalCluster

#: Calls per thread of the cluster that are handed to it ahead: they hide the way to a worker, and what
#: the scheduler and the workers hold stays as small with 100,000 tasks as with 10.
CALLS_AHEAD = 3
#: In place of an address: in this process, without a cluster.
HERE = "here"
#: Deaths of workers after which a task is given up.
DEATHS = 40
#: File by which a worker tells that it sees the folder which the client sees.
PROBE = ".cluster-probe"
#: Trials of starting local workers: one that is killed while it starts takes the others with it.
_STARTS = 3
#: Seconds after which lost workers of this machine are looked for.
_REPLACE_S = 2
#: Seconds after which threads of workers that have joined or left are counted again.
_RECOUNT_S = 5


@dataclass(frozen=True)
class Piece:
    """One of the calls whose results a task puts together: its arguments, beside those of the task, and
    its home, a number from 0 up. Pieces of one home prefer the same worker, which then has open what
    they read."""

    arguments: dict[str, Any]
    home: int


@dataclass(frozen=True)
class Task:
    """One shard of work: the artefact to write, hashes of its inputs, the arguments of the call, the number
    of images (or pairs) for the progress bar, and the pieces that it is put together from, if any."""

    path: Path
    inputs: Sequence[str]
    arguments: dict[str, Any]
    items: int
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class ShardResult:
    """What a shard function returns: the record to store, (path, reason) of the inputs it refused, and ids
    that the record is without because they were masked."""

    record: Any
    rejects: Sequence[tuple[str, str]] = field(default_factory=list)
    without: Sequence[str] = ()


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
    in worker processes. cluster: "local", the address of a Dask scheduler, see `trusted`, or `HERE`; workers: processes, 0 for
    one per core. lock_dir: the library or run folder that is locked against a second writer meanwhile.
    output_dir: a folder that holds the artefacts of these tasks and no others; shards that an earlier
    run with other settings left there are deleted.

    A function marked by `store.produces(..., piece=piece_function)` is put together from pieces: each
    piece of a task is a call of its own, `piece_function(**piece.arguments, **task.arguments, **settings)`,
    whose result stays in the cluster; the task is then `function(pieces=results, **task.arguments,
    **settings)`, with the list of results in the order of `task.pieces`.

    Finished shards are never computed again, unless the runner redoes the stage; a killed map resumes. A
    worker that dies costs the calls that it had in hand, and no file is blamed for it: what may crash a process is
    decoded in another, see `imgfp.decoding`. A call that outlives its map writes nothing.
    Raises what the function raises, ValueError naming a worker that does not see the folder of the
    artefacts or runs another version, and RuntimeError naming a task that `DEATHS` workers died of, or
    when the scheduler has ended.
    """
    tasks = list(tasks)
    todo = []
    for task in tasks:
        made = store.origin(function, settings, task.inputs)
        if not store.is_current(task.path, made):
            todo.append((task, made))
    if todo:
        store.refuse_fetched(todo[0][0].path)
        differs = store.what_differs(todo[0][0].path, todo[0][1])
        if differs:
            print(f"{title}: computed again because {differs}")
        with store.lock(lock_dir) if lock_dir else nullcontext(False) as waited:
            if waited:  # for one that may have made the same
                todo = [
                    (task, made) for task, made in todo if not store.is_current(task.path, made)
                ]
            if os.environ.get(store.REDO):
                # Removed first, so that a killed redo resumes and keeps no half of the former shards.
                for task, _ in todo:
                    store.remove(task.path)
            if todo and cluster == HERE:
                _run_here(function, todo, settings)
            elif todo:
                _run(function, todo, settings, cluster, workers, title, unit)
    if output_dir:
        for stale in {*store.shards(output_dir, ".*")} - {task.path for task in tasks}:
            store.remove(stale)
    done = sum(task.items for task, _ in todo)
    rejects = [
        tuple(pair) for task in tasks for pair in store.describe(task.path).get("rejects", [])
    ]
    return MapReport(done, sum(task.items for task in tasks) - done, rejects)


@dataclass(frozen=True)
class _Map:
    """What the calls of one map have in common."""

    function: Callable[..., ShardResult]
    settings: dict[str, Any]
    attempt: str
    homes: int


def _run_here(function, todo, settings) -> None:
    """The tasks one after another in this process, which keeps its models and indexes in memory."""
    for task, made in todo:
        given = {}
        if function.piece:
            every = task.arguments | settings
            given["pieces"] = [function.piece(**piece.arguments, **every) for piece in task.pieces]
        _save(task, made, function(**given, **task.arguments, **settings))


def _run(function, todo, settings, cluster, workers, title, unit) -> None:
    tasks = [task for task, _ in todo]
    homes = 1 + max((piece.home for task in tasks for piece in task.pieces), default=0)
    common = _Map(function, settings, uuid.uuid4().hex, homes)
    calls = sum(max(1, len(task.pieces)) for task in tasks)
    with (
        client(cluster, min(workers or os.cpu_count() or 1, calls)) as connected,
        _checked_workers(connected, {task.path.parent for task in tasks}, common.attempt),
        progress(title, unit, sum(task.items for task in tasks)) as bar,
    ):
        waiting = deque(_Submission(connected, common, task, made) for task, made in todo)
        running: dict[Any, _Submission] = {}
        finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        ahead = 0
        while waiting or running:
            threads = connected.scheduler_info(n_workers=0)["total_threads"]
            bar.set_postfix_str("" if threads else "waiting for a worker", refresh=not threads)
            # Two tasks at least, so that pieces of one are computed while another is put together.
            while waiting and (len(running) < 2 or ahead < CALLS_AHEAD * threads):
                one = waiting.popleft()
                future = one.submit()
                future.add_done_callback(finished.put)
                running[future] = one
                ahead += one.calls
            try:
                future = finished.get(timeout=_RECOUNT_S)
            except queue.Empty:
                continue
            one = running.pop(future)
            ahead -= one.calls
            if one.is_done(future):
                bar.update(one.task.items)
            else:
                waiting.appendleft(one)


class _Submission:
    """A task given to a cluster, and given again when the workers that computed it have died."""

    def __init__(self, connected, common: _Map, task: Task, made: store.Origin) -> None:
        self.task = task
        self.calls = len(task.pieces) + 1
        self._connected = connected
        self._common = common
        self._made = made
        self._pieces: list[Any] = [None] * len(task.pieces)
        self._deaths = 0

    def submit(self) -> Any:
        """The future of the task. Pieces that are computed, or on the way, are not submitted again."""
        addresses = _addresses(self._connected) if self._pieces else []
        for at, piece in enumerate(self.task.pieces):
            if self._pieces[at] is None or self._pieces[at].status == "error":
                home = _home(piece.home, self._common.homes, addresses)
                self._pieces[at] = self._connected.submit(
                    _make_piece,
                    self._common,
                    self.task.path.parent,
                    dict(**piece.arguments, **self.task.arguments),
                    workers=home or None,
                    allow_other_workers=bool(home),
                    pure=False,
                )
        return self._connected.submit(
            _make, self._common, self.task, self._made, self._pieces, pure=False
        )

    def is_done(self, future: Any) -> bool:
        """True when the artefact is there, False when the task must be submitted again. Raises what the
        task raised."""
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError
        from distributed.comm import CommClosedError

        try:
            future.result()
        except (FutureCancelledError, CommClosedError) as error:
            # Closed: the scheduler has ended between the end of the task and the question for its result.
            reason = getattr(error, "reason", "scheduler-connection-lost")
            raise RuntimeError(
                f"cluster: work was cancelled ({reason}); see that the scheduler runs and start "
                "again: finished shards stay"
            ) from None
        except KilledWorker as error:
            # Schedulers differ in the deaths that they allow a task; those of all submissions count.
            self._deaths += error.allowed_failures + 1
            if self._deaths < DEATHS:
                return False
            raise RuntimeError(
                f"{self.task.path}: {self._deaths} workers died while they computed it; "
                "see their logs, and give each more memory or take smaller shards"
            ) from None
        self._pieces.clear()
        return True


def _addresses(connected) -> list[str]:
    """Addresses of the workers; those of one host are neighbours, and one restarted keeps its place."""
    workers = connected.scheduler_info(n_workers=-1)["workers"]
    return sorted(workers, key=lambda at: (workers[at]["host"], str(workers[at]["name"])))


def _home(home: int, homes: int, addresses: list[str]) -> list[str]:
    """The workers of one of `homes` homes: each has its share of them, or one together with others."""
    first = home * len(addresses) // homes
    return addresses[first : max(first + 1, (home + 1) * len(addresses) // homes)]


def _make(common: _Map, task: Task, made: store.Origin, pieces: list[Any]) -> None:
    _prepare(task.path.parent, common.attempt)
    given = {"pieces": pieces} if common.function.piece else {}  # type: ignore[attr-defined]
    result = common.function(**given, **task.arguments, **common.settings)
    # Once more: a client that has ended meanwhile no longer keeps other writers from this folder.
    _require_access(task.path.parent, common.attempt)
    _save(task, made, result)


def _save(task: Task, made: store.Origin, result: ShardResult) -> None:
    store.save(
        task.path,
        result.record,
        made,
        rejects=[list(pair) for pair in result.rejects],
        items=task.items,
        **({"without": list(result.without)} if result.without else {}),
    )


def _make_piece(common: _Map, folder: Path, arguments: dict[str, Any]) -> Any:
    _prepare(folder, common.attempt)
    return common.function.piece(**arguments, **common.settings)  # type: ignore[attr-defined]


@contextmanager
def _checked_workers(connected, folders: set[Path], attempt: str) -> Iterator[None]:
    """Refuse a cluster with a worker that could not do its part. A worker that joins later is checked
    with its first task, by the same file, which lies in each folder meanwhile."""
    wanted = {"attempt": attempt, **_versions()}
    try:
        for folder in folders:
            store.write_bytes(folder / PROBE, json.dumps(wanted).encode())
            answers = connected.run(_obstacle, folder, attempt, on_error="return")
            # OSError: the worker has gone meanwhile; where it has not, its first task finds out.
            bad = {at: a for at, a in answers.items() if a and not isinstance(a, OSError)}
            if bad:
                address, answer = next(iter(bad.items()))
                if isinstance(answer, Exception):
                    answer = f"cannot run imgfp {__version__}: {type(answer).__name__}: {answer}"
                others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
                raise ValueError(f"cluster: worker {address}{others} {answer}")
        yield
    finally:
        for folder in folders:
            (folder / PROBE).unlink(missing_ok=True)


def _obstacle(folder: Path, attempt: str) -> str:
    """Why this process cannot write artefacts into a folder of the client; blank when it can."""
    shared = "must be the same folder on every machine of the cluster"
    try:
        wanted = json.loads((folder / PROBE).read_bytes())
    except (OSError, ValueError):
        wanted = {}
    if wanted.pop("attempt", "") != attempt:
        return f"does not see what was written into {folder}, which {shared}"
    for name, version in _versions().items():
        if version != wanted[name]:
            return f"runs {name} {version}, not {wanted[name]}; install the same on every machine"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return f"cannot write into {folder} ({error.strerror}), which {shared}"
    return ""


def _versions() -> dict[str, str]:
    return {"imgfp": __version__, "Python": ".".join(platform.python_version_tuple()[:2])}


def _prepare(folder: Path, attempt: str) -> None:
    _one_thread()
    _require_access(folder, attempt)


def _require_access(folder: Path, attempt: str) -> None:
    obstacle = _obstacle(folder, attempt)
    if obstacle:
        from distributed import get_worker

        raise ValueError(f"cluster: worker {get_worker().address} {obstacle}")


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

    with nullcontext(trusted(cluster)) if cluster != "local" else processes(workers) as address:
        try:
            connected = Client(address, timeout="10s")
        except (OSError, TypeError):  # TypeError: Dask's configuration names no certificate
            raise ValueError(
                f"cluster: no Dask scheduler answers at {address!r}, or not with the certificates of "
                "Dask's configuration (docs/clusters.md); use 'local' or tls://host:port"
            ) from None
        with connected:
            yield connected


def trusted(cluster: str, insecure_cluster: bool = False) -> str:
    """The same address, if work may go there: it is "local" or encrypted, or `insecure_cluster` allows it,
    now or in an earlier call for that address. Raises ParameterError otherwise.

    Workers run whatever a scheduler sends them, and without TLS anybody who reaches its port can send.
    """
    if insecure_cluster:
        _insecure.add(cluster)
    if cluster == "local" or cluster.startswith(("tls://", "wss://")) or cluster in _insecure:
        return cluster
    raise ParameterError(
        f"cluster: {cluster} is not encrypted, so anybody who reaches it can run code there and here; "
        "use tls:// (docs/clusters.md), or set insecure_cluster: true in a network that you trust"
    )


#: Addresses without TLS that the user has allowed in this process.
_insecure: set[str] = set()


def dashboard(cluster: str) -> str:
    """Address of the dashboard of a scheduler; "" for "local", whose scheduler has none, and for one that serves none or
    does not answer."""
    if cluster in ("local", HERE):
        return ""
    try:
        with client(cluster) as connected:
            link = connected.dashboard_link or ""
        with urllib.request.urlopen(link, timeout=3) as answer:
            return link if answer.status == 200 else ""
    except (ValueError, KeyError, OSError):
        return ""


def machines(cluster: str) -> int:
    """Machines of a cluster: 1 for "local" and `HERE`. Raises ValueError where no scheduler answers."""
    if cluster in ("local", HERE):
        return 1
    with client(cluster) as connected:
        workers = connected.scheduler_info(n_workers=-1)["workers"].values()
        return len({worker["host"] for worker in workers}) or 1


@contextmanager
def processes(workers: int = 0):
    """Start worker processes on this machine, 0 for one per core; gives their scheduler's address.

    Only this process and those that it starts meanwhile can speak to them, see `_own_key`. Raises
    ParameterError for fewer than 0, or where they do not start.
    """
    import dask

    if workers < 0:
        raise ParameterError(f"workers: expected 0 (one per core) or more, got {workers}")
    # Shards bound the memory; Dask's own limits would kill a worker that is merely above its share.
    quiet = {
        "distributed.worker.memory.terminate": False,
        "distributed.admin.tick.limit": "60s",
        # Unset: any trim threshold ends glibc's adaptation to large arrays, and each array then costs
        # fresh pages (keypoints take 7 to 15 % more processor time).
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
        # HTTP servers, which ask for no key, tell nothing; nor is there a dashboard.
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
    count = workers or os.cpu_count() or 1
    with (
        _own_key(),
        store.temporary_folder() as scratch,
        dask.config.set(quiet | {"temporary-directory": str(scratch)}),
        ExitStack() as started,
    ):
        try:
            local = started.enter_context(_local_cluster(count))
        except (RuntimeError, OSError) as error:
            raise ParameterError(
                f"workers: {count} processes did not start ({error}); take fewer (workers=...), or see "
                f"what this machine allows: memory, processes (ulimit -u), room in {scratch.parent}"
            ) from None
        yield local.scheduler_address


def _local_cluster(count: int) -> LocalCluster:
    """Worker processes under a scheduler in this process, which stay as many whatever becomes of them."""
    from distributed import LocalCluster
    from tornado.ioloop import PeriodicCallback

    for left in reversed(range(_STARTS)):
        try:
            with _signals_held():
                local = LocalCluster(
                    n_workers=count,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                    protocol="tls",
                    silence_logs=50,
                )
            break
        except (RuntimeError, OSError):
            if not left:
                raise
    keeper = PeriodicCallback(lambda: _replace_lost(local, count), _REPLACE_S * 1000)
    local.periodic_callbacks["keeper"] = keeper  # Dask stops it with the cluster
    local.loop.add_callback(keeper.start)
    return local


def _replace_lost(local: LocalCluster, count: int) -> None:
    """Dask starts a worker again that has died, but gives up one that dies in that start."""
    from distributed.core import Status

    if local.status != Status.running:
        return
    for name, nanny in list(local.workers.items()):
        if nanny.status in (Status.closed, Status.failed):
            del local.workers[name]
    if len(local.workers) < count:
        local.scale(count)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back what would end this process until its block is done: a cluster that has half started leaves
    processes and traces behind."""
    came: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # only it may set handlers
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if callable(signal.getsignal(number)):
                before[number] = signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for held, handler in before.items():
            signal.signal(held, handler)
        for arrived in came:
            signal.raise_signal(arrived)


@contextmanager
def _own_key() -> Iterator[None]:
    """Let Dask encrypt with a key made now, and refuse whoever does not hold it.

    The key is in the configuration of this process and in the environment of those that it starts
    meanwhile (kernels), which other users cannot read; it is in no file that lasts.
    """
    import dask
    from distributed.security import Security

    made = Security.temporary()
    settings = {"distributed.comm.require-encryption": True}
    settings["distributed.comm.tls.ca-file"] = made.tls_ca_file
    for role in ("client", "scheduler", "worker"):
        for what in ("key", "cert"):
            settings[f"distributed.comm.tls.{role}.{what}"] = getattr(made, f"tls_{role}_{what}")
    variables = {
        f"DASK_{name}".replace(".", "__").replace("-", "_").upper(): str(value)
        for name, value in settings.items()
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        with dask.config.set(settings):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def progress(title: str, unit: str, total: int):
    """A progress bar with rate and remaining time: a widget in JupyterLab, plain text elsewhere."""
    if os.environ.get("IMGFP_HEADLESS"):
        from tqdm import tqdm

        return tqdm(
            total=total, desc=title, mininterval=5, file=sys.stdout, bar_format=bar_format(unit)
        )
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=title, unit=unit)
