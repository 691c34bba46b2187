# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a whole run costs more for seals, bounded decoding and TLS: the package against a copy of it without them.

    python tests/cost_of_safety.py REFERENCES QUERIES --references 200 --queries 60 --rounds 3

Both run notebooks 01-09 on the first files of the two folders, in turns; the ratio is that of the medians. Ends with
status 1 where predictions.csv is not the same to the last byte.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Replacements that take each protection out, by file; each text is there once.
WITHOUT = {
    "store/files.py": {  # no flush to the disk, nothing read back, no seals
        "os.fsync(file.fileno())": "pass",
        "os.fsync(folder)": "pass",
        "digest = sha256_of(beside)": "digest = given.hexdigest()",
        "_write_seal(path, write_bytes(path, data))": "write_bytes(path, data)",
        "_write_seal(path, sha256_of(path))": "pass",
    },
    "decoding.py": {  # in the worker itself
        "    deaths = 0\n": "    return decode_image(data, path, max_pixels=limits.pixels, frame=frame)\n",
    },
    "runner/cluster.py": {  # plain TCP, no key
        'protocol="tls"': 'protocol="tcp"',
        "        _own_key(),\n": "",
        '    if cluster == "local" or': '    if cluster[:3] == "tcp" or cluster == "local" or',
    },
}


def unprotected(folder: Path) -> Path:
    """A copy of the project without seals, bounds and TLS."""
    for name in ("imgfp", "notebooks", "params"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, replaced in WITHOUT.items():
        path = folder / "imgfp" / name
        text = path.read_text()
        for old, new in replaced.items():
            assert text.count(old) == 1, f"{name}: {old!r} is there {text.count(old)} times"
            text = text.replace(old, new)
        path.write_text(text)
    return folder


def manifest(source: Path, count: int, path: Path) -> Path:
    files = sorted(source.iterdir())[:count]
    path.write_text("".join(["image_id,path\n", *(f"{f.stem},{f.absolute()}\n" for f in files)]))
    return path


def run(project: Path, folder: Path, given: list[str]) -> tuple[float, float, bytes]:
    """Seconds of a whole run, its processor time, and the bytes of its results."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "imgfp", "run", "params/mine.yaml", *given]
    command += [f"run_dir={folder}/run", f"library_dir={folder}/library"]
    began = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(project)}
    subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True)
    seconds = time.monotonic() - began
    stages = json.loads((folder / "run/status.json").read_bytes())["stages"].values()
    results = (folder / "run/predictions.csv").read_bytes()
    return seconds, sum(stage["processor_seconds"] for stage in stages), results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs=2, type=Path, metavar="REFERENCES QUERIES")
    parser.add_argument("--references", type=int, default=200)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        given = [
            f"{side}_dir={manifest(folder, count, scratch / f'{side}.csv')}"
            for side, folder, count in (
                ("reference", options.folders[0], options.references),
                ("query", options.folders[1], options.queries),
            )
        ]
        projects = {"with": ROOT, "without": unprotected(scratch / "project")}
        spent: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
        results: set[bytes] = set()
        for number in range(options.rounds):
            for kind in sorted(projects, reverse=number % 2 == 1):
                *times, result = run(projects[kind], scratch / "work", given)
                results.add(result)
                spent[kind].append((times[0], times[1]))
                print(
                    f"{kind:<8} {times[0]:7.1f} s, {times[1]:7.1f} s of processor time", flush=True
                )
        for at, what in enumerate(("time", "processor time")):
            one, other = (statistics.median(t[at] for t in spent[k]) for k in ("with", "without"))
            print(
                f"{what}: {one:.1f} s with, {other:.1f} s without: {100 * (one / other - 1):+.1f} %"
            )
        first, *others = results
        for other in others:
            lines = sorted({*first.splitlines()} ^ {*other.splitlines()})
            print(f"predictions differ in {len(lines)} lines, first:", *lines[:4], sep="\n")
        sys.exit(bool(others))


if __name__ == "__main__":
    main()
