# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pages of the app, asked for without a browser: who is heard, what a mistake is answered, what is stored."""

from __future__ import annotations

import http.client
import json
import re
import shutil
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest
from small_run import MARKUP

from imgfp import store
from imgfp.app import answers
from imgfp.app.answers import Filter
from imgfp.app.shell import Desk
from imgfp.app.sources import Shelf
from imgfp.results import Results
from imgfp.store import decisions

TOKEN = "the token of these tests"


@pytest.fixture(scope="module")
def project(calibrated_run, hostile_run, lay_out) -> Path:
    root = lay_out(calibrated_run.parent)
    shutil.copytree(hostile_run, root / "runs/hostile")
    return root


@pytest.fixture
def ask(served):
    """Status, headers and text of an answer to who has the token, unless the headers say otherwise."""

    def asked(
        path: str, body: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", served, timeout=120)
        headers = {"Authorization": f"token {TOKEN}"} | headers
        if body is not None:
            headers |= {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        text = unescape(answer.read().decode(errors="replace"))
        connection.close()
        return answer.status, dict(answer.headers), text

    return asked


def page(path: str, **words: object) -> str:
    return f"{path}?{urlencode(words)}"


def test_only_who_has_the_token_is_heard_and_no_other_site(ask, served):
    for wrong in ("", "token wrong", "token é"):
        status, _, text = ask("/answers", Authorization=wrong)
        assert status == 403 and "token" in text and "q-whole" not in text and TOKEN not in text
    assert ask("/picture?side=query&id=q-whole", Authorization="")[0] == 403
    assert ask("/answers", Host="evil.example")[0] == 403
    for origin in ("http://evil.example", f"http://127.0.0.1:{served + 1}", "null"):
        assert ask("/decide", "decision=copy", Origin=origin)[0] == 403
    status, headers, _ = ask(page("/answers", token=TOKEN), Authorization="")
    assert status == 302 and TOKEN not in headers["Location"]
    assert "HttpOnly" in headers["Set-Cookie"] and TOKEN not in headers["Set-Cookie"]
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert ask(page("//evil.example", token=TOKEN))[1]["Location"] == "/evil.example"
    status, headers, text = ask("/answers", Authorization="", Cookie=cookie)
    assert status == 200 and "q-whole" in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_a_browser_is_opened_with_a_token_that_holds_once():
    desk = Desk(Shelf(), TOKEN)
    ticket = desk.ticket()
    assert desk.knows(ticket) and not desk.knows(ticket) and not desk.knows("")
    assert desk.knows(TOKEN) and desk.knows(TOKEN)


def test_a_pair_goes_out_as_a_case_file(ask):
    pair = {"of": "runs/mine", "query": "q-whole", "reference": "china"}
    status, headers, text = ask(page("/case.html", **pair))
    assert status == 200 and "attachment" in headers["Content-Disposition"]
    assert "china" in text and "SHA-256" in text
    assert ask(page("/case.html", **pair | {"reference": "nobody"}))[0] == 400


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        (page("/answers", of="runs/nothing"), "there is no run, library or look-up 'runs/nothing'"),
        (page("/answers", of="../../etc"), "there is no run, library or look-up"),
        (page("/answers", of="runs/lost"), "the library of runs/lost is missing"),
        (page("/look", of="runs/lost"), "the library of runs/lost is missing"),
        (page("/answers", of="runs/going"), "runs/going has no answers yet"),
        (page("/answers", of="library/mine"), "is a library, which has no answers of its own"),
        (page("/answers", score_from="high"), "score from: 'high' is no number"),
        (page("/answers", relation="cousin"), "relation: 'cousin' is none of"),
        (page("/pair", query="nobody", reference="china"), "there is no query 'nobody'"),
        (page("/pair", query="q-whole", reference="nobody"), "there is no reference 'nobody'"),
        (
            page("/pair", query="q-whole", reference="china", ratio="9"),
            "expected a number from 1 to 3",
        ),
        (page("/tune", score_threshold="5"), "score_threshold"),
        (page("/duplicates", of="runs/self", order="age"), "order: 'age' is none of weakest"),
        (page("/duplicates.csv", of="runs/mine"), "duplicates.csv cannot be read"),
        (page("/picture", side="query", id="nobody"), "there is no query 'nobody'"),
    ],
)
def test_a_mistake_is_one_sentence_on_the_page(ask, path, sentence):
    status, _, text = ask(path)
    assert status == 400 and sentence in text and "Traceback" not in text
    assert "<nav" in text, "the menu stays"


def test_what_is_asked_for_and_not_there_is_said(ask):
    assert ask("/nothing")[0] == 404
    assert ask("/static/../pages.py")[0] == 404


def test_a_run_that_goes_on_tells_how_far_it_is(ask, project):
    at = page("/status", of="runs/going")
    assert "02_local_features" not in ask(at)[2] and "interrupted" in ask(at)[2]
    with store.lock(store.Run(project / "runs/going").notebooks):
        told = json.loads(ask(at)[2])
    assert told["going"]
    assert "02 local features goes on; 1 of 9 stages are done (11 %); about" in told["text"]
    assert re.search("about [12] h [05]. min left", told["text"])


def test_duplicates_are_groups_whose_links_open_pairs(ask):
    status, _, text = ask(page("/duplicates", of="runs/self"))
    assert status == 200 and "6 pictures in 2 groups are copies of each other" in text
    assert text.index("Group 1: 4 pictures") < text.index("Group 2: 2 pictures")
    assert "linked to whole: part of it (0.950)" in text and "linked to rose: re-encoded" in text
    assert f"{MARKUP} to part, score 0.6" in text[text.index("Weakest link") :][:400]
    # As the run has compared the two: the query is the part, though the row is that of the other picture.
    opens = re.findall('href="(/pair[^"]*)"', text)
    assert page("/pair", of="runs/self", query="part", reference=MARKUP) in opens
    assert all(ask(address)[0] == 200 for address in set(opens))
    turned = ask(page("/duplicates", of="runs/self", order="weakest"))[2]
    assert turned.index("Group 1:") < turned.index("Group 2:"), "0.6 before 0.99"
    status, headers, table = ask(page("/duplicates.csv", of="runs/self"))
    assert headers["Content-Disposition"] == 'attachment; filename="duplicates.csv"'
    assert status == 200 and table.startswith("group,image_id,path") and table.count("\n") == 7


def test_another_run_tells_how_to_find_duplicates_and_what_its_library_knows(ask, monkeypatch):
    status, _, text = ask(page("/duplicates", of="runs/mine"))
    assert status == 200 and "`imgfp duplicates DIR`" in text.replace("<code>", "`").replace(
        "</code>", "`"
    )
    assert "knows no two of its pictures as the same" in text
    members = {
        "image_id": ["cat", "china"],
        "group_id": ["cat"] * 2,
        "relation": ["", "same picture"],
    }
    references = Results("runs/mine").references
    monkeypatch.setattr(Results, "groups", store.Groups(pd.DataFrame(members), references))
    text = ask(page("/duplicates", of="runs/mine"))[2]
    assert "2 pictures in 1 group of the library show the same" in text
    assert text.count('src="/picture') == 2 and "query=" not in text


def test_ids_are_text_in_the_pages(ask, hostile_run):
    pairs = Results(hostile_run).pairs
    for path in ("/answers", "/review", "/tune"):
        status, _, text = ask(page(path, of="runs/hostile"), Accept="")
        assert status == 200 and "\u202e" not in text, path
    text = ask(page("/answers", of="runs/hostile"))[2]
    offered = {
        tuple(json.loads(pair)) for pair in re.findall("name=\"pair\".*?value='(.*?)'", text)
    }
    assert len(offered) > 0 and offered <= set(
        zip(pairs["query_id"], pairs["reference_id"], strict=True)
    )
    best = pairs.iloc[0]
    words = {"of": "runs/hostile", "query": best.query_id, "reference": best.reference_id}
    assert ask(page("/pair", **words))[0] == 200
    assert ask(page("/picture", of="runs/hostile", side="query", id=best.query_id))[0] == 200


def test_decisions_are_stored_bulk_undone_and_never_lead_elsewhere(ask, project):
    log = project / "runs/hostile/decisions.jsonl"
    pairs = Results(project / "runs/hostile").pairs
    keys = list(zip(pairs["query_id"], pairs["reference_id"], strict=True))[:3]
    at = page("/decide", of="runs/hostile")

    def decide(decision: str, chosen: list, reviewer: str = "Bob", back: str = "/review"):
        form = [("decision", decision), ("reviewer", reviewer), ("back", back)]
        return ask(at, urlencode([*form, *(("pair", json.dumps(key)) for key in chosen)]))

    assert decide("copy", keys[:1])[0] == 303
    status, headers, _ = decide("same_scene", keys)
    assert status == 303 and headers["Location"] == "/review"
    assert decide("unrelated", keys[:1], "Ada")[0] == 303
    assert decide("undo", [])[0] == 303  # Bob's last, on all three
    for elsewhere in ("//evil.example", "https://evil.example", "/\\evil.example"):
        assert decide("skip", keys[:1], "Eve", elsewhere)[1]["Location"] == "/"
    held = decisions.consensus(decisions.read(log))
    assert list(zip(held["query_id"], held["reference_id"], strict=True)) == keys[:1]
    assert held["conflicting"].all(), "what Bob said before, and Ada"
    for decision, chosen, reviewer, sentence in (
        ("copy", [], "Bob", "no pair is selected"),
        ("copy", keys, " ", "needs the reviewer's name"),
        ("maybe", keys, "Bob", "decision must be one of"),
        ("undo", [], "Zoe", "nothing to undo: Zoe has no decision"),
    ):
        status, _, text = decide(decision, chosen, reviewer)
        assert status == 400 and sentence in text


def test_filters_sorts_and_the_queue(calibrated_run):
    results = Results(calibrated_run)
    log = decisions.read(results.decisions_path)
    pairs = answers.with_decisions(answers.all_pairs(results), log)
    assert len(pairs) == len(results.pairs)
    good = answers.chosen(pairs, Filter(score_from=0.5, branch="global", decided="no"))
    assert 0 < len(good) < len(pairs) and good["score"].min() >= 0.5
    turned = answers.chosen(pairs, Filter(edit="MIRRORED", score_from=0.5))
    assert turned["query_id"].tolist() == ["q-mirrored"]
    every = answers.queries_in_order(results, pairs, Filter())
    assert sorted(every) == sorted(results.queries.index), "also those without a candidate"
    best = pairs.groupby("query_id")["score"].max()
    assert np.all(np.diff(best.reindex(every).fillna(-1)) <= 0)
    with_china = Filter(text="china")
    named = answers.queries_in_order(results, answers.chosen(pairs, with_china), with_china)
    assert {"q-whole", "q-pasted"} <= set(named) < set(every)
    none = Filter(verdict="none")
    assert "q-grey" in answers.queries_in_order(results, pairs, none)
    assert "q-whole" not in answers.queries_in_order(results, pairs, none)
    queue = answers.to_review(pairs)
    assert len(queue) == pairs["reported"].sum() and queue["score"].is_monotonic_increasing
    decided = pairs.assign(decision="copy")
    assert len(answers.to_review(decided)) == 0
    assert len(answers.to_review(decided.assign(conflicting=True))) == len(pairs)


def test_dropped_pictures_are_looked_up_and_forgotten(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr("imgfp.app.sources.LOOKS_KEPT", 1)
    shelf = Shelf()
    library = SimpleNamespace(look=lambda *paths: paths)
    monkeypatch.setattr("imgfp.app.sources.Library", lambda folder: library)
    key = shelf.look(
        project / "library/mine", [("../../a.jpg", b"1"), ("C:\\b\\a.jpg", b"2"), ("\0", b"3")]
    )
    paths, _ = shelf._looks[key]
    assert [path.name for path in paths] == ["a.jpg", "a.jpg", "picture"]
    assert [path.read_bytes() for path in paths] == [b"1", b"2", b"3"]
    shelf.look(project / "library/mine", [("c.jpg", b"4")])
    del _
    assert key not in shelf.sources() and not paths[0].exists()
