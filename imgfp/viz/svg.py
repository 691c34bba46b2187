# SPDX-License-Identifier: AGPL-3.0-or-later
"""Drawings as SVG text, for the report and for widgets, with tooltips.

Functions that draw return one `<svg>` element. Images are embedded as JPEG bytes. All text is escaped
here, so that no file name can become markup.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imgfp.images import encode_jpeg, encode_webp, resize_short_side
from imgfp.text import label
from imgfp.viz.base import FALSE, INK, SKY, to_png
from imgfp.viz.pictures import Size, side_by_side, subsample

#: Largest height at which a drawing is shown.
MAX_HEIGHT_PX = 540


def escaped(text: object, limit: int = 0) -> str:
    """Text that is safe inside an element or a quoted attribute; control characters as escapes."""
    return html.escape(label(text, limit), quote=True)


def data_uri(image: bytes, kind: Literal["jpeg", "png", "webp"] = "jpeg") -> str:
    """The bytes of an image file as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def small_jpeg(image: np.ndarray, long_side_px: int, quality: int = 82) -> bytes:
    """(H,W,3) uint8 RGB as JPEG bytes, reduced to a longer side of at most `long_side_px`."""
    height, width = image.shape[:2]
    short = round(min(height, width) * min(1, long_side_px / max(height, width)))
    return encode_jpeg(resize_short_side(image, max(short, 1)), quality)


def outlined(jpeg: bytes, size: Size, outline: np.ndarray | None = None, text: str = "") -> str:
    """An image with a polygon (n,2) in pixels of the original, whose size is (width, height); `text` is
    its tooltip and its description for screen readers."""
    width, height = size
    shape = _polygon(outline, max(width, height) / 150) if outline is not None else ""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escaped(text)}</title>{_image(jpeg, 0, 0, width, height)}{shape}</svg>"
    )


def thumbnail(
    image: np.ndarray, long_side_px: int, size: Size, outlines: Sequence[np.ndarray], text: str
) -> str:
    """A picture (H,W,3) uint8 RGB in few bytes, reduced to a longer side of at most `long_side_px`; with polygons (n,2) in
    pixels of the original, whose size is (width, height), which the page's own style draws; text: for screen readers."""
    short = round(long_side_px * min(size) / max(size))
    small = resize_short_side(image, max(short, 1))
    height, width = small.shape[:2]
    scale = np.array([width, height]) / np.array(size, float)
    lines = []
    for outline in outlines:
        corners = (np.asarray(outline, float).reshape(-1, 2) * scale).round()
        if len(corners) and np.isfinite(corners).all():
            corners = corners.clip(0, [width, height]).astype(int).tolist()
            lines.append(f"M{'L'.join(f'{x} {y}' for x, y in corners)}Z")
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escaped(text, 80)}"><image width="{width}"'
        f' height="{height}" href="{data_uri(encode_webp(small), "webp")}"/>'
        + (f'<path d="{"".join(lines)}"/>' if lines else "")
        + "</svg>"
    )


def picture(jpeg: bytes, size: Size) -> str:
    """An image that fills the available width; size: (width, height)."""
    return _svg(*size, [_image(jpeg, 0, 0, *size)])


def boxes(
    jpeg: bytes,
    size: Size,
    xyxy: np.ndarray,
    texts: Sequence[str],
    chosen: dict[int, str],
    confidence: np.ndarray,
) -> str:
    """An image with boxes (n,4) in original pixels, each with a text (n) as its tooltip.

    chosen: row -> label of a box that is drawn bold; the others are dashed and fade with their
    confidence (n,).
    """
    width, height = size
    line = max(width, height) / 220
    parts = [_image(jpeg, 0, 0, width, height)]
    # The chosen boxes are drawn last, on top.
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
    """Two images side by side with one line per match: solid blue for inliers, dashed orange for
    outliers. texts: tooltip per match; outliers: draw them; highlight: the only match to draw, bold;
    outlines (n,2): polygons in original pixels; limit: of the lines of each kind."""
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
            polygon = _polygon(np.asarray(outline) * scale, 6)
            parts.append(
                f'<svg x="{left:g}" y="0" width="{wide:g}" height="{tall:g}"'
                f' viewBox="0 0 {wide:g} {tall:g}">{polygon}</svg>'
            )
    ends = [
        np.asarray(xy, float).reshape(-1, 2) * scale + [left, 0]
        for xy, (left, scale, _) in zip((query_xy, reference_xy), frames, strict=True)
    ]
    shown = [subsample(np.flatnonzero(inliers), limit)]
    if outliers:
        shown.insert(0, subsample(np.flatnonzero(~np.asarray(inliers, bool)), limit))
    rows = np.concatenate(shown) if highlight is None else np.array([highlight])
    thick = 3.0 if highlight is None else 8.0
    for row in rows.astype(int):
        (ax, ay), (bx, by) = ends[0][row], ends[1][row]
        colour = SKY if inliers[row] else FALSE
        dashes = "" if inliers[row] else ' stroke-dasharray="12 9"'
        text = f"<title>{escaped(texts[row])}</title>" if row < len(texts) else ""
        parts.append(
            f'<g class="m" stroke="{colour}" fill="{colour}">{text}'
            f'<line x1="{ax:.1f}" y1="{ay:.1f}" x2="{bx:.1f}" y2="{by:.1f}"'
            f' stroke-width="{thick:g}"{dashes}/>'
            f'<circle cx="{ax:.1f}" cy="{ay:.1f}" r="{thick * 1.8:g}" stroke="none"/>'
            f'<circle cx="{bx:.1f}" cy="{by:.1f}" r="{thick * 1.8:g}" stroke="none"/></g>'
        )
    left, _, wide = frames[1]
    style = "<style>.m{opacity:.85}.m:hover{opacity:1;stroke-width:9}</style>"
    return _svg(left + wide, tall, [style, *parts])


def layers(below: bytes, above: bytes, size: Size, opacity: float, flicker: bool = False) -> str:
    """One image over another of the same size: blended, or alternating twice per second."""
    width, height = size
    blink = '<animate attributeName="opacity" values="0;1" dur="1s" calcMode="discrete" repeatCount="indefinite"/>'
    top = _image(above, 0, 0, width, height).removesuffix("/>")
    top += f' opacity="{1.0 if flicker else opacity:g}">{blink if flicker else ""}</image>'
    return _svg(width, height, [_image(below, 0, 0, width, height), top])


def dots(
    jpeg: bytes, size: Size, xy: np.ndarray, colours: Sequence[str], texts: Sequence[str]
) -> str:
    """An image with a dot at each of xy (n,2), in original pixels, with a tooltip each."""
    width, height = size
    radius = max(width, height) / 110
    parts = [_image(jpeg, 0, 0, width, height)]
    for (x, y), colour, text in zip(np.asarray(xy, float), colours, texts, strict=True):
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" stroke="{INK}"'
            f' stroke-width="{radius / 5:.2f}"><title>{escaped(text)}</title></circle>'
        )
    return _svg(width, height, parts)


def cut(jpeg: bytes, size: Size, box: np.ndarray, height_px: int) -> str:
    """The part of an image inside a box x0, y0, x1, y1, in pixels of the original of that size, shown
    `height_px` tall."""
    x0, y0, x1, y1 = (float(value) for value in box)
    width, height = max(x1 - x0, 1.0), max(y1 - y0, 1.0)
    picture = _image(jpeg, -x0, -y0, *size)
    style = f"height:{height_px}px;max-width:100%;overflow:hidden;display:block"
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg"'
        f' style="{style}">{picture}</svg>'
    )


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg"'
        f' style="width:100%;height:auto;max-height:{MAX_HEIGHT_PX}px;display:block">{"".join(parts)}</svg>'
    )


def _image(jpeg: bytes, x: float, y: float, width: float, height: float) -> str:
    # The sides of a thumbnail are rounded: stretch it to the frame, by less than one pixel.
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


@dataclass(frozen=True)
class Chart:
    """A rendered figure over which a mark can be moved without rendering it again.

    png: the figure; size: its width and height in pixels; frame: x0, y0, x1, y1 of its Axes in those
    pixels, y down; low, high, bottom, top: the limits of the Axes. Marks assume linear axes.
    """

    png: bytes
    size: tuple[float, float]
    frame: tuple[float, float, float, float]
    low: float
    high: float
    bottom: float
    top: float

    @classmethod
    def of(cls, fig: Figure, ax: Axes) -> Chart:
        """Render a figure; marks are placed in `ax`."""
        png = to_png(fig)
        width, height = fig.get_size_inches() * fig.dpi
        box = ax.get_window_extent()
        frame = (box.x0, height - box.y1, box.x1, height - box.y0)
        return cls(png, (float(width), float(height)), frame, *ax.get_xlim(), *ax.get_ylim())

    def marked(self, dot: tuple[float, float] | None = None) -> str:
        """The figure as SVG, with a dot at (x, y) in data coordinates."""
        x0, y0, x1, y1 = self.frame
        width, height = self.size
        uri = data_uri(self.png, "png")
        parts = [f'<image href="{uri}" width="{width:g}" height="{height:g}"/>']
        if dot is not None:
            x = x0 + (x1 - x0) * (dot[0] - self.low) / (self.high - self.low)
            y = y1 - (y1 - y0) * (dot[1] - self.bottom) / (self.top - self.bottom)
            style = f'fill="{FALSE}" stroke="{INK}" stroke-width="1.5"'
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" {style}/>')
        return _svg(width, height, parts)
