"""One writer per folder, and a journal of what a writer is working on."""

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
    """A note beside an artefact in the making of which item its writer has in hand.

    It outlives a writer that dies. The next one with the same `attempt` finds the item noted and
    counts it among the `fatal`; the note of another attempt, which somebody may have ended on purpose,
    is void. Nothing is flushed to disk: the death of a process loses no note, and that of the machine
    voids it.
    """

    def __init__(self, path: Path, attempt: str) -> None:
        self._note = path.with_name(f".{path.name}.working")
        self._attempt = attempt
        self.fatal: list[str] = []

    def __enter__(self) -> Journal:
        make_folder(self._note.parent)
        try:
            note = json.loads(self._note.read_bytes())
            if note["attempt"] == self._attempt:
                self.fatal = [*note["fatal"], *([note["item"]] if note["item"] else [])]
        except (OSError, ValueError, KeyError):
            pass  # no note, or one cut off: nothing is known
        self._write("")
        return self

    def __exit__(self, *_: object) -> None:
        self._note.unlink(missing_ok=True)

    def begin(self, item: str) -> bool:
        """Note `item` as the one in hand; False when it is fatal, and then it is not noted."""
        self._write("" if item in self.fatal else item)
        return item not in self.fatal

    def _write(self, item: str) -> None:
        note = {"attempt": self._attempt, "fatal": self.fatal, "item": item}
        self._note.write_bytes(json.dumps(note).encode())
