"""The match count of the 2021 system, its four variants, putative and guided matches."""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
import pytest

from imgfp import sift
from imgfp.demo import painting
from imgfp.geometry import project
from imgfp.sift import extract, mirror_descriptors
from imgfp.verify.matching import (
    first_at_each_position,
    guided_matches,
    nearest_two,
    ratio_matches,
    tentative_matches,
    variant_spectrum,
)


def descriptors(*firsts: int) -> np.ndarray:
    """Descriptors that differ in their first byte only, so that squared distances are easy to set."""
    rows = np.zeros((len(firsts), 128), np.uint8)
    rows[:, 0] = firsts
    return rows


def positions(*xy: tuple[float, float]) -> np.ndarray:
    return np.array([(x, y, 5, 0) for x, y in xy], np.float32).reshape(-1, 4)


def apart(count: int) -> np.ndarray:
    return positions(*[(10 * i, 0) for i in range(count)])


def nearest_of(query: np.ndarray, reference: np.ndarray):
    return nearest_two(variant_spectrum(query), variant_spectrum(reference))


def matches(query, reference, query_keypoints, reference_keypoints) -> list[list[int]]:
    """The matches that the 2021 system counts, of the query as it is."""
    pairs = ratio_matches(nearest_of(query, reference), (0, 0), 1.8)
    return pairs[first_at_each_position(query_keypoints, reference_keypoints, pairs)].tolist()


# ----------------------------------------------------------------------- the match count of 2021


def test_one_reference_keypoint_has_no_second_neighbour():
    assert matches(descriptors(5), descriptors(5), apart(1), apart(1)) == []
    nearest = nearest_of(descriptors(5), descriptors(5))
    assert np.isinf(nearest.second).all() and (nearest.first[0, 0] == 0).all()


@pytest.mark.parametrize(("second", "count"), [(13, 0), (14, 1)])
def test_the_ratio_is_of_squared_distances(second, count):
    """Distances 10 and `second` from the query: 13 / 10 squared is 1.69, and 14 / 10 squared is 1.96."""
    query, reference = descriptors(100), descriptors(100 - 10, 100 + second)
    assert len(matches(query, reference, apart(1), apart(2))) == count


def test_the_ratio_is_strict():
    tied = nearest_of(descriptors(100), descriptors(90, 110))
    assert len(ratio_matches(tied, (0, 0), 1.0)) == 0
    closer = nearest_of(descriptors(100), descriptors(90, 111))
    assert ratio_matches(closer, (0, 0), 1.0).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("there", "count"),
    [((20.0, 0.0), 2), ((10.4, 0.0), 1), ((10.6, 0.0), 2), ((10.4, 0.4), 1), ((10.4, 0.6), 2)],
)
def test_one_match_per_rounded_reference_position(there, count):
    sides = descriptors(0, 200), descriptors(0, 200)
    found = matches(*sides, apart(2), positions((10, 0), there))
    assert len(found) == count
    assert found[0] == [0, 0], "the first in query order stays"


def test_one_match_per_rounded_query_position():
    sides = descriptors(0, 200), descriptors(0, 200)
    assert matches(*sides, positions((5, 5), (5.3, 4.8)), apart(2)) == [[0, 0]]
    assert ratio_matches(nearest_of(*sides), (0, 0), 1.8).tolist() == [[0, 0], [1, 1]]


def test_two_query_keypoints_do_not_share_a_reference_keypoint():
    sides = descriptors(0, 1), descriptors(0, 200)
    assert matches(*sides, apart(2), apart(2)) == [[0, 0]]
    nearest = nearest_of(*sides)
    assert ratio_matches(nearest, (0, 0), 1.8).tolist() == [[0, 0], [1, 0]]
    assert nearest.mutual[0, 0].tolist() == [True, False]


def count_of(query, reference) -> tuple[int, int]:
    """The match count of two images as they are, and mirrored."""
    sides = []
    for image in (query, reference):
        keypoints, found = extract(np.ascontiguousarray(image))
        scale = sift.frame_scale(image.shape[1], image.shape[0], 300)
        sides.append((scale * keypoints, variant_spectrum(found)))
    nearest = nearest_two(sides[0][1], sides[1][1])
    counts = [
        len(first_at_each_position(sides[0][0], sides[1][0], ratio_matches(nearest, variant, 1.8)))
        for variant in ((0, 0), (1, 0))
    ]
    return counts[0], counts[1]


def test_a_mirrored_image_is_counted_by_the_mirrored_variant(photograph):
    total = len(extract(photograph)[0])
    plain, mirrored = count_of(photograph[:, ::-1], photograph)
    assert mirrored > 0.5 * total and plain < 0.1 * mirrored
    plain, mirrored = count_of(photograph, photograph)
    assert plain > 0.9 * total * 0.6 and mirrored < plain


def test_copies_have_many_matches_and_different_images_few(rng):
    kinds = list(painting.KINDS)
    first, second = (
        [painting.procedural(rng, kind, (240, 320)) for kind in kinds] for _ in range(2)
    )
    edited = [cv2.GaussianBlur(image[10:220, 30:300][:, ::-1], (0, 0), 0.8) for image in first]
    copies = [max(count_of(*pair)) for pair in zip(edited, first, strict=True)]
    assert min(copies) >= 40 and np.median(copies) >= 100
    others = [max(count_of(*pair)) for pair in product(second[::2], first)]
    assert np.percentile(others, 99) <= 15


# ------------------------------------------------------------------------------ the four variants


def test_variants_are_exact_distances_to_permuted_descriptors(rng):
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
    found = nearest_of(query, reference)
    for variant, side in variants.items():
        squares = ((side[:, None].astype(int) - reference.astype(int)) ** 2).sum(axis=2)
        ordered = np.sort(squares, axis=1)
        assert (found.first[variant] == ordered[:, 0]).all()
        assert (found.second[variant] == ordered[:, 1]).all()
        assert (squares[np.arange(40), found.index[variant]] == ordered[:, 0]).all()
        mutual = squares.min(axis=0)[found.index[variant]] == ordered[:, 0]
        assert (found.mutual[variant] == mutual).all()


def test_ratio_matches_against_brute_force(photograph):
    query, reference = extract(photograph[::2, ::2])[1][:300], extract(photograph)[1][:400]
    squares = ((query[:, None].astype(int) - reference.astype(int)) ** 2).sum(axis=2)
    ordered = np.sort(squares, axis=1)
    rows = np.flatnonzero(1.8 * ordered[:, 0] < ordered[:, 1])
    expected = np.stack([rows, squares[rows].argmin(axis=1)], axis=1).tolist()
    assert 20 < len(expected) < len(query)
    assert ratio_matches(nearest_of(query, reference), (0, 0), 1.8).tolist() == expected


# ------------------------------------------------------------------- putative and guided matches


def test_a_negative_is_matched_by_the_contrast_reversed_variant(photograph):
    keypoints, found = extract(photograph)
    others, negative = extract(255 - photograph)
    pairs, contrast_reversed = tentative_matches(nearest_of(negative, found), False)
    near = np.hypot(*(others[pairs[:, 0], :2] - keypoints[pairs[:, 1], :2]).T) < 2
    assert near.sum() > 100 and contrast_reversed[near].mean() > 0.95


def test_putative_matches_are_mutual_and_ordered_by_ratio(photograph):
    small = cv2.resize(photograph, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    nearest = nearest_of(extract(small)[1], extract(photograph)[1])
    pairs, contrast_reversed = tentative_matches(nearest, False, at_most=50)
    assert len(pairs) == len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == 50
    at = 0, contrast_reversed.astype(int), pairs[:, 0]
    assert nearest.mutual[at].all() and (nearest.index[at] == pairs[:, 1]).all()
    more, _ = tentative_matches(nearest, False)
    assert len(more) > 50 and (more[:50] == pairs).all()
    assert len(tentative_matches(nearest, False, ratio=3.0)[0]) < len(more)


@pytest.mark.parametrize("edit", ["none", "mirrored", "negative"])
def test_a_rough_homography_finds_the_matches_it_predicts(photograph, edit):
    small = photograph[::2, ::2]
    edited = {"none": small, "mirrored": small[:, ::-1], "negative": 255 - small}[edit]
    query, reference = extract(np.ascontiguousarray(edited)), extract(np.ascontiguousarray(small))
    truth = np.diag([-1.0, 1, 1]) if edit == "mirrored" else np.eye(3)
    truth[0, 2] = small.shape[1] - 1 if edit == "mirrored" else 0
    rough = np.array([[1.01, 0.01, 2], [0, 0.99, -2], [0, 0, 1]]) @ truth
    pairs, contrast_reversed = guided_matches(query, reference, rough, mirrored=edit == "mirrored")
    sent = project(truth, query[0][pairs[:, 0], :2])
    near = np.hypot(*(sent - reference[0][pairs[:, 1], :2]).T) < 1.5
    assert len(pairs) > 100 and near.mean() > 0.9
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)
    assert contrast_reversed.mean() == pytest.approx(float(edit == "negative"), abs=0.05)


def test_a_wrong_homography_finds_hardly_any(photograph, other_photograph):
    sides = extract(photograph), extract(other_photograph)
    pairs, _ = guided_matches(*sides, np.eye(3), mirrored=False)
    assert len(pairs) < 0.03 * len(sides[0][0])
    none = np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8)
    assert guided_matches(none, sides[0], np.eye(3), mirrored=False)[0].shape == (0, 2)
