"""Homography hypotheses: from matches, from whole frames, refined only with a reason."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.geometry import project
from imgfp.verify.hypotheses import Matches, best_hypothesis
from imgfp.verify.matching import nearest_two, tentative_matches


def putative(query, reference) -> dict[int, Matches]:
    nearest = nearest_two(query.variants, reference.variants)
    found = {}
    for mirrored in (0, 1):
        pairs, contrast_reversed = tentative_matches(nearest, bool(mirrored))
        found[mirrored] = Matches(pairs, contrast_reversed, np.ones(len(pairs), bool))
    return found


def test_matches_give_a_refined_hypothesis_in_pixels_of_the_whole_images(
    make_view, photograph, reference
):
    query = make_view(photograph[60:400, 100:500][:, ::-1])
    refused, best = best_hypothesis(query, reference, putative(query, reference))
    assert refused == "" and best.source == "matches" and best.mirrored
    assert best.model == "axis_aligned" == best.refinement.model
    assert best.alignment is best.refinement.alignment
    assert best.ncc_inlier_ratio == best.correlation.inlier_ratio > 0.9
    sent = project(best.homography, np.array([[0.0, 0.0], [399.0, 339.0]]))
    assert sent == pytest.approx(np.array([[499, 60], [100, 399]]), abs=1.5)
    errors, inside = best.errors
    assert inside.mean() > 0.9 and np.median(errors) < 1


def test_without_keypoints_whole_frames_are_aligned(make_bare_view, photograph, reference):
    for edited, mirrored in (
        (photograph[:, ::-1], True),
        (photograph[::-1, ::-1], False),
        (photograph[::-1], True),
        (photograph.transpose(1, 0, 2), True),
    ):
        _, best = best_hypothesis(make_bare_view(edited), reference, {})
        assert best.source == "frame" and len(best.matches.pairs) == best.guided_inliers == 0
        assert best.mirrored == mirrored and best.ncc_inlier_ratio > 0.9


def test_hypotheses_without_matching_pixels_are_not_refined(make_view, other_photograph, reference):
    query = make_view(other_photograph)
    refused, best = best_hypothesis(query, reference, putative(query, reference))
    assert best is None or best.refinement is None
    assert refused or best.score < 0.3


def test_flat_images_give_no_hypothesis(make_bare_view):
    flat = make_bare_view(np.full((60, 80, 3), 128, np.uint8))
    assert best_hypothesis(flat, flat, {}) == ("too_few", None)
