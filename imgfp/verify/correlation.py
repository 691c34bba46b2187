"""Do the pixels of two pictures agree once one is laid over the other?

A copy agrees nearly everywhere it is not painted over; another photograph of the same thing agrees
in places at most. Blocks vote by their correlation, so what lies over part of a picture costs only
its blocks; a block's own brightness and contrast drop out, and so does the sign, so that colour
edits and negatives do no harm. Edges are compared as well: they stay where a picture is solarised,
posterised or drawn after.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from imgfp.geometry import corners_of, local_areas, overlap_of

#: The overlap is compared at most at this size: finer pixels differ by noise, blur and JPEG.
WORK_PX = 96
BLOCK_PX = 13
STEP_PX = 6
#: A block agrees from this absolute correlation on.
NCC_INLIER = 0.7
#: Grey levels of deviation under which a block is flat, and over which it weighs no more.
FLAT_SPREAD, FULL_SPREAD = 4.0, 20.0
#: How far the pictures are laid wrong on purpose to see what agrees by chance, work pixels.
MISALIGNED_PX = 7

_NEARBY = [(x, y) for x in (-4, -2, 0, 2, 4) for y in (-4, -2, 0, 2, 4)]
_UNMOVED = _NEARBY.index((0, 0))
_TWO_AWAY = [(x, y) for x in range(-2, 3) for y in range(-2, 3) if max(abs(x), abs(y)) == 2]
_MISALIGNED = [(MISALIGNED_PX, 0), (-MISALIGNED_PX, 0), (0, MISALIGNED_PX), (0, -MISALIGNED_PX)]


@dataclass(frozen=True)
class BlockCorrelation:
    """What the blocks of an overlap say.

    share: texture of the agreeing blocks over that of all blocks, 0..1. chance: the same with the
    pictures laid wrong on purpose: high where texture repeats or only fades smoothly. fine: share
    of the texture that agrees in its fine detail, which survives only in a copy, though not in
    every one. edges: share of the blocks whose edges agree, beyond what agrees by chance. inside:
    the share within the upright rectangle where agreement most outweighs disagreement, which finds a
    part that was pasted; agreeing: blocks that agree in there. steady: of the blocks that agree
    somewhere near, the share that agrees best right here and not a few pixels away, as it is in one
    flat picture and is not in two photographs of a scene. best: 80th percentile of the blocks'
    absolute correlations, 0..1. blocks: how many have texture.
    """

    share: float = 0.0
    chance: float = 0.0
    fine: float = 0.0
    edges: float = 0.0
    inside: float = 0.0
    inlier_blocks: int = 0
    stable: float = 0.0
    best: float = 0.0
    blocks: int = 0


def to_grey(picture: np.ndarray) -> np.ndarray:
    """(h,w) float32 brightness 0..255 of a grey (h,w) or RGB (h,w,3) uint8 picture."""
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return picture.astype(np.float32)


def make_overlay(
    query: np.ndarray, reference: np.ndarray, homography: np.ndarray, work_px: int = WORK_PX
) -> Overlay | None:
    """Both pictures in a frame no finer than the coarser of them, its longer side at most `work_px`;
    None where they hardly overlap.

    query, reference (h,w) float32 grey, see `to_grey`; homography (3,3) from query to reference
    pixels.
    """
    rectangles = [corners_of(*side.shape[::-1]) for side in (query, reference)]
    polygon = overlap_of(*rectangles, homography)
    if not len(polygon):
        return None
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    back = np.linalg.inv(homography)
    zoom = float(np.sqrt(abs(local_areas(back, polygon.mean(axis=0)[None])[0])))
    scale = min(1.0, zoom, work_px / max(high - low))
    size = tuple(int(side) for side in np.ceil((high - low) * scale))
    if min(size) < BLOCK_PX:
        return None
    shift = -low * scale - 0.5
    to_work = np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])
    first = _warp(query, to_work @ homography, size, zoom / scale)
    second = _warp(reference, to_work, size, 1 / scale)
    inside = cv2.warpPerspective(
        np.ones_like(query), to_work @ homography, size, flags=cv2.INTER_NEAREST
    )
    rows, columns = (np.arange(BLOCK_PX // 2, side - BLOCK_PX // 2, STEP_PX) for side in size[::-1])
    means, spreads = _block_statistics(first, second)
    return Overlay(
        first,
        second,
        inside,
        rows,
        columns,
        _box(inside)[np.ix_(rows, columns)] > 0.85,
        means,
        spreads,
        homography,
        to_work,
    )


@dataclass(frozen=True)
class Displacements:
    """Where blocks agree best. shifts (b,c,2): x and y that the other picture moves by, in parts of a
    work pixel; strength (b,c): absolute correlation there, and drop (b,c): by how much more than two
    pixels away, 0 along an edge and in a smooth block; peak (b,c) bool: not at the end of the reach,
    nor at the edge of the picture."""

    shifts: np.ndarray
    strength: np.ndarray
    peak: np.ndarray
    drop: np.ndarray


@dataclass(frozen=True)
class Overlay:
    """Two pictures warped into one work frame, and the statistics of its blocks.

    first, second (h,w) float32; inside (h,w) float32: 1 where the query is seen; rows, columns: block centres; covered (b,c) bool: blocks inside
    both; means and spreads (standard deviations) of each picture about every pixel; homography:
    query -> reference; to_work: reference -> work frame.
    """

    first: np.ndarray
    second: np.ndarray
    inside: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    covered: np.ndarray
    means: tuple[np.ndarray, np.ndarray]
    spreads: tuple[np.ndarray, np.ndarray]
    homography: np.ndarray
    to_work: np.ndarray

    def correlations(self, shifts: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Of every block with the other picture moved by each shift (x, y): correlation (s,b,c) and weight
        (s,b,c), both 0 where the shift moves the other picture's edge into the block."""
        height, width = self.first.shape
        grid = np.ix_(self.rows, self.columns)
        x, y = np.array(shifts).T[:, :, None]
        edge = int(max(abs(x).max(), abs(y).max()))
        padded = cv2.copyMakeBorder(self.second, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        products = np.empty((len(shifts), len(self.rows), len(self.columns)), np.float32)
        for place, (i, j) in enumerate(shifts):
            moved = padded[edge - j :, edge - i :][:height, :width]
            products[place] = _box(moved * self.first)[grid]
        down, across = self.rows - y, self.columns - x
        whole = [
            (place >= BLOCK_PX // 2) & (place < side - BLOCK_PX // 2)
            for place, side in ((down, height), (across, width))
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

    @cached_property
    def _here(self) -> tuple[np.ndarray, np.ndarray]:
        """Absolute correlation and weight (b,c) of every block where the pictures lie."""
        values, weights = self.correlations([(0, 0)])
        return abs(values[0]), weights[0]

    @property
    def weight(self) -> np.ndarray:
        """How much each block counts (b,c): its texture, 0 where it is flat or not covered."""
        return self._here[1]

    @cached_property
    def share(self) -> float:
        """See `BlockCorrelation`."""
        strength, weight = self._here
        return _ratio(weight * (strength > NCC_INLIER), weight)

    @cached_property
    def chance(self) -> float:
        """See `BlockCorrelation`."""
        values, weights = self.correlations(_MISALIGNED)
        return _ratio(weights * (abs(values) > NCC_INLIER), weights)

    def flow(self, reach_px: int) -> Displacements:
        """Where each block agrees best with the other picture moved by up to reach_px."""
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
        peak &= np.min(beside, axis=0) > 0  # 0: that shift would look over the edge
        finer = [_vertex(beside[0], top, beside[1]), _vertex(beside[2], top, beside[3])]
        shifts = np.stack([x, y], axis=1) - reach_px + np.where(peak, finer, 0.0).T
        away = np.max([at(i, j) for i, j in _TWO_AWAY], axis=0)
        return Displacements(
            shifts.reshape(*shape, 2),
            top.reshape(shape),
            peak.reshape(shape),
            (top - away).reshape(shape),
        )

    def fine(self) -> np.ndarray:
        """(b,c) bool: the blocks that agree in what is finer than a few pixels."""
        grid = np.ix_(self.rows, self.columns)
        fine = [side - cv2.GaussianBlur(side, (0, 0), 1.5) for side in (self.first, self.second)]
        powers = [np.maximum(_box(side * side)[grid], 0) for side in fine]
        product = _box(fine[0] * fine[1])[grid]
        return abs(product) > NCC_INLIER * (np.sqrt(powers[0] * powers[1]) + 0.5)

    def edges(self) -> float:
        """Share of the blocks whose edges agree, less the share by chance: with the edges of the query,
        or with the query as it is, which may be a drawing of edges."""
        drawn = [_edge_strength(side) for side in (self.first, self.second)]
        means, spreads = _block_statistics(*drawn)
        variants = (
            (drawn[0], means[0], spreads[0]),
            (self.first, self.means[0], self.spreads[0]),
        )
        shares = []
        for first, mean, spread in variants:
            compared = replace(
                self,
                first=first,
                second=drawn[1],
                means=(mean, means[1]),
                spreads=(spread, spreads[1]),
            )
            shares.append(compared.share - compared.chance)
        return max(shares)

    def summary(self) -> BlockCorrelation:
        here, weight = self._here
        agrees = here > NCC_INLIER
        nearby = abs(self.correlations(_NEARBY)[0])
        met = weight * (nearby.max(axis=0) > NCC_INLIER)
        part = best_rectangle(np.where(agrees, weight, -weight))
        textured = here[weight > 0]
        return BlockCorrelation(
            share=self.share,
            chance=self.chance,
            fine=_ratio(weight * self.fine(), weight),
            edges=self.edges(),
            inside=_ratio((weight * agrees)[part], weight[part]),
            inlier_blocks=int((agrees & (weight > 0))[part].sum()),
            stable=_ratio(met * (nearby.argmax(axis=0) == _UNMOVED), met),
            best=float(np.quantile(textured, 0.8)) if len(textured) else 0.0,
            blocks=len(textured),
        )


def _ratio(part: np.ndarray, whole: np.ndarray) -> float:
    total = whole.sum()
    return float(part.sum() / total) if total else 0.0


def _vertex(before: np.ndarray, top: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far from the middle of three equidistant values their parabola peaks, -0.5..0.5."""
    bend = np.minimum(before - 2 * top + after, -1e-6)
    return np.clip(0.5 * (before - after) / bend, -0.5, 0.5)


def best_rectangle(gains: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the rectangle of `gains` (h,w) with the largest sum; h, w may be 0."""
    height, width = gains.shape
    if not gains.size:
        return slice(0, 0), slice(0, 0)
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = gains.cumsum(axis=0).cumsum(axis=1)
    top, bottom = np.triu_indices(height + 1, k=1)
    # Best run of columns for every pair of rows (Kadane 1984): highest climb of the prefix sums.
    prefix = sums[bottom] - sums[top]
    climb = prefix[:, 1:] - np.minimum.accumulate(prefix, axis=1)[:, :-1]
    pair, right = np.unravel_index(climb.argmax(), climb.shape)
    left = int(prefix[pair, : right + 1].argmin())
    return slice(int(top[pair]), int(bottom[pair])), slice(left, int(right) + 1)


def _box(picture: np.ndarray) -> np.ndarray:
    return cv2.boxFilter(picture, -1, (BLOCK_PX, BLOCK_PX), borderType=cv2.BORDER_REFLECT)


def _block_statistics(*sides: np.ndarray) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Mean and standard deviation of each picture in the block about every pixel."""
    means = tuple(_box(side) for side in sides)
    squares = (_box(side * side) - mean * mean for side, mean in zip(sides, means, strict=True))
    return means, tuple(np.sqrt(np.maximum(square, 0)) for square in squares)


def _edge_strength(side: np.ndarray) -> np.ndarray:
    """Length of the gradient about every pixel, against that of the surroundings; 40 is as strong."""
    slopes = (cv2.Sobel(side, cv2.CV_32F, 1 - axis, axis, scale=0.25) for axis in (0, 1))
    strength = cv2.magnitude(*slopes)
    return 40 * strength / (cv2.blur(strength, (2 * BLOCK_PX - 1,) * 2) + 2)


def _warp(picture: np.ndarray, matrix: np.ndarray, size: tuple, shrink: float) -> np.ndarray:
    """`picture` through `matrix`, shrunk by area first where it has `shrink` pixels for one."""
    if shrink > 1.4:
        height, width = picture.shape
        small = max(1, round(width / shrink)), max(1, round(height / shrink))
        x, y = width / small[0], height / small[1]
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
        matrix = matrix @ np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]])
    warped = cv2.warpPerspective(
        picture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return cv2.GaussianBlur(warped, (0, 0), 0.7)
