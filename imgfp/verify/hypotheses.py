"""The map from a query to a reference: which are tried, and which one the pixels believe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from imgfp.geometry import local_areas, project
from imgfp.verify.correlation import BlockCorrelation, Overlay, make_overlay
from imgfp.verify.estimation import Verification, estimate_homography
from imgfp.verify.matching import guided_matches
from imgfp.verify.refinement import Refinement, align, refine_alignment
from imgfp.verify.view import DIHEDRAL_VIEWS, MIN_FRAME_CORRELATION, View


@dataclass(frozen=True)
class Matches:
    """Tentative matches of one reading, mirrored or not: rows `pairs` (m,2) of query and reference
    keypoints; (m,) bool each: which were read inverted, which are sure by the ratio test."""

    pairs: np.ndarray
    contrast_reversed: np.ndarray
    sure: np.ndarray


#: Agreement beyond chance from which a pair is worth a close look. Hardly a copy has less, and most
#: pairs that a search proposes do.
_WORTH_REFINING = 0.08

_NO_MATCHES = Matches(np.empty((0, 2), np.int64), np.empty(0, bool), np.empty(0, bool))


@dataclass(frozen=True)
class Hypothesis:
    """A map that was tried: homography (3,3) query -> reference px, the matches that it is judged by;
    guided: how many matches, found anew, agree; model: see `estimation.Verification`, or a key of
    `refinement.MODELS` after a close look; source: "matches", or "frame" for whole frames laid on each
    other; overlay: the pictures laid by it, None where they hardly overlap; closer: what a close look
    gave, None where the first one gave no reason for it."""

    query: View
    reference: View
    homography: np.ndarray
    matches: Matches
    guided: int
    model: str
    source: str
    overlay: Overlay | None
    mirrored: bool
    refinement: Refinement | None = None

    @cached_property
    def share(self) -> float:
        """Of the overlap's texture, how much agrees, 0..1."""
        return self.overlay.share if self.overlay else 0.0

    @cached_property
    def merit(self) -> float:
        """Agreement beyond chance, with inliers to decide between equals."""
        chance = self.overlay.chance if self.overlay else 0.0
        return self.share - chance + 0.002 * min(self.guided, 100)

    @cached_property
    def agreement(self) -> BlockCorrelation:
        """All that the pixels say."""
        return self.overlay.summary() if self.overlay else BlockCorrelation()

    @cached_property
    def errors(self) -> tuple[np.ndarray, np.ndarray]:
        """How far each match lies from where the map sends it, (m,) pixels of the coarser frame, and
        whether it is sent inside the reference's searched part, (m,) bool."""
        rows = self.matches.pairs
        here = self.query.keypoints[rows[:, 0], :2].astype(np.float64)
        sent = project(self.homography, here)
        scale = np.sqrt(abs(local_areas(self.homography, here)))
        coarser = np.maximum(self.reference.frame_px, scale * self.query.frame_px)
        errors = np.linalg.norm(sent - self.reference.keypoints[rows[:, 1], :2], axis=1) / coarser
        low, high = self.reference.part[:2] - 0.5, self.reference.part[2:] - 0.5
        return errors, ((sent >= low) & (sent < high)).all(axis=1)


def best_hypothesis(
    query: View, reference: View, tentative: Mapping[int, Matches]
) -> tuple[str, Hypothesis | None]:
    """The map of most merit, plain or mirrored; "" and the map, or the reason and None.

    tentative: matches of the plain (0) and the mirrored (1) reading; none for a picture without
    keypoints. Where they give no map that the pixels confirm, whole frames are laid on each other.
    """
    refused, maps = _from_matches(query, reference, tentative)
    best = max(maps, key=lambda found: found.merit, default=None)
    if best is None or best.share < 0.5:
        laid = _from_frames(query, reference, tentative)
        if laid is not None and (best is None or laid.merit > best.merit):
            best = laid
    return ("", _refined(best)) if best else (refused, None)


def _from_matches(
    query: View, reference: View, tentative: Mapping[int, Matches]
) -> tuple[str, list[Hypothesis]]:
    """Maps that matches agree on, plain and mirrored, and why there is none."""
    refused, maps = "too_few", []
    for mirrored, matches in tentative.items():
        if maps and maps[0].share > 0.6:
            break  # the pixels confirm the plain map: no mirrored one can beat it
        found = estimate_homography(
            query.keypoints[matches.pairs[:, 0]],
            reference.keypoints[matches.pairs[:, 1]],
            mirrored=bool(mirrored),
            contrast_reversed=matches.contrast_reversed,
            query_px=query.frame_px,
            reference_px=reference.frame_px,
        )
        if found.homography is None:
            refused = found.refused if found.refused != "too_few" else refused
            continue
        if maps and found.inliers.sum() < 0.5 * maps[0].guided:
            continue
        homography, guided = _guided(query, reference, found, bool(mirrored))
        # Twenty matches fix a map better than blocks of pixels do.
        homography, overlay = _aligned(query, reference, homography, 0 if guided >= 20 else 2)
        facts = guided, found.model, "matches", overlay, bool(mirrored)
        maps.append(Hypothesis(query, reference, homography, matches, *facts))
    return refused, maps


def _from_frames(
    query: View, reference: View, tentative: Mapping[int, Matches]
) -> Hypothesis | None:
    """The searched parts laid on each other, in the way that looks most alike; None if none does."""
    alike = abs(query.dihedral_views @ reference.dihedral_views[0])
    way = int(alike.argmax())
    if alike[way] < MIN_FRAME_CORRELATION:
        return None
    flip, mirror, turn = DIHEDRAL_VIEWS[way]
    # Which corner of the query comes to lie on the reference's top left, top right, ...
    grid = query.corners[[[0, 1], [3, 2]]]
    grid = (grid.transpose(1, 0, 2) if turn else grid)[:: -1 if flip else 1, :: -1 if mirror else 1]
    corners = grid[[0, 0, 1, 1], [0, 1, 1, 0]]
    homography = cv2.getPerspectiveTransform(
        corners.astype(np.float32), reference.corners.astype(np.float32)
    )
    homography, overlay = _aligned(query, reference, homography, 2)
    mirrored = (flip + mirror + turn) % 2 == 1
    matches = tentative.get(int(mirrored), _NO_MATCHES)
    return Hypothesis(
        query, reference, homography, matches, 0, "affine", "frame", overlay, mirrored
    )


def _refined(found: Hypothesis) -> Hypothesis:
    """The map refined by a close look, where the first look gives reason for one."""
    query, reference, seen = found.query, found.reference, found.overlay
    if seen is None or seen.share - seen.chance < _WORTH_REFINING:
        return found
    refinement = refine_alignment(query.grey, reference.grey, seen.homography)
    if refinement is None or not refinement.kind:
        return replace(found, refinement=refinement)
    return replace(
        found,
        homography=_in_original_pixels(query, reference, refinement.homography),
        overlay=make_overlay(query.grey, reference.grey, refinement.homography) or seen,
        model=refinement.kind,
        refinement=refinement,
    )


def _guided(
    query: View, reference: View, found: Verification, mirrored: bool
) -> tuple[np.ndarray, int]:
    """The map refined by matches that it predicts, and how many agree; as it is where it has many."""
    count = int(found.inliers.sum())
    if count >= 30:
        return found.homography, count
    scales = {"query_px": query.frame_px, "reference_px": reference.frame_px}
    pairs, contrast_reversed = guided_matches(
        (query.keypoints, query.descriptors),
        (reference.keypoints, reference.descriptors),
        found.homography,
        mirrored=mirrored,
        **scales,
    )
    ends = query.keypoints[pairs[:, 0]], reference.keypoints[pairs[:, 1]]
    again = estimate_homography(
        *ends, mirrored=mirrored, contrast_reversed=contrast_reversed, **scales
    )
    if again.homography is None or again.inliers.sum() <= count:
        return found.homography, count
    return again.homography, int(again.inliers.sum())


def _aligned(
    query: View, reference: View, homography: np.ndarray, rounds: int
) -> tuple[np.ndarray, Overlay | None]:
    """The map, refined by the pixels, and the pictures laid by it."""
    between = reference.to_grey_px @ homography @ np.linalg.inv(query.to_grey_px)
    seen = align(query.grey, reference.grey, between, rounds=rounds)
    if seen is not None:
        homography = _in_original_pixels(query, reference, seen.homography)
    return homography, seen


def _in_original_pixels(query: View, reference: View, between: np.ndarray) -> np.ndarray:
    """The map of the pictures' own pixels, for one of their small grey ones."""
    whole = np.linalg.inv(reference.to_grey_px) @ between @ query.to_grey_px
    return whole / whole[2, 2]
