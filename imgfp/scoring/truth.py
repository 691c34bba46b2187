# SPDX-License-Identifier: AGPL-3.0-or-later
"""A truth table against the ids of the two folders, before anything is measured by it."""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePosixPath

import pandas as pd

#: Texts that stand for no reference where no reference has them as its id, in lower case.
_NONE = frozenset({"none", "na", "n/a", "nan", "null", "-"})
#: Ids that are compared with an unknown one, those that stand nearest to it in order.
_COMPARED = 2000
_NAMED = 3
#: Queries of DISC21 whose answers were handed out to be tuned on, all of its queries and references, and how many make a
#: truth theirs: each half of the development queries has about 5,000 true pairs.
_HANDED_OUT = r"Q(?:[01]\d{4}|2[0-4]\d{3})"
_QUERY_OF_DISC21, _OF_DISC21, _MANY = r"Q\d{5}", r"R\d{6}", 2_000


def resolve(
    truth: pd.DataFrame, queries: Collection[str], references: Collection[str]
) -> tuple[pd.DataFrame, list[str]]:
    """A truth table in the ids of two folders, and sentences about what was understood or left out.

    truth: query_id, reference_id, one row per true pair, blank for a query without one; queries, references: all
    ids, of unreadable files too. An id with an extension is that of the image without it. "None", "NA" and the
    like mean no reference. Rows of queries that the folder does not hold are left out, as a truth may serve
    several folders; queries of the folder that have no row are not measured. Raises ValueError, with the nearest right
    ids, where no query is known, where a reference is not, for a query with a reference and without one, and for a truth
    of DISC21 that figures cannot be taken from: its first half, or its true pairs alone.
    """
    queries, references = frozenset(queries), frozenset(references)
    rows, notes = truth[["query_id", "reference_id"]].fillna("").astype(str), []
    _refuse_disc21(rows)
    for side, known in (("query", queries), ("reference", references)):
        ids = rows[f"{side}_id"]
        plain = pd.Series([_plain(one, known) for one in ids], ids.index, "str")
        if changed := int((plain != ids).sum()):
            notes.append(f"{changed:,} {side} ids are given with an extension and taken without it")
        rows[f"{side}_id"] = plain
    absent = rows["reference_id"].str.lower().isin(_NONE) & ~rows["reference_id"].isin(references)
    if absent.any():
        said = ", ".join(sorted(rows.loc[absent, "reference_id"].unique())[:_NAMED])
        notes.append(f"{int(absent.sum()):,} references are given as {said}, taken as none")
        rows.loc[absent, "reference_id"] = ""
    here = rows["query_id"].isin(queries)
    if len(rows) and not here.any():
        raise ValueError(
            f"none of its {rows['query_id'].nunique():,} queries is in the folder of queries: "
            f"{_nearest(rows['query_id'], queries)}"
        )
    if not here.all():
        others = rows.loc[~here, "query_id"].drop_duplicates()
        notes.append(
            f"{len(others):,} queries are not in the folder of queries and are left out: {_nearest(others, queries)}"
        )
    rows = rows[here].drop_duplicates(ignore_index=True)
    unlisted = len(queries) - rows["query_id"].nunique()
    if unlisted and (rows["reference_id"] != "").all():
        notes.append(
            f"{unlisted:,} queries of the folder have no row and are not measured; give those without a reference a row "
            "with a blank one, or false alarms of them do not count"
        )
    unknown = rows.loc[
        ~rows["reference_id"].isin({"", *references}), "reference_id"
    ].drop_duplicates()
    if len(unknown):
        raise ValueError(
            f"{len(unknown):,} of its references are not among those that are searched: {_nearest(unknown, references)}; "
            "correct the file, or remove their rows"
        )
    return rows, notes


def _refuse_disc21(rows: pd.DataFrame) -> None:
    """Raise ValueError for a truth that holds the first half of the development queries of DISC21, and for one that holds
    its true pairs alone."""
    found = rows["query_id"].str.fullmatch(_HANDED_OUT)
    named = rows.loc[rows["reference_id"] != "", "reference_id"]
    if len(rows) < _MANY or not len(named) or not named.str.fullmatch(_OF_DISC21).all():
        return
    if found.sum() >= _MANY:
        raise ValueError(
            f"{int(found.sum()):,} of its queries are of the first half of DISC21, Q00000 to Q24999, whose true pairs were "
            "handed out to be tuned on, and are all among the proposals of the result that was published in 2021: a "
            "figure of them tells nothing. Take the second half, Q25000 to Q49999"
        )
    if len(named) == len(rows) and rows["query_id"].str.fullmatch(_QUERY_OF_DISC21).all():
        raise ValueError(
            f"it lists {len(rows):,} true pairs of DISC21 and no query without one, as the files of the data set do: false "
            "alarms of the others would not count. params/disc21.yaml has the command that makes a truth of such a file"
        )


def _plain(given: str, known: Collection[str]) -> str:
    """The id without an extension where only that is known."""
    if given in known or not given or given.endswith("/"):
        return given
    without = PurePosixPath(given.lstrip("/") or given).with_suffix("").as_posix()
    return without if without in known else given


def _nearest(ids: Iterable[str], known: Iterable[str]) -> str:
    """The first of some unknown ids, each with the known one that is most like it."""
    ids, ordered = list(dict.fromkeys(ids)), sorted(known)
    folded = {one.casefold(): one for one in ordered}
    shown = []
    for one in ids[:_NAMED]:
        like = folded.get(one.casefold()) or _most_like(one, ordered)
        shown.append(f"{one!r} (is {like!r} meant?)" if like else repr(one))
    return ", ".join(shown) + (" ..." if len(ids) > _NAMED else "")


def _most_like(one: str, ordered: Sequence[str]) -> str:
    at = bisect_left(ordered, one)
    near = ordered[max(0, at - _COMPARED // 2) : at + _COMPARED // 2]
    return next(iter(difflib.get_close_matches(one, near, 1)), "")
