# SPDX-License-Identifier: AGPL-3.0-or-later
"""Decisions of reviewers about pairs: an append-only log, one JSON line per decision.

Nothing is ever rewritten: an undo is a line too. Each line is one write to a file opened for appending
and flushed to disk before the call returns, so that a killed kernel loses nothing and two reviewers can
work on one run at once. Each line has a seal of its own.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from imgfp.store.files import StoreError, hash_of, show, write_sheet

#: What a reviewer can decide about a pair, and whether the pair then counts as a copy (None: undecided).
DECISIONS: dict[str, bool | None] = {
    "copy": True,
    "same_scene": False,
    "shared_overlay": False,
    "unrelated": False,
    "skip": None,
}
UNDO = "undo"
COLUMNS = ["time", "reviewer", "query_id", "reference_id", "decision", "reason"]
#: What the lines of one decision on several pairs have in common; "" for a decision on one.
EVENT = "event"


def append(
    path: Path,
    query_id: str,
    reference_id: str,
    decision: str,
    *,
    reviewer: str,
    reason: str = "",
    time: datetime | None = None,
) -> None:
    """Add one decision (a key of DECISIONS) or `UNDO`, which takes back this reviewer's last decision
    on the pair. time: when it was made, with its zone; None: now. Raises ValueError for another word or a blank reviewer, StoreError when the disk
    refuses."""
    pairs = [(query_id, reference_id)]
    append_all(path, pairs, decision, reviewer=reviewer, reason=reason, time=time)


def append_all(
    path: Path,
    pairs: Sequence[tuple[str, str]],
    decision: str,
    *,
    reviewer: str,
    reason: str = "",
    time: datetime | None = None,
) -> None:
    """`append` for several pairs (query_id, reference_id) at once: a line each, in one write, which `last_of` gives back
    together."""
    if decision not in DECISIONS and decision != UNDO:
        raise ValueError(f"decision must be one of {[*DECISIONS, UNDO]}, got {decision!r}")
    reviewer = reviewer.strip()
    if not reviewer:
        raise ValueError("a decision needs the reviewer's name; enter one first")
    at = written(time or datetime.now(UTC))
    of_several = {EVENT: hash_of([at, reviewer, decision, *pairs])} if len(pairs) > 1 else {}
    lines = ""
    for query_id, reference_id in pairs:
        values = (at, reviewer, query_id, reference_id, decision, reason)
        entry = dict(zip(COLUMNS, values, strict=True)) | of_several
        # Escaped to ASCII, so that no character of an id can be taken for a line end.
        lines += json.dumps(entry | {"seal": hash_of(entry)}) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(handle, (_ends_torn(handle) + lines).encode("ascii"))
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise StoreError(f"cannot write {show(path)}: {error.strerror}") from None


def written(time: datetime) -> str:
    """A time as the log has it: ISO 8601 in UTC, to the millisecond."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds")


def read(path: Path) -> pd.DataFrame:
    """Every line of the log in order, with COLUMNS and EVENT. Lines that are damaged are left out, with a warning that names
    them."""
    rows, damaged = _lines(path)
    if damaged:
        warnings.warn(f"{show(path)} {said_of(damaged)}", stacklevel=2)
    return pd.DataFrame(rows, columns=[*COLUMNS, EVENT], dtype="str")


def damaged_lines(path: Path) -> list[int]:
    """Numbers, from 1, of the lines of a log that a crash cut short or that are not as they were written."""
    return _lines(path)[1]


def said_of(damaged: list[int]) -> str:
    """What is said of a log with damaged lines, after its name."""
    numbers = ", ".join(map(str, damaged))
    return f"is damaged in line {numbers}; the other decisions hold; delete the line, decide again"


def _lines(path: Path) -> tuple[list[list[str]], list[int]]:
    """Rows of COLUMNS and EVENT, and numbers of the damaged lines. Lines of version 0.1 have no seal."""
    rows, damaged = [], []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line or b"{}")
            seal = entry.pop("seal", None)
            known = [*entry] in (COLUMNS, [*COLUMNS, EVENT])
            if entry and not (known and seal in (None, hash_of(entry))):
                raise ValueError
            if entry:
                rows.append([str(entry.get(name, "")) for name in (*COLUMNS, EVENT)])
        except (ValueError, TypeError, AttributeError):
            damaged.append(number)
    return rows, damaged


def consensus(log: pd.DataFrame) -> pd.DataFrame:
    """The decisions in force: one row per pair, in the order of the last decision on it.

    COLUMNS of that last decision, `reviewers` (how many decided, skips not counted) and `conflicting`
    (bool: they decided differently).
    """
    last = [said[-1] for said in _in_force(log).values() if said]
    now = log[COLUMNS].iloc[sorted(last)]
    opinions = now[now["decision"] != "skip"].groupby(["query_id", "reference_id"])["decision"]
    facts = opinions.agg(reviewers="size", kinds="nunique")
    pairs = now.drop_duplicates(["query_id", "reference_id"], keep="last")
    pairs = pairs.join(facts, on=["query_id", "reference_id"])
    pairs["reviewers"] = pairs["reviewers"].fillna(0).astype(int)
    pairs["conflicting"] = pairs.pop("kinds").fillna(0) > 1
    return pairs.reset_index(drop=True)


def by_reviewer(log: pd.DataFrame) -> dict[tuple[str, str], dict[str, str]]:
    """(query_id, reference_id) -> reviewer -> their decision in force."""
    said: dict[tuple[str, str], dict[str, str]] = {}
    for (query_id, reference_id, reviewer), rows in _in_force(log).items():
        if rows:
            decision = str(log["decision"].iloc[rows[-1]])
            said.setdefault((query_id, reference_id), {})[reviewer] = decision
    return said


def last_of(log: pd.DataFrame, reviewer: str) -> list[tuple[str, str]]:
    """(query_id, reference_id) of a reviewer's last decision that was not undone, of all its pairs that it still holds
    for; none where there is none."""
    held = {
        said[-1]: (query_id, reference_id)
        for (query_id, reference_id, who), said in _in_force(log).items()
        if said and who == reviewer.strip()
    }
    rows = sorted(held)
    events = log[EVENT].iloc[rows].tolist()
    if not any(events[-1:]):
        return [held[row] for row in rows[-1:]]
    return [held[row] for row, event in zip(rows, events, strict=True) if event == events[-1]]


def labels(log: pd.DataFrame) -> pd.DataFrame:
    """Decided pairs as training data: query_id, reference_id, label (bool: is a copy), as
    `fusion.fit` reads them; skipped and conflicting pairs are left out."""
    pairs = consensus(log)
    pairs["label"] = pairs["decision"].map(DECISIONS)
    said = pairs[pairs["label"].notna() & ~pairs["conflicting"]]
    said = said[["query_id", "reference_id", "label"]].reset_index(drop=True)
    return said.astype({"label": bool})


def export_csv(log: pd.DataFrame, path: Path) -> None:
    """Write the decisions in force as CSV for people and spreadsheets."""
    write_sheet(path, consensus(log))


def _in_force(log: pd.DataFrame) -> dict[tuple[str, str, str], list[int]]:
    """(query_id, reference_id, reviewer) -> the rows of decisions that were not undone, in order."""
    held: dict[tuple[str, str, str], list[int]] = {}
    columns = (
        log[name].astype(str) for name in ("query_id", "reference_id", "reviewer", "decision")
    )
    for row, (query_id, reference_id, reviewer, decision) in enumerate(zip(*columns, strict=True)):
        said = held.setdefault((query_id, reference_id, reviewer), [])
        if decision != UNDO:
            said.append(row)
        elif said:
            said.pop()
    return held


def _ends_torn(handle: int) -> str:
    """A line end where the last line of an open log lacks its own, else nothing."""
    size = os.fstat(handle).st_size
    return "\n" if size and os.pread(handle, 1, size - 1) != b"\n" else ""
