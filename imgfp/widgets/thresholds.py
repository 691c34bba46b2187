# SPDX-License-Identifier: AGPL-3.0-or-later
"""The threshold tuner: precision and recall at any threshold, from stored scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ipywidgets as ipw
import numpy as np
import pandas as pd

from imgfp import store, viz
from imgfp.datatypes import BRANCHES
from imgfp.results import Results
from imgfp.runner import params
from imgfp.scoring.metrics import are_in, evaluate, true_pairs
from imgfp.viz import svg
from imgfp.widgets.base import (
    WIDE,
    WRAPPED,
    DraggableLine,
    button,
    facts_table,
    pane,
    sentence,
    thumbnail_pair,
    yaml_lines,
)
from imgfp.widgets.inspector import MatchInspector

#: Parameter of the threshold on merged scores, and number of pairs around it that are shown.
NAME, NEAR = "score_threshold", 6
#: Score scale of each branch, a key of `viz.SCALES`; for merged scores see `Results.score_scale`.
SCALE_OF = {"local": "log", "crop": "log", "global": "linear"}
#: Colours of the lines of a second run: other pairs (or all pairs), copies.
SECOND = viz.VERMILLION, viz.GREEN
#: Rows of the table: label, key of `Scores.at`, number format.
ROWS = (
    ("pairs reported", "kept", "{:,}"),
    ("… copies", "true", "{:,}"),
    ("… false alarms", "wrong", "{:,}"),
    ("precision", "precision", "{:.3f}"),
    ("recall", "recall", "{:.3f}"),
)


@dataclass(frozen=True)
class Scores:
    """Scored pairs, best first: scores (n,) falling; is_true (n,) bool, None without ground truth;
    positives: number of true pairs in the truth, found or not."""

    pairs: pd.DataFrame
    scores: np.ndarray
    is_true: np.ndarray | None
    positives: int

    @classmethod
    def of(cls, results: Results, source: str) -> Scores:
        """The scores of a branch; for any other `source` the merged predictions."""
        if source in BRANCHES:
            rows = results.candidates[results.candidates["branch"] == source]
            pairs = rows.groupby(["query_id", "reference_id"])["score"].max().reset_index()
            pairs = pairs.sort_values("score", ascending=False, ignore_index=True, kind="stable")
        else:
            pairs = results.pairs[["query_id", "reference_id", "score"]]
        if results.truth is None:
            return cls(pairs, pairs["score"].to_numpy(float), None, 0)
        expected = true_pairs(results.truth)
        listed = pairs["query_id"].isin(results.truth["query_id"])
        pairs = pairs[listed].reset_index(drop=True)
        is_true = are_in(pairs, expected)
        return cls(pairs, pairs["score"].to_numpy(float), is_true, len(expected))

    def groups(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Scores of copies and of other pairs; without ground truth all scores, and None."""
        if self.is_true is None:
            return self.scores, None
        return self.scores[self.is_true], self.scores[~self.is_true]

    def at(self, threshold: float) -> dict[str, float]:
        """Number of pairs with score >= threshold and, with ground truth, of true and wrong ones, with
        precision and recall."""
        kept = int(np.searchsorted(-self.scores, -threshold, side="right"))
        counts: dict[str, float] = {"kept": kept}
        if self.is_true is not None:
            true = int(self.is_true[:kept].sum())
            counts |= {"true": true, "wrong": kept - true}
            counts["precision"] = true / kept if kept else float("nan")
            counts["recall"] = true / self.positives if self.positives else float("nan")
        return counts

    def around(self, threshold: float, count: int) -> pd.DataFrame:
        """The `count` pairs nearest to a threshold, half above and half below, with `is_true` (None
        without ground truth)."""
        middle = int(np.searchsorted(-self.scores, -threshold, side="right"))
        first = max(0, min(middle - count // 2, len(self.pairs) - count))
        rows = slice(first, first + count)
        is_true = None if self.is_true is None else self.is_true[rows]
        return self.pairs.iloc[rows].assign(is_true=is_true)

    def rounded(self, threshold: float) -> float:
        """The threshold rounded to the fewest digits, at least three, that keep the same pairs."""
        kept = self.at(threshold)["kept"]
        for digits in range(3, 17):
            short = float(f"{threshold:.{digits}g}")
            if self.at(short)["kept"] == kept:
                return short
        return threshold

    def curve(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Precision and recall at every pair; None without ground truth."""
        if self.is_true is None or not len(self.scores) or not self.positives:
            return None
        true = np.cumsum(self.is_true)
        return true / np.arange(1, len(true) + 1), true / self.positives


class _Near(NamedTuple):
    """A pair near the threshold; is_true None: not known."""

    query_id: str
    reference_id: str
    score: float
    is_true: bool | None


class ThresholdTuner(ipw.VBox):
    """Score histogram with a draggable threshold, and the pairs on both sides of it."""

    def __init__(
        self,
        results: Results,
        other: Results | None = None,
        *,
        inspector: MatchInspector | None = None,
        profiles: str | Path = "params",
    ) -> None:
        """other: a second run to compare with; inspector: opens below on a pair; profiles: folder of the
        parameter files that the button can change."""
        self._results, self._other, self._inspector = results, other, inspector
        self.source = ipw.ToggleButtons(
            options=["merged", *[b for b in BRANCHES if (results.candidates["branch"] == b).any()]],
            style={"button_width": "82px"},
        )
        self.logarithmic = ipw.Checkbox(value=True, description="logarithmic counts", indent=False)
        self.chart, self.curve = DraggableLine(), pane("39%")
        self.chart.layout.width = "60%"
        self.threshold = self.chart.line
        self.value = ipw.BoundedFloatText(description="threshold", style=WIDE)
        self.value.layout.width = "280px"
        self._moving = False
        self.table, self.lines = pane("auto"), pane("auto")
        self._folder = store.project_path(profiles)
        files = sorted(p.name for p in self._folder.glob("*.yaml"))
        self.profile = ipw.Dropdown(options=files, description="profile")
        self.profile.value = _profile_of(results.run.root, self._folder, files)
        self.written = ipw.Label()
        self.near = [
            ipw.VBox(
                [
                    pane(),
                    button(
                        "inspect", partial(self._inspect, row), "open this pair in the inspector"
                    ),
                ],
                layout=ipw.Layout(width="32%", align_items="flex-start"),
            )
            for row in range(NEAR)
        ]
        self.inspected = ipw.VBox()
        self.source.observe(self._draw, "value")
        self.logarithmic.observe(self._draw, "value")
        self.threshold.observe(self._dragged, "value")
        self.value.observe(self._typed, "value")
        write = button("write to profile", self._write, "set this threshold in the parameter file")
        self.keep = ipw.VBox([self.lines, ipw.HBox([self.profile, write]), self.written])
        self.keep.layout.margin = "0 0 0 24px"
        super().__init__(
            [
                ipw.HBox([self.source, self.logarithmic]),
                ipw.HBox([self.chart, self.curve], layout=ipw.Layout(align_items="flex-start")),
                ipw.HTML(sentence("Drag the dashed line, or click to place it.")),
                ipw.HBox(
                    [
                        ipw.VBox([self.value, self.table], layout=ipw.Layout(flex="0 0 auto")),
                        self.keep,
                    ],
                    layout=ipw.Layout(**WRAPPED),
                ),
                ipw.HTML("<b>Pairs around the threshold</b>"),
                ipw.HBox(self.near, layout=ipw.Layout(flex_flow="row wrap")),
                self.inspected,
            ]
        )
        self._draw()

    # -------------------------------------------------------------------------------- the charts

    def _draw(self, _: object = None) -> None:
        """Draw the charts of the chosen scores; moving the threshold does not draw them again."""
        results, other, source = self._results, self._other, self.source.value
        scores = self._scores = Scores.of(results, source)
        name = SCALE_OF.get(source, results.score_scale)
        self._scale, self._scale_name = viz.SCALES[name], name
        self._second = None if other is None else Scores.of(other, source)
        # Votes and similarities are comparable between runs; merged scores only if their scale is equal.
        self._comparable = source != "merged" or (
            other is not None and other.score_scale == results.score_scale
        )
        chart = self._score_chart(scores)
        self._curve_chart = self._precision_chart(scores)
        self._micro_ap = self._average_precision()
        start = results.threshold if source == "merged" else self._lowest_accepted(source)
        if start is None:
            start = float(np.median(scores.scores)) if len(scores.scores) else 0.0
        self._moving = True
        self.chart.draw(chart)
        low, high = (float(self._scale.inverse(end)) for end in (chart.low, chart.high))
        self.value.max = max(high, self.value.max)
        self.value.min, self.value.max = low, high
        self.value.value = min(max(scores.rounded(start), low), high)
        self._moving = False
        self.keep.layout.visibility = "visible" if source == "merged" else "hidden"
        self._typed()

    def _lowest_accepted(self, branch: str) -> float | None:
        """The lowest score that the rule of the branch accepted."""
        rows = self._results.candidates
        scores = rows.loc[(rows["branch"] == branch) & rows["accepted"], "score"]
        return float(scores.min()) if len(scores) else None

    def _both(self) -> list[Scores]:
        return [self._scores] if self._second is None else [self._scores, self._second]

    def _names(self) -> list[str]:
        runs = [self._results] if self._other is None else [self._results, self._other]
        return [viz.label(one.run.name, 20) for one in runs]

    def _score_chart(self, scores: Scores) -> svg.Chart:
        fig, ax = viz.figure(6, 3.1)
        shown = self._both() if self._comparable else [scores]
        # Bars of two runs are comparable only with common bins.
        positions = self._scale.forward(np.concatenate([one.scores for one in shown]))
        edges = np.histogram_bin_edges(positions, 48)
        viz.draw_score_histogram(
            ax,
            *scores.groups(),
            log=self.logarithmic.value,
            bins=edges,
            scale=self._scale_name,
        )
        if len(shown) > 1:
            copies, others = shown[1].groups()
            groups = {"all pairs": copies}
            if others is not None:
                groups = {"not copies": others, "copies": copies}
            for (name, values), colour in zip(groups.items(), SECOND, strict=False):
                counts, _ = np.histogram(self._scale.forward(values), edges)
                text = f"{name} of {self._names()[1]} ({len(values):,})"
                ax.stairs(counts, edges, color=colour, linewidth=1.4, label=text, baseline=0.5)
                ax.set_ylim(top=max(1.3 * counts.max(), ax.get_ylim()[1]))
            viz.put_legend(ax, loc="upper right")
        return svg.Chart.of(fig, ax)

    def _precision_chart(self, scores: Scores) -> svg.Chart | None:
        curves = [one.curve() for one in self._both()]
        if curves[0] is None:
            return None
        fig, ax = viz.figure(3.9, 3.1)
        lines = list(zip(curves, self._names(), (viz.TRUE, SECOND[1]), strict=False))
        for curve, name, colour in reversed(lines):  # the first run on top
            if curve is not None:
                legend = name if len(curves) > 1 else ""
                viz.draw_precision_recall(ax, *curve, name=legend, colour=colour)
        return svg.Chart.of(fig, ax)

    def _average_precision(self) -> list[float | None]:
        """Micro average precision of each run; None without ground truth."""
        truths = [self._results.truth, None if self._other is None else self._other.truth]
        return [
            None if truth is None else evaluate(scores.pairs, truth).micro_ap
            for scores, truth in zip(self._both(), truths, strict=False)
        ]

    # ----------------------------------------------------------------------------- the threshold

    def _dragged(self, change: dict) -> None:
        # The slider rounds to its steps; a typed or measured threshold must not change by that.
        moved = abs(change["new"] - float(self._scale.forward(self.value.value)))
        if not self._moving and moved > 0.51 * self.threshold.step:
            score = float(self._scale.inverse(change["new"]))
            self._moving = True
            self.value.value = float(viz.number(score))
            self._moving = False
            self._show_counts()

    def _typed(self, _: object = None) -> None:
        if not self._moving:
            self._moving = True
            self.threshold.value = float(self._scale.forward(self.value.value))
            self._moving = False
            self._show_counts()

    def _show_counts(self) -> None:
        """Show what the threshold keeps: counts, the YAML line, the point on the curve, and pairs."""
        threshold = self.value.value
        thresholds = [threshold]
        if self._other is not None:
            own = self._other.threshold
            thresholds.append(threshold if self._comparable or own is None else own)
        counts = [one.at(at) for one, at in zip(self._both(), thresholds, strict=True)]
        rows: list[tuple[object, ...]] = []
        if len(counts) > 1:
            note = "" if self._comparable else " (its own: the score scales differ)"
            shown = viz.number(thresholds[0]), viz.number(thresholds[1]) + note
            rows += [("run", *self._names()), ("threshold", *shown)]
        for label, key, number_format in ROWS:
            if any(key in one for one in counts):
                rows.append((label, *(_shown(one.get(key), number_format) for one in counts)))
        if self._micro_ap[0] is not None:
            rows.append(("uAP of these scores", *(_shown(u, "{:.4f}") for u in self._micro_ap)))
        self.table.value = facts_table(rows)
        self.lines.value = yaml_lines({NAME: threshold})
        if self._curve_chart is None:
            self.curve.value = ""
        elif counts[0]["kept"]:
            dot = counts[0]["recall"], counts[0]["precision"]
            self.curve.value = self._curve_chart.marked(dot)
        self._show_near(threshold)

    def _show_near(self, threshold: float) -> None:
        columns = ["query_id", "reference_id", "score", "is_true"]
        around = self._scores.around(threshold, NEAR)[columns]
        self._near = [_Near._make(row) for row in around.itertuples(index=False)]
        for row, box in enumerate(self.near):
            thumbnails, inspect = box.children
            inspect.disabled = self._inspector is None or row >= len(self._near)
            thumbnails.value = self._thumbnails(row, threshold) if row < len(self._near) else ""

    def _thumbnails(self, row: int, threshold: float) -> str:
        pair = self._near[row]
        try:
            jpegs = (
                self._results.jpeg("query", pair.query_id),
                self._results.jpeg("reference", pair.reference_id),
            )
        except KeyError:
            return sentence("an image of this pair is missing from the run or library")
        side = "reported" if pair.score >= threshold else "not reported"
        if pair.is_true is not None:
            side += ", a copy" if pair.is_true else ", not a copy"
        names = f"{viz.label(pair.query_id, 20)} / {viz.label(pair.reference_id, 20)}"
        return thumbnail_pair(*jpegs, f"{viz.number(pair.score)} {side}: {names}")

    def _inspect(self, row: int) -> None:
        if self._inspector is not None and row < len(self._near):
            self._inspector.look_at(self._near[row].query_id, self._near[row].reference_id)
            self.inspected.children = (self._inspector,)

    def _write(self) -> None:
        if self.profile.value is None:
            self.written.value = f"no parameter file in {store.show(self._folder)}"
            return
        value = self.value.value
        params.write_values(self._folder / self.profile.value, {NAME: value})
        self.written.value = f"{self.profile.value}: {NAME} set to {value!r}"


def _profile_of(run: Path, folder: Path, names: list[str]) -> str | None:
    """The parameter file of this run, or else the first."""
    for name in names:
        try:
            values = params.read_profile(folder / name)
        except params.ParameterError:
            continue
        if store.project_path(values.get("run_dir", f"runs/{Path(name).stem}")) == run:
            return name
    return next(iter(names), None)


def _shown(value: float | None, number_format: str) -> str:
    return "–" if value is None or np.isnan(value) else number_format.format(value)
