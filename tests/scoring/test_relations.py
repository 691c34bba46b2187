# SPDX-License-Identifier: AGPL-3.0-or-later
"""The relation of a pair, from rows of evidence; of real pictures in tests/verify/test_evidence.py."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from imgfp.scoring import relations as kinds
from imgfp.scoring.relations import TOLD_RIGHTLY, relations
from imgfp.verify.evidence import COLUMNS

ZEROS = {"bool": False, "str": "", "float32": 0.0, "int32": 0, "int64": 0, "float64": np.nan}
#: The same picture, saved again at half its size.
SAVED = {
    "inliers": 90, "guided_inliers": 90, "exact_inliers": 70, "distinct_inliers": 90.0, "localisable_blocks": 80,
    "ncc_inlier_ratio": 1.0, "ncc_inlier_blocks": 80, "query_area": 1.0, "reference_area": 1.0,
    "colour_difference": 1.5, "direction": "same extent",
    "h00": 2.0, "h01": 0.0, "h02": 0.5, "h10": 0.0, "h11": 2.0, "h12": 0.5, "h20": 0.0, "h21": 0.0, "h22": 1.0,
}  # fmt: skip


def evidence(*views: dict) -> pd.DataFrame:
    """Rows of evidence, by default of the pair q, r and of one branch; views: what differs from nothing found."""
    nothing = {name: ZEROS[kind] for name, kind in COLUMNS.items()} | {"colour_difference": np.nan}
    ids = {"query_id": "q", "reference_id": "r", "view_id": "q", "branch": "local", "score": 9.0}
    return pd.DataFrame([ids | nothing | view for view in views], columns=[*ids, *COLUMNS])


def scored(score: float, rows: pd.DataFrame) -> pd.DataFrame:
    pairs = rows[["query_id", "reference_id"]].drop_duplicates(ignore_index=True)
    return pairs.assign(score=score)


@pytest.mark.parametrize(
    ("change", "score", "relation"),
    [
        ({"identical": True}, 1.0, "identical file"),
        ({"identical": True, "inliers": 0, "refused": "too_few"}, 1.0, "identical file"),
        ({}, 0.99, "re-encoded"),
        ({"h00": 0.5, "h11": 0.501}, 0.99, "re-encoded"),
        ({"h00": -2.0}, 0.99, "edited copy"),  # mirrored
        ({"h00": -2.0, "h11": -2.0}, 0.99, "edited copy"),  # upside down
        ({"h00": 1e-9, "h11": 1e-9, "h01": 2.0, "h10": -2.0}, 0.99, "edited copy"),  # a quarter turn
        ({"h11": 2.2}, 0.99, "edited copy"),  # squeezed
        ({"h01": 0.1, "h10": -0.1}, 0.99, "edited copy"),  # turned by three degrees
        ({"perspective": 0.1}, 0.99, "edited copy"),
        ({"reference_area": 0.95}, 0.99, "edited copy"),  # a margin was cut off
        ({"ncc_inlier_ratio": 0.9}, 0.99, "edited copy"),  # painted over
        ({"colour_difference": 30.0}, 0.99, "edited copy"),
        ({"colour_difference": np.nan}, 0.99, "edited copy"),  # not compared
        ({"direction": "reference contains query", "reference_area": 0.4}, 0.99, "part of"),
        ({"direction": "query contains reference", "query_area": 0.4}, 0.99, "contains"),
        ({"direction": "parts in common", "query_area": 0.4, "reference_area": 0.4}, 0.99, "edited copy"),
        ({"direction": "query contains reference", "query_area": 0.4}, 0.4, "same scene, other photograph"),
        ({}, 0.49, "same scene, other photograph"),
        ({"localisable_blocks": 0}, 0.1, "unrelated"),
        ({"inliers": 3}, 0.1, "unrelated"),
        ({"refused": "shared_by_many"}, 0.1, "unrelated"),
        ({"refused": "too_few", "inliers": 0}, 0.01, "unrelated"),
    ],
)  # fmt: skip
def test_each_relation(change, score, relation):
    rows = evidence(SAVED | change)
    (told,) = relations(rows, scored(score, rows)).to_dict("records")
    assert told["relation"] == relation and relation in kinds.RELATIONS
    side = score if relation in kinds.COPIES else 1 - score
    assert told["relation_probability"] == pytest.approx(side * TOLD_RIGHTLY[relation])


def test_a_form_with_other_content_is_told_where_another_reference_shares_it():
    form = SAVED | {"distinct_inliers": 40.0, "compared_blocks": 1000}
    other = form | {"reference_id": "other", "differing_blocks": 150}
    rows = evidence(form, other)
    told = relations(rows, scored(0.2, rows).assign(score=[0.99, 0.2]))
    assert told["relation"].tolist() == ["re-encoded", "same form, other content"]
    alone = relations(evidence(other), scored(0.2, evidence(other)))
    assert alone["relation"].tolist() == ["same form, other content"], "inliers that others share"
    own = evidence(other | {"distinct_inliers": 90.0})
    assert relations(own, scored(0.2, own))["relation"].tolist() != ["same form, other content"]


def test_the_view_with_most_inliers_tells():
    crop = {"view_id": "q#0", "direction": "reference contains query", "reference_area": 0.4}
    weak, strong = (SAVED | crop | {"inliers": inliers} for inliers in (20, 150))
    for view, relation in ((weak, "re-encoded"), (strong, "part of")):
        for rows in (evidence(SAVED, view), evidence(view, SAVED)):
            assert relations(rows, scored(0.9, rows))["relation"].tolist() == [relation]
    rows = evidence(SAVED, strong | {"refused": "shared_by_many"})
    assert relations(rows, scored(0.9, rows))["relation"].tolist() == ["re-encoded"]


def test_one_row_per_pair_in_the_order_of_the_scores():
    other = SAVED | {"reference_id": "s", "h00": -2.0}
    unverified = {"reference_id": "u"} | dict.fromkeys(COLUMNS, np.nan)
    again = SAVED | {"branch": "global"}
    rows = evidence(SAVED, again, other, {"reference_id": "t"}, unverified)
    pairs = scored(0.9, rows).iloc[[2, 1, 0]].assign(score=[0.01, 0.8, 0.9])
    told = relations(rows, pairs)
    assert told["reference_id"].tolist() == ["t", "s", "r"]
    assert told["relation"].tolist() == ["unrelated", "edited copy", "re-encoded"]
    assert {name: str(told[name].dtype) for name in kinds.COLUMNS} == kinds.COLUMNS


def test_too_little_structure_is_marked_beside_the_relation():
    flat = SAVED | {"exact_inliers": 0, "localisable_blocks": 0}
    for views, marked in (
        ([flat], True),
        ([flat, SAVED | {"view_id": "q#0"}], False),
        ([SAVED], False),
        ([flat | {"colour_difference": np.nan}], False),
    ):
        rows = evidence(*views)
        told = relations(rows, scored(0.9, rows))
        assert told["too_little_structure"].tolist() == [marked]
        assert told["relation"].isin(kinds.COPIES).all()


def test_nothing_proposed_has_no_relation():
    rows = evidence()
    told = relations(rows, scored(0.9, rows))
    assert told.empty and list(told) == ["query_id", "reference_id", *kinds.COLUMNS]


def test_every_relation_has_its_words_and_its_share():
    assert set(kinds.RELATIONS) == set(TOLD_RIGHTLY) and set(kinds.COPIES) < set(kinds.RELATIONS)
    assert all(0 < share <= 1 for share in TOLD_RIGHTLY.values())
