# SPDX-License-Identifier: AGPL-3.0-or-later
"""Decoding of untrusted image files in a process of its own, under limits of time and memory.

Decoders are C libraries: a hostile file can crash them, or keep them busy for hours within any limit of bytes and
pixels. So no other process hands them a file's bytes. Each thread that decodes has a child process, which is
kept between files, see `imgfp.confinement`. Processor time is limited by the kernel's timer, which the load of the
machine does not change, memory by the size of the address space; the child can write no file.

A child that dies was perhaps killed from outside, so its file is given to a new child, alone. A file that has
ended two of them is refused.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import IO, Any

import numpy as np

from imgfp import confinement
from imgfp.confinement import Bounds, ConfinedError, Handler, Process
from imgfp.images import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    Facts,
    ImageError,
    decode_image,
    frame_print,
    further_frames,
    read_bytes,
    show_the_same,
)

#: Files after which a child is replaced, so that what a decoder leaks stays small.
RECYCLED_AFTER = 1000
#: Children, each of them new and with no other file, that a file must end before it is refused.
DEATHS = 2
#: Parts of reasons that tell of limits or of the machine as much as of the file.
_NOT_FOR_EVER = (
    "ended the process",
    "of processor time",
    "to decode",
    "had no answer",
    "than the limit",
    "cannot be opened",
    "cannot be read",
)
_START_S = 120
#: Trials of starting a child, which may be killed meanwhile.
_STARTS = 3
_HANDLER = "imgfp.decoding:handler"
#: Pages that go back to the system after each picture cost as much as its decoding.
_MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
}
#: Shared pages above this are given back after a picture.
_KEPT_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Limits:
    """What one file may take: bytes, pixels, processor time of decoding, memory beyond that of the empty process, and
    frames or pages that are searched. Raises ValueError for a limit that is not above zero."""

    max_file_mb: float = MAX_FILE_BYTES / 2**20
    max_megapixels: float = MAX_PIXELS / 1e6
    max_decode_seconds: float = 4
    max_decode_memory_mb: float = 800
    max_frames: int = 1

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
    return next(read_frames(path, limits))[1]


def read_frames(
    path: str | os.PathLike, limits: Limits | None = None
) -> Iterator[tuple[int, Picture]]:
    """The picture of `read_picture` as number 0, and then each further frame or page that is searched, with its number
    from 1: up to `max_frames` with the first, evenly spread, without those that are blank, cannot be decoded or show
    what an earlier one does. All take no more processor time than one file may."""
    limits = limits or Limits()
    data, left = _bytes(path, limits), _Time(limits.max_decode_seconds)
    digest = hashlib.sha256(data).hexdigest()
    pixels, facts = _decoded(data, path, limits, left)
    yield 0, Picture(pixels, facts, digest)
    numbers = further_frames(facts, limits.max_frames)
    seen = [frame_print(pixels)] if numbers else []
    for number in numbers:
        if left.seconds <= 0:
            return
        try:
            pixels, facts = _decoded(data, path, limits, left, number)
        except ImageError:
            continue
        shown = frame_print(pixels)
        if shown is not None and not any(show_the_same(shown, one) for one in seen):
            seen.append(shown)
            yield number, Picture(pixels, facts, digest)


def read_image(path: str | os.PathLike, limits: Limits | None = None, frame: int = 0) -> np.ndarray:
    """The pixels of `read_picture`, or of a frame or page that `read_frames` has given, by its number."""
    limits = limits or Limits()
    left = _Time(limits.max_decode_seconds)
    return _decoded(_bytes(path, limits), path, limits, left, frame)[0]


def may_pass_later(reason: str) -> bool:
    """True for the reason of a refusal that another trial, or larger limits, may not repeat."""
    return any(part in reason for part in _NOT_FOR_EVER)


def _bytes(path: str | os.PathLike, limits: Limits) -> bytes:
    return read_bytes(path, round(limits.max_file_mb * 2**20))


@dataclass
class _Time:
    """Processor time that a file may still take, seconds."""

    seconds: float


def _decoded(
    data: bytes, path: str | os.PathLike, limits: Limits, left: _Time, frame: int = 0
) -> tuple[np.ndarray, Facts]:
    deaths = 0
    while True:
        child = _child(limits)
        alone = child.files == 0
        try:
            return child.decode(data, path, left, frame)
        except ConfinedError as end:
            deaths += alone
            killed = end.ended_by == "SIGKILL"
            if deaths == DEATHS:
                left.seconds = 0  # no other frame of it is tried
                by = ", by the system for want of memory, or by somebody" if killed else ""
                raise ImageError(
                    path, f"ended the process that decodes it, {deaths} times: {end.ended_by}{by}"
                ) from None
            if killed:
                time.sleep(1)  # perhaps for want of memory, which may pass


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
        except (ConfinedError, RuntimeError) as error:
            if not left or not getattr(error, "ended_by", ""):
                raise RuntimeError(
                    f"the process that decodes pictures did not start ({error}); see `imgfp doctor`"
                ) from None
    raise AssertionError


class _Child:
    """A confined process that decodes files, one at a time, into memory that both share."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.files = 0
        size = 3 * limits.pixels
        with _shared_file() as shared:
            shared.truncate(size)
            self._pixels = mmap.mmap(shared.fileno(), size)
            self._process = Process(_HANDLER, Bounds(), [shared.fileno()], _MALLOC)
            about = {"limits": asdict(limits), "shared": shared.fileno()}
            self._process.ask(about, [], _START_S)

    def can_decode(self, limits: Limits) -> bool:
        """False after a death, enough files, with other limits, and after a fork."""
        return self._process.is_usable and self.files < RECYCLED_AFTER and self.limits == limits

    def decode(
        self, data: bytes, name: str | os.PathLike, left: _Time, frame: int
    ) -> tuple[np.ndarray, Facts]:
        """As `images.decode_image`, in the time that is left, which is lowered. Raises ConfinedError where the process
        has died, for another reason than too much processor time."""
        self.files += 1
        limits = self.limits
        try:
            answer, _ = self._process.ask({"frame": frame}, [data], left.seconds)
        except ConfinedError as error:
            if not error.took_too_long:
                raise
            left.seconds = 0
            raise ImageError(name, str(error).removeprefix("it ")) from None
        except RuntimeError as error:
            raise ImageError(name, f"cannot be decoded: {error}") from None
        left.seconds -= answer["spent_s"]
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
        self._process.close()


def _shared_file() -> IO[bytes]:
    """A file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("imgfp"), "r+b")
    return tempfile.TemporaryFile()


# ---------------------------------------------------------------------------------------- in the child


def handler() -> Handler:
    """Decodes one file after another, after a first request with the limits and the number of the shared file."""
    from PIL import Image

    Image.init()  # all plug-ins, before memory is counted
    Image.MAX_IMAGE_PIXELS = None  # type: ignore[assignment]  # the user's limit holds
    limits, shared = Limits(), mmap.mmap(-1, 1)

    def answer(header: dict[str, Any], buffers: list[bytes]) -> tuple[dict[str, Any], list[Any]]:
        nonlocal limits, shared
        if buffers:
            began = time.process_time()
            outcome = _outcome(buffers[0], header["frame"], limits, shared)
            return outcome | {"spent_s": time.process_time() - began}, []
        limits = Limits(**header["limits"])
        shared = mmap.mmap(header["shared"], 3 * limits.pixels)
        os.close(header["shared"])
        confinement.limit(limits.max_decode_memory_mb)
        return {}, []

    return answer


def _outcome(data: bytes, frame: int, limits: Limits, shared: mmap.mmap) -> dict[str, Any]:
    try:
        pixels, facts = decode_image(data, max_pixels=limits.pixels, frame=frame)
        np.frombuffer(shared, np.uint8, pixels.size)[:] = pixels.reshape(-1)
    except (ImageError, MemoryError) as error:
        no_memory = isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)
        return {"reason": getattr(error, "reason", ""), "memory": no_memory}
    return {"shape": pixels.shape, "facts": asdict(facts)}
