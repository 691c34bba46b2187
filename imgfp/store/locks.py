"""One writer per folder, and a crash journal of what a writer is processing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import filelock

from imgfp.store.files import StoreError, make_folder, write_bytes


@contextmanager
def lock(root: Path) -> Iterator[None]:
    """Hold a folder against a second writer. Raises StoreError naming the holder."""
    make_folder(root)
    holder = root / ".lock.json"
    held = filelock.FileLock(root / ".lock")
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        try:
            who = json.loads(holder.read_bytes())
            named = f"process {who['pid']} on {who['host']}, since {who['since']}"
        except (OSError, ValueError, KeyError):
            named = "another process"
        raise StoreError(
            f"{root} is in use by {named}; wait for it, stop it, or use another folder"
        ) from None
    try:
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        write_bytes(holder, json.dumps(me).encode())
        yield
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


class Journal:
    """Crash journal: records the item being processed next to an unfinished artefact.

    It outlives a writer that crashes. The next writer of the same `attempt` finds the recorded item and
    counts it among the `fatal`; a record of another attempt, which may have been ended on purpose, is
    ignored. Nothing is flushed to disk: a crashed process loses no record, a crashed machine may.
    """

    def __init__(self, path: Path, attempt: str) -> None:
        self._record = path.with_name(f".{path.name}.working")
        self._attempt = attempt
        self.fatal: list[str] = []

    def __enter__(self) -> Journal:
        make_folder(self._record.parent)
        try:
            record = json.loads(self._record.read_bytes())
            if record["attempt"] == self._attempt:
                self.fatal = [*record["fatal"], *([record["item"]] if record["item"] else [])]
        except (OSError, ValueError, KeyError):
            pass  # no record, or one cut short: nothing is known
        self._write("")
        return self

    def __exit__(self, *_: object) -> None:
        self._record.unlink(missing_ok=True)

    def begin(self, item: str) -> bool:
        """Record `item` as being processed; False, and no record, when it is fatal."""
        self._write("" if item in self.fatal else item)
        return item not in self.fatal

    def _write(self, item: str) -> None:
        record = {"attempt": self._attempt, "fatal": self.fatal, "item": item}
        self._record.write_bytes(json.dumps(record).encode())
