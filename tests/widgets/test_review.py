# SPDX-License-Identifier: AGPL-3.0-or-later
import pandas as pd

from imgfp import report, widgets
from imgfp.results import Results
from imgfp.store import decisions
from imgfp.widgets.review import KEYS, LABELS, by_uncertainty


def test_the_pairs_nearest_to_the_threshold_come_first():
    pairs = pd.DataFrame({"score": [9.0, 8.0, 5.0, 4.0, 1.0]})
    assert by_uncertainty(pairs, 5.0)["score"].tolist() == [5.0, 4.0, 8.0, 1.0, 9.0]
    assert by_uncertainty(pairs, None)["score"].tolist()[0] == 5.0
    assert not len(by_uncertainty(pairs.head(0), 5.0))


def test_every_decision_has_a_button_and_a_key(own_run):
    assert set(LABELS) == set(KEYS.values()) == set(decisions.DECISIONS)
    assert set(widgets.ReviewQueue(own_run).buttons) == set(decisions.DECISIONS)


def test_each_decision_is_written_at_once_and_can_be_undone(own_run):
    queue = widgets.ReviewQueue(own_run)
    first = queue.current
    queue.buttons["copy"].click()
    assert "enter one first" in queue.note.value and queue.current == first
    queue.reviewer.value = "Ada"
    queue.reason.value = "same frame"
    queue.buttons["copy"].click()
    assert queue.current != first
    log = decisions.read(queue.path)
    assert log.loc[0, ["query_id", "reference_id", "reason"]].tolist() == [*first, "same frame"]
    queue.back.click()
    assert queue.current == first and not len(decisions.consensus(decisions.read(queue.path)))


def test_undo_reaches_back_before_a_restart_but_not_into_another_run(own_run):
    widgets.ReviewQueue(own_run, "Ada").decide("copy")
    (first,) = decisions.last_of(decisions.read(own_run.decisions_path), "Ada")
    decisions.append(own_run.decisions_path, "elsewhere", "r", "copy", reviewer="Ada")
    again = widgets.ReviewQueue(own_run, "Bob")
    again.undo()
    assert "nothing to undo" in again.note.value
    again.reviewer.value = " Ada "
    again.undo()
    assert again.current == first
    held = decisions.consensus(decisions.read(own_run.decisions_path))
    assert held["query_id"].tolist() == ["elsewhere"]


def test_decisions_in_a_shared_log_hold_in_later_runs(own_run, tmp_path):
    own_run.params["decisions_log"] = str(tmp_path / "shared.jsonl")
    queue = widgets.ReviewQueue(own_run, "Ada")
    pair = queue.current
    queue.decide("same_scene")
    later = Results(own_run.run, own_run.library)
    later.params["decisions_log"] = own_run.params["decisions_log"]
    assert widgets.ReviewQueue(later, "Bob").current != pair
    assert "reviewed: same scene" in report.build(later, rounds=0).replace("<b>", "")


def test_the_inspector_opens_on_the_current_pair(own_run):
    inspector = widgets.MatchInspector(own_run)
    queue = widgets.ReviewQueue(own_run, "Ada", inspector=inspector)
    assert not queue.inspected.children
    queue.inspect.value = True
    assert queue.inspected.children == (inspector,) and inspector.pager.key == queue.current
    queue.decide("skip")
    assert inspector.pager.key == queue.current
    queue.inspect.value = False
    assert not queue.inspected.children


def test_letters_are_decisions_and_deleting_one_undoes_it(own_run):
    queue = widgets.ReviewQueue(own_run, "Ada")
    for typed in ("c", "cu", "cus", "cu", "cuxo"):
        queue.letters.value = typed
    log = decisions.read(queue.path)["decision"].tolist()
    assert log == ["copy", "unrelated", "same_scene", "undo", "shared_overlay"]


def test_two_reviewers_share_one_queue_and_a_restart_continues(own_run):
    ada, bob = (widgets.ReviewQueue(own_run, name) for name in ("Ada", "Bob"))
    shared = ada.current
    assert bob.current == shared
    ada.decide("copy")
    bob.decide("unrelated")
    assert ada.current == bob.current != shared
    assert widgets.ReviewQueue(own_run, "Ada").current == bob.current
    for _ in range(len(own_run.pairs)):
        ada.decide("skip")
    assert ada.current is None and "Every pair" in ada.summary.value
    ada.export()
    assert own_run.run.decisions_csv.exists()


def test_a_log_that_cannot_be_written_is_reported_and_the_pair_stays(own_run):
    queue = widgets.ReviewQueue(own_run, "Ada")
    first = queue.current
    queue.path.mkdir()
    queue.decide("copy")
    assert "cannot write" in queue.note.value and queue.current == first
