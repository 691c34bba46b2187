# SPDX-License-Identifier: AGPL-3.0-or-later
"""Charts on Axes: score histograms, precision and recall, bars, votes, calibration, loss curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import ArrayLike

from imgfp.text import label, number
from imgfp.viz.base import (
    BLUE,
    CYCLE,
    FALSE,
    INK,
    LINE,
    MUTED,
    SCALES,
    SKY,
    TRUE,
    grid,
    put_legend,
    put_text,
    set_title,
    show_placeholder,
)

#: Style of a threshold line.
_THRESHOLD_LINE: dict[str, Any] = {
    "color": INK,
    "linewidth": 1.3,
    "linestyle": (0, (5, 2)),
    "zorder": 6,
}


def draw_score_histogram(
    ax: Axes,
    positives: ArrayLike,
    negatives: ArrayLike | None = None,
    threshold: float | None = None,
    log: bool = True,
    *,
    bins: int | np.ndarray = 48,
    names: Sequence[str] = ("copies", "not copies"),
    title: str = "",
    axis: str = "score (higher: more similar)",
    scale: str = "linear",
) -> Axes:
    """Histogram of the scores of true and of false pairs; without ground truth, of all pairs, given as
    `positives` with `negatives` None.

    log: logarithmic count axis; bins: number of bins, or their edges as axis positions; names: of the
    two groups; scale: of the scores, a key of SCALES.
    """
    chosen = SCALES[scale]
    if negatives is None:
        groups = [(chosen.forward(positives), MUTED, "all pairs")]
    else:
        groups = [
            (chosen.forward(negatives), FALSE, names[1]),
            (chosen.forward(positives), TRUE, names[0]),
        ]
    values = np.concatenate([scores for scores, *_ in groups])
    values = values[np.isfinite(values)]
    if not len(values):
        return show_placeholder(ax, "no scores")
    edges = np.histogram_bin_edges(values, bins)
    for scores, colour, name in groups:
        counts, _ = np.histogram(scores[np.isfinite(scores)], edges)
        ax.stairs(
            counts,
            edges,
            fill=True,
            color=colour,
            alpha=0.55,
            baseline=0.5 if log else 0,
            label=f"{name} ({len(scores):,})",
        )
        ax.stairs(counts, edges, color=colour, linewidth=1.2, baseline=0.5 if log else 0)
    if log:
        ax.set_yscale("log")
        ax.set_ylim(0.5)
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    if threshold is not None:
        draw_threshold(ax, threshold, scale)
    if chosen.ticks:
        positions = chosen.forward(chosen.ticks)
        inside = (positions >= values.min() - 1) & (positions <= values.max() + 1)
        shown = np.array(chosen.ticks)[inside]
        labels = [number(score, 2) if score < 1 else f"{score:,.0f}" for score in shown]
        ax.set_xticks(positions[inside], labels)
    ax.set_xlabel(axis)
    ax.set_ylabel("pairs")
    ax.margins(x=0.01)
    grid(ax, "y")
    put_legend(ax, loc="best")
    if title:
        set_title(ax, title)
    return ax


def draw_threshold(ax: Axes, threshold: float, scale: str = "linear") -> Axes:
    """Add a dashed vertical line, with its value in the legend. scale: of the axis, a key of SCALES."""
    position = float(SCALES[scale].forward(threshold))
    ax.axvline(position, label=f"threshold {number(threshold)}", **_THRESHOLD_LINE)
    return ax


def draw_precision_recall(
    ax: Axes,
    precision: ArrayLike,
    recall: ArrayLike,
    marks: Sequence[tuple[str, float, float]] = (),
    *,
    name: str = "",
    colour: str = BLUE,
    title: str = "",
) -> Axes:
    """Precision against recall. marks: (text, recall, precision) of labelled points."""
    recall, precision = np.asarray(recall), np.asarray(precision)
    order = np.argsort(recall, kind="stable")
    ax.plot(recall[order], precision[order], color=colour, label=name)
    for text, x, y in marks:
        ax.plot([x], [y], "o", color=colour, markersize=6, markeredgecolor="white", zorder=5)
        put_text(ax, x - 0.015, y - 0.025, text, ha="right", va="top", fontsize=8, color=INK)
    ax.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    grid(ax, "both")
    if name:
        put_legend(ax, loc="lower left")
    if title:
        set_title(ax, title)
    return ax


def draw_bars(
    ax: Axes,
    names: Sequence[str],
    values: Sequence[float],
    *,
    colours: Sequence[str] | str = BLUE,
    number_format: str = "{:,.3g}",
    title: str = "",
    axis: str = "",
) -> Axes:
    """Horizontal bars, the first on top, each labelled with its name and value."""
    if not len(names):
        return show_placeholder(ax, "nothing to count")
    numbers = np.nan_to_num(np.asarray(values, float))
    rows = np.arange(len(numbers))
    bars = ax.barh(rows, numbers, color=colours, height=0.68)
    for bar, value in zip(bars, values, strict=True):
        put_text(
            ax,
            max(bar.get_width(), 0),
            bar.get_y() + bar.get_height() / 2,
            "  " + number_format.format(value),
            va="center",
            fontsize=8,
            color=INK,
        )
    _name_rows(ax, names)
    ax.set_xlabel(axis)
    ax.margins(x=0.16)
    grid(ax, "x")
    if title:
        set_title(ax, title)
    return ax


def draw_votes(
    ax: Axes,
    names: Sequence[str],
    votes: Sequence[float],
    winner: int | None = None,
    needed: int | None = None,
    title: str = "",
    branch: str = "local",
) -> Axes:
    """Votes of the references that a query's keypoints matched, most first. winner: row of the reference
    that is good enough, None without one; needed: least votes of such a one. In the global branch the values are
    similarities."""
    colours = [BLUE if row == winner else LINE for row in range(len(names))]
    counted = branch != "global"
    number_format, axis = ("{:.0f}", "votes") if counted else ("{:.3f}", "similarity")
    draw_bars(
        ax, names, votes, colours=colours, number_format=number_format, axis=axis, title=title
    )
    if len(names) and counted:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if needed is not None and len(names):
        ax.axvline(needed, label=f"{needed} needed", **_THRESHOLD_LINE)
        put_legend(ax, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    return ax


def draw_reliability(
    ax: Axes,
    bins: pd.DataFrame,
    title: str = "",
) -> Axes:
    """Reliability diagram: the share of copies in each bin against its mean predicted probability.

    bins: of `thresholds.reliability`. The area of a dot grows with its number of pairs, which stands beside it; the
    line through it is the 95 % interval of the share. On the diagonal the scores are calibrated.
    """
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
    predicted, observed = bins["predicted"], bins["observed"]
    sizes = 20 + 90 * np.sqrt(bins["pairs"] / max(bins["pairs"].max(), 1))
    ax.plot(predicted, observed, color=BLUE, linewidth=1.2)
    ax.vlines(predicted, bins["observed_low"], bins["observed_high"], color=BLUE, linewidth=1.2)
    ax.scatter(predicted, observed, s=sizes, color=SKY, edgecolors=BLUE, zorder=4, clip_on=False)
    for x, y, count in bins[["predicted", "observed", "pairs"]].to_numpy(float):
        # In the upper half there is room left of the line, in the lower half right of it.
        aside, side = (-8, "right") if x > 0.5 else (8, "left")
        ax.annotate(
            f"{count:,.0f}", (x, y), (aside, 0), textcoords="offset points",
            ha=side, va="center", color=MUTED, fontsize="small",
        )  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability", ylabel="share of copies")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_aspect("equal")
    grid(ax, "both")
    ax.tick_params(pad=7)
    if title:
        set_title(ax, title)
    return ax


def draw_breakdown(ax: Axes, breakdown: pd.DataFrame, title: str = "") -> Axes:
    """Recall per group of queries: a dot for the copies found, a bar for the copies proposed.

    breakdown: of `errors.breakdown`, columns group, positives, recall, proposed; the first row is on
    top.
    """
    shown = breakdown[breakdown["positives"] > 0]
    if not len(shown):
        return show_placeholder(ax, "no copies")
    rows = np.arange(len(shown))
    proposed, found = shown["proposed"].to_numpy(float), shown["recall"].to_numpy(float)
    ax.hlines(rows, 0, 1, color=LINE, linewidth=6, zorder=1)
    ax.hlines(rows, 0, np.nan_to_num(proposed), color=SKY, linewidth=6, label="proposed", zorder=2)
    ax.scatter(found, rows, s=44, color=BLUE, edgecolors="white", label="found", zorder=4)
    for row, value in zip(rows, found, strict=True):
        put_text(ax, 1.03, float(row), f"{value:.0%}", va="center", fontsize=8, color=INK)
    counts = [f"{label(g)}  ({n})" for g, n in zip(shown["group"], shown["positives"], strict=True)]
    _name_rows(ax, counts)
    ax.set_xlim(0, 1.14)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_xlabel("share of the copies")
    ax.tick_params(length=0)
    put_legend(ax, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.1)
    if title:
        set_title(ax, title, pad=24)
    return ax


def draw_curve(
    ax: Axes,
    curves: Mapping[str, Sequence[float]],
    x: Sequence[float] | None = None,
    *,
    axes: tuple[str, str] = ("step", "loss"),
    log: bool = False,
    title: str = "",
) -> Axes:
    """Curves labelled at their right end. x: default 1, 2, …; axes: labels of the x and y axis."""
    for row, (name, values) in enumerate(curves.items()):
        colour = CYCLE[row % len(CYCLE)]
        steps = np.arange(1, len(values) + 1) if x is None else np.asarray(x)
        ax.plot(steps, values, color=colour, linewidth=1.6)
        if len(values):
            end = f"  {label(name)}"
            put_text(ax, steps[-1], values[-1], end, fontsize=8, color=colour, va="center")
    ax.set(xlabel=axes[0], ylabel=axes[1])
    ax.margins(x=0.12)
    if log:
        ax.set_yscale("log")
    grid(ax, "y")
    if title:
        set_title(ax, title)
    return ax


def _name_rows(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(np.arange(len(names)), [label(name) for name in names], parse_math=False)
    ax.tick_params(axis="y", labelcolor=INK, length=0)
    ax.set_ylim(len(names) - 0.4, -0.6)


def draw_histograms(
    ax: Axes,
    groups: Mapping[str, np.ndarray],
    *,
    axis: str = "",
    marks: Mapping[str, float] | None = None,
    bins: int = 40,
    log: bool = False,
) -> Axes:
    """Overlaid histograms of groups of values. Several groups are drawn as shares of each group, so that a small one
    is seen beside a large one. marks: label -> value of a vertical line, e.g. a threshold; log: logarithmic value
    axis, on which nothing is below 1 and a mark there is left out. So are groups without values."""
    groups = {name: np.asarray(values, float) for name, values in groups.items() if len(values)}
    if not groups:
        return show_placeholder(ax, "nothing to show")
    if log:
        groups = {name: np.log10(np.maximum(values, 1)) for name, values in groups.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), bins)
    for colour, (name, values) in zip(CYCLE, groups.items(), strict=False):
        counts, _ = np.histogram(values, edges)
        heights = counts / len(values) if len(groups) > 1 else counts
        legend = f"{name} ({len(values):,})"
        drawn = heights, 10**edges if log else edges
        ax.stairs(*drawn, fill=True, color=colour, alpha=0.35, label=legend)
        ax.stairs(*drawn, color=colour, linewidth=1.2)
    if log:
        ax.set_xscale("log")
    marks = {name: value for name, value in (marks or {}).items() if value >= 1 or not log}
    for row, (name, value) in enumerate(marks.items()):
        ax.axvline(value, color=INK, linewidth=1.2, linestyle=(0, (5, 2)))
        style: dict[str, Any] = {
            "transform": ax.get_xaxis_transform(),
            "fontsize": 7.5,
            "color": INK,
            "zorder": 7,
        }
        paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.2}
        put_text(ax, value, 0.97 - 0.1 * row, f" {name}", va="top", bbox=paper, **style)
    ax.set_xlabel(axis)
    if len(groups) > 1:
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    ax.set_ylabel("share of its group" if len(groups) > 1 else "count")
    grid(ax, "y")
    put_legend(ax, loc="best")
    return ax


def draw_points(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    probability: np.ndarray,
    *,
    axes: tuple[str, str],
    colour: str,
) -> Axes:
    """Scatter plot of dots coloured by a probability, likeliest on top; `colour` names it. The x axis is logarithmic above
    1 and linear below."""
    x, y, probability = (np.asarray(values, float) for values in (x, y, probability))
    order = np.argsort(probability, kind="stable")
    style: dict[str, Any] = {"cmap": "cividis", "vmin": 0, "vmax": 1, "linewidths": 0}
    dots = ax.scatter(x[order], y[order], s=12, c=probability[order], alpha=0.7, **style)
    ax.set_xscale("symlog", linthresh=1)
    ax.set(xlabel=axes[0], ylabel=axes[1])
    ax.figure.colorbar(dots, ax=ax, label=colour)
    grid(ax, "both")
    return ax


def draw_front(
    ax: Axes,
    cost: ArrayLike,
    quality: ArrayLike,
    on_front: ArrayLike,
    *,
    chosen: int,
    axes: tuple[str, str],
) -> Axes:
    """Quality against cost, one dot per setting: those that no other beats on a line (bool, one per dot), a ring around the
    chosen row."""
    cost, quality = np.asarray(cost, float), np.asarray(quality, float)
    front = np.flatnonzero(on_front)
    front = front[np.argsort(cost[front])]
    ax.plot(cost, quality, ".", color=MUTED, alpha=0.5, markersize=6, markeredgewidth=0)
    ax.plot(
        cost[front],
        quality[front],
        ".-",
        color=BLUE,
        drawstyle="steps-post",
        label="no other is better",
    )
    ring: dict[str, Any] = {"markersize": 12, "markerfacecolor": "none", "markeredgecolor": FALSE}
    ax.plot(cost[[chosen]], quality[[chosen]], "o", label="chosen", **ring)
    ax.set(xlabel=axes[0], ylabel=axes[1])
    grid(ax, "both")
    put_legend(ax, loc="lower right")
    return ax
