# SPDX-License-Identifier: AGPL-3.0-or-later
"""One writer per folder, and a crash journal of what a writer is processing."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import filelock

from imgfp.store.files import StoreError, make_folder, write_bytes

#: Crashes with an item in hand after which it counts as their cause.
CRASHES = 2


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

    It outlives a writer that crashes. For the next writer of the same `attempt` the recorded item is a
    suspect: it may have ended the process, but so may another thread, or somebody from outside. A suspect
    is processed while no other thread of its process has an item in hand; one that is recorded at a second
    crash is fatal. A record of another attempt, which may have been ended on purpose, is ignored. Nothing
    is flushed to disk: a crashed process loses no record, a crashed machine may.
    """

    def __init__(self, path: Path, attempt: str) -> None:
        self._record = path.with_name(f".{path.name}.working")
        self._attempt = attempt
        self._crashes: Counter[str] = Counter()
        self._in_hand: str | None = None

    def __enter__(self) -> Journal:
        make_folder(self._record.parent)
        try:
            record = json.loads(self._record.read_bytes())
            if record["attempt"] == self._attempt:
                self._crashes.update(record["crashes"])
                self._crashes.update([record["item"]] if record["item"] else [])
        except (OSError, ValueError, KeyError):
            pass  # no record, or one cut short: nothing is known
        self._write("")
        return self

    def __exit__(self, *_: object) -> None:
        self._record.unlink(missing_ok=True)
        self._put_down()

    def begin(self, item: str) -> bool:
        """Record `item` as being processed, until the next begins; False, and no record, when it is fatal.
        Waits for other threads where one must be alone."""
        if self._in_hand is not None:
            # Before another thread may begin with a suspect, which would be blamed on this item too.
            self._write("")
            self._put_down()
        if self._crashes[item] >= CRASHES:
            return False
        _turns.take(alone=item in self._crashes)
        self._in_hand = item
        self._write(item)
        return True

    def _put_down(self) -> None:
        if self._in_hand is not None:
            _turns.give(alone=self._in_hand in self._crashes)
            self._in_hand = None

    def _write(self, item: str) -> None:
        record = {"attempt": self._attempt, "crashes": self._crashes, "item": item}
        self._record.write_bytes(json.dumps(record).encode())


class _Turns:
    """Which threads of this process may have an item in hand: any number, or one that must be alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._in_hand = 0
        self._alone = 0  # those that wait for their turn included, so that they get it

    def take(self, *, alone: bool) -> None:
        with self._changed:
            self._alone += alone
            self._changed.wait_for(lambda: not (self._in_hand if alone else self._alone))
            self._in_hand += 1

    def give(self, *, alone: bool) -> None:
        with self._changed:
            self._in_hand -= 1
            self._alone -= alone
            self._changed.notify_all()


_turns = _Turns()
