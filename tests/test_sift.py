from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from imgfp import sift
from imgfp.images import read_image
from imgfp.store import formats


def matched(here, there, *, within_px: float, within_rad: float = 0.1):
    """Row pairs of keypoints of two sets at one place, of one size and direction."""
    distance, at = cKDTree(there[:, :2]).query(here[:, :2])
    turn = np.angle(np.exp(1j * (here[:, 3] - there[at, 3])))
    same = (distance < within_px) & (abs(turn) < within_rad)
    same &= abs(np.log2(here[:, 2] / there[at, 2])) < 0.1
    return np.flatnonzero(same), at[same]


def distances(some, others):
    return np.linalg.norm(some.astype(float) - others.astype(float), axis=1)


@pytest.mark.parametrize(
    "image", [np.full((200, 300), 90, np.uint8), np.zeros((1, 1, 3), np.uint8)]
)
def test_flat_picture_has_no_features(image):
    keypoints, descriptors = sift.extract(image)
    assert keypoints.shape == (0, 4) and keypoints.dtype == np.float32
    assert descriptors.shape == (0, 128) and descriptors.dtype == np.uint8


def test_fewer_than_the_minimum_is_nothing(photograph):
    count = len(sift.extract(photograph)[0])
    assert len(sift.extract(photograph, min_keypoints=count)[0]) == count
    assert len(sift.extract(photograph, min_keypoints=count + 1)[0]) == 0


def test_wrong_images_and_octaves_are_named(photograph):
    with pytest.raises(ValueError, match=r"float64 \(427, 640, 3\)"):
        sift.extract(photograph.astype(float))
    with pytest.raises(ValueError, match="first_octave"):
        sift.extract(photograph, first_octave=1)


def test_descriptors_are_roots_times_255(photograph):
    _, descriptors = sift.extract(photograph)
    norms = np.linalg.norm(descriptors.astype(float), axis=1)
    assert abs(norms - 255).max() < 3


def test_order_cut_and_repetition(photograph):
    keypoints, descriptors = sift.extract(photograph)
    again = sift.extract(photograph)
    assert np.array_equal(keypoints, again[0]) and np.array_equal(descriptors, again[1])
    strongest = sift.extract(photograph, max_keypoints=50)
    assert np.array_equal(strongest[0], keypoints[:50])
    assert np.array_equal(strongest[1], descriptors[:50])


def test_no_position_and_descriptor_twice():
    dots = np.full((300, 300), 255, np.uint8)
    for row in range(6):
        for column in range(6):
            dots[10 + row : 285 : 20, 10 + column : 285 : 20] = 0
    keypoints, descriptors = sift.extract(dots)
    assert len(keypoints) > 2000
    rows = np.hstack([keypoints[:, :2], descriptors])
    assert len(np.unique(rows, axis=0)) == len(rows)


@pytest.mark.parametrize("first_octave", [-1, 0])
def test_keypoints_are_in_pixels_of_the_picture(photograph, first_octave):
    small, _ = sift.extract(photograph, first_octave=first_octave)
    large, _ = sift.extract(
        np.kron(photograph, np.ones((3, 3, 1), np.uint8)), first_octave=first_octave
    )
    # Centres: pixel x of the small picture covers 3x..3x+2 of the large one.
    assert len(small) > 100
    apart, at = cKDTree(large[:, :2]).query(small[:, :2] * 3 + 1)
    assert np.mean(apart < 0.1) > 0.95
    assert np.median(abs(large[at, 2] / small[:, 2] - 3)) < 0.01


def test_positions_do_not_depend_on_the_octave(photograph):
    fine, _ = sift.extract(photograph, first_octave=-1)
    coarse, _ = sift.extract(photograph, first_octave=0)
    here, there = matched(coarse, fine, within_px=2)
    assert len(here) > 0.3 * len(coarse)
    # OpenCV's own doubling would move one of them by a quarter pixel of the frame, 0.36 px here.
    assert abs(np.median(coarse[here, :2] - fine[there, :2], axis=0)).max() < 0.1


def test_long_strips_are_bounded():
    scale = sift.frame_scale(60_000, 300, 300)
    assert 60_000 * 300 * scale**2 <= sift.MAX_FRAME_PIXELS
    assert sift.frame_scale(640, 427, 300) == 300 / 427
    assert sift.frame_scale(200, 100, 300) == 1.0


@pytest.mark.parametrize("flip", [1, 0], ids=["mirror", "vertical flip"])
def test_mirrored_descriptors_need_no_pixels(photograph, flip):
    """A vertical flip is a mirror and a half turn, which SIFT does not see: one permutation."""
    keypoints, descriptors = sift.extract(photograph)
    seen, flipped = sift.extract(cv2.flip(photograph, flip))
    height, width = photograph.shape[:2]
    expected = keypoints.copy()
    if flip == 1:
        expected[:, 0] = width - 1 - keypoints[:, 0]
        expected[:, 3] = np.pi - keypoints[:, 3]
    else:
        expected[:, 1] = height - 1 - keypoints[:, 1]
        expected[:, 3] = -keypoints[:, 3]
    here, there = matched(expected, seen, within_px=1)
    assert len(here) > 0.7 * len(keypoints)
    predicted = sift.mirror_descriptors(descriptors)
    assert np.median(distances(predicted[here], flipped[there])) < 20
    assert np.median(distances(descriptors[here], flipped[there])) > 100


def test_contrast_reversed_descriptors_need_no_pixels(photograph):
    keypoints, descriptors = sift.extract(photograph)
    seen, negative = sift.extract(255 - photograph)
    expected = keypoints + np.float32([0, 0, 0, np.pi])
    here, there = matched(expected, seen, within_px=1)
    assert len(here) > 0.7 * len(keypoints)
    predicted = sift.reverse_contrast(descriptors)
    assert np.median(distances(predicted[here], negative[there])) < 20


@pytest.mark.parametrize(
    "permute", [sift.mirror_descriptors, sift.reverse_contrast, sift.to_seed_layout]
)
def test_permutations_are_their_own_inverse(permute, rng):
    descriptors = rng.integers(0, 256, (5, 128), np.uint8)
    assert not np.array_equal(permute(descriptors), descriptors)
    assert np.array_equal(permute(permute(descriptors)), descriptors)


def test_agrees_with_the_extractor_of_the_seed(shared):
    folder = shared / "isc2021"
    image = read_image(folder / "Q24789.jpg")
    scale = sift.frame_scale(image.shape[1], image.shape[0], 300)
    _, theirs, their_descriptors = formats.read_keypoints(folder / "Q24789.sift.txt", scale)
    ours, our_descriptors = sift.extract(image)
    near = cKDTree(ours[:, :2]).query_ball_point(theirs[:, :2], 1.5 / scale)
    found = [row for row, candidates in enumerate(near) if candidates]
    assert len(theirs) == 661 and len(found) >= 0.6 * 661
    # Several directions and sizes share a place: the keypoint's counterpart is the one most alike.
    best = [
        distances(our_descriptors[near[row]], their_descriptors[[row]]).argmin() for row in found
    ]
    twins = [near[row][at] for row, at in zip(found, best, strict=True)]
    apart = distances(our_descriptors[twins], their_descriptors[found])
    assert np.median(apart) <= 45
    close = apart < 60
    assert abs(np.median(ours[twins, 2][close] / theirs[found, 2][close]) - 1) < 0.05
    turn = np.angle(np.exp(1j * (ours[twins, 3] - theirs[found, 3])))[close]
    assert np.median(abs(turn)) < 0.05
