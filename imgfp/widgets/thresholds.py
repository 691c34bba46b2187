"""The threshold tuner: what a threshold costs and gains, on scores that are there already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as ipw
import numpy as np
import pandas as pd

from imgfp import store, viz
from imgfp.datatypes import BRANCHES
from imgfp.results import Results
from imgfp.runner import params
from imgfp.scoring.metrics import evaluate, true_references
from imgfp.viz import svg
from imgfp.widgets.base import (
    WIDE,
    WRAPPED,
    LineOver,
    button,
    facts_table,
    pane,
    sentence,
    thumbnail_pair,
    yaml_lines,
)
from imgfp.widgets.inspector import MatchInspector

#: The parameter that holds the merged threshold, and how many pairs around it are shown.
NAME, NEAR = "score_threshold", 6
#: How scores of the branches are spread; merged ones as the run says.
SCALE_OF = {"local": "log", "crop": "log", "global": "linear"}
#: Colours of a second run's lines: pairs that are no copies (or all pairs), copies.
SECOND = viz.VERMILLION, viz.GREEN
#: What is said of a threshold: words, key of `Scores.at`, form.
WORDS = (
    ("pairs reported", "kept", "{:,}"),
    ("of them right", "true", "{:,}"),
    ("of them wrong", "wrong", "{:,}"),
    ("precision", "precision", "{:.3f}"),
    ("recall", "recall", "{:.3f}"),
)


@dataclass(frozen=True)
class Scores:
    """Pairs of one kind, best first: scores (n,) falling; is_true (n,) bool, or None without truth;
    positives: true pairs of the truth, found or not."""

    pairs: pd.DataFrame
    scores: np.ndarray
    is_true: np.ndarray | None
    positives: int

    @classmethod
    def of(cls, results: Results, source: str) -> Scores:
        """Scores of a branch, or of the merged predictions for any other word."""
        if source in BRANCHES:
            rows = results.candidates[results.candidates["branch"] == source]
            pairs = rows.groupby(["query_id", "reference_id"], as_index=False)["score"].max()
            pairs = pairs.sort_values("score", ascending=False, ignore_index=True, kind="stable")
        else:
            pairs = results.pairs[["query_id", "reference_id", "score"]]
        if results.truth is None:
            return cls(pairs, pairs["score"].to_numpy(float), None, 0)
        expected = true_references(results.truth)
        pairs = pairs[pairs["query_id"].isin(expected.index)].reset_index(drop=True)
        right = pairs["query_id"].map(expected)
        is_true = ((right == pairs["reference_id"]) & (right != "")).to_numpy(bool)
        return cls(pairs, pairs["score"].to_numpy(float), is_true, int((expected != "").sum()))

    def groups(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Scores of copies and of others; without truth all scores, and None."""
        if self.is_true is None:
            return self.scores, None
        return self.scores[self.is_true], self.scores[~self.is_true]

    def at(self, threshold: float) -> dict[str, float]:
        """Pairs kept by score >= threshold and, with truth, true ones, precision and recall."""
        kept = int(np.searchsorted(-self.scores, -threshold, side="right"))
        said: dict[str, float] = {"kept": kept}
        if self.is_true is not None:
            true = int(self.is_true[:kept].sum())
            said |= {"true": true, "wrong": kept - true}
            said["precision"] = true / kept if kept else float("nan")
            said["recall"] = true / self.positives if self.positives else float("nan")
        return said

    def around(self, threshold: float, count: int) -> pd.DataFrame:
        """The `count` pairs nearest to a threshold, half from above and half from below, with `is_true`
        (None without truth)."""
        middle = int(np.searchsorted(-self.scores, -threshold, side="right"))
        first = max(0, min(middle - count // 2, len(self.pairs) - count))
        rows = slice(first, first + count)
        is_true = None if self.is_true is None else self.is_true[rows]
        return self.pairs.iloc[rows].assign(is_true=is_true)

    def rounded(self, threshold: float) -> float:
        """The threshold of fewest digits, three at least, that keeps the same pairs."""
        kept = self.at(threshold)["kept"]
        for digits in range(3, 17):
            short = float(f"{threshold:.{digits}g}")
            if self.at(short)["kept"] == kept:
                return short
        return threshold

    def curve(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Precision and recall at every pair; None where truth says nothing."""
        if self.is_true is None or not len(self.scores) or not self.positives:
            return None
        true = np.cumsum(self.is_true)
        return true / np.arange(1, len(true) + 1), true / self.positives


class ThresholdTuner(ipw.VBox):
    """Distributions of scores with a threshold to drag, and the pairs that it would let in or out."""

    def __init__(
        self,
        results: Results,
        other: Results | None = None,
        *,
        inspector: MatchInspector | None = None,
        profiles: str | Path = "params",
    ) -> None:
        """other: a second run, drawn over the first; inspector: opens here on a pair to look at;
        profiles: folder of the parameter files that the button writes to."""
        self._results, self._other, self._inspector = results, other, inspector
        self.source = ipw.ToggleButtons(
            options=["merged", *[b for b in BRANCHES if (results.candidates["branch"] == b).any()]],
            style={"button_width": "82px"},
        )
        self.logarithmic = ipw.Checkbox(value=True, description="logarithmic counts", indent=False)
        self.chart, self.curve = LineOver(), pane("39%")
        self.chart.layout.width = "60%"
        self.threshold = self.chart.line
        self.value = ipw.BoundedFloatText(description="threshold", style=WIDE)
        self.value.layout.width = "280px"
        self._moving = False
        self.said, self.lines = pane("auto"), pane("auto")
        self._folder = store.project_path(profiles)
        found = sorted(p.name for p in self._folder.glob("*.yaml"))
        self.profile = ipw.Dropdown(options=found, description="profile")
        self.profile.value = _profile_of(results.run.root, self._folder, found)
        self.wrote = ipw.Label()
        self.near = [
            ipw.VBox(
                [pane(), button("look", self._opener(row), "open this pair in the inspector")],
                layout=ipw.Layout(width="32%", align_items="flex-start"),
            )
            for row in range(NEAR)
        ]
        self.looked = ipw.VBox()
        self.source.observe(self._draw, "value")
        self.logarithmic.observe(self._draw, "value")
        self.threshold.observe(self._dragged, "value")
        self.value.observe(self._typed, "value")
        write = button("write to profile", self._write, "set the line above in this parameter file")
        self.keep = ipw.VBox([self.lines, ipw.HBox([self.profile, write]), self.wrote])
        self.keep.layout.margin = "0 0 0 24px"
        super().__init__(
            [
                ipw.HBox([self.source, self.logarithmic]),
                ipw.HBox([self.chart, self.curve], layout=ipw.Layout(align_items="flex-start")),
                ipw.HTML(sentence("Drag the dashed line, or click where it shall stand.")),
                ipw.HBox(
                    [
                        ipw.VBox([self.value, self.said], layout=ipw.Layout(flex="0 0 auto")),
                        self.keep,
                    ],
                    layout=ipw.Layout(**WRAPPED),
                ),
                ipw.HTML("<b>Pairs around the threshold</b>"),
                ipw.HBox(self.near, layout=ipw.Layout(flex_flow="row wrap")),
                self.looked,
            ]
        )
        self._draw()

    # -------------------------------------------------------------------------------- the charts

    def _draw(self, _: object = None) -> None:
        """Draw the charts once a source; the threshold is only moved over them."""
        results, other, source = self._results, self._other, self.source.value
        scores = self._scores = Scores.of(results, source)
        name = SCALE_OF.get(source, results.score_scale)
        self._scale, self._scale_name = viz.SCALES[name], name
        self._second = None if other is None else Scores.of(other, source)
        # Votes and similarities mean the same in every run; merged scores only where both are
        # probabilities or neither is.
        self._comparable = source != "merged" or (
            other is not None and other.score_scale == results.score_scale
        )
        chart = self._score_chart(scores)
        self._curve_chart = self._precision_chart(scores)
        self._micro_ap = [self._average_precision(one) for one in self._both()]
        start = results.threshold if source == "merged" else self._rule_of(source)
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

    def _rule_of(self, branch: str) -> float | None:
        """The lowest score that the branch's own rule accepted."""
        rows = self._results.candidates
        scores = rows.loc[(rows["branch"] == branch) & rows["accepted"], "score"]
        return float(scores.min()) if len(scores) else None

    def _both(self) -> list[Scores]:
        return [self._scores] if self._second is None else [self._scores, self._second]

    def _names(self) -> list[str]:
        runs = [self._results] if self._other is None else [self._results, self._other]
        return [viz.label(one.run.name, 20) for one in runs]

    def _score_chart(self, scores: Scores) -> svg.Chart:
        drawn, ax = viz.figure(6, 3.1)
        shown = self._both() if self._comparable else [scores]
        # Bars of two runs can be compared only where they are equally wide.
        places = self._scale.forward(np.concatenate([one.scores for one in shown]))
        edges = np.histogram_bin_edges(places, 48)
        spread = {"log": self.logarithmic.value, "scale": self._scale_name, "bins": edges}
        viz.draw_score_histogram(ax, *scores.groups(), **spread)
        if len(shown) > 1:
            copies, others = self._second.groups()
            groups = {"all pairs": copies} if others is None else {"not ": others, "": copies}
            for (word, values), colour in zip(groups.items(), SECOND, strict=False):
                counts, _ = np.histogram(self._scale.forward(values), edges)
                name = word if others is None else f"{word}copies"
                name = f"{name} of {self._names()[1]} ({len(values):,})"
                ax.stairs(counts, edges, color=colour, linewidth=1.4, label=name, baseline=0.5)
                ax.set_ylim(top=max(1.3 * counts.max(), ax.get_ylim()[1]))
            viz.put_legend(ax, loc="upper right")
        return svg.Chart.of(drawn, ax)

    def _precision_chart(self, scores: Scores) -> svg.Chart | None:
        curves = [one.curve() for one in self._both()]
        if curves[0] is None:
            return None
        drawn, ax = viz.figure(3.9, 3.1)
        drawings = list(zip(curves, self._names(), (viz.TRUE, SECOND[1]), strict=False))
        for curve, name, colour in reversed(drawings):
            if curve is not None:
                named = name if len(curves) > 1 else ""
                viz.draw_precision_recall(ax, *curve, name=named, colour=colour)
        return svg.Chart.of(drawn, ax)

    def _average_precision(self, scores: Scores) -> float | None:
        if scores.is_true is None:
            return None
        truth = (self._results if scores is self._scores else self._other).truth
        return evaluate(scores.pairs, truth).micro_ap

    # ----------------------------------------------------------------------------- the threshold

    def _dragged(self, change: dict) -> None:
        # The slider snaps what was typed or measured to its steps, which must not change it.
        moved = abs(change["new"] - float(self._scale.forward(self.value.value)))
        if not self._moving and moved > 0.51 * self.threshold.step:
            score = float(self._scale.inverse(change["new"]))
            self._moving = True
            self.value.value = float(viz.number(score))
            self._moving = False
            self._say()

    def _typed(self, _: object = None) -> None:
        if not self._moving:
            self._moving = True
            self.threshold.value = float(self._scale.forward(self.value.value))
            self._moving = False
            self._say()

    def _say(self) -> None:
        """What the threshold keeps, in numbers, in the YAML line and in pictures."""
        threshold = self.value.value
        thresholds = [threshold]
        if self._second is not None:
            own = self._other.threshold
            thresholds.append(threshold if self._comparable or own is None else own)
        said = [one.at(at) for one, at in zip(self._both(), thresholds, strict=True)]
        rows: list[tuple[object, ...]] = []
        if len(said) > 1:
            own = "" if self._comparable else ", its own: scores of another kind"
            shown = viz.number(thresholds[0]), viz.number(thresholds[1]) + own
            rows += [("run", *self._names()), ("threshold", *shown)]
        for word, key, form in WORDS:
            if any(key in one for one in said):
                rows.append((word, *(_shown(one.get(key), form) for one in said)))
        if self._micro_ap[0] is not None:
            rows.append(("uAP of these scores", *(_shown(u, "{:.4f}") for u in self._micro_ap)))
        self.said.value = facts_table(rows)
        self.lines.value = yaml_lines({NAME: threshold})
        if self._curve_chart is None:
            self.curve.value = ""
        elif said[0]["kept"]:
            dot = said[0]["recall"], said[0]["precision"]
            self.curve.value = self._curve_chart.marked(dot)
        self._show_near(threshold)

    def _show_near(self, threshold: float) -> None:
        self._near = list(self._scores.around(threshold, NEAR).itertuples(index=False))
        for row, box in enumerate(self.near):
            place, look = box.children
            look.disabled = self._inspector is None or row >= len(self._near)
            place.value = self._thumbnails(row, threshold) if row < len(self._near) else ""

    def _thumbnails(self, row: int, threshold: float) -> str:
        pair = self._near[row]
        try:
            jpegs = (
                self._results.jpeg("query", pair.query_id),
                self._results.jpeg("reference", pair.reference_id),
            )
        except KeyError:
            return sentence("a picture of this pair is not in run or library")
        side = "in" if pair.score >= threshold else "out"
        if pair.is_true is not None:
            side += ", a copy" if pair.is_true else ", not a copy"
        names = f"{viz.label(pair.query_id, 20)} / {viz.label(pair.reference_id, 20)}"
        return thumbnail_pair(*jpegs, f"{viz.number(pair.score)} {side}: {names}")

    def _opener(self, row: int) -> Callable[[], None]:
        def act() -> None:
            if self._inspector is not None and row < len(self._near):
                self._inspector.look_at(self._near[row].query_id, self._near[row].reference_id)
                self.looked.children = (self._inspector,)

        return act

    def _write(self) -> None:
        if self.profile.value is None:
            self.wrote.value = f"no parameter file in {store.show(self._folder)}"
            return
        value = self.value.value
        params.write_value(self._folder / self.profile.value, NAME, value)
        self.wrote.value = f"{self.profile.value} now says {NAME}: {value!r}"


def _profile_of(run: Path, folder: Path, names: list[str]) -> str | None:
    """The parameter file that makes this run, else the first."""
    for name in names:
        try:
            values = params.read_profile(folder / name)
        except params.ParameterError:
            continue
        if store.project_path(values.get("run_dir", f"runs/{Path(name).stem}")) == run:
            return name
    return next(iter(names), None)


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None or np.isnan(value) else form.format(value)
