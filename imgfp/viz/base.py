"""What every drawing shares: colours, a figure without global state, text that is only ever text."""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito (2008), told apart with every common form of colour blindness.
BLUE, SKY, GREEN, YELLOW = "#0072B2", "#56B4E9", "#009E73", "#F0E442"
ORANGE, VERMILLION, PINK = "#E69F00", "#D55E00", "#CC79A7"
INK, MUTED, LINE, PAPER = "#1f2933", "#66727f", "#e4e7eb", "#ffffff"

#: Copies, and everything that is not one.
TRUE, FALSE = BLUE, ORANGE
BRANCH_COLOURS = {"local": BLUE, "crop": GREEN, "global": PINK}
CYCLE = (BLUE, ORANGE, GREEN, PINK, VERMILLION, SKY, YELLOW)

_STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#b8c0c8",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}

#: Signs that turn the reading direction or take no room: shown by number, never obeyed.
_UNSEEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}


class _ShownFigure(Figure):
    """A Figure that a notebook shows as the value of a cell, whether or not pyplot was imported."""

    def _repr_png_(self) -> bytes:
        return to_png(self, tight=True)


def figure(
    width_in: float = 8, height_in: float = 4, rows: int = 1, columns: int = 1
) -> tuple[Figure, Axes | np.ndarray]:
    """A figure of that size in inches and its Axes: one, or an array of (rows, columns) squeezed to
    one dimension where the other is 1. End a cell with the figure to show it.

    It belongs to nobody but the caller: no pyplot, no open-figure list, nothing to close.
    """
    with matplotlib.rc_context(_STYLE):
        drawn = _ShownFigure(figsize=(width_in, height_in), dpi=110, layout="constrained")
        return drawn, drawn.subplots(rows, columns)


def to_png(drawn: Figure, dpi: float | None = None, tight: bool = False) -> bytes:
    """A figure as PNG bytes; dpi: dots an inch, None for the figure's own; tight: without the empty
    space around what is drawn."""
    out = io.BytesIO()
    cut = {"bbox_inches": "tight", "pad_inches": 0.06} if tight else {}
    drawn.savefig(out, format="png", dpi=dpi or drawn.dpi, **cut)
    return out.getvalue()


def number(value: float, digits: int = 4) -> str:
    """A score as text: so many digits, and near one as many as tell it from one."""
    if 0.999 < value < 1:
        digits = min(15, digits - 2 - math.floor(math.log10(1 - value)))
        return f"{value:.{digits}f}"
    return f"{value:.{digits}g}"


@dataclass(frozen=True)
class Scale:
    """How scores are spread along an axis: where each stands, which stands there, which are named
    (none: matplotlib's own choice)."""

    place: Callable[[np.ndarray | float], np.ndarray]
    score: Callable[[np.ndarray | float], np.ndarray]
    named: tuple[float, ...] = ()


def log_odds(probability: np.ndarray | float) -> np.ndarray:
    """Probabilities spread out, so that 0.99 and 0.9999 are as far apart as 0.01 and 0.0001."""
    inside = np.clip(np.asarray(probability, float), 1e-12, 1 - 1e-12)
    return np.log(inside / (1 - inside))


#: By name: scores as they are; counts, by their size; probabilities, by their log-odds.
SCALES = {
    "linear": Scale(lambda score: np.asarray(score, float), lambda place: np.asarray(place, float)),
    "log": Scale(
        lambda score: np.log10(1 + np.maximum(np.asarray(score, float), 0)),
        lambda place: 10 ** np.asarray(place, float) - 1,
        (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000),
    ),
    "odds": Scale(
        log_odds,
        lambda place: 1 / (1 + np.exp(-np.asarray(place, float))),
        (1e-9, 1e-6, 1e-4, 0.01, 0.5, 0.99, 0.9999, 1 - 1e-6, 1 - 1e-9),
    ),
}


def label(text: object, limit: int = 36) -> str:
    """An id or file name as one line of visible text, cut in the middle beyond `limit` characters.

    Line ends, control signs and marks that turn the reading direction are shown by number, so that
    a name can neither break a layout nor read as another one. limit 0: never cut. It is not yet safe
    in HTML: escape it there.
    """
    seen = "".join(_visible(sign) for sign in str(text))
    if not limit or len(seen) <= limit:
        return seen
    head = (limit - 1) // 2
    return f"{seen[:head]}…{seen[len(seen) - (limit - 1 - head) :]}"


def _visible(sign: str) -> str:
    if unicodedata.category(sign) not in _UNSEEN:
        return sign
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(sign, f"\\u{ord(sign):04x}")


def set_title(ax: Axes, text: str, **style) -> None:
    """The title of an Axes, never read as mathematics: a name may hold a dollar sign."""
    ax.set_title(text, parse_math=False, loc="left", color=INK, **{"fontsize": 10} | style)


def put_legend(ax: Axes, **where) -> None:
    """A plain legend of everything that was given a label."""
    ax.legend(frameon=False, fontsize=8, labelcolor=INK, handlelength=1.6, **where)


def show_placeholder(ax: Axes, text: str) -> Axes:
    """An Axes with nothing to draw says so in its middle."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_facecolor("#f4f5f7")
    put_text(ax, 0.5, 0.5, text, ha="center", va="center", color=MUTED, transform=ax.transAxes)
    return ax


def put_text(ax: Axes, x: float, y: float, text: str, **style):
    """Text on an Axes, never read as mathematics."""
    return ax.text(x, y, text, parse_math=False, **style)


def grid(ax: Axes, axis: str) -> None:
    """Faint lines behind the marks along `axis` ("x", "y" or "both")."""
    ax.grid(axis=axis, color=LINE, linewidth=0.8)
    ax.tick_params(length=0)
