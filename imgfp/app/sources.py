# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the app can open: the runs and libraries of the project, and the pictures looked up since it started."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from imgfp import store
from imgfp.lookup import Found, Library
from imgfp.results import Results
from imgfp.results.unfinished import UnfinishedRun
from imgfp.runner import notebooks, project
from imgfp.stages.certain import read_certain

Kind = Literal["run", "library", "look"]
#: Opened runs and libraries, and answers to dropped pictures, that stay in memory.
RUNS_KEPT, LIBRARIES_KEPT, LOOKS_KEPT = 3, 2, 20


@dataclass(frozen=True)
class Source:
    """A run, a library or a look-up as the menu names it. key: what stands for it in an address."""

    kind: Kind
    key: str
    folder: Path


@dataclass(frozen=True)
class Progress:
    """How far a run is: one sentence for people, and whether it goes on."""

    text: str
    going: bool


class Shelf:
    """Opens sources, and keeps those that were used last open for whoever asks next."""

    def __init__(self, given: Path | None = None) -> None:
        """given: a run or library to offer first, also one outside the project. Raises StoreError for a folder that
        is neither."""
        self.given = None if given is None else _source(given)
        self._results: OrderedDict[tuple[Path, tuple[int, ...]], Results] = OrderedDict()
        self._libraries: OrderedDict[Path, Library] = OrderedDict()
        self._looks: OrderedDict[str, tuple[Found, tempfile.TemporaryDirectory]] = OrderedDict()
        self._looked = 0

    def sources(self) -> dict[str, Source]:
        """Everything that can be opened now, by key: the given one, runs with the newest first, libraries, look-ups with
        the newest first."""
        found = [] if self.given is None else [self.given]
        runs = [path for path in _folders("runs") if is_run(path)]
        runs.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        found += map(_source, runs)
        found += [_source(path) for path in _folders("library") if is_library(path)]
        found += [Source("look", key, Path()) for key in reversed([*self._looks])]
        return {source.key: source for source in found}

    def results(self, source: Source) -> Results:
        """The answers of a run or of a look-up; of a run that goes on, those so far. Raises StoreError where there
        are none."""
        if source.kind == "look":
            return self._looks[source.key][0].results
        if source.kind == "library":
            raise store.StoreError(
                f"{source.key} is a library, which has no answers of its own: look pictures up in it, or choose a run"
            )
        run = store.Run(source.folder)
        finished = run.predictions_csv.exists()
        age = _age(run, finished)
        if not any(age):
            raise store.StoreError(
                f"{source.key} has no answers yet: notebooks 03 and 08 find the first, 09 all"
            )
        stamp = source.folder, age
        if stamp not in self._results:
            self._results[stamp] = _opened(source, Results if finished else UnfinishedRun)
        return _last_used(self._results, stamp, RUNS_KEPT)

    def library_of(self, source: Source) -> Path:
        """The folder of the library that pictures are looked up in: a library itself, or the one of a run or look-up.
        Raises StoreError for a run whose library is missing."""
        if source.kind == "library":
            return source.folder
        opened = self.results(source) if source.kind == "look" else _opened(source, Results)
        return opened.library.root

    def look(self, library: Path, pictures: Sequence[tuple[str, bytes]]) -> str:
        """Look pictures, (file name, bytes) each, up in a library; returns the key of the answers. Raises StoreError for
        a library that is not finished."""
        if library not in self._libraries:
            self._libraries[library] = Library(library)
        opened = _last_used(self._libraries, library, LIBRARIES_KEPT)
        place = tempfile.TemporaryDirectory(prefix="imgfp-dropped-")
        paths = []
        for number, (name, data) in enumerate(pictures):
            # A folder each, since several files may have one name.
            path = Path(place.name) / f"{number:04d}" / _file_name(name)
            store.write_bytes(path, data)
            paths.append(path)
        found = opened.look(*paths)
        self._looked += 1
        key = f"look {self._looked}"
        self._looks[key] = found, place
        while len(self._looks) > LOOKS_KEPT:
            self._looks.popitem(last=False)
        return key


def is_run(path: Path) -> bool:
    """Whether a folder is one of `runs/`: it has parameters, a status or predictions."""
    run = store.Run(path)
    return any(file.exists() for file in (run.params_yaml, run.status_json, run.predictions_csv))


def is_library(path: Path) -> bool:
    """Whether a folder has the images of a library."""
    return not is_run(path) and store.Library(path).images.is_dir()


def progress(source: Source) -> Progress | None:
    """How far a run is; None for a finished run, and for a library or a look-up."""
    if source.kind != "run":
        return None
    run = store.Run(source.folder)
    status = notebooks.read_status(run)
    stages: dict[str, dict[str, Any]] = status["stages"]
    state = {name: entry.get("state", "") for name, entry in stages.items()}
    current = next((name for name in state if state[name] != "ok"), None)
    if current is None:
        return None
    planned = {path.stem for path in project.notebooks().glob("0[1-9]_*.ipynb")} | set(state)
    done = sum(word == "ok" for word in state.values())
    going = state[current] == "running" and store.is_locked(run.notebooks)
    word = "goes on" if going else state[current].replace("running", "interrupted")
    text = f"{current.replace('_', ' ')} {word}; {done} of {len(planned)} stages are done"
    if going:
        text += f" ({100 * done / len(planned):.0f} %)"
        left = notebooks.time_left(status)
        text += f"; {left} left" if left else ""
        answered = len(read_certain(run))
        text += f"; queries answered so far: {answered:,}" if answered else ""
    elif error := stages[current].get("error"):
        text += f": {error}"
    return Progress(text, going)


def _source(path: Path) -> Source:
    if is_run(path):
        return Source("run", _key(path), path)
    if is_library(path):
        return Source("library", _key(path), path)
    raise store.StoreError(
        f"{store.show(path)} is neither a run nor a library; name one, such as runs/mine or library/mine"
    )


def _key(path: Path) -> str:
    root = store.project_path("")
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _folders(name: str) -> list[Path]:
    top = store.project_path(name)
    return sorted(path for path in top.iterdir() if path.is_dir()) if top.is_dir() else []


def _opened(source: Source, kind: type[Results]) -> Results:
    """A run as `Results` or `UnfinishedRun`. Raises StoreError where its library is missing."""
    opened = kind(source.folder)
    if not opened.library.images.is_dir():
        raise store.StoreError(
            f"the library of {source.key} is missing: it was at {store.show(opened.library.root)}; bring it "
            "back, or set library_dir in params.yaml of the run"
        )
    return opened


def _age(run: store.Run, finished: bool) -> tuple[int, ...]:
    """What changes when a run has other answers than before; zeros before the first."""
    if finished:
        return (run.predictions_csv.stat().st_mtime_ns,)
    return tuple(len(store.shards(f, ".parquet")) for f in (run.first_evidence, run.evidence))


def _last_used(kept: OrderedDict, key: Any, most: int) -> Any:
    """The value of a key, which becomes the last one that is let go."""
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)
    return kept[key]


def _file_name(name: str) -> str:
    """The last part of a name that a browser gave, as a file of a temporary folder may be called."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    safe = "".join(character for character in last if character.isprintable()).strip(". ")
    stem, dot, suffix = safe.rpartition(".")
    return f"{stem[:60]}{dot}{suffix[:12]}" if stem else safe[:60] or "picture"
