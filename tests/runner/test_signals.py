# SPDX-License-Identifier: AGPL-3.0-or-later
"""A run that is asked to end says so and leaves nothing running and nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

PARAMETERS = 'run_dir: str = ""  # where\nworkers: int = 0  # processes\n'
WAITS = "from pathlib import Path\nimport time\n(Path(run_dir) / 'begun').touch()\ntime.sleep(100)"


@pytest.fixture
def run(tmp_path):
    """A run that waits in its only notebook, and the folder for its temporary files."""
    for name in ("params", "notebooks", "tmp"):
        (tmp_path / name).mkdir()
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(WAITS),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata=kernel),
        tmp_path / "notebooks/01_wait.ipynb",
    )
    (tmp_path / "params/p.yaml").write_text(f"run_dir: {tmp_path}/run\nworkers: 1\n")
    with subprocess.Popen(
        [sys.executable, "-m", "imgfp", "run", "params/p.yaml"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        # The tests may run under nohup, which a run respects.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        yield started, tmp_path
        started.kill()


def until(condition) -> None:
    deadline = time.monotonic() + 240  # a busy machine is slow, not broken
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "when"),
    [(signal.SIGTERM, "begun"), (signal.SIGHUP, "workers start")],
)
def test_a_run_that_is_ended_says_so_and_leaves_nothing(run, number, when):
    started, folder = run
    own = psutil.Process(started.pid)
    until((folder / "run/begun").exists if when == "begun" else own.children)
    others = own.children(recursive=True)
    started.send_signal(number)
    _, said = started.communicate(timeout=240)
    assert started.returncode == 128 + number
    line = f"imgfp: ended by {number.name}; run the same command again to go on"
    assert said.strip().splitlines()[-1] == line
    assert "Traceback" not in said
    assert not psutil.wait_procs(others, timeout=60)[1]
    assert not list((folder / "tmp").iterdir())
    stages = (
        json.loads((folder / "run/status.json").read_bytes())["stages"] if when == "begun" else {}
    )
    assert [entry["state"] for entry in stages.values()] in ([], ["interrupted"])
