# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a stage shows while it goes on, in a log and on a terminal, and the time that is left."""

from __future__ import annotations

import pytest

from imgfp.runner import cluster, progress
from imgfp.runner.progress import Pace, StageLine, Step, duration, step_of


def test_a_headless_bar_is_read_as_a_step(monkeypatch, capsys):
    monkeypatch.setenv("IMGFP_HEADLESS", "1")
    with cluster.progress("copies: of a", "query", 40) as bar:
        bar.n = 10
        bar.set_postfix_str("waiting for a worker")
    steps = [step_of(line) for line in capsys.readouterr().out.replace("\r", "\n").split("\n")]
    first, *_ = found = [step for step in steps if step]
    assert (first.title, first.done, first.total, first.unit) == ("copies: of a", 0, 40, "queries")
    assert (found[1].done, found[1].note) == (10, "waiting for a worker")


@pytest.mark.parametrize(
    ("left", "seconds"), [("?", None), ("00:05", 5), ("02:05", 125), ("1:00:05", 3605)]
)
def test_the_time_that_a_bar_leaves(left, seconds):
    assert step_of(f"verify: 1 of 9 pairs, {left} left") == Step(
        "verify", 1, 9, "pairs", seconds, ""
    )
    assert step_of(f"verify: 1 of 9 pairs, {left}") is None


def bars(line: StageLine, title: str, counts: list[int]) -> None:
    for count in counts:
        line.write(f"\r{title}: {count} of 1000 images, 00:09 left")


def test_a_log_has_no_line_twice_and_none_of_nothing(capsys):
    steps: list[Step] = []
    line = StageLine("02_x stage 2 of 9: ", steps.append)
    bars(line, "references", [0, 0, 120, 121, 200, 230, 1000, 1000])
    bars(line, "queries", [0, 500, 1000])
    line.write("waiting for another run\nwaiting for another run\nother words\n")
    line.end("ok 3.0 s")
    shown = [text.strip() for text in capsys.readouterr().out.splitlines()]
    assert shown == [
        "02_x stage 2 of 9:",
        "references: 120 of 1,000 images (12%), 9 s left",
        "references: 230 of 1,000 images (23%), 9 s left",
        "queries: 500 of 1,000 images (50%), 9 s left",
        "waiting for another run",
        "ok 3.0 s",
    ]
    assert len(steps) == 11


def test_a_terminal_has_one_line_that_is_written_anew(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    line = StageLine("head ", lambda step: None)
    bars(line, "references", [1, 2])
    line.end("ok")
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1 and shown.endswith("\r\x1b[Khead ok\n")
    assert "references: 2 of 1,000" in shown


def test_what_is_left_follows_the_pace_of_what_has_ended():
    expected = {"01": 10.0, "02": 20.0, "03": 40.0}
    assert Pace(expected, {"01": 30.0}).left_s(["02", "03"]) == 180
    assert Pace(expected, {"01": 30.0, "02": 30.0}).left_s(["03"]) == 80
    assert Pace(expected, {"00": 30.0}).left_s(["02"]) is None
    assert Pace(expected, {"01": 30.0}).left_s(["20"]) is None


def test_durations_are_said_as_people_do():
    said = [duration(seconds) for seconds in (4.4, 89, 90, 3599, 5400, 36_000)]
    assert said == ["4 s", "89 s", "2 min", "60 min", "1 h 30 min", "10 h 00 min"]
