"""The seed's matching rules, each pinned; the four readings; maps found, maps refused."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.geometry import project
from imgfp.sift import extract, mirror_descriptors
from imgfp.verify.estimation import (
    REFUSALS,
    count_matches_seed,
    estimate_homography,
    match,
    refusal,
)
from imgfp.verify.matching import (
    guided_matches,
    nearest_two,
    ratio_matches,
    tentative_matches,
    variant_spectrum,
)


def descriptors(*firsts: int) -> np.ndarray:
    """Descriptors that differ in their first byte only: squared distances are easy to make."""
    rows = np.zeros((len(firsts), 128), np.uint8)
    rows[:, 0] = firsts
    return rows


def places(*xy: tuple[float, float]) -> np.ndarray:
    return np.array([(x, y, 5, 0) for x, y in xy], np.float32).reshape(-1, 4)


def apart(count: int) -> np.ndarray:
    return places(*[(10 * i, 0) for i in range(count)])


# ---------------------------------------------------------------------------------- the seed's rules


def test_nothing_matches_nothing():
    none, two = descriptors(), descriptors(0, 100)
    assert match(none, two, apart(0), apart(2)).shape == (0, 2)
    assert match(two, none, apart(2), apart(0)).shape == (0, 2)
    assert count_matches_seed(none, none, none, apart(0), apart(0)) == (0, 0)


def test_one_reference_keypoint_has_no_second_neighbour():
    assert len(match(descriptors(5), descriptors(5), apart(1), apart(1))) == 0


@pytest.mark.parametrize(("second", "matches"), [(23, 0), (24, 1)])
def test_the_ratio_is_of_squared_distances(second, matches):
    """Distances 10 and `second` from the query: 1.8 lies between 23 (1.69 = 1.3 squared) and 24."""
    query, reference = descriptors(100), descriptors(100 - 10, 100 + second - 10)
    squared = (second - 10) ** 2 / 100
    assert (squared > 1.8) == bool(matches)
    assert len(match(query, reference, apart(1), apart(2))) == matches


def test_the_ratio_is_strict_and_can_be_switched_off():
    query, reference = descriptors(100), descriptors(90, 110)
    assert len(match(query, reference, apart(1), apart(2), ratio=1.0)) == 0
    assert len(match(query, descriptors(90, 111), apart(1), apart(2), ratio=1.0)) == 1


@pytest.mark.parametrize(
    ("there", "matches"),
    [((20.0, 0.0), 2), ((10.4, 0.0), 1), ((10.6, 0.0), 2), ((10.4, 0.4), 1), ((10.4, 0.6), 2)],
)
def test_one_match_a_rounded_reference_position(there, matches):
    query, reference = descriptors(0, 200), descriptors(0, 200)
    found = match(query, reference, apart(2), places((10, 0), there))
    assert len(found) == matches
    assert found[0].tolist() == [0, 0]  # the first in query order stays


def test_one_match_a_rounded_query_position():
    query, reference = descriptors(0, 200), descriptors(0, 200)
    found = match(query, reference, places((5, 5), (5.3, 4.8)), apart(2))
    assert found.tolist() == [[0, 0]]
    both = match(query, reference, places((5, 5), (5.3, 4.8)), apart(2), dedup=False)
    assert both.tolist() == [[0, 0], [1, 1]]


def test_two_queries_may_not_share_a_reference_keypoint():
    query, reference = descriptors(0, 1), descriptors(0, 200)
    assert match(query, reference, apart(2), apart(2)).tolist() == [[0, 0]]
    assert match(query, reference, apart(2), apart(2), dedup=False).tolist() == [[0, 0], [1, 0]]
    mutual = match(query, reference, apart(2), apart(2), dedup=False, mutual=True)
    assert mutual.tolist() == [[0, 0]]


def test_mirrored_reference_descriptors_and_the_larger_count(photograph):
    keypoints, found = extract(photograph)
    turned_keypoints, turned = extract(np.ascontiguousarray(photograph[:, ::-1]))
    sides = (turned, found, mirror_descriptors(found), turned_keypoints, keypoints)
    plain, mirrored = count_matches_seed(*sides)
    assert mirrored > 0.5 * len(found) and plain < 0.1 * mirrored
    plain, mirrored = count_matches_seed(found, *sides[1:3], keypoints, keypoints)
    assert plain > 0.9 * len(found) * 0.6 and mirrored < plain


# ---------------------------------------------------------------------------------- four readings


def test_readings_are_exact_distances_to_permuted_descriptors(rng):
    query = rng.integers(0, 60, (40, 128)).astype(np.uint8)
    reference = rng.integers(0, 60, (30, 128)).astype(np.uint8)
    cells = np.arange(128).reshape(4, 4, 8)
    contrast_reversed = query[:, cells[::-1, ::-1].ravel()]
    variants = {
        (0, 0): query,
        (1, 0): mirror_descriptors(query),
        (0, 1): contrast_reversed,
        (1, 1): mirror_descriptors(contrast_reversed),
    }
    found = nearest_two(variant_spectrum(query), variant_spectrum(reference))
    for reading, side in variants.items():
        squares = ((side[:, None].astype(int) - reference.astype(int)) ** 2).sum(axis=2)
        ordered = np.sort(squares, axis=1)
        assert (found.first[reading] == ordered[:, 0]).all()
        assert (found.second[reading] == ordered[:, 1]).all()
        assert (squares[np.arange(40), found.index[reading]] == ordered[:, 0]).all()
        mutual = squares.min(axis=0)[found.index[reading]] == ordered[:, 0]
        assert (found.mutual[reading] == mutual).all()


def test_ratio_matches_of_a_reading_are_those_of_match(photograph, other_photograph):
    sides = extract(photograph), extract(other_photograph)
    keypoints, found = zip(*sides, strict=True)
    nearest = nearest_two(*(variant_spectrum(side) for side in found))
    expected = match(*found, *keypoints, dedup=False)
    assert (ratio_matches(nearest, (0, 0), 1.8) == expected).all()


def test_a_negative_is_matched_by_the_inverted_reading(photograph):
    keypoints, found = extract(photograph)
    others, negative = extract(255 - photograph)
    nearest = nearest_two(variant_spectrum(negative), variant_spectrum(found))
    pairs, contrast_reversed = tentative_matches(nearest, False)
    near = np.hypot(*(others[pairs[:, 0], :2] - keypoints[pairs[:, 1], :2]).T) < 2
    assert near.sum() > 100 and contrast_reversed[near].mean() > 0.95
    found = estimate_homography(
        others[pairs[:, 0]], keypoints[pairs[:, 1]], contrast_reversed=contrast_reversed
    )
    assert found.inliers.sum() > 100
    assert project(found.homography, np.array([[100.0, 50.0]])) == pytest.approx(
        np.array([[100, 50]]), abs=0.5
    )


# ---------------------------------------------------------------------------------- verification


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
    """Where a similarity sends keypoints, with their sizes and angles."""
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


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_matches_are_refused(count):
    found = estimate_homography(apart(count), apart(count))
    assert found.homography is None and found.refused == "too_few"
    assert found.inliers.shape == (count,)


def test_matches_on_a_line_or_a_spot_are_refused(rng):
    line = np.column_stack([np.arange(30.0) * 9, np.full(30, 50.0), np.full(30, 5), np.zeros(30)])
    assert estimate_homography(line, line).refused == "all_on_a_line"
    spot = line.copy()
    spot[:, 0] = 100 + 0.01 * np.arange(30)
    assert estimate_homography(spot, spot).refused == "collapsed"


@pytest.mark.parametrize("grain", [1e-9, 0.2, 30, 1000])
def test_no_arrangement_of_matches_breaks_it(rng, grain):
    """Heaps, lines and lattices of matches, many of them equal: a map or a reason, never an error."""
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
def test_degenerate_maps_are_refused_by_name(matrix, reason):
    reference = SQUARE if reason == "folded" else SQUARE @ np.abs(matrix[:2, :2])
    reference = reference * 100 if reason == "extreme_scale" else reference
    assert refusal(matrix, SQUARE, reference) == reason
    assert reason == "" or reason in REFUSALS


# ---------------------------------------------------------------------------------- guided matches


@pytest.mark.parametrize("edit", ["none", "mirrored", "negative"])
def test_a_rough_map_finds_the_matches_it_predicts(photograph, edit):
    small = photograph[::2, ::2]
    edited = {"none": small, "mirrored": small[:, ::-1], "negative": 255 - small}[edit]
    query, reference = extract(np.ascontiguousarray(edited)), extract(np.ascontiguousarray(small))
    width = small.shape[1]
    truth = np.diag([-1.0, 1, 1]) if edit == "mirrored" else np.eye(3)
    truth[0, 2] = width - 1 if edit == "mirrored" else 0
    rough = np.array([[1.01, 0.01, 2], [0, 0.99, -2], [0, 0, 1]]) @ truth
    pairs, contrast_reversed = guided_matches(query, reference, rough, mirrored=edit == "mirrored")
    sent = project(truth, query[0][pairs[:, 0], :2])
    near = np.hypot(*(sent - reference[0][pairs[:, 1], :2]).T) < 1.5
    assert len(pairs) > 100 and near.mean() > 0.9
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)
    assert contrast_reversed.mean() == pytest.approx(float(edit == "negative"), abs=0.05)


def test_a_wrong_map_finds_hardly_any(photograph, other_photograph):
    sides = extract(photograph), extract(other_photograph)
    pairs, _ = guided_matches(*sides, np.eye(3), mirrored=False)
    assert len(pairs) < 0.03 * len(sides[0][0])
    none = np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8)
    assert guided_matches(none, sides[0], np.eye(3), mirrored=False)[0].shape == (0, 2)
