# SPDX-License-Identifier: AGPL-3.0-or-later
"""Processes for files that are not trusted: what they cannot do, and how their ends are told."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from imgfp.confinement import Bounds, ConfinedError, Process, landlock_abi

needs_landlock = pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")


def handler():
    """Does what a request says, in the confined process."""

    def answer(header, buffers):
        what, path = header["do"], header.get("path")
        if what == "write":
            Path(path).write_bytes(bytes(header["bytes"]))
        elif what == "truncate":
            os.truncate(path, 0)
        elif what == "delete":
            os.unlink(path)
        elif what == "rename":
            os.rename(path, path + ".moved")
        elif what == "folder":
            os.mkdir(path)
        elif what == "connect":
            socket.create_connection(("127.0.0.1", header["port"]), 5).close()
        elif what == "kill":
            os.kill(header["pid"], 0)
        elif what == "allocate":
            bytearray(header["bytes"])
        elif what == "spin":
            while True:
                pass
        elif what == "end":
            os.kill(os.getpid(), header["signal"])
        return {"environment": sorted(os.environ), "cwd": os.getcwd()}, buffers

    return answer


HANDLER = "test_confinement:handler"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_bytes(b"untouched")
    return path


def test_requests_are_answered_with_their_buffers():
    process = Process(HANDLER, Bounds())
    buffers = [b"", bytes(3_000_000)]
    assert process.ask({"do": "echo"}, buffers, 10)[1] == buffers
    with pytest.raises(RuntimeError, match="No such file"):
        process.ask({"do": "delete", "path": "/absent/file"}, [], 10)
    assert process.ask({"do": "echo"}, buffers, 10)[1] == buffers  # an error is no end
    process.close()
    with pytest.raises(ConfinedError, match="gone"):
        process.ask({"do": "echo"}, [], 10)


@needs_landlock
@pytest.mark.parametrize("what", ["write", "truncate", "delete", "rename"])
def test_no_file_can_be_changed(what, victim):
    process = Process(HANDLER, Bounds(file_mb=1))
    with pytest.raises(RuntimeError, match="Permission denied"):
        process.ask({"do": what, "path": str(victim), "bytes": 1}, [], 10)
    with pytest.raises(RuntimeError, match="Permission denied"):
        process.ask({"do": "folder", "path": f"{victim}.folder"}, [], 10)
    assert victim.read_bytes() == b"untouched" and len(os.listdir(victim.parent)) == 1


@needs_landlock
def test_its_private_folder_can_be_written_up_to_the_limit_and_goes_with_it(victim):
    process = Process(HANDLER, Bounds(file_mb=1))
    about, _ = process.ask({"do": "write", "path": "a", "bytes": 2**20}, [], 10)
    own = Path(about["cwd"])
    assert (own / "a").stat().st_size == 2**20
    with pytest.raises(RuntimeError, match="File too large"):
        process.ask({"do": "write", "path": "b", "bytes": 2**20 + 1}, [], 10)
    with pytest.raises(RuntimeError, match="Permission denied"):
        process.ask({"do": "delete", "path": str(victim)}, [], 10)
    process.close()
    assert not own.exists()


def test_without_landlock_no_byte_is_written(victim):
    """The limit of file sizes alone, which every system has."""
    process = Process(HANDLER, Bounds(writable=(str(victim.parent),)))
    with pytest.raises(RuntimeError, match="File too large"):
        process.ask({"do": "write", "path": str(victim), "bytes": 1}, [], 10)


@pytest.mark.skipif(landlock_abi() < 4, reason="this kernel's Landlock knows no TCP")
def test_tcp_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        process = Process(HANDLER, Bounds())
        with pytest.raises(RuntimeError, match="Permission denied"):
            process.ask({"do": "connect", "port": server.getsockname()[1]}, [], 10)


@pytest.mark.skipif(landlock_abi() < 6, reason="this kernel's Landlock knows no signals")
def test_other_processes_get_no_signals():
    process = Process(HANDLER, Bounds())
    with pytest.raises(RuntimeError, match="Operation not permitted"):
        process.ask({"do": "kill", "pid": os.getpid()}, [], 10)


def test_time_is_bounded_and_said():
    process = Process(HANDLER, Bounds())
    with pytest.raises(ConfinedError, match=r"more than 0\.2 s of processor time") as error:
        process.ask({"do": "spin"}, [], 0.2)
    assert error.value.took_too_long


def test_memory_is_bounded():
    process = Process(HANDLER, Bounds(memory_mb=300))
    process.ask({"do": "allocate", "bytes": 50 * 2**20}, [], 10)
    with pytest.raises(RuntimeError, match="out of memory"):
        process.ask({"do": "allocate", "bytes": 400 * 2**20}, [], 10)


def test_an_end_is_told_by_its_signal():
    process = Process(HANDLER, Bounds())
    with pytest.raises(ConfinedError, match="ended by SIGSEGV") as error:
        process.ask({"do": "end", "signal": signal.SIGSEGV}, [], 10)
    assert not error.value.took_too_long


def test_secrets_stay_with_the_parent(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TLS__KEY", "secret")
    about, _ = Process(HANDLER, Bounds(file_mb=1)).ask({"do": "echo"}, [], 10)
    assert "AWS_SECRET_ACCESS_KEY" not in about["environment"]
    about, _ = Process(HANDLER, Bounds()).ask({"do": "echo"}, [], 10)
    assert not [name for name in about["environment"] if name.startswith("DASK_")]


def test_it_ends_with_its_owner():
    process = Process(HANDLER, Bounds())
    pid = process._process.pid
    del process
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("the process outlives its owner")
