# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a preview says is what a run with the same settings measures."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import small_run
import whole_run

from imgfp import store
from imgfp.demo import painting
from imgfp.edits import families
from imgfp.results import Results, previews
from imgfp.results.previews import Preview, Settings
from imgfp.results.replay import Replay
from imgfp.runner import params
from imgfp.store import decisions

#: The default settings keep every candidate of so small a library; these leave something to take away.
KEPT = {"local_candidates": 8, "global_candidates": 8, "candidates_verified": 6}
LESS = {
    "least scores": {"local_min_votes": 3, "crop_min_votes": 5, "global_min_similarity": 0.05},
    "numbers": {"local_candidates": 2, "global_candidates": 2, "candidates_verified": 1},
    "rules": {
        "candidates_scored": "accepted",
        "vote_max_mean_squared_distance": 3000.0,
        "fusion": "sum",
    },
}
#: For every parameter that can be tried a value that changes something.
OTHER = {
    "local_candidates": 1,
    "global_candidates": 1,
    "candidates_verified": 1,
    "candidates_scored": "accepted",
    "vote_max_mean_squared_distance": 1000.0,
    "local_min_votes": 9,
    "crop_min_votes": 9,
    "global_min_similarity": 0.5,
    "local_min_confidence": 0.99,
    "global_min_confidence": 0.01,
    "crop_max_area": 0.01,
    "crop_max_aspect": 1.001,
    "max_crops": 1,
    "certain_score": 1.0,
    "fusion": "sum",
    "score_threshold": 0.999,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Folder of references, two of them of one picture, and queries: copies in many edits, one of them the same file, and
    strangers."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(3)
    kinds = [*painting.KINDS][::4]
    pictures = small_run.photographs()
    pictures |= {kind: painting.procedural(rng, kind, (200, 260)) for kind in kinds}
    names, hosts = list(pictures), list(pictures.values())
    queries, truth = {}, ["query_id,reference_id"]
    for number, name in enumerate(names):
        others = [hosts[i] for i in rng.integers(len(hosts), size=4)]
        queries[f"q{number:02d}"] = families.apply(pictures[name], None, rng, others).image
        if is_stranger := number % 4 == 3:
            del pictures[name]
        truth.append(f"q{number:02d},{'' if is_stranger else name}")
    pictures["again"] = cv2.resize(pictures["flower"], (280, 190))
    queries["same"] = pictures["china"]
    truth.append("same,china")
    for side, images in {"references": pictures, "queries": queries}.items():
        (folder / side).mkdir()
        for name, image in images.items():
            cv2.imwrite(str(folder / side / f"{name}.png"), image[..., ::-1])
    (folder / "truth.csv").write_text("\n".join(truth))
    return folder


def execute(folder: Path, corpus: Path, address: str, **values) -> Results:
    sides = corpus / "references", corpus / "queries"
    values |= {"truth": str(corpus / "truth.csv")}
    run = whole_run.execute(folder, *sides, address, **values)
    return Results(run, folder / "library", **values)


@pytest.fixture(scope="module")
def finished(corpus, in_process, tmp_path_factory) -> Results:
    return execute(tmp_path_factory.mktemp("finished"), corpus, in_process, **KEPT)


@pytest.fixture(scope="module")
def prepared(finished) -> Replay:
    return Replay(finished)


def test_under_its_own_settings_a_run_is_as_it_was(prepared, finished):
    assert_measured(prepared, finished, prepared.base)
    assert prepared.base.figures.proposed["union"] > 0
    assert not len(prepared.changes(prepared.base)) and not prepared.base.beyond


@pytest.mark.slow
@pytest.mark.parametrize("name", LESS)
def test_a_run_with_fewer_candidates_measures_what_was_previewed(
    prepared, finished, corpus, in_process, tmp_path, name
):
    for side in ("run", "library"):
        shutil.copytree(finished.run.root.parent / side, tmp_path / side)
    params.write_values(tmp_path / "tuned.yaml", LESS[name])  # as the tuner writes them
    profile = params.read_profile(tmp_path / "tuned.yaml")
    again = execute(tmp_path, corpus, in_process, **KEPT | profile)
    preview = prepared.preview(replace(prepared.settings, **LESS[name]))
    assert_measured(prepared, again, preview)
    assert preview.figures.pairs < prepared.base.figures.pairs


def assert_measured(prepared: Replay, results: Results, preview: Preview) -> None:
    """The scores of all queries but those that the preview names, and, where it names none, the figures."""
    names = ["query_id", "reference_id"]
    pairs = prepared.predictions(preview)
    both = pairs.merge(results.predictions, "outer", on=names, suffixes=("", "_run"))
    sure = both[~both["query_id"].isin(preview.uncertain)]
    assert sure["query_id"].nunique() >= 6 and sure.notna().all(axis=None)
    assert np.abs(sure["score"] - sure["score_run"]).max() < 1e-9
    if not preview.beyond:
        figures = asdict(preview.figures)
        for name in ("micro_ap", "recall_at_p90", "threshold_at_p90", "queries", "positives"):
            assert figures[name] == pytest.approx(results.metrics[name], abs=1e-12), name
        assert figures["pairs"] == len(results.evidence)


@pytest.mark.parametrize("name", Settings.__dataclass_fields__)
def test_every_parameter_that_can_be_tried_changes_something(prepared, name):
    before = prepared.settings
    if name.startswith("vote_"):  # of the rule that accepts
        before = replace(before, candidates_scored="accepted")
    base, other = prepared.preview(before), prepared.preview(replace(before, **{name: OTHER[name]}))
    assert other.settings.changed(before) == {name: OTHER[name]}
    assert (other.figures, other.beyond) != (base.figures, base.beyond)


def test_a_higher_limit_of_the_distance_is_beyond_what_is_known(prepared):
    lax = {"candidates_scored": "accepted", "vote_max_mean_squared_distance": 20_000.0}
    preview = prepared.preview(replace(prepared.settings, **lax))
    assert previews.NOT_KEPT in preview.beyond


def test_more_than_was_kept_is_named_and_not_guessed(prepared):
    more = {"local_candidates": 9, "global_candidates": 9, "candidates_verified": 0}
    preview = prepared.preview(replace(prepared.settings, **more))
    assert {previews.NOT_KEPT, previews.NOT_VERIFIED} <= set(preview.beyond)
    assert preview.figures.pairs == prepared.base.figures.pairs
    assert 0 < len(preview.uncertain) == max(preview.beyond.values())


def test_copies_are_counted_by_branch_and_for_one_branch_alone(prepared):
    figures = prepared.base.figures
    assert max(figures.proposed[name] for name in figures.only) <= figures.proposed["union"]
    assert sum(figures.only.values()) <= figures.proposed["union"] <= figures.positives
    votes = {"local_min_votes": 10**6, "crop_min_votes": 10**6}
    vectors = prepared.preview(replace(prepared.settings, **votes)).figures
    assert vectors.proposed["local"] == 1  # the identical file needs no votes
    assert vectors.proposed["global"] == figures.proposed["global"]
    assert vectors.only["global"] > figures.only["global"]


def test_what_is_lost_and_gained_is_named(prepared):
    strict = prepared.preview(replace(prepared.settings, score_threshold=0.9999))
    changes = prepared.changes(strict)
    assert set(changes["change"]) == {"lost"} and changes["is_true"].any()
    lost = prepared.base.figures.reported - strict.figures.reported
    assert len(changes) == lost and set(changes["query_id"]) <= set(prepared.query_ids)


def test_the_halves_have_no_reference_in_common(prepared, finished):
    tuned, held = prepared.base.tuned, prepared.base.held_out
    assert tuned.queries + held.queries == len(finished.queries)
    assert tuned.positives and held.positives and tuned.cut == held.cut
    truth = finished.truth[finished.truth["reference_id"] != ""]
    half = dict(zip(prepared.query_ids, prepared.is_tuned, strict=True))
    sources = truth["query_id"].map(half).groupby(truth["reference_id"]).nunique()
    assert (sources == 1).all() and len(sources) < len(truth)
    assert (Replay(finished, seed=1).is_tuned != prepared.is_tuned).any()


def test_without_truth_reviewed_decisions_are_what_is_known(finished_run, tmp_path):
    shutil.copytree(finished_run.parent, tmp_path / "copy")
    results = Results(tmp_path / "copy/run", tmp_path / "copy/library")
    store.remove(results.run.truth_csv)
    pairs = results.predictions.head(3)[["query_id", "reference_id"]].to_numpy().tolist()
    nothing = Replay(results).base.figures
    assert nothing.micro_ap is None and nothing.recall is None and nothing.pairs > 0
    for pair, decision in zip(pairs, ("copy", "copy", "unrelated"), strict=True):
        decisions.append(results.decisions_path, *pair, decision, reviewer="Ada")
    known = Replay(results).base.figures
    assert known.positives == 2 and known.micro_ap == 1.0


def test_a_run_without_evidence_names_the_notebook(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(store.StoreError, match="run notebooks 03 to 08"):
        Replay(Results(tmp_path / "run", tmp_path / "library"))
