# SPDX-License-Identifier: AGPL-3.0-or-later
"""Labelled pairs made from a user's own photographs, with the settings of a run."""

from __future__ import annotations

import ast
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("faiss")

from imgfp import store
from imgfp.crops.detectors import EdgeDetector, NoDetector, load_detector
from imgfp.datatypes import BRANCHES
from imgfp.descriptors.gist import GistGrid
from imgfp.images import encode_jpeg
from imgfp.runner import cluster, params
from imgfp.scoring.fusion import features
from imgfp.stages import crops, descriptors, inventory, search, verification
from imgfp.stages import features as stage_features
from imgfp.stages import index as stage_index
from imgfp.training import calibration
from imgfp.training.calibration import (
    CROP_RULES,
    LIMITS,
    SIMILARITY_RULES,
    VOTE_RULES,
    Pipeline,
    ReferenceSet,
    calibration_pairs,
    split_photographs,
)
from imgfp.verify.classifier import load_classifier
from imgfp.verify.differences import Differences
from imgfp.verify.evidence import COLUMNS

SIFT = {
    "short_side_px": 300,
    "first_octave": 0,
    "octave_layers": 7,
    "contrast_threshold": 0.0137,
    "edge_threshold": 10.0,
    "max_keypoints": 0,
    "min_keypoints": 10,
}
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@pytest.fixture(scope="module")
def quarters(photograph, other_photograph) -> list[np.ndarray]:
    """Eight small images: quarters of two photographs."""
    return [
        np.ascontiguousarray(image[y : y + 213, x : x + 320])
        for image in (photograph, other_photograph)
        for y in (0, 213)
        for x in (0, 320)
    ]


@pytest.fixture(scope="module")
def references(quarters):
    return {f"R{i}": image for i, image in enumerate(quarters[:4])}


@pytest.fixture(scope="module")
def negatives(quarters):
    return {f"N{i}": image for i, image in enumerate(quarters[4:])}


WHOLE = {"views": ["whole"], "similarity_rules": SIMILARITY_RULES | {"normalise_neighbours": 0}}


def test_the_global_branch_scores_what_it_proposes(references, negatives):
    pipeline = Pipeline(NoDetector(), GistGrid(), **WHOLE)
    settings = {"copies": 3, "others": 1, "strength": (0.0, 0.2), "seed": 1}
    table = calibration_pairs(references, negatives, pipeline, **settings)
    by_global = table[table["branch"] == "global"]
    assert len(by_global) and by_global["score"].between(-1, 1).all()
    copies = by_global[by_global["label"]]
    joined = features(table).merge(copies, on=["query_id", "reference_id"])
    assert len(joined) and joined["likeness"].median() > 0.3
    assert joined["votes"].min() > 0.3  # the keypoint search found them, too


def test_drawings_are_copied_and_their_templates_filled_otherwise(references, negatives):
    drawn, others = calibration.draw_templates(3, seed=5)
    assert list(drawn) == [
        "drawing0000",
        "drawing0001",
        "drawing0002",
        "drawing0000b",
        "drawing0002b",
    ]
    assert list(others) == ["drawing0000c", "drawing0001c", "drawing0002c"]
    three = drawn["drawing0000"], drawn["drawing0000b"], others["drawing0000c"]
    assert len({image.tobytes() for image in three}) == 3
    assert len({image.shape for image in three}) == 1
    pipeline = Pipeline(NoDetector(), GistGrid(), **WHOLE)
    settings = {"copies": 1, "others": 1, "drawings": 3, "strength": (0.0, 0.1), "seed": 5}
    table = calibration_pairs(references, negatives, pipeline, **settings)
    queries = table.drop_duplicates("query_id")
    assert queries["kind"].value_counts().to_dict() == {"copy": 4, "form": 3, "other": 1}
    copies = table[table["label"]]
    assert set(copies["reference_id"]) & set(drawn) and set(copies["kind"]) == {"copy"}
    assert set(table.loc[table["kind"] == "form", "reference_id"]) & set(
        drawn
    )  # what they resemble


def test_a_threshold_is_tried_on_a_kind_of_negative_that_no_fit_has_seen():
    rng = np.random.default_rng(0)
    kinds = np.repeat(["copy", "other", "scene"], 60)
    rows = pd.DataFrame(
        {"query_id": [f"q{n}" for n in range(180)], "reference_id": "R", "kind": kinds}
    )
    rows["branch"], rows["score"], rows["mean_squared_distance"] = "local", 9.0, np.nan
    for name, kind in COLUMNS.items():
        rows[name] = {"str": "", "bool": False}.get(kind, 0.0)
    # What tells copies from others is the same as what tells them from scenes, but for a few scenes.
    chance = {"copy": 0.9, "other": 0.1, "scene": 0.4}
    rows["copy_probability"] = np.clip(
        rows["kind"].map(chance) + rng.normal(0, 0.05, 180), 0.01, 0.99
    )
    rows.loc[rows.index[-6:], "copy_probability"] = 0.95
    labels = rows[["query_id", "reference_id"]].assign(label=kinds == "copy")
    table = calibration.above_without(rows, labels, 0.99, seed=0).set_index("kind")
    assert list(table.index) == ["other", "scene"] and (table["queries"] == 60).all()
    assert table.loc["other", "above"] == 0 and table.loc["scene", "above"] == 6
    assert table.loc["scene", "recall"] > 0.9


def test_photographs_are_divided_without_overlap():
    ids = [f"{i:03d}" for i in range(40)]
    groups = ["a"] * 3 + ["b"] * 2 + ["c"] + [""] * 34
    table = pd.DataFrame({"image_id": ids, "path": [f"/p/{i}" for i in ids], "group": groups})
    split = split_photographs(table, references=13)
    assert not set(split.references) & set(split.negatives)
    assert set(split.references) | set(split.negatives) == set(ids)
    assert {"030", "039"} <= set(split.references) and "010" in split.negatives  # the last by name
    for negative, reference in split.same_scene:
        assert groups[int(negative)] == groups[int(reference)] != ""
        assert negative in split.negatives and reference in split.references
    assert len(split.same_scene) == 3  # two of three in "a", one of two in "b"; "c" is alone


def test_pairs_are_labelled_and_repeat(references, negatives):
    pipeline = Pipeline(EdgeDetector(), GistGrid(), **WHOLE)
    settings = {"copies": 4, "others": 2, "same_scene": [("N1", "R2")], "strength": (0.1, 0.4)}
    table = calibration_pairs(references, negatives, pipeline, **settings, seed=1)
    expected = {
        "query_id",
        "reference_id",
        "branch",
        "score",
        "mean_squared_distance",
        "label",
        "ops",
    }
    assert expected | set(COLUMNS) <= set(table)
    copies = table.groupby("query_id")["label"].any()
    assert len(copies) == 7 and copies.sum() == 4
    assert (table[table["label"]].groupby("query_id")["reference_id"].nunique() == 1).all()
    assert "R2" in set(table.loc[table["query_id"].str.startswith("scene"), "reference_id"])
    assert set(table["branch"]) <= {"local", "crop", "global"}
    best = table.groupby(["query_id", "label"])["inliers"].max().unstack()
    assert (best[True] > best[False]).sum() >= 3  # mild edits: most copies have the most inliers
    again = calibration_pairs(references, negatives, pipeline, **settings, seed=1)
    pd.testing.assert_frame_equal(table, again)


def test_accepted_candidates_alone_are_scored_on_request(references, negatives):
    limits = {"candidates_scored": "accepted"}
    pipeline = Pipeline(NoDetector(), GistGrid(), limits=limits, **WHOLE)
    evidence = ReferenceSet(references, pipeline, seed=0).evidence("q", references["R1"])
    scored = evidence.dropna(subset="inliers")
    assert set(scored["reference_id"]) == {"R1"} and len(scored) < len(evidence)
    assert evidence.loc[evidence["accepted"], "inliers"].notna().all()


def test_evidence_is_that_of_a_run(references, quarters, photograph, tmp_path):
    """The same queries and references, once through the stages of a run and once in memory."""
    pasted = photograph[:300].copy()
    pasted[60:220, 100:340] = cv2.resize(quarters[2], (240, 160))
    queries = {"q0": quarters[1][20:190, 30:280], "q1": pasted, "q2": quarters[6]}
    for folder, images in (("references", references), ("queries", queries)):
        (tmp_path / folder).mkdir()
        for name, image in images.items():
            Image.fromarray(image).save(tmp_path / folder / f"{name}.png")
    run, library = store.Run(tmp_path / "run"), store.Library(tmp_path / "library")
    model = {"model": "gist-grid", "weights": "", "device": "cpu", "batch_size": 32}
    listed = {"shard_images": 8, "thumbnail_short_side_px": 192}
    indexed = {"factory": "auto", "seed": 0, "part_images": 100}
    with cluster.processes(1) as address:
        where = {"cluster": address}
        inventory.list_images(library, str(tmp_path / "references"), **listed, **where)
        inventory.list_images(run, str(tmp_path / "queries"), **listed, **where)
        crops.detect_crops(run, crop_detector="classical", **where)
        crops.choose_crops(run, **CROP_RULES)
        stage_features.extract_local_features(library, **SIFT, **where)
        stage_features.extract_local_features(run, **SIFT, **where)
        stage_features.extract_crop_features(run, **where)
        stage_index.build_index(library, "local", **indexed)
        search.local_search(run, library, **VOTE_RULES, **where)
        search.crop_search(run, library, **VOTE_RULES, **where)
        descriptors.describe_references(library, **model, **where)
        descriptors.describe_queries(run, **model, **where)
        stage_index.build_index(library, "global", **indexed)
        search.global_search(run, library, **SIMILARITY_RULES, background="", **where)
        candidates = search.read_candidates(run).drop(columns="group_id")
        pairs = {"candidates_verified": 4, "match_ratio": 1.8}
        verification.verify_pairs(run, library, **pairs, **where)
    # No feature of fusion is made of what a run compares at full resolution.
    evidence = verification.read_evidence(run).assign(**Differences(0, 0).columns)
    expected = verification.join_evidence(candidates, evidence)
    searched = ReferenceSet(references, Pipeline(EdgeDetector(), GistGrid(), load_classifier()), 0)
    made = pd.concat([searched.evidence(*query) for query in queries.items()])
    assert set(expected["branch"]) == {"local", "crop", "global"}
    keys = ["query_id", "view_id", "reference_id", "branch"]
    made, expected = (
        t.sort_values(keys, ignore_index=True)[expected.columns] for t in (made, expected)
    )
    pd.testing.assert_frame_equal(made, expected, check_dtype=False, check_exact=True)


def test_known_boxes_cannot_serve_simulated_queries(tmp_path):
    (tmp_path / "boxes.csv").write_text("image_id,x0,y0,x1,y1\nq,0,0,1,1\n")
    assert load_detector(tmp_path / "boxes.csv")
    with pytest.raises(ValueError, match="known boxes"):
        calibration.load_pipeline(
            crop_detector=str(tmp_path / "boxes.csv"),
            descriptor_model="gist-grid",
            descriptor_weights="",
            device="cpu",
            background="",
            pair_classifier="",
        )


def test_files_become_a_round_of_pairs(references, negatives, tmp_path):
    paths = {}
    for name, image in (references | negatives).items():
        paths[name] = str(tmp_path / f"{name}.jpg")
        Path(paths[name]).write_bytes(encode_jpeg(image))
    split = calibration.Split(
        {i: paths[i] for i in references}, {i: paths[i] for i in negatives}, [("N1", "R2")]
    )
    pipeline = {
        "crop_detector": "none",
        "descriptor_model": "gist-grid",
        "descriptor_weights": "",
        "background": "",
        "pair_classifier": "",
    }
    counts = {"scenes": 1, "negatives": 2, "copies": 1, "others": 0, "drawings": 0}
    settings = counts | {"pipeline": pipeline, "weights_hash": ""}
    assert calibration.load_pipeline(**pipeline, device="auto").devices == ["cpu", "cpu"]
    made = calibration.calibration_round(split, 7, "auto", devices=["cpu", "cpu"], **settings)
    assert set(made.record["query_id"]) == {"7-copy00000", "7-scene00001"}
    with pytest.raises(ValueError, match="this worker has no cuda"):
        calibration.calibration_round(split, 7, "auto", devices=["cpu", "cuda"], **settings)


def test_defaults_are_those_of_the_pipeline():
    """Notebook 22 and `Pipeline` have the parameters of notebooks 02 to 08, with their defaults."""
    declared = {}
    for path in sorted(NOTEBOOKS.glob("0[1-8]_*.ipynb")):
        declared |= params.declared_by(path)
    ours = params.declared_by(NOTEBOOKS / "22_calibrate_scores.ipynb")
    own = {"run_dir", "shard_images", "seed"}
    for name in (ours.keys() & declared.keys()) - own:
        values = [ast.literal_eval(each[name].default) for each in (ours, declared)]
        assert ours[name].type == declared[name].type and values[0] == values[1], name
    without = {"reference_dir", "query_dir", "library_dir", "index_part_images", "descriptor_file"}
    without |= {"certain_score", "fusion_model"}  # what a fit does not know yet
    without |= {"max_frames"}  # it calibrates on still photographs
    without |= {"query_list", "local_crop_list", "global_crop_detector"}  # files of other systems
    without |= {f"{side}_features_file" for side in ("local", "crop", "reference")}
    without |= {f"{b}_{kind}_file" for b in BRANCHES for kind in ("candidates", "scores")}
    without |= {"local_crops_dir", "global_crops_dir"}
    assert declared.keys() - ours.keys() == without, "notebook 22 must take every other parameter"
    names = {
        "max_area": "crop_max_area",
        "max_aspect": "crop_max_aspect",
        "variants": "descriptor_variants",
        "normalise_neighbours": "normalise_neighbours",
        **{name: f"vote_{name}" for name in ("rule", "ratio", "min_hits", "min_hits_single")},
        "max_mean_squared_distance": "vote_max_mean_squared_distance",
    }
    assert len(LIMITS) == 5
    every = ("", CROP_RULES), ("local_", VOTE_RULES), ("global_", SIMILARITY_RULES), ("", LIMITS)
    for prefix, rules in every:
        for name, value in rules.items():
            parameter = names.get(name, name if name in declared else prefix + name)
            assert value == ast.literal_eval(declared[parameter].default), parameter
