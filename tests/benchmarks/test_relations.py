# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import pandas as pd

from imgfp.benchmarks.relations import confusion


def test_pairs_are_counted_by_what_they_are_and_what_they_were_told():
    rows = [  # edits, true, the reference of the same scene, told -> is
        ("jpeg+blur", True, "", "re-encoded", "re-encoded"),
        ("crop+jpeg", True, "", "part of", "part of"),
        ("crop+colour", True, "", "edited copy", "part of"),
        ("mirror+paste", True, "", "contains", "contains"),
        ("crop+paste", True, "", "edited copy", "edited copy"),
        ("text+jpeg", True, "", "re-encoded", "edited copy"),
        ("jpeg", False, "", "unrelated", "unrelated"),
        ("crop", False, "r", "unrelated", "same scene, other photograph"),
        ("crop", False, "another", "unrelated", "unrelated"),
        ("crop", pd.NA, "", "unrelated", None),  # not in the truth
    ]
    columns = ["ops", "is_true", "hard_negative_of", "relation", "is"]
    table = pd.DataFrame(rows, columns=columns).assign(reference_id="r")
    table["query_id"] = [f"q{n}" for n in table.index]
    counts = confusion(table[["query_id", "reference_id", "is_true", "relation"]], table)
    expected = table.dropna().groupby(["is", "relation"]).size()
    stacked = counts.stack()
    assert stacked[stacked > 0].to_dict() == expected.to_dict()
    assert list(counts.index) == [
        "re-encoded", "edited copy", "part of", "contains", "same scene, other photograph", "unrelated",
    ]  # fmt: skip
