# SPDX-License-Identifier: AGPL-3.0-or-later
import pandas as pd

from imgfp import widgets
from imgfp.widgets.votes import NOTE, explain_vote


def test_why_a_reference_is_accepted_or_none():
    rows = pd.DataFrame(
        {
            "reference_id": ["r<1>", "r2"],
            "score": [9.0, 4.0],
            "mean_squared_distance": [9000.0, 4000.0],
            "accepted": [False, False],
        }
    )
    assert "not below 8,000" in explain_vote(rows, {})
    assert "needs more than 20" in explain_vote(rows, {"vote_min_hits": 20})
    assert "5 more than the next" in explain_vote(rows.assign(accepted=True), {})
    assert "no other reference has any" in explain_vote(rows.assign(accepted=True).head(1), {})
    assert "the next reference has as many" in explain_vote(rows.assign(score=9.0), {})
    assert "No keypoint" in explain_vote(rows.head(0), {})


def test_votes_and_keypoints_of_the_accepted_reference_are_shown(results):
    view = widgets.VoteView(results)
    assert "accepted with" in view.explanation.value and view.bars.value[:4] == b"\x89PNG"
    assert "<circle" in view.dots.value and NOTE in view.legend.value
    view.pager.filter.value = "no reference accepted"
    assert view.pager.key is not None and "accepted with" not in view.explanation.value
    view.branch.value = "global"
    assert "similarity" in view.explanation.value


def test_without_a_query_the_chart_is_hidden(results):
    view = widgets.VoteView(results)
    view.pager._filters["a reference accepted"] = list
    view.pager.filter.value = "a reference accepted"
    assert "No query" in view.explanation.value and view.bars.layout.visibility == "hidden"
    view.pager.filter.value = "all queries"
    assert view.bars.layout.visibility == "visible"
