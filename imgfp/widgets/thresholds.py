# SPDX-License-Identifier: AGPL-3.0-or-later
"""The threshold tuner: precision and recall at any threshold of the final score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ipywidgets as ipw
import numpy as np
import pandas as pd

from imgfp import viz
from imgfp.results import Results
from imgfp.scoring.metrics import are_in, evaluate, true_pairs
from imgfp.viz import svg
from imgfp.widgets.base import WIDE, WRAPPED, DraggableLine, facts_table, pane, sentence
from imgfp.widgets.inspector import MatchInspector
from imgfp.widgets.parts import PairShelf, ProfileWriter

#: Parameter of the threshold, and number of pairs around it that are shown.
NAME, NEAR = "score_threshold", 6
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
    def of(cls, results: Results) -> Scores:
        """The final scores of a run."""
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
        self._results, self._other = results, other
        self.logarithmic = ipw.Checkbox(value=True, description="logarithmic counts", indent=False)
        self.chart, self.curve = DraggableLine(), pane("39%")
        self.chart.layout.width = "60%"
        self.threshold = self.chart.line
        self.value = ipw.BoundedFloatText(description="threshold", style=WIDE)
        self.value.layout.width = "280px"
        self._moving = False
        self.table = pane("auto")
        self.writer = ProfileWriter(results, profiles, lambda: {NAME: self.value.value})
        self.near = PairShelf(results, inspector, NEAR)
        self.logarithmic.observe(self._draw, "value")
        self.threshold.observe(self._dragged, "value")
        self.value.observe(self._typed, "value")
        self.writer.layout.margin = "0 0 0 24px"
        super().__init__(
            [
                self.logarithmic,
                ipw.HBox([self.chart, self.curve], layout=ipw.Layout(align_items="flex-start")),
                ipw.HTML(sentence("Drag the dashed line, or click to place it.")),
                ipw.HBox(
                    [
                        ipw.VBox([self.value, self.table], layout=ipw.Layout(flex="0 0 auto")),
                        self.writer,
                    ],
                    layout=ipw.Layout(**WRAPPED),
                ),
                ipw.HTML("<b>Pairs around the threshold</b>"),
                self.near,
            ]
        )
        self._draw()

    # -------------------------------------------------------------------------------- the charts

    def _draw(self, _: object = None) -> None:
        """Draw the charts of the chosen scores; moving the threshold does not draw them again."""
        results, other = self._results, self._other
        scores = self._scores = Scores.of(results)
        self._scale_name = results.score_scale
        self._scale = viz.SCALES[self._scale_name]
        self._second = None if other is None else Scores.of(other)
        # Scores of two runs are comparable only if their scale is equal.
        self._comparable = other is not None and other.score_scale == results.score_scale
        chart = self._score_chart(scores)
        self._curve_chart = self._precision_chart(scores)
        self._micro_ap = self._average_precision()
        start = results.threshold
        if start is None:
            start = float(np.median(scores.scores)) if len(scores.scores) else 0.0
        self._moving = True
        self.chart.draw(chart)
        low, high = (float(self._scale.inverse(end)) for end in (chart.low, chart.high))
        self.value.max = max(high, self.value.max)
        self.value.min, self.value.max = low, high
        self.value.value = min(max(scores.rounded(start), low), high)
        self._moving = False
        self._typed()

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
            rows.append(
                ("micro-AP of these scores", *(_shown(u, "{:.4f}") for u in self._micro_ap))
            )
        self.table.value = facts_table(rows)
        self.writer.show()
        if self._curve_chart is None:
            self.curve.value = ""
        elif counts[0]["kept"]:
            dot = counts[0]["recall"], counts[0]["precision"]
            self.curve.value = self._curve_chart.marked(dot)
        self._show_near(threshold)

    def _show_near(self, threshold: float) -> None:
        columns = ["query_id", "reference_id", "score", "is_true"]
        around = self._scores.around(threshold, NEAR)[columns]
        pairs = []
        for query_id, reference_id, score, is_true in around.itertuples(index=False):
            side = "reported" if score >= threshold else "not reported"
            if is_true is not None:
                side += ", a copy" if is_true else ", not a copy"
            pairs.append((query_id, reference_id, f"{viz.score(score)} {side}"))
        self.near.show(pairs)


def _shown(value: float | None, number_format: str) -> str:
    return "–" if value is None or np.isnan(value) else number_format.format(value)
