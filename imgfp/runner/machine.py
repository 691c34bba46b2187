# SPDX-License-Identifier: AGPL-3.0-or-later
"""What this machine has to spare: cores, memory, disk, GPUs."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: Limit of memory of a container, as the kernel tells it.
_LIMIT = Path("/sys/fs/cgroup/memory.max")
_GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Machine:
    """cores: as many as a local cluster takes; memory_bytes and disk_bytes: free now; gpus: their names."""

    cores: int
    memory_bytes: int
    disk_bytes: int
    gpus: tuple[str, ...] = ()


def this_machine(folder: Path) -> Machine:
    """This machine, with the disk that `folder` is on or will be on."""
    import psutil

    memory = psutil.virtual_memory().available
    limit = _LIMIT.read_text().strip() if _LIMIT.exists() else "max"
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return Machine(
        os.cpu_count() or 1,
        memory if limit == "max" else min(memory, int(limit)),
        shutil.disk_usage(there).free,
        tuple(_gpu_name(file) for file in sorted(_GPUS.glob("*/information"))),
    )


def _gpu_name(information: Path) -> str:
    """The model in a file of NVIDIA's driver."""
    lines = information.read_text().splitlines()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return named[0] if named else "GPU"


def processor_seconds() -> float:
    """Processor time of this process and all that it has started on this machine, ended or not."""
    import psutil

    own = psutil.Process()
    total = sum(own.cpu_times()[:4])  # user and system, then those of children that have ended
    for child in own.children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            total += sum(child.cpu_times()[:4])
    return total
