# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where notebooks and profiles lie: in the user's project, in the package, or in a checkout."""

from __future__ import annotations

import os
from pathlib import Path

from imgfp import urls
from imgfp.store.files import StoreError, hash_of, project_path, show, write_bytes

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(folder: str) -> Path:
    """`notebooks` or `params` as they came with imgfp: inside an installed package, or at the top of a
    checkout. Raises FileNotFoundError for an installation that lacks them."""
    places = (_PACKAGE / "shipped" / folder, _PACKAGE.parent / folder)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"imgfp's own {folder}/ are missing; install imgfp again")
    return found


def notebooks() -> Path:
    """The notebooks that a run executes: the project's own, else the shipped ones.

    The project is the nearest folder, from the working folder upward, that holds `params/`.
    """
    own = project_path("notebooks")
    return own if any(own.glob("[0-9][0-9]_*.ipynb")) else shipped("notebooks")


def profile(given: Path) -> Path:
    """The parameter file that is meant: the one given, else the project's own of that name, else the
    shipped one. `demo` and `params/demo.yaml` name the same file."""
    places = [given]
    if given.parent in (Path(), Path("params")):
        name = f"{given.name.removesuffix('.yaml')}.yaml"
        places += [project_path("params") / name, shipped("params") / name]
    return next((place for place in places if place.is_file()), given)


def self_search(folder: str, library: str = "", run: str = "") -> tuple[Path, list[str]]:
    """The profile, and the parameters as `name=value`, by which a folder is searched in itself.

    folder: of pictures, a manifest or a URL; library, run: where what is computed is kept, blank for places named after
    the path of the folder, as two folders cannot share a library. Raises FileNotFoundError in one line for what is none of these.
    """
    place = project_path(folder)
    is_manifest = place.is_file() and place.suffix.lower() == ".csv"
    if not (urls.is_url(folder) or is_manifest or (place.is_dir() and any(place.iterdir()))):
        what = "is no folder" if place.exists() else "does not exist"
        what = "holds no files" if place.is_dir() else what
        raise FileNotFoundError(f"{show(place)} {what}; name a folder of pictures")
    name = f"duplicates-{hash_of(os.path.abspath(folder))[:8]}"
    values = {
        "reference_dir": folder,
        "query_dir": folder,
        "library_dir": library or f"library/{name}",
        "run_dir": run or f"runs/{name}",
    }
    return Path("duplicates"), [f"{key}={value}" for key, value in values.items()]


def init(folder: Path) -> list[Path]:
    """Lay out notebooks/ and params/ in a folder for a user to change; returns the files written.

    Raises StoreError, and writes nothing, where one of them is there already.
    """
    sources = {
        folder / name / source.name: source
        for name, pattern in (("notebooks", "*.ipynb"), ("params", "*.yaml"))
        for source in sorted(shipped(name).glob(pattern))
    }
    there = [path for path in sources if path.exists()]
    if there:
        raise StoreError(f"{show(there[0])} is there already; take another folder")
    for path, source in sources.items():
        write_bytes(path, source.read_bytes())
    return list(sources)
