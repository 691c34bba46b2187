# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files written whole or not at all and sealed, folders, paths and hashes of plain values."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from imgfp.images import file_states, list_folder, printable
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


def write_sealed(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file whole or not at all, at once or piece by piece, and its seal: its SHA-256 in `.<name>.sha256`
    beside it, in the form that `sha256sum --check` reads. For files that have no sidecar. Raises StoreError."""
    _remove_seal(path)  # an old seal never stands beside a new file
    _write_seal(path, write_bytes(path, data))


def seal(path: Path) -> None:
    """Seal a file that another library has written."""
    _remove_seal(path)
    _write_seal(path, sha256_of(path))


def read_sealed(path: Path) -> bytes:
    """The bytes of a file, checked against its seal; a file of an earlier version has none. Raises
    StoreError naming a file that is missing or damaged."""
    for _ in range(3):
        before = read_seal(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{show(path)} cannot be read: {error.strerror}") from None
        if before in (None, hashlib.sha256(data).hexdigest()):
            return data
        if before == read_seal(path):  # otherwise it was written meanwhile
            break
    raise _damaged(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a sealed file. Raises StoreError naming a file that is missing or damaged."""
    try:
        value = json.loads(read_sealed(path))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _damaged(path)
    return value


def seal_of(path: Path) -> Path:
    """Where the seal of a file lies."""
    return path.with_name(f".{path.name}.sha256")


def read_seal(path: Path) -> str | None:
    """The SHA-256 in the seal of a file, None where it has no seal; of a damaged seal a text that is none."""
    try:
        digest, _, name = seal_of(path).read_text("utf-8", "replace").partition("  ")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{show(seal_of(path))} cannot be read: {error.strerror}") from None
    return digest if name == f"{path.name}\n" else "damaged"


def check_seal(path: Path) -> None:
    """Raise StoreError for a file that is not as its seal says; one without a seal passes."""
    if read_seal(path) not in (None, sha256_of(path)):
        raise StoreError(
            f"{show(path)} is not as it was written; make it again, or delete {show(seal_of(path))} "
            "if the change is meant"
        )


def _write_seal(path: Path, digest: str) -> None:
    write_bytes(seal_of(path), f"{digest}  {path.name}\n".encode())


def _remove_seal(path: Path) -> None:
    try:
        seal_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {show(path)}: {error.strerror}") from None


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"{show(path)} is damaged (it is not as it was written); imgfp verify FOLDER --repair, then run again"
    )


def write_sheet(path: Path, frame: pd.DataFrame) -> None:
    """Write a table for people and other tools as UTF-8 CSV, whole or not at all, and seal it.

    A text that a spreadsheet would run as a formula gets an apostrophe in front, as spreadsheets do;
    `read_sheet` and `formats` take it away.
    """
    text = [str(name) for name in frame if not pd.api.types.is_numeric_dtype(frame[name])]
    safe = frame.assign(**{name: frame[name].map(_defused) for name in text})
    # The csv module writes a carriage return without quotes, where readers take it for a line end.
    returns = any(isinstance(cell, str) and "\r" in cell for name in text for cell in frame[name])
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    data = safe.to_csv(index=False, lineterminator="\n", quoting=quoting)
    write_sealed(path, data.encode())


def read_sheet(path: Path) -> pd.DataFrame:
    """A table that `write_sheet` wrote, all columns as text. Raises StoreError naming a missing or damaged file."""
    data = io.BytesIO(read_sealed(path))
    try:
        frame = pd.read_csv(data, dtype=str, keep_default_na=False, lineterminator="\n")
    except ValueError:  # of which pandas' own errors are kinds
        raise _damaged(path) from None
    return frame.apply(lambda column: column.map(undefused))


_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def _defused(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def undefused(cell: str) -> str:
    """A text of a CSV file without the apostrophe that `write_sheet` gave it."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def hash_of(*parts: Any) -> str:
    """SHA-256 of plain values (text, numbers, lists, dicts), the same in every run."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def state_of(path: Path) -> str:
    """SHA-256 of what a folder holds, or of a file alone: of names, sizes and times of the last change."""
    names = list_folder(path) if path.is_dir() else [""]
    return hash_of(names, file_states([path / name for name in names]).tolist())


def show(path: Path) -> str:
    """A path as safe text, relative to the working folder where that is shorter."""
    try:
        return printable(path.relative_to(Path.cwd()))
    except ValueError:
        return printable(path)
