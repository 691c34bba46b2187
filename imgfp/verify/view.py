# SPDX-License-Identifier: AGPL-3.0-or-later
"""One side of a pair, with what is computed once per image and used for all its pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from imgfp.geometry import corners_of
from imgfp.verify.correlation import Alignment, to_grey
from imgfp.verify.matching import variant_spectrum

#: The eight symmetries of a square: flipped upside down, mirrored, transposed (0 or 1 each).
DIHEDRAL_VIEWS = [(flip, mirror, turn) for turn in (0, 1) for flip in (0, 1) for mirror in (0, 1)]
#: Side in pixels of the square at which whole frames are compared, and the least correlation that
#: makes their alignment a hypothesis.
_FRAME_PX, MIN_FRAME_CORRELATION = 32, 0.25
#: Cells on a side of the grid in which colours are compared.
_COLOUR_CELLS = 16


@dataclass(frozen=True)
class View:
    """One side of a pair.

    keypoints (n,4) float32 = x, y, size, angle and descriptors (n,128) uint8, in pixels of the
    whole image with its EXIF orientation applied, also if they were extracted from a crop of it;
    width, height of the whole image in pixels; thumbnail (h,w) or (h,w,3) uint8 of the whole image
    at any size; box xyxy: the part that was cropped and searched (None: all of it);
    frame_short_side_px: short side to which `sift.extract` reduced the part (0: not reduced).
    """

    keypoints: np.ndarray
    descriptors: np.ndarray
    thumbnail: np.ndarray
    width: int
    height: int
    box: np.ndarray | None = None
    frame_short_side_px: int = 300

    @cached_property
    def part(self) -> np.ndarray:
        """The searched part, xyxy, clipped to the image."""
        whole = np.array([0, 0, self.width, self.height], np.float64)
        if self.box is None:
            return whole
        box = np.clip(np.asarray(self.box, np.float64), 0, whole[[2, 3, 2, 3]])
        return box if (box[2:] - box[:2] >= 1).all() else whole

    @cached_property
    def corners(self) -> np.ndarray:
        """Corners (4,2) of the searched part, with pixel centres at whole numbers."""
        low, high = self.part[:2], self.part[2:]
        return corners_of(*(high - low)) + low

    @cached_property
    def frame_px(self) -> float:
        """Pixels of the image per pixel of the frame in which the keypoints were found."""
        short = float((self.part[2:] - self.part[:2]).min())
        return max(1.0, short / self.frame_short_side_px) if self.frame_short_side_px else 1.0

    @cached_property
    def variants(self) -> np.ndarray:
        """The descriptors as `matching.variant_spectrum`, (4,n,32) float32."""
        return variant_spectrum(self.descriptors)

    @cached_property
    def _crop(self) -> tuple[np.ndarray, np.ndarray]:
        shape = self.thumbnail.shape
        scale = np.array([shape[1] / self.width, shape[0] / self.height])
        low = np.floor(self.part[:2] * scale).astype(int)
        high = np.maximum(np.ceil(self.part[2:] * scale).astype(int), low + 1)
        shift = scale / 2 - 0.5 - low
        to_crop = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]], [0, 0, 1]])
        return self.thumbnail[low[1] : high[1], low[0] : high[0]], to_crop

    @cached_property
    def grey(self) -> np.ndarray:
        """(h,w) float32 grey thumbnail of the searched part."""
        return np.ascontiguousarray(to_grey(self._crop[0]))

    @property
    def colours(self) -> np.ndarray:
        """(h,w,3) float32 thumbnail of the searched part."""
        part = self._crop[0].astype(np.float32)
        return part if part.ndim == 3 else np.dstack([part] * 3)

    @property
    def to_grey_px(self) -> np.ndarray:
        """The transform (3,3) from pixels of the whole image to pixels of `grey`."""
        return self._crop[1]

    @cached_property
    def dihedral_views(self) -> np.ndarray:
        """(8,_FRAME_PX**2): the part as a small square with local contrast normalised, of unit
        norm, in the eight orientations of DIHEDRAL_VIEWS."""
        square = cv2.resize(self.grey, (_FRAME_PX, _FRAME_PX), interpolation=cv2.INTER_AREA)
        mean = cv2.blur(square, (9, 9))
        spread = np.sqrt(np.maximum(cv2.blur(square * square, (9, 9)) - mean * mean, 0))
        normalised = (square - mean) / (spread + 4)
        views = []
        for flip, mirror, turn in DIHEDRAL_VIEWS:
            view = normalised.T if turn else normalised
            views.append(view[:: -1 if flip else 1, :: -1 if mirror else 1].ravel())
        stack = np.stack(views)
        return stack / max(float(np.linalg.norm(stack[0])), 1e-6)


def alignment_of(query: View, reference: View, homography: np.ndarray) -> Alignment:
    """The grey searched parts of two views, aligned by a homography (3,3) from query to reference
    pixels of the whole images."""
    to_query_px = np.linalg.inv(query.to_grey_px)
    return Alignment(query.grey, reference.grey, reference.to_grey_px @ homography @ to_query_px)


def homography_of(query: View, reference: View, alignment: Alignment) -> np.ndarray:
    """The homography (3,3) of an alignment of two views, from query to reference pixels of the
    whole images; the inverse of `alignment_of`."""
    to_reference_px = np.linalg.inv(reference.to_grey_px)
    homography = to_reference_px @ alignment.homography @ query.to_grey_px
    return homography / homography[2, 2]


def colour_difference(query: View, reference: View, alignment: Alignment) -> float:
    """Mean difference, grey levels 0..255, of the mean colours in the cells of a coarse grid over the overlap of two
    aligned views; NaN if they hardly overlap. It needs no texture, and edits of the colours change it."""
    overlay = alignment.overlay()
    if overlay is None:
        return np.nan
    size = overlay.mask.shape[::-1]
    to_work = overlay.to_work
    views = ((query, to_work @ alignment.homography), (reference, to_work))
    cells = []
    for view, matrix in views:
        warped = cv2.warpPerspective(view.colours, matrix, size, borderMode=cv2.BORDER_REPLICATE)
        cells.append(cv2.resize(warped, (_COLOUR_CELLS,) * 2, interpolation=cv2.INTER_AREA))
    covered = cv2.resize(overlay.mask, (_COLOUR_CELLS,) * 2, interpolation=cv2.INTER_AREA) > 0.99
    return float(abs(cells[0] - cells[1])[covered].mean()) if covered.any() else np.nan
