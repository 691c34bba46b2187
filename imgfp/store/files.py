# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files written whole or not at all, folders, paths and hashes of plain values."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from imgfp.images import printable
from imgfp.inference import sha256_of


class StoreError(RuntimeError):
    """An artefact that cannot be written, read or trusted; the message says what to do."""


def project_path(path: str | os.PathLike) -> Path:
    """An absolute path; a relative one counts from the project root, wherever a notebook runs.

    The project root is the nearest folder, going up from the working folder, that holds `params/`;
    failing that the working folder.
    """
    here = Path.cwd()
    root = next((f for f in (here, *here.parents) if (f / "params").is_dir()), here)
    return (root / Path(path).expanduser()).resolve()


def located(text: str, names: Sequence[str] = ()) -> str:
    """A parameter that names a file, its path made absolute by `project_path`.

    "" and each of `names` stand for no file and stay as they are. A text that is no file may be several
    paths joined by `os.pathsep`.
    """
    if not text or text in names:
        return text
    whole = project_path(text)
    parts = [text] if whole.exists() else text.split(os.pathsep)
    return os.pathsep.join(str(project_path(part)) for part in parts)


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises StoreError, with the folder named."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {printable(path)}: {error.strerror}") from None


def write_bytes(path: Path, data: bytes | Iterable[bytes]) -> str:
    """Write a file whole or not at all, at once or piece by piece, and return its SHA-256. Raises StoreError,
    with the disk named when it is full."""
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    given = hashlib.sha256()
    try:
        with open(beside, "wb", buffering=1 << 20) as file:
            for piece in [data] if isinstance(data, bytes) else data:
                file.write(piece)
                given.update(piece)
            file.flush()
            os.fsync(file.fileno())
        # Some file systems report a full disk late or never: believe only what can be read back.
        digest = sha256_of(beside)
        if digest != given.hexdigest():
            raise StoreError(f"{path} did not read back as written; is the disk full or failing?")
        os.replace(beside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(
                f"no space left to write {path}; free some and run again, finished work is kept"
            ) from None
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
    return digest


def remove_unfinished(root: Path) -> None:
    """Delete what killed writers left in a folder and below it. For the one who holds it (`store.lock`)."""
    for path in root.rglob(".*.[0-9]*.tmp"):  # as `write_bytes` names them
        path.unlink(missing_ok=True)


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table for people and other tools as UTF-8 CSV, whole or not at all."""
    write_bytes(path, frame.to_csv(index=False, lineterminator="\n").encode())


def hash_of(*parts: Any) -> str:
    """SHA-256 of plain values (text, numbers, lists, dicts), the same in every run."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def show(path: Path) -> str:
    """A path as safe text, relative to the working folder where that is shorter."""
    try:
        return printable(path.relative_to(Path.cwd()))
    except ValueError:
        return printable(path)
