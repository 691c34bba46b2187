"""The vote view: which references a query's keypoints spoke for, and why one won or none did."""

from __future__ import annotations

import ipywidgets as ipw
import numpy as np
import pandas as pd

from imgfp import viz
from imgfp.datatypes import BRANCHES
from imgfp.results import Results
from imgfp.results.compare import PairMatcher
from imgfp.viz import svg
from imgfp.widgets.base import Pager, pane, sentence

#: References whose keypoints are shown in the query, each in a colour, and bars in the chart.
COLOURED, BARS = 3, 10
NOTE = "A dot fits its reference better than anything else in it; to vote it must beat the whole library."


def why(found: pd.DataFrame, rules: dict[str, float]) -> str:
    """In words, why the best reference of one branch was accepted or why none was.

    found: candidates of one query and branch, best first; rules: vote_min_hits, vote_min_hits_single,
    vote_max_mean_squared_distance.
    """
    if not len(found):
        return "No keypoint of this query hit any reference."
    best = found.iloc[0]
    name = viz.label(best["reference_id"])
    if best["accepted"]:
        if len(found) == 1:
            return f"{name} won with {best['score']:.0f} votes; no other reference was hit."
        margin = best["score"] - found["score"].iloc[1]
        ahead = f", {margin:.0f} more than the next" if margin > 0 else ""
        return f"{name} won with {best['score']:.0f} votes{ahead}."
    reasons = []
    alone = len(found) == 1
    needed = rules.get("vote_min_hits_single" if alone else "vote_min_hits", 5 if alone else 3)
    if best["score"] <= needed:
        reasons.append(f"it has {best['score']:.0f} votes and needs more than {needed:g}")
    if not alone and best["score"] <= found["score"].iloc[1]:
        reasons.append("the next reference has as many")
    limit = rules.get("vote_max_mean_squared_distance", 8000.0)
    if best["mean_squared_distance"] >= limit:
        far = best["mean_squared_distance"]
        reasons.append(f"its mean squared distance {far:,.0f} is not below {limit:,.0f}")
    because = "; ".join(reasons) or "the branch's rule refused it"
    return f"Nobody won. The best is {name}, but {because}."


class VoteView(ipw.VBox):
    """One query: votes of the references as bars, and where in the query the best ones matched."""

    def __init__(self, results: Results) -> None:
        self._results = results
        candidates = results.candidates
        there = [b for b in BRANCHES if (candidates["branch"] == b).any()] or ["local"]
        self.branch = ipw.ToggleButtons(options=there, style={"button_width": "82px"})
        self.bars, self.dots = ipw.Image(format="png"), pane()
        self.bars.layout = ipw.Layout(width="57%", flex="0 0 auto", align_self="flex-start")
        self.said, self.key = pane(), pane()
        self.pager = Pager(
            {
                "all queries": lambda: results.queries.index,
                "somebody won": lambda: self._with(True),
                "nobody won": lambda: self._with(False),
            },
            self._show,
            "query id",
        )
        self.branch.observe(lambda _: self.pager.refresh(), "value")
        side = ipw.VBox([self.dots, self.key], layout=ipw.Layout(width="42%"))
        pictures = ipw.HBox([self.bars, side])
        choice = ipw.HBox([self.branch, self.pager], layout=ipw.Layout(flex_flow="row wrap"))
        super().__init__([choice, self.said, pictures])
        self.pager.refresh()

    def _with(self, accepted: bool) -> list[str]:
        rows = self._results.candidates
        rows = rows[(rows["branch"] == self.branch.value) & rows["accepted"]]
        won = set(rows["query_id"])
        return [query for query in self._results.queries.index if (query in won) == accepted]

    def _show(self, query_id: str | None) -> None:
        if query_id is None:
            self.said.value = sentence("No query fits this filter.")
            self.dots.value = self.key.value = ""
            self.bars.layout.visibility = "hidden"
            return
        self.bars.layout.visibility = "visible"
        results, branch = self._results, self.branch.value
        found = results.candidates_of(query_id)
        found = found[found["branch"] == branch].sort_values(
            ["score", "rank"], ascending=[False, True], ignore_index=True
        )
        if branch == "global":
            text = "The global branch compares whole pictures; it ranks by similarity and takes the first."
        else:
            text = why(found, results.params)
        self.said.value = sentence(text, strong=True)
        names = [viz.label(name) for name in found["reference_id"].head(BARS)]
        winner = 0 if len(found) and found["accepted"].iloc[0] else None
        drawn, ax = viz.figure(5.6, 0.9 + 0.26 * max(len(names), 2))
        needed = int(results.params.get("vote_min_hits", 3)) if branch != "global" else None
        viz.draw_votes(ax, names, list(found["score"].head(BARS)), winner, needed, branch=branch)
        self.bars.value = viz.to_png(drawn)
        self._show_dots(query_id, found)

    def _show_dots(self, query_id: str, found: pd.DataFrame) -> None:
        results = self._results
        places, colours, texts, rows = [], [], [], []
        for colour, row in zip(viz.CYCLE, found.head(COLOURED).itertuples(), strict=False):
            sides = (
                results.features("query", getattr(row, "view_id", query_id)),
                results.features("reference", row.reference_id),
            )
            if not all(len(keypoints) for keypoints, _ in sides):
                continue
            compared = PairMatcher(*sides).matches(1.15, bool(row.mirrored), at_most=150)
            places.append(compared.query_xy)
            colours += [colour] * len(compared.query_xy)
            texts += [row.reference_id] * len(compared.query_xy)
            rows.append((colour, row.reference_id, len(compared.query_xy)))
        jpeg = svg.small_jpeg(results.picture("query", query_id), 520)
        xy = np.concatenate([np.empty((0, 2)), *places])
        self.dots.value = svg.dots(jpeg, results.size("query", query_id), xy, colours, texts)
        key = "".join(
            f'<div><span style="display:inline-block;width:11px;height:11px;border-radius:6px;'
            f'background:{colour}"></span> {svg.escaped(name, 40)}: {count} distinct keypoints</div>'
            for colour, name, count in rows
        )
        self.key.value = key + sentence(NOTE) if key else sentence("No keypoints to show.")
