"""Drawings as SVG text, for pages and browsers that answer at once and tell more on hovering.

Every function returns one `<svg>` element. Pictures go in as JPEG bytes, names are escaped here and
only here: nothing that a file was called can become markup.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imgfp.images import encode_jpeg, resize_short_side
from imgfp.viz.base import FALSE, INK, SKY, label, to_png
from imgfp.viz.pictures import Size, side_by_side, spread

#: No drawing is shown taller than this, however narrow it is.
TALLEST_PX = 540


def escaped(text: object, limit: int = 0) -> str:
    """Text that is safe inside an element or a quoted attribute, with its unseen signs made visible."""
    return html.escape(label(text, limit), quote=True)


def data_uri(jpeg: bytes) -> str:
    """JPEG bytes as an address that needs no file."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def small_jpeg(image: np.ndarray, long_side_px: int, quality: int = 82) -> bytes:
    """(H,W,3) uint8 RGB as JPEG bytes, shrunk until its longer side is at most `long_side_px`."""
    height, width = image.shape[:2]
    short = round(min(height, width) * min(1, long_side_px / max(height, width)))
    return encode_jpeg(resize_short_side(image, max(short, 1)), quality)


def outlined(jpeg: bytes, size: Size, outline: np.ndarray | None = None, text: str = "") -> str:
    """A picture with a closed outline (n,2) in the pixels of its original `size` (width, height);
    `text` describes it to people who cannot see it and on hovering."""
    width, height = size
    shape = _polygon(outline, max(width, height) / 150) if outline is not None else ""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escaped(text)}</title>{_image(jpeg, 0, 0, width, height)}{shape}</svg>"
    )


def picture(jpeg: bytes, size: Size) -> str:
    """A picture as wide as its place, of (width, height) `size`."""
    return _svg(*size, [_image(jpeg, 0, 0, *size)])


def boxes(
    jpeg: bytes,
    size: Size,
    xyxy: np.ndarray,
    texts: Sequence[str],
    chosen: dict[int, str],
    confidence: np.ndarray,
) -> str:
    """A picture with boxes (n,4) in original pixels; chosen: row -> the word on a box that a rule took;
    the others are the fainter the lower their confidence (n,).

    Hovering a box tells its text.
    """
    width, height = size
    line = max(width, height) / 220
    parts = [_image(jpeg, 0, 0, width, height)]
    # The chosen ones are drawn last, so that they lie on top.
    for row in sorted(range(len(xyxy)), key=lambda row: row in chosen):
        x0, y0, x1, y1 = (float(value) for value in xyxy[row])
        colour = SKY if row in chosen else FALSE
        style = f'stroke-width="{line * (2 if row in chosen else 1):g}"'
        if row not in chosen:
            style += f' stroke-dasharray="{3 * line:g} {2 * line:g}"'
            style += f' stroke-opacity="{min(1, 0.15 + confidence[row]):.2f}"'
        parts.append(
            f'<rect x="{x0:g}" y="{y0:g}" width="{x1 - x0:g}" height="{y1 - y0:g}" fill="#fff"'
            f' fill-opacity="0" stroke="{colour}" {style}><title>{escaped(texts[row])}</title></rect>'
        )
        if row in chosen:
            parts.append(_tag(x0, y0, chosen[row], 6.5 * line, colour))
    return _svg(width, height, parts)


def matches(
    query: bytes,
    reference: bytes,
    query_size: Size,
    reference_size: Size,
    query_xy: np.ndarray,
    reference_xy: np.ndarray,
    inliers: np.ndarray,
    texts: Sequence[str] = (),
    *,
    outliers: bool = True,
    highlight: int | None = None,
    query_outline: np.ndarray | None = None,
    reference_outline: np.ndarray | None = None,
    limit: int = 200,
) -> str:
    """Two pictures side by side, joined by a line a match: solid blue for inliers, dashed orange for
    the others. Hovering a line tells its text; `highlight` draws one match alone, and strong."""
    tall = 1000.0
    frames = [
        (left * tall, scale * tall, width * scale * tall)
        for left, scale, width, _ in side_by_side(query_size, reference_size)
    ]
    parts = [
        _image(jpeg, left, 0, wide, tall)
        for jpeg, (left, _, wide) in zip((query, reference), frames, strict=True)
    ]
    for outline, (left, scale, wide) in zip(
        (query_outline, reference_outline), frames, strict=True
    ):
        if outline is not None:
            moved = np.asarray(outline) * scale
            inside = _polygon(moved, 6)
            parts.append(
                f'<svg x="{left:g}" y="0" width="{wide:g}" height="{tall:g}"'
                f' viewBox="0 0 {wide:g} {tall:g}">{inside}</svg>'
            )
    ends = [
        np.asarray(xy, float).reshape(-1, 2) * scale + [left, 0]
        for xy, (left, scale, _) in zip((query_xy, reference_xy), frames, strict=True)
    ]
    shown = [spread(np.flatnonzero(inliers), limit)]
    if outliers:
        shown.insert(0, spread(np.flatnonzero(~np.asarray(inliers, bool)), limit))
    rows = np.concatenate(shown) if highlight is None else np.array([highlight])
    wide = 3.0 if highlight is None else 8.0
    for row in rows.astype(int):
        (ax, ay), (bx, by) = ends[0][row], ends[1][row]
        colour = SKY if inliers[row] else FALSE
        dashes = "" if inliers[row] else ' stroke-dasharray="12 9"'
        text = f"<title>{escaped(texts[row])}</title>" if row < len(texts) else ""
        parts.append(
            f'<g class="m" stroke="{colour}" fill="{colour}">{text}'
            f'<line x1="{ax:.1f}" y1="{ay:.1f}" x2="{bx:.1f}" y2="{by:.1f}"'
            f' stroke-width="{wide:g}"{dashes}/>'
            f'<circle cx="{ax:.1f}" cy="{ay:.1f}" r="{wide * 1.8:g}" stroke="none"/>'
            f'<circle cx="{bx:.1f}" cy="{by:.1f}" r="{wide * 1.8:g}" stroke="none"/></g>'
        )
    left, _, wide = frames[1]
    style = "<style>.m{opacity:.85}.m:hover{opacity:1;stroke-width:9}</style>"
    return _svg(left + wide, tall, [style, *parts])


def layers(below: bytes, above: bytes, size: Size, opacity: float, flicker: bool = False) -> str:
    """One picture over another of the same size: blended, or shown in turn twice a second."""
    width, height = size
    blink = '<animate attributeName="opacity" values="0;1" dur="1s" calcMode="discrete" repeatCount="indefinite"/>'
    top = _image(above, 0, 0, width, height).removesuffix("/>")
    top += f' opacity="{1.0 if flicker else opacity:g}">{blink if flicker else ""}</image>'
    return _svg(width, height, [_image(below, 0, 0, width, height), top])


def dots(
    jpeg: bytes, size: Size, xy: np.ndarray, colours: Sequence[str], texts: Sequence[str]
) -> str:
    """A picture with a dot at each of xy (n,2), in original pixels; hovering one tells its text."""
    width, height = size
    radius = max(width, height) / 110
    parts = [_image(jpeg, 0, 0, width, height)]
    for (x, y), colour, text in zip(np.asarray(xy, float), colours, texts, strict=True):
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" stroke="{INK}"'
            f' stroke-width="{radius / 5:.2f}"><title>{escaped(text)}</title></circle>'
        )
    return _svg(width, height, parts)


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg"'
        f' style="width:100%;height:auto;max-height:{TALLEST_PX}px;display:block">{"".join(parts)}</svg>'
    )


def _image(jpeg: bytes, x: float, y: float, width: float, height: float) -> str:
    # Thumbnails are rounded to whole pixels: stretch them to the frame, by less than one pixel.
    return (
        f'<image href="{data_uri(jpeg)}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        ' preserveAspectRatio="none"/>'
    )


def _polygon(outline: np.ndarray, line: float) -> str:
    corners = np.asarray(outline, float).reshape(-1, 2)
    if not len(corners) or not np.isfinite(corners).all():
        return ""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners.clip(-1e5, 1e5))
    shape = f'<polygon points="{points}" fill="none" stroke-linejoin="round"'
    return (
        f'{shape} stroke="#10151c" stroke-opacity="0.55" stroke-width="{1.9 * line:g}"/>'
        f'{shape} stroke="{SKY}" stroke-width="{line:g}"/>'
    )


def _tag(x: float, y: float, text: str, size: float, colour: str) -> str:
    wide, top = size * (0.54 * len(text) + 0.8), max(y - 1.5 * size, 0)
    return (
        f'<rect x="{x:g}" y="{top:g}" width="{wide:g}" height="{1.5 * size:g}" fill="{colour}"/>'
        f'<text x="{x + 0.4 * size:g}" y="{top + 1.08 * size:g}" font-size="{size:g}"'
        f' font-family="sans-serif" fill="{INK}">{escaped(text)}</text>'
    )


def cut(jpeg: bytes, size: Size, box: np.ndarray, height_px: int) -> str:
    """The part of a picture inside a box x0, y0, x1, y1, in the pixels of its original `size`, shown at
    that height."""
    x0, y0, x1, y1 = (float(value) for value in box)
    width, height = max(x1 - x0, 1.0), max(y1 - y0, 1.0)
    picture = _image(jpeg, -x0, -y0, *size)
    style = f"height:{height_px}px;max-width:100%;overflow:hidden;display:block"
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg"'
        f' style="{style}">{picture}</svg>'
    )


@dataclass(frozen=True)
class Chart:
    """A drawn figure over which a mark can be moved without drawing it again.

    png: the figure; size: its width and height in pixels; frame: x0, y0, x1, y1 of its Axes in those
    pixels, y down; low, high, bottom, top: what the Axes' ends stand for (linear x axis).
    """

    png: bytes
    size: tuple[float, float]
    frame: tuple[float, float, float, float]
    low: float
    high: float
    bottom: float
    top: float

    @classmethod
    def of(cls, drawn: Figure, ax: Axes) -> Chart:
        """The chart of a figure with one Axes of interest, both axes linear where marks need them."""
        png = to_png(drawn)
        width, height = drawn.get_size_inches() * drawn.dpi
        box = ax.get_window_extent()
        frame = (box.x0, height - box.y1, box.x1, height - box.y0)
        return cls(png, (float(width), float(height)), frame, *ax.get_xlim(), *ax.get_ylim())

    def marked(self, dot: tuple[float, float] | None = None) -> str:
        """The figure, with a dot at (x, y) values."""
        x0, y0, x1, y1 = self.frame
        width, height = self.size
        address = "data:image/png;base64," + base64.b64encode(self.png).decode()
        parts = [f'<image href="{address}" width="{width:g}" height="{height:g}"/>']
        if dot is not None:
            x = x0 + (x1 - x0) * (dot[0] - self.low) / (self.high - self.low)
            y = y1 - (y1 - y0) * (dot[1] - self.bottom) / (self.top - self.bottom)
            style = f'fill="{FALSE}" stroke="{INK}" stroke-width="1.5"'
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" {style}/>')
        return _svg(width, height, parts)
