# SPDX-License-Identifier: AGPL-3.0-or-later
"""Block-wise normalised cross-correlation (NCC) of two aligned images.

A copy correlates nearly everywhere it is not painted over; another photograph of the same scene
correlates only in places. The overlap is compared in blocks, so that a sticker or a caption costs
only the blocks that it covers. Normalisation removes the brightness and contrast of each block, and
the absolute value ignores its sign, so that colour edits and negatives do no harm. Edges are
compared as well, because they survive solarisation, posterisation and conversion to line drawings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import cv2
import numpy as np

from imgfp.geometry import corners_of, local_areas, overlap_of

#: Longer side of the working frame in pixels: finer detail differs by noise, blur and JPEG
#: artefacts.
WORK_PX = 96
#: Side and spacing of the blocks in working pixels.
BLOCK_PX = 13
STEP_PX = 6
#: A block is an inlier if its absolute correlation is greater than this.
NCC_INLIER = 0.7
#: Standard deviation in grey levels below which a block counts as flat, and above which its weight
#: no longer grows.
FLAT_SPREAD, FULL_SPREAD = 4.0, 20.0
#: Displacement in working pixels that measures the chance level.
MISALIGNED_PX = 7

_NEARBY = [(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)]
_UNMOVED = _NEARBY.index((0, 0))
_TWO_AWAY = [(x, y) for x in range(-2, 3) for y in range(-2, 3) if max(abs(x), abs(y)) == 2]
_MISALIGNED = [(MISALIGNED_PX, 0), (-MISALIGNED_PX, 0), (0, MISALIGNED_PX), (0, -MISALIGNED_PX)]

_Pair = tuple[np.ndarray, np.ndarray]


def to_grey(image: np.ndarray) -> np.ndarray:
    """(h,w) float32 brightness 0..255 of a grey (h,w) or RGB (h,w,3) uint8 image."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return image.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Alignment:
    """Two images and the homography that aligns them.

    query, reference (h,w) float32 grey, see `to_grey`; homography (3,3) from query to reference
    pixels of these grey images.
    """

    query: np.ndarray
    reference: np.ndarray
    homography: np.ndarray
    _overlays: dict[int, Overlay | None] = field(default_factory=dict, init=False, repr=False)

    def overlay(self, size_px: int = WORK_PX) -> Overlay | None:
        """Both images warped into one frame, no finer than the coarser of them, with a longer side
        of at most `size_px`; None if they hardly overlap. Computed once per size."""
        if size_px not in self._overlays:
            self._overlays[size_px] = _warp_both(self, size_px)
        return self._overlays[size_px]

    def under(self, homography: np.ndarray) -> Alignment:
        """The same images under another homography (3,3)."""
        return Alignment(self.query, self.reference, homography)


@dataclass(frozen=True)
class BlockCorrelation:
    """Statistics of the block correlations of one overlay.

    inlier_ratio: weight of the inlier blocks over that of all blocks, 0..1; a block weighs by its
    texture. chance: the same measured on deliberately misaligned images; high where texture repeats
    or is a smooth gradient. edges: inlier ratio of the edge images, less its chance level.
    best_rectangle: inlier ratio within the axis-aligned rectangle where inliers outweigh outliers
    most, which locates a pasted part; inlier_blocks: number of inliers in it. fine: weight of the
    blocks that correlate in fine detail over that of all blocks, 0..1; fine detail survives only in
    copies, though not in all. stable: of the blocks that are inliers under some displacement of a
    few pixels, the part that correlates best undisplaced; high for copies, low for two photographs
    of a scene. p80: 80th percentile of the absolute correlations, 0..1.
    """

    inlier_ratio: float = 0.0
    chance: float = 0.0
    edges: float = 0.0
    best_rectangle: float = 0.0
    inlier_blocks: int = 0
    fine: float = 0.0
    stable: float = 0.0
    p80: float = 0.0


@dataclass(frozen=True)
class Displacements:
    """Best displacement of every block (sub-pixel block matching).

    shifts (b,c,2): x, y in working pixels by which the reference moves; strength (b,c): absolute
    correlation there; sharpness (b,c): by how much it exceeds the correlations two pixels away, 0
    along an edge and in a smooth block; peak (b,c) bool: the maximum lies inside the search range,
    and inside the image.
    """

    shifts: np.ndarray
    strength: np.ndarray
    sharpness: np.ndarray
    peak: np.ndarray


@dataclass(frozen=True)
class Overlay:
    """Two images warped into one working frame, and the statistics of its blocks.

    query, reference (h,w) float32; mask (h,w) float32: 1 where the query has pixels; rows (b,),
    columns (c,): block centres; covered (b,c) bool: blocks that both images cover; means, spreads:
    mean and standard deviation (h,w) of query and reference in the block around every pixel;
    to_work (3,3): reference -> working pixels.
    """

    query: np.ndarray
    reference: np.ndarray
    mask: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    covered: np.ndarray
    means: _Pair
    spreads: _Pair
    to_work: np.ndarray

    def correlations(self, shifts: Sequence[tuple[int, int]]) -> _Pair:
        """Correlation (s,b,c) and weight (s,b,c) of every block with the reference moved by each
        shift (x, y); both 0 where the shift moves the edge of the reference into the block."""
        height, width = self.query.shape
        grid = np.ix_(self.rows, self.columns)
        x, y = np.array(shifts).T[:, :, None]
        edge = int(max(abs(x).max(), abs(y).max()))
        padded = cv2.copyMakeBorder(self.reference, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        products = np.empty((len(shifts), height, width), np.float32)
        for product, (i, j) in zip(products, shifts, strict=True):
            moved = padded[edge - j :, edge - i :][:height, :width]
            np.multiply(moved, self.query, out=product)
        products = self._block_means(products)
        down, across = self.rows - y, self.columns - x
        whole = [
            (centre >= BLOCK_PX // 2) & (centre < side - BLOCK_PX // 2)
            for centre, side in ((down, height), (across, width))
        ]
        inside = whole[0][:, :, None] & whole[1][:, None, :]
        down = np.clip(down, 0, height - 1)[:, :, None]
        across = np.clip(across, 0, width - 1)[:, None, :]
        means, spreads = (
            (pair[0][grid], pair[1][down, across]) for pair in (self.means, self.spreads)
        )
        # The constant keeps flat blocks, whose correlation is that of noise, near zero.
        values = (products - means[0] * means[1]) / (spreads[0] * spreads[1] + FLAT_SPREAD) * inside
        texture = np.maximum(*spreads)
        counted = inside & self.covered & (texture > FLAT_SPREAD)
        return values, np.where(counted, np.minimum(texture, FULL_SPREAD), 0)

    def _block_means(self, images: np.ndarray) -> np.ndarray:
        """Mean (s,b,c) of every block of several images (s,h,w), as two products of matrices, which costs half
        of a box filter of every pixel."""
        count, height, width = images.shape
        within = [
            (abs(np.arange(side) - centres[:, None]) <= BLOCK_PX // 2) / np.float32(BLOCK_PX)
            for side, centres in ((height, self.rows), (width, self.columns))
        ]
        return within[0] @ (images.reshape(-1, width) @ within[1].T).reshape(count, height, -1)

    @cached_property
    def _undisplaced(self) -> _Pair:
        """Absolute correlation and weight (b,c) of every block as aligned."""
        values, weights = self.correlations([(0, 0)])
        return abs(values[0]), weights[0]

    @property
    def weight(self) -> np.ndarray:
        """Weight of each block (b,c): its texture; 0 if it is flat or not covered."""
        return self._undisplaced[1]

    @cached_property
    def inlier_ratio(self) -> float:
        """See `BlockCorrelation`."""
        strength, weight = self._undisplaced
        return _ratio(weight * (strength > NCC_INLIER), weight)

    @cached_property
    def chance(self) -> float:
        """See `BlockCorrelation`."""
        values, weights = self.correlations(_MISALIGNED)
        return _ratio(weights * (abs(values) > NCC_INLIER), weights)

    def inlier_centres(self) -> np.ndarray:
        """Centres (n,2) of the inlier blocks, x, y in working pixels."""
        strength, weight = self._undisplaced
        row, column = np.nonzero((strength > NCC_INLIER) & (weight > 0))
        return np.stack([self.columns[column], self.rows[row]], axis=1).astype(np.float64)

    def displacements(self, reach_px: int) -> Displacements:
        """Where each block correlates best with the reference moved by up to `reach_px`."""
        reach = range(-reach_px, reach_px + 1)
        values, _ = self.correlations([(x, y) for x in reach for y in reach])
        side, shape = len(reach), values.shape[1:]
        strength = abs(values).reshape(side, side, -1)
        best = strength.reshape(side * side, -1).argmax(axis=0)
        x, y, block = best // side, best % side, np.arange(len(best))
        top = strength[x, y, block]

        def at(across: int, down: int) -> np.ndarray:
            return strength[np.clip(x + across, 0, side - 1), np.clip(y + down, 0, side - 1), block]

        beside = [at(-1, 0), at(1, 0), at(0, -1), at(0, 1)]
        peak = (x > 0) & (x < side - 1) & (y > 0) & (y < side - 1)
        peak &= np.min(beside, axis=0) > 0  # 0: that shift reaches beyond the edge
        subpixel = [_vertex(beside[0], top, beside[1]), _vertex(beside[2], top, beside[3])]
        shifts = np.stack([x, y], axis=1) - reach_px + np.where(peak, subpixel, 0.0).T
        away = np.max([at(i, j) for i, j in _TWO_AWAY], axis=0)
        return Displacements(
            shifts=shifts.reshape(*shape, 2),
            strength=top.reshape(shape),
            sharpness=(top - away).reshape(shape),
            peak=peak.reshape(shape),
        )

    def fine(self) -> np.ndarray:
        """(b,c) bool: the blocks that correlate in detail finer than a few pixels."""
        grid = np.ix_(self.rows, self.columns)
        fine = [side - cv2.GaussianBlur(side, (0, 0), 1.5) for side in (self.query, self.reference)]
        powers = [np.maximum(_box(side * side)[grid], 0) for side in fine]
        product = _box(fine[0] * fine[1])[grid]
        return abs(product) > NCC_INLIER * (np.sqrt(powers[0] * powers[1]) + 0.5)

    def edges(self) -> float:
        """Inlier ratio, less its chance level, of the reference's edge strength with that of the
        query, or with the query itself, which may be a line drawing; the larger of the two."""
        query, reference = _edge_strength(self.query), _edge_strength(self.reference)
        means, spreads = _block_statistics(query, reference)
        variants = (
            (query, means[0], spreads[0]),
            (self.query, self.means[0], self.spreads[0]),
        )
        excess = []
        for side, mean, spread in variants:
            compared = replace(
                self,
                query=side,
                reference=reference,
                means=(mean, means[1]),
                spreads=(spread, spreads[1]),
            )
            excess.append(compared.inlier_ratio - compared.chance)
        return max(excess)

    def summary(self) -> BlockCorrelation:
        """All statistics."""
        strength, weight = self._undisplaced
        inliers = strength > NCC_INLIER
        nearby = abs(self.correlations(_NEARBY)[0])
        matched = weight * (nearby.max(axis=0) > NCC_INLIER)
        rectangle = best_rectangle(np.where(inliers, weight, -weight))
        textured = strength[weight > 0]
        return BlockCorrelation(
            inlier_ratio=self.inlier_ratio,
            chance=self.chance,
            edges=self.edges(),
            best_rectangle=_ratio((weight * inliers)[rectangle], weight[rectangle]),
            inlier_blocks=int((inliers & (weight > 0))[rectangle].sum()),
            fine=_ratio(weight * self.fine(), weight),
            stable=_ratio(matched * (nearby.argmax(axis=0) == _UNMOVED), matched),
            p80=float(np.quantile(textured, 0.8)) if len(textured) else 0.0,
        )


def best_rectangle(gains: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the rectangle of `gains` (h,w) with the largest sum; h, w may be 0."""
    height, width = gains.shape
    if not gains.size:
        return slice(0, 0), slice(0, 0)
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = gains.cumsum(axis=0).cumsum(axis=1)
    top, bottom = np.triu_indices(height + 1, k=1)
    # Best run of columns for every pair of rows (Kadane 1984): largest rise of the prefix sums.
    prefix = sums[bottom] - sums[top]
    rise = prefix[:, 1:] - np.minimum.accumulate(prefix, axis=1)[:, :-1]
    pair, right = np.unravel_index(rise.argmax(), rise.shape)
    left = int(prefix[pair, : right + 1].argmin())
    return slice(int(top[pair]), int(bottom[pair])), slice(left, int(right) + 1)


def _warp_both(alignment: Alignment, size_px: int) -> Overlay | None:
    """See `Alignment.overlay`."""
    query, reference, homography = alignment.query, alignment.reference, alignment.homography
    corners = [corners_of(*side.shape[::-1]) for side in (query, reference)]
    polygon = overlap_of(corners[0], corners[1], homography)
    if not len(polygon):
        return None
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    to_query = np.linalg.inv(homography)
    zoom = float(np.sqrt(abs(local_areas(to_query, polygon.mean(axis=0)[None])[0])))
    scale = min(1.0, zoom, size_px / max(high - low))
    size = tuple(int(side) for side in np.ceil((high - low) * scale))
    if min(size) < BLOCK_PX:
        return None
    shift = -low * scale - 0.5
    to_work = np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])
    warped = _warp(query, to_work @ homography, size, zoom / scale)
    ground = _warp(reference, to_work, size, 1 / scale)
    mask = cv2.warpPerspective(
        np.ones_like(query), to_work @ homography, size, flags=cv2.INTER_NEAREST
    )
    rows, columns = (np.arange(BLOCK_PX // 2, side - BLOCK_PX // 2, STEP_PX) for side in size[::-1])
    covered = _box(mask)[np.ix_(rows, columns)] > 0.85
    means, spreads = _block_statistics(warped, ground)
    return Overlay(warped, ground, mask, rows, columns, covered, means, spreads, to_work)


def _warp(image: np.ndarray, matrix: np.ndarray, size: tuple, shrink: float) -> np.ndarray:
    """`image` through `matrix`; reduced by area averaging first if it has more than 1.4 pixels
    (`shrink`) per pixel of the result, which prevents aliasing."""
    if shrink > 1.4:
        height, width = image.shape
        small = max(1, round(width / shrink)), max(1, round(height / shrink))
        x, y = width / small[0], height / small[1]
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        matrix = matrix @ np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]])
    warped = cv2.warpPerspective(
        image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return cv2.GaussianBlur(warped, (0, 0), 0.7)


def _ratio(part: np.ndarray, whole: np.ndarray) -> float:
    total = whole.sum()
    return float(part.sum() / total) if total else 0.0


def _vertex(before: np.ndarray, top: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Offset, -0.5..0.5, of the peak of the parabola through three equidistant values."""
    bend = np.minimum(before - 2 * top + after, -1e-6)
    return np.clip(0.5 * (before - after) / bend, -0.5, 0.5)


def _box(image: np.ndarray) -> np.ndarray:
    """Mean of the block around every pixel."""
    return cv2.boxFilter(image, -1, (BLOCK_PX, BLOCK_PX), borderType=cv2.BORDER_REFLECT)


def _block_statistics(query: np.ndarray, reference: np.ndarray) -> tuple[_Pair, _Pair]:
    """Mean and standard deviation of each image in the block around every pixel."""
    means = _box(query), _box(reference)
    return means, (_spread(query, means[0]), _spread(reference, means[1]))


def _spread(image: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(_box(image * image) - mean * mean, 0))


def _edge_strength(image: np.ndarray) -> np.ndarray:
    """Gradient magnitude at every pixel; 40 is the mean of the surroundings."""
    across, down = (cv2.Sobel(image, cv2.CV_32F, 1 - axis, axis, scale=0.25) for axis in (0, 1))
    strength = np.sqrt(across * across + down * down)
    return 40 * strength / (cv2.blur(strength, (2 * BLOCK_PX - 1,) * 2) + 2)
