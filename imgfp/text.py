# SPDX-License-Identifier: AGPL-3.0-or-later
"""Names and numbers as people read them, in terminals, on pages and in figures."""

from __future__ import annotations

import math
import unicodedata

#: Unicode categories of control, format and separator characters; `label` shows them as escapes.
_INVISIBLE = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}


def score(value: float) -> str:
    """A score as text: four significant digits, of which a probability has at most three after the point, since no calibration
    tells 0.9998 from 0.9999; beyond them it is "> 0.999" or "< 0.001"."""
    if 0.999 < value < 1:
        return "> 0.999"
    if 0 < value < 0.001:
        return "< 0.001"
    return f"{value:.3f}" if 0 < value < 1 else f"{value:.4g}"


def number(value: float, digits: int = 4) -> str:
    """A threshold as text with `digits` significant digits, or more where it would be rounded to 1."""
    if 0.999 < value < 1:
        digits = min(15, digits - 2 - math.floor(math.log10(1 - value)))
        return f"{value:.{digits}f}"
    return f"{value:.{digits}g}"


def label(text: object, limit: int = 36) -> str:
    """An id or file name as one line of visible text, cut in the middle beyond `limit` characters.

    Line ends, control characters and bidirectional marks are shown as escapes, so that a name can
    neither break a layout nor pass for another name. limit 0: never cut. The result is not escaped
    for HTML.
    """
    visible = "".join(_visible(character) for character in str(text))
    if not limit or len(visible) <= limit:
        return visible
    head = (limit - 1) // 2
    return f"{visible[:head]}…{visible[len(visible) - (limit - 1 - head) :]}"


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    escapes = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return escapes.get(character, f"\\u{ord(character):04x}")
