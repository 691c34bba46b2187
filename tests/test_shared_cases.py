# SPDX-License-Identifier: AGPL-3.0-or-later
"""The situations of `../shared/cases`, which public reports of tools of this kind describe: each with what is right,
as its README says. What is not right yet is expected to fail, so that the day it does not is noticed."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pandas as pd
import pytest
import whole_run

from imgfp import stages, store
from imgfp.decoding import Limits
from imgfp.scoring.truth import resolve
from imgfp.stages.inventory import read_images, save_rejects
from imgfp.store import formats

#: The score from which a pair counts as reported.
REPORTED = 0.5


@pytest.fixture(scope="module")
def cases(shared) -> Path:
    folder = shared / "cases"
    if not folder.is_dir():
        pytest.skip("the cases (../shared/cases) are not here")
    return folder


@pytest.fixture(scope="module")
def searched(cases, in_process, tmp_path_factory):
    """The run of a case by its name, made when it is first asked for."""
    runs: dict[str, store.Run] = {}

    def search(name: str, queries: str = "queries") -> store.Run:
        if name not in runs:
            folder = tmp_path_factory.mktemp(name)
            case = cases / name
            truth = case / "truth.csv"
            given = {"truth": str(truth)} if truth.exists() else {}
            run = whole_run.execute(
                folder, case / "references", case / queries, in_process, **given
            )
            runs[name] = run
        return runs[name]

    return search


def true_pairs(case: Path) -> set[tuple[str, str]]:
    truth = formats.read_truth(case / "truth.csv")
    return {pair for pair in truth.itertuples(index=False, name=None) if pair[1]}


def reported_pairs(run: store.Run) -> set[tuple[str, str]]:
    found = whole_run.answers(run).items()
    return {
        (query, reference)
        for query, scores in found
        for reference in scores.index[scores >= REPORTED]
    }


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file of a folder, by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".lock")
    }


def listed(folder: Path, source: Path, in_process: str, limits: Limits | None = None) -> store.Run:
    sizes = {"shard_images": 64, "thumbnail_short_side_px": 64}
    run = store.Run(folder / "run")
    stages.list_images(run, str(source), **sizes, limits=limits, cluster=in_process)
    return run


# ------------------------------------------------------------------------------------- what is found


def test_several_references_in_one_query_are_found_and_measured(cases, searched):
    run, true = searched("collage"), true_pairs(cases / "collage")
    found = reported_pairs(run)
    assert found <= true and len(found) >= 16
    measured = store.read_json(run.metrics_json)
    assert measured["positives"] == 17 and measured["micro_ap"] > 0.9


@pytest.mark.parametrize(
    "picture",
    [
        "astronaut-1",
        "camera-4",
        "flower-7",
        "hopper-9",
        "motorcycle-10",
        "tissue-11",
        "coins-14",
        "bus-14-near",
    ],
)
def test_a_picture_is_found_however_often_the_library_holds_it(searched, picture):
    found = reported_pairs(searched("copies-sweep"))
    for edit in ("mirrored", "pasted", "crop36"):
        references = {r for query, r in found if query == f"{picture}-{edit}"}
        assert references and all(r.startswith(f"{picture}-") for r in references), edit


def test_a_picture_is_found_at_any_depth_and_in_any_frame(cases, searched):
    assert reported_pairs(searched("depths")) == true_pairs(cases / "depths")


def test_files_with_the_bytes_of_a_reference_are_copies_for_certain(cases, searched):
    found = whole_run.answers(searched("identical-files"))
    for query, reference in true_pairs(cases / "identical-files"):
        assert found[query].index[0] == reference and found[query].iloc[0] == 1.0


def test_one_folder_against_itself_shows_its_doubles(cases, searched):
    run = searched("one-folder", "references")
    assert reported_pairs(run) == true_pairs(cases / "one-folder")
    assert all(query not in scores for query, scores in whole_run.answers(run).items())
    groups = store.read_sheet(run.duplicates_csv).groupby("group")["image_id"].agg(frozenset)
    assert {*groups} == {frozenset(pair) for pair in true_pairs(cases / "one-folder")}


def test_receipts_of_one_shop_are_told_apart(cases, searched):
    found = whole_run.answers(searched("receipts"))
    best = {query: scores.index[0] for query, scores in found.items()}
    assert true_pairs(cases / "receipts") <= set(best.items())
    assert reported_pairs(searched("receipts")) <= true_pairs(cases / "receipts")


def test_a_library_of_one_reference_answers(cases, searched):
    assert reported_pairs(searched("single")) == {("edited", "coffee")}


def test_tiny_pictures_are_found(cases, searched):
    found, true = reported_pairs(searched("tiny")), true_pairs(cases / "tiny")
    assert true <= found <= true | {("unknown-stereo", "motorcycle")}


@pytest.mark.xfail(strict=True, reason="at 32 x 32 two photographs of one scene are one picture")
def test_the_other_camera_of_a_stereo_pair_is_no_copy(searched):
    assert ("unknown-stereo", "motorcycle") not in reported_pairs(searched("tiny"))


# ----------------------------------------------------------------------------------------- structure


def test_a_library_without_keypoints_is_searched_by_its_global_vectors(cases, searched):
    run, true = searched("only-flat"), true_pairs(cases / "only-flat")
    assert reported_pairs(run) <= true
    proposed = stages.search.read_candidates(run, "global")
    assert true <= {*proposed[["query_id", "reference_id"]].itertuples(index=False, name=None)}


def test_of_flat_pictures_nothing_false_is_reported(cases, searched):
    assert reported_pairs(searched("flats")) <= true_pairs(cases / "flats")


@pytest.mark.xfail(strict=True, reason="one colour is too little structure to tell")
def test_flat_pictures_are_found(cases, searched):
    assert reported_pairs(searched("flats")) == true_pairs(cases / "flats")


# ------------------------------------------------------------------------------------ what is in a folder


def test_an_archive_that_was_emptied_is_refused_and_nothing_is_lost(cases, in_process, tmp_path):
    archive = tmp_path / "archive"
    shutil.copytree(cases / "emptied-archive/references", archive)
    queries = cases / "emptied-archive/queries"
    whole_run.execute(tmp_path, archive, queries, in_process)
    before = contents(tmp_path / "library")
    shutil.rmtree(archive)
    archive.mkdir()
    (archive / "readme.txt").write_text("not mounted")
    with pytest.raises(ValueError, match="nothing was changed"):
        whole_run.execute(tmp_path, archive, queries, in_process)
    assert contents(tmp_path / "library") == before


def test_a_first_query_that_is_no_picture_is_a_reject(searched):
    run = searched("first-file-unreadable")
    assert [Path(path).name for path in rejected(run)] == ["000-notes.txt"]
    assert set(whole_run.answers(run)) == {"Q000", "Q002"}


def rejected(run: store.Run) -> list[str]:
    return pd.read_csv(run.rejects_csv)["path"].tolist()


def test_what_is_refused_has_a_reason_and_limits_are_parameters(cases, in_process, tmp_path):
    source = cases / "limits-and-formats/queries"
    for name, limits in (("safe", Limits()), ("wide", Limits(max_megapixels=100))):
        run = listed(tmp_path / name, source, in_process, limits)
        rejects = save_rejects(run, store.Library(tmp_path / "none"))
        refused = {Path(path).name for path in rejects["path"]}
        used = {Path(path).name for path in read_images(run)["path"]}
        assert used | refused == {path.name for path in source.iterdir()} and not used & refused
        assert (rejects["reason"] != "").all()
        assert ("map-a1-at-600dpi.png" in used) == (name == "wide")


def test_a_linked_folder_is_searched_or_named(cases, in_process, tmp_path):
    case = tmp_path / "case"
    for name in ("references", "other-disk"):
        shutil.copytree(cases / "linked-folders" / name, case / name)
    (case / "references").chmod(0o755)
    (case / "references/2020").symlink_to(case / "other-disk")
    run = listed(tmp_path, case / "references", in_process)
    named = save_rejects(run, store.Library(tmp_path / "none"))
    assert len(read_images(run)) == 3 or named["reason"].str.contains("link to a folder").sum() == 1


def test_a_second_batch_in_one_run_is_refused_before_any_work(cases, in_process, tmp_path):
    case = cases / "second-batch"
    run = whole_run.execute(tmp_path, case / "references", case / "monday", in_process)
    before = contents(run.root)
    with pytest.raises(ValueError, match="name another run_dir"):
        whole_run.execute(tmp_path, case / "references", case / "tuesday", in_process)
    assert contents(run.root) == before


def test_pictures_beside_their_sidecars_are_used(searched):
    run = searched("sidecar-twins")
    assert set(whole_run.answers(run)["Q000"].index) == {"DSC_1", "IMG_0001"}
    assert {Path(path).name for path in rejected(run)} == {"DSC_1.xmp", "IMG_0001.CR2"}


@pytest.mark.parametrize("name", ["both", "references"])
def test_ids_with_extensions_are_understood_and_said(cases, name):
    given = formats.read_truth(cases / f"truth-odd/{name}-with-extension.csv")
    plain = given["reference_id"].str.removesuffix(".jpg")
    queries = given["query_id"].str.removesuffix(".jpg")
    truth, notes = resolve(given, {*queries}, {*plain} - {""})
    assert truth["reference_id"].tolist() == plain.tolist()
    assert truth["query_id"].tolist() == queries.tolist()
    assert notes and all("with an extension" in note for note in notes)
