# SPDX-License-Identifier: AGPL-3.0-or-later
"""How far a run is: the progress of a stage as terminals and logs show it, and the time that is left."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

#: Where the text after the name of a stage begins.
INDENT = 25
#: A log gets a line when so much more of the items is done, or after so many seconds.
_LOG_SHARE, _LOG_S = 0.1, 300.0

_STEP = re.compile(
    r"(?P<title>.*): (?P<done>\d+) of (?P<total>\d+) (?P<unit>\S+), (?P<left>[\d:]+|\?) left(?:, (?P<note>.+))?"
)


class Step(NamedTuple):
    """One progress bar of a stage: its title, items done and in all, seconds left or None while that is not known, and
    what is waited for, "" for nothing."""

    title: str
    done: int
    total: int
    unit: str
    left_s: int | None
    note: str

    def __str__(self) -> str:
        share = (
            f"{self.done:,} of {self.total:,} {self.unit} ({self.done / max(self.total, 1):.0%})"
        )
        left = "" if self.left_s is None else f", {duration(self.left_s)} left"
        return f"{self.title}: {share}{f', {self.note}' if self.note else left}"


def bar_format(unit: str) -> str:
    """The format of a tqdm bar that `step_of` reads; unit: of one item."""
    units = f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
    return f"{{desc}}: {{n}} of {{total}} {units}, {{remaining}} left{{postfix}}"


def step_of(line: str) -> Step | None:
    """The step that a line written by `bar_format` tells, None for any other line."""
    found = _STEP.fullmatch(line.strip())
    if not found:
        return None
    parts = [int(part) for part in re.findall(r"\d+", found["left"])]
    seconds = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    left = seconds if parts else None
    ends = int(found["done"]), int(found["total"])
    return Step(found["title"], *ends, found["unit"], left, found["note"] or "")


def duration(seconds: float) -> str:
    """Seconds as people say them: "23 s", "4 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60) if minutes >= 90 else (0, minutes)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


@dataclass(frozen=True)
class Pace:
    """What stages are expected to take, and what those that ended in this run took: seconds by number of the stage."""

    expected: Mapping[str, float]
    took: Mapping[str, float]

    def left_s(self, todo: Collection[str]) -> float | None:
        """Seconds that the stages `todo` take at the pace of those that ended; None where one of them is not expected,
        or none has ended that was."""
        known = [number for number in self.took if self.expected.get(number)]
        if not known or any(number not in self.expected for number in todo):
            return None
        slower = sum(self.took[n] for n in known) / sum(self.expected[n] for n in known)
        return slower * sum(self.expected[number] for number in todo)


class StageLine:
    """What a stage shows while it goes on: one line that a terminal writes anew, and a log gets few lines of. A text
    stream, which passes the steps, and what is waited for, on from the outputs of a notebook."""

    def __init__(self, head: str, on_step: Callable[[Step], None]) -> None:
        self._head = head
        self._on_step = on_step
        self._terminal = sys.stdout.isatty()
        self._said = ""
        self._title = ""
        self._share, self._at = 0.0, 0.0
        self._print(head)

    def write(self, text: str) -> None:
        for line in re.split(r"[\r\n]", text):
            step = step_of(line)
            if step:
                self._stepped(step)
            elif line.startswith("waiting for "):
                self._say(line.strip())

    def flush(self) -> None:
        sys.stdout.flush()

    def end(self, text: str) -> None:
        """The last words about the stage, and the end of its line."""
        if self._terminal and self._said:
            self._print(f"\r\x1b[K{self._head}")
        self._print(
            f"\n{'':<{INDENT}}{text}\n" if self._said and not self._terminal else f"{text}\n"
        )

    def _stepped(self, step: Step) -> None:
        self._on_step(step)
        if step.title != self._title:
            self._title, self._share, self._at = step.title, 0.0, time.monotonic()
        share, now = step.done / max(step.total, 1), time.monotonic()
        if step.note:
            self._say(f"{step.title}: {step.note}")
        elif 0 < share < 1 and (
            self._terminal or share >= self._share + _LOG_SHARE or now >= self._at + _LOG_S
        ):
            self._share, self._at = share, now
            self._say(str(step))

    def _say(self, text: str) -> None:
        if text == self._said:
            return
        self._said = text
        self._print(f"\r\x1b[K{self._head}{text}" if self._terminal else f"\n{'':<{INDENT}}{text}")

    def _print(self, text: str) -> None:
        print(text, end="", flush=True)
