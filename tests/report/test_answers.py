# SPDX-License-Identifier: AGPL-3.0-or-later
import base64
import hashlib
import re
import shutil

import numpy as np
import pytest
import small_run

from imgfp import report, store
from imgfp.report import answers
from imgfp.results import Results
from imgfp.store import decisions

LOW = 1.0  # of the sums of matches: several references per query are reported


@pytest.fixture(scope="module")
def several(finished_run) -> Results:
    """A run in which some queries have several reported references."""
    return Results(finished_run, score_threshold=LOW)


@pytest.fixture(scope="module")
def page(several) -> str:
    return report.build(several, rounds=0)


def test_every_query_and_every_refused_file_is_accounted_for(several):
    table = report.matches(several)
    assert list(table) == list(answers.COLUMNS)
    found = table[table["verdict"] == "copy"]
    reported = several.pairs[several.pairs["score"] >= LOW]
    assert len(reported) > reported["query_id"].nunique() > 1
    ids = ["query_id", "reference_id"]
    assert found[ids].to_numpy().tolist() == reported[ids].to_numpy().tolist()
    left = table.loc[table["verdict"] == "no copy found", "query_id"]
    assert {*found["query_id"], *left} == {*several.queries.index}
    assert not {*found["query_id"]} & {*left}
    refused = table[table["verdict"] == "not searched"]
    assert sorted(refused["query_path"] + refused["reference_path"]) == sorted(
        several.rejects["path"]
    )
    assert refused["evidence"].eq("is empty").all()


def test_paths_words_and_regions_belong_to_the_pair(several):
    table = report.matches(several).set_index(["query_id", "reference_id"])
    row = table.loc[("q-pasted", "china")]
    assert row["query_path"] == several.path("query", "q-pasted")
    assert row["reference_path"] == several.path("reference", "china")
    x0, y0, x1, y1 = map(int, row["query_region_xyxy"].split())
    assert np.allclose([x0, y0, x1, y1], [100, 60, 400, 260], atol=6)  # where small_run pastes it
    assert "mirrored" in table.loc[("q-mirrored", "astronaut"), "edit"]
    whole = map(int, table.loc[("q-whole", "china"), "reference_region_xyxy"].split())
    assert list(whole) == [0, 0, *several.size("reference", "china")]


def test_all_at_once_and_pair_by_pair_are_the_same(several):
    pairs = answers.listed(several).reset_index(drop=True)
    for answer in answers.answers(several, pairs):
        ids = answer.query_id, answer.reference_id
        one = several.best_evidence(*ids)
        assert (answer.evidence is None) == (one is None)
        assert one is None or one.equals(answer.evidence.loc[one.index])
        assert answer.images == several.images_of(*ids)
        assert answer.remarks == several.remarks(*ids)
        for polygon, wanted in zip(answer.outlines, several.outlines(*ids), strict=True):
            np.testing.assert_array_equal(polygon, wanted)


def test_the_table_defuses_formulas_and_is_sealed(hostile_run, tmp_path):
    root = shutil.copytree(hostile_run.parent, tmp_path / "copy")
    results = Results(root / "run", root / "library", score_threshold=LOW)
    ids = results.pairs.loc[0, ["query_id", "reference_id"]]
    decisions.append(results.decisions_path, *ids, "same_scene", reviewer="Ada")
    table = report.matches(results)
    assert table.loc[0, "decision"] == "same scene"
    table.loc[0, "query_path"] = "=cmd|' /C calc'!A0"
    path = results.run.matches_csv
    store.write_sheet(path, table)
    assert "'=cmd" in path.read_text() and store.read_sheet(path).equals(table)
    with open(path, "ab") as file:
        file.write(b"x")
    assert str(path) in [str(damage.path) for damage in store.find_damage(results.run.root)]


def test_the_page_lists_every_reported_pair_by_query(several, page):
    listed = page[page.index('<section id="answers">') : page.index("</section>")]
    reported = several.reported
    assert listed.count("<li") == len(reported)
    assert listed.count("<article") == reported["query_id"].nunique()
    assert f"{reported['query_id'].nunique()} queries, {len(reported)} pairs" in listed
    one = next(part for part in listed.split("<article")[1:] if "<bdi>q-pasted</bdi>" in part)
    of_query = reported.loc[reported["query_id"] == "q-pasted", "reference_id"]
    assert re.findall(r"<b><bdi>(.*?)</bdi>", one) == of_query.tolist()
    assert "not a copy, says the truth" in listed


def test_only_the_page_s_own_script_may_run(page, parse):
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert f"script-src 'sha256-{digest}'" in policy and "unsafe-inline'; script" in policy
    assert parse(page).tags.count("script") == 1


def test_more_pictures_than_a_page_holds_are_left_out_and_it_says_so(several, monkeypatch):
    monkeypatch.setattr(answers, "_PICTURES", {48: 3})
    monkeypatch.setattr(answers, "MOST_PAIRS", 4)
    shown = answers.section(several)
    pictured = [query for queries in shown["pages"] for query in queries if query["picture"]]
    assert len(pictured) == 1 and not shown["pictured"]
    assert shown["more"] == len(several.reported) - 4
    words = report.build(several, rounds=0)
    assert "The last queries are without pictures" in words and "stand only there" in words


def test_without_a_threshold_the_best_pairs_are_undecided(tmp_path):
    results = Results(small_run.build(tmp_path, with_truth=False))
    table = report.matches(results)
    assert results.threshold is None
    assert set(table["verdict"]) == {"no threshold set", "not searched"}
    assert "no pair is reported; these are the best of each query" in report.build(results)
