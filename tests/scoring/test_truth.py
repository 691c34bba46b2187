# SPDX-License-Identifier: AGPL-3.0-or-later
"""A truth file in the ids of the folders that it is about."""

from __future__ import annotations

import pandas as pd
import pytest

from imgfp.scoring.truth import resolve

QUERIES = ["Q001", "Q002", "sub/Q3", "v1.2"]
REFERENCES = ["page", "Moon", "coffee"]


def truth_of(*rows: tuple[str, str | None]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["query_id", "reference_id"])


def resolved(*rows: tuple[str, str | None]) -> tuple[list[list[str]], str]:
    table, notes = resolve(truth_of(*rows), QUERIES, REFERENCES)
    return table.to_numpy().tolist(), "; ".join(notes)


def test_ids_as_they_are_give_no_note():
    rows = [["Q001", "page"], ["Q001", "Moon"], ["Q002", ""], ["v1.2", "page"]]
    assert resolved(*map(tuple, rows), ("Q002", None), ("Q001", "page")) == (rows, "")


def test_extensions_are_dropped_where_only_the_id_without_is_known():
    rows, notes = resolved(("Q001.jpg", "page.png"), ("v1.2", ""), ("v1.2.gif", ""))
    assert rows == [["Q001", "page"], ["v1.2", ""]]
    assert "2 query ids are given with an extension" in notes and "1 reference ids" in notes


def test_words_for_nothing_mean_no_reference_unless_one_is_called_so():
    rows, notes = resolved(("Q001", "None"), ("Q002", "NA"))
    assert rows == [["Q001", ""], ["Q002", ""]] and "2 references are given as NA, None" in notes
    named = truth_of(("Q001", "None"), ("Q002", ""))
    table, notes = resolve(named, QUERIES, [*REFERENCES, "None"])
    assert table["reference_id"].tolist() == ["None", ""] and not notes


def test_queries_of_another_folder_are_left_out_by_name():
    rows, notes = resolved(("Q001", "page"), ("Q0O1", "nobody"), ("x", ""))
    assert rows == [["Q001", "page"]]
    assert "2 queries are not in the folder" in notes and "'Q0O1' (is 'Q001' meant?), 'x'" in notes


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("Q001", "moon")], "1 of its references .* 'moon' \\(is 'Moon' meant"),
        ([("Q001", "cofee.jpg")], "'cofee.jpg' \\(is 'coffee' meant"),
        ([("Q001", name) for name in "wxyz"], "4 of its references .*'w', 'x', 'y' \\.\\.\\."),
        ([("q001", "page")], r"none of its 1 queries .* 'q001' \(is 'Q001' meant"),
    ],
)
def test_figures_are_never_given_over_ids_that_do_not_exist(rows, said):
    with pytest.raises(ValueError, match=said):
        resolved(*rows)


def test_the_half_of_disc21_that_was_handed_out_is_refused():
    first = pd.DataFrame({"query_id": [f"Q{n:05d}" for n in range(6_000)], "reference_id": ""})
    first.loc[5, "reference_id"] = "R123456"
    queries = [*first["query_id"], *(f"Q{n:05d}" for n in range(25_000, 31_000))]
    with pytest.raises(ValueError, match=r"6,000 of its queries .* Q00000 to Q24999"):
        resolve(first, queries, ["R123456"])
    second = first.assign(query_id=queries[6_000:])
    assert len(resolve(second, queries, ["R123456"])[0]) == 6_000
    own = first.replace({"R123456": "page"})  # numbers of somebody else
    assert len(resolve(own, queries, ["page"])[0]) == 6_000


def test_true_pairs_alone_are_no_truth_of_disc21_and_told_of_others():
    pairs = pd.DataFrame({"query_id": [f"Q{n:05d}" for n in range(50_000, 53_000)]})
    pairs["reference_id"] = "R123456"
    queries = [*pairs["query_id"], "Q59999"]
    with pytest.raises(ValueError, match=r"3,000 true pairs of DISC21 and no query without one"):
        resolve(pairs, queries, ["R123456"])
    some, notes = resolve(pairs.head(50), queries, ["R123456"])
    assert len(some) == 50 and "2,951 queries of the folder have no row" in notes[0]
    blank = truth_of(("Q50000", "R123456"), ("Q59999", ""))
    assert resolve(blank, queries, ["R123456"])[1] == []
