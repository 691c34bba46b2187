# SPDX-License-Identifier: AGPL-3.0-or-later
"""The vote view: the references that a query's keypoints voted for, and why one is verified or none."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets as ipw
import numpy as np
import pandas as pd

from imgfp import store, viz
from imgfp.datatypes import BRANCHES
from imgfp.results import Results
from imgfp.stages.search import voters_of
from imgfp.viz import svg
from imgfp.widgets.base import Pager, pane, sentence

#: Number of references whose voters are shown in the query, and of bars in the chart.
COLOURED, BARS = 3, 10
NO_VOTES = "No keypoint of this query matched any reference."
#: Parameters of the rule that counts where `candidates_scored` is "accepted".
RULES = "vote_min_hits", "vote_min_hits_single", "vote_max_mean_squared_distance"
NOTE = "A dot is a keypoint of the query that voted for the reference, by the rule of this run."
#: Argument of `voters_of` -> the parameter of the run, and the stage that searched for a branch.
VOTING = {
    "rule": "vote_rule",
    "ratio": "vote_ratio",
    "variants": "descriptor_variants",
    "neighbours": "local_neighbours",
    "nprobe": "local_nprobe",
}
STAGES = {"local": "03", "crop": "05"}


def explain_vote(candidates: pd.DataFrame, needed: float) -> str:
    """Whether the best reference of a keypoint branch is verified, as text, where candidates need only votes.

    candidates: of one query and branch, best first; needed: least votes.
    """
    if not len(candidates):
        return NO_VOTES
    best = candidates.iloc[0]
    name, votes = viz.label(best["reference_id"]), best["score"]
    if votes < needed:
        return f"No reference is verified. The best is {name}, but it has {votes:.0f} votes and needs {needed:g}."
    return f"{name} is verified with {votes:.0f} votes{_ahead(candidates)}."


def explain_rule(candidates: pd.DataFrame, rules: Mapping[str, float]) -> str:
    """Why the rule of the 2021 system accepted the best reference of a keypoint branch, or why it accepted none, as text.

    candidates: of one query and branch, best first; rules: the parameters vote_min_hits,
    vote_min_hits_single and vote_max_mean_squared_distance.
    """
    if not len(candidates):
        return NO_VOTES
    best, alone = candidates.iloc[0], len(candidates) == 1
    name, votes = viz.label(best["reference_id"]), best["score"]
    if best["accepted"]:
        return f"{name} is accepted with {votes:.0f} votes{_ahead(candidates)}."
    reasons = []
    needed = rules["vote_min_hits_single" if alone else "vote_min_hits"]
    if votes <= needed:
        reasons.append(f"it has {votes:.0f} votes and needs more than {needed:g}")
    if not alone and votes <= candidates["score"].iloc[1]:
        reasons.append("the next reference has as many")
    limit = rules["vote_max_mean_squared_distance"]
    distance = best["mean_squared_distance"]
    if distance >= limit:
        reasons.append(f"its mean squared distance {distance:,.0f} is not below {limit:,.0f}")
    because = "; ".join(reasons) or "the rule of the branch rejected it"
    return f"No reference is accepted. The best is {name}, but {because}."


def _ahead(candidates: pd.DataFrame) -> str:
    """How far the best reference is ahead of the next, to end a sentence."""
    if len(candidates) == 1:
        return "; no other reference has any"
    margin = candidates["score"].iloc[0] - candidates["score"].iloc[1]
    return f", {margin:.0f} more than the next" if margin > 0 else ""


class VoteView(ipw.VBox):
    """One query: votes per reference as bars, and the keypoints that voted for the best ones."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._by_rule = results.parameter("candidates_scored") == "accepted"
        self._word = "accepted" if self._by_rule else "verified"
        candidates = results.candidates
        branches = [b for b in BRANCHES if (candidates["branch"] == b).any()] or ["local"]
        self.branch = ipw.ToggleButtons(options=branches, style={"button_width": "82px"})
        self.bars, self.dots = ipw.Image(format="png"), pane()
        self.bars.layout = ipw.Layout(width="57%", flex="0 0 auto", align_self="flex-start")
        self.explanation, self.legend = pane(), pane()
        self.pager = Pager(
            {
                "all queries": lambda: results.queries.index,
                f"a reference {self._word}": lambda: self._with(True),
                f"no reference {self._word}": lambda: self._with(False),
            },
            self._show,
            "query id",
        )
        self.branch.observe(lambda _: self.pager.refresh(), "value")
        side = ipw.VBox([self.dots, self.legend], layout=ipw.Layout(width="42%"))
        pictures = ipw.HBox([self.bars, side])
        choice = ipw.HBox([self.branch, self.pager], layout=ipw.Layout(flex_flow="row wrap"))
        super().__init__([choice, self.explanation, pictures])
        self.pager.refresh()

    def _with(self, good: bool) -> list[str]:
        rows = self._results.candidates
        rows = rows[(rows["branch"] == self.branch.value) & self._results.good_enough]
        queries = set(rows["query_id"])
        return [query for query in self._results.queries.index if (query in queries) == good]

    def _show(self, query_id: str | None) -> None:
        if query_id is None:
            self.explanation.value = sentence("No query matches this filter.")
            self.dots.value = self.legend.value = ""
            self.bars.layout.visibility = "hidden"
            return
        self.bars.layout.visibility = "visible"
        results, branch = self._results, self.branch.value
        candidates = results.candidates_of(query_id)
        candidates = candidates[candidates["branch"] == branch].sort_values(
            ["score", "rank"], ascending=[False, True], ignore_index=True
        )
        needed = int(results.parameter(f"{branch}_min_votes")) if branch != "global" else 0
        if branch == "global":
            least = results.parameter("global_min_similarity")
            limit = f", from {least:g} on" if least > -2 else ""
            text = f"The global branch ranks whole images by descriptor similarity{limit}."
        elif self._by_rule:
            text = explain_rule(candidates, {name: results.parameter(name) for name in RULES})
            needed = int(results.parameter("vote_min_hits")) + 1
        else:
            text = explain_vote(candidates, needed)
        self.explanation.value = sentence(text, strong=True)
        names = [viz.label(name) for name in candidates["reference_id"].head(BARS)]
        good = candidates["accepted"] if self._by_rule else candidates["score"] >= needed
        winner = 0 if len(candidates) and (branch == "global" or good.iloc[0]) else None
        fig, ax = viz.figure(5.6, 0.9 + 0.26 * max(len(names), 2))
        votes = candidates["score"].head(BARS).tolist()
        viz.draw_votes(ax, names, votes, winner, needed or None, branch=branch)
        self.bars.value = viz.to_png(fig)
        self._show_dots(query_id, candidates)

    def _show_dots(self, query_id: str, candidates: pd.DataFrame) -> None:
        results = self._results
        xy, colours, texts = [np.empty((0, 2))], [], []
        legend = ""
        # One view of a query that has several: the one that the best candidate was proposed with.
        views = candidates["view_id"]
        best = candidates.loc[views == views.iloc[0] if len(views) else [], "reference_id"]
        shown = results.image_of(views.iloc[0]) if len(views) else query_id
        try:
            voters = self._voters(query_id, candidates, best.head(COLOURED).tolist())
        except store.StoreError as error:
            voters, legend = [], sentence(f"The votes cannot be drawn: {error}")
        for colour, reference_id, keypoints in zip(viz.CYCLE, best, voters, strict=False):
            xy.append(keypoints[:, :2])
            colours += [colour] * len(keypoints)
            texts += [reference_id] * len(keypoints)
            legend += (
                '<div><span style="display:inline-block;width:11px;height:11px;border-radius:6px;'
                f'background:{colour}"></span> {svg.escaped(reference_id, 40)}: '
                f"{len(keypoints)} votes</div>"
            )
        jpeg = svg.small_jpeg(results.picture("query", shown), 520)
        size = results.size("query", shown)
        self.dots.value = svg.dots(jpeg, size, np.concatenate(xy), colours, texts)
        self.legend.value = legend + (sentence(NOTE) if voters else "")

    def _voters(
        self, query_id: str, candidates: pd.DataFrame, references: list[str]
    ) -> list[np.ndarray]:
        """The keypoints that voted for each of these references; none for the branch global, where nothing votes."""
        if self.branch.value == "global" or not references:
            return []
        results, stage = self._results, STAGES[self.branch.value]
        settings = {name: results.parameter(given, stage) for name, given in VOTING.items()}
        view_id = candidates["view_id"].iloc[0]
        sides = results.run, results.library
        return voters_of(*sides, query_id, view_id, references, **settings)
