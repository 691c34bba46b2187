# SPDX-License-Identifier: AGPL-3.0-or-later
"""A process of its own for a file that is not trusted: no right to write, bounded time and memory.

    process = Process("imgfp.inference:onnx_answers", Bounds(memory_mb=1000))
    header, buffers = process.ask({"load": True}, [data], seconds=60)

The process is a new Python that answers requests over a socket. Before it imports anything that handles the
file it gives up, for good, by Landlock (Linux 5.13 and later; `landlock_abi` says whether it is there): creating,
writing, truncating, renaming and deleting files outside `Bounds.writable`, TCP connections (Linux 6.7) and signals to
other processes (Linux 6.12). Everywhere, no file that it writes becomes larger than `Bounds.file_mb`. What it does not give
up: reading files, changing their rights and dates, and other network protocols than TCP.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, Pipe
from typing import Any

#: A handler of requests: (header, buffers) -> (header, buffers). Headers are JSON objects.
Handler = Callable[[dict[str, Any], list[bytes]], tuple[dict[str, Any], Sequence[Any]]]

#: Seconds to wait for each second of processor time that a request may take, on a busy machine.
_WAIT = 30
_START_S = 120
_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop())
from imgfp import confinement
confinement.serve()
"""
#: Variables that a process with a private folder keeps: what it takes to load libraries.
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")


class ConfinedError(RuntimeError):
    """A confined process that gave no answer: it took too long (`took_too_long`), or ended, by the signal or with the
    status that `ended_by` names."""

    def __init__(self, message: str, *, took_too_long: bool = False, ended_by: str = "") -> None:
        super().__init__(message)
        self.took_too_long = took_too_long
        self.ended_by = ended_by


@dataclass(frozen=True)
class Bounds:
    """Bounds of a process. memory_mb: address space beyond that of the empty process, 0: unbounded; file_mb: size of
    a file that it writes; writable: the folders and files that it may write.

    With a `file_mb` it has a private folder to write to: its working folder, its home and its place for temporary files,
    deleted with the process; and of the environment of its parent only what it takes to load libraries."""

    memory_mb: int = 0
    file_mb: int = 0
    writable: tuple[str, ...] = ()


class Process:
    """A process that answers requests with the handler that a function gives.

    handler: "module:function", a function without arguments that returns a `Handler`, called in the process.
    descriptors: of files that are open there, too, under the same numbers. variables: added to its environment.
    """

    def __init__(
        self,
        handler: str,
        bounds: Bounds,
        descriptors: Sequence[int] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._owner, self._lock = os.getpid(), threading.Lock()
        folder = tempfile.mkdtemp(prefix="imgfp-") if bounds.file_mb else None
        if folder:
            bounds = replace(bounds, writable=(*bounds.writable, folder, os.devnull))
        self._connection, theirs = Pipe()
        with theirs:
            paths = json.dumps([os.path.abspath(path) for path in sys.path])
            arguments = [str(theirs.fileno()), handler, json.dumps(asdict(bounds)), paths]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", _CHILD, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *descriptors],
                start_new_session=True,  # Ctrl-C is for the parent
                cwd=folder,
                env=(_private(folder) if folder else environment()) | dict(variables or {}),
            )
        self._end = weakref.finalize(
            self, _end, self._process, self._connection, self._owner, folder
        )
        self.ask({}, [], seconds=_START_S)

    @property
    def is_usable(self) -> bool:
        """False after its end was noticed, and after a fork."""
        return self._owner == os.getpid() and self._end.alive

    def ask(
        self, header: dict[str, Any], buffers: Sequence[Any], seconds: float
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The answer to a request that may take so many seconds of processor time. Raises ConfinedError, after which
        the process is gone, and RuntimeError with the message of an exception that the handler raised."""
        with self._lock:
            if not self.is_usable:
                raise ConfinedError("its process is gone")
            try:
                _send(self._connection, header | {"seconds": seconds}, buffers)
                if not self._connection.poll(_WAIT * seconds):
                    self.close()
                    raise ConfinedError(
                        f"it had no answer in {_WAIT * seconds:g} s", took_too_long=True
                    )
                answer, parts = _receive(self._connection)
            except (OSError, EOFError):
                raise self._ended(seconds) from None
            except BaseException:
                self.close()  # the answer that is on its way would be taken for the next one's
                raise
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer, parts

    def close(self) -> None:
        """End the process, and those that it started."""
        self._end()

    def _ended(self, seconds: float) -> ConfinedError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self.close()
        status = self._process.returncode
        if status == -signal.SIGPROF:
            return ConfinedError(
                f"it took more than {seconds:g} s of processor time", took_too_long=True
            )
        by = signal.Signals(-status).name if status < 0 else f"status {status}"
        return ConfinedError(f"ended by {by}", ended_by=by)


def landlock_abi() -> int:
    """Version of Landlock that this kernel offers, 0 where it offers none."""
    return max(0, _LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1))


#: Threads take address space.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def environment() -> dict[str, str]:
    """Variables for a process that handles a file: those of this one without the key of its cluster, one thread."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DASK_")}
    return kept | _ONE_THREAD


def _private(folder: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"HOME": folder, "TMPDIR": folder} | _ONE_THREAD


def _end(
    process: subprocess.Popen[bytes], connection: Connection, owner: int, folder: str | None
) -> None:
    if owner == os.getpid():
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
    connection.close()


def _send(connection: Connection, header: dict[str, Any], buffers: Sequence[Any]) -> None:
    connection.send_bytes(json.dumps(header | {"buffers": len(buffers)}).encode())
    for buffer in buffers:
        connection.send_bytes(buffer)


def _receive(connection: Connection) -> tuple[dict[str, Any], list[bytes]]:
    header = json.loads(connection.recv_bytes())
    return header, [connection.recv_bytes() for _ in range(header["buffers"])]


# ---------------------------------------------------------------------------------------- in the process


def serve() -> None:
    """Answer requests until the parent is gone; see `Process`."""
    number, name, bounds = sys.argv[1:]
    connection = Connection(int(number))
    confine(Bounds(**json.loads(bounds)))
    module, _, function = name.partition(":")
    handler: Handler | None = None
    with suppress(EOFError):
        while True:
            header, buffers = _receive(connection)
            # An interval as well: a library may take the first signal for itself.
            signal.setitimer(signal.ITIMER_PROF, header["seconds"], header["seconds"])
            answer: dict[str, Any] = {}
            parts: Sequence[Any] = []
            try:
                if handler is None:
                    handler = getattr(importlib.import_module(module), function)()
                else:
                    answer, parts = handler(header, buffers)
            except Exception as error:  # of any library, on a file that may hold anything
                text = "out of memory" if isinstance(error, MemoryError) else str(error)
                answer = {"error": " ".join(text.split())[:600] or repr(error)}
            signal.setitimer(signal.ITIMER_PROF, 0)
            _send(connection, answer, parts)


def confine(bounds: Bounds) -> None:
    """Bound this process for good, and those that it starts."""
    limit(bounds.memory_mb, bounds.file_mb)
    _forbid_writing(bounds.writable)


def limit(memory_mb: float, file_mb: int = 0) -> None:
    """The part of `confine` that every system has: a timer that ends this process, no core file, memory, and size of
    files; see `Bounds`."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, file_mb * 2**20)
    if memory_mb and sys.platform == "linux":
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + round(memory_mb * 2**20))


def _lower(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


_LIBC = ctypes.CDLL(None, use_errno=True)
#: System calls, by the same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PR_SET_NO_NEW_PRIVS, _PATH_BENEATH = 38, 1
#: Rights of files as bits: to write one, and to remove or make entries of a folder.
_WRITE_FILE, _CHANGE_FOLDER = 1 << 1, sum(1 << bit for bit in range(4, 13))
#: Further rights, by the version that brought them: to move between folders, to truncate.
_LATER = {2: 1 << 13, 3: 1 << 14}


def _forbid_writing(writable: Sequence[str]) -> None:
    """Landlock: no file is written but below `writable`, no TCP, no signals to others. Nothing where there is none."""
    abi = landlock_abi()
    if not abi:
        return
    files = _WRITE_FILE | _CHANGE_FOLDER
    files |= sum(right for version, right in _LATER.items() if abi >= version)
    # Rights of files, of TCP (bind, connect), and scopes (abstract sockets, signals): what an older version does not know
    # is cut off.
    known = 1 + (abi >= 4) + (abi >= 6)
    rights = struct.pack(f"={known}Q", *(files, 3, 3)[:known])
    ruleset = _checked(_LIBC.syscall(_CREATE_RULESET, rights, ctypes.c_size_t(len(rights)), 0))
    for path in writable:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        of_a_file = _WRITE_FILE | (files & _LATER[3])
        allowed = struct.pack("=Qi", files if os.path.isdir(path) else of_a_file, handle)
        _checked(_LIBC.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, allowed, 0))
        os.close(handle)
    _checked(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(_LIBC.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "Landlock")
    return result
