# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every byte of a library or a run compared with what was written; what is damaged is deleted for a next run."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from imgfp.inference import sha256_of
from imgfp.store import decisions
from imgfp.store.artefacts import describe, sidecar_of, verify, write_sidecar
from imgfp.store.fetched import marker_of, read_marker, write_marker
from imgfp.store.files import StoreError, read_seal, remove_unfinished, seal_of, show
from imgfp.store.layout import Library, Run

#: Suffixes of artefacts that always have a sidecar or a seal.
_BINARY = (".parquet", ".arrow", ".h5", ".faiss")


@dataclass(frozen=True)
class Damage:
    """A file that is not as it was written, and why. `ours`: imgfp has written it beyond doubt."""

    path: Path
    reason: str
    ours: bool = True

    def __str__(self) -> str:
        return f"{show(self.path)} {self.reason}"


def find_damage(root: Path) -> list[Damage]:
    """What is damaged below the folder of a library or a run, by path; every byte is read, on all cores.

    Files that imgfp did not write are passed over. A sound artefact whose date has changed, as in a copy, is given
    that date: it is then opened without being read again.
    """
    expected = _results(root)
    paths = set()
    for path in root.rglob("*"):
        if path in expected:
            paths.add(path)
        elif path.is_dir() or (path.name.startswith(".") and path.suffix != ".sha256"):
            continue
        elif path.suffix == ".sha256":
            paths.add(path.with_name(path.stem.removeprefix(".")))
        elif path.suffix == ".json" and Path(path.stem).suffix:
            paths.add(path.with_suffix(""))  # a sidecar
        elif path.suffix in _BINARY:
            paths.add(path)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(lambda path: _damage(path, path in expected), sorted(paths))
    return [damage for damage in found if damage]


def damage_of(root: Path, path: Path) -> Damage | None:
    """The damage of one artefact or sealed file below the folder of a library or a run."""
    return _damage(path, path in _results(root))


def repair(root: Path, found: list[Damage]) -> None:
    """Delete what is damaged, so that the next run makes it again and nothing else, and what killed writers
    left. A sidecar without a seal is sealed where its artefact is whole; what may be somebody else's stays.
    Raises StoreError where a file cannot be deleted."""
    try:
        for damage in found:
            if damage.reason == _UNSEALED:
                write_sidecar(damage.path, describe(damage.path))
            elif damage.ours:
                for path in (sidecar_of(damage.path), seal_of(damage.path), damage.path):
                    path.unlink(missing_ok=True)
        remove_unfinished(root)
    except OSError as error:
        raise StoreError(f"{show(root)} cannot be repaired: {error}") from None
    marker = read_marker(root)
    if marker and found:
        write_marker(root, marker["url"], whole=False)  # the next run fetches what is missing


_UNSEALED = "has a sidecar without a seal, as version 0.1 wrote it; its own bytes are sound"


def _results(root: Path) -> set[Path]:
    """Files with fixed names that lie in the folder of a run or a library and must have a sidecar or a seal."""
    run, library = Run(root), Library(root)
    names = {
        run.predictions_csv,
        run.matches_csv,
        run.metrics_json,
        run.errors_csv,
        run.rejects_csv,
        run.report_html,
        run.duplicates_csv,
        run.duplicates_html,
    }
    names |= {run.fusion_json, run.decisions_csv, run.params_yaml, run.status_json}
    names |= {library.plan_json, library.index("local").manifest, library.index("global").manifest}
    names |= {run.decisions_jsonl, marker_of(root)}
    return names | set(run.notebooks.glob("[0-9][0-9]_*.ipynb"))


def _damage(path: Path, expected: bool) -> Damage | None:
    try:
        if (
            path.suffix == ".jsonl"
        ):  # the log of decisions, which is people's work: a repair leaves it
            lines = decisions.damaged_lines(path)
            return Damage(path, decisions.said_of(lines), ours=False) if lines else None
        if sidecar_of(path).exists():
            return _damage_of_artefact(path)
        digest = read_seal(path)
        if digest is None:
            reason = "has no sidecar or seal: unfinished, of version 0.1, or that was deleted"
            return Damage(path, reason, ours=expected)
        if not path.exists():
            return Damage(path, "is missing, its seal is there")
        if digest != sha256_of(path):
            return Damage(path, "is damaged: it, or its seal, is not as it was written")
    except OSError as error:
        return Damage(path, f"cannot be read: {error.strerror}")
    return None


def _damage_of_artefact(path: Path) -> Damage | None:
    try:
        verify(path, every_byte=True)
        described, mtime_ns = describe(path), path.stat().st_mtime_ns
        if "seal" not in described:
            return Damage(path, _UNSEALED)
        if described.get("mtime_ns") != mtime_ns:
            write_sidecar(path, described | {"mtime_ns": mtime_ns})
    except StoreError as error:
        return Damage(path, str(error).removeprefix(f"{path} "))
    return None
