# SPDX-License-Identifier: AGPL-3.0-or-later
"""Colours, figures without global state, and scales."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from cycler import cycler
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import ArrayLike

# Palette of Okabe & Ito (2008), distinguishable with every common form of colour blindness.
BLUE, SKY, GREEN, YELLOW = "#0072B2", "#56B4E9", "#009E73", "#F0E442"
ORANGE, VERMILLION, PINK = "#E69F00", "#D55E00", "#CC79A7"
INK, MUTED, LINE, PAPER = "#1f2933", "#66727f", "#e4e7eb", "#ffffff"

#: Colours of copies and of all other pairs.
TRUE, FALSE = BLUE, ORANGE
BRANCH_COLOURS = {"local": BLUE, "crop": GREEN, "global": PINK}
CYCLE = (BLUE, ORANGE, GREEN, PINK, VERMILLION, SKY, YELLOW)

#: Settings of matplotlib in which every figure is made.
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#b8c0c8",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=CYCLE),
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


class _ShownFigure(Figure):
    """A Figure that a notebook displays as the value of a cell, whether or not pyplot is imported."""

    def _repr_png_(self) -> bytes:
        return to_png(self, tight=True)


@overload
def figure(width_in: float = ..., height_in: float = ...) -> tuple[Figure, Axes]: ...
@overload
def figure(
    width_in: float = ..., height_in: float = ..., *, rows: int = ..., columns: int = ...
) -> tuple[Figure, Any]: ...
def figure(
    width_in: float = 8, height_in: float = 4, *, rows: int = 1, columns: int = 1
) -> tuple[Figure, Any]:
    """A figure of that size in inches and its Axes: one, or an array (rows, columns) of Axes, in which
    a dimension of 1 is dropped. End a notebook cell with the figure to show it.

    pyplot does not know the figure, so there is nothing to close.
    """
    with rc_context(STYLE):
        fig = _ShownFigure(figsize=(width_in, height_in), dpi=110, layout="constrained")
        return fig, fig.subplots(rows, columns)


def to_png(fig: Figure, dpi: float | None = None, tight: bool = False) -> bytes:
    """A figure as PNG bytes. dpi: dots per inch, None for the figure's own; tight: without the empty
    margin around the drawing."""
    out = io.BytesIO()
    margin: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.06} if tight else {}
    fig.savefig(out, format="png", dpi=dpi or fig.dpi, **margin)
    return out.getvalue()


@dataclass(frozen=True)
class Scale:
    """A transform of scores for an axis. forward: score -> axis position; inverse: back; ticks: scores
    that get a tick label, empty for matplotlib's own choice."""

    forward: Callable[[ArrayLike], np.ndarray]
    inverse: Callable[[ArrayLike], np.ndarray]
    ticks: tuple[float, ...] = ()


def log_odds(probability: ArrayLike) -> np.ndarray:
    """Log-odds of probabilities, clipped to 1e-12 .. 1 - 1e-12."""
    inside = np.clip(np.asarray(probability, float), 1e-12, 1 - 1e-12)
    return np.log(inside / (1 - inside))


#: Score scales: identity, log10(1 + count) for counts, log-odds for probabilities.
SCALES = {
    "linear": Scale(
        lambda score: np.asarray(score, float), lambda position: np.asarray(position, float)
    ),
    "log": Scale(
        lambda score: np.log10(1 + np.maximum(np.asarray(score, float), 0)),
        lambda position: 10 ** np.asarray(position, float) - 1,
        (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000),
    ),
    "odds": Scale(
        log_odds,
        lambda position: 1 / (1 + np.exp(-np.asarray(position, float))),
        (1e-9, 1e-6, 1e-4, 0.01, 0.5, 0.99, 0.9999, 1 - 1e-6, 1 - 1e-9),
    ),
}


def set_title(ax: Axes, text: str, **style: Any) -> None:
    """Set the title of an Axes without math parsing: a name may contain a dollar sign."""
    ax.set_title(text, parse_math=False, loc="left", color=INK, **{"fontsize": 10} | style)


def put_legend(ax: Axes, **where: Any) -> None:
    """Add a legend of everything that has a label."""
    ax.legend(frameon=False, fontsize=8, labelcolor=INK, handlelength=1.6, **where)


def show_placeholder(ax: Axes, text: str) -> Axes:
    """Show a placeholder message in an empty Axes."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_facecolor("#f4f5f7")
    put_text(ax, 0.5, 0.5, text, ha="center", va="center", color=MUTED, transform=ax.transAxes)
    return ax


def put_text(ax: Axes, x: float, y: float, text: str, **style: Any) -> Text:
    """Add text to an Axes without math parsing."""
    return ax.text(x, y, text, parse_math=False, **style)


def grid(ax: Axes, axis: Literal["x", "y", "both"]) -> None:
    """Add faint grid lines along `axis` behind the data."""
    ax.grid(axis=axis, color=LINE, linewidth=0.8)
    ax.tick_params(length=0)
