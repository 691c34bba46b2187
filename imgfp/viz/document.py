# SPDX-License-Identifier: AGPL-3.0-or-later
"""A document of A4 pages as PDF: headings, wrapped text, tables and Axes, from top to bottom."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D

from imgfp.text import label
from imgfp.viz.base import INK, LINE, MUTED, STYLE

_WIDTH_IN, _HEIGHT_IN, _MARGIN_IN = 8.27, 11.69, 0.6
_GAP_IN = 0.12  # between columns of a table
_POINTS, _LEADING = 72, 1.32  # points per inch; line pitch over font size
_FONT = "DejaVu Sans"  # comes with matplotlib, so that every machine makes the same document


class Document:
    """Pages that fill as things are added; a new page begins where something does not fit.

    Text is never parsed as markup or mathematics; characters that the font lacks are shown as escapes. Equal calls
    give equal bytes.
    """

    def __init__(self, title: str) -> None:
        """title: of the document, in its metadata and below every page."""
        self._title = _shown(title)
        self._pages: list[Figure] = []
        self._top_in = _HEIGHT_IN

    def heading(self, text: str, size: float = 12, keep_in: float = 0.8) -> None:
        """A heading; keep_in: room for what follows that must be on the same page."""
        lines = wrapped(text, self.width_in * _POINTS, size, "bold")
        self._room(len(lines) * size * _LEADING / _POINTS + 0.16 + keep_in)
        self._top_in -= 0.16
        self._lines(lines, 0, size, INK, weight="bold")

    def paragraph(self, text: str, size: float = 9, keep_in: float = 0) -> None:
        """Text over the whole width; keep_in: room for what follows that must be on the same page."""
        for line in wrapped(text, self.width_in * _POINTS, size):
            self._room(size * _LEADING / _POINTS + keep_in)
            self._lines([line], 0, size, INK)
        self._top_in -= 0.05

    def table(
        self,
        head: Sequence[str],
        rows: Sequence[Sequence[str]],
        shares: Sequence[float],
        size: float = 7.5,
    ) -> None:
        """Rows of text below a head, which may be empty; shares: of the width, per column."""
        for row in [head, *rows] if any(head) and rows else rows:
            weight = "bold" if row is head else "normal"
            cells = [
                wrapped(text, (share * self.width_in - _GAP_IN) * _POINTS, size, weight)
                for text, share in zip(row, shares, strict=True)
            ]
            pitch_in = size * _LEADING / _POINTS
            self._room(max(map(len, cells)) * pitch_in + 0.05)
            top_in, left_in = self._top_in, 0.0
            for number, (lines, share) in enumerate(zip(cells, shares, strict=True)):
                self._top_in = top_in
                colour = MUTED if number == 0 and row is not head else INK
                self._lines(lines, left_in, size, colour, weight=weight)
                left_in += share * self.width_in
            self._top_in = top_in - max(map(len, cells)) * pitch_in - 0.05
            self._rule(self._top_in + 0.03)
        self._top_in -= 0.08

    def axes(self, height_in: float, columns: int = 1, gap_in: float = 0.15) -> list[Axes]:
        """Axes side by side over the whole width, with room for titles above them."""
        self._room(height_in + 0.3)
        self._top_in -= height_in + 0.2
        wide_in = (self.width_in - gap_in * (columns - 1)) / columns
        with rc_context(STYLE):
            return [
                self._pages[-1].add_axes(
                    (
                        (_MARGIN_IN + column * (wide_in + gap_in)) / _WIDTH_IN,
                        self._top_in / _HEIGHT_IN,
                        wide_in / _WIDTH_IN,
                        height_in / _HEIGHT_IN,
                    )
                )
                for column in range(columns)
            ]

    def to_pdf(self, dpi: int = 200) -> bytes:
        """The document as PDF bytes, without a date; dpi: of pictures."""
        out = io.BytesIO()
        # No date, and fonts from which text can be copied.
        facts = {"Title": self._title, "Creator": "imgfp", "CreationDate": None}
        with rc_context(STYLE | {"pdf.fonttype": 42}), PdfPages(out, metadata=facts) as pages:
            for number, page in enumerate(self._pages, 1):
                foot = f"{self._title}  ·  {number} of {len(self._pages)}"
                place = _MARGIN_IN / _WIDTH_IN, 0.03
                drawn = page.text(*place, foot, fontsize=7, color=MUTED, parse_math=False)
                pages.savefig(page, dpi=dpi)
                drawn.remove()
        return out.getvalue()

    @property
    def width_in(self) -> float:
        """Width between the margins, inches."""
        return _WIDTH_IN - 2 * _MARGIN_IN

    def _room(self, height_in: float) -> None:
        """Begin a new page where less than this is left."""
        if not self._pages or self._top_in - height_in < _MARGIN_IN + 0.1:
            self._pages.append(Figure(figsize=(_WIDTH_IN, _HEIGHT_IN)))
            self._top_in = _HEIGHT_IN - _MARGIN_IN

    def _lines(
        self, lines: Sequence[str], left_in: float, size: float, colour: str, weight: str = "normal"
    ) -> None:
        for line in lines:
            self._top_in -= size * _LEADING / _POINTS
            place = (_MARGIN_IN + left_in) / _WIDTH_IN, self._top_in / _HEIGHT_IN
            style: dict[str, Any] = {"fontsize": size, "color": colour, "weight": weight}
            self._pages[-1].text(*place, line, parse_math=False, **style)

    def _rule(self, top_in: float) -> None:
        ends = _MARGIN_IN / _WIDTH_IN, 1 - _MARGIN_IN / _WIDTH_IN
        height = top_in / _HEIGHT_IN
        self._pages[-1].add_artist(Line2D(ends, (height, height), color=LINE, linewidth=0.5))


def wrapped(text: str, width_pt: float, size: float, weight: str = "normal") -> list[str]:
    """Text in lines of at most `width_pt` points at a font size, broken between words where it can be; at least one."""
    lines, line, long = [], "", 0.0
    for word in _shown(text).split(" "):
        wide = sum(_advance(character, weight) for character in word) * size
        space = _advance(" ", weight) * size if line else 0.0
        if line and long + space + wide > width_pt:
            lines.append(line)
            line, long, space = "", 0.0, 0.0
        line, long = line + " " * bool(space), long + space
        for character in word:
            step = _advance(character, weight) * size
            if line and long + step > width_pt:
                lines.append(line)
                line, long = "", 0.0
            line, long = line + character, long + step
    return [*lines, line]


@lru_cache(maxsize=4096)
def _advance(character: str, weight: str) -> float:
    """Width of a character at size 1."""
    font = get_font(findfont(f"{_FONT}:{weight}"))
    font.set_size(100, _POINTS)
    return font.load_char(ord(character)).linearHoriAdvance / 65536 / 100


def _shown(text: str) -> str:
    """Text of visible characters that the font has; others as escapes."""
    known = get_font(findfont(_FONT))
    return "".join(
        one if known.get_char_index(ord(one)) else f"\\u{ord(one):04x}" for one in label(text, 0)
    )
