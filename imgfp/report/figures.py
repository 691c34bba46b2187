# SPDX-License-Identifier: AGPL-3.0-or-later
"""Figures of the report: each returns a data URI and one line that explains what to look for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import PercentFormatter

from imgfp import viz
from imgfp.results import Results
from imgfp.scoring.metrics import precision_recall_curve
from imgfp.scoring.thresholds import brier, reliability
from imgfp.viz.svg import data_uri


@dataclass(frozen=True)
class Figure:
    """A figure on the page: data URI of a PNG, and its caption."""

    uri: str
    text: str


def score_figure(results: Results) -> Figure:
    """Histogram of the scores, of copies and others where the truth is known."""
    pairs, threshold = results.pairs, results.threshold
    fig, ax = viz.figure(6.2, 3.3)
    title = "Scores of all pairs"
    if "is_true" in pairs:
        known = pairs[pairs["is_true"].notna()]
        is_true = known["is_true"].astype(bool)
        copies, others = known.loc[is_true, "score"], known.loc[~is_true, "score"]
        text = "The less the two groups overlap, the better."
        if threshold is not None:
            text = f"Pairs left of the dashed line are not reported. {text}"
    else:
        copies, others = pairs["score"], None
        text = "Few pairs should lie near the threshold."
    viz.draw_score_histogram(ax, copies, others, threshold, title=title, scale=results.score_scale)
    return embed(fig, text)


def curve_figure(predictions: pd.DataFrame, truth: pd.DataFrame, target: float) -> Figure:
    """Precision against recall, with the point of highest recall at precision `target`."""
    curve = precision_recall_curve(predictions, truth)
    fig, ax = viz.figure(6.2, 3.3)
    reached = curve[(curve["precision"] >= target) & (curve["true"] > 0)]
    marks = []
    if len(reached):
        best = reached.iloc[int(reached["recall"].to_numpy().argmax())]
        marks = [(f"{target:.0%} precision", best["recall"], best["precision"])]
    viz.draw_precision_recall(
        ax, curve["precision"], curve["recall"], marks, title="Precision and recall"
    )
    text = (
        "One point per threshold. Recall: share of the copies that are found; "
        "precision: share of the reported pairs that are copies."
    )
    return embed(fig, text)


def branch_figure(branches: pd.DataFrame) -> Figure:
    """Share of the copies that each branch proposes; branches: of `errors.branch_breakdown`."""
    fig, ax = viz.figure(6.2, 0.9 + 0.3 * max(len(branches), 2))
    colours = [viz.BRANCH_COLOURS.get(name, "#9aa5b1") for name in branches["branches"]]
    viz.draw_bars(
        ax,
        list(branches["branches"]),
        list(branches["share"].fillna(0)),
        colours=colours,
        number_format="{:.1%}",
        axis="share of the copies",
        title="Copies proposed by each branch",
    )
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    text = "Rows with “only” count copies that exactly these branches propose and no other."
    return embed(fig, text)


def edit_figure(groups: pd.DataFrame) -> Figure:
    """Recall per edit; groups: of `errors.breakdown`."""
    fig, ax = viz.figure(6.2, 1.2 + 0.24 * max(len(groups), 2))
    viz.draw_breakdown(ax, groups, title="Copies found, by edit")
    text = "Lowest recall first. Bars show the share of the copies that the search proposed."
    return embed(fig, text)


def reliability_figure(scores: np.ndarray, labels: np.ndarray) -> Figure:
    """Reliability diagram: scores (n,) in 0..1, labels (n,) bool."""
    bins = reliability(scores, labels)
    fig, ax = viz.figure(6.2, 3.6)
    viz.draw_reliability(ax, bins, title="Calibration of the scores")
    text = (
        "On the dotted line a score equals the probability of a copy. Beside each dot, the number of pairs; through it, "
        "the 95 % interval. "
        f"Brier score {brier(scores, labels):.4f} (lower is better)."
    )
    return embed(fig, text)


def embed(fig: Drawing, text: str) -> Figure:
    """A drawing with its caption, as a part of a page."""
    return Figure(data_uri(viz.to_png(fig, dpi=150), "png"), text)
