# SPDX-License-Identifier: AGPL-3.0-or-later
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import imgfp
from imgfp import store
from imgfp.__main__ import main
from imgfp.report import Case
from imgfp.report.evidence import OTHERS, SHOWN
from imgfp.results import Results
from imgfp.store import decisions
from imgfp.verify.evidence import COLUMNS

PAIR = ("q-pasted", "china")


def test_a_case_has_everything_about_its_pair(calibrated_run, parse):
    results = Results(calibrated_run)
    case = Case(results, *PAIR)
    html = case.to_html()
    page = parse(html)
    assert "reported as a copy" in case.verdict and "Ground truth: a copy" in case.verdict
    assert case.words.startswith("pasted centre; ")
    digest = store.sha256_of(results.path("query", PAIR[0]))
    for text in (case.verdict, case.words, digest, "has these bytes", "Threshold card"):
        assert text in page.words
    for name in SHOWN.keys() - {"refused"}:
        assert all(text in page.words for text in SHOWN[name]), name
    assert "Nobody has decided about this pair." in page.words
    assert html.count("<svg") - html.count('<svg x="') == 5 and html.count("<line") > 20
    assert html.count("<polygon") >= 8


def test_every_measurement_has_a_meaning_and_none_is_invented():
    homography = {f"h{row}{column}" for row in range(3) for column in range(3)}
    assert {*SHOWN, *OTHERS} == {*COLUMNS} - homography - {"inlier_keypoints", "explained_cells"}


def test_the_command_in_a_case_makes_the_same_bytes_in_another_process(calibrated_run, tmp_path):
    case = Case(Results(calibrated_run), *PAIR)
    (command,) = re.findall(r"imgfp case [^\n]*", "\n".join(" ".join(row) for row in _rows(case)))
    program = [sys.executable, "-m", *shlex.split(command)]
    root = Path(imgfp.__file__).parents[1]
    done = subprocess.run(
        program,
        check=True,
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root), "PYTHONHASHSEED": "7"},
    )
    assert b"reported as a copy" in done.stdout
    assert (tmp_path / "case.html").read_text("utf-8") == case.to_html()
    pdf = (tmp_path / "case.pdf").read_bytes()
    assert pdf == case.to_pdf()
    assert pdf.startswith(b"%PDF") and b"CreationDate" not in pdf
    assert pdf.count(b"/Type /Page ") >= 3 and pdf.count(b"/Subtype /Image") >= 6


def test_decisions_and_reviewers_stand_in_the_case(calibrated_run, tmp_path, parse):
    results = Results(calibrated_run, decisions_log=str(tmp_path / "log.jsonl"))
    for reviewer, decision in (("Ada", "copy"), ("<b>Bo</b>", "same_scene")):
        decisions.append(
            results.decisions_path, *PAIR, decision, reviewer=reviewer, reason="seen at 100 %"
        )
    decisions.append(results.decisions_path, "q-whole", "china", "unrelated", reviewer="Cy")
    html = Case(results, *PAIR).to_html()
    words = parse(html).words
    assert "In force: same scene, reviewers: 2, who decided differently." in words
    assert "Ada" in words and "<b>Bo</b>" in words and "Cy" not in words and "<b>Bo" not in html


def test_a_name_is_never_markup(hostile_run, parse):
    results = Results(hostile_run)
    pairs = results.pairs[results.pairs["rank"].eq(0)].head(3)
    for query_id, reference_id in pairs[["query_id", "reference_id"]].to_numpy():
        html = Case(results, query_id, reference_id).to_html()
        page = parse(html)
        assert not page.handlers and "script" not in page.tags and not page.addresses
        assert "\u202e" not in html and "two\nlines" not in html


def test_a_pair_that_was_not_scored_is_a_case_too(calibrated_run, parse):
    case = Case(Results(calibrated_run), "q-grey", "coffee")
    words = parse(case.to_html()).words
    assert "The run has not scored this pair." in words and "The pair was not verified." in words
    assert "cannot be laid on each other" in words and len(case.to_pdf()) > 10_000


def test_a_file_that_has_changed_or_gone_is_said(calibrated_run, tmp_path, monkeypatch):
    (tmp_path / "query").write_bytes(b"others")
    monkeypatch.setattr(Results, "path", lambda self, side, one: str(tmp_path / side))
    said = {row[0]: row[1:] for row in _rows(Case(Results(calibrated_run), *PAIR))}
    assert said["the file now"] == ["has other bytes", "is not there"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["q-pastd", "china"], "this run has no query 'q-pastd'; did you mean 'q-pasted'?"),
        (["q-pasted", "chna"], "this run has no reference 'chna'; did you mean 'china'?"),
        (["q-pasted", "zzzz"], "this run has no reference 'zzzz'; predictions.csv has the ids"),
    ],
)
def test_a_mistyped_id_is_one_line(calibrated_run, capsys, words, said):
    assert main(["case", str(calibrated_run), *words]) == 2
    assert capsys.readouterr().err == f"imgfp: {said}\n"


def test_a_library_that_has_gone_is_named(copied_run):
    results = Results(copied_run, copied_run.parent / "gone")
    with pytest.raises(store.StoreError, match="gone, the library of this run, does not exist"):
        Case(results, *PAIR)


def _rows(case: Case) -> list[list[str]]:
    return [row for table in case.tables for row in table.rows]
