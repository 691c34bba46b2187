# SPDX-License-Identifier: AGPL-3.0-or-later
import json
import multiprocessing

import pandas as pd
import pytest

from imgfp.store import decisions


def test_no_log_is_no_decision(tmp_path):
    log = decisions.read(tmp_path / "none.jsonl")
    assert not len(log) and not len(decisions.consensus(log)) and not len(decisions.labels(log))


def test_the_last_word_of_a_reviewer_holds_and_undo_returns_to_the_one_before(tmp_path):
    path = tmp_path / "run/decisions.jsonl"
    for word in ("copy", "unrelated", decisions.UNDO):
        decisions.append(path, "q", "r", word, reviewer="Ada")
    held = decisions.consensus(decisions.read(path))
    assert held["decision"].tolist() == ["copy"]
    decisions.append(path, "q", "r", decisions.UNDO, reviewer="Ada")
    assert not len(decisions.consensus(decisions.read(path)))
    assert len(decisions.read(path)) == 4


def test_undo_touches_nobody_else(tmp_path):
    path = tmp_path / "d.jsonl"
    decisions.append(path, "q", "r", "copy", reviewer="Ada")
    decisions.append(path, "q", "r", decisions.UNDO, reviewer="Bob")
    assert decisions.consensus(decisions.read(path))["reviewer"].tolist() == ["Ada"]


def test_the_last_decision_of_a_reviewer_is_the_one_to_take_back(tmp_path):
    path = tmp_path / "d.jsonl"
    for query_id, word in (("q1", "copy"), ("q2", "copy"), ("q2", decisions.UNDO)):
        decisions.append(path, query_id, "r", word, reviewer="Ada")
    decisions.append(path, "q3", "r", "copy", reviewer="Bob")
    log = decisions.read(path)
    assert decisions.last_of(log, "Ada") == [("q1", "r")]
    assert decisions.last_of(log, "Bob") == [("q3", "r")]
    assert decisions.last_of(log, "Eve") == []


def test_a_decision_on_several_pairs_is_taken_back_whole(tmp_path):
    path = tmp_path / "d.jsonl"
    pairs = [(f"q{number}", "r") for number in range(4)]
    decisions.append(path, *pairs[0], "skip", reviewer="Ada")
    decisions.append(path, *pairs[1], "same_scene", reviewer="Bob")
    decisions.append_all(path, pairs, "copy", reviewer="Ada")
    decisions.append(path, *pairs[2], decisions.UNDO, reviewer="Ada")
    decisions.append(path, *pairs[3], "unrelated", reviewer="Ada")
    assert decisions.last_of(decisions.read(path), "Ada") == [pairs[3]], "decided again since"
    decisions.append(path, *pairs[3], decisions.UNDO, reviewer="Ada")
    left = decisions.last_of(decisions.read(path), "Ada")
    assert left == [pairs[0], pairs[1], pairs[3]], "one was taken back alone"
    decisions.append_all(path, left, decisions.UNDO, reviewer="Ada")
    held = decisions.by_reviewer(decisions.read(path))
    assert held == {pairs[0]: {"Ada": "skip"}, pairs[1]: {"Bob": "same_scene"}}
    assert decisions.last_of(decisions.read(path), "Ada") == [pairs[0]]


def test_reviewers_who_differ_are_conflicting_and_train_nothing(tmp_path):
    path = tmp_path / "d.jsonl"
    decisions.append(path, "q", "r", "copy", reviewer="Ada")
    decisions.append(path, "q", "r", "same_scene", reviewer="Bob", reason="other day")
    decisions.append(path, "q2", "r", "skip", reviewer="Bob")
    decisions.append(path, "q3", "r", "unrelated", reviewer="Bob")
    held = decisions.consensus(decisions.read(path)).set_index("query_id")
    assert held.loc["q", "conflicting"] and held.loc["q", "reviewers"] == 2
    labels = decisions.labels(decisions.read(path))
    assert labels.values.tolist() == [["q3", "r", False]]


def test_ids_of_any_kind_survive(tmp_path):
    path = tmp_path / "d.jsonl"
    nasty = "a\nb\u2028c\"'<b>\u202e,\ufeff=1+1"
    decisions.append(path, nasty, nasty, "copy", reviewer="Ada", reason=nasty)
    log = decisions.read(path)
    assert log.loc[0, ["query_id", "reference_id", "reason"]].tolist() == [nasty] * 3


def test_a_torn_last_line_costs_only_itself(tmp_path):
    path = tmp_path / "d.jsonl"
    decisions.append(path, "q", "r", "copy", reviewer="Ada")
    with open(path, "ab") as file:
        file.write(b'{"time": "2026')
    decisions.append(path, "q2", "r", "copy", reviewer="Ada")
    with pytest.warns(
        UserWarning, match=r"d\.jsonl is damaged in line 2; the other decisions hold"
    ):
        assert decisions.read(path)["query_id"].tolist() == ["q", "q2"]


def test_a_changed_byte_costs_its_line_and_is_told(tmp_path, rng):
    path = tmp_path / "d.jsonl"
    for number in range(3):
        decisions.append(path, f"q{number}", "r", "copy", reviewer="Ada")
    whole = path.read_bytes()
    first, end = whole.index(b"\n") + 1, whole.rindex(b"\n", 0, -1)
    for at in rng.integers(first, end, 100):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        assert 2 in decisions.damaged_lines(path), at
        with pytest.warns(UserWarning, match="line 2"):
            assert decisions.read(path)["query_id"].tolist() == ["q0", "q2"]


def test_lines_of_version_0_1_have_no_seal(tmp_path):
    path = tmp_path / "d.jsonl"
    entry = dict.fromkeys(decisions.COLUMNS, "x") | {"decision": "copy"}
    path.write_text(json.dumps(entry) + "\n")
    assert decisions.read(path)["decision"].tolist() == ["copy"]


@pytest.mark.parametrize(("word", "name"), [("Copy", "Ada"), ("copy", "  ")])
def test_what_is_no_decision_is_refused(tmp_path, word, name):
    with pytest.raises(ValueError, match=r"decision must be|reviewer's name"):
        decisions.append(tmp_path / "d.jsonl", "q", "r", word, reviewer=name)


def write_many(path, name):
    for number in range(50):
        decisions.append(path, f"q{number}", "r" * 500, "copy", reviewer=name)


def test_two_reviewers_at_once_lose_no_line(tmp_path):
    path = tmp_path / "d.jsonl"
    context = multiprocessing.get_context("spawn")
    people = [context.Process(target=write_many, args=(path, name)) for name in ("Ada", "Bob")]
    for one in people:
        one.start()
    for one in people:
        one.join()
    assert decisions.read(path)["reviewer"].value_counts().to_dict() == {"Ada": 50, "Bob": 50}


def test_export_runs_nothing_in_a_spreadsheet(tmp_path):
    path = tmp_path / "d.jsonl"
    decisions.append(path, "=HYPERLINK(1)", "r", "copy", reviewer="Ada")
    decisions.export_csv(decisions.read(path), tmp_path / "out.csv")
    assert pd.read_csv(tmp_path / "out.csv").loc[0, "query_id"] == "'=HYPERLINK(1)"
