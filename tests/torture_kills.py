# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kills of every kind of process of a run, at random moments of every stage: part of `make torture`.

A killed worker or decoder must not be noticed; after a killed kernel, process of the run or whole run the same command
must go on. The bytes of the results are those of an undisturbed run, the names of the pictures are hostile.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from imgfp import store
from imgfp.demo.corpus import write_demo_corpus
from imgfp.images import printable
from imgfp.store import formats

ROOT = Path(__file__).resolve().parents[1]
#: What is killed. The scheduler and its nannies live in the process of the run; "run" kills that process alone, "all"
#: every process at once.
KINDS = ("worker", "decoder", "kernel", "run", "all")
#: Kinds whose death must not end a run, and no kill at all.
UNNOTICED = ("", "worker", "decoder")
#: Part of the command line of each kind of process that a run starts.
_COMMANDS = {
    "worker": "multiprocessing.spawn",
    "decoder": "imgfp.decoding:handler",
    "kernel": "ipykernel_launcher",
}
#: Names of files: what quotes, markup, formulas, terminals, paths and encodings make of them.
HOSTILE_NAMES = (
    *(b"two\nlines", b"cr\rhere", b"tab\there", b" leading", b"trailing ", b"'", b'"', b'a"b,c;d'),
    *(b"=1+1", b"+1", b"-1", b"@SUM(A1)", b"'=quoted", b"#0", b"x#1", b"x@mirror", b"NA", b"null"),
    *(b"<b>bold", b"<script>document.title=1<script>", b"&amp;", b"{{7*7}}", b"$x_{1}$", b"%s%n"),
    *(b"..name", b"...", b".hidden", b"a..b", b"back\\slash", b"C:\\x", b"\\xff", b"\\udcff"),
    *(b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80", "café".encode(), "cafe\u0301".encode()),
    *("\u202egpj.live".encode(), "\u2028line".encode(), "\ufeffbom".encode(), "\U0001f600".encode()),
    *(b"$(touch owned)", b"`id`", b"; rm x", b"|x", b"*", b"?", b"[a]", b"~", b"-rf", b"--help"),
    *(b"\x1b[31mred", b"\x07bell", b"\x7f", b"nul", b"con", b"file:x", b"http:x", b"x" * 240),
)  # fmt: skip


@dataclass
class Trials:
    """What became of the kills: their kinds by stage, and failures, one line each."""

    kills: dict[str, list[str]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    restarts: int = 0
    seconds: float = 0

    @property
    def kinds(self) -> list[str]:
        """The kind of each kill."""
        return [kind for kinds in self.kills.values() for kind in kinds]


def make_corpus(folder: Path, size: int) -> None:
    """References and queries with known truth, `size` painted references and as many queries, and for each hostile
    name a query of that name that is a picture, and one that is none."""
    write_demo_corpus(folder / "corpus", 0, size, size, size // 2)
    for side in ("references", "queries"):
        shutil.copytree(folder / "corpus" / side, folder / side)
    pictures = sorted((folder / "queries").iterdir())
    for number, name in enumerate(HOSTILE_NAMES):
        below = os.fsencode(folder / "queries")
        picture = pictures[number % len(pictures)].read_bytes()
        with open(os.path.join(below, name + b".jpg"), "wb") as file:
            file.write(picture + b"%d" % number)
        with open(os.path.join(below, name + b".png"), "wb") as file:
            file.write(b"no picture %d" % number)


def results_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each result of a run and its library, by relative path."""
    found = [folder / "run/predictions.csv", folder / "run/rejects.csv"]
    kinds = ("images", "local_features", "candidates", "crops", "descriptors", "evidence")
    for kind in kinds:
        found += [*(folder / "run" / kind).rglob("*"), *(folder / "library" / kind).rglob("*")]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(found)
        if path.is_file() and path.suffix in (".csv", ".parquet", ".h5")
    }


def lost_names(folder: Path) -> list[str]:
    """Hostile names that a finished run has lost or doubled, or that its report holds unescaped; one line each."""
    rejects = store.read_sheet(folder / "run/rejects.csv")["path"]
    names = [Path(path).stem for path in rejects] + [
        Path(query).stem
        for query in formats.read_predictions(folder / "run/predictions.csv")["query_id"].unique()
    ]
    wanted = [printable(os.fsdecode(name)) for name in HOSTILE_NAMES]
    lost = [f"{name!r}: {names.count(name)} times" for name in wanted if names.count(name) != 2]
    page = (folder / "run/report.html").read_text()
    return lost + [
        f"{name!r} in report.html"
        for name in ("<b>bold", "<script>document", "\x1b", "\u202e")
        if name in page
    ]


class DisturbedRun:
    """A run of the corpus in `folder` into `folder/name`."""

    def __init__(self, folder: Path, name: str, stages: str = "01-09") -> None:
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        # Sockets lie in it, whose paths have 107 characters at most.
        self.temporary = Path(tempfile.mkdtemp(prefix="kills-"))
        self._started = 0.0
        self._log = self.folder / "log.txt"
        self._command = [
            *(sys.executable, "-m", "imgfp", "run", str(ROOT / "params/mine.yaml")),
            *(f"reference_dir={folder}/references", f"query_dir={folder}/queries"),
            *(f"run_dir={self.folder}/run", f"library_dir={self.folder}/library"),
            *("shard_images=16", "workers=2", f"stages={stages}"),
        ]

    def start(self) -> psutil.Popen:
        self._started = time.time()
        with self._log.open("ab") as log:
            return psutil.Popen(
                self._command,
                cwd=ROOT,
                env=os.environ | {"TMPDIR": str(self.temporary)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stage(self) -> str:
        """The stage that runs, "between" two of them, "start" before the first after a start."""
        status = self.folder / "run/status.json"
        with suppress(store.StoreError, FileNotFoundError):
            if status.stat().st_mtime < self._started:
                return "start"
            stages = store.read_json(status)["stages"]
            states = [name[:2] for name, entry in stages.items() if entry["state"] == "running"]
            return states[0] if states else "between"  # later ones were killed before
        return "start"

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-1500:]


def kill(process: psutil.Popen, kind: str, rng: random.Random) -> bool:
    """Kill a process of a kind; False where there is none now."""
    with suppress(psutil.NoSuchProcess):
        below = _below(process)
        if kind in _COMMANDS:
            below = [child for child in below if _COMMANDS[kind] in " ".join(_words(child))]
            if not below:
                return False
            rng.choice(below).kill()
            return True
        process.kill()
        if kind == "all":
            for child in below:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        return True
    return False


def disturb(
    run: DisturbedRun,
    kinds: Sequence[str],
    times: int,
    rng: random.Random,
    longest_s: float = 7200,
) -> Trials:
    """Kill processes of a run, `times` in each stage and at random moments, always of that kind among those there
    are which was killed least, and start the run again until it is done."""
    trials = Trials()
    began = time.monotonic()
    process = run.start()
    entered, stage, moment, last = began, "", 0.0, ""
    while time.monotonic() - began < longest_s:
        if process.poll() is not None:
            if process.returncode == 0:
                break
            if last in UNNOTICED:
                trials.failures.append(f"{last}: the run ended in stage {stage}: {run.said()}")
                break
            trials.restarts += 1
            process = run.start()
            stage = last = ""
        if run.stage() != stage:
            stage, entered = run.stage(), time.monotonic()
            moment = rng.uniform(0, 4)
        if time.monotonic() - entered > moment and len(trials.kills.get(stage, ())) < times:
            below = _below(process)
            for kind in sorted(kinds, key=trials.kinds.count):
                if kill(process, kind, rng):
                    trials.kills.setdefault(stage, []).append(kind)
                    last = kind
                    break
            if last not in UNNOTICED:
                with suppress(psutil.TimeoutExpired):  # the kernel was at its end
                    process.wait(120)
            if last == "run":
                _, left = psutil.wait_procs(below, timeout=30)
                trials.failures += [f"run: orphan {_words(child)}" for child in left]
            entered, moment = time.monotonic(), rng.uniform(0, 4)
        time.sleep(0.02)
    else:
        trials.failures.append(f"{last}: not done after {longest_s} s in {stage}: {run.said()}")
        kill(process, "all", rng)
    process.wait()
    trials.seconds = time.monotonic() - began
    return trials


def _below(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def trial(
    folder: Path,
    name: str,
    times: int,
    wanted: dict[str, str],
    kinds: Sequence[str] = KINDS,
    stages: str = "01-09",
) -> list[str]:
    """One disturbed run, removed where nothing failed; prints what was killed and returns the failures. `name` is the
    seed."""
    run = DisturbedRun(folder, name, stages)
    done = disturb(run, kinds, times, random.Random(name))
    got = results_of(run.folder)
    other = sorted(path for path in wanted | got if wanted.get(path) != got.get(path))
    failures = done.failures + [f"{name}: {path} differs" for path in other]
    for part in ("run", "library"):
        failures += [f"{name}: {damage}" for damage in store.find_damage(run.folder / part)]
    failures += [f"{name}: left over {path.name}" for path in run.temporary.iterdir()]
    counted = ", ".join(f"{kind} {count}" for kind, count in Counter(done.kinds).items())
    print(
        f"run {name}: {len(done.kinds)} kills ({counted}), started {1 + done.restarts} times, "
        f"{done.seconds:.0f} s, {len(wanted)} results, {len(failures)} failures"
    )
    for stage, killed in sorted(done.kills.items()):
        print(f"  {stage:<8} {' '.join(killed)}", flush=True)
    if not failures:
        shutil.rmtree(run.folder)
        shutil.rmtree(run.temporary)
    return failures


def disturb_runs(folder: Path, rounds: int, times: int, seed: int, size: int = 12) -> list[str]:
    """A run that is left alone, then `rounds` that are disturbed; returns the failures, one line each."""
    make_corpus(folder, size)
    undisturbed = DisturbedRun(folder, "undisturbed")
    began = time.monotonic()
    assert undisturbed.start().wait() == 0, undisturbed.said()
    print(f"undisturbed run: {time.monotonic() - began:.0f} s", flush=True)
    failures = lost_names(undisturbed.folder)
    print(f"{len(HOSTILE_NAMES)} hostile names, {len(failures)} lost or unescaped", flush=True)
    wanted = results_of(undisturbed.folder)
    for number in range(rounds):
        failures += trial(folder, f"{seed}-{number}", times, wanted)
    return failures
