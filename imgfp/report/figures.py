"""The report's figures: each returns its picture as an address and one line that says what to see."""

from __future__ import annotations

import base64

import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter

from imgfp import viz
from imgfp.results import Results
from imgfp.scoring.metrics import precision_recall_curve
from imgfp.scoring.thresholds import brier, reliability


def score_figure(results: Results, threshold: float | None) -> dict:
    pairs = results.pairs
    drawn, ax = viz.figure(6.2, 3.3)
    if "is_true" in pairs:
        known = pairs[pairs["is_true"].notna()]
        right = known["is_true"].astype(bool)
        groups = known.loc[right, "score"], known.loc[~right, "score"]
    else:
        groups = pairs["score"], None
    viz.draw_score_histogram(
        ax,
        *groups,
        threshold,
        title="Scores of all pairs",
        scale=results.score_scale,
    )
    text = "The less the two groups overlap, the better."
    if threshold is not None:
        text = f"Left of the dashed line a pair is not reported. {text}"
    return _figure(
        drawn, text if "is_true" in pairs else "Few pairs should lie near the threshold."
    )


def curve_figure(predictions, truth, target: float) -> dict:
    curve = precision_recall_curve(predictions, truth)
    drawn, ax = viz.figure(6.2, 3.3)
    enough = curve[(curve["precision"] >= target) & (curve["true"] > 0)]
    marks = []
    if len(enough):
        best = enough.loc[enough["recall"].idxmax()]
        marks = [(f"{target:.0%} precision", best["recall"], best["precision"])]
    viz.draw_precision_recall(
        ax, curve["precision"], curve["recall"], marks, title="Precision and recall"
    )
    return _figure(
        drawn, "Each threshold is a point: how many copies are found, how many pairs are right."
    )


def branch_figure(branches: pd.DataFrame) -> dict:
    drawn, ax = viz.figure(6.2, 0.9 + 0.3 * max(len(branches), 2))
    colours = [viz.BRANCH_COLOURS.get(name, "#9aa5b1") for name in branches["branches"]]
    viz.draw_bars(
        ax,
        list(branches["branches"]),
        list(branches["share"].fillna(0)),
        colours=colours,
        form="{:.1%}",
        axis="share of the copies proposed",
        title="What each branch proposes",
    )
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    text = "“only” rows count the copies that exactly these branches propose: what would be lost without them."
    return _figure(drawn, text)


def edit_figure(groups: pd.DataFrame) -> dict:
    drawn, ax = viz.figure(6.2, 1.2 + 0.24 * max(len(groups), 2))
    viz.draw_breakdown(ax, groups, title="Copies found, by edit")
    return _figure(
        drawn,
        "Edits that are hardest for this run come first; bars show how far search alone reached.",
    )


def reliability_figure(scores: np.ndarray, labels: np.ndarray) -> dict:
    """Whether probabilities come true: scores (n,) in 0..1, labels (n,) bool."""
    table = reliability(scores, labels)
    drawn, ax = viz.figure(6.2, 3.6)
    counted = table["predicted"], table["observed"], table["pairs"]
    viz.draw_reliability(ax, *counted, title="Can the score be read as a probability?")
    text = f"On the dotted line it can. Brier score {brier(scores, labels):.4f} (lower is better)."
    return _figure(drawn, text)


def _figure(drawn, text: str) -> dict:
    picture = base64.b64encode(viz.to_png(drawn, dpi=150)).decode()
    return {"uri": f"data:image/png;base64,{picture}", "text": text}
