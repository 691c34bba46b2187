"""A map refined by where blocks of pixels agree best, as the plainest edit that explains them.

Editing moves a picture's pixels by one simple map: cropped, pasted and squeezed pictures stay
upright, others are rotated, sheared or seen in perspective. A copy is therefore explained to a
fraction of a pixel by the plainest kind of map that can; what a second camera saw is not, because
depth, light and whatever moved shift its blocks each its own way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgfp.geometry import local_areas, project
from imgfp.verify.correlation import (
    FLAT_SPREAD,
    FULL_SPREAD,
    NCC_INLIER,
    WORK_PX,
    Overlay,
    make_overlay,
)

#: The longer side of the frame for a close look, and the steps that lead there: how wide the frame is
#: and how far blocks may move to meet their partners.
REFINED_PX = 192
_STEPS = ((WORK_PX, 4), (REFINED_PX, 3), (REFINED_PX, 2))
#: A plainer kind of map is preferred when it explains this share of what the best one does.
_NEARLY_AS_GOOD = 0.93
#: A block is explained when the map sends it this near, work pixels, to where it agrees best, and
#: agrees right here when it does so no further off than this.
_EXPLAINED_PX, _ALIGNED_PX = 1.0, 0.75
#: A block tells where it agrees when its correlation falls by this within two pixels, and has moved
#: when that is further off than this.
_LOCALISABLE, _DISPLACED_PX = 0.1, 1.2

#: Kinds of maps from the plainest, with the blocks that are needed to tell.
MODELS = {"upright": 8, "similarity": 8, "affine": 8, "homography": 12}


@dataclass(frozen=True)
class Refinement:
    """What a close look at a pair gives.

    homography (3,3) query -> reference; kind: key of KINDS, "" where too few blocks agree to tell;
    explained: share, 0..1, of the agreeing blocks that a map of this kind puts where they agree best;
    blocks: how many agree right here; firm: those that tell to a pixel where they agree, and moved: how
    many of them agree elsewhere, as where depth or a hand moved them.
    """

    homography: np.ndarray
    kind: str
    model_consistency: float
    blocks: int
    firm: int
    moved: int


def align(
    query: np.ndarray, reference: np.ndarray, homography: np.ndarray, *, rounds: int = 2
) -> Overlay | None:
    """The query laid over the reference for a first look, the map refined by where blocks agree best;
    None where the pictures hardly overlap.

    query, reference (h,w) float32 grey, see `correlation.to_grey`; homography (3,3) from query to
    reference pixels. rounds: how often the map is refined (0: never); a refinement is kept only if it
    raises the share.
    """
    seen = make_overlay(query, reference, homography)
    if seen is None:
        return None
    for _ in range(rounds):
        # Above this share the map is right, and a finer one would change nothing that is used.
        found = _refined(seen, 2, ("affine",)) if seen.share < 0.9 else None
        better = None if found is None else make_overlay(query, reference, found[0])
        if better is None or better.share <= seen.share:
            break
        seen = better
    return seen


def refine_alignment(
    query: np.ndarray, reference: np.ndarray, homography: np.ndarray
) -> Refinement | None:
    """The map refined to a fraction of a pixel, and what the pixels say of it; None where the pictures
    hardly overlap.

    query, reference (h,w) float32 grey; homography (3,3) from query to reference pixels, right to a few
    hundredths of the overlap.
    """
    refined, kind, model_consistency = homography, "", 0.0
    for work_px, reach_px in _STEPS:
        seen = make_overlay(query, reference, refined, work_px)
        found = None if seen is None else _refined(seen, reach_px, tuple(MODELS))
        if found is not None:
            refined, kind, model_consistency = found
    before, after = (make_overlay(query, reference, x, REFINED_PX) for x in (homography, refined))
    if after is None or (before is not None and before.share > after.share + 0.02):
        refined, kind, model_consistency, after = homography, "", 0.0, before
    if after is None:
        return None
    flow = after.flow(4)
    agrees = (after.weight > 0) & (flow.strength > NCC_INLIER)
    off_px = np.linalg.norm(flow.shifts, axis=2)
    firm = agrees & (flow.drop > _LOCALISABLE)
    return Refinement(
        refined,
        kind,
        model_consistency,
        blocks=int((agrees & (off_px < _ALIGNED_PX)).sum()),
        firm=int(firm.sum()),
        moved=int((firm & (off_px > _DISPLACED_PX)).sum()),
    )


def _refined(
    seen: Overlay, reach_px: int, kinds: tuple[str, ...]
) -> tuple[np.ndarray, str, float] | None:
    """The map moved to where the blocks agree best, its kind, and the share of them that it explains;
    None if too few agree, or if they would have it turn into another map altogether."""
    flow = seen.flow(reach_px)
    textured = np.minimum(*(spread[np.ix_(seen.rows, seen.columns)] for spread in seen.spreads))
    sure = seen.covered & (flow.strength > NCC_INLIER) & (textured > FLAT_SPREAD) & flow.peak
    kinds = tuple(kind for kind in kinds if sure.sum() >= MODELS[kind])
    if not kinds:
        return None
    y, x = np.meshgrid(seen.rows, seen.columns, indexing="ij")
    centres = np.stack([x[sure], y[sure]], axis=1).astype(np.float64)
    source = project(np.linalg.inv(seen.to_work @ seen.homography), centres)
    weights = (flow.strength[sure] - 0.5) * np.minimum(textured[sure] / FULL_SPREAD, 1)
    fits: list[tuple[str, np.ndarray, float]] = []
    for kind in kinds:
        fit, errors = _fit(kind, source, centres - flow.shifts[sure], weights, seen.homography)
        fits.append((kind, fit, float(weights @ (errors < _EXPLAINED_PX) / weights.sum())))
        if fits[-1][2] >= _NEARLY_AS_GOOD:
            break
    most = max(share for _, _, share in fits)
    kind, fit, model_consistency = next(fit for fit in fits if fit[2] >= _NEARLY_AS_GOOD * most)
    moved = np.linalg.inv(seen.to_work) @ fit
    middle = source.mean(axis=0)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = (local_areas(moved, middle) / local_areas(seen.homography, middle))[0]
        moved = moved / moved[2, 2]
    if not (np.isfinite(moved).all() and 0.25 < growth < 4):
        return None
    return moved, kind, model_consistency


def _fit(
    kind: str, source: np.ndarray, target: np.ndarray, weights: np.ndarray, like: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The map (3,3) of a kind that sends points (n,2) nearest to their targets (n,2), and how far (n,)
    it misses each. Points that no map of the kind reaches lose their say (Geman and McClure 1985).

    like (3,3): a map near the one sought, which tells whether to mirror or turn it by a quarter.
    """
    to_source, to_target = _centring(source), _centring(target)
    points = np.column_stack([project(to_source, source), np.ones(len(source))])
    goals = project(to_target, target)
    # A map is E + sum of parameter * basis, and linear in them once multiplied by its depth.
    basis = _basis(kind, source.mean(axis=0), like)
    moved = np.einsum("kij,nj->ikn", basis, points)
    columns = np.concatenate([moved[i] - moved[2] * goals[:, i] for i in (0, 1)], axis=1).T
    say = weights
    for reach in np.geomspace(3.0, 0.7, 6):
        doubled = np.tile(say, 2)[:, None] * columns
        normal = columns.T @ doubled
        normal[np.diag_indices_from(normal)] += 1e-9 * np.trace(normal)
        found = np.linalg.solve(normal, doubled.T @ goals.T.ravel())
        sent = np.einsum("k,ikn->in", found, moved)
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = np.linalg.norm(sent[:2] / (1 + sent[2]) - goals.T, axis=0) / to_target[0, 0]
        say = weights / (1 + (errors / reach) ** 2) ** 2
    matrix = np.einsum("k,kij->ij", found, basis)
    matrix[2, 2] = 1
    return np.linalg.inv(to_target) @ matrix @ to_source, errors


def _centring(points: np.ndarray) -> np.ndarray:
    """The shift and scale (3,3) that bring points about zero and to about one."""
    scale = 1 / max(float(points.std(axis=0).max()), 1e-9)
    x, y = -points.mean(axis=0) * scale
    return np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]])


def _basis(kind: str, middle: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The maps (k,3,3) that maps of a kind are sums of, beside the constant depth of one."""
    unit = np.eye(9).reshape(3, 3, 3, 3)
    shifts = [unit[0, 2], unit[1, 2]]
    if kind == "homography":
        return np.array([*unit[:2].reshape(6, 3, 3), unit[2, 0], unit[2, 1]])
    if kind == "affine":
        return unit[:2].reshape(6, 3, 3)
    steps = project(like, middle + np.array([[0, 0], [1, 0], [0, 1]]))
    (a, b), (c, d) = (steps[1:] - steps[0]).T
    if kind == "similarity":
        mirrored = np.sign(a * d - b * c)
        turn = unit[1, 0] - mirrored * unit[0, 1]
        return np.array([unit[0, 0] + mirrored * unit[1, 1], turn, *shifts])
    quarter = abs(b) + abs(c) > abs(a) + abs(d)
    sides = (unit[0, 1], unit[1, 0]) if quarter else (unit[0, 0], unit[1, 1])
    return np.array([*sides, *shifts])
