# SPDX-License-Identifier: AGPL-3.0-or-later
"""The match inspector: why a pair matched, or did not."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd

from imgfp import viz
from imgfp.report import Case, evidence_in_words
from imgfp.report.evidence import SHOWN, branch_rows, log_odds_added, measured
from imgfp.results import Results, homography_of
from imgfp.results.compare import (
    MARKS_MEANING,
    MatchedPoints,
    PairMatcher,
    marks_of,
    pair_matcher,
    warp_query,
)
from imgfp.scoring.relations import RELATIONS
from imgfp.viz import svg
from imgfp.viz.pictures import overlay
from imgfp.widgets.base import (
    WIDE,
    WRAPPED,
    Pager,
    button,
    download,
    facts_table,
    pane,
    sentence,
    slider,
)

#: Label of a fact -> its meaning.
HINTS = {
    "relation": "; ".join(f"{name}: {meaning}" for name, meaning in RELATIONS.items()),
    **dict(SHOWN.values()),
}

#: Least ratio of the squared distances of the second and the first neighbour of a match.
RATIO = 1.15
#: Ways to show the query over the reference.
OVERLAYS = ("blend", "flicker", "difference")


class MatchInspector(ipw.VBox):
    """Two images with their matches, the query warped onto the reference, the evidence, and the part of
    each branch in the score."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._key: tuple[str, str] | None = None
        self._matcher: PairMatcher | None = None
        self._matches: MatchedPoints | None = None
        self._aligned: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._marks: np.ndarray | None = None
        self.ratio = slider("ratio (squared)", RATIO, 1.0, 3.0, 0.05)
        self.keypoints = ipw.IntSlider(
            value=0, min=0, max=2000, step=50, description="keypoints (0: all)", style=WIDE
        )
        self.keypoints.layout.width = "470px"
        self.mirroring = ipw.ToggleButtons(
            options={"as verified": "verified", "plain": False, "mirrored": True},
            style={"button_width": "92px"},
        )
        self.outliers = ipw.Checkbox(value=True, description="show outliers", indent=False)
        self.single = ipw.IntSlider(
            value=0, min=0, max=0, description="one match (0: all)", style=WIDE
        )
        self.single.layout.width = "470px"
        self.mode = ipw.ToggleButtons(options=OVERLAYS, style={"button_width": "auto"})
        self.blend = slider("query", 0.5, 0.0, 1.0, 0.05)
        self.blend.style.description_width = "48px"
        self.blend.layout.width = "98%"
        self.matches, self.overlay, self.summary, self.files = pane(), pane(), pane(), pane()
        self.case = button(
            "case file", self.make_case, "all about this pair as one page and as PDF"
        )
        self.facts, self.branches = (pane(flex=share) for share in ("1 1 250px", "1 1 270px"))
        self.pager = Pager(
            {
                "all pairs, highest score first": lambda: self._pairs(slice(None)),
                "best of each query": lambda: self._pairs(results.pairs["rank"] == 0),
                "nearest to the threshold": self._nearest_to_threshold,
                "missed copies (below the threshold)": lambda: self._errors(True),
                "false alarms (above the threshold)": lambda: self._errors(False),
            },
            self._open,
            "query or reference id",
            lambda key, text: text in key,
        )
        self.ratio.observe(self._match, "value")
        self.mirroring.observe(self._match, "value")
        self.keypoints.observe(self._load, "value")
        self.outliers.observe(self._draw_matches, "value")
        self.single.observe(self._draw_matches, "value")
        self.mode.observe(self._draw_overlay, "value")
        self.blend.observe(self._draw_overlay, "value")
        controls = ipw.HBox(
            [
                ipw.VBox([self.ratio, self.keypoints, self.single]),
                ipw.VBox([self.mirroring, self.outliers]),
            ],
            layout=ipw.Layout(**WRAPPED),
        )
        below = ipw.HBox(
            [
                ipw.VBox(
                    [self.mode, self.blend, self.overlay],
                    layout=ipw.Layout(flex="1 1 250px", max_width="480px"),
                ),
                self.facts,
                self.branches,
            ],
            layout=ipw.Layout(**WRAPPED),
        )
        kept = ipw.HBox([self.case, self.files], layout=ipw.Layout(**WRAPPED))
        super().__init__([self.pager, self.summary, self.matches, controls, below, kept])
        self.pager.refresh()

    def look_at(self, query_id: str, reference_id: str) -> None:
        """Show this pair, whether or not it was scored."""
        key = query_id, reference_id
        self.pager.go(key)
        if self.pager.key != key:
            self._open(key)

    def make_case(self) -> None:
        """Offer the case file of this pair, see `report.Case`, as a page and as a PDF to save."""
        if self._key is not None:
            made = Case(self._results, *self._key)
            page, paper = made.to_html().encode(), made.to_pdf()
            files = ("case.html", page, "text/html"), ("case.pdf", paper, "application/pdf")
            self.files.value = " ".join(download(*file) for file in files)

    # --------------------------------------------------------------------------------- filters

    def _pairs(self, where: Any) -> list[tuple[str, str]]:
        rows = self._results.pairs.loc[where]
        return list(zip(rows["query_id"].tolist(), rows["reference_id"].tolist(), strict=True))

    def _nearest_to_threshold(self) -> list[tuple[str, str]]:
        threshold = self._results.threshold
        if threshold is None:
            return []
        distance = (self._results.pairs["score"] - threshold).abs()
        return self._pairs(distance.sort_values(kind="stable").index[:200])

    def _errors(self, is_true: bool) -> list[tuple[str, str]]:
        """True pairs below the threshold, or false pairs at or above it."""
        pairs, threshold = self._results.pairs, self._results.threshold
        if "is_true" not in pairs or threshold is None:
            return []
        wanted = (pairs["is_true"] == is_true).fillna(False).astype(bool)
        above = pairs["score"] >= threshold
        return self._pairs(wanted & (~above if is_true else above))

    # --------------------------------------------------------------------------------- the pair

    def _open(self, key: tuple[str, str] | None) -> None:
        self._key, self._matcher, self._matches, self._aligned = None, None, None, None
        self._marks = None
        # What was tried on the last pair does not carry over.
        self.single.value, self.mirroring.index = 0, 0
        self.ratio.value, self.keypoints.value = RATIO, 0
        self._key = key
        self.files.value = ""
        self.case.disabled = key is None
        if key is None:
            self.summary.value = sentence("No pair matches this filter.")
            self.matches.value = self.overlay.value = self.facts.value = self.branches.value = ""
            return
        results, (query_id, reference_id) = self._results, key
        query, reference = results.images_of(query_id, reference_id)
        self._sizes = results.size("query", query), results.size("reference", reference)
        pictures = results.picture("query", query), results.picture("reference", reference)
        self._jpegs = svg.small_jpeg(pictures[0], 560), svg.small_jpeg(pictures[1], 560)
        self._evidence = results.best_evidence(*key)
        self._outlines = results.outlines(*key)
        # The images appear before the explanations, which take longer.
        self._load()
        homography = homography_of(self._evidence)
        if homography is not None:
            self._aligned = warp_query(*pictures, *self._sizes, homography)
            self._marks = marks_of(results, key, pictures, self._aligned[1].shape[:2])
        self._draw_overlay()
        self._explain(key)

    def _load(self, _: object = None) -> None:
        if self._key is not None:
            self._matcher = pair_matcher(self._results, *self._key, self.keypoints.value)
            self._match()

    def _match(self, _: object = None) -> None:
        if self._matcher is None:
            return
        mirrored = self.mirroring.value
        if mirrored == "verified":
            mirrored = self._evidence is not None and bool(self._evidence.get("mirrored", False))
        self._matches = self._matcher.matches(self.ratio.value, mirrored)
        self.single.max = len(self._matches.query_xy)
        self._draw_matches()

    def _draw_matches(self, _: object = None) -> None:
        matches, matcher = self._matches, self._matcher
        if matches is None or matcher is None:
            return
        drawn = svg.matches(
            *self._jpegs,
            *self._sizes,
            matches.query_xy,
            matches.reference_xy,
            matches.verification.inliers,
            matches.labels,
            outliers=self.outliers.value,
            highlight=self.single.value - 1 if self.single.value else None,
            query_outline=self._outlines[0],
            reference_outline=self._outlines[1],
        )
        self.matches.value = drawn + sentence(matches_in_words(matches, matcher))

    def _draw_overlay(self, _: object = None) -> None:
        if self._key is None:
            return
        drawn = drawn_overlay(self._aligned, self.mode.value, self.blend.value, self._marks)
        self.overlay.value = drawn or sentence("No transform between the images, so no overlay.")

    def _explain(self, key: tuple[str, str]) -> None:
        self.summary.value = sentence(summary_of(self._results, key), strong=True)
        self.facts.value = facts_table(fact_rows(self._results, key), HINTS)
        self.branches.value = facts_table(*explained(self._results, key))


def drawn_overlay(
    aligned: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    mode: str,
    blend: float,
    marks: np.ndarray | None = None,
) -> str:
    """The aligned images of `compare.warp_query` as SVG text; "" for None. mode: one of `OVERLAYS`; blend: share of the
    query, 0 to 1; marks: of `compare.marks_of`."""
    if aligned is None:
        return ""
    warped, reference, inside = aligned
    size = reference.shape[1], reference.shape[0]
    if mode == "flicker":
        above = np.where(inside[:, :, None], warped, reference)
        jpegs = svg.small_jpeg(reference, 420), svg.small_jpeg(above, 420)
        return svg.layers(*jpegs, size, 1.0, flicker=True)
    difference = mode == "difference"
    mixed = overlay(warped, reference, inside, blend=blend, difference=difference, marks=marks)
    drawn = svg.picture(svg.small_jpeg(mixed, 420), size)
    return drawn + sentence(MARKS_MEANING) if difference and marks is not None else drawn


def matches_in_words(matches: MatchedPoints, matcher: PairMatcher) -> str:
    """How many matches are inliers of which transform, and how many keypoints there are, in one line."""
    return f"{matches.in_words}. Keypoints: {len(matcher.query):,} and {len(matcher.reference):,}."


def summary_of(results: Results, key: tuple[str, str]) -> str:
    """Score, rank, evidence and truth of a pair (query_id, reference_id) in one line."""
    copies = len(results.groups.others(key[1]))
    remarks = results.remarks(*key)
    text = f"Evidence: {evidence_in_words(results.best_evidence(*key), remarks, copies)}."
    pairs = results.pairs
    rows = pairs[(pairs["query_id"] == key[0]) & (pairs["reference_id"] == key[1])]
    if len(rows):
        row = rows.iloc[0]
        text = f"Score {viz.score(row['score'])}, rank {row['rank'] + 1} of its query. {text}"
        if "is_true" in rows and pd.notna(row["is_true"]):
            text += f" Ground truth: {'a copy' if row['is_true'] else 'not a copy'}."
    return text


def fact_rows(results: Results, key: tuple[str, str]) -> list[tuple[str, str]]:
    """Label and value of what was measured of a pair, labels as in `SHOWN`."""
    facts = [("query", key[0]), ("reference", key[1])]
    if relation := results.relation_of(*key):
        facts.append(("relation", relation))
    measurements = measured(results.best_evidence(*key), SHOWN)
    return facts + [(label, value) for label, value, _ in measurements]


def explained(
    results: Results, key: tuple[str, str]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Label and value of how each branch proposed a pair, what its score is without each, and what each feature adds to
    the log-odds; and the meaning of labels that have one."""
    added = log_odds_added(results, *key)
    rows = [*branch_rows(results, *key), *((label, value) for label, value, _ in added)]
    return rows, {label: meaning for label, _, meaning in added}
