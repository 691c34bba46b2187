"""Evidence of pairs with known geometry: areas, agreement, words, and what copies are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imgfp.geometry import camera_signs, overlap_of, project
from imgfp.sift import extract
from imgfp.verify.correlation import best_rectangle, to_grey
from imgfp.verify.describe import direction, in_words
from imgfp.verify.evidence import COLUMNS, score_pair, score_query
from imgfp.verify.refinement import align
from imgfp.verify.view import View


def picture(image: np.ndarray, thumbnail_px: int = 192, box=None, **changes) -> View:
    x, y = (0, 0) if box is None else box[:2]
    part = image if box is None else image[box[1] : box[3], box[0] : box[2]]
    keypoints, descriptors = extract(part)
    keypoints[:, :2] += [x, y]
    scale = thumbnail_px / min(image.shape[:2])
    thumbnail = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    sides = {"keypoints": keypoints, "descriptors": descriptors, "thumbnail": thumbnail}
    return View(**sides | {"width": width, "height": height, "box": box} | changes)


def bare(image: np.ndarray) -> View:
    """A picture without a single keypoint."""
    nothing = {"keypoints": np.empty((0, 4), np.float32), "descriptors": np.empty((0, 128), "u1")}
    return picture(image, **nothing)


@pytest.fixture(scope="module")
def reference(photograph) -> View:
    return picture(photograph)


def matrix_of(row: dict) -> np.ndarray:
    return np.array([[row[f"h{i}{j}"] for j in range(3)] for i in range(3)])


def test_two_blank_pictures_give_a_full_row_of_nothing():
    blank = bare(np.full((60, 80, 3), 128, np.uint8))
    row = score_pair(blank, blank)
    assert set(row) == set(COLUMNS)
    assert row["refused"] == "too_few" and row["inliers"] == 0 and row["ncc_inlier_ratio"] == 0
    assert np.isnan(matrix_of(row)).all()
    assert len(score_query(blank, {})) == 0


def test_the_picture_itself(reference):
    row = score_pair(reference, reference)
    assert row["inliers"] == 200 and row["ncc_inlier_ratio"] > 0.99 and row["ncc_stable"] > 0.95
    assert row["query_area"] == pytest.approx(1, abs=0.01) and row["direction"] == "same extent"
    assert row["transform"] == "as it is" and row["refused"] == "" and not row["mirrored"]
    assert matrix_of(row) == pytest.approx(np.eye(3), abs=0.1)


def test_a_mirrored_crop_is_described_and_located(photograph, reference):
    cut = np.ascontiguousarray(photograph[60:400, 100:500][:, ::-1])
    row = score_pair(picture(cut), reference)
    assert row["mirrored"] and row["matches_mirrored"] > 3 * row["matches_plain"]
    assert row["reference_area"] == pytest.approx(340 * 400 / (427 * 640), abs=0.02)
    assert row["direction"] == "reference contains query"
    assert row["transform"] == "mirrored, 50 % crop"
    assert (
        row["model"] == "upright" and row["tilt_deg"] == row["shear_deg"] == row["perspective"] == 0
    )
    assert (
        row["model_consistency"] > 0.9
        and row["displaced_blocks"] < 0.05 * row["localisable_blocks"]
    )
    sent = project(matrix_of(row), np.array([[0.0, 0.0], [399.0, 339.0]]))
    assert sent == pytest.approx(np.array([[499, 60], [100, 399]]), abs=1.5)


def test_a_paste_is_found_in_its_box(photograph, other_photograph, reference):
    query = other_photograph.copy()
    query[20:198, 350:617] = cv2.resize(photograph, (267, 178), interpolation=cv2.INTER_AREA)
    row = score_pair(picture(query, 320, box=np.array([350, 20, 617, 198])), reference)
    assert row["inliers"] > 30 and row["ncc_inlier_ratio"] > 0.9
    assert row["direction"] == "query contains reference"
    assert row["transform"] == "pasted top right"
    assert row["query_area"] == pytest.approx(267 * 178 / (427 * 640), abs=0.02)


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: 255 - p,
        lambda p: np.where(p > 128, 255 - p, p),  # solarised
        lambda p: cv2.GaussianBlur(p, (0, 0), 3),
        lambda p: cv2.cvtColor(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
        lambda p: (255 * (p / 255.0) ** 2).astype(np.uint8),
        lambda p: np.clip(p + np.random.default_rng(0).normal(0, 25, p.shape), 0, 255).astype("u1"),
    ],
    ids=["negative", "solarised", "blurred", "grey", "gamma", "noise"],
)
def test_pixels_agree_whatever_the_tone(photograph, reference, edit):
    row = score_pair(picture(edit(photograph)), reference)
    assert row["inliers"] > 20
    assert row["ncc_inlier_ratio"] - row["ncc_chance"] > 0.4 and row["ncc_stable"] > 0.6


def test_edges_agree_where_brightness_does_not(photograph, other_photograph, reference):
    grey = reference.grey
    solarised = np.where(grey > 128, 255 - grey, grey)
    drawn = cv2.magnitude(*(cv2.Sobel(grey, cv2.CV_32F, 1 - axis, axis) for axis in (0, 1)))
    for changed in (solarised, drawn):
        found = align(changed, grey, np.eye(3), rounds=0).summary()
        assert found.edges > 0.25 and found.edges > found.share - found.chance
    other = to_grey(cv2.resize(other_photograph, grey.shape[::-1]))
    assert align(other, grey, np.eye(3), rounds=0).edges() < 0.1


def _camera(degrees: float) -> np.ndarray:
    """A plane seen from a camera that went around it by so many degrees."""
    turn = cv2.Rodrigues(np.array([0, np.radians(degrees), 0]))[0]
    lens = np.array([[400.0, 0, 200], [0, 400, 150], [0, 0, 1]])
    plane = np.column_stack([turn[:, 0], turn[:, 1], [0, 0, 1]])
    return lens @ plane @ np.linalg.inv(lens)


@pytest.mark.parametrize(
    ("homography", "upright", "square", "flat"),
    [
        (np.diag([-0.4, 0.7, 1]), True, True, True),  # mirrored and squeezed
        (np.array([[0, -2.0, 5], [2, 0, 7], [0, 0, 1]]), True, True, True),  # a quarter turn
        (np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]), False, True, True),
        (np.array([[1, 0.3, 0], [0, 1, 0], [0, 0, 1]]), False, False, True),
        (_camera(20), False, False, False),
    ],
)
def test_a_second_camera_leaves_signs_that_editing_does_not(homography, upright, square, flat):
    overlap = np.array([[100.0, 40], [400, 40], [400, 300], [100, 300]])
    tilt, shear, perspective = camera_signs(homography, overlap)
    assert (tilt < 1e-6) == upright and (shear < 1e-6) == square and (perspective < 1e-9) == flat


def test_signs_of_a_camera_are_measured_in_a_pair(photograph, reference):
    bent = cv2.warpPerspective(photograph, _camera(15), photograph.shape[1::-1])
    row, plain = score_pair(picture(bent), reference), score_pair(reference, reference)
    assert row["tilt_deg"] > 1 and row["perspective"] > 0.1
    assert plain["tilt_deg"] < 0.1 and plain["shear_deg"] < 0.1 and plain["perspective"] < 0.01


def test_what_lies_over_a_copy_costs_only_its_blocks(photograph, reference):
    query = photograph.copy()
    query[:, 200:420] = [200, 30, 30]
    row = score_pair(picture(query), reference)
    assert 0.4 < row["ncc_inlier_ratio"] < 0.85
    assert row["ncc_best_rectangle"] > 0.9


def test_another_picture_is_none(other_photograph, reference):
    row = score_pair(picture(other_photograph), reference)
    assert row["inliers"] < 6 and row["ncc_inlier_ratio"] < 0.2


def test_without_keypoints_whole_frames_are_laid_on_each_other(photograph, reference):
    for turned in (photograph[:, ::-1], photograph[::-1], photograph.transpose(1, 0, 2)):
        row = score_pair(bare(np.ascontiguousarray(turned)), reference)
        assert row["hypothesis_source"] == "frame" and row["inliers"] == 0
        assert row["ncc_inlier_ratio"] > 0.9
    assert row["mirrored"]  # corners exchanged


def test_inliers_shared_by_many_references_weigh_less(photograph):
    query = picture(photograph)
    rows = score_query(query, {f"R{i}": query for i in range(4)})
    assert rows["reference_id"].tolist() == ["R0", "R1", "R2", "R3"]
    assert rows["distinct_inliers"].to_numpy() == pytest.approx(rows["inliers"].to_numpy() / 4)
    assert (rows["refused"] == "").all()  # the pixels agree: these are duplicates
    alone = score_query(query, {"R0": query})
    assert alone["distinct_inliers"].item() == alone["inliers"].item()


def test_text_on_many_references_is_refused():
    rng = np.random.default_rng(1)

    def page(number: int) -> View:
        noise = cv2.resize(rng.integers(0, 255, (14, 20, 3)).astype(np.uint8), (600, 420))
        cv2.putText(noise, "BREAKING NEWS TODAY", (20, 60), 0, 1.6, (255, 255, 255), 4)
        return picture(noise)

    rows = score_query(page(0), {f"R{i}": page(i) for i in range(6)})
    assert (rows["inliers"] > 5).all()
    assert (rows["refused"] == "shared_by_many").sum() >= 4


def test_overlap_is_cut_to_both_pictures():
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    shift = np.array([[1, 0, 6], [0, 1, 0], [0, 0, 1.0]])
    polygon = overlap_of(square, square, shift)
    assert polygon.min(axis=0).tolist() == [6, 0] and polygon.max(axis=0).tolist() == [10, 10]
    assert len(overlap_of(square, square, shift * [[1, 0, 9], [0, 1, 0], [0, 0, 1]])) == 0


def test_best_rectangle_against_brute_force(rng):
    assert best_rectangle(np.empty((0, 3))) == (slice(0, 0), slice(0, 0))
    for _ in range(20):
        gains = rng.normal(size=(4, 5)) - 0.2
        rows, columns = best_rectangle(gains)
        best = max(
            gains[t:b, a:c].sum()
            for t in range(4)
            for b in range(t + 1, 5)
            for a in range(5)
            for c in range(a + 1, 6)
        )
        assert gains[rows, columns].sum() == pytest.approx(best)


def test_a_slightly_wrong_map_is_refined(photograph):
    grey = to_grey(cv2.resize(photograph, (288, 192), interpolation=cv2.INTER_AREA))
    wrong = np.array([[1.01, 0, 3.0], [0, 0.99, -3.0], [0, 0, 1]])
    assert align(grey, grey, wrong, rounds=0).share < 0.8
    found = align(grey, grey, wrong)
    assert found.share > 0.9
    corner = project(found.homography, np.array([[280.0, 180.0]]))
    assert corner == pytest.approx(np.array([[280, 180]]), abs=1.5)


@pytest.mark.parametrize(
    ("areas", "said"),
    [
        ((1, 1), "same extent"),
        ((0.2, 1), "query contains reference"),
        ((1, 0.4), "reference contains query"),
        ((0.5, 0.5), "parts in common"),
    ],
)
def test_direction(areas, said):
    assert direction(*areas) == said


def turn(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (turn(12), "rotated 12 degrees clockwise"),
        (turn(-90), "rotated 90 degrees counterclockwise"),
        (turn(-179.9), "rotated 180 degrees"),
        (np.diag([1.0, -1, 1]), "flipped upside down"),
        (turn(10) @ np.diag([-1.0, 1, 1]), "mirrored, rotated 10 degrees clockwise"),
        (np.diag([0.8, 1, 1]), "width squeezed to 80 %"),
        (np.array([[1, 0, 0], [0, 1, 0], [0.002, 0, 1]]), "in perspective"),
    ],
)
def test_words_of_a_map(made, said):
    """`made` is the edit, reference -> query; the homography goes back."""
    box = np.array([[0.0, 0], [200, 0], [200, 100], [0, 100]])
    words = in_words(np.linalg.inv(made), (200, 100), box, 1.0, 1.0)
    assert said in words if said == "in perspective" else words == said
