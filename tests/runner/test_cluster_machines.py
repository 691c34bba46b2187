# SPDX-License-Identifier: AGPL-3.0-or-later
"""A scheduler and workers that were started elsewhere share the work, and lose none when a worker is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from imgfp import store
from imgfp.runner import cluster
from imgfp.runner.cluster import Piece, ShardResult, Task

ROOT = Path(__file__).resolve().parents[2]


class Machines:
    """A scheduler that forgives no death, and workers, each started by Dask's own command."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen] = []
        self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show"
        )
        deadline = time.monotonic() + 60
        while not self._file.exists():
            assert time.monotonic() < deadline, (folder / "scheduler.log").read_text()
            time.sleep(0.05)

    @property
    def _file(self) -> Path:
        return self._folder / "scheduler.json"

    @property
    def address(self) -> str:
        address = json.loads(self._file.read_bytes())["address"]
        return cluster.trusted(address, insecure_cluster=True)

    def add(self, count: int, *options: str, threads: int = 1, cwd: Path = ROOT) -> None:
        sizes = ["--nworkers", str(count), "--nthreads", str(threads), "--memory-limit", "0"]
        places = ["--local-directory", str(self._folder / "scratch"), "--no-dashboard"]
        self._start("worker", *sizes, *places, *options, cwd=cwd)

    def _start(self, what: str, *options: str, cwd: Path = ROOT) -> None:
        place = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
        }
        command = [sys.executable, "-m", "dask", what, "--scheduler-file", str(self._file)]
        with open(self._folder / f"{what}.log", "ab") as log:
            started = subprocess.Popen(
                [*command, *options], env=place, cwd=cwd, stdout=log, stderr=log
            )
        self._started.append(started)

    def kill_scheduler(self) -> None:
        self._started[0].kill()

    def stop(self) -> None:
        for started in reversed(self._started):
            started.terminate()
            try:
                started.wait(20)
            except subprocess.TimeoutExpired:
                started.kill()


@contextlib.contextmanager
def started(folder: Path):
    machines = Machines(folder)
    try:
        yield machines
    finally:
        machines.stop()


@pytest.fixture
def machines(tmp_path):
    (tmp_path / "machines").mkdir()
    with started(tmp_path / "machines") as running:
        yield running


@pytest.fixture(scope="module")
def three_workers(tmp_path_factory) -> str:
    with started(tmp_path_factory.mktemp("machines")) as running:
        running.add(3)
        yield running.address


# ------------------------------------------------------------------- functions that workers run


def hold_the_first(folder: Path) -> None:
    """The first that comes says so by a file and stays, to be killed; all others pass."""
    try:
        with open(folder / "victim", "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return
    time.sleep(120)


@store.produces("squares")
def squares(numbers: list[int], folder: Path) -> ShardResult:
    for number in numbers:
        if number == 5:
            hold_the_first(folder)
    return ShardResult(pd.DataFrame({"n": [number**2 for number in numbers]}))


def multiples(factor: int, numbers: list[int], folder: Path) -> tuple[int, list[int]]:
    if 5 in numbers and factor == 2:
        hold_the_first(folder)
    (folder / f"{numbers[0]} {factor} {os.getpid()} {uuid.uuid4().hex}").touch()
    return os.getpid(), [number * factor for number in numbers]


@store.produces("tables of multiples", piece=multiples)
def multiplication(pieces: list, numbers: list[int], folder: Path) -> ShardResult:
    return ShardResult(pd.DataFrame({str(at): found for at, (_, found) in enumerate(pieces)}))


@store.produces("slow")
def slow(numbers: list[int], seconds: float) -> ShardResult:
    time.sleep(seconds)
    return ShardResult(pd.DataFrame({"pid": [os.getpid()]}))


@store.produces("late")
def late(folder: Path, fails: bool) -> ShardResult:
    """One call raises while the other is on its way, which then waits to be let go on."""
    if fails:
        while not (folder / "on its way").exists():
            time.sleep(0.05)
        raise ValueError("the map ends")
    (folder / "on its way").touch()
    while not (folder / "go on").exists():
        time.sleep(0.05)
    return ShardResult(pd.DataFrame({"n": [1]}))


@store.produces("hopeless")
def hopeless() -> ShardResult:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def tasks(out: Path, count: int, pieces: int = 0, **arguments) -> list[Task]:
    return [
        Task(
            out / f"shard-{i:05d}.parquet",
            (str(i),),
            {"numbers": [i, i + 100], **arguments},
            2,
            tuple(Piece({"factor": factor}, home=factor) for factor in range(pieces)),
        )
        for i in range(count)
    ]


@contextlib.contextmanager
def killer(folder: Path):
    """Ends the worker that waits for it, as the operating system would."""

    def kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((folder / "victim").read_text()), signal.SIGKILL)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    yield
    thread.join()


def undisturbed(folder: Path) -> Path:
    folder.mkdir()
    (folder / "victim").touch()
    return folder


def contents(folder: Path) -> list[dict]:
    return [store.load(path).to_dict("list") for path in store.shards(folder, ".parquet")]


# ------------------------------------------------------------------------------------- tests


def test_a_map_that_loses_a_worker_ends_like_a_local_one(three_workers, tmp_path):
    there, here = tmp_path / "there", undisturbed(tmp_path / "here")
    there.mkdir()
    with killer(there):
        made = cluster.map_shards(
            squares, tasks(there, 12, folder=there), {}, cluster=three_workers, lock_dir=there
        )
    local = cluster.map_shards(squares, tasks(here, 12, folder=here), {}, workers=1)
    assert (made.computed, made.rejects) == (local.computed, []) == (24, local.rejects)
    assert contents(there) == contents(here) and len(contents(here)) == 12
    assert not [path for path in there.glob(".*") if ".lock" not in path.name]


def test_a_map_of_pieces_that_loses_a_worker_computes_again_what_is_lost(three_workers, tmp_path):
    there, here = tmp_path / "there", undisturbed(tmp_path / "here")
    there.mkdir()
    out = there / "out"
    with killer(there):
        cluster.map_shards(
            multiplication, tasks(out, 8, 6, folder=there), {}, cluster=three_workers
        )
    cluster.map_shards(
        multiplication, tasks(here / "out", 8, 6, folder=here), {}, workers=1
    )  # fmt: skip
    assert contents(out) == contents(here / "out")
    assert contents(out)[7] == {str(f): [7 * f, 107 * f] for f in range(6)}
    killed = (there / "victim").read_text()
    calls = [path.name.split() for path in there.glob("* * * *")]
    assert len({(first, factor) for first, factor, *_ in calls}) == 48
    for call, count in Counter((first, factor) for first, factor, *_ in calls).items():
        by_killed = [pid for *of, pid, _ in calls if tuple(of) == call and pid == killed]
        assert count == 1 or (count == 2 and by_killed), f"{call} was computed again for nothing"


def test_a_failed_shard_leaves_nothing_behind(three_workers, tmp_path):
    with pytest.raises(TypeError, match="numbers"):
        cluster.map_shards(
            squares, [Task(tmp_path / "shard-0.parquet", (), {}, 1)], {}, cluster=three_workers
        )
    assert not list(tmp_path.iterdir())


def test_a_call_that_outlives_its_map_writes_nothing(three_workers, tmp_path):
    """Its client holds the folder no longer, so that another map may be writing there."""
    from distributed import Client

    shards = [
        Task(tmp_path / "out" / name, (), {"folder": tmp_path, "fails": fails}, 1)
        for name, fails in [("shard-00000.parquet", False), ("shard-00001.parquet", True)]
    ]
    with pytest.raises(ValueError, match="the map ends"):
        cluster.map_shards(late, shards, {}, cluster=three_workers)

    def executing() -> bool:
        counts = client.run(lambda dask_worker: dask_worker.state.executing_count)
        return any(counts.values())

    with Client(three_workers) as client:
        assert executing()
        (tmp_path / "go on").touch()
        while executing():
            time.sleep(0.05)
    assert not list((tmp_path / "out").iterdir())


def test_a_scheduler_that_ends_is_one_clear_line(machines, tmp_path):
    machines.add(1)

    def end() -> None:
        while not store.shards(tmp_path, ".parquet"):
            time.sleep(0.05)
        machines.kill_scheduler()

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    with pytest.raises(RuntimeError, match=r"^cluster: .*scheduler-connection-lost.*$"):
        cluster.map_shards(slow, tasks(tmp_path, 40), {"seconds": 0.2}, cluster=machines.address)
    ending.join()
    assert not list(tmp_path.glob(f"*{cluster.PROBE}"))


def test_a_task_that_kills_every_worker_is_given_up(three_workers, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "DEATHS", 2)
    path = tmp_path / "shard-00000.parquet"
    with pytest.raises(RuntimeError, match=r"shard-00000\.parquet: 2 workers died"):
        cluster.map_shards(hopeless, [Task(path, (), {}, 1)], {}, cluster=three_workers)


def test_few_tasks_are_handed_over_ahead_and_later_workers_are_used(machines, tmp_path):
    """Begun without any worker; one comes, then another."""
    from distributed import Client

    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        with Client(machines.address) as client:
            machines.add(1)
            client.wait_for_workers(1)
            while not (store.shards(tmp_path, ".parquet") or done.is_set()):
                most = max(
                    most, client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
                )
            machines.add(1)
            while not done.wait(0.05):
                most = max(
                    most, client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
                )

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        made = cluster.map_shards(
            slow, tasks(tmp_path, 40), {"seconds": 0.2}, cluster=machines.address
        )
    finally:
        done.set()
        watcher.join()
    assert made.computed == 80
    assert len({table["pid"][0] for table in contents(tmp_path)}) == 2
    assert 2 <= most <= 2 * cluster.CALLS_AHEAD + 1


def test_a_cluster_without_the_shared_folder_is_refused_at_once(
    three_workers, tmp_path, monkeypatch
):
    """The same path leads to different folders: a relative one, where the client runs elsewhere."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"worker tcp://\S+ \(and 2 more\) does not see .*out"):
        cluster.map_shards(
            slow, tasks(Path("out"), 3), {"seconds": 9}, cluster=three_workers, lock_dir=tmp_path
        )
    assert not list((tmp_path / "out").iterdir())
    assert not (ROOT / "out").exists()


def test_a_worker_without_the_shared_folder_that_joins_later_is_refused(
    machines, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    def join_later() -> None:
        while not (tmp_path / "out" / cluster.PROBE).exists():
            time.sleep(0.05)
        time.sleep(0.5)  # until the workers that were there have been checked: none
        machines.add(1, cwd=tmp_path / "elsewhere")

    joining = threading.Thread(target=join_later, daemon=True)
    joining.start()
    with pytest.raises(ValueError, match=r"worker tcp://\S+ does not see .*out"):
        cluster.map_shards(slow, tasks(Path("out"), 3), {"seconds": 0}, cluster=machines.address)
    joining.join()
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("imgfp.__version__ = '0.0.1'", r"runs imgfp 0\.0\.1, not"),
        ("platform.python_version_tuple = lambda: ('3', '99', '0')", r"runs Python 3\.99, not 3\."),
        ("sys.modules['imgfp.runner.cluster'] = None", "cannot run imgfp .*: ModuleNotFoundError"),
    ],
)
def test_a_worker_of_another_version_is_refused_at_once(machines, tmp_path, change, said):
    from distributed import Client

    preload = tmp_path / "preloaded.py"
    preload.write_text(f"import platform, sys, imgfp\n{change}\n")
    machines.add(1, "--preload", str(preload))
    with Client(machines.address) as client:
        client.wait_for_workers(1)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=f"cluster: worker tcp://.*{said}"):
        cluster.map_shards(slow, tasks(out, 1), {"seconds": 9}, cluster=machines.address)
    assert not list(out.iterdir())


def test_a_folder_that_a_worker_cannot_write_into_is_refused(three_workers, tmp_path, monkeypatch):
    def read_only(**_options):
        raise OSError(30, "Read-only file system")

    token = {"attempt": "one", **cluster._versions()}
    store.write_bytes(tmp_path / cluster.PROBE, json.dumps(token).encode())
    assert cluster._obstacle(tmp_path, "one") == ""
    monkeypatch.setattr(cluster.tempfile, "TemporaryFile", read_only)
    assert f"cannot write into {tmp_path} (Read-only file system)" in cluster._obstacle(
        tmp_path, "one"
    )


@pytest.mark.parametrize(("homes", "workers"), [(1, 4), (3, 4), (4, 4), (7, 3), (100, 16)])
def test_homes_share_the_workers_evenly(homes, workers):
    addresses = [f"w{i:02d}" for i in range(workers)]
    given = [cluster._home(home, homes, addresses) for home in range(homes)]
    load = Counter(address for of in given for address in of)
    assert set(load) == set(addresses) and all(given)
    assert max(load.values()) - min(load.values()) <= 1
    assert cluster._home(0, homes, []) == []


def test_the_code_of_a_piece_counts(tmp_path):
    import importlib.util

    hashes = set()
    for at, body in enumerate(["number + 1", "number + 2"]):
        path = tmp_path / f"pieces_{at}.py"
        path.write_text(
            "from imgfp import store\n"
            f"def piece(number):\n    return {body}\n"
            "@store.produces('sums', piece=piece)\ndef sums(pieces):\n    return sum(pieces)\n"
        )
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        hashes.add(store.origin(module.sums, {}).code)
    assert len(hashes) == 2


def test_a_connection_that_closes_while_a_result_is_fetched_is_one_clear_line():
    from distributed.comm import CommClosedError

    class Closed:
        def result(self):
            raise CommClosedError("Stream is closed")

    one = cluster._Submission.__new__(cluster._Submission)
    with pytest.raises(RuntimeError, match=r"^cluster: .*scheduler-connection-lost.*$"):
        one.is_done(Closed())
