# SPDX-License-Identifier: AGPL-3.0-or-later
"""Time look-ups: by the command, which starts cold, and one after the other in a process that stays.

    .venv/bin/python docs/measure_look.py LIBRARY PICTURE [PICTURE ...]

Processor time is that of all threads. The first call warms the disk cache and is not counted.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time

from imgfp import Library

#: Cold calls.
CALLS = 5


def main(library_dir: str, *pictures: str) -> None:
    """Print median and range of the seconds that a look-up takes, of one picture each."""
    print(f"{'':<24}wall, s               processor, s")
    calls = [cold(library_dir, pictures[n % len(pictures)]) for n in range(CALLS + 1)]
    told("imgfp look, cold", calls[1:])
    library = Library(library_dir)
    looks = [warm(library, picture) for picture in pictures]
    told("look, the first", looks[:1])
    if looks[1:]:
        told("look, each further one", looks[1:])


def cold(library_dir: str, picture: str) -> tuple[float, float]:
    """Seconds of wall and processor time of the command."""
    command = [sys.executable, "-m", "imgfp", "look", picture, "--library", library_dir, "--json"]
    before, started = processor_s(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started, processor_s(resource.RUSAGE_CHILDREN) - before


def warm(library: Library, picture: str) -> tuple[float, float]:
    """Seconds of wall and processor time of a look-up in this process, with its table."""
    before, started = processor_s(resource.RUSAGE_SELF), time.perf_counter()
    library.look(picture).to_json()
    return time.perf_counter() - started, processor_s(resource.RUSAGE_SELF) - before


def processor_s(who: int) -> float:
    """Seconds of processor time, of the user and of the system."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def told(name: str, seconds: list[tuple[float, float]]) -> None:
    """Print the median and the range of both times."""
    columns = (
        f"{statistics.median(one):.2f} ({min(one):.2f} to {max(one):.2f})"
        for one in zip(*seconds, strict=True)
    )
    print(f"{name:<24}" + "".join(f"{column:<22}" for column in columns).rstrip())


if __name__ == "__main__":
    main(*sys.argv[1:])
