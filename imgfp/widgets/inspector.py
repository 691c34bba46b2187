"""The match inspector: why two pictures matched, or did not."""

from __future__ import annotations

import ipywidgets as ipw
import numpy as np
import pandas as pd

from imgfp import viz
from imgfp.datatypes import BRANCHES
from imgfp.report import evidence_in_words
from imgfp.results import Results, Side, homography_of
from imgfp.results.compare import MatchedPoints, PairMatcher, pair_matcher, warp_query
from imgfp.scoring.fusion import FEATURES
from imgfp.verify.estimation import REFUSALS
from imgfp.viz import svg
from imgfp.viz.pictures import overlay
from imgfp.widgets.base import WIDE, WRAPPED, Pager, facts_table, pane, sentence, slider

#: Columns of the evidence that people ask for first, with their names on the page.
SHOWN = {
    "inliers": "matches that fit the map",
    "tentative": "matches looked at",
    "inlier_ratio": "share that fits inside",
    "ncc_inlier_ratio": "overlap that agrees",
    "ncc_chance": "… laid wrong on purpose",
    "ncc_edges": "edges that agree",
    "model_consistency": "blocks that one edit explains",
    "displaced_blocks": "blocks that have moved",
    "copy_probability": "the trained eye: a copy, 0–1",
    "tilt_deg": "tilt of the sides, degrees",
    "query_area": "share of the query",
    "reference_area": "share of the reference",
    "direction": "direction",
    "model": "kind of map",
    "refused": "no map because",
}


class MatchInspector(ipw.VBox):
    """Two pictures, their matches, the query laid onto the reference, and what each branch said."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._ids: dict[Side, str] = {}
        self._pair: PairMatcher | None = None
        self._compared: MatchedPoints | None = None
        self.ratio = slider("ratio (squared)", 1.15, 1.0, 3.0, 0.05)
        self.keypoints = ipw.IntSlider(
            value=0, min=0, max=2000, step=50, description="keypoints (0: all)", style=WIDE
        )
        self.keypoints.layout.width = "470px"
        self.reading = ipw.ToggleButtons(
            options={"as found": "found", "plain": False, "mirrored": True},
            style={"button_width": "92px"},
        )
        self.outliers = ipw.Checkbox(
            value=True, description="show matches that do not fit", indent=False
        )
        self.single = ipw.IntSlider(
            value=0, min=0, max=0, description="one match (0: all)", style=WIDE
        )
        self.single.layout.width = "470px"
        self.mode = ipw.ToggleButtons(
            options=["blend", "flicker", "difference"], style={"button_width": "auto"}
        )
        self.blend = slider("query", 0.5, 0.0, 1.0, 0.05)
        self.blend.style.description_width = "48px"
        self.blend.layout.width = "98%"
        self.matches, self.laid, self.said = pane(), pane(), pane()
        self.facts, self.branches = (pane(flex=share) for share in ("1 1 250px", "1 1 270px"))
        self.pager = Pager(
            {
                "all pairs, surest first": lambda: self._pairs(slice(None)),
                "best of each query": lambda: self._pairs(results.pairs["rank"] == 0),
                "nearest to the threshold": self._near,
                "copies under the threshold": lambda: self._judged(True),
                "false pairs above the threshold": lambda: self._judged(False),
            },
            self._open,
            "query or reference id",
            lambda key, text: text in key,
        )
        self.ratio.observe(self._match, "value")
        self.reading.observe(self._match, "value")
        self.keypoints.observe(self._load, "value")
        self.outliers.observe(self._draw, "value")
        self.single.observe(self._draw, "value")
        self.mode.observe(self._lay, "value")
        self.blend.observe(self._lay, "value")
        knobs = ipw.HBox(
            [
                ipw.VBox([self.ratio, self.keypoints, self.single]),
                ipw.VBox([self.reading, self.outliers]),
            ],
            layout=ipw.Layout(**WRAPPED),
        )
        below = ipw.HBox(
            [
                ipw.VBox(
                    [self.mode, self.blend, self.laid],
                    layout=ipw.Layout(flex="1 1 250px", max_width="480px"),
                ),
                self.facts,
                self.branches,
            ],
            layout=ipw.Layout(**WRAPPED),
        )
        super().__init__([self.pager, self.said, self.matches, knobs, below])
        self.pager.refresh()

    def look_at(self, query_id: str, reference_id: str) -> None:
        """Show this pair, whether or not it was scored."""
        key = query_id, reference_id
        self.pager.go(key)
        if self.pager.key != key:
            self._open(key)

    # ------------------------------------------------------------------------------ what to show

    def _pairs(self, where) -> list[tuple[str, str]]:
        rows = self._results.pairs.loc[where]
        return list(zip(rows["query_id"].tolist(), rows["reference_id"].tolist(), strict=True))

    def _near(self) -> list[tuple[str, str]]:
        threshold = self._results.threshold
        if threshold is None:
            return []
        far = (self._results.pairs["score"] - threshold).abs()
        return self._pairs(far.sort_values(kind="stable").index[:200])

    def _judged(self, is_true: bool) -> list[tuple[str, str]]:
        pairs, threshold = self._results.pairs, self._results.threshold
        if "is_true" not in pairs or threshold is None:
            return []
        wanted = (pairs["is_true"] == is_true).fillna(False).astype(bool)
        above = pairs["score"] >= threshold
        return self._pairs(wanted & (~above if is_true else above))

    def _open(self, key: tuple[str, str] | None) -> None:
        if key is None:
            self.said.value = sentence("No pair fits this filter.")
            self.matches.value = self.laid.value = self.facts.value = self.branches.value = ""
            self._ids, self._pair, self._compared = {}, None, None
            return
        results = self._results
        self._ids = {"query": key[0], "reference": key[1]}
        self._sizes = [results.size(side, i) for side, i in self._ids.items()]
        pictures = [results.picture(side, i) for side, i in self._ids.items()]
        self._pictures = pictures
        self._jpegs = [svg.small_jpeg(picture, 560) for picture in pictures]
        self._evidence = results.best_evidence(*key)
        self._map = homography_of(self._evidence)
        self._outlines = results.outlines(*key)
        # A match of the last pair, or how that was read, says nothing of this one.
        self._compared = self._pair = None
        self.single.value, self.reading.index = 0, 0
        # What is seen comes before what takes longer to say.
        self._load()
        self._warp()
        self._tell(key)

    def _load(self, _: object = None) -> None:
        if not self._ids:
            return
        self._pair = pair_matcher(self._results, *self._ids.values(), self.keypoints.value)
        self._match()

    def _match(self, _: object = None) -> None:
        if self._pair is None:
            return
        mirrored = self.reading.value
        if mirrored == "found":
            mirrored = self._evidence is not None and bool(self._evidence.get("mirrored", False))
        self._compared = self._pair.matches(self.ratio.value, mirrored)
        self.single.max = len(self._compared.query_xy)
        self._draw()

    def _draw(self, _: object = None) -> None:
        compared = self._compared
        if compared is None:
            return
        inside = compared.verification.inliers
        words = [
            f"match {row + 1}: {'fits the map' if fits else 'does not fit'}"
            f"{', brightness contrast_reversed' if turned else ''}"
            for row, (fits, turned) in enumerate(
                zip(inside, compared.contrast_reversed, strict=True)
            )
        ]
        drawn = svg.matches(
            *self._jpegs,
            *self._sizes,
            compared.query_xy,
            compared.reference_xy,
            inside,
            words,
            outliers=self.outliers.value,
            highlight=self.single.value - 1 if self.single.value else None,
            query_outline=self._outlines[0],
            reference_outline=self._outlines[1],
        )
        refused = REFUSALS.get(compared.verification.refused, "")
        said = f"{int(inside.sum())} of {len(inside)} matches agree on one map"
        said += f"; no map: {refused}" if refused else f" ({compared.verification.model})"
        said += f". Keypoints: {len(self._pair.query):,} and "
        said += f"{len(self._pair.reference):,}."
        self.matches.value = drawn + sentence(said)

    # --------------------------------------------------------------------- laid on each other

    def _warp(self) -> None:
        self._laid = None
        if self._map is not None:
            self._laid = warp_query(*self._pictures, *self._sizes, self._map)
        self._lay()

    def _lay(self, _: object = None) -> None:
        if not self._ids:
            return
        if self._laid is None:
            self.laid.value = sentence("No map between the pictures: nothing to lay on each other.")
            return
        warped, ground, inside = self._laid
        if self.mode.value == "flicker":
            over = np.where(inside[:, :, None], warped, ground)
            pictures = svg.small_jpeg(ground, 420), svg.small_jpeg(over, 420)
            self.laid.value = svg.layers(*pictures, ground.shape[1::-1], 1.0, flicker=True)
            return
        mixed = overlay(
            warped,
            ground,
            inside,
            blend=self.blend.value,
            difference=self.mode.value == "difference",
        )
        self.laid.value = svg.picture(svg.small_jpeg(mixed, 420), mixed.shape[1::-1])

    # ---------------------------------------------------------------------------------- in words

    def _tell(self, key: tuple[str, str]) -> None:
        results, evidence = self._results, self._evidence
        pairs = results.pairs
        rows = pairs[(pairs["query_id"] == key[0]) & (pairs["reference_id"] == key[1])]
        said = f"Evidence: {evidence_in_words(evidence)}."
        if len(rows):
            row = rows.iloc[0]
            said = f"Score {viz.number(row['score'])}, rank {row['rank'] + 1} of its query. {said}"
            if "is_true" in rows and pd.notna(row["is_true"]):
                said += " Known truth: a copy." if row["is_true"] else " Known truth: not a copy."
        self.said.value = sentence(said, strong=True)
        facts: list[tuple[str, object]] = [("query", key[0]), ("reference", key[1])]
        for name, words in SHOWN.items():
            value = None if evidence is None else evidence.get(name)
            if value is None or value == "" or pd.isna(value):
                continue
            number = isinstance(value, float | np.floating)
            facts.append((words, f"{value:.3g}" if number else str(value).replace("_", " ")))
        self.facts.value = facts_table(facts)
        rows, hints = self._added(*key)
        self.branches.value = facts_table([*self._branch_rows(*key), *rows], hints)

    def _branch_rows(self, query_id: str, reference_id: str) -> list[tuple[str, str]]:
        found = self._results.candidates_of(query_id, reference_id)
        if not len(found):
            return [("proposed by", "no branch")]
        rows = [
            (
                f"branch {row.branch}",
                f"rank {row.rank + 1}, "
                + (
                    f"similarity {row.score:.3f}"
                    if row.branch == "global"
                    else f"{row.score:g} votes"
                )
                + (" mirrored" if row.mirrored else "")
                + (", accepted" if row.accepted else ""),
            )
            for branch in BRANCHES
            for row in found[found["branch"] == branch].itertuples()
        ]
        for name, score in self._results.scores_without(query_id, reference_id).items():
            rows.append((name, "not proposed" if score is None else viz.number(score)))
        return rows

    def _added(
        self, query_id: str, reference_id: str
    ) -> tuple[list[tuple[str, str]], dict[str, str]]:
        """What each kind of evidence adds to the score's log-odds, and what each means."""
        rows, hints = [], {}
        for name, value in self._results.contributions(query_id, reference_id).items():
            words = f"{'for' if value >= 0 else 'against'} it: {name.replace('_', ' ')}"
            rows.append((words, f"{value:+.2f}"))
            hints[words] = FEATURES.get(name, "")
        return rows, hints
