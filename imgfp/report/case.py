# SPDX-License-Identifier: AGPL-3.0-or-later
"""The file of one case: a pair with its pictures, all its evidence and what it was made with, as one HTML page or a PDF.

Nothing in it tells when it was made, so that equal results give equal bytes.
"""

from __future__ import annotations

import difflib
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from imgfp import store, viz
from imgfp.report.case_tables import Table, case_tables
from imgfp.report.pairs import evidence_in_words
from imgfp.report.parts import render
from imgfp.results import Results, Side, homography_of
from imgfp.results.compare import MARKS_MEANING, MatchedPoints, marks_of, pair_matcher, warp_query
from imgfp.viz import svg
from imgfp.viz.document import Document
from imgfp.viz.pictures import overlay

#: Longer side of a picture in the file, in pixels.
LONG_SIDE_PX = 800
#: Height of a row of pictures in the PDF, inches.
_BAND_IN = 2.25
_LAID = (
    "the query laid on the reference, half of each",
    "their difference: dark red where they differ",
)
_NO_OVERLAY = "No transform between the images, so they cannot be laid on each other."


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
        text = f"Score {viz.score(row['score'])}, rank {row['rank'] + 1} of its query"
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
        return case_tables(self._results, self._ids, self.verdict)

    def to_html(self) -> str:
        """The case as one page, which loads nothing from elsewhere and runs no script."""
        sizes, outlines = self._sizes, self._outlines
        small = [svg.small_jpeg(image, LONG_SIDE_PX) for image in self._images]
        sides: tuple[Side, Side] = ("query", "reference")
        described = [f"{side} {one}" for side, one in zip(sides, self._ids, strict=True)]
        each = zip(small, sizes, outlines, described, strict=True)
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
                    small[0],
                    small[1],
                    sizes[0],
                    sizes[1],
                    found.query_xy,
                    found.reference_xy,
                    found.verification.inliers,
                    found.labels,
                    query_outline=outlines[0],
                    reference_outline=outlines[1],
                )
            ),
            "overlays": [
                (Markup(svg.picture(svg.small_jpeg(laid, LONG_SIDE_PX), sizes[1])), text)
                for laid, text in self._overlays
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
        for ax, image, name, size, outline in zip(
            paper.axes(_BAND_IN, 2), images, self._ids, sizes, self._outlines, strict=True
        ):
            viz.draw_image(ax, image, name, size)
            if outline is not None:
                viz.draw_outline(ax, outline)
        found = self._matches
        paper.paragraph(f"Matches: {found.in_words}.", keep_in=_BAND_IN + 0.3)
        (ax,) = paper.axes(_BAND_IN)
        viz.draw_matches(
            ax,
            *images,
            found.query_xy,
            found.reference_xy,
            found.verification.inliers,
            query_size=sizes[0],
            reference_size=sizes[1],
        )
        laid = self._overlays
        if not laid:
            paper.paragraph(_NO_OVERLAY)
        else:
            for ax, (image, text) in zip(paper.axes(_BAND_IN, 2), laid, strict=True):
                viz.draw_image(ax, image, text, sizes[1])
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
    def _images(self) -> tuple[np.ndarray, np.ndarray]:
        query, reference = self._shown
        return self._results.picture(*query), self._results.picture(*reference)

    @cached_property
    def _sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        query, reference = self._shown
        return self._results.size(*query), self._results.size(*reference)

    @cached_property
    def _outlines(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        return self._results.outlines(*self._ids)

    @cached_property
    def _matches(self) -> MatchedPoints:
        """The matches as verification found them."""
        mirrored = self._evidence is not None and bool(self._evidence.get("mirrored", False))
        return pair_matcher(self._results, *self._ids).matches(mirrored=mirrored)

    @cached_property
    def _overlays(self) -> list[tuple[np.ndarray, str]]:
        """The query laid on the reference, and their difference, each with what it shows; none without a transform."""
        homography = homography_of(self._evidence)
        if homography is None:
            return []
        laid = warp_query(*self._images, *self._sizes, homography, LONG_SIDE_PX)
        marks = marks_of(self._results, self._ids, self._images, laid[1].shape[:2])
        texts = _LAID if marks is None else (_LAID[0], MARKS_MEANING)
        pictures = overlay(*laid), overlay(*laid, difference=True, marks=marks)
        return list(zip(pictures, texts, strict=True))

    @cached_property
    def _scored(self) -> pd.Series | None:
        pairs = self._results.pairs
        rows = pairs[
            pairs["query_id"].eq(self.query_id) & pairs["reference_id"].eq(self.reference_id)
        ]
        return rows.iloc[0] if len(rows) else None


def _check_ids(results: Results, query_id: str, reference_id: str) -> None:
    if not results.library.root.is_dir():
        raise store.StoreError(
            f"{store.show(results.library.root)}, the library of this run, does not exist; put it back, or name "
            "its present place (--library DIR)"
        )
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
