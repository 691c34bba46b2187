# SPDX-License-Identifier: AGPL-3.0-or-later
"""Numbered snapshots of a library: which of its images a run sees, whatever others add meanwhile."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from imgfp.store.artefacts import describe, is_current, load, save, sidecar_of
from imgfp.store.fetched import read_marker
from imgfp.store.files import StoreError, show
from imgfp.store.layout import Collection, Library, Run
from imgfp.store.locks import lock
from imgfp.store.provenance import origin, produces

#: Snapshots that are kept: a run finishes with its own unless as many others are made meanwhile.
KEPT = 10


class SnapshotGone(StoreError):
    """A run began with a snapshot that is not kept any more."""


def take_snapshot(library: Library) -> int:
    """Number of the snapshot of a library's present state, which is made where there is none; 0 for a fetched
    library, which does not change under a run."""
    if read_marker(library.root):
        return 0
    with lock(library.root):
        numbers = _numbers(library)
        newest = Library(library.root, numbers[-1]) if numbers else None
        if newest and _identity(newest) == _identity(library):
            return numbers[-1]
        number = numbers[-1] + 1 if numbers else 1
        made = Library(library.root, number).state
        unfinished = made.with_name(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for path in _files(library):
            for one in (path, sidecar_of(path)):
                _link(one, unfinished / one.name)
        unfinished.rename(made)
        for old in numbers[: 1 - KEPT]:
            shutil.rmtree(Library(library.root, old).state)
        return number


def forget_former(library: Library) -> None:
    """Delete all snapshots but that of the present state: a run that began with another is refused."""
    with lock(library.root):
        present = take_snapshot(library)
        for number in _numbers(library):
            if number != present:
                shutil.rmtree(Library(library.root, number).state)


def mend_state(collection: Collection) -> None:
    """Where a writer was killed while it replaced a file of the state: put back the state of a library's newest
    snapshot, or remove that file where there is none, so that a listing makes it from the files."""
    if not _torn(collection):
        return
    with lock(collection.root):  # the writer may be at it
        torn = _torn(collection)
        numbers = _numbers(collection) if isinstance(collection, Library) else []
        if torn and numbers:
            former = Library(collection.root, numbers[-1])
            for path, kept in zip(_files(collection), _files(former), strict=True):
                sidecar_of(path).unlink(missing_ok=True)
                beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
                _link(kept, beside)
                os.replace(beside, path)
                _link(sidecar_of(kept), sidecar_of(path))
        else:
            for path in torn:
                path.unlink()
        if torn:
            print(f"{show(torn[0])} was unfinished; the state before it holds")


def _torn(collection: Collection) -> list[Path]:
    """Files of the present state without a whole sidecar."""
    return [path for path in _files(collection) if path.exists() and not _is_described(path)]


def _is_described(path: Path) -> bool:
    try:
        return bool(describe(path))
    except StoreError:
        return False


@produces("snapshot")
def begin(run: Run, library: Library) -> Library:
    """Note in a run which snapshot of the library it begins with, and open the library at it."""
    number = take_snapshot(library)
    made = origin(begin, {"library": str(library.root), "snapshot": number})
    if not is_current(run.snapshot_json, made):
        save(run.snapshot_json, made.settings, made)
    return Library(library.root, number or None)


def begun_with(run: Run) -> dict[str, Any]:
    """The `library` and the number of the `snapshot` that a run began with; empty before notebook 01."""
    return load(run.snapshot_json) if run.snapshot_json.exists() else {}


def open_sides(
    library_dir: str | os.PathLike[str], run_dir: str | os.PathLike[str]
) -> tuple[Library, Run]:
    """A run, and its library at the snapshot that the run began with. Raises SnapshotGone."""
    run, library = Run(run_dir), Library(library_dir)
    noted = begun_with(run)
    if noted.get("library") != str(library.root) or not noted["snapshot"]:
        return library, run
    library = Library(library.root, noted["snapshot"])
    if not library.catalogue.exists():
        raise SnapshotGone(
            f"{show(run.root)} began with snapshot {noted['snapshot']} of {show(library.root)}, which is not kept "
            "any more; run it from notebook 01"
        )
    return library, run


def _numbers(library: Library) -> list[int]:
    return sorted(int(path.name) for path in library.snapshots.glob("[0-9]*"))


def _files(collection: Collection) -> tuple[Path, ...]:
    return collection.catalogue, collection.masked, collection.moved


def _identity(library: Library) -> list[tuple[str, str]]:
    sidecars = [describe(path) for path in _files(library)]
    return [(sidecar["sha256"], sidecar["inputs"]) for sidecar in sidecars]


def _link(path: Path, target: Path) -> None:
    """One file under two names, where the file system can: artefacts are replaced, never changed."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copy2(path, target)
