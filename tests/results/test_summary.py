# SPDX-License-Identifier: AGPL-3.0-or-later
import shutil

import pandas as pd

from imgfp import store
from imgfp.datatypes import table
from imgfp.results import Results, summary
from imgfp.stages.verification import certain_of


def test_the_end_tells_copies_of_references_and_where_to_look(finished_run):
    results = Results(finished_run, score_threshold=1.0)
    kept = results.predictions[results.predictions["score"] >= 1]
    copies, references = kept["query_id"].nunique(), kept["reference_id"].nunique()
    lines = summary.conclusion(results)
    assert lines[1] == (
        f"{copies} copies of {references} references, in {len(kept)} pairs, among 8 queries; 3 files refused"
    )
    assert [line.split()[0] for line in lines[2:]] == ["scores", "refused"]  # small_run has no page
    one = Results(finished_run, score_threshold=float(results.predictions["score"].max()))
    assert summary.conclusion(one)[1].startswith("1 copy of 1 reference, among 8 queries; 3 files")


def test_without_a_threshold_nothing_is_claimed(finished_run):
    results = Results(finished_run)
    vars(results)["_threshold"] = (None, "")
    assert summary.conclusion(results)[1].startswith("no threshold is set, so no pair is reported")


def test_first_answers_are_told_best_first_and_escaped(finished_run, tmp_path):
    run = store.Run(shutil.copytree(finished_run, tmp_path / "run"))
    assert summary.first_answers(run) == []
    rows = {"query_id": ["a", "b\u202e"], "reference_id": ["r", "r"], "score": [0.91, 0.99]}
    certain = table("certain", pd.DataFrame(rows).assign(query_area=1.0))
    store.save(run.certain_parquet, certain, store.origin(certain_of, {}, []))
    assert summary.first_answers(run) == [
        "first answers: 2 copies of 1 reference are certain already",
        "  b\\u202e is a copy of r (0.990)",
        "  a is a copy of r (0.910)",
    ]
