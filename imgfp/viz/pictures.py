# SPDX-License-Identifier: AGPL-3.0-or-later
"""Images on Axes: contact sheets, boxes, keypoints, matches, overlays.

Images are (H,W,3) uint8 RGB. Coordinates are pixels of the upright original; for a thumbnail, `size`
(width, height of the original) scales it to those coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.patches import Polygon, Rectangle
from matplotlib.patheffects import withStroke

from imgfp.text import label
from imgfp.viz.base import (
    CYCLE,
    FALSE,
    INK,
    SKY,
    YELLOW,
    put_text,
    set_title,
    show_placeholder,
)

Size = tuple[float, float]
#: Least diameter at which a keypoint is drawn, as a share of the longer side.
LEAST_DIAMETER = 1 / 80
#: Tints of an overlay: of nothing, of what other references share, of what differs.
_MARKS = np.array([[255, 255, 255], [190, 215, 255], [255, 150, 140]], np.float32)
_OUTLINE = [withStroke(linewidth=2.4, foreground="#10151c")]


def draw_image(ax: Axes, image: np.ndarray, title: str = "", size: Size | None = None) -> Axes:
    """An image without ticks. size: width, height of its coordinates, by default its own."""
    width, height = size or (image.shape[1], image.shape[0])
    ax.imshow(image, extent=(0, width, height, 0), interpolation="antialiased")
    _hide_axes(ax)
    if title:
        set_title(ax, label(title, 60), fontsize=9)
    return ax


def draw_contact_sheet(
    ax: Axes, images: Sequence[np.ndarray], titles: Sequence[str] = (), columns: int = 6
) -> Axes:
    """Images in rows of `columns`, each fitted into its cell, with its title below it."""
    if not len(images):
        return show_placeholder(ax, "no images")
    _hide_axes(ax)
    columns = max(1, min(columns, len(images)))
    gap = 0.24 if len(titles) else 0.05
    sizes = [np.array(image.shape[1::-1]) * 0.95 / max(image.shape[:2]) for image in images]
    top = 0.0
    for start in range(0, len(images), columns):
        tall = max(height for _, height in sizes[start : start + columns])
        for number in range(start, min(start + columns, len(images))):
            width, height = sizes[number]
            left, upper = number - start + (1 - width) / 2, top + (tall - height) / 2
            extent = (left, left + width, upper + height, upper)
            ax.imshow(images[number], extent=extent, interpolation="antialiased", zorder=2)
            if number < len(titles):
                put_text(
                    ax,
                    number - start + 0.5,
                    top + tall + 0.03,
                    label(titles[number], 22),
                    ha="center",
                    va="top",
                    fontsize=7.5,
                    color=INK,
                )
        top += tall + gap
    ax.set_xlim(0, columns)
    ax.set_ylim(top, -0.02)
    ax.set_aspect("equal")
    return ax


def draw_map(
    ax: Axes, images: Sequence[np.ndarray], vectors: np.ndarray, groups: Sequence[int] = ()
) -> Axes:
    """Images as tiles of a grid on which similar ones are near each other: the first two principal components of their
    vectors (n,d), spread over the cells by the assignment that moves them least. Images of one group (a number
    above -1 per image) have a frame of the same colour."""
    if len(images) < 2:
        return show_placeholder(ax, "no images")
    _hide_axes(ax)
    rows = round(np.sqrt(len(images) / 2))
    columns = -(-len(images) // rows)
    for number, (row, column) in enumerate(_cells(vectors, rows, columns)):
        image = images[number]
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        square = image[top : top + side, left : left + side]
        extent = (column + 0.02, column + 0.98, row + 0.98, row + 0.02)
        ax.imshow(square, extent=extent, interpolation="antialiased")
        if len(groups) and groups[number] >= 0:
            frame = Rectangle((column + 0.04, row + 0.04), 0.92, 0.92, fill=False, zorder=3)
            frame.set(edgecolor=CYCLE[groups[number] % len(CYCLE)], linewidth=2.5)
            ax.add_patch(frame)
    ax.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal")
    return ax


def _cells(vectors: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Row and column (n,2) of each vector on the grid."""
    from scipy.optimize import linear_sum_assignment

    centred = np.asarray(vectors, float) - np.mean(vectors, axis=0)
    axes, lengths, _ = np.linalg.svd(centred, full_matrices=False)
    plane = (axes * lengths)[:, :2]
    plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    # Ranks spread what lies in one crowd over the whole plane.
    plane = plane.argsort(axis=0).argsort(axis=0) / max(len(plane) - 1, 1)
    cells = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1)
    cells = cells.reshape(-1, 2)
    wanted = plane[:, ::-1] * [rows - 1, columns - 1]
    cost = ((wanted[:, None] - cells) ** 2).sum(-1)
    return cells[linear_sum_assignment(cost)[1]]


def draw_boxes(
    ax: Axes,
    image: np.ndarray,
    xyxy: np.ndarray,
    labels: Sequence[str] = (),
    chosen: Sequence[int] | np.ndarray = (),
    title: str = "",
    size: Size | None = None,
    others: int = 4,
) -> Axes:
    """An image with boxes (n,4) x0, y0, x1, y1, most confident first. The rows in `chosen` are drawn
    bold; of the others only the first `others` are drawn."""
    draw_image(ax, image, title, size)
    height = ax.get_ylim()[0]  # labels of boxes at the upper edge go inside the box
    faint = [row for row in range(len(xyxy)) if row not in set(chosen)][:others]
    for row in [*faint, *chosen]:
        x0, y0, x1, y1 = np.asarray(xyxy[row], float)
        bold = row not in faint
        colour = SKY if bold else FALSE
        ax.add_patch(
            Rectangle(
                (x0, y0),
                x1 - x0,
                y1 - y0,
                fill=False,
                edgecolor=colour,
                linewidth=2.4 if bold else 1.2,
                linestyle="-" if bold else (0, (4, 2)),
                path_effects=_OUTLINE if bold else None,
                zorder=4 if bold else 3,
            )
        )
        if row < len(labels):
            tag = {"facecolor": colour, "edgecolor": "none", "pad": 1.6}
            put_text(
                ax,
                x0,
                y0,
                label(labels[row]),
                fontsize=7.5,
                color=INK,
                va="bottom" if y0 > 0.08 * height else "top",
                bbox=tag,
                zorder=5,
                clip_on=True,
            )
    return ax


def draw_keypoints(
    ax: Axes, image: np.ndarray, keypoints: np.ndarray, title: str = "", size: Size | None = None
) -> Axes:
    """An image with keypoints (n,4): x, y, diameter px, angle rad; circles with a radius at the angle, the small ones
    drawn as large as can be seen."""
    draw_image(ax, image, title, size)
    points = np.asarray(keypoints, float).reshape(-1, 4)
    if not len(points):
        return ax
    x, y, diameter, angle = points.T
    diameter = np.maximum(diameter, max(size or _size(image)) * LEAST_DIAMETER)
    circles = EllipseCollection(
        diameter,
        diameter,
        0,
        units="xy",
        offsets=points[:, :2],
        offset_transform=ax.transData,
        facecolors="none",
        edgecolors=SKY,
        linewidths=1.1,
    )
    ends = np.stack([x + diameter / 2 * np.cos(angle), y + diameter / 2 * np.sin(angle)], axis=1)
    ax.add_collection(circles, autolim=False)
    radii = LineCollection(
        list(np.stack([points[:, :2], ends], axis=1)), colors=YELLOW, linewidths=0.9, zorder=3
    )
    ax.add_collection(radii, autolim=False)
    return ax


def draw_matches(
    ax: Axes,
    query: np.ndarray,
    reference: np.ndarray,
    query_xy: np.ndarray,
    reference_xy: np.ndarray,
    inliers: np.ndarray | None = None,
    *,
    titles: Sequence[str] = (),
    query_size: Size | None = None,
    reference_size: Size | None = None,
    limit: int = 200,
) -> Axes:
    """Two images side by side at one height, with one line per match.

    query_xy, reference_xy (n,2): matched positions; inliers (n,) bool: inliers of the homography,
    drawn solid and blue; outliers are thin, dashed and orange. Of each kind at most `limit` lines are
    drawn, evenly sampled.
    """
    boxes = side_by_side(query_size or _size(query), reference_size or _size(reference))
    _hide_axes(ax)
    for picture, (left, scale, width, height) in zip((query, reference), boxes, strict=True):
        extent = (left, left + width * scale, height * scale, 0)
        ax.imshow(picture, extent=extent, interpolation="antialiased")
    for text, (left, *_) in zip(titles, boxes, strict=False):
        put_text(ax, left, -0.02, label(text, 72), ha="left", va="bottom", fontsize=8.5, color=INK)
    ends = [
        np.asarray(xy, float).reshape(-1, 2) * scale + [left, 0]
        for xy, (left, scale, *_) in zip((query_xy, reference_xy), boxes, strict=True)
    ]
    inside = np.ones(len(ends[0]), bool) if inliers is None else np.asarray(inliers, bool)
    for keep, colour, width, dashes in (
        (~inside, FALSE, 0.7, (0, (4, 3))),
        (inside, SKY, 1.1, "-"),
    ):
        rows = subsample(np.flatnonzero(keep), limit)
        lines = np.stack([ends[0][rows], ends[1][rows]], axis=1)
        ax.add_collection(
            LineCollection(
                list(lines), colors=colour, linewidths=width, linestyles=[dashes], alpha=0.9
            ),
            autolim=False,
        )
        dots = lines.reshape(-1, 2)
        ax.scatter(dots[:, 0], dots[:, 1], s=7, c=colour, edgecolors=INK, linewidths=0.3, zorder=4)
    last = boxes[1]
    ax.set_xlim(0, last[0] + last[1] * last[2])
    ax.set_ylim(1, -0.02)
    ax.set_aspect("equal")
    return ax


def side_by_side(query_size: Size, reference_size: Size, gap: float = 0.03) -> list[tuple]:
    """Layout of two images side by side at height 1: (left, scale, width, height) of each; sizes are
    (width, height)."""
    boxes, left = [], 0.0
    for width, height in (query_size, reference_size):
        boxes.append((left, 1 / height, width, height))
        left += width / height + gap
    return boxes


def subsample(rows: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of `rows`, evenly spaced, in order."""
    if len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).round().astype(int)]


def draw_outline(ax: Axes, corners: np.ndarray, colour: str = SKY, text: str = "") -> Axes:
    """Add a closed polygon through corners (n,2), e.g. the overlap with the other image."""
    points = np.asarray(corners, float).reshape(-1, 2)
    if len(points) and np.isfinite(points).all():
        style = {"edgecolor": colour, "linewidth": 2.2, "path_effects": _OUTLINE, "zorder": 4}
        ax.add_patch(Polygon(points, closed=True, fill=False, **style))
        if text:
            x, y = points[points[:, 1].argmin()]
            tag = {"facecolor": colour, "edgecolor": "none", "pad": 1.6}
            put_text(ax, x, y, label(text), fontsize=7.5, va="bottom", bbox=tag, clip_on=True)
    return ax


def draw_overlay(
    ax: Axes,
    warped: np.ndarray,
    reference: np.ndarray,
    inside: np.ndarray | None = None,
    *,
    blend: float = 0.5,
    difference: bool = False,
) -> Axes:
    """The query warped onto the reference, as a blend or as a difference image.

    warped and reference have one size; inside (H,W) bool: pixels that the query covers; blend: weight
    of the query, 0..1. The difference image is white where the two are equal and dark red where they
    differ.
    """
    return draw_image(ax, overlay(warped, reference, inside, blend=blend, difference=difference))


def overlay(
    warped: np.ndarray,
    reference: np.ndarray,
    inside: np.ndarray | None = None,
    *,
    blend: float = 0.5,
    difference: bool = False,
    marks: np.ndarray | None = None,
) -> np.ndarray:
    """The image that `draw_overlay` draws, (H,W,3) uint8 RGB. marks (H,W) uint8: 2 where something else is shown, in red,
    1 in what other references share, in blue, else 0; where they are given, they are the difference, and not what tones and
    noise add. Raises ValueError for unequal sizes."""
    if warped.shape != reference.shape:
        raise ValueError(f"warped {warped.shape} and reference {reference.shape} differ in size")
    above, below = warped.astype(np.float32), reference.astype(np.float32)
    covered = np.ones(above.shape[:2], bool) if inside is None else np.asarray(inside, bool)
    if difference and marks is not None:
        faded = 255 - 0.5 * (255 - above.mean(axis=2, keepdims=True))
        mixed = faded * _MARKS[marks] / 255
        outside = 255 - 0.15 * (255 - below)
    elif difference:
        change = np.abs(above - below).mean(axis=2, keepdims=True) / 255
        change = np.clip(change * 2.0, 0, 1)
        dark_red = np.array([140, 30, 0], np.float32)
        mixed = 255 + (dark_red - 255) * change
        outside = 255 - 0.15 * (255 - below)
    else:
        mixed = blend * above + (1 - blend) * below
        outside = below * (1 - 0.6 * blend)
    return np.where(covered[:, :, None], mixed, outside).round().clip(0, 255).astype(np.uint8)


def _size(image: np.ndarray) -> Size:
    return image.shape[1], image.shape[0]


def _hide_axes(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
