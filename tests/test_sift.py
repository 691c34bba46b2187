# SPDX-License-Identifier: AGPL-3.0-or-later
"""SIFT features: frames, order, permutations of descriptors, files of the 2021 system."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial import cKDTree

from imgfp import sift
from imgfp.decoding import read_image
from imgfp.store import isc2021 as texts


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
def test_a_flat_image_has_no_features(image):
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


def test_order_budget_and_repetition(photograph):
    keypoints, descriptors = sift.extract(photograph)
    again = sift.extract(photograph)
    assert np.array_equal(keypoints, again[0]) and np.array_equal(descriptors, again[1])
    kept = sift.spread(keypoints[:, :2], 50)
    assert len(kept) == 50 < len(keypoints)
    few = sift.extract(photograph, max_keypoints=50)
    assert np.array_equal(few[0], keypoints[kept]) and np.array_equal(few[1], descriptors[kept])
    many = sift.extract(photograph, max_keypoints=len(keypoints))
    assert np.array_equal(many[0], keypoints) and np.array_equal(many[1], descriptors)


def test_a_budget_keeps_what_is_farthest_from_all_stronger(rng):
    line = np.float32([[0, 0], [1, 0], [100, 0], [50, 0], [50, 0], [53, 0]])
    assert sift.spread(line, 3).tolist() == [0, 2, 3]
    assert sift.spread(line, 5).tolist() == [0, 1, 2, 3, 5]
    assert sift.spread(line, 9).tolist() == list(range(6))
    points = rng.uniform(0, 300, (700, 2)).astype(np.float32)  # more than one block
    apart = np.linalg.norm(points[:, None] - points[None].astype(float), axis=2)
    radius = [np.inf, *(apart[row, :row].min() for row in range(1, 700))]
    assert sift.spread(points, 90).tolist() == sorted(np.argsort(radius)[-90:])
    assert set(sift.spread(points, 90)) < set(sift.spread(points, 300))
    assert np.array_equal(sift.spread(points * 3 + 70, 90), sift.spread(points, 90))


@pytest.mark.parametrize("points", [np.zeros((9, 2)), np.arange(18).reshape(9, 2) * [1, 0]])
def test_a_budget_of_keypoints_at_one_place_or_on_one_line(points):
    kept = sift.spread(points.astype(np.float32), 5)
    assert len(kept) == len(set(kept)) == 5 and kept[0] == 0
    assert len(sift.spread(points[:0], 5)) == 0


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
def test_keypoints_are_in_pixels_of_the_image(photograph, first_octave):
    small, _ = sift.extract(photograph, first_octave=first_octave)
    large, _ = sift.extract(
        np.kron(photograph, np.ones((3, 3, 1), np.uint8)), first_octave=first_octave
    )
    # Centres: pixel x of the small image covers 3x..3x+2 of the large one.
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
    """A vertical flip is a mirror and a half turn, and SIFT is invariant to rotation: one permutation."""
    keypoints, descriptors = sift.extract(photograph)
    moved, flipped = sift.extract(cv2.flip(photograph, flip))
    height, width = photograph.shape[:2]
    expected = keypoints.copy()
    if flip == 1:
        expected[:, 0] = width - 1 - keypoints[:, 0]
        expected[:, 3] = np.pi - keypoints[:, 3]
    else:
        expected[:, 1] = height - 1 - keypoints[:, 1]
        expected[:, 3] = -keypoints[:, 3]
    here, there = matched(expected, moved, within_px=1)
    assert len(here) > 0.7 * len(keypoints)
    predicted = sift.mirror_descriptors(descriptors)
    assert np.median(distances(predicted[here], flipped[there])) < 20
    assert np.median(distances(descriptors[here], flipped[there])) > 100


def test_contrast_reversed_descriptors_need_no_pixels(photograph):
    keypoints, descriptors = sift.extract(photograph)
    moved, negative = sift.extract(255 - photograph)
    expected = keypoints + np.float32([0, 0, 0, np.pi])
    here, there = matched(expected, moved, within_px=1)
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


def assert_same_features(image: np.ndarray, path: Path, min_found: float) -> None:
    """Keypoints of a text file of 2021 recur in those of `sift.extract`: place, size, angle, descriptor."""
    scale = sift.frame_scale(image.shape[1], image.shape[0], 300)
    _, theirs, their_descriptors = texts.read_keypoints(path, scale)
    ours, our_descriptors = sift.extract(image)
    near = cKDTree(ours[:, :2]).query_ball_point(theirs[:, :2], 1.5 / scale)
    found = [row for row, candidates in enumerate(near) if candidates]
    assert len(theirs) > 300 and len(found) >= min_found * len(theirs)
    # Several directions and sizes share a place: the keypoint's counterpart is the most similar one.
    best = [
        distances(our_descriptors[near[row]], their_descriptors[[row]]).argmin() for row in found
    ]
    counterparts = [near[row][at] for row, at in zip(found, best, strict=True)]
    apart = distances(our_descriptors[counterparts], their_descriptors[found])
    assert np.median(apart) <= 45
    close = apart < 60
    assert abs(np.median(ours[counterparts, 2][close] / theirs[found, 2][close]) - 1) < 0.05
    turn = np.angle(np.exp(1j * (ours[counterparts, 3] - theirs[found, 3])))[close]
    assert np.median(abs(turn)) < 0.05


def test_features_recur_in_a_file_of_the_2021_system(isc2021):
    image = read_image(isc2021 / "Q24789.jpg")
    assert_same_features(image, isc2021 / "Q24789.sift.txt", 0.6)


def test_features_recur_in_a_small_file_in_the_layout_of_2021(photograph, tmp_path):
    """Sibling of the test above: plain OpenCV with other settings, written out in that layout here."""
    scale = 300 / 427
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)
    frame = cv2.resize(grey, (round(640 * scale), 300), interpolation=cv2.INTER_AREA)
    half = cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    found, histograms = cv2.SIFT.create(0, 5, 0.02).detectAndCompute(half, None)
    lines = []
    for number, (keypoint, values) in enumerate(zip(found, histograms, strict=True)):
        x, y = 2 * keypoint.pt[0] + 0.5, 2 * keypoint.pt[1] + 0.5  # the frame has twice the pixels
        root = np.rint(255 * np.sqrt(values / values.sum())).astype(int).reshape(16, 8)
        root[:, 1:] = root[:, :0:-1].copy()  # orientations in reverse order
        words = (
            f"{x:.6g}_{y:.6g}_{keypoint.size:.6g}_{np.deg2rad(keypoint.angle):.6g}"  # 2 size / 2
        )
        lines.append(f"china_{number}_{words}||{','.join(map(str, root.ravel()))}\n")
    (tmp_path / "china.txt").write_text("".join(lines))
    assert_same_features(photograph, tmp_path / "china.txt", 0.6)
