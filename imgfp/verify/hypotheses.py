# SPDX-License-Identifier: AGPL-3.0-or-later
"""Homography hypotheses for a pair: which are tried, and which one the pixels support best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from imgfp.geometry import local_areas, project
from imgfp.verify.correlation import Alignment, BlockCorrelation
from imgfp.verify.estimation import estimate_homography
from imgfp.verify.matching import guided_matches
from imgfp.verify.refinement import Refinement, align, refine_alignment
from imgfp.verify.view import (
    DIHEDRAL_VIEWS,
    MIN_FRAME_CORRELATION,
    View,
    alignment_of,
    homography_of,
)

#: NCC inlier ratio beyond its chance level from which an alignment is refined. Nearly all copies
#: exceed it, and most proposed pairs do not.
_WORTH_REFINING = 0.08
#: With this many inliers no guided matches are searched; with this many guided inliers the
#: homography is more precise than blocks of pixels can make it.
_MANY_INLIERS, _MANY_GUIDED = 30, 20
#: NCC inlier ratio that confirms a hypothesis: above the first, no mirrored one is tried; below the
#: second, whole frames are tried too.
_CONFIRMED, _DOUBTFUL = 0.6, 0.5


@dataclass(frozen=True)
class Matches:
    """Putative matches with the query as it is, or mirrored: rows `pairs` (m,2) of query and
    reference keypoints; contrast_reversed (m,) bool; ratio_test (m,) bool: passes the strict ratio
    test."""

    pairs: np.ndarray
    contrast_reversed: np.ndarray
    ratio_test: np.ndarray


_NO_MATCHES = Matches(np.empty((0, 2), np.int64), np.empty(0, bool), np.empty(0, bool))


@dataclass(frozen=True)
class Hypothesis:
    """A homography hypothesis.

    homography (3,3): query -> reference, in pixels of the whole images; mirrored: it mirrors the
    query; matches: those it is measured on; guided_inliers: number of guided matches that agree
    with it; model: see `estimation.Verification`, or a key of `refinement.MODELS` once refined;
    source: "matches", or "frame" for whole frames; alignment: the views' grey images under the
    homography; refinement: None if the alignment gave no reason to refine it.
    """

    query: View
    reference: View
    homography: np.ndarray
    mirrored: bool
    matches: Matches
    guided_inliers: int
    model: str
    source: str
    alignment: Alignment
    refinement: Refinement | None = None

    @property
    def ncc_inlier_ratio(self) -> float:
        """See `BlockCorrelation.inlier_ratio`; 0 if the images hardly overlap."""
        overlay = self.alignment.overlay()
        return overlay.inlier_ratio if overlay else 0.0

    @property
    def score(self) -> float:
        """NCC inlier ratio beyond its chance level; guided inliers decide between equals."""
        overlay = self.alignment.overlay()
        chance = overlay.chance if overlay else 0.0
        return self.ncc_inlier_ratio - chance + 0.002 * min(self.guided_inliers, 100)

    @cached_property
    def correlation(self) -> BlockCorrelation:
        """Statistics of the aligned pixels; all 0 if the images hardly overlap."""
        overlay = self.alignment.overlay()
        return overlay.summary() if overlay else BlockCorrelation()

    @cached_property
    def errors(self) -> tuple[np.ndarray, np.ndarray]:
        """Reprojection error of each match, (m,) pixels of the coarser frame, and whether it is
        mapped into the reference's searched part, (m,) bool."""
        rows = self.matches.pairs
        here = self.query.keypoints[rows[:, 0], :2].astype(np.float64)
        sent = project(self.homography, here)
        scale = np.sqrt(abs(local_areas(self.homography, here)))
        coarser = np.maximum(self.reference.frame_px, scale * self.query.frame_px)
        errors = np.linalg.norm(sent - self.reference.keypoints[rows[:, 1], :2], axis=1) / coarser
        low, high = self.reference.part[:2] - 0.5, self.reference.part[2:] - 0.5
        return errors, np.all((sent >= low) & (sent < high), axis=1)


def best_hypothesis(
    query: View, reference: View, tentative: Mapping[int, Matches]
) -> tuple[str, Hypothesis | None]:
    """The hypothesis with the highest score, refined: "" and the hypothesis, or a key of
    `estimation.REFUSALS` and None.

    tentative: matches of the query as it is (0) and mirrored (1); empty for an image without
    keypoints. If they give no homography that the pixels confirm, whole frames are aligned.
    """
    refused, hypotheses = _from_matches(query, reference, tentative)
    best = max(hypotheses, key=lambda hypothesis: hypothesis.score, default=None)
    if best is None or best.ncc_inlier_ratio < _DOUBTFUL:
        whole = _from_frames(query, reference, tentative)
        if whole is not None and (best is None or whole.score > best.score):
            best = whole
    return ("", _refine(best)) if best else (refused, None)


def _from_matches(
    query: View, reference: View, tentative: Mapping[int, Matches]
) -> tuple[str, list[Hypothesis]]:
    """Hypotheses from matches, as they are and mirrored, and the reason if there are none."""
    refused = "too_few"
    hypotheses: list[Hypothesis] = []
    # First the one that the matches speak for: rows of coins correlate in both.
    strict = {mirrored: int(matches.ratio_test.sum()) for mirrored, matches in tentative.items()}
    for mirrored in sorted(tentative, key=lambda one: 2 * strict[one] < max(strict.values())):
        matches = tentative[mirrored]
        if hypotheses and hypotheses[0].ncc_inlier_ratio > _CONFIRMED:
            break  # the pixels confirm the first: no other can exceed it
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
        inliers = int(found.inliers.sum())
        if hypotheses and inliers < 0.5 * hypotheses[0].guided_inliers:
            continue
        homography, guided = _guided(query, reference, found.homography, inliers, bool(mirrored))
        homography, alignment = _aligned(
            query, reference, homography, by_pixels=guided < _MANY_GUIDED
        )
        hypotheses.append(
            Hypothesis(
                query,
                reference,
                homography,
                bool(mirrored),
                matches,
                guided,
                found.model,
                "matches",
                alignment,
            )
        )
    return refused, hypotheses


def _from_frames(
    query: View, reference: View, tentative: Mapping[int, Matches]
) -> Hypothesis | None:
    """The searched parts aligned as a whole, in the orientation that correlates best, if any."""
    correlations = abs(query.dihedral_views @ reference.dihedral_views[0])
    best = int(correlations.argmax())
    if correlations[best] < MIN_FRAME_CORRELATION:
        return None
    flip, mirror, turn = DIHEDRAL_VIEWS[best]
    # The corners of the query that coincide with the reference's top left, top right, ...
    grid = query.corners[[[0, 1], [3, 2]]]
    grid = (grid.transpose(1, 0, 2) if turn else grid)[:: -1 if flip else 1, :: -1 if mirror else 1]
    corners = grid[[0, 0, 1, 1], [0, 1, 1, 0]]
    homography = cv2.getPerspectiveTransform(
        corners.astype(np.float32), reference.corners.astype(np.float32)
    )
    homography, alignment = _aligned(query, reference, homography, by_pixels=True)
    mirrored = (flip + mirror + turn) % 2 == 1
    matches = tentative.get(int(mirrored), _NO_MATCHES)
    return Hypothesis(
        query, reference, homography, mirrored, matches, 0, "affine", "frame", alignment
    )


def _refine(hypothesis: Hypothesis) -> Hypothesis:
    """The hypothesis refined, if its pixels give reason to."""
    alignment = hypothesis.alignment
    overlay = alignment.overlay()
    if overlay is None or overlay.inlier_ratio - overlay.chance < _WORTH_REFINING:
        return hypothesis
    refinement = refine_alignment(alignment)
    if refinement is None or not refinement.model:
        return replace(hypothesis, refinement=refinement)
    refined = refinement.alignment
    return replace(
        hypothesis,
        homography=homography_of(hypothesis.query, hypothesis.reference, refined),
        alignment=refined if refined.overlay() else alignment,
        model=refinement.model,
        refinement=refinement,
    )


def _guided(
    query: View, reference: View, homography: np.ndarray, inliers: int, mirrored: bool
) -> tuple[np.ndarray, int]:
    """The homography estimated again from the matches that it predicts, and the number that agree;
    unchanged if it has many inliers or would lose some."""
    if inliers >= _MANY_INLIERS:
        return homography, inliers
    pairs, contrast_reversed = guided_matches(
        (query.keypoints, query.descriptors),
        (reference.keypoints, reference.descriptors),
        homography,
        mirrored=mirrored,
        query_px=query.frame_px,
        reference_px=reference.frame_px,
    )
    again = estimate_homography(
        query.keypoints[pairs[:, 0]],
        reference.keypoints[pairs[:, 1]],
        mirrored=mirrored,
        contrast_reversed=contrast_reversed,
        query_px=query.frame_px,
        reference_px=reference.frame_px,
    )
    if again.homography is None or again.inliers.sum() <= inliers:
        return homography, inliers
    return again.homography, int(again.inliers.sum())


def _aligned(
    query: View, reference: View, homography: np.ndarray, *, by_pixels: bool
) -> tuple[np.ndarray, Alignment]:
    """The alignment of a homography, corrected by the pixels if asked, and its homography in pixels
    of the whole images."""
    alignment = alignment_of(query, reference, homography)
    if by_pixels:
        alignment = align(alignment)
    if alignment.overlay() is None:
        return homography, alignment
    return homography_of(query, reference, alignment), alignment
