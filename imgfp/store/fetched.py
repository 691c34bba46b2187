# SPDX-License-Identifier: AGPL-3.0-or-later
"""The local copy of a library that is named by URL: where it lies, and that no stage writes to it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from imgfp import urls
from imgfp.store.files import (
    StoreError,
    hash_of,
    project_path,
    read_json,
    seal_of,
    show,
    write_sealed,
)


def marker_of(folder: Path) -> Path:
    """The file that makes a folder the copy of a URL."""
    return folder / ".fetched.json"


def library_folder(library_dir: str | os.PathLike[str]) -> Path:
    """Where a library lies on this machine: the folder itself, or the place of a URL's copy, which is
    below `library/fetched/` of the project."""
    if not urls.is_url(library_dir):
        return project_path(library_dir)
    url = library_dir.rstrip("/")
    name = re.sub(r"[^\w-]", "_", url.rpartition("/")[2], flags=re.ASCII)[:40]
    return project_path("library/fetched") / f"{name}-{hash_of(url)[:12]}"


def opened(library_dir: str | os.PathLike[str]) -> Path:
    """`library_folder`. Raises StoreError for a URL whose copy is not here, or not whole."""
    folder = library_folder(library_dir)
    if urls.is_url(library_dir) and not (read_marker(folder) or {}).get("whole"):
        url = urls.shown(library_dir)
        raise StoreError(f"library {url} is not fetched; run: imgfp fetch {url}")
    return folder


def write_marker(folder: Path, url: str, *, whole: bool) -> None:
    """Say that a folder is the copy of a URL, and whether all of it is there."""
    write_sealed(marker_of(folder), json.dumps({"url": url, "whole": whole}).encode())


def read_marker(folder: Path) -> dict | None:
    """`url` and `whole` of a copy, None for any other folder. Raises StoreError for a damaged file."""
    path = marker_of(folder)
    return read_json(path) if path.exists() or seal_of(path).exists() else None


def remove_marker(folder: Path) -> None:
    """Make a copy a folder like any other."""
    for path in (seal_of(marker_of(folder)), marker_of(folder)):
        path.unlink(missing_ok=True)


def refuse_fetched(path: Path) -> None:
    """Raise StoreError when a file or folder belongs to a copy, which only `remote.fetch` changes."""
    # An artefact lies at most three folders deep in its library.
    for folder in (path, *path.parents[:4]):
        marker = read_marker(folder)
        if marker:
            url = marker["url"]
            raise StoreError(
                f"library {url} is read only, and its {show(path.relative_to(folder))} would be written; "
                "use the parameters it was made with and reference_dir= (blank), or get a copy to change: "
                f"imgfp fetch {url} DIR"
            )
