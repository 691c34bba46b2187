# SPDX-License-Identifier: AGPL-3.0-or-later
"""Damage to the files of finished runs, killed writers and runs, and hostile ids, at any size: `make torture`.

Every file of a copy of each named folder (a library, a run) is damaged, one after the other, and `imgfp verify` must
name it, though size and date do not tell, and be silent about the undamaged copy.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torture_kills

from imgfp import store
from imgfp.store import formats, integrity

#: Every kind of damage: what becomes of the bytes of a file, given a random place in it.
DAMAGES = {
    "bit": lambda data, at: data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :],
    "cut": lambda data, at: data[:at],
    "zeros": lambda data, at: data[:at] + bytes(len(data) - at + 1),
    "longer": lambda data, at: data + data[at:],
}
_WRITER = """
import sys; from pathlib import Path; from imgfp import store
print("ready", flush=True)
for number in range(10**6):
    store.write_sealed(Path(sys.argv[1]) / "status.json", b'{"number": %d}' % number)
"""


def damage(folder: Path, times: int, rng: random.Random) -> tuple[int, list[str]]:
    """Damage each file of a library or a run `times` times, in place and undone after each; returns the number of
    trials and those that `imgfp verify` did not see, one line each."""
    assert not store.find_damage(folder), f"{folder} is damaged already: imgfp verify {folder}"
    trials, unseen = 0, []
    for path in _files(folder):
        data = path.read_bytes()
        status = path.stat()
        for _ in range(times):
            kind = rng.choice(list(DAMAGES))
            path.write_bytes(DAMAGES[kind](data, rng.randrange(len(data))))
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            trials += 1
            if path.read_bytes() != data and not integrity.damage_of(folder, _described_by(path)):
                unseen.append(f"{path}: {kind}")
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not store.find_damage(folder)
    return trials, unseen


def kill_writers(folder: Path, times: int, rng: random.Random) -> list[str]:
    """Kill a process that writes one file over and over; returns what was left torn, one line each."""
    torn = []
    for _ in range(times):
        command = [sys.executable, "-c", _WRITER, str(folder)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout
        child.stdout.readline()
        time.sleep(rng.uniform(0.05, 0.3))
        child.send_signal(signal.SIGKILL)
        child.wait()
        try:
            store.read_json(folder / "status.json")
        except store.StoreError as error:
            torn.append(str(error))
    return torn


def hostile_ids(folder: Path, count: int, rng: random.Random) -> list[str]:
    """Write and read a table of predictions with random ids; returns those that came back changed."""
    letters = "=+-@'\"\t\r\n,;ab\0\u202e\u2028é#/\\ "
    ids = ["".join(rng.choices(letters, k=rng.randrange(1, 8))) for _ in range(count)]
    table = pd.DataFrame({"query_id": ids, "reference_id": ids[::-1], "score": 0.5})
    formats.write_predictions(folder / "predictions.csv", table)
    back = formats.read_predictions(folder / "predictions.csv")
    return [given for given, got in zip(ids, back["query_id"], strict=True) if given != got]


def _files(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    return [path for path in found if not path.name.startswith(".") or path.suffix == ".sha256"]


def _described_by(path: Path) -> Path:
    """The file that a seal or a sidecar is of; any other file itself."""
    if path.suffix == ".sha256":
        return path.with_name(path.stem.removeprefix("."))
    return path.with_suffix("") if path.suffix == ".json" and Path(path.stem).suffix else path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folders", nargs="*", type=Path, help="libraries and runs; left as they were"
    )
    parser.add_argument(
        "--times",
        type=int,
        default=3,
        help="damages per file; 10 writers, 1,000 ids, and kills in each stage of a run, for each",
    )
    parser.add_argument("--runs", type=int, default=0, help="runs whose processes are killed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, folder in enumerate(options.folders):
            copy = shutil.copytree(folder, Path(scratch) / f"copy-{number}")
            trials, unseen = damage(copy, options.times, rng)
            print(f"{folder}: {trials:,} damages, {len(unseen)} unseen", flush=True)
            failures += unseen
        torn = kill_writers(Path(scratch), 10 * options.times, rng)
        print(f"{10 * options.times} killed writers, {len(torn)} torn files", flush=True)
        changed = hostile_ids(Path(scratch), 1000 * options.times, rng)
        print(f"{1000 * options.times:,} hostile ids in a CSV file, {len(changed)} changed")
        if options.runs:
            failures += torture_kills.disturb_runs(
                Path(scratch) / "runs", options.runs, options.times, options.seed
            )
    failures += torn + [repr(image_id) for image_id in changed]
    print("\n".join(failures[:100]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
