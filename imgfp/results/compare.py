# SPDX-License-Identifier: AGPL-3.0-or-later
"""Matches and overlay of one pair, recomputed from stored features for the match inspector."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from imgfp.results import Results, homography_of
from imgfp.verify.correlation import Alignment, to_grey
from imgfp.verify.differences import compare_blocks
from imgfp.verify.estimation import REFUSALS, Verification, estimate_homography
from imgfp.verify.matching import Nearest, nearest_two, tentative_matches, variant_spectrum

#: Values of `marked_pixels`, as `viz.pictures.overlay` takes them.
SHARED, DIFFERS = 1, 2
MARKS_MEANING = "red: differs at full resolution; blue: others share it"


@dataclass(frozen=True)
class MatchedPoints:
    """Putative matches of one pair, and the transform that they agree on.

    query_xy, reference_xy (m,2) in original pixels; contrast_reversed (m,) bool: matched with
    reversed contrast; verification: the transform, with the inliers among the matches.
    """

    query_xy: np.ndarray
    reference_xy: np.ndarray
    contrast_reversed: np.ndarray
    verification: Verification

    @property
    def labels(self) -> list[str]:
        """A line of text per match (m)."""
        kinds = zip(self.verification.inliers, self.contrast_reversed, strict=True)
        return [
            f"match {row + 1}: {'inlier' if inlier else 'outlier'}"
            f"{', contrast reversed' if contrast_reversed else ''}"
            for row, (inlier, contrast_reversed) in enumerate(kinds)
        ]

    @property
    def in_words(self) -> str:
        """How many are inliers of which transform, or why there is none."""
        inliers = self.verification.inliers
        refused = REFUSALS.get(self.verification.refused, "")
        text = f"{int(inliers.sum())} of {len(inliers)} putative matches are inliers"
        return (
            f"{text}; no transform: {refused}" if refused else f"{text} ({self.verification.model})"
        )


class PairMatcher:
    """Matches two images by different rules; the nearest neighbours are searched only once."""

    def __init__(
        self,
        query: tuple[np.ndarray, np.ndarray],
        reference: tuple[np.ndarray, np.ndarray],
        *,
        query_px: float = 1.0,
        reference_px: float = 1.0,
        keypoints: int = 0,
    ) -> None:
        """query, reference: keypoints (n,4) and descriptors (n,128), strongest first; query_px,
        reference_px: original pixels per pixel of the frame in which keypoints were detected;
        keypoints: number of the strongest to use, 0 for all."""
        limit = keypoints or None
        self.query, self._query_descriptors = (side[:limit] for side in query)
        self.reference, self._reference_descriptors = (side[:limit] for side in reference)
        self._query_px, self._reference_px = query_px, reference_px

    @cached_property
    def _nearest(self) -> Nearest:
        return nearest_two(
            variant_spectrum(self._query_descriptors), variant_spectrum(self._reference_descriptors)
        )

    def matches(
        self, ratio: float = 1.15, mirrored: bool = False, at_most: int = 200
    ) -> MatchedPoints:
        """Putative matches, and the transform that they agree on; the defaults are those of
        verification. ratio: least ratio of the squared distances of the second and the first
        neighbour; mirrored: match with the mirrored reference; at_most: number of matches."""
        pairs, contrast_reversed = np.empty((0, 2), np.int64), np.empty(0, bool)
        if len(self.query) and len(self.reference):
            pairs, contrast_reversed = tentative_matches(
                self._nearest, mirrored, ratio=ratio, at_most=at_most
            )
        query, reference = self.query[pairs[:, 0]], self.reference[pairs[:, 1]]
        verification = estimate_homography(
            query,
            reference,
            mirrored=mirrored,
            contrast_reversed=contrast_reversed,
            query_px=self._query_px,
            reference_px=self._reference_px,
        )
        return MatchedPoints(query[:, :2], reference[:, :2], contrast_reversed, verification)


def warp_query(
    query: np.ndarray,
    reference: np.ndarray,
    query_size: tuple[int, int],
    reference_size: tuple[int, int],
    homography: np.ndarray,
    long_side_px: int = 420,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The query warped onto the reference, both with a longer side of at most `long_side_px`.

    query, reference: (H,W,3) uint8 RGB, originals or thumbnails; sizes: (width, height) of the
    originals; homography (3,3): from query to reference, in pixels of the originals. Returns warped,
    reference (of one size) and inside (H,W) bool: the pixels that the query covers.
    """
    width, height = reference_size
    scale = min(1.0, long_side_px / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    target = cv2.resize(reference, size, interpolation=cv2.INTER_AREA)
    to_original = np.diag([query_size[0] / query.shape[1], query_size[1] / query.shape[0], 1])
    to_shown = np.diag([size[0] / width, size[1] / height, 1])
    matrix = to_shown @ homography @ to_original
    warped = cv2.warpPerspective(query, matrix, size, flags=cv2.INTER_AREA)
    full = np.full(query.shape[:2], 255, np.uint8)
    inside = cv2.warpPerspective(full, matrix, size, flags=cv2.INTER_NEAREST) > 0
    return warped, target, inside


def marked_pixels(
    query: np.ndarray,
    reference: np.ndarray,
    query_size: tuple[int, int],
    reference_size: tuple[int, int],
    homography: np.ndarray,
    shape: tuple[int, int],
    shared: np.ndarray | None = None,
) -> np.ndarray:
    """What a comparison at full resolution shows, (h,w) uint8 in pixels of the reference at this shape: DIFFERS in the blocks
    that show something else, see `verify.differences`, SHARED in the parts that other references share, else 0.

    shared: cells (n,n) bool, see `store.Shared`; None: none. The others: see `warp_query`.
    """
    given = zip((query, reference), (query_size, reference_size), strict=True)
    to_query, to_reference = (
        np.diag([image.shape[1] / width, image.shape[0] / height, 1])
        for image, (width, height) in given
    )
    aligned = to_reference @ homography @ np.linalg.inv(to_query)
    blocks = compare_blocks(Alignment(to_grey(query), to_grey(reference), aligned))
    marks = np.zeros(shape, np.uint8)
    if shared is not None:
        cells = cv2.resize(shared.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
        marks[cells > 0] = SHARED
    if blocks is None:
        return marks
    scale = np.array(shape[::-1]) / reference.shape[1::-1]
    x, y = (blocks.reference_xy[blocks.differing] * scale).astype(int).T
    centres = np.zeros(shape, np.uint8)
    centres[np.clip(y, 0, shape[0] - 1), np.clip(x, 0, shape[1] - 1)] = 1
    side = max(1, round(blocks.side_px * scale[0]))
    marks[cv2.dilate(centres, np.ones((side, side), np.uint8)) > 0] = DIFFERS
    return marks


def marks_of(
    results: Results,
    key: tuple[str, str],
    pictures: tuple[np.ndarray, np.ndarray],
    shape: tuple[int, int],
) -> np.ndarray | None:
    """`marked_pixels` of a pair (query_id, reference_id) that was compared at full resolution; None for any other. pictures:
    of its images; shape: of the reference as it is drawn."""
    evidence = results.best_evidence(*key)
    homography = homography_of(evidence)
    if evidence is None or homography is None or not evidence.get("compared_blocks"):
        return None
    query, reference = results.images_of(*key)
    sizes = results.size("query", query), results.size("reference", reference)
    part = results.shared.of(reference)
    return marked_pixels(*pictures, *sizes, homography, shape, part and part[0])


def pair_matcher(
    results: Results, query_id: str, reference_id: str, keypoints: int = 0
) -> PairMatcher:
    """A matcher of the two views of a pair that gave the best evidence, the query being whole or a crop.
    keypoints: see `PairMatcher`."""
    evidence = results.best_evidence(query_id, reference_id)
    query_image, reference_image = results.images_of(query_id, reference_id)
    query = results.view("query", query_image, "" if evidence is None else evidence["view_id"])
    reference = results.view("reference", reference_image)
    return PairMatcher(
        (query.keypoints, query.descriptors),
        (reference.keypoints, reference.descriptors),
        query_px=query.frame_px,
        reference_px=reference.frame_px,
        keypoints=keypoints,
    )
