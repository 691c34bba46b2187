# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebook 08 without its notebook: evidence of proposed pairs, from what is stored."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import small_run
from small_run import made_with

from imgfp import stages, store
from imgfp.stages import verification
from imgfp.stages.crops import box_of_each, read_crops
from imgfp.stages.search import read_candidates
from imgfp.verify.evidence import COLUMNS
from imgfp.verify.view import View

KEYS = verification.KEYS
MIRRORED = small_run.HOSTILE[2]


def test_every_proposed_pair_is_verified_once(sides, address):
    run, library = sides
    candidates = read_candidates(run)
    report = stages.verify_pairs(run, library, cluster=address)
    evidence = verification.read_evidence(run)
    assert list(evidence.columns) == [*KEYS, *COLUMNS]
    assert len(evidence) == report.computed == len(candidates[KEYS].drop_duplicates())
    assert len(candidates) > len(evidence)  # two branches propose the best pairs
    best = evidence[evidence["query_id"] == MIRRORED].nlargest(1, "inliers").iloc[0]
    assert best.mirrored and best.inliers > 20 and best.copy_probability > 0.5
    assert stages.verify_pairs(run, library, cluster=address).computed == 0
    report = stages.verify_pairs(run, library, candidates_scored="accepted", cluster=address)
    assert report.computed == len(candidates[candidates["accepted"]][KEYS].drop_duplicates())


def test_a_pair_without_a_transform_shares_no_part():
    """A folded overlap leaves inliers, and a homography of NaN."""
    keypoint, descriptor = np.full((1, 4), 9, np.float32), np.zeros((1, 128), np.uint8)
    view = View(keypoint, descriptor, np.zeros((60, 80, 3), np.uint8), 80, 60)
    known = {"reference_id": "r", "inlier_keypoints": "0", "shared_inliers": 0}
    matrix = {f"h{i}{j}": float(i == j) for i in range(3) for j in range(3)}
    rows = [{**known, **matrix}, {**known, **dict.fromkeys(matrix, np.nan)}]
    shared = SimpleNamespace(of=lambda reference_id: (np.ones((32, 32), bool), 3))
    verification._mark_shared(rows, view, {"r": view}, shared)
    assert [row["shared_inliers"] for row in rows] == [1, 0]


def test_a_run_without_candidates_says_what_to_do(tmp_path):
    run, library = store.Run(tmp_path / "run"), store.Library(tmp_path / "library")
    with pytest.raises(store.StoreError, match="no candidates yet; run notebooks 03 to 07"):
        stages.verify_pairs(run, library)
    none = verification.read_evidence(run)
    assert none.empty and {"query_id", "inliers"} <= set(none.columns)


def test_other_features_or_pairs_verify_again(sides):
    run, library = sides
    candidates = read_candidates(run)
    (before,) = verification.pair_tasks(run, library, candidates, run.evidence)
    some = candidates[candidates["branch"] == "global"]
    (fewer,) = verification.pair_tasks(run, library, some, run.evidence)
    path = store.shards(library.local_features, ".h5")[0]
    store.save(path, store.load(path), made_with(short_side_px=200))
    (other,) = verification.pair_tasks(run, library, candidates, run.evidence)
    assert len({before.inputs, fewer.inputs, other.inputs}) == 3
    assert before.arguments["state"] == fewer.arguments["state"]


def test_views_are_read_with_their_box_and_features(sides):
    run, library = sides
    reader = verification.ViewReader(run, 120)
    crop = read_crops(run).iloc[0]
    views = reader.read({crop.query_id: crop.query_id, crop.crop_id: crop.query_id})
    whole, part = views[crop.query_id], views[crop.crop_id]
    assert whole.box is None and (part.box == box_of_each(read_crops(run))[crop.crop_id]).all()
    assert (part.width, part.height) == (whole.width, whole.height) == (480, 360)
    assert len(part.keypoints) and len(part.keypoints) != len(whole.keypoints)
    assert part.frame_px == pytest.approx((part.box[3] - part.box[1]) / 120)
    assert (part.thumbnail == whole.thumbnail).all()
    (grey,) = reader.read({"q-grey": "q-grey"}).values()
    assert grey.keypoints.shape == (0, 4) and grey.descriptors.shape == (0, 128)
    with pytest.raises(KeyError):
        verification.ViewReader(library, 120).read({"unknown": "unknown"})


def test_the_size_of_a_frame_is_that_of_the_library(sides):
    _, library = sides
    assert verification.frame_short_side_px(library) == 0
    path = store.shards(library.local_features, ".h5")[0]
    store.save(path, store.load(path), made_with(short_side_px=200))
    assert verification.frame_short_side_px(library) == 200
    assert verification.scoring_settings(library, 1.8)["frame_short_side_px"] == 200


def test_candidates_take_the_evidence_of_their_pair(sides):
    run, _ = sides
    candidates, evidence = read_candidates(run), verification.read_evidence(run)
    candidates["mirrored"] = ~candidates["mirrored"]
    joined = verification.join_evidence(candidates, evidence)
    assert joined[[*KEYS, "branch"]].equals(candidates[[*KEYS, "branch"]])
    known = evidence.set_index(KEYS)["mirrored"].to_dict()
    pairs = joined[KEYS].itertuples(index=False, name=None)
    assert joined["mirrored"].tolist() == [known[pair] for pair in pairs]
    missing = verification.join_evidence(candidates, evidence.iloc[1:])
    assert missing["inliers"].isna().sum() >= 1 and len(missing) == len(candidates)
    assert np.isfinite(joined["inliers"]).all()
