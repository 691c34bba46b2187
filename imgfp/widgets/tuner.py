# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pipeline tuner: what each branch proposes under other limits, and what that costs and loses, from a finished run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as ipw
import numpy as np

from imgfp import viz
from imgfp.results import Results
from imgfp.results.previews import Figures, Preview
from imgfp.results.replay import Replay
from imgfp.store import StoreError
from imgfp.viz import svg
from imgfp.widgets.base import WIDE, WRAPPED, DraggableLine, facts_table, pane, sentence
from imgfp.widgets.inspector import MatchInspector
from imgfp.widgets.parts import PairShelf, ProfileWriter


class Source(NamedTuple):
    """A measure that can be looked at, and limited.

    measure: of `Tables.measured`; parameter: its limit, "" where none limits it; scale of the axis: a key of `viz.SCALES`, "" for
    that of the scores; axis: its label; step of the parameter; said: what the line does, or why there is none.
    """

    measure: str
    parameter: str
    scale: str
    axis: str
    step: float
    said: str


_BELOW = "candidates below are not verified."
_MARGIN = "No line: the margin is shown for a look, no parameter limits it."
_COSINE = "No line: candidates are ordered and limited by the normalised cosine."
_WEIGHED = "No line: fusion weighs it together with all other evidence, no parameter limits it."


def _of_votes(branch: str) -> dict[str, Source]:
    distance = "mean squared distance of the votes, RootSIFT x 255 (lower: more similar)"
    return {
        "votes": Source("score", f"{branch}_min_votes", "log", "votes of a candidate", 1, _BELOW),
        "margin": Source("margin", "", "log", "votes more than the runner-up", 1, _MARGIN),
        "distance": Source(
            "mean_squared_distance", "vote_max_mean_squared_distance", "linear", distance, 10,
            "candidates above are not accepted, in either branch.",
        ),
    }  # fmt: skip


_BOX = "crops of boxes below are not searched."
SOURCES = {
    "local": _of_votes("local"),
    "crop": _of_votes("crop"),
    "global": {
        "similarity": Source(
            "score", "global_min_similarity", "linear", "normalised cosine of a candidate", 0.001, _BELOW
        ),
        "cosine": Source("cosine", "", "linear", "cosine of a candidate", 1, _COSINE),
    },
    "boxes": {
        "confidence": Source("confidence", "local_min_confidence", "linear", "confidence of a box", 0.001, _BOX),
        "area": Source(
            "area", "crop_max_area", "linear", "area of a box, share of the query", 0.001, _BOX.replace("below", "above")
        ),
    },
    "evidence": {
        "inliers": Source("inliers", "", "log", "inliers of the homography", 1, _WEIGHED),
        "block NCC": Source("ncc_inlier_ratio", "", "linear", "share of blocks whose NCC agrees", 1, _WEIGHED),
        "pair classifier": Source("copy_probability", "", "odds", "probability of the pair classifier", 1, _WEIGHED),
    },
    "pairs": {
        "score": Source("score", "score_threshold", "", "score of a pair", 0.0001, "pairs below are not reported.")
    },
}  # fmt: skip
#: Parameters that are numbers of candidates or boxes kept.
NUMBERS = ("local_candidates", "global_candidates", "candidates_verified", "max_crops")
#: Number of lost and gained pairs that are shown.
CHANGES = 6


class PipelineTuner(ipw.VBox):
    """Histograms of the branches with draggable least scores, numbers of candidates kept, and the figures of a run with
    these settings."""

    def __init__(
        self,
        results: Results,
        *,
        inspector: MatchInspector | None = None,
        profiles: str | Path = "params",
    ) -> None:
        """inspector: opens below on a pair; profiles: folder of the parameter files that the button can change."""
        try:
            self._replay = Replay(results)
        except StoreError as error:
            super().__init__([ipw.HTML(sentence(str(error)))])
            return
        self.settings = self._replay.settings
        self.source = ipw.ToggleButtons(options=[*SOURCES], style={"button_width": "82px"})
        self.measure = ipw.ToggleButtons(
            options=[*SOURCES["local"]], style={"button_width": "110px"}
        )
        self.chart = DraggableLine()
        self.chart.layout.width = "60%"
        self.line = self.chart.line
        self.value = ipw.BoundedFloatText(style=WIDE, layout=ipw.Layout(width="280px"))
        self.numbers = {name: self._number(name) for name in NUMBERS}
        self.table, self.beyond, self.hint = pane("auto"), pane(), pane()
        self.writer = ProfileWriter(results, profiles, self._changed)
        self.shelf = PairShelf(results, inspector, CHANGES)
        self._moving = False
        self.source.observe(self._chosen, "value")
        self.measure.observe(self._draw, "value")
        self.line.observe(self._dragged, "value")
        self.value.observe(self._typed, "value")
        for box in self.numbers.values():
            box.observe(self._typed, "value")
        self.writer.layout.margin = "0 0 0 24px"
        controls = ipw.VBox([self.value, *self.numbers.values(), self.writer])
        parts = [
            self.source,
            self.measure,
            ipw.HBox([self.chart, controls], layout=ipw.Layout(align_items="flex-start")),
            self.hint,
            ipw.HBox([self.table], layout=ipw.Layout(**WRAPPED)),
            self.beyond,
            ipw.HTML("<b>Lost and gained</b>"),
            self.shelf,
        ]
        super().__init__(parts)
        self._draw()

    def _number(self, name: str) -> ipw.BoundedIntText:
        """A field from 1 to what the run has kept; 0 keeps all where the run has verified all."""
        kept = getattr(self.settings, name)
        most = kept or self.settings.local_candidates
        layout = ipw.Layout(width="280px")
        low = 0 if kept == 0 else 1
        return ipw.BoundedIntText(
            kept, min=low, max=most, description=name, style=WIDE, layout=layout
        )

    def _chosen(self, _: object = None) -> None:
        """Offer the measures of the chosen source, and draw the first."""
        self._moving = True
        self.measure.options = [*SOURCES[self.source.value]]
        self._moving = False
        self._draw()

    @property
    def _shown_source(self) -> Source:
        return SOURCES[self.source.value][self.measure.value]

    def _limit(self) -> float | None:
        """The present limit of what is shown; None where none can change a figure: no line is offered then."""
        name = self._shown_source.parameter
        rule = name.startswith("vote_")
        if not name or (rule and self.settings.candidates_scored == "all"):
            return None
        limit = float(getattr(self.settings, name))
        if name == "score_threshold" and not limit:  # the measured one
            return self._replay.base.figures.cut
        return limit

    def _draw(self, _: object = None) -> None:
        """Draw the chart of the chosen measure; moving its line does not draw it again."""
        if self._moving:
            return
        shown, own = self._shown_source, self._limit()
        scale = shown.scale or self._replay.results.score_scale
        self._scale = viz.SCALES[scale]
        fig, ax = viz.figure(6, 3.1)
        groups = self._replay.scores(self.source.value, shown.measure)
        viz.draw_score_histogram(ax, *groups, scale=scale, axis=shown.axis)
        chart = svg.Chart.of(fig, ax)
        self._moving = True
        self.chart.draw(chart)
        self.line.disabled = self.value.disabled = own is None
        self.line.layout.visibility = self.value.layout.visibility = (
            "hidden" if own is None else "visible"
        )
        if own is not None:
            low, high = (float(self._scale.inverse(end)) for end in (chart.low, chart.high))
            self.value.max = max(high, own, self.value.max)
            self.value.min, self.value.max = min(low, own, 0.0), max(high, own)
            self.value.description, self.value.step = shown.parameter, shown.step
            self.value.value = own
            self.line.value = min(max(float(self._scale.forward(own)), chart.low), chart.high)
        self._moving = False
        self.hint.value = sentence(self._said())
        self._show()

    def _said(self) -> str:
        shown = self._shown_source
        if self._limit() is not None:
            return f"Drag the dashed line, or click to place it: {shown.said}"
        if shown.parameter.startswith("vote_"):
            return "No line: this run verifies candidates whatever their distance (candidates_scored: all)."
        return shown.said

    def _dragged(self, change: dict) -> None:
        # The slider rounds to its steps; a typed value must not change by that.
        moved = abs(change["new"] - float(self._scale.forward(self.value.value)))
        if not self._moving and moved > 0.51 * self.line.step:
            step = self._shown_source.step
            self.value.value = round(float(self._scale.inverse(change["new"])) / step) * step

    def _typed(self, change: dict) -> None:
        if self._moving:
            return
        moved: dict[str, Any] = {name: box.value for name, box in self.numbers.items()}
        if change["owner"] is self.value:
            parameter, step = self._shown_source.parameter, self._shown_source.step
            value = round(self.value.value) if step == 1 else round(self.value.value, 6)
            self._moving = True
            position = float(self._scale.forward(value))
            self.line.value = min(max(position, self.line.min), self.line.max)
            self._moving = False
            moved[parameter] = value
        self.settings = replace(self.settings, **moved)
        self._show()

    def _changed(self) -> dict:
        """The parameters that are moved, and the truth by which."""
        changed = self.settings.changed(self._replay.settings)
        tuned = {"tuned_on": self._replay.results.truth_hash} if changed else {}
        return changed | (tuned if all(tuned.values()) else {})

    def _show(self) -> None:
        """Show what a run with these settings gives."""
        base, now = self._replay.base, self._replay.preview(self.settings)
        self.table.value = facts_table(figure_rows(base, now))
        self.beyond.value = "".join(map(sentence, in_words(self._replay, now)))
        self.writer.show()
        self._show_changes(now)

    def _show_changes(self, now: Preview) -> None:
        self.shelf.show(changed_pairs(self._replay, now))


#: Rows of the table: label -> value of `Figures`, number format.
ROWS = {
    "pairs to verify": ("pairs", "{:,}"),
    "copies proposed by local": ("local", "{:,}"),
    "copies proposed by crop": ("crop", "{:,}"),
    "copies proposed by global": ("global", "{:,}"),
    "copies proposed by any": ("union", "{:,}"),
    "only by local": ("only local", "{:,}"),
    "only by crop": ("only crop", "{:,}"),
    "only by global": ("only global", "{:,}"),
    "micro-AP": ("micro_ap", "{:.4f}"),
    "recall at the target precision": ("recall_at_p90", "{:.4f}"),
    "cut": ("cut", "{:.4g}"),
    "precision at the cut": ("precision", "{:.4f}"),
    "recall at the cut": ("recall", "{:.4f}"),
}


def figure_rows(base: Preview, now: Preview) -> list[tuple[str, ...]]:
    """The figures of the run and of the present settings as rows of text, the first with the names of the columns."""
    columns = base.figures, now.figures, now.tuned, now.held_out
    rows: list[tuple[str, ...]] = [
        ("", "the run", "now", "half that is chosen on", "half held out")
    ]
    rows += [(name, *(_shown(one, name) for one in columns)) for name in ROWS]
    seconds = (_number(one.seconds, "{:,.0f}") for one in (base, now))
    return [*rows, ("processor time, s", *seconds)]


def in_words(replay: Replay, now: Preview) -> list[str]:
    """How far the figures of `figure_rows` can be relied on, in sentences."""
    said = [f"Not exact for {count:,} queries: {why}." for why, count in now.beyond.items()]
    said += filter(None, [replay.results.unrecorded])
    if not replay.base.figures.positives:
        said.append("Without truth or reviewed copies, nobody knows what is lost.")
    return said or ["A run with these settings gives these figures."]


def changed_pairs(replay: Replay, now: Preview) -> list[tuple[str, str, str]]:
    """The first pairs that are lost or gained: query id, reference id, a line of text."""
    changes = replay.changes(now).head(CHANGES)
    known = {True: ", a copy", False: ", not a copy"}
    names = ("query_id", "reference_id", "score", "is_true", "change")
    return [
        (query, reference, f"{change}: {viz.score(score)}{known.get(is_true, '')}")
        for query, reference, score, is_true, change in zip(
            *(changes[name].tolist() for name in names), strict=True
        )
    ]


def _shown(figures: Figures, row: str) -> str:
    name, number_format = ROWS[row]
    if name.startswith("only "):
        return _number(figures.only[name.removeprefix("only ")], number_format)
    if name in figures.proposed:
        return _number(figures.proposed[name], number_format)
    return _number(getattr(figures, name), number_format)


def _number(value: float | None, number_format: str) -> str:
    return "–" if value is None or np.isnan(value) else number_format.format(value)
