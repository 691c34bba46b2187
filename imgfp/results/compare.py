"""What the match inspector computes: pure functions of two pictures' features and pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from imgfp.results import Results, Side
from imgfp.verify.estimation import Verification, estimate_homography
from imgfp.verify.matching import Nearest, nearest_two, tentative_matches, variant_spectrum


@dataclass(frozen=True)
class MatchedPoints:
    """Matches of one pair: query_xy, reference_xy (m,2) in original pixels, squared ratio (m,) of the
    nearest to the next nearest (lower is more distinct), and the map that they agree on."""

    query_xy: np.ndarray
    reference_xy: np.ndarray
    contrast_reversed: np.ndarray
    found: Verification


class PairMatcher:
    """Keypoints and descriptors of two pictures; neighbours are searched once, so that rules can be
    moved at no cost."""

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
        reference_px: original pixels per pixel in which keypoints were searched; keypoints: how many
        of the strongest to use, 0 for all."""
        limit = keypoints or None
        self.query, self._codes = (side[:limit] for side in query)
        self.reference, self._other_codes = (side[:limit] for side in reference)
        self._scales = {"query_px": query_px, "reference_px": reference_px}

    @cached_property
    def _nearest(self) -> Nearest:
        sides = (variant_spectrum(codes) for codes in (self._codes, self._other_codes))
        return nearest_two(*sides)

    def matches(
        self, ratio: float = 1.15, mirrored: bool = False, at_most: int = 200
    ) -> MatchedPoints:
        """Matches whose next nearest neighbour is more than `ratio` times as far, in squared distance,
        and the map that they agree on; by default those of verification."""
        pairs, contrast_reversed = np.empty((0, 2), np.int64), np.empty(0, bool)
        if len(self.query) and len(self.reference):
            pairs, contrast_reversed = tentative_matches(
                self._nearest, mirrored, ratio=ratio, at_most=at_most
            )
        ends = self.query[pairs[:, 0]], self.reference[pairs[:, 1]]
        found = estimate_homography(
            *ends, mirrored=mirrored, contrast_reversed=contrast_reversed, **self._scales
        )
        return MatchedPoints(ends[0][:, :2], ends[1][:, :2], contrast_reversed, found)


def warp_query(
    query: np.ndarray,
    reference: np.ndarray,
    query_size: tuple[int, int],
    reference_size: tuple[int, int],
    homography: np.ndarray,
    long_side_px: int = 420,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The query laid onto the reference, both at most `long_side_px` long.

    query, reference: (H,W,3) uint8 RGB, originals or thumbnails; sizes: (width, height) of the
    originals, in whose pixels homography (3,3) maps query to reference. Returns warped, reference (of
    one size) and inside (H,W) bool, where the query reaches.
    """
    width, height = reference_size
    scale = min(1.0, long_side_px / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    ground = cv2.resize(reference, size, interpolation=cv2.INTER_AREA)
    to_original = np.diag([query_size[0] / query.shape[1], query_size[1] / query.shape[0], 1])
    to_shown = np.diag([size[0] / width, size[1] / height, 1])
    matrix = to_shown @ homography @ to_original
    warped = cv2.warpPerspective(query, matrix, size, flags=cv2.INTER_AREA)
    full = np.full(query.shape[:2], 255, np.uint8)
    inside = cv2.warpPerspective(full, matrix, size, flags=cv2.INTER_NEAREST) > 0
    return warped, ground, inside


def pair_matcher(
    results: Results, query_id: str, reference_id: str, keypoints: int = 0
) -> PairMatcher:
    """The two sides of a pair as its verification saw them: the view (query or crop) that gave the best
    evidence. keypoints: see `Pair`. A picture without local features has no keypoints here."""
    evidence = results.best_evidence(query_id, reference_id)
    view = query_id if evidence is None else evidence["view_id"]
    size: tuple[float, float] = results.size("query", query_id)
    box = results.box_of(view)
    if box is not None:
        size = box[2] - box[0], box[3] - box[1]
    short = int(results.params.get("sift_short_side_px", 300))
    return PairMatcher(
        _features(results, "query", view),
        _features(results, "reference", reference_id),
        query_px=_frame_px(size, short),
        reference_px=_frame_px(results.size("reference", reference_id), short),
        keypoints=keypoints,
    )


def _features(results: Results, side: Side, view_id: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        return results.features(side, view_id)
    except KeyError:
        return np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8)


def _frame_px(size: tuple[float, float], short_side_px: int) -> float:
    """Original pixels per pixel of the frame in which keypoints were searched; size: (width, height)."""
    return max(1.0, min(size) / short_side_px) if short_side_px else 1.0
