"""How values are spread over pictures, queries or pairs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from imgfp.viz.base import BLUE, CYCLE, INK, grid, put_legend, put_text, say


def draw_histograms(
    ax: Axes,
    groups: Mapping[str, np.ndarray],
    *,
    axis: str = "",
    marks: Mapping[str, float] | None = None,
    bins: int = 40,
    log: bool = False,
) -> Axes:
    """Named groups of values over each other, with named upright lines where a rule cuts.

    log: a logarithmic value axis; groups without values are left out.
    """
    groups = {name: np.asarray(values, float) for name, values in groups.items() if len(values)}
    if not groups:
        return say(ax, "nothing to show")
    every = np.concatenate(list(groups.values()))
    edges = np.histogram_bin_edges(np.log10(np.maximum(every, 1)) if log else every, bins)
    edges = 10**edges if log else edges
    for colour, (name, values) in zip(CYCLE, groups.items(), strict=False):
        counts, _ = np.histogram(values, edges)
        label = f"{name} ({len(values):,})"
        ax.stairs(counts, edges, fill=True, color=colour, alpha=0.35, label=label)
        ax.stairs(counts, edges, color=colour, linewidth=1.2)
    if log:
        ax.set_xscale("log")
    for number, (name, value) in enumerate((marks or {}).items()):
        ax.axvline(value, color=INK, linewidth=1.2, linestyle=(0, (5, 2)))
        place = {"transform": ax.get_xaxis_transform(), "fontsize": 7.5, "color": INK, "zorder": 7}
        paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.2}
        put_text(ax, value, 0.97 - 0.1 * number, f" {name}", va="top", bbox=paper, **place)
    ax.set_xlabel(axis)
    ax.set_ylabel("count")
    grid(ax, "y")
    put_legend(ax, loc="best")
    return ax


def draw_points(ax: Axes, x: np.ndarray, y: np.ndarray, *, axes: tuple[str, str]) -> Axes:
    """One faint dot a pair of values; x on an axis that is logarithmic above 1 and holds 0."""
    ax.plot(x, y, ".", color=BLUE, alpha=0.35, markersize=5, markeredgewidth=0)
    ax.set_xscale("symlog", linthresh=1)
    ax.set(xlabel=axes[0], ylabel=axes[1])
    grid(ax, "both")
    return ax
