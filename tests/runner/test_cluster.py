# SPDX-License-Identifier: AGPL-3.0-or-later
"""Shards are computed once, in worker processes, and a killed map goes on."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import dask
import pandas as pd
import psutil
import pytest

from imgfp import store
from imgfp.runner import cluster
from imgfp.runner.cluster import ShardResult, Task
from imgfp.runner.params import ParameterError


@store.produces("doubled")
def doubled(numbers: list[int], *, factor: int) -> ShardResult:
    if factor < 0:
        raise ValueError("factor must not be negative")
    bad = [(str(n), "odd") for n in numbers if n % 2]
    return ShardResult(pd.DataFrame({"n": [n * factor for n in numbers]}), bad)


@store.produces("killed thrice")
def killed_thrice(names: list[str], marks: Path) -> ShardResult:
    """Its process ends at the same name three times, as one that the system kills for want of memory."""
    for name in names:
        if name == "b":
            marks.mkdir(exist_ok=True)
            deaths = len(list(marks.iterdir()))
            if deaths < 3:
                (marks / str(deaths)).touch()
                os.kill(os.getpid(), signal.SIGKILL)
    return ShardResult(pd.DataFrame({"name": names}))


def tasks(folder, count: int = 3) -> list[Task]:
    return [
        Task(folder / f"shard-{i:05d}.parquet", (str(i),), {"numbers": [i, i + 10]}, 2)
        for i in range(count)
    ]


def test_no_tasks_no_work(tmp_path):
    assert str(cluster.map_shards(doubled, [], {"factor": 2})) == "0 computed, 0 reused, 0 refused"


def test_computed_once_then_reused_then_remade(tmp_path, capsys):
    options = {"workers": 1, "lock_dir": tmp_path, "title": "doubled"}
    with cluster.processes(1) as address:
        options["cluster"] = address
        first = cluster.map_shards(doubled, tasks(tmp_path), {"factor": 2}, **options)
        assert (first.computed, first.reused, len(first.rejects)) == (6, 0, 2)
        stamp = (tmp_path / "shard-00000.parquet").stat().st_mtime_ns
        again = cluster.map_shards(doubled, tasks(tmp_path), {"factor": 2}, **options)
        assert (again.computed, again.reused) == (0, 6) and again.rejects == first.rejects
        assert (tmp_path / "shard-00000.parquet").stat().st_mtime_ns == stamp
        (tmp_path / "shard-00001.parquet").write_bytes(b"torn")
        repaired = cluster.map_shards(doubled, tasks(tmp_path, 4), {"factor": 2}, **options)
        assert (repaired.computed, repaired.reused) == (4, 4)
        cluster.map_shards(doubled, tasks(tmp_path), {"factor": 3}, **options)
        assert "factor 2 -> 3" in capsys.readouterr().out
        assert store.load(tmp_path / "shard-00002.parquet")["n"].tolist() == [6, 36]
        with pytest.raises(ValueError, match="not be negative"):
            cluster.map_shards(doubled, tasks(tmp_path), {"factor": -1}, **options)


def test_no_file_is_blamed_for_the_death_of_a_worker(tmp_path):
    path = tmp_path / "shard-00000.parquet"
    names = ["a", "b", "c"]
    task = Task(path, ("x",), {"names": names, "marks": tmp_path / "marks"}, 3)
    made = cluster.map_shards(killed_thrice, [task], {}, workers=1)
    assert store.load(path)["name"].tolist() == names and not made.rejects
    assert len(list((tmp_path / "marks").iterdir())) == 3
    assert {p.name for p in tmp_path.iterdir()} == {path.name, f"{path.name}.json", "marks"}


def test_shards_of_other_settings_are_gone(tmp_path):
    """Fewer queries with crops, or none: what was made from the old crops must not be read."""
    folder = tmp_path / "crops"
    options = {"workers": 1, "output_dir": folder}
    cluster.map_shards(doubled, tasks(folder, 3), {"factor": 2}, **options)
    assert len(store.shards(folder, ".parquet")) == 3
    again = cluster.map_shards(doubled, tasks(folder, 2), {"factor": 2}, **options)
    assert again.reused == 4
    assert [p.stem for p in store.shards(folder, ".parquet")] == ["shard-00000", "shard-00001"]
    cluster.map_shards(doubled, [], {"factor": 2}, **options)
    assert not list(folder.glob("shard-*"))


def test_workers_keep_the_allocator_adaptive(monkeypatch):
    """A trim threshold, which Dask sets by default, makes every large array cost fresh pages."""
    from distributed import Client

    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    with cluster.processes(1) as address, Client(address) as client:
        (environment,) = client.run(lambda: dict(os.environ)).values()
    assert "MALLOC_TRIM_THRESHOLD_" not in environment and environment["OMP_NUM_THREADS"] == "1"


def test_fewer_than_no_workers_are_refused():
    with pytest.raises(ValueError, match="workers: expected 0"), cluster.processes(-1):
        pass


def spawned() -> set[int]:
    """Numbers of the worker processes of this process, those that start included."""
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            found |= {child.pid} if "spawn_main" in " ".join(child.cmdline()) else set()
    return found


def killed_next(before: set[int]) -> int:
    """Kill the worker process that is started next; its number."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for pid in spawned() - before:
            os.kill(pid, signal.SIGKILL)
            return pid
        time.sleep(0.01)
    raise AssertionError("no worker was started")


def test_a_worker_that_dask_gives_up_is_replaced(tmp_path):
    """It does so where a killed worker takes longer to start again than the machine usually needs."""
    before = spawned()
    impatient = dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"})
    with impatient, cluster.processes(1) as address:
        killed_next(before)
        made = cluster.map_shards(doubled, tasks(tmp_path), {"factor": 2}, cluster=address)
    assert made.computed == 6


def test_a_worker_that_is_killed_while_it_starts_costs_only_time(tmp_path):
    before = spawned()
    with ThreadPoolExecutor() as beside:
        victim = beside.submit(killed_next, before)
        made = cluster.map_shards(doubled, tasks(tmp_path), {"factor": 2}, workers=1)
    assert victim.result() and made.computed == 6


def test_workers_that_do_not_start_are_one_clear_line(monkeypatch):
    import multiprocessing
    from multiprocessing import resource_tracker, spawn

    resource_tracker.ensure_running()  # it would be started by the same executable
    monkeypatch.setattr(spawn, "_python_exe", spawn.get_executable())
    multiprocessing.set_executable("/bin/false")
    with (
        pytest.raises(
            ParameterError, match=r"^workers: 1 processes did not start \(.*\); take fewer"
        ),
        cluster.processes(1),
    ):
        pass


def test_wrong_scheduler_is_one_clear_line(tmp_path, monkeypatch):
    import distributed

    def unreachable(*_args, **_options):
        raise OSError("Timed out trying to connect")

    monkeypatch.setattr(distributed, "Client", unreachable)
    with pytest.raises(ValueError, match="no Dask scheduler answers at 'tls://nowhere:1'"):
        cluster.map_shards(
            doubled, tasks(tmp_path), {"factor": 2}, cluster="tls://nowhere:1", lock_dir=tmp_path
        )
