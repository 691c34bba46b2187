# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tables and vectors of a run, read back as spreadsheets and search engines do."""

from __future__ import annotations

import json
import shutil

import faiss
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from small_run import made_with

from imgfp import store
from imgfp.datatypes import Descriptors
from imgfp.exchange import export
from imgfp.results import Results
from imgfp.stages.inventory import read_images
from imgfp.stages.listed import list_candidates
from imgfp.stages.search import read_candidates
from imgfp.store import decisions
from imgfp.store.formats import FormatError


@pytest.fixture
def described_run(hostile_run, tmp_path, rng) -> Results:
    """A copy of the hostile run, with a vector per reference and two views per query: those of a query are near to that of
    the reference of the same number."""
    shutil.copytree(hostile_run.parent, tmp_path / "copy")
    results = Results(tmp_path / "copy/run", tmp_path / "copy/library")
    vectors = np.linalg.qr(rng.normal(size=(16, 16)))[0].astype(np.float32)
    references = _references(results)
    _save(results.library, references, vectors[: len(references)])
    queries = list(results.queries.index)
    views = np.array(
        [f"{query}@{view}" for query in queries for view in ("whole", "mirror")], object
    )
    _save(results.run, views, np.repeat(vectors[: len(queries)], 2, axis=0))
    return results


def _references(results: Results) -> np.ndarray:
    return read_images(results.library, ["image_id"])["image_id"].to_numpy(object)


def _save(collection: store.Collection, ids: np.ndarray, vectors: np.ndarray) -> None:
    record = Descriptors(ids, vectors)
    store.save(collection.descriptors / "shard-00000.h5", record, made_with())


def test_tables_hold_what_the_run_holds(described_run, tmp_path):
    results = described_run
    best = results.pairs.iloc[0]
    pair = best["query_id"], best["reference_id"]
    decisions.append(results.decisions_path, *pair, "copy", reviewer="ann", reason='=1+1"')
    export(results, "csv", tmp_path / "csv")
    export(results, "parquet", tmp_path / "parquet")
    assert "'=1+1" in (tmp_path / "csv/decisions.csv").read_text("utf-8")
    for name in ("predictions", "overlaps", "boxes", "decisions"):
        held = pq.read_table(tmp_path / f"parquet/{name}.parquet").to_pandas()
        sheet = store.read_sheet(tmp_path / f"csv/{name}.csv")
        assert list(sheet) == list(held) and len(sheet) == len(held) > 0
        for column in (
            column for column in ("query_id", "reference_id", "reason") if column in held
        ):
            assert sheet[column].tolist() == held[column].tolist()
    predictions = pq.read_table(tmp_path / "parquet/predictions.parquet").to_pandas()
    pd.testing.assert_series_equal(predictions["score"], results.pairs["score"])
    assert predictions["query_path"][0] == results.path("query", best["query_id"])
    boxes = pq.read_table(tmp_path / "parquet/boxes.parquet").to_pandas()
    cut = boxes[boxes["crop_id"] != ""]
    assert cut["crop_id"].tolist() == results.crops["crop_id"].tolist()
    assert len(boxes) == len(results.detections)
    overlaps = pq.read_table(tmp_path / "parquet/overlaps.parquet").to_pandas()
    row = overlaps[overlaps["query_id"] == "q-pasted"].iloc[0]
    region = np.stack(row["query_region"])
    np.testing.assert_allclose(
        [region.min(axis=0), region.max(axis=0)], [(100, 60), (400, 260)], atol=1.5
    )


@pytest.mark.parametrize("written", ["npy", "parquet"])
def test_an_engine_searches_the_vectors_and_its_answers_are_candidates(
    described_run, written, tmp_path
):
    export(described_run, written, tmp_path / "out")
    if written == "npy":
        vectors, names = {}, {}
        for side in ("references", "queries"):
            vectors[side] = np.load(tmp_path / f"out/{side}.npy", allow_pickle=False)
            names[side] = json.loads((tmp_path / f"out/{side}.json").read_text("utf-8"))
    else:
        held = {
            side: pq.read_table(tmp_path / f"out/{side}.parquet")
            for side in ("references", "queries")
        }
        assert held["references"].schema.field("vector").type.list_size == 16
        names = {side: table.to_pydict() for side, table in held.items()}
        vectors = {side: np.array(names[side]["vector"], np.float32) for side in held}
    index = faiss.IndexFlatIP(vectors["references"].shape[1])
    index.add(vectors["references"])
    cosines, rows = index.search(vectors["queries"], 1)
    answers = pd.DataFrame(
        {
            "query_id": names["queries"]["query_id"],
            "reference_id": [names["references"]["image_id"][row] for row in rows[:, 0]],
            "score": cosines[:, 0],
        }
    ).drop_duplicates(["query_id", "reference_id"])
    path = tmp_path / ("answers.csv" if written == "npy" else "answers.parquet")
    answers.to_csv(path, index=False) if written == "npy" else answers.to_parquet(path)
    run, library = described_run.run, described_run.library
    list_candidates(run, library, "global", str(path))
    found = read_candidates(run, "global")
    best = found[found["score"] > 0.999].set_index("query_id")["reference_id"]
    references = _references(described_run)
    expected = dict(zip(described_run.queries.index, references, strict=False))
    assert best.to_dict() == expected


def test_a_table_of_candidates_that_is_damaged_names_file_and_row(described_run, tmp_path):
    run, library = described_run.run, described_run.library
    names = ["query_id", "reference_id", "score"]
    wrong = pd.DataFrame([("q-pasted", "cat", 0.5), ("q-grey", "cat", np.nan)], columns=names)
    wrong.to_parquet(tmp_path / "wrong.parquet")
    with pytest.raises(FormatError, match=r"wrong.parquet, line 2: the score is not a finite"):
        list_candidates(run, library, "global", str(tmp_path / "wrong.parquet"))
    wrong.drop(columns="score").to_parquet(tmp_path / "less.parquet")
    with pytest.raises(FormatError, match=r"less.parquet: expected a table with the columns"):
        list_candidates(run, library, "global", str(tmp_path / "less.parquet"))
    (tmp_path / "lines.csv").write_text("query_id,reference_id,score\nq-pasted,cat,much\n")
    with pytest.raises(FormatError, match=r"lines.csv, line 2: score 'much' is not a finite"):
        list_candidates(run, library, "global", str(tmp_path / "lines.csv"))
