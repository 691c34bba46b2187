# SPDX-License-Identifier: AGPL-3.0-or-later
"""The match inspector: why a pair matched, or did not."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw
import numpy as np
import pandas as pd

from imgfp import viz
from imgfp.datatypes import BRANCHES
from imgfp.report import evidence_in_words
from imgfp.results import Results, homography_of
from imgfp.results.compare import MatchedPoints, PairMatcher, pair_matcher, warp_query
from imgfp.scoring.fusion import FEATURES
from imgfp.scoring.relations import RELATIONS
from imgfp.verify.estimation import REFUSALS
from imgfp.viz import svg
from imgfp.viz.pictures import overlay
from imgfp.widgets.base import WIDE, WRAPPED, Pager, facts_table, pane, sentence, slider

#: Columns of the evidence that are shown: name -> label, meaning.
SHOWN = {
    "tentative": (
        "putative matches",
        "mutual nearest neighbours of the SIFT descriptors that pass a ratio test",
    ),
    "inliers": (
        "inliers",
        "putative matches that the homography maps to within 4 pixels of the keypoint frame",
    ),
    "inlier_ratio": ("inlier ratio", "inliers / putative matches inside the overlap"),
    "ncc_inlier_ratio": (
        "block NCC inlier ratio",
        "fraction of the overlap whose blocks correlate once the query is warped onto the reference "
        "(normalised cross-correlation above 0.7)",
    ),
    "ncc_chance": (
        "… chance level",
        "the block NCC inlier ratio of deliberately misaligned images: high for repeated texture",
    ),
    "ncc_edges": (
        "edge NCC inlier ratio",
        "fraction of the blocks whose edges correlate, less its chance level",
    ),
    "model_consistency": (
        "model consistency",
        "fraction of the matching blocks whose displacement the transform model explains: high for "
        "copies, lower for a second photograph",
    ),
    "localisable_blocks": (
        "localisable blocks",
        "matching blocks whose best displacement is well defined in every direction",
    ),
    "displaced_blocks": (
        "… displaced",
        "localisable blocks that match elsewhere: parallax or motion, as in a second photograph",
    ),
    "copy_probability": (
        "pair classifier",
        "probability, 0 to 1, that the aligned images are copy and original; 0: it did not run",
    ),
    "colour_difference": (
        "colour difference",
        "mean difference of the aligned colours, grey levels",
    ),
    "compared_blocks": (
        "blocks compared",
        "textured blocks compared at full resolution, where several references match one view",
    ),
    "differing_blocks": (
        "blocks that differ",
        "blocks that show something else at full resolution: many in a form with other content",
    ),
    "tilt_deg": (
        "tilt, degrees",
        "rotation against the nearest image axis; 0 after most edits",
    ),
    "query_area": ("query overlap", "fraction of the query that the overlap covers"),
    "reference_area": (
        "reference overlap",
        "fraction of the reference that the overlap covers",
    ),
    "direction": ("containment", "which image contains the other"),
    "model": ("transform model", "the simplest model that explains the alignment"),
    "refused": ("no transform because", "the plausibility test that failed"),
}

#: Label of a fact -> its meaning.
HINTS = {
    "relation": "; ".join(f"{name}: {meaning}" for name, meaning in RELATIONS.items()),
    **dict(SHOWN.values()),
}

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
        self.ratio = slider("ratio (squared)", 1.15, 1.0, 3.0, 0.05)
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
        self.matches, self.overlay, self.summary = pane(), pane(), pane()
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
        super().__init__([self.pager, self.summary, self.matches, controls, below])
        self.pager.refresh()

    def look_at(self, query_id: str, reference_id: str) -> None:
        """Show this pair, whether or not it was scored."""
        key = query_id, reference_id
        self.pager.go(key)
        if self.pager.key != key:
            self._open(key)

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
        self._key, self._matcher, self._matches, self._aligned = key, None, None, None
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
        # The choice of one match, or of mirroring, does not carry over from the last pair.
        self.single.value, self.mirroring.index = 0, 0
        # The images appear before the explanations, which take longer.
        self._load()
        homography = homography_of(self._evidence)
        if homography is not None:
            self._aligned = warp_query(*pictures, *self._sizes, homography)
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
            match_texts(matches),
            outliers=self.outliers.value,
            highlight=self.single.value - 1 if self.single.value else None,
            query_outline=self._outlines[0],
            reference_outline=self._outlines[1],
        )
        self.matches.value = drawn + sentence(matches_in_words(matches, matcher))

    def _draw_overlay(self, _: object = None) -> None:
        if self._key is None:
            return
        drawn = drawn_overlay(self._aligned, self.mode.value, self.blend.value)
        self.overlay.value = drawn or sentence("No transform between the images, so no overlay.")

    def _explain(self, key: tuple[str, str]) -> None:
        self.summary.value = sentence(summary_of(self._results, key), strong=True)
        self.facts.value = facts_table(fact_rows(self._results, key), HINTS)
        contributions, hints = contribution_rows(self._results, key)
        self.branches.value = facts_table([*branch_rows(self._results, key), *contributions], hints)


def drawn_overlay(
    aligned: tuple[np.ndarray, np.ndarray, np.ndarray] | None, mode: str, blend: float
) -> str:
    """The aligned images of `compare.warp_query` as SVG text; "" for None. mode: one of `OVERLAYS`; blend: share of the
    query, 0 to 1."""
    if aligned is None:
        return ""
    warped, reference, inside = aligned
    size = reference.shape[1], reference.shape[0]
    if mode == "flicker":
        above = np.where(inside[:, :, None], warped, reference)
        jpegs = svg.small_jpeg(reference, 420), svg.small_jpeg(above, 420)
        return svg.layers(*jpegs, size, 1.0, flicker=True)
    mixed = overlay(warped, reference, inside, blend=blend, difference=mode == "difference")
    return svg.picture(svg.small_jpeg(mixed, 420), size)


def match_texts(matches: MatchedPoints) -> list[str]:
    """What the tooltip of each match says."""
    rows = zip(matches.verification.inliers, matches.contrast_reversed, strict=True)
    return [
        f"match {number}: {'inlier' if inlier else 'outlier'}{', contrast reversed' if reversed_ else ''}"
        for number, (inlier, reversed_) in enumerate(rows, 1)
    ]


def matches_in_words(matches: MatchedPoints, matcher: PairMatcher) -> str:
    """How many matches are inliers of which transform, and how many keypoints there are, in one line."""
    verification = matches.verification
    refused = REFUSALS.get(verification.refused, "")
    text = f"{int(verification.inliers.sum())} of {len(verification.inliers)} putative matches are inliers"
    text += f"; no transform: {refused}" if refused else f" ({verification.model})"
    return f"{text}. Keypoints: {len(matcher.query):,} and {len(matcher.reference):,}."


def summary_of(results: Results, key: tuple[str, str]) -> str:
    """Score, rank, evidence and truth of a pair (query_id, reference_id) in one line."""
    copies = len(results.groups.others(key[1]))
    remarks = results.remarks(*key)
    text = f"Evidence: {evidence_in_words(results.best_evidence(*key), remarks, copies)}."
    pairs = results.pairs
    rows = pairs[(pairs["query_id"] == key[0]) & (pairs["reference_id"] == key[1])]
    if len(rows):
        row = rows.iloc[0]
        text = f"Score {viz.number(row['score'])}, rank {row['rank'] + 1} of its query. {text}"
        if "is_true" in rows and pd.notna(row["is_true"]):
            text += f" Ground truth: {'a copy' if row['is_true'] else 'not a copy'}."
    return text


def fact_rows(results: Results, key: tuple[str, str]) -> list[tuple[str, str]]:
    """Label and value of everything that was measured of a pair, labels as in `SHOWN`."""
    evidence = results.best_evidence(*key)
    facts = [("query", key[0]), ("reference", key[1])]
    if relation := results.relation_of(*key):
        facts.append(("relation", relation))
    for name, (label, _) in SHOWN.items():
        value = None if evidence is None else evidence.get(name)
        if value is None or value == "" or pd.isna(value):
            continue
        decimal = isinstance(value, float | np.floating)
        facts.append((label, f"{value:.3g}" if decimal else str(value).replace("_", " ")))
    return facts


def branch_rows(results: Results, key: tuple[str, str]) -> list[tuple[str, str]]:
    """How each branch proposed a pair, and its score without each branch."""
    candidates = results.candidates_of(*key)
    if not len(candidates):
        return [("proposed by", "no branch")]
    columns = ["rank", "score", "mirrored", "accepted"]
    by_rule = results.parameter("candidates_scored") == "accepted"
    rows = []
    for branch in BRANCHES:
        of_branch = candidates.loc[candidates["branch"] == branch, columns]
        for rank, score, mirrored, accepted in of_branch.itertuples(index=False):
            value = f"similarity {score:.3f}" if branch == "global" else f"{score:g} votes"
            text = f"rank {rank + 1}, {value}{' mirrored' if mirrored else ''}"
            rows.append((f"branch {branch}", text + (", accepted" if accepted and by_rule else "")))
    for name, score in results.scores_without(*key).items():
        rows.append((f"score, {name}", "not proposed" if score is None else viz.number(score)))
    return rows


def contribution_rows(
    results: Results, key: tuple[str, str]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The contribution of each feature to the log-odds of a pair, and the meaning of each by its label."""
    rows, hints = [], {}
    for name, value in results.contributions(*key).items():
        label = f"log-odds: {name.replace('_', ' ')}"
        rows.append((label, f"{value:+.2f}"))
        hints[label] = FEATURES.get(name, "")
    return rows, hints
