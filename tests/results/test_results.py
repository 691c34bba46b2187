# SPDX-License-Identifier: AGPL-3.0-or-later
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_run

from imgfp import report, store
from imgfp.datatypes import table
from imgfp.images import DAMAGED
from imgfp.results import Results
from imgfp.runner import record
from imgfp.runner.record import StageRecord


def test_a_missing_run_says_what_to_do(tmp_path):
    with pytest.raises(store.StoreError, match="does not exist; run notebooks"):
        Results(tmp_path / "nothing")


def test_a_run_that_has_only_begun_opens_empty(tmp_path):
    (tmp_path / "run").mkdir()
    results = Results(tmp_path / "run")
    assert not len(results.candidates) and not len(results.evidence) and not len(results.crops)
    assert not len(results.candidates_of("q")) and not len(results.boxes_of("q"))
    assert results.metrics == {} and results.truth is None and results.threshold is None
    with pytest.raises(store.StoreError, match="run notebook 09"):
        _ = results.predictions


def test_references_are_not_read_as_a_whole(finished_run, monkeypatch):
    library = Results(finished_run).library
    loaded, load = [], store.artefacts.load
    monkeypatch.setattr("imgfp.store.load", lambda path, *a: loaded.append(path) or load(path, *a))
    results = Results(finished_run)
    best = results.pairs.iloc[0]
    assert best["reference_id"] in results.references and "nobody" not in results.references
    assert results.picture("reference", best["reference_id"]).ndim == 3
    assert results.outlines(best["query_id"], best["reference_id"]) and report.build(results)
    assert not [path for path in loaded if path.parent in (library.images, library.descriptors)]


def test_pairs_carry_rank_and_truth(finished_run):
    pairs = Results(finished_run).pairs
    assert pairs["score"].is_monotonic_decreasing
    assert (pairs.loc[pairs["rank"] == 0, "query_id"].value_counts() == 1).all()
    best = pairs.set_index(["query_id", "reference_id"])["is_true"]
    assert best["q-pasted", "china"] and not best["q-stranger", "coffee"]


def test_a_sum_leaves_out_a_branch_whose_rule_refused_the_pair(finished_run):
    """Another branch had the same images verified, so that their matches are known."""
    pair = "q-cropped", "flower"
    both, one = Results(finished_run), Results(finished_run, global_min_similarity=0.95)
    ids = ["query_id", "reference_id"]
    twice, once = (results.fused().set_index(ids)["score"][pair] for results in (both, one))
    assert twice == 2 * once
    assert one.scores_without(*pair) == {"all branches": once, "without local": None}


def test_pairs_of_queries_that_the_truth_does_not_list_are_unknown(finished_run, tmp_path):
    other = shutil.copytree(finished_run.parent, tmp_path / "copy") / "run"
    truth = pd.read_csv(finished_run / "truth.csv", keep_default_na=False)
    store.write_sheet(other / "truth.csv", truth[truth["query_id"] != "q-whole"])
    results = Results(other, finished_run.parent / "library", score_threshold=12.0)
    pairs = results.pairs.set_index(["query_id", "reference_id"])
    assert pd.isna(pairs.loc[("q-whole", "china"), "is_true"])
    assert results.threshold == 12


def test_parameters_given_replace_those_that_the_run_lacks(finished_run, tmp_path):
    other = shutil.copytree(finished_run.parent, tmp_path / "copy")
    (other / "run/params.yaml").unlink()
    bare = Results(other / "run", other / "library")
    assert bare.score_scale != "log"
    told = Results(other / "run", other / "library", fusion="sum")
    pd.testing.assert_frame_equal(told.errors, Results(finished_run).errors)
    assert told.score_scale == "log" and len(told.errors)


def test_a_run_that_was_moved_with_its_project_keeps_what_it_names(
    finished_run, tmp_path, monkeypatch
):
    root = Path(shutil.copytree(finished_run.parent, tmp_path / "copy"))
    truth = Results(finished_run).truth
    truth.assign(ops="mirror").to_csv(root / "meta.csv", index=False)
    path = root / "run/params.yaml"
    path.write_text(path.read_text().replace(str(finished_run.parent), "/nowhere"))
    store.seal(path)
    (tmp_path / "elsewhere/params").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = Results(root / "run")
    assert moved.library.root == root / "library" and not moved.unrecorded
    assert len(moved.meta) == len(truth)


def test_a_run_without_a_catalogue_may_have_shards_of_several_row_groups(finished_run, tmp_path):
    rows = store.load(finished_run / "images/shard-00000.parquet")
    ids = [f"i{number:03d}" for number in range(100)]
    many = rows.iloc[np.arange(100) % len(rows)].reset_index(drop=True).assign(image_id=ids)
    made = small_run.made_with()
    store.save(tmp_path / "images/shard-00000.parquet", table("images", many), made)
    assert store.open_catalogue(store.Run(tmp_path)).ids_at(np.arange(100)) == ids


def test_a_run_says_what_its_record_does_not_tell(finished_run, tmp_path):
    other = shutil.copytree(finished_run.parent, tmp_path / "copy")
    path, library = other / "run/params.yaml", other / "library"
    whole = record.read(path)
    early = {"fusion_model": "", "local_candidates": 5}
    both = {"03_local_search": StageRecord(early), "09_merge": StageRecord({"fusion_model": "f"})}
    replace(whole, stages=whole.stages | both).write(path)
    results = Results(other / "run", library)
    assert results.unrecorded == "" and results.parameter("local_candidates") == 5
    assert results.parameter("fusion_model", "03") == "" and results.params["fusion_model"] == "f"
    replace(whole, stages={}).write(path)
    assert "lacks the defaults of notebooks 01, 03" in Results(other / "run", library).unrecorded
    path.unlink()
    assert "params.yaml is missing" in Results(other / "run", library).unrecorded


def test_thumbnails_replace_originals_that_are_gone(tmp_path):
    run = small_run.build(tmp_path, hostile=False, keep_originals=False)
    results = Results(run)
    picture = results.picture("query", "q-pasted")
    assert picture.shape[:2] == (96, 128)
    assert results.size("query", "q-pasted") == (480, 360)


def test_an_original_that_was_replaced_is_not_shown_as_the_query(finished_run, tmp_path):
    other = shutil.copytree(finished_run.parent, tmp_path / "copy")
    results = Results(other / "run")
    path = results.queries.loc["q-pasted", "path"]
    assert results.picture("query", "q-pasted").shape == (360, 480, 3)
    facts = results.queries
    facts.loc["q-whole", "path"] = path
    width, height = results.size("query", "q-whole")
    shown = results.picture("query", "q-whole")
    assert shown.shape[1] / shown.shape[0] == pytest.approx(width / height, rel=0.02)


def test_features_of_queries_crops_and_references(finished_run):
    results = Results(finished_run)
    crop = results.crops["crop_id"].iloc[0]
    for side, view in (("query", "q-pasted"), ("query", crop), ("reference", "china")):
        keypoints, descriptors = results.features(side, view)
        assert keypoints.shape == (len(descriptors), 4) and len(descriptors) > 10
    assert [part.shape for part in results.features("query", "no such view")] == [(0, 4), (0, 128)]


def test_hostile_ids_are_read_back_as_they_are(hostile_run):
    results = Results(hostile_run)
    assert set(small_run.HOSTILE[:3]) <= set(results.queries.index)
    assert set(small_run.HOSTILE[3:]) <= set(results.pairs["reference_id"])
    assert results.pairs["is_true"].sum() >= 5


def test_a_run_of_fifty_thousand_pairs_opens_in_seconds(tmp_path):
    count = 50_000
    run = tmp_path / "run"
    rng = np.random.default_rng(0)
    queries = [f"Q{n:06d}" for n in range(count)]
    references = [f"R{n:06d}" for n in rng.integers(0, 10**6, count)]
    scores = rng.exponential(0.2, count)
    pairs = table("predictions", query_id=queries, reference_id=references, score=scores)
    run.mkdir()
    store.write_sheet(run / "predictions.csv", pairs)
    truth = table("truth", query_id=queries, reference_id=references)
    store.write_sheet(run / "truth.csv", truth)
    began = time.process_time()
    assert len(Results(run).pairs) == count
    assert time.process_time() - began < 10  # about 0.3 on an idle core


def test_a_damaged_file_is_marked_beside_the_evidence(finished_run, tmp_path):
    run = shutil.copytree(finished_run.parent, tmp_path / "copy") / "run"
    images = store.load(run / "images/shard-00000.parquet")
    images.loc[images["image_id"] == "q-whole", "notes"] = f"{DAMAGED}, transparent"
    store.save(run / "images/shard-00000.parquet", images, small_run.made_with())
    results = Results(run, run.parent / "library")
    assert results.remarks("q-whole", "china") == [f"query: {DAMAGED}"]
    assert results.remarks("q-pasted", "china") == []
    page = report.build(results, rounds=0)
    assert "damaged files among the queries, decoded in part: 1" in page
    assert "query: damaged file, decoded in part</p>" in page
    assert (
        report.evidence_in_words(None, [f"reference: {DAMAGED}"])
        == f"not verified; reference: {DAMAGED}"
    )
