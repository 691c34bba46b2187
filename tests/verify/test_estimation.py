"""Homographies that are found in putative matches, and transforms that are refused."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.geometry import project
from imgfp.sift import extract
from imgfp.verify.estimation import REFUSALS, estimate_homography, refusal
from imgfp.verify.matching import nearest_two, tentative_matches, variant_spectrum


def keypoints_of(rng, count: int) -> np.ndarray:
    return np.column_stack(
        [
            rng.uniform(0, 300, count),
            rng.uniform(0, 300, count),
            rng.uniform(3, 12, count),
            rng.uniform(0, 6.28, count),
        ]
    )


def moved(keypoints: np.ndarray, scale: float, turn: float, shift, mirror=False) -> np.ndarray:
    """Keypoints under a similarity, with their sizes and angles."""
    x, y, size, angle = keypoints.T
    if mirror:
        x, angle = -x, np.pi - angle
    z = scale * np.exp(1j * turn) * (x + 1j * y) + complex(*shift)
    return np.column_stack([z.real, z.imag, size * scale, angle + turn])


@pytest.mark.parametrize("mirror", [False, True])
def test_three_good_matches_among_a_hundred_bad(rng, mirror):
    query, noise = keypoints_of(rng, 103), keypoints_of(rng, 100)
    reference = np.vstack([moved(query[:3], 0.6, 0.8, (200, 40), mirror), noise])
    found = estimate_homography(query, reference, mirrored=mirror)
    assert found.inliers[:3].all() and found.inliers.sum() <= 5
    other = estimate_homography(query, reference, mirrored=not mirror)
    assert not other.inliers[:3].all() or other.homography is None


def test_a_homography_is_found_in_original_pixels(rng):
    truth = np.array([[1.1, 0.15, 30], [-0.1, 0.95, 12], [4e-4, -3e-4, 1]])
    query = keypoints_of(rng, 150)
    reference = query.copy()
    reference[:, :2] = project(truth, query[:, :2])
    step = project(truth, query[:, :2] + [0.1, 0]) - reference[:, :2]
    reference[:, 3] += np.arctan2(step[:, 1], step[:, 0])
    reference[:, 2] *= np.hypot(*step.T) / 0.1
    reference[100:] = keypoints_of(rng, 50)
    big = query * [4, 4, 4, 1]
    found = estimate_homography(big, reference * [2, 2, 2, 1], query_px=4.0, reference_px=2.0)
    assert found.model == "homography" and found.inliers[:100].mean() > 0.95
    sent = project(found.homography, big[:100, :2])
    assert np.median(np.hypot(*(sent - 2 * reference[:100, :2]).T)) < 1
    again = estimate_homography(big, reference * [2, 2, 2, 1], query_px=4.0, reference_px=2.0)
    assert (again.homography == found.homography).all()


def test_a_negative_is_located(photograph):
    keypoints, found = extract(photograph)
    others, negative = extract(255 - photograph)
    nearest = nearest_two(variant_spectrum(negative), variant_spectrum(found))
    pairs, contrast_reversed = tentative_matches(nearest, False)
    ends = others[pairs[:, 0]], keypoints[pairs[:, 1]]
    estimate = estimate_homography(*ends, contrast_reversed=contrast_reversed)
    assert estimate.inliers.sum() > 100
    point = np.array([[100.0, 50.0]])
    assert project(estimate.homography, point) == pytest.approx(point, abs=0.5)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_matches_are_refused(rng, count):
    found = estimate_homography(keypoints_of(rng, count), keypoints_of(rng, count))
    assert found.homography is None and found.refused == "too_few"
    assert found.inliers.shape == (count,)


def test_matches_on_a_line_or_in_one_position_are_refused():
    line = np.column_stack([np.arange(30.0) * 9, np.full(30, 50.0), np.full(30, 5), np.zeros(30)])
    assert estimate_homography(line, line).refused == "all_on_a_line"
    spot = line.copy()
    spot[:, 0] = 100 + 0.01 * np.arange(30)
    assert estimate_homography(spot, spot).refused == "collapsed"


@pytest.mark.parametrize("grain", [1e-9, 0.2, 30, 1000])
def test_every_arrangement_of_matches_gives_a_homography_or_a_reason(rng, grain):
    """Clusters, lines and lattices of matches, many of them equal, raise no error."""
    for count in range(3, 40):
        query, reference = keypoints_of(rng, count), keypoints_of(rng, count)
        for side in (query, reference):
            side[:, :2] = np.rint(side[:, :2] / grain) * grain if rng.random() < 0.7 else 50
        reference[:, 2:] = query[:, 2:] if rng.random() < 0.5 else reference[:, 2:]
        found = estimate_homography(query, reference, mirrored=bool(count % 2))
        assert (found.homography is None) == bool(found.refused)
        assert found.homography is None or abs(np.linalg.det(found.homography)) > 1e-12


SQUARE = np.array([[0.0, 0], [200, 0], [200, 200], [0, 200], [100, 60]])


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (np.eye(3), ""),
        (np.diag([-1.0, 1, 1]), "folded"),
        (np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1.0]]), "folded"),
        (np.diag([0.03, 0.03, 1]), "extreme_scale"),
        (np.diag([30.0, 30, 1]), "extreme_scale"),
        (np.diag([1.0, 7, 1]), "squeezed"),
        (np.array([[1, 0, 0], [0, 1, 0], [-0.0043, 0, 1.0]]), "extreme_perspective"),
        (np.full((3, 3), np.nan), "too_few"),
    ],
)
def test_degenerate_transforms_are_refused_by_name(matrix, reason):
    reference = SQUARE if reason == "folded" else SQUARE @ np.abs(matrix[:2, :2])
    reference = reference * 100 if reason == "extreme_scale" else reference
    assert refusal(matrix, SQUARE, reference) == reason
    assert reason == "" or reason in REFUSALS
