# SPDX-License-Identifier: AGPL-3.0-or-later
"""A library is published to a URL and fetched from it.

The URL holds the layout of a library: every artefact with its sidecar, and `published.json`, which names
them with their SHA-256. That list is removed before anything changes and written when all is there, so a
reader finds one state of the library, or none. What it names is checked before it gets its place here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgfp import __version__, urls
from imgfp.inference import sha256_of
from imgfp.store.artefacts import describe, verify
from imgfp.store.fetched import library_folder, read_marker, remove_marker, write_marker
from imgfp.store.files import StoreError, show, write_bytes
from imgfp.store.layout import Library
from imgfp.store.locks import lock

LIST = "published.json"
_MAX_LIST_BYTES = 2**28
#: Names of artefacts: what `layout` gives, and nothing that could leave the folder or hide in it.
_NAME = re.compile(r"(?:\w[\w-]*/){0,3}\w[\w-]*\.(?:parquet|arrow|h5|json|faiss)", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Transfer:
    """What was done: artefacts copied with their bytes, kept as they were, and removed; and where to."""

    copied: int
    bytes: int
    kept: int
    removed: int
    target: str

    def __str__(self) -> str:
        return (
            f"{self.copied:,} artefacts copied ({self.bytes / 1e6:,.1f} MB), {self.kept:,} unchanged, "
            f"{self.removed:,} removed: {self.target}"
        )


@dataclass(frozen=True)
class _Artefact:
    """Size and SHA-256 of an artefact, and SHA-256 of its sidecar."""

    bytes: int
    sha256: str
    sidecar_sha256: str


def publish(library: Library, url: str) -> Transfer:
    """Make a URL hold what a library holds. Unchanged artefacts are not sent again.

    Raises StoreError for an artefact that is missing or damaged, and where the URL holds another library;
    UrlError where it cannot be written.
    """
    if not library.root.is_dir():
        raise StoreError(f"{show(library.root)} does not exist; name the folder of a library")
    url = url.rstrip("/")
    urls.check_bucket(url)
    with lock(library.root):
        here = _artefacts(library.root)
        if not here:
            raise StoreError(f"{show(library.root)} holds no artefact; run the stages first")
        sizes = _sizes(url)
        former_name, former = _read_list(url) if LIST in sizes else (library.name, {})
        if former_name != library.name:
            raise StoreError(
                f"{urls.shown(url)} holds the library {former_name!r}, this is {library.name!r}; take another URL"
            )
        there = former if LIST in sizes else _half_published(url, sizes, here, library.root)
        changed = [name for name in here if there.get(name) != here[name] or name not in sizes]
        stale = [name for name in former if name not in here]
        if changed or stale:
            urls.remove(f"{url}/{LIST}")

        def send(name: str) -> None:
            # In the order of a local writer: an artefact never stands beside the sidecar of another.
            if f"{name}.json" in sizes:
                urls.remove(f"{url}/{name}.json")
            urls.write(f"{url}/{name}", library.root / name)
            urls.write(f"{url}/{name}.json", library.root / f"{name}.json")

        urls.in_parallel(send, changed)
        for name in stale:
            urls.remove(f"{url}/{name}.json")
            urls.remove(f"{url}/{name}")
        if changed or stale or LIST not in sizes:
            urls.write(f"{url}/{LIST}", _encoded(library.name, here))
    size = sum(here[name].bytes for name in changed)
    return Transfer(len(changed), size, len(here) - len(changed), len(stale), urls.shown(url))


def fetch(url: str, folder: Path | None = None) -> Transfer:
    """Bring a published library here: to the place where `library_dir` with this URL finds it, read only; or
    to a new `folder`, to use and change like any other. What is here already is not fetched again, and a fetch
    that was ended goes on.

    Raises StoreError where the URL holds no whole library or not what its list says, where the folder is
    in use, and for a full disk; UrlError where the URL cannot be read.
    """
    url = url.rstrip("/")
    urls.check(url)
    target = library_folder(url) if folder is None else folder
    marker = read_marker(target)
    if folder is not None and (marker or {}).get("url") != url and _holds_files(target):
        raise StoreError(f"{show(target)} is not empty; take another folder")
    _, wanted = _read_list(url)
    with lock(target):
        missing = [name for name in wanted if not _is_here(target, name, wanted[name])]
        stale = [name for name in _artefact_names(target) if name not in wanted]
        if missing or stale or not (marker or {}).get("whole"):
            write_marker(target, url, whole=False)
        size = sum(wanted[name].bytes for name in missing)
        free = shutil.disk_usage(target).free
        if size > free:
            raise StoreError(
                f"{show(target)}: {size / 1e6:,.0f} MB to fetch and {free / 1e6:,.0f} MB free"
            )
        urls.in_parallel(lambda name: _fetch_one(url, target, name, wanted[name]), missing)
        for name in stale:
            (target / f"{name}.json").unlink(missing_ok=True)
            (target / name).unlink(missing_ok=True)
        if folder is None:
            write_marker(target, url, whole=True)
        else:
            remove_marker(target)
    kept = len(wanted) - len(missing)
    return Transfer(len(missing), size, kept, len(stale), show(target))


def _fetch_one(url: str, target: Path, name: str, wanted: _Artefact) -> None:
    whole = urls.read(f"{url}/{name}.json", _MAX_LIST_BYTES)
    if hashlib.sha256(whole).hexdigest() != wanted.sidecar_sha256:
        raise _differs(url, f"{name}.json")
    sidecar = target / f"{name}.json"
    sidecar.unlink(missing_ok=True)

    def checked() -> Iterator[bytes]:
        given = hashlib.sha256()
        for piece in urls.pieces(f"{url}/{name}", wanted.bytes):
            given.update(piece)
            yield piece
        if given.hexdigest() != wanted.sha256:
            raise _differs(url, name)  # before the file gets its name

    write_bytes(target / name, checked())
    # With the date that its sidecar keeps, the file is opened without being read again.
    mtime_ns = json.loads(whole).get("mtime_ns")
    if isinstance(mtime_ns, int) and 0 <= mtime_ns < 1 << 62:
        os.utime(target / name, ns=(mtime_ns, mtime_ns))
    write_bytes(sidecar, whole)


def _differs(url: str, name: str) -> StoreError:
    return StoreError(
        f"{urls.shown(url)}: {name} is not what {LIST} says; it is being published now, or damaged: "
        "fetch again later, or publish again"
    )


# ------------------------------------------------------------------------------- what is where


def _artefact_names(root: Path) -> list[str]:
    """Names of the artefacts below a folder, by name."""
    found = (path.with_suffix("") for path in root.rglob("*.json"))
    names = (path.relative_to(root).as_posix() for path in found if path.is_file())
    # A copy holds the present state alone.
    return sorted(n for n in names if "/." not in f"/{n}" and not n.startswith("snapshots/"))


def _artefacts(root: Path) -> dict[str, _Artefact]:
    found = {}
    for name in _artefact_names(root):
        if not _NAME.fullmatch(name):
            raise StoreError(f"{show(root / name)} is not named like an artefact of a library")
        verify(root / name, every_byte=True)
        size, digest = (root / name).stat().st_size, describe(root / name)["sha256"]
        found[name] = _Artefact(size, digest, sha256_of(root / f"{name}.json"))
    return found


def _is_here(root: Path, name: str, wanted: _Artefact) -> bool:
    try:
        sidecar = sha256_of(root / f"{name}.json")
        return sidecar == wanted.sidecar_sha256 and (root / name).stat().st_size == wanted.bytes
    except OSError:
        return False


def _holds_files(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{show(folder)} is a file; name a folder")
    return folder.is_dir() and any(not path.name.startswith(".lock") for path in folder.iterdir())


def _sizes(url: str) -> dict[str, int]:
    """Bytes of each object below a URL; none where there is no such folder yet."""
    try:
        return {listed.name: listed.size_bytes for listed in urls.find(url)}
    except urls.MissingUrl:
        return {}


def _half_published(
    url: str, sizes: dict[str, int], here: dict[str, _Artefact], root: Path
) -> dict[str, _Artefact]:
    """What an ended publication has left: those artefacts whose sidecar, written after them, is the one of
    here."""

    def is_same(name: str) -> bool:
        sidecar = (root / f"{name}.json").read_bytes()
        as_long = (sizes.get(name), sizes.get(f"{name}.json")) == (here[name].bytes, len(sidecar))
        return as_long and urls.read(f"{url}/{name}.json", len(sidecar)) == sidecar

    same = urls.in_parallel(is_same, here)
    return {name: here[name] for name, is_there in zip(here, same, strict=True) if is_there}


# ---------------------------------------------------------------------------------- the list


def _encoded(name: str, artefacts: dict[str, _Artefact]) -> bytes:
    listed = {path: vars(artefact) for path, artefact in artefacts.items()}
    return json.dumps(
        {"library": name, "imgfp": __version__, "artefacts": listed}, indent=1, sort_keys=True
    ).encode()


def _read_list(url: str) -> tuple[str, dict[str, _Artefact]]:
    """Name and artefacts of the library at a URL. Nothing in the list is trusted."""
    try:
        data = urls.read(f"{url}/{LIST}", _MAX_LIST_BYTES)
    except urls.MissingUrl:
        raise StoreError(
            f"{urls.shown(url)} holds no published library, or it is being published now"
        ) from None
    try:
        found = json.loads(data)
        return str(found["library"]), {
            name: _checked(name, entry) for name, entry in found["artefacts"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{urls.shown(url)}/{LIST} is not a list of imgfp: {error}") from None


def _checked(name: str, entry: dict[str, Any]) -> _Artefact:
    artefact = _Artefact(**entry)
    sound = (
        _NAME.fullmatch(name)
        and type(artefact.bytes) is int
        and artefact.bytes >= 0
        and _SHA256.fullmatch(artefact.sha256)
        and _SHA256.fullmatch(artefact.sidecar_sha256)
    )
    if not sound:
        raise ValueError(
            f"{name[:100]!r} is not the name of an artefact, or its size or SHA-256 is none"
        )
    return artefact
