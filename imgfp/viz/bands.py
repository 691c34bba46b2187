# SPDX-License-Identifier: AGPL-3.0-or-later
"""Curves with intervals, several in one Axes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from imgfp.viz.base import CYCLE, grid, put_legend, set_title, show_placeholder

#: Of the curves of one colour, in turn.
_STYLES = ("-", (0, (4, 2)), (0, (1, 1.5)))


def draw_bands(
    ax: Axes,
    bands: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]],
    *,
    colours: Mapping[str, str] | None = None,
    axes: tuple[str, str] = ("", ""),
    title: str = "",
    legend: bool = True,
) -> Axes:
    """Shares as curves, each with its interval as a band. bands: name -> x, value, low, high; an interval may be NaN.

    colours: of single names; several names of one colour differ in their dashes.
    """
    if not bands:
        return show_placeholder(ax, "nothing to show")
    used: list[str] = []
    for row, (name, (x, value, low, high)) in enumerate(bands.items()):
        colour = (colours or {}).get(name, CYCLE[row % len(CYCLE)])
        style = _STYLES[used.count(colour) % len(_STYLES)]
        used.append(colour)
        x, value, low, high = (np.asarray(each, float) for each in (x, value, low, high))
        ax.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
        ax.plot(x, value, color=colour, linestyle=style, marker="o", markersize=3, label=name)
    ax.set_xticks(np.unique(np.concatenate([np.asarray(x, float) for x, *_ in bands.values()])))
    ax.set(ylim=(-0.02, 1.03), xlabel=axes[0], ylabel=axes[1])
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    grid(ax, "both")
    if legend:
        put_legend(ax, loc="lower left")
    if title:
        set_title(ax, title)
    return ax
