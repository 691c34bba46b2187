# SPDX-License-Identifier: AGPL-3.0-or-later
"""One writer per folder; others wait."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

import filelock

from imgfp.store.files import StoreError, make_folder, remove_unfinished, show, write_bytes

_TEMPORARY = "imgfp-run-"
#: Age from which an unlocked temporary folder is taken for left over; a new one is locked sooner.
_LEFT_OVER_S = 5
#: Bytes of the longest path of a place for sockets: that of a socket has 107 at most, 23 of them below the place.
_SOCKETS_PLACE = 84


@contextmanager
def temporary_folder(*, sockets: bool = False) -> Iterator[Path]:
    """A folder that only this user can read, deleted in the end. Those that killed runs of this user left are
    deleted, too. sockets: its path is short enough for Unix sockets; raises StoreError where there is no such place."""
    place = _place_for_sockets() if sockets else tempfile.gettempdir()
    for path in Path(place).glob(_TEMPORARY + "*"):
        with suppress(OSError, filelock.Timeout):
            status = path.lstat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > _LEFT_OVER_S:
                with filelock.FileLock(path / ".lock", timeout=0):
                    shutil.rmtree(path)
    with (
        tempfile.TemporaryDirectory(
            prefix=_TEMPORARY, dir=place, ignore_cleanup_errors=True
        ) as name,
        filelock.FileLock(Path(name) / ".lock"),
    ):
        yield Path(name)


def _place_for_sockets() -> str:
    temporary = tempfile.gettempdir()
    for place in (temporary, os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp"):
        if place and len(os.fsencode(place)) <= _SOCKETS_PLACE and os.access(place, os.W_OK):
            return place
    raise StoreError(
        f"TMPDIR: the path {show(Path(temporary))} is too long for the sockets of a notebook; set TMPDIR to a "
        f"folder whose path has at most {_SOCKETS_PLACE} bytes"
    )


@contextmanager
def lock(root: Path) -> Iterator[bool]:
    """Hold a folder against a second writer; waits for another, and says so in a line. Gives True where it has
    waited, so that what was read before may have changed. The thread that holds a folder may take it again.
    What a killed writer left unfinished is deleted."""
    make_folder(root)
    holder = root / ".lock.json"
    held = filelock.FileLock(root / ".lock", is_singleton=True)
    waited = False
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        try:
            who = json.loads(holder.read_bytes())
            named = f"process {who['pid']} on {who['host']}, since {who['since']}"
        except (OSError, ValueError, KeyError):
            named = "another process"
        print(f"waiting for {show(root)}, in use by {named}", flush=True)
        held.acquire(poll_interval=0.5)
        waited = True
    try:
        if held.lock_counter == 1:
            remove_unfinished(root)
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        write_bytes(holder, json.dumps(me).encode())
        yield waited
    finally:
        held.release()


def is_locked(root: Path) -> bool:
    """True while a writer holds the folder."""
    held = filelock.FileLock(root / ".lock")
    try:
        with held.acquire(timeout=0) if root.is_dir() else nullcontext():
            return False
    except filelock.Timeout:
        return True
