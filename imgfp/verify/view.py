"""One side of a pair, with everything that is made once a picture and used for all its pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from imgfp.geometry import corners_of
from imgfp.verify.correlation import to_grey
from imgfp.verify.matching import variant_spectrum

#: The eight ways to lay one square on another: turned upside down, mirrored, corners exchanged.
DIHEDRAL_VIEWS = [(flip, mirror, turn) for turn in (0, 1) for flip in (0, 1) for mirror in (0, 1)]
#: Side of the square at which whole frames are compared, and the correlation worth a closer look.
_FRAME_PX, MIN_FRAME_CORRELATION = 32, 0.25


@dataclass(frozen=True)
class View:
    """One side of a pair.

    keypoints (n,4) float32 = x, y, size, angle and descriptors (n,128) uint8, in original upright
    pixels of the whole picture, also when they were found in a crop of it; width, height of the
    whole picture; thumbnail (h,w) or (h,w,3) uint8 of the whole picture at any size; box xyxy: the
    part that was cut out and searched (None: all of it); frame_short_side_px: what `sift.extract`
    shrank the part to (0: not shrunk).
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
        """The searched part, xyxy, inside the picture."""
        whole = np.array([0, 0, self.width, self.height], np.float64)
        if self.box is None:
            return whole
        box = np.clip(np.asarray(self.box, np.float64), 0, whole[[2, 3, 2, 3]])
        return box if (box[2:] - box[:2] >= 1).all() else whole

    @cached_property
    def corners(self) -> np.ndarray:
        """Corners (4,2) of the searched part, pixel centres at whole numbers."""
        low, high = self.part[:2], self.part[2:]
        return corners_of(*(high - low)) + low

    @cached_property
    def frame_px(self) -> float:
        """Pixels of the picture per pixel of the frame that keypoints were found in."""
        short = float((self.part[2:] - self.part[:2]).min())
        return max(1.0, short / self.frame_short_side_px) if self.frame_short_side_px else 1.0

    @cached_property
    def variants(self) -> np.ndarray:
        return variant_spectrum(self.descriptors)

    @cached_property
    def _cut(self) -> tuple[np.ndarray, np.ndarray]:
        """Grey thumbnail of the searched part, and the map (3,3) from whole-picture pixels to it."""
        grey = to_grey(self.thumbnail)
        scale = np.array([grey.shape[1] / self.width, grey.shape[0] / self.height])
        low = np.floor(self.part[:2] * scale).astype(int)
        high = np.maximum(np.ceil(self.part[2:] * scale).astype(int), low + 1)
        shift = scale / 2 - 0.5 - low
        to_cut = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]], [0, 0, 1]])
        return np.ascontiguousarray(grey[low[1] : high[1], low[0] : high[0]]), to_cut

    @property
    def grey(self) -> np.ndarray:
        return self._cut[0]

    @property
    def to_grey_px(self) -> np.ndarray:
        return self._cut[1]

    @cached_property
    def dihedral_views(self) -> np.ndarray:
        """The part as a small square with local contrast evened out, unit norm, laid in 8 ways."""
        square = cv2.resize(self.grey, (_FRAME_PX, _FRAME_PX), interpolation=cv2.INTER_AREA)
        mean = cv2.blur(square, (9, 9))
        spread = np.sqrt(np.maximum(cv2.blur(square * square, (9, 9)) - mean * mean, 0))
        even = (square - mean) / (spread + 4)
        sides = []
        for flip, mirror, turn in DIHEDRAL_VIEWS:
            laid = even.T if turn else even
            sides.append(laid[:: -1 if flip else 1, :: -1 if mirror else 1].ravel())
        stack = np.stack(sides)
        return stack / max(float(np.linalg.norm(stack[0])), 1e-6)
