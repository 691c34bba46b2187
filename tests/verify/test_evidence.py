# SPDX-License-Identifier: AGPL-3.0-or-later
"""Evidence of pairs with known geometry: areas, correlations, words, and unrelated pairs."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import skimage.data
from flat_drawings import ring

from imgfp.geometry import project
from imgfp.scoring.relations import relations
from imgfp.verify.classifier import SIDE_PX
from imgfp.verify.evidence import CELLS, COLUMNS, evidence_table, score_pair, score_query
from imgfp.verify.view import View


def matrix_of(row: dict) -> np.ndarray:
    return np.array([[row[f"h{i}{j}"] for j in range(3)] for i in range(3)])


def test_two_blank_images_give_a_complete_empty_row(make_bare_view):
    blank = make_bare_view(np.full((60, 80, 3), 128, np.uint8))
    row = score_pair(blank, blank)
    assert set(row) == set(COLUMNS)
    assert row["refused"] == "too_few" and row["inliers"] == 0 and row["ncc_inlier_ratio"] == 0
    assert row["matches"] == row["matches_plain"] == row["matches_mirrored"] == 0
    assert np.isnan(matrix_of(row)).all()
    assert len(score_query(blank, {})) == 0


def test_the_image_itself(reference):
    row = score_pair(reference, reference)
    assert row["inliers"] == 200 and row["ncc_inlier_ratio"] > 0.99 and row["ncc_stable"] > 0.95
    assert row["query_area"] == pytest.approx(1, abs=0.01) and row["direction"] == "same extent"
    assert row["transform"] == "as it is" and row["refused"] == "" and not row["mirrored"]
    assert matrix_of(row) == pytest.approx(np.eye(3), abs=0.1)


def test_a_row_has_every_column_in_its_dtype(reference):
    assert list(score_pair(reference, reference).keys()) == list(COLUMNS)
    table = score_query(reference, {"R0": reference})
    assert list(table) == ["reference_id", *COLUMNS]
    assert {name: str(table[name].dtype) for name in COLUMNS} == COLUMNS


def test_a_mirrored_crop_is_described_and_located(make_view, photograph, reference):
    row = score_pair(make_view(photograph[60:400, 100:500][:, ::-1]), reference)
    assert row["mirrored"] and row["matches_mirrored"] > 3 * row["matches_plain"]
    assert row["matches"] == row["matches_mirrored"]
    assert row["reference_area"] == pytest.approx(340 * 400 / (427 * 640), abs=0.02)
    assert row["direction"] == "reference contains query"
    assert row["transform"] == "mirrored, 50 % crop"
    assert row["model"] == "axis_aligned" and row["model_consistency"] > 0.9
    assert row["tilt_deg"] == row["shear_deg"] == row["perspective"] == 0
    assert row["displaced_blocks"] < 0.05 * row["localisable_blocks"]
    sent = project(matrix_of(row), np.array([[0.0, 0.0], [399.0, 339.0]]))
    assert sent == pytest.approx(np.array([[499, 60], [100, 399]]), abs=1.5)


def test_a_pasted_image_is_found_in_its_box(make_view, photograph, other_photograph, reference):
    query = other_photograph.copy()
    query[20:198, 350:617] = cv2.resize(photograph, (267, 178), interpolation=cv2.INTER_AREA)
    row = score_pair(make_view(query, 320, box=np.array([350, 20, 617, 198])), reference)
    assert row["inliers"] > 30 and row["ncc_inlier_ratio"] > 0.9
    assert row["direction"] == "query contains reference"
    assert row["transform"] == "pasted top right"
    assert row["query_area"] == pytest.approx(267 * 178 / (427 * 640), abs=0.02)


def cells_of(row: dict) -> np.ndarray:
    """(CELLS,CELLS) bool of `explained_cells`, by row and column of the query."""
    number = np.int64(row["explained_cells"])
    return (number >> np.arange(CELLS**2) & 1).astype(bool).reshape(CELLS, CELLS)


def test_the_explained_cells_lie_where_the_copy_was_pasted(make_view, photograph, other_photograph):
    """Both references explain their own part of the query."""
    ground = cv2.resize(other_photograph, (700, 700))
    pasted = ground.copy()
    pasted[100:400, 300:700] = cv2.resize(photograph, (400, 300))
    query = make_view(pasted)
    inside = cells_of(score_pair(query, make_view(photograph)))
    around = cells_of(score_pair(query, make_view(ground)))
    assert inside[1:4, 3:7].mean() > 0.9 and inside.sum() == inside[1:4, 3:7].sum()
    assert around.sum() > 20 and around[1:4, 4:7].sum() <= 3


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
def test_pixels_correlate_under_photometric_edits(make_view, photograph, reference, edit):
    row = score_pair(make_view(edit(photograph)), reference)
    assert row["inliers"] > 20
    assert row["ncc_inlier_ratio"] - row["ncc_chance"] > 0.4 and row["ncc_stable"] > 0.6


def test_the_evidence_tells_where_the_camera_stood(make_view, photograph, reference):
    turn = cv2.Rodrigues(np.array([0, np.radians(15), 0]))[0]
    lens = np.array([[400.0, 0, 200], [0, 400, 150], [0, 0, 1]])
    camera = lens @ np.column_stack([turn[:, :2], [0, 0, 1]]) @ np.linalg.inv(lens)
    seen = cv2.warpPerspective(photograph, camera, photograph.shape[1::-1])
    row, plain = score_pair(make_view(seen), reference), score_pair(reference, reference)
    assert row["tilt_deg"] > 1 and row["perspective"] > 0.1
    assert plain["tilt_deg"] < 0.1 and plain["shear_deg"] < 0.1 and plain["perspective"] < 0.01


def test_an_overpainted_part_costs_only_its_blocks(make_view, photograph, reference):
    query = photograph.copy()
    query[:, 200:420] = [200, 30, 30]
    row = score_pair(make_view(query), reference)
    assert 0.4 < row["ncc_inlier_ratio"] < 0.85
    assert row["ncc_best_rectangle"] > 0.9


def test_an_unrelated_image_has_hardly_any_evidence(make_view, other_photograph, reference):
    row = score_pair(make_view(other_photograph), reference)
    assert row["inliers"] < 6 and row["ncc_inlier_ratio"] < 0.2


def test_whole_frames_give_evidence_without_keypoints(make_bare_view, photograph, reference):
    row = score_pair(make_bare_view(photograph.transpose(1, 0, 2)), reference)
    assert row["hypothesis_source"] == "frame" and row["inliers"] == 0 and row["mirrored"]
    assert row["ncc_inlier_ratio"] > 0.9


def test_inliers_shared_by_many_references_weigh_less(reference):
    rows = score_query(reference, {f"R{i}": reference for i in range(4)})
    assert rows["reference_id"].tolist() == ["R0", "R1", "R2", "R3"]
    assert rows["distinct_inliers"].to_numpy() == pytest.approx(rows["inliers"].to_numpy() / 4)
    assert (rows["refused"] == "").all()  # the pixels correlate: these are duplicates
    alone = score_query(reference, {"R0": reference})
    assert alone["distinct_inliers"].item() == alone["inliers"].item()


def test_text_on_many_references_is_refused(make_view):
    rng = np.random.default_rng(1)

    def page() -> View:
        noise = cv2.resize(rng.integers(0, 255, (14, 20, 3)).astype(np.uint8), (600, 420))
        cv2.putText(noise, "BREAKING NEWS TODAY", (20, 60), 0, 1.6, (255, 255, 255), 4)
        return make_view(noise)

    rows = score_query(page(), {f"R{i}": page() for i in range(6)})
    assert (rows["inliers"] > 5).all()
    assert (rows["refused"] == "shared_by_many").sum() >= 4


def test_the_classifier_runs_only_on_refined_alignments(
    make_view, photograph, other_photograph, reference
):
    shapes = []

    def classifier(planes: np.ndarray) -> float:
        shapes.append(planes.shape)
        return 0.25

    row = score_pair(make_view(photograph[:, ::-1]), reference, classifier=classifier)
    assert row["copy_probability"] == 0.25 and shapes == [(3, SIDE_PX, SIDE_PX)]
    assert row["aligned_blocks"] > 0
    row = score_pair(make_view(other_photograph), reference, classifier=classifier)
    assert row["copy_probability"] == 0 and row["aligned_blocks"] == 0 and len(shapes) == 1
    assert score_pair(reference, reference)["copy_probability"] == 0, "without a classifier"


def test_flat_drawings_are_told_by_their_colours(make_bare_view, reference):
    orange = make_bare_view(ring((20, 60, 90), (240, 120, 30)))
    copy = cv2.resize(ring((20, 60, 90), (240, 120, 30)), (448, 280), interpolation=cv2.INTER_AREA)
    mirrored = make_bare_view(copy[:, ::-1])
    other = make_bare_view(ring((230, 230, 210), (30, 90, 60)))
    certain = {"classifier": lambda planes: 0.99}
    for query, low, high in ((mirrored, 0, 2), (other, 40, 255)):
        row = score_pair(query, orange, **certain)
        assert row["exact_inliers"] == row["localisable_blocks"] == 0
        assert row["copy_probability"] == 0.99 and low <= row["colour_difference"] < high
    row = score_pair(reference, reference, **certain)
    assert row["colour_difference"] < 0.1 and row["exact_inliers"] and row["localisable_blocks"]


def test_colours_are_compared_inside_the_searched_part(make_view):
    # The box of the query; the thumbnail of the reference is grey.
    image = np.full((300, 500, 3), (10, 200, 60), np.uint8)
    image[40:240, 60:380] = cv2.resize(ring((90, 90, 90), (200, 200, 200)), (320, 200))
    nothing = {"keypoints": np.empty((0, 4), np.float32), "descriptors": np.empty((0, 128), "u1")}
    pasted = make_view(image, 150, box=np.array([60, 40, 380, 240]), **nothing)
    drawn = make_view(ring((90, 90, 90), (200, 200, 200)), 150, **nothing)
    drawn = replace(drawn, thumbnail=drawn.thumbnail[..., 0])
    assert score_pair(pasted, drawn)["colour_difference"] < 4


def _saved(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(
        cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR
    )


def _pasted(image: np.ndarray) -> np.ndarray:
    board = np.random.default_rng(0).integers(0, 255, (500, 800, 3), dtype=np.uint8)
    board = cv2.GaussianBlur(board, (0, 0), 9)
    board[150:400, 300:675] = cv2.resize(image, (375, 250), interpolation=cv2.INTER_AREA)
    return board


def _turned(image: np.ndarray) -> np.ndarray:
    """Turned by 15 degrees, as large as it then is, with black corners."""
    matrix = cv2.getRotationMatrix2D((320, 213.5), 15, 1)
    matrix[:, 2] += 44, 76
    return cv2.warpAffine(image, matrix, (728, 578))


@pytest.mark.parametrize(
    ("edit", "relation"),
    [
        (_saved, "re-encoded"),
        (lambda image: cv2.resize(image, (301, 201), interpolation=cv2.INTER_AREA), "re-encoded"),
        (lambda image: image[:, ::-1], "edited copy"),
        (lambda image: np.rot90(image), "edited copy"),
        (lambda image: np.dstack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)] * 3), "edited copy"),
        (lambda image: np.clip(image.astype(int) + 40, 0, 255).astype(np.uint8), "edited copy"),
        (lambda image: cv2.rectangle(image.copy(), (60, 330), (560, 400), (255, 255, 255), -1), "edited copy"),
        (_turned, "edited copy"),
        (lambda image: image[60:330, 200:600], "part of"),
        (_pasted, "contains"),
        (lambda image: np.vstack([np.full((90, 640, 3), 255, np.uint8), image]), "contains"),
    ],
)  # fmt: skip
def test_the_relation_of_edited_photographs(make_view, photograph, reference, edit, relation):
    assert (
        relation_of(make_view(np.ascontiguousarray(edit(photograph))), reference, 0.9) == relation
    )


def test_the_relation_of_other_photographs(make_view, photograph, other_photograph):
    left, right = map(make_view, skimage.data.stereo_motorcycle()[:2])
    assert relation_of(left, right, 0.1) == "same scene, other photograph"
    views = make_view(photograph), make_view(other_photograph)
    assert relation_of(*views, 0.1) == "unrelated"


def relation_of(query: View, reference: View, score: float) -> str:
    row = {"query_id": "q", "reference_id": "r", **score_pair(query, reference)}
    copies = pd.DataFrame({"query_id": ["q"], "reference_id": ["r"], "score": [score]})
    (told,) = relations(evidence_table([row]).assign(score=9.0), copies)["relation"]
    return told
