# SPDX-License-Identifier: AGPL-3.0-or-later
import numpy as np
import pandas as pd

from imgfp import widgets
from imgfp.results import Results
from imgfp.widgets.votes import NOTE, explain_rule, explain_vote

ROWS = pd.DataFrame(
    {
        "reference_id": ["r<1>", "r2"],
        "score": [9.0, 4.0],
        "mean_squared_distance": [9000.0, 4000.0],
        "accepted": [False, False],
    }
)
RULES = {
    "vote_min_hits": 3,
    "vote_min_hits_single": 5,
    "vote_max_mean_squared_distance": 8000.0,
}


def test_why_a_reference_is_verified_or_none():
    assert explain_vote(ROWS, 0) == "r<1> is verified with 9 votes, 5 more than the next."
    assert "needs 10" in explain_vote(ROWS, 10)
    assert "No keypoint" in explain_vote(ROWS.head(0), 0)


def test_why_the_rule_accepts_a_reference_or_none():
    accepted = ROWS.assign(accepted=True)
    assert "not below 8,000" in explain_rule(ROWS, RULES)
    assert "needs more than 20" in explain_rule(ROWS, RULES | {"vote_min_hits": 20})
    assert "5 more than the next" in explain_rule(accepted, RULES)
    assert "no other reference has any" in explain_rule(accepted.head(1), RULES)
    assert "the next reference has as many" in explain_rule(ROWS.assign(score=9.0), RULES)
    assert "No keypoint" in explain_rule(ROWS.head(0), RULES)


def test_the_voters_are_drawn_not_other_keypoints(results, monkeypatch):
    asked = []

    def voters_of(run, library, *about, **settings):
        asked.append((*about, settings))
        return [np.full((2 + row, 4), 9.0) for row, _ in enumerate(about[2])]

    monkeypatch.setattr("imgfp.widgets.votes.voters_of", voters_of)
    view = widgets.VoteView(results)
    query_id, view_id, references, settings = asked[0]
    assert query_id == view_id and len(references) == 2 and settings["rule"] == "robust"
    assert view.dots.value.count("<circle") == 2 + 3 and NOTE in view.legend.value
    assert f"{references[1]}: 3 votes" in view.legend.value
    view.branch.value = "global"
    assert "<circle" not in view.dots.value and len(asked) == 1, "nothing votes there"


def test_the_view_speaks_of_the_rule_that_the_run_used(results, finished_run):
    view = widgets.VoteView(results)
    assert "verified with" in view.explanation.value and view.bars.value[:4] == b"\x89PNG"
    assert "The votes cannot be drawn" in view.legend.value, "a library without an index"
    view.pager.filter.value = "no reference verified"
    assert view.pager.key is not None and "verified with" not in view.explanation.value
    view.branch.value = "global"
    assert "similarity" in view.explanation.value
    by_rule = widgets.VoteView(Results(finished_run, candidates_scored="accepted"))
    assert "accepted with" in by_rule.explanation.value
    assert not any("verified" in name for name in by_rule.pager.filter.options)


def test_without_a_query_the_chart_is_hidden(results):
    view = widgets.VoteView(results)
    view.pager._filters["a reference verified"] = list
    view.pager.filter.value = "a reference verified"
    assert "No query" in view.explanation.value and view.bars.layout.visibility == "hidden"
    view.pager.filter.value = "all queries"
    assert view.bars.layout.visibility == "visible"
