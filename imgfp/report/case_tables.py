# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tables of a case file: files, thresholds, evidence, branches, decisions, and what it was made with."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imgfp import store, urls, viz
from imgfp.report.evidence import OTHERS, SHOWN, branch_rows, log_odds_added, measured
from imgfp.report.parts import settings, threshold_cards, versions, warnings
from imgfp.results import Results, Side
from imgfp.scoring.relations import RELATIONS
from imgfp.stages.inventory import read_column
from imgfp.store import decisions

#: Ids of a query and a reference.
Pair = tuple[str, str]
#: Resamplings for the intervals of the threshold card.
_ROUNDS = 300


@dataclass(frozen=True)
class Table:
    """A table of the case: title, a line of text below it, head (blank words for none), rows, and the share of the width
    of each column."""

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    shares: Sequence[float]

    def __post_init__(self) -> None:
        visible = [[viz.label(cell, 0) for cell in row] for row in self.rows]
        object.__setattr__(self, "rows", visible)


def case_tables(results: Results, ids: Pair, verdict: str) -> list[Table]:
    """Everything that is known of the pair, as text."""
    evidence, branches = results.best_evidence(*ids), branch_rows(results, *ids)
    added = log_odds_added(results, *ids)
    tables = [
        _files(results, ids),
        *_thresholds(results, ids, verdict),
        Table(
            "Evidence",
            "What verification measured, of the view of the query with the most inliers."
            if evidence is not None
            else "The pair was not verified.",
            ("measurement", "value", "meaning"),
            measured(evidence, SHOWN | OTHERS),
            (0.22, 0.2, 0.58),
        ),
        Table(
            "Branches",
            "How each branch proposed the pair, and the score without it.",
            ("", ""),
            branches,
            (0.35, 0.65),
        ),
        Table(
            "Features of the score",
            "What each adds to the log-odds of a copy, largest first.",
            ("feature", "log-odds", "meaning"),
            [(name.removeprefix("log-odds: "), value, meaning) for name, value, meaning in added],
            (0.24, 0.14, 0.62),
        ),
        _decisions(results, ids),
        Table("How to repeat it", "", ("", ""), _commands(results, ids), (0.2, 0.8)),
        Table(
            "Parameters of the run",
            results.unrecorded,
            ("parameter", "value", "from"),
            settings(results),
            (0.32, 0.5, 0.18),
        ),
        Table(
            "Versions, weights and inputs",
            "As the run recorded them.",
            ("", ""),
            versions(results),
            (0.35, 0.65),
        ),
    ]
    return [table for table in tables if table.rows or table.note]


def _files(results: Results, ids: Pair) -> Table:
    rows: list[list[str]] = [
        ["id"],
        ["path"],
        ["size"],
        ["SHA-256"],
        ["the file now"],
        ["notes"],
    ]
    sides: tuple[Side, Side] = ("query", "reference")
    for side, image_id in zip(sides, ids, strict=True):
        collection = results.run if side == "query" else results.library
        values = (
            read_column(collection, [image_id], name)[0]
            for name in ("width", "height", "file_bytes", "format", "sha256", "notes")
        )
        width, height, file_bytes, kind, digest, notes = values
        path = results.path(side, image_id)
        size = f"{width:,} x {height:,} px, {file_bytes:,} bytes, {kind}"
        cells = (image_id, path, size, digest, _file_now(path, digest), notes or "none")
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    return Table(
        "Files",
        "The SHA-256 is of the bytes that the run has read.",
        ("", "query", "reference"),
        rows,
        (0.14, 0.43, 0.43),
    )


def _thresholds(results: Results, ids: Pair, verdict: str) -> list[Table]:
    facts = [("threshold", "none" if results.threshold is None else viz.number(results.threshold))]
    facts.append(("it comes from", results.threshold_source))
    if relation := results.relation_of(*ids).partition(" (")[0]:
        facts.append((relation, RELATIONS.get(relation, "")))
    if doubt := warnings(results):
        facts.append(("warning", doubt))
    tables = [Table("Score and threshold", verdict, ("", ""), facts, (0.3, 0.7))]
    cards = threshold_cards(results, {0.9, 0.95, 0.99}, _ROUNDS, results.parameter("seed"))
    if cards:
        keys = ("threshold", "precision", "precision_span", "recall", "recall_span")
        rows = [
            [f"{100 * card['target']:g} %", *(card.get(key) or "not reached" for key in keys)]
            for card in cards
        ]
        head = ("target precision", "threshold", "precision", "95 %", "recall", "95 %")
        note = "Measured on the truth of the run; intervals by bootstrap over its queries."
        tables.append(
            Table("Threshold card", note, head, rows, (0.18, 0.18, 0.13, 0.19, 0.13, 0.19))
        )
    return tables


def _decisions(results: Results, ids: Pair) -> Table:
    log = decisions.read(results.decisions_path)
    log = log[log["query_id"].eq(ids[0]) & log["reference_id"].eq(ids[1])]
    held = decisions.consensus(log)
    note = "Nobody has decided about this pair."
    if len(log):
        note = "Every line of the log about this pair; all are taken back."
    if len(held):
        row = held.iloc[0]
        note = f"In force: {row['decision'].replace('_', ' ')}, reviewers: {row['reviewers']}"
        note += ", who decided differently." if row["conflicting"] else "."
    columns = ["time", "reviewer", "decision", "reason"]
    rows = log[columns].replace("_", " ", regex=True).values.tolist()
    return Table("Decisions", note, columns, rows, (0.28, 0.22, 0.2, 0.3))


def _commands(results: Results, ids: Pair) -> list[tuple[str, str]]:
    run, library = results.run, results.library
    if results.looked_up:
        path = results.path("query", ids[0])
        return [
            (
                "these answers",
                shlex.join(["imgfp", "look", "--library", str(library.root), "--", path]),
            )
        ]
    params = shlex.join(["imgfp", "run", str(run.params_yaml)])
    options = ["--library", str(library.root), "--html", "case.html", "--pdf", "case.pdf"]
    again = shlex.join(["imgfp", "case", str(run.root), *options, "--", *ids])
    return [("the run", params), ("this file", again)]


def _file_now(path: str, digest: str) -> str:
    """Whether a file still has these bytes."""
    if urls.is_url(path):
        return "not read again: it is on a server"
    if not Path(path).is_file():
        return "is not there"
    return "has these bytes" if store.sha256_of(Path(path)) == digest else "has other bytes"
