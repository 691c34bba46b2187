# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures looked up in a finished library, beside the batch run over the same pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from imgfp import Library, store
from imgfp.__main__ import main
from imgfp.runner.params import ParameterError
from imgfp.store import decisions, formats


@pytest.fixture(scope="module")
def folder(whole_batch) -> Path:
    return whole_batch


@pytest.fixture(scope="module")
def library(folder) -> Library:
    return Library(folder / "library")


def test_a_look_scores_as_the_batch_does(folder, library, tmp_path):
    held = [path for path in (folder / "library").rglob("[!.]*") if path.is_file()]
    before = [path.stat().st_mtime_ns for path in held]
    found = library.look(folder / "queries")
    after = [path.stat().st_mtime_ns for path in held]
    assert after == before, "a look-up changes nothing of the library"
    batch = formats.read_predictions(folder / "run/predictions.csv")
    table = found.table.assign(
        query_id=found.table["query"].map(lambda path: Path(path).stem),
        reference_id=found.table["reference"].map(lambda path: Path(path).stem),
    )
    both = batch.merge(table, "outer", ["query_id", "reference_id"], suffixes=("", "_looked"))
    assert len(both) == len(batch) >= 2 and len(found.rejects) == 0
    np.testing.assert_allclose(both["score_looked"], both["score"], rtol=0, atol=1e-9)
    copies = table[table["copy"]]
    assert set(zip(copies["query_id"], copies["reference_id"], strict=True)) == {
        ("crop", "china"),
        ("mirrored", "flower"),
    }
    found.to_fiftyone(tmp_path / "dataset")
    samples = json.loads((tmp_path / "dataset/samples.json").read_text("utf-8"))["samples"]
    tags = [tag for sample in samples for tag in sample["tags"]]
    assert tags.count("query") == 3 and tags.count("reference") >= 2
    crop = copies.set_index("query_id").loc["crop"]
    np.testing.assert_allclose(crop["reference_region"].min(axis=0), (60, 40), atol=3)
    assert "crop" in crop["transform"]


def test_pixels_and_bytes_are_looked_up_and_what_is_no_picture_is_named(
    folder, library, photograph
):
    data = (folder / "queries/mirrored.jpg").read_bytes()
    found = library.look(photograph[40:400, 60:600], data, b"no picture")
    copies = found.table[found.table["copy"]]
    assert [Path(path).stem for path in copies["reference"]] == ["china", "flower"] or [
        Path(path).stem for path in copies["reference"]
    ] == ["flower", "china"]
    assert len(found.rejects) == 1 and found.rejects["reason"][0]
    with pytest.raises(store.StoreError, match=r"nowhere\.jpg does not exist"):
        library.look(folder / "nowhere.jpg")


def test_answers_go_out(folder, library, tmp_path):
    (tmp_path / "link.jpg").symlink_to(folder / "queries/crop.jpg")
    found = library.look(tmp_path / "link.jpg", folder / "queries/stranger.jpg")
    words = str(found)
    assert f"{found.table['relation'][0]}, {found.table['transform'][0]}" in words
    assert f"{folder}/references/china.png" in words and "no copy is known" in words
    found.save(tmp_path / "case.html")
    assert "china" in (tmp_path / "case.html").read_text()
    found.to_csv(tmp_path / "case.csv")
    assert "china.png" in pd.read_csv(tmp_path / "case.csv")["reference"][0]
    answer = json.loads(found.to_json())
    assert answer["rejects"] == [] and len(answer["found"][0]["query_region"]) >= 3


def test_a_decision_on_a_look_up_is_kept_for_that_picture(folder, library, tmp_path):
    crop = folder / "queries/crop.jpg"
    case = library.look(crop).case(0)
    log = folder / "library/decisions.jsonl"
    try:
        ids = case.query_id, case.reference_id
        decisions.append(log, *ids, "copy", reviewer="Ada Lovelace")
        again = library.look(crop).case(0)
        again.save(tmp_path / "case.html")
        text = (tmp_path / "case.html").read_text("utf-8")
        assert "Ada Lovelace" in text and f"imgfp look --library {folder}/library" in text
        (tmp_path / "crop.jpg").write_bytes(crop.read_bytes() + b"\0")  # another file of that name
        assert "Ada Lovelace" not in library.look(tmp_path / "crop.jpg").case(0).to_html()
    finally:
        log.unlink()


def test_the_command_looks_up(folder, tmp_path, capsys):
    page = tmp_path / "page.html"
    words = ["look", str(folder / "queries"), "--library", str(folder / "library")]
    assert main([*words, "--html", str(page)]) == 0
    assert "china.png" in capsys.readouterr().out and page.is_file()
    assert main([*words, "--json"]) == 0
    assert {row["copy"] for row in json.loads(capsys.readouterr().out)["found"]} >= {True}
    (tmp_path / "text.jpg").write_text("text")
    assert main(["look", str(tmp_path / "text.jpg"), *words[2:]]) == 1
    assert "not searched" in capsys.readouterr().out


def test_what_is_no_library_or_does_not_fit_it_is_one_line(folder, tmp_path, capsys):
    assert main(["look", "x.jpg", "--library", str(tmp_path)]) == 2
    assert "no finished library" in capsys.readouterr().err
    with pytest.raises(ParameterError, match="was made with 300"):
        Library(folder / "library", sift_short_side_px=200)
    with pytest.raises(ParameterError, match="max_crops"):
        Library(folder / "library", max_crop=2)
    with pytest.raises(ParameterError, match="run_dir"):
        Library(folder / "library", run_dir="runs/mine")
