# SPDX-License-Identifier: AGPL-3.0-or-later
"""Decoding of untrusted image files in a process of its own, under limits of time and memory.

Decoders are C libraries: a hostile file can crash them, or keep them busy for hours within any limit of bytes and
pixels. So no other process hands them a file's bytes. Each thread that decodes has a child process, which is
kept between files. Processor time is limited by the kernel's timer, which the load of the machine does not
change, memory by the size of the address space; the child can write no file.

A child that dies was perhaps killed from outside, so its file is given to a new child, alone. A file that has
ended two of them is refused.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import IO, Any

import numpy as np

from imgfp import confinement
from imgfp.images import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    Facts,
    ImageError,
    decode_image,
    read_bytes,
)

#: Files after which a child is replaced, so that what a decoder leaks stays small.
RECYCLED_AFTER = 1000
#: Children, each of them new and with no other file, that a file must end before it is refused.
DEATHS = 2
#: Parts of reasons that tell of limits or of the machine as much as of the file.
_NOT_FOR_EVER = (
    "ended the process",
    "to decode",
    "had no answer",
    "than the limit",
    "cannot be opened",
    "cannot be read",
)
_START_S = 120
#: Trials of starting a child, which may be killed meanwhile.
_STARTS = 3
_CHILD = "from imgfp import decoding; decoding.serve()"
#: Pages that go back to the system after each picture cost as much as its decoding.
_MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
}
#: Seconds to wait for each second of processor time that a file may take, on a busy machine.
_WAIT = 30
_REQUEST = struct.Struct("<Q")
_ANSWER = struct.Struct("<I")
#: Shared pages above this are given back after a picture.
_KEPT_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Limits:
    """What one file may take: bytes, pixels, processor time of decoding, and memory beyond that of the empty process.
    Raises ValueError for a limit that is not above zero."""

    max_file_mb: float = MAX_FILE_BYTES / 2**20
    max_megapixels: float = MAX_PIXELS / 1e6
    max_decode_seconds: float = 4
    max_decode_memory_mb: float = 800

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name}: expected more than 0, got {value}")

    @property
    def pixels(self) -> int:
        return round(self.max_megapixels * 1e6)


@dataclass(frozen=True)
class Picture:
    """A decoded file: pixels (H,W,3) uint8 RGB, upright; facts; SHA-256 of the file's bytes."""

    pixels: np.ndarray
    facts: Facts
    sha256: str


def read_picture(path: str | os.PathLike, limits: Limits | None = None) -> Picture:
    """Read and decode the first frame of a file, or of an object by URL. Raises ImageError with a reason of one
    line, also where the file takes more than `limits` or ends the process that decodes it."""
    data, pixels, facts = _read(path, limits or Limits())
    return Picture(pixels, facts, hashlib.sha256(data).hexdigest())


def read_image(path: str | os.PathLike, limits: Limits | None = None) -> np.ndarray:
    """The pixels of `read_picture`."""
    return _read(path, limits or Limits())[1]


def may_pass_later(reason: str) -> bool:
    """True for the reason of a refusal that another trial, or larger limits, may not repeat."""
    return any(part in reason for part in _NOT_FOR_EVER)


def _read(path: str | os.PathLike, limits: Limits) -> tuple[bytes, np.ndarray, Facts]:
    data = read_bytes(path, round(limits.max_file_mb * 2**20))
    deaths = 0
    while True:
        child = _child(limits)
        alone = child.files == 0
        try:
            return data, *child.decode(data, path)
        except _Ended as end:
            deaths += alone
            if deaths == DEATHS:
                raise ImageError(
                    path, f"ended the process that decodes it, {deaths} times: {end}"
                ) from None
            if end.killed:
                time.sleep(1)  # perhaps for want of memory, which may pass


class _Ended(Exception):
    """A child ended while it decoded."""

    def __init__(self, status: int) -> None:
        self.killed = status == -signal.SIGKILL
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        super().__init__(
            name + (", by the system for want of memory, or by somebody" if self.killed else "")
        )


_own = threading.local()


def _child(limits: Limits) -> _Child:
    """The child of this thread, a new one where there is none that can be used."""
    child: _Child | None = getattr(_own, "child", None)
    if child is None or not child.can_decode(limits):
        if child is not None:
            child.close()
        child = _own.child = _started(limits)
    return child


def _started(limits: Limits) -> _Child:
    """A new child. Raises RuntimeError where none starts."""
    for left in reversed(range(_STARTS)):
        try:
            return _Child(limits)
        except (_Ended, TimeoutError) as error:
            if not left or isinstance(error, TimeoutError):
                raise RuntimeError(
                    f"the process that decodes pictures did not start ({error}); see `imgfp doctor`"
                ) from None
    raise AssertionError


class _Child:
    """A process that decodes files, one at a time."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.files = 0
        self._owner = os.getpid()
        size = 3 * limits.pixels
        with _shared_file() as shared:
            shared.truncate(size)
            self._pixels = mmap.mmap(shared.fileno(), size)
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _CHILD,
                    str(shared.fileno()),
                    json.dumps(asdict(limits)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # decoders warn there, without the name of the file
                pass_fds=[shared.fileno()],
                start_new_session=True,  # Ctrl-C is for the parent
                bufsize=0,
                env=confinement.environment() | _MALLOC,
            )
        self._end = weakref.finalize(self, _end, self._process, os.getpid())
        try:
            self._answer(_START_S)
        except BaseException:
            self.close()
            raise

    def can_decode(self, limits: Limits) -> bool:
        """False after a death, enough files, with other limits, and after a fork."""
        return (
            self._process.returncode is None
            and self.files < RECYCLED_AFTER
            and self.limits == limits
            and self._owner == os.getpid()
        )

    def decode(self, data: bytes, name: str | os.PathLike) -> tuple[np.ndarray, Facts]:
        """As `images.decode_image`. Raises _Ended where the process has died, for another reason than too much
        processor time."""
        self.files += 1
        limits = self.limits
        try:
            self._send(data)
            answer = self._answer(_WAIT * limits.max_decode_seconds)
        except _Ended as end:
            if self._process.returncode == -signal.SIGPROF:
                raise ImageError(
                    name,
                    f"took more than {limits.max_decode_seconds:g} s of processor time to decode",
                ) from None
            raise end
        except TimeoutError:
            self.close()
            raise ImageError(
                name, f"had no answer in {_WAIT * limits.max_decode_seconds:g} s"
            ) from None
        except BaseException:
            self.close()  # the answer that is on its way would be taken for the next one's
            raise
        if "reason" in answer:
            if answer["memory"]:
                self.close()  # what a decoder did not give back would be missed by the next
                raise ImageError(
                    name, f"needs more than {limits.max_decode_memory_mb:g} MB to decode"
                )
            raise ImageError(name, answer["reason"])
        height, width, _ = answer["shape"]
        taken = 3 * height * width
        pixels = np.frombuffer(self._pixels, np.uint8, taken).reshape(height, width, 3).copy()
        if taken > _KEPT_BYTES and hasattr(mmap, "MADV_REMOVE"):
            with suppress(OSError):
                self._pixels.madvise(mmap.MADV_REMOVE)
        return pixels, replace(Facts(**answer["facts"]), notes=tuple(answer["facts"]["notes"]))

    def close(self) -> None:
        """End the process."""
        self._end()

    def _send(self, data: bytes) -> None:
        pipe: IO[bytes] = self._process.stdin  # type: ignore[assignment]
        view = memoryview(_REQUEST.pack(len(data)) + data)
        try:
            while view:
                view = view[pipe.write(view) :]
        except BrokenPipeError:
            raise self._ended() from None

    def _answer(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        (length,) = _ANSWER.unpack(self._receive(_ANSWER.size, deadline))
        return json.loads(self._receive(length, deadline))

    def _receive(self, length: int, deadline: float) -> bytes:
        handle = self._process.stdout.fileno()  # type: ignore[union-attr]
        ready = select.poll()
        ready.register(handle, select.POLLIN)
        data = b""
        while len(data) < length:
            if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError("no answer in time")
            got = os.read(handle, length - len(data))
            if not got:
                raise self._ended()
            data += got
        return data

    def _ended(self) -> _Ended:
        return _Ended(self._process.wait())


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    """Kill a child and take note of its end, so that its processor time counts. In a fork of the process that owns it
    only the copies of the pipes are closed."""
    if owner == os.getpid():
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            pipe.close()  # type: ignore[union-attr]


def _shared_file() -> IO[bytes]:
    """A file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("imgfp"), "r+b")
    return tempfile.TemporaryFile()


# ---------------------------------------------------------------------------------------- in the child


def serve() -> None:
    """Decode what comes by standard input until it ends; see `_Child`."""
    from PIL import Image

    Image.init()  # all plug-ins, before memory is counted
    Image.MAX_IMAGE_PIXELS = None  # type: ignore[assignment]  # the user's limit holds
    limits = Limits(**json.loads(sys.argv[2]))
    shared = mmap.mmap(int(sys.argv[1]), 3 * limits.pixels)
    os.close(int(sys.argv[1]))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    confinement.limit(limits.max_decode_memory_mb)
    _tell(answers, {})
    while header := requests.read(_REQUEST.size):
        (length,) = _REQUEST.unpack(header)
        # An interval as well: a library may take the first signal for itself.
        signal.setitimer(signal.ITIMER_PROF, limits.max_decode_seconds, limits.max_decode_seconds)
        answer = _outcome(requests.read(length), limits, shared)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _tell(answers, answer)


def _outcome(data: bytes, limits: Limits, shared: mmap.mmap) -> dict[str, Any]:
    try:
        pixels, facts = decode_image(data, max_pixels=limits.pixels)
        np.frombuffer(shared, np.uint8, pixels.size)[:] = pixels.reshape(-1)
    except (ImageError, MemoryError) as error:
        no_memory = isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)
        return {"reason": getattr(error, "reason", ""), "memory": no_memory}
    return {"shape": pixels.shape, "facts": asdict(facts)}


def _tell(answers: IO[bytes], answer: dict[str, Any]) -> None:
    data = json.dumps(answer).encode()
    answers.write(_ANSWER.pack(len(data)) + data)
    answers.flush()
