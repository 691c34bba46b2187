# SPDX-License-Identifier: AGPL-3.0-or-later
"""What differs between two aligned pictures, at full resolution: another text in the same form, another face on the
same card.

Verification compares thumbnails, in which two receipts of one shop are alike in every block. Here blocks are as small
as a few letters. A block counts as differing where no displacement of a few pixels makes it correlate. What an edit
lays over a copy differs, too, but it seldom has the ground and the contrast of what it covers, as another text in the
same form has.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from imgfp.geometry import project
from imgfp.verify.correlation import BLOCK_PX, NCC_INLIER, Alignment, Overlay

#: Longer side of the working frame in pixels: a block is then as large as one or two letters of a page.
LOOK_PX = 640
#: Cells on a side of the grid over a picture in which parts of it are marked.
CELLS = 32
#: Displacement, in working pixels, that a misalignment may cause.
_REACH_PX = 2
#: Standard deviation in grey levels from which a block is compared.
_TEXTURED = 10.0
#: Correlation from which a block certainly shows the same.
_AGREES = 0.9
#: How far the mean of a rewritten block may lie from that of the reference in the tones of the query, grey levels, and
#: the largest ratio of their contrasts.
_SAME_GROUND, _SAME_CONTRAST = 25.0, 1.67
#: Agreeing blocks, also as a share of those with texture in both pictures, without which nothing counts as rewritten:
#: too few tell the tones, and a blurred copy has none.
_LEAST_AGREEING, _LEAST_AGREEING_SHARE = 20, 0.15
#: Contrast of a rewritten block over the noise of the query, which is its contrast where the reference is flat.
_ABOVE_NOISE = 3.0
#: Standard deviation of a few pixels, grey levels, below which they are flat, and share of flat pixels from which a
#: picture counts as drawn: half of the pixels of most pages, screens and drawings, 0.15 of the median photograph.
_FLAT, _DRAWN = 2.0, 0.3
_FLAT_PX = 5


@dataclass(frozen=True)
class Differences:
    """Numbers of blocks. compared: textured in the overlap; differing: those of them that show something else;
    agreeing: those that certainly show the same; rewritten: differing blocks on the same ground in the same contrast,
    less the differing blocks on another: what an edit lays over a picture has both. unshared_unchanged,
    unshared_differing: those outside the parts that other references share; 0 where nothing is known of such parts.
    """

    compared: int = 0
    differing: int = 0
    agreeing: int = 0
    rewritten: int = 0
    unshared_unchanged: int = 0
    unshared_differing: int = 0

    @property
    def share(self) -> float:
        """Differing blocks over compared ones, 0..1; 1 where nothing could be compared."""
        return self.differing / self.compared if self.compared else 1.0

    @property
    def columns(self) -> dict[str, int]:
        """The columns of the evidence table that they give."""
        return {
            "compared_blocks": self.compared,
            "differing_blocks": self.differing,
            "unchanged_blocks": self.agreeing,
            "rewritten_blocks": self.rewritten,
            "unshared_unchanged": self.unshared_unchanged,
            "unshared_differing": self.unshared_differing,
        }


@dataclass(frozen=True)
class ComparedBlocks:
    """The blocks that are textured in the overlap of two pictures.

    query_xy, reference_xy (n,2) float64: their centres, pixels of each picture; differing, agreeing (n,) bool and
    rewritten: see `Differences`; side_px: side of a block, pixels of the reference.
    """

    query_xy: np.ndarray
    reference_xy: np.ndarray
    differing: np.ndarray
    agreeing: np.ndarray
    rewritten: int
    side_px: float

    def count(self, unshared: np.ndarray | None = None) -> Differences:
        """Their numbers; unshared (n,) bool: outside the parts that other references share, None where nothing is known of
        such parts."""
        if unshared is None:
            unshared = np.zeros(len(self.differing), bool)
        numbers = [self.differing, self.agreeing]
        numbers += [unshared & blocks for blocks in (self.agreeing, self.differing)]
        differing, agreeing, *outside = (int(np.count_nonzero(blocks)) for blocks in numbers)
        return Differences(len(self.differing), differing, agreeing, self.rewritten, *outside)

    def shared_cells(
        self, query_size: tuple[int, int], reference_size: tuple[int, int]
    ) -> list[np.ndarray]:
        """The cells (CELLS,CELLS) bool of the query and of the reference, each of this (width, height), in which most
        blocks agree."""
        found = []
        for xy, size in ((self.query_xy, query_size), (self.reference_xy, reference_size)):
            balance = np.zeros((CELLS, CELLS), np.int64)
            np.add.at(balance, cell_of(xy, size), np.where(self.agreeing, 1, -1))
            found.append(balance > 0)
        return found


def find_differences(alignment: Alignment, shared: np.ndarray | None = None) -> Differences:
    """Compare two pictures, best given at full resolution, within their overlap. shared: cells (CELLS,CELLS) bool of the
    reference that other references share."""
    blocks = compare_blocks(alignment)
    if blocks is None:
        return Differences()
    if shared is None:
        return blocks.count()
    size = alignment.reference.shape[1], alignment.reference.shape[0]
    return blocks.count(~shared[cell_of(blocks.reference_xy, size)])


def compare_blocks(alignment: Alignment) -> ComparedBlocks | None:
    """The blocks of two pictures, best given at full resolution, within their overlap; None where they hardly overlap."""
    overlay = alignment.overlay(LOOK_PX)
    if overlay is None or not overlay.covered.size:
        return None
    strength = overlay.displacements(_REACH_PX).strength
    textured = overlay.weight >= _TEXTURED
    differing = textured & (strength <= NCC_INLIER)
    row, column = np.nonzero(textured)
    work = np.stack([overlay.columns[column], overlay.rows[row]], axis=1).astype(np.float64)
    reference = project(np.linalg.inv(overlay.to_work), work)
    return ComparedBlocks(
        query_xy=project(np.linalg.inv(alignment.homography), reference),
        reference_xy=reference,
        differing=differing[textured],
        agreeing=(strength > _AGREES)[textured],
        rewritten=_rewritten(overlay, strength, differing),
        side_px=BLOCK_PX / float(overlay.to_work[0, 0]),
    )


def _rewritten(overlay: Overlay, strength: np.ndarray, differing: np.ndarray) -> int:
    """See `Differences`. strength (b,c): correlation of each block; differing (b,c) bool."""
    grid = np.ix_(overlay.rows, overlay.columns)
    means, spreads = ([side[grid] for side in pair] for pair in (overlay.means, overlay.spreads))
    both = (overlay.weight >= _TEXTURED) & (np.minimum(*spreads) >= _TEXTURED)
    flat = overlay.covered & (spreads[1] < _FLAT)
    if flat.any():  # what noise hides is not something else
        both &= spreads[0] >= _ABOVE_NOISE * np.median(spreads[0][flat])
    agreeing = both & (strength > _AGREES)
    if agreeing.sum() < max(_LEAST_AGREEING, _LEAST_AGREEING_SHARE * both.sum()):
        return 0
    # The tones of the query, from where both show the same.
    slope, offset = np.polyfit(means[1][agreeing], means[0][agreeing], 1)
    contrast = np.median(spreads[0][agreeing] / spreads[1][agreeing])
    ratio = spreads[0] / np.maximum(contrast * spreads[1], 1e-6)
    same = abs(means[0] - slope * means[1] - offset) < _SAME_GROUND
    same &= (ratio < _SAME_CONTRAST) & (ratio > 1 / _SAME_CONTRAST)
    over, instead = (int((both & differing & kind).sum()) for kind in (~same, same))
    return max(instead - over, 0)


def cell_of(
    xy: np.ndarray, size: tuple[int, int], cells: int = CELLS
) -> tuple[np.ndarray, np.ndarray]:
    """Row and column (n,) int64 of the cell in which each point (n,2), pixels of a picture of this (width, height), lies;
    points outside count to the nearest. cells: on a side of the grid."""
    at = np.clip(np.floor((xy + 0.5) * cells / np.asarray(size)), 0, cells - 1).astype(np.int64)
    return at[:, 1], at[:, 0]


def is_drawn(grey: np.ndarray) -> bool:
    """Whether a thumbnail, (h,w) float32 grey, is flat in large parts, as pages, screens and drawings are."""
    means, squares = (cv2.blur(values, (_FLAT_PX, _FLAT_PX)) for values in (grey, grey * grey))
    return bool((squares - means * means < _FLAT**2).mean() >= _DRAWN)
