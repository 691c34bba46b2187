# SPDX-License-Identifier: AGPL-3.0-or-later
"""The record of an edited image, with exact geometry, and the primitives that edits are built from.

Two coordinate frames are in use, half a pixel apart. A homography maps pixel centres: the centre of the
first pixel is (0, 0), as for keypoints and in OpenCV. Boxes and quads are corners: (0, 0) is the outer
corner of the first pixel, so that a box has exclusive ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from imgfp.edits import drawing


@dataclass(frozen=True)
class Edited:
    """An edited image and the position of its source in it.

    image (H,W,3) uint8 RGB; homography (3,3) float64, source pixel -> edited pixel, both as centres;
    mask (H,W) bool, True where a pixel shows the source at the position of the homography; quads
    (k,4,2) float64, the corners of pasted images, clockwise from their top left, in the corner frame of
    the edited image: first the source, then the other images of a collage, none where nothing was
    pasted; ops: (name, strength) pairs in the order they were applied.
    """

    image: np.ndarray
    homography: np.ndarray
    mask: np.ndarray
    quads: np.ndarray
    ops: list[tuple[str, float]]

    @property
    def quad(self) -> np.ndarray | None:
        """Corners (4,2) of the pasted source, not clipped; None if it was not pasted."""
        return self.quads[0] if len(self.quads) else None

    @property
    def box(self) -> np.ndarray | None:
        """xyxy (4,) float32 of the pasted source, clipped to the image; None if it was not pasted, is
        rotated, or lies outside."""
        if not len(self.quads) or not is_upright(self.quads[0]):
            return None
        box = self.boxes[0]
        return box if (box[2:] > box[:2]).all() else None

    @property
    def boxes(self) -> np.ndarray:
        """Bounding box xyxy (k,4) float32 of each pasted image, clipped to the edited image."""
        height, width = self.image.shape[:2]
        corners = np.concatenate([self.quads.min(axis=1), self.quads.max(axis=1)], axis=1)
        return np.clip(corners, 0, [width, height, width, height]).astype(np.float32)

    @property
    def is_visible(self) -> bool:
        """Whether enough of the source is left to call the image a copy: more than 4 % of the pixels, and contrast."""
        return bool(self.mask.mean() > 0.04 and self.image[self.mask].std() > 12)


def start(image: np.ndarray) -> Edited:
    """An unedited image. Raises ValueError unless it is (H,W,3) uint8 with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"expected an (H,W,3) uint8 image, got {image.shape} {image.dtype}")
    return Edited(image, np.eye(3), np.ones(image.shape[:2], bool), np.empty((0, 4, 2)), [])


def shift(x: float, y: float) -> np.ndarray:
    """The (3,3) matrix of a translation by x, y px."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], float)


def map_corners(matrix: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """Corners (k,4,2) under a matrix that maps pixel centres."""
    points = np.concatenate([quads - 0.5, np.ones((*quads.shape[:2], 1))], axis=2) @ matrix.T
    return points[..., :2] / points[..., 2:] + 0.5


def is_upright(quad: np.ndarray) -> bool:
    """Whether all four sides are horizontal or vertical to within half a pixel."""
    sides = np.abs(quad - np.roll(quad, 1, axis=0))
    return bool((sides.min(axis=1) < 0.5).all())


def corners(width: int, height: int) -> np.ndarray:
    """Corners (1,4,2) of a whole image, clockwise from its top left."""
    return np.array([[[0, 0], [width, 0], [width, height], [0, height]]], float)


def moved(edited: Edited, matrix: np.ndarray, image: np.ndarray, mask: np.ndarray) -> Edited:
    """The image after a step that maps its pixel centres by `matrix` and gives these pixels and mask."""
    quads = map_corners(matrix, edited.quads)
    return Edited(image, matrix @ edited.homography, mask, quads, edited.ops)


def resize(edited: Edited, width: int, height: int) -> Edited:
    """Scale to width, height px (at least 1 each)."""
    old_height, old_width = edited.mask.shape
    width, height = max(1, width), max(1, height)
    if (width, height) == (old_width, old_height):
        return edited
    sx, sy = width / old_width, height / old_height
    shrinks = sx < 1 or sy < 1
    image = cv2.resize(
        edited.image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    mask = edited.mask.view(np.uint8)
    mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT).view(bool)
    matrix = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
    return moved(edited, matrix, image, mask)


def cut(edited: Edited, x0: int, y0: int, x1: int, y1: int) -> Edited:
    """Crop to the pixels x0 <= x < x1, y0 <= y < y1."""
    image = np.ascontiguousarray(edited.image[y0:y1, x0:x1])
    mask = np.ascontiguousarray(edited.mask[y0:y1, x0:x1])
    return moved(edited, shift(-x0, -y0), image, mask)


def warp(
    edited: Edited, matrix: np.ndarray, width: int, height: int, fill: drawing.Colour | None
) -> Edited:
    """Warp pixel centres by `matrix` onto width x height px; fill: colour of new pixels, None: the image
    reflected at its border."""
    size = (width, height)
    border, colour = (
        (cv2.BORDER_REFLECT, (0, 0, 0)) if fill is None else (cv2.BORDER_CONSTANT, fill)
    )
    shown = edited.mask.view(np.uint8)
    if (matrix[2] == (0, 0, 1)).all():
        image = cv2.warpAffine(
            edited.image, matrix[:2], size, borderMode=border, borderValue=colour
        )
        mask = cv2.warpAffine(shown, matrix[:2], size, flags=cv2.INTER_NEAREST)
    else:
        image = cv2.warpPerspective(
            edited.image, matrix, size, borderMode=border, borderValue=colour
        )
        mask = cv2.warpPerspective(shown, matrix, size, flags=cv2.INTER_NEAREST)
    return moved(edited, matrix, image, mask.view(bool))


def as_pasted(edited: Edited) -> Edited:
    """Mark the whole image as pasted, unless an image inside it already is."""
    if len(edited.quads):
        return edited
    height, width = edited.mask.shape
    return replace(edited, quads=corners(width, height))


def place(edited: Edited, canvas: np.ndarray, x: int, y: int) -> Edited:
    """Paste the whole image on `canvas`, which is modified, with its top left pixel at x, y."""
    edited = as_pasted(edited)
    height, width = edited.mask.shape
    canvas[y : y + height, x : x + width] = edited.image
    mask = np.zeros(canvas.shape[:2], bool)
    mask[y : y + height, x : x + width] = edited.mask
    return moved(edited, shift(x, y), canvas, mask)


def rotation(width: int, height: int, degrees: float, grow: bool) -> tuple[np.ndarray, int, int]:
    """A rotation about the centre, clockwise: its matrix (3,3) and the new width and height px.

    grow: enlarge the canvas to hold the whole image; else it keeps its size.
    """
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    new_width, new_height = width, height
    if grow:
        new_width = max(1, int(np.ceil(width * abs(cos) + height * abs(sin) - 1e-6)))
        new_height = max(1, int(np.ceil(width * abs(sin) + height * abs(cos) - 1e-6)))
    rotated = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    to_centre = shift((new_width - 1) / 2, (new_height - 1) / 2)
    return to_centre @ rotated @ shift(-(width - 1) / 2, -(height - 1) / 2), new_width, new_height
