# SPDX-License-Identifier: AGPL-3.0-or-later
"""The file of one case: a pair with its pictures, all its evidence and what it was made with, as one HTML page or a PDF.

Nothing in it tells when it was made, so that equal results give equal bytes.
"""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from imgfp import store, urls, viz
from imgfp.report.evidence import OTHERS, SHOWN, branch_rows, log_odds_added, measured
from imgfp.report.pairs import evidence_in_words
from imgfp.report.parts import render, settings, threshold_cards, versions, warnings
from imgfp.results import Results, Side, homography_of
from imgfp.results.compare import MatchedPoints, pair_matcher, warp_query
from imgfp.scoring.relations import RELATIONS
from imgfp.stages.inventory import read_column
from imgfp.store import decisions
from imgfp.viz import svg
from imgfp.viz.document import Document
from imgfp.viz.pictures import overlay

#: Longer side of a picture in the file, in pixels.
LONG_SIDE_PX = 800
#: Resamplings for the intervals of the threshold card.
_ROUNDS = 300
_NO_OVERLAY = "No transform between the images, so they cannot be laid on each other."


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


class Case:
    """One pair of a finished run, whether or not it was scored."""

    def __init__(self, results: Results, query_id: str, reference_id: str) -> None:
        """Raises StoreError for a query or a reference that the run does not know."""
        _check_ids(results, query_id, reference_id)
        self.query_id, self.reference_id = query_id, reference_id
        self._results, self._ids = results, (query_id, reference_id)
        self._evidence = results.best_evidence(*self._ids)

    @property
    def title(self) -> str:
        """Query and reference, in one line of visible text."""
        return " and ".join(viz.label(one, 60) for one in self._ids)

    @cached_property
    def verdict(self) -> str:
        """What the run says of the pair, in sentences."""
        results = self._results
        row, threshold = self._scored, results.threshold
        if row is None:
            return "The run has not scored this pair."
        text = f"Score {viz.number(row['score'])}, rank {row['rank'] + 1} of its query"
        if threshold is not None:
            is_copy = "" if row["score"] >= threshold else "not "
            text += f": {is_copy}reported as a copy (threshold {viz.number(threshold)})"
        if relation := results.relation_of(*self._ids):
            text += f". Relation: {relation}"
        if pd.notna(row.get("is_true")):
            text += f". Ground truth: {'a copy' if row['is_true'] else 'not a copy'}"
        return f"{text}."

    @cached_property
    def words(self) -> str:
        """The edit and the evidence in one line."""
        results = self._results
        copies = len(results.groups.others(self.reference_id))
        return evidence_in_words(self._evidence, results.remarks(*self._ids), copies)

    @cached_property
    def tables(self) -> list[Table]:
        """Everything that is known of the pair, as text."""
        evidence, branches = self._evidence, branch_rows(self._results, *self._ids)
        added = log_odds_added(self._results, *self._ids)
        tables = [
            self._files(),
            *self._thresholds(),
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
                [
                    (name.removeprefix("log-odds: "), value, meaning)
                    for name, value, meaning in added
                ],
                (0.24, 0.14, 0.62),
            ),
            self._decisions(),
            Table("How to repeat it", "", ("", ""), self._commands(), (0.2, 0.8)),
            Table("Parameters of the run", "", ("", ""), settings(self._results), (0.35, 0.65)),
            Table(
                "Versions",
                "Of what is installed where this file was made.",
                ("", ""),
                versions(self._results),
                (0.35, 0.65),
            ),
        ]
        return [table for table in tables if table.rows or table.note]

    def to_html(self) -> str:
        """The case as one page, which loads nothing from elsewhere and runs no script."""
        images, sizes = self._images, self._sizes
        small = [svg.small_jpeg(image, LONG_SIDE_PX) for image in images]
        sides: tuple[Side, Side] = ("query", "reference")
        described = [f"{side} {one}" for side, one in zip(sides, self._ids, strict=True)]
        each = zip(small, sizes, self._outlines, described, strict=True)
        found = self._matches
        facts: dict[str, Any] = {
            "title": self.title,
            "names": [viz.label(one, 0) for one in self._ids],
            "verdict": self.verdict,
            "words": viz.label(self.words, 0),
            "matched": found.in_words,
            "pictures": [Markup(svg.outlined(*side)) for side in each],
            "matches": Markup(
                svg.matches(
                    *small,
                    *sizes,
                    found.query_xy,
                    found.reference_xy,
                    found.verification.inliers,
                    found.labels,
                    query_outline=self._outlines[0],
                    reference_outline=self._outlines[1],
                )
            ),
            "overlays": [
                Markup(svg.picture(svg.small_jpeg(laid, LONG_SIDE_PX), sizes[1]))
                for laid in self._overlays
            ],
            "no_overlay": _NO_OVERLAY,
            "tables": self.tables,
        }
        return render("case", facts)

    def to_pdf(self) -> bytes:
        """The case as a PDF of A4 pages."""
        paper = Document(f"Case: {self.title}")
        paper.heading(f"Case: {self.title}", 15)
        paper.paragraph(self.verdict, 10)
        paper.paragraph(f"Evidence: {self.words}.", 9)
        images, sizes = self._images, self._sizes
        for ax, *side, outline in zip(
            paper.axes(2.6, 2), images, self._ids, sizes, self._outlines, strict=True
        ):
            viz.draw_image(ax, *side)
            if outline is not None:
                viz.draw_outline(ax, outline)
        found = self._matches
        paper.paragraph(f"Matches: {found.in_words}.")
        (ax,) = paper.axes(2.6)
        given = {"query_size": sizes[0], "reference_size": sizes[1]}
        ends = found.query_xy, found.reference_xy
        viz.draw_matches(ax, *images, *ends, found.verification.inliers, **given)
        laid = self._overlays
        paper.paragraph(
            "The query laid on the reference, and their difference." if laid else _NO_OVERLAY
        )
        for ax, image in zip(paper.axes(2.6, 2) if laid else (), laid, strict=True):
            viz.draw_image(ax, image, size=sizes[1])
        for table in self.tables:
            paper.heading(table.title)
            if table.note:
                paper.paragraph(table.note, 8)
            paper.table(table.head, table.rows, table.shares)
        return paper.to_pdf()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the case as the name says, .html or .pdf. Raises ValueError for another."""
        made = {".html": lambda: self.to_html().encode(), ".pdf": self.to_pdf}
        suffix = Path(path).suffix.lower()
        if suffix not in made:
            raise ValueError(f"{store.show(Path(path))}: a case file ends with .html or .pdf")
        store.write_bytes(Path(path), made[suffix]())

    # -------------------------------------------------------------------------------- pictures

    @cached_property
    def _shown(self) -> tuple[tuple[Side, str], tuple[Side, str]]:
        query, reference = self._results.images_of(*self._ids)
        return ("query", query), ("reference", reference)

    @cached_property
    def _images(self) -> list[np.ndarray]:
        return [self._results.picture(*one) for one in self._shown]

    @cached_property
    def _sizes(self) -> list[tuple[int, int]]:
        return [self._results.size(*one) for one in self._shown]

    @cached_property
    def _outlines(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        return self._results.outlines(*self._ids)

    @cached_property
    def _matches(self) -> MatchedPoints:
        """The matches as verification found them."""
        mirrored = self._evidence is not None and bool(self._evidence.get("mirrored", False))
        return pair_matcher(self._results, *self._ids).matches(mirrored=mirrored)

    @cached_property
    def _overlays(self) -> list[np.ndarray]:
        """The query laid on the reference, and their difference; none without a transform."""
        homography = homography_of(self._evidence)
        if homography is None:
            return []
        laid = warp_query(*self._images, *self._sizes, homography, LONG_SIDE_PX)
        return [overlay(*laid, difference=difference) for difference in (False, True)]

    # ---------------------------------------------------------------------------------- tables

    @cached_property
    def _scored(self) -> dict[str, Any] | None:
        pairs = self._results.pairs
        rows = pairs[
            pairs["query_id"].eq(self.query_id) & pairs["reference_id"].eq(self.reference_id)
        ]
        return rows.iloc[0].to_dict() if len(rows) else None

    def _files(self) -> Table:
        results = self._results
        rows: list[list[str]] = [
            ["id"],
            ["path"],
            ["size"],
            ["SHA-256"],
            ["the file now"],
            ["notes"],
        ]
        sides: tuple[Side, Side] = ("query", "reference")
        for side, image_id in zip(sides, self._ids, strict=True):
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

    def _thresholds(self) -> list[Table]:
        results = self._results
        facts = [
            ("threshold", "none" if results.threshold is None else viz.number(results.threshold))
        ]
        facts.append(("it comes from", results.threshold_source))
        if relation := results.relation_of(*self._ids).partition(" (")[0]:
            facts.append((relation, RELATIONS.get(relation, "")))
        if doubt := warnings(results):
            facts.append(("warning", doubt))
        tables = [Table("Score and threshold", self.verdict, ("", ""), facts, (0.3, 0.7))]
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

    def _decisions(self) -> Table:
        log = decisions.read(self._results.decisions_path)
        log = log[log["query_id"].eq(self.query_id) & log["reference_id"].eq(self.reference_id)]
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

    def _commands(self) -> list[tuple[str, str]]:
        run, ids = self._results.run, self._ids
        params = shlex.join(["imgfp", "run", str(run.params_yaml)])
        files = ["--html", "case.html", "--pdf", "case.pdf"]
        again = shlex.join(["imgfp", "case", str(run.root), *files, "--", *ids])
        return [("the run", params), ("this file", again)]


def _file_now(path: str, digest: str) -> str:
    """Whether a file still has these bytes."""
    if urls.is_url(path):
        return "not read again: it is on a server"
    if not Path(path).is_file():
        return "is not there"
    return "has these bytes" if store.sha256_of(Path(path)) == digest else "has other bytes"


def _check_ids(results: Results, query_id: str, reference_id: str) -> None:
    proposed = results.candidates_of(query_id)["reference_id"].tolist()
    sides: tuple[tuple[Side, bool, list[str]], ...] = (
        ("query", query_id in results.queries.index, results.queries.index.tolist()),
        ("reference", reference_id in results.references, proposed),
    )
    for (side, known, others), given in zip(sides, (query_id, reference_id), strict=True):
        if not known:
            near = difflib.get_close_matches(given, others, 1)
            hint = (
                f"did you mean {viz.label(near[0])!r}?" if near else "predictions.csv has the ids"
            )
            raise store.StoreError(f"this run has no {side} {viz.label(given)!r}; {hint}")
