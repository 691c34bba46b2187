"""Refinement of an alignment by block matching, with the simplest model that explains it.

Editing moves the pixels of an image by one simple transform: cropped, pasted and squeezed images
stay axis-aligned; others are rotated, sheared or distorted in perspective. A copy is therefore
explained to a fraction of a pixel by the simplest model that fits. A second photograph is not:
parallax, lighting and moving objects displace its blocks independently.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from imgfp.geometry import local_areas, project
from imgfp.verify.correlation import FLAT_SPREAD, FULL_SPREAD, NCC_INLIER, WORK_PX, Alignment

#: Longer side in pixels of the frame in which the refined alignment is measured.
REFINED_PX = 192
#: Steps of the refinement: longer side of the frame, and search range of the blocks, in its pixels.
_STEPS = ((WORK_PX, 4), (REFINED_PX, 3), (REFINED_PX, 2))
#: Rounds and search range of `align`, and the inlier ratio from which the alignment is good enough:
#: a finer one would change nothing that is used.
_ALIGN_ROUNDS, _ALIGN_REACH_PX, _ALIGNED_WELL = 2, 2, 0.9
#: A simpler model is preferred if its consistency is at least this fraction of the best model's.
_NEARLY_AS_GOOD = 0.93
#: A block is consistent with a model if the model maps it this near, in working pixels, to its best
#: displacement; it is aligned if that displacement is shorter than the second value.
_CONSISTENT_PX, _ALIGNED_PX = 1.0, 0.75
#: A block is localisable if its correlation falls by this much within two pixels; it is displaced
#: if it is localisable and its best displacement is longer than the second value, in working
#: pixels.
_LOCALISABLE, _DISPLACED_PX = 0.1, 1.2
#: Range of the displacements, in working pixels, from which the counts of blocks are taken.
_REACH_PX = 4

#: Transform models from the simplest to the most general, with the number of blocks that a fit
#: needs.
MODELS = {"axis_aligned": 8, "similarity": 8, "affine": 8, "homography": 12}


@dataclass(frozen=True)
class Refinement:
    """Result of `refine_alignment`.

    alignment: the refined alignment; model: key of MODELS, "" if too few blocks match to fit one;
    model_consistency: fraction, 0..1, of the matching blocks that are consistent with the model;
    aligned_blocks: number of blocks that match undisplaced; localisable_blocks: those whose best
    displacement is well defined in all directions; displaced_blocks: how many of these match
    elsewhere, because of parallax or motion.
    """

    alignment: Alignment
    model: str
    model_consistency: float
    aligned_blocks: int
    localisable_blocks: int
    displaced_blocks: int


@dataclass(frozen=True)
class _Fit:
    alignment: Alignment
    model: str
    model_consistency: float


def align(alignment: Alignment) -> Alignment:
    """Correct a rough alignment by an affine fit to the best displacements of its blocks, at the
    size WORK_PX. A correction is kept only if it raises the inlier ratio."""
    for _ in range(_ALIGN_ROUNDS):
        overlay = alignment.overlay()
        if overlay is None or overlay.inlier_ratio >= _ALIGNED_WELL:
            break
        fit = _fit_displacements(alignment, WORK_PX, _ALIGN_REACH_PX, ("affine",))
        if fit is None:
            break
        better = fit.alignment.overlay()
        if better is None or better.inlier_ratio <= overlay.inlier_ratio:
            break
        alignment = fit.alignment
    return alignment


def refine_alignment(alignment: Alignment) -> Refinement | None:
    """Refine an alignment, correct to a few hundredths of the overlap, to a fraction of a pixel,
    and count the blocks that it explains. None if the images hardly overlap."""
    fit = _Fit(alignment, "", 0.0)
    for size_px, reach_px in _STEPS:
        fit = _fit_displacements(fit.alignment, size_px, reach_px, MODELS) or fit
    before, after = (side.overlay(REFINED_PX) for side in (alignment, fit.alignment))
    if after is None or (before is not None and before.inlier_ratio > after.inlier_ratio + 0.02):
        fit, after = _Fit(alignment, "", 0.0), before
    if after is None:
        return None
    found = after.displacements(_REACH_PX)
    matching = (after.weight > 0) & (found.strength > NCC_INLIER)
    length_px = np.linalg.norm(found.shifts, axis=2)
    localisable = matching & (found.sharpness > _LOCALISABLE)
    return Refinement(
        fit.alignment,
        fit.model,
        fit.model_consistency,
        aligned_blocks=int((matching & (length_px < _ALIGNED_PX)).sum()),
        localisable_blocks=int(localisable.sum()),
        displaced_blocks=int((localisable & (length_px > _DISPLACED_PX)).sum()),
    )


def _fit_displacements(
    alignment: Alignment, size_px: int, reach_px: int, models: Iterable[str]
) -> _Fit | None:
    """The alignment corrected by the best displacements of its blocks, under the simplest of the
    models that is nearly as consistent with them as the best. None if the images hardly overlap,
    too few blocks match, or the correction would change the scale beyond recognition."""
    overlay = alignment.overlay(size_px)
    if overlay is None:
        return None
    found = overlay.displacements(reach_px)
    grid = np.ix_(overlay.rows, overlay.columns)
    texture = np.minimum(*(spread[grid] for spread in overlay.spreads))
    matched = overlay.covered & (found.strength > NCC_INLIER) & (texture > FLAT_SPREAD) & found.peak
    models = [model for model in models if matched.sum() >= MODELS[model]]
    if not models:
        return None
    y, x = np.meshgrid(overlay.rows, overlay.columns, indexing="ij")
    centres = np.stack([x[matched], y[matched]], axis=1).astype(np.float64)
    source = project(np.linalg.inv(overlay.to_work @ alignment.homography), centres)
    target = centres - found.shifts[matched]
    weights = (found.strength[matched] - 0.5) * np.minimum(texture[matched] / FULL_SPREAD, 1)
    fits: list[tuple[str, np.ndarray, float]] = []
    for model in models:
        matrix, errors = _fit(model, source, target, weights, alignment.homography)
        fits.append((model, matrix, float(weights @ (errors < _CONSISTENT_PX) / weights.sum())))
        if fits[-1][2] >= _NEARLY_AS_GOOD:
            break
    best = max(consistency for _, _, consistency in fits)
    model, matrix, consistency = next(fit for fit in fits if fit[2] >= _NEARLY_AS_GOOD * best)
    refined = np.linalg.inv(overlay.to_work) @ matrix
    middle = source.mean(axis=0)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = (local_areas(refined, middle) / local_areas(alignment.homography, middle))[0]
        refined = refined / refined[2, 2]
    if not (np.isfinite(refined).all() and 0.25 < growth < 4):
        return None
    return _Fit(alignment.under(refined), model, consistency)


def _fit(
    model: str, source: np.ndarray, target: np.ndarray, weights: np.ndarray, initial: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Robust weighted fit of a model: the matrix (3,3) that maps points (n,2) nearest to their
    targets (n,2), and the distance (n,) by which it misses each. Outliers lose their weight (Geman
    and McClure 1985).

    weights (n,); initial (3,3): a transform near the one sought, which tells whether to mirror and
    whether to rotate by 90 degrees.
    """
    to_source, to_target = _centring(source), _centring(target)
    points = np.column_stack([project(to_source, source), np.ones(len(source))])
    goals = project(to_target, target)
    # A transform is E + sum of parameter * basis, and linear in them once multiplied by its depth.
    basis = _basis(model, source.mean(axis=0), initial)
    moved = np.einsum("kij,nj->ikn", basis, points)
    columns = np.concatenate([moved[i] - moved[2] * goals[:, i] for i in (0, 1)], axis=1).T
    robust = weights
    for reach in np.geomspace(3.0, 0.7, 6):
        doubled = np.tile(robust, 2)[:, None] * columns
        normal = columns.T @ doubled
        normal[np.diag_indices_from(normal)] += 1e-9 * np.trace(normal)
        parameters = np.linalg.solve(normal, doubled.T @ goals.T.ravel())
        sent = np.einsum("k,ikn->in", parameters, moved)
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = np.linalg.norm(sent[:2] / (1 + sent[2]) - goals.T, axis=0) / to_target[0, 0]
        robust = weights / (1 + (errors / reach) ** 2) ** 2
    matrix = np.einsum("k,kij->ij", parameters, basis)
    matrix[2, 2] = 1
    return np.linalg.inv(to_target) @ matrix @ to_source, errors


def _centring(points: np.ndarray) -> np.ndarray:
    """Translation and scale (3,3) that bring points (n,2) to mean 0 and a deviation of about 1."""
    scale = 1 / max(float(points.std(axis=0).max()), 1e-9)
    x, y = -points.mean(axis=0) * scale
    return np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]])


def _basis(model: str, middle: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """The matrices (k,3,3) that span a model, apart from the constant depth of 1.

    middle (2,): centre of the source points, where `initial` (3,3) is linearised.
    """
    unit = np.eye(9).reshape(3, 3, 3, 3)
    shifts = [unit[0, 2], unit[1, 2]]
    if model == "homography":
        return np.array([*unit[:2].reshape(6, 3, 3), unit[2, 0], unit[2, 1]])
    if model == "affine":
        return unit[:2].reshape(6, 3, 3)
    steps = project(initial, middle + np.array([[0, 0], [1, 0], [0, 1]]))
    (a, b), (c, d) = (steps[1:] - steps[0]).T
    if model == "similarity":
        sign = np.sign(a * d - b * c)
        turn = unit[1, 0] - sign * unit[0, 1]
        return np.array([unit[0, 0] + sign * unit[1, 1], turn, *shifts])
    quarter_turn = abs(b) + abs(c) > abs(a) + abs(d)
    sides = (unit[0, 1], unit[1, 0]) if quarter_turn else (unit[0, 0], unit[1, 1])
    return np.array([*sides, *shifts])
