# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tab Duplicates: pictures of a folder that are copies of each other, or the copies that a library has grouped."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pandas as pd

from imgfp import viz
from imgfp.datatypes import files_of
from imgfp.report.duplicates import file_in_words, link_in_words, weakest_in_words
from imgfp.results import Results
from imgfp.results.duplicates import find_duplicates, is_self_search
from imgfp.store import Groups

#: Groups on one page, and pictures of each that are shown.
GROUPS_PER_PAGE, PICTURES_SHOWN = 10, 24
#: Order of the groups -> its words.
ORDERS = {"": "largest group first", "weakest": "weakest link first"}


def shown(results: Results, order: str, page: int) -> dict[str, Any]:
    """One page of groups, of a folder that was searched in itself or of the library of another run. order: of ORDERS.
    Raises ValueError for another, StoreError for a run without a threshold."""
    if order not in ORDERS:
        raise ValueError(f"order: {order!r} is none of {', '.join(filter(None, ORDERS))}")
    own = is_self_search(results)
    members, summary = _of_folder(results) if own else _of_library(results.groups)
    numbers = members["group"].drop_duplicates()
    if order == "weakest":
        # Groups without any score are sure, so they come last.
        lowest = members.groupby("group")["score"].min().fillna(1)
        numbers = lowest.sort_values(kind="stable").index.to_series()
    pages = max(1, -(-len(numbers) // GROUPS_PER_PAGE))
    page = min(max(page, 1), pages)
    of_page = numbers.iloc[(page - 1) * GROUPS_PER_PAGE : page * GROUPS_PER_PAGE]
    return {
        "own": own,
        "summary": summary,
        "groups": [_group(number, members[members["group"] == number]) for number in of_page],
        "count": len(numbers),
        "order": order,
        "orders": ORDERS,
        "page": page,
        "pages": pages,
        "has_csv": results.run.duplicates_csv.is_file(),
    }


@lru_cache(maxsize=2)
def _of_folder(results: Results) -> tuple[pd.DataFrame, str]:
    """`Duplicates.members` with query_id and reference_id of each link as the run has compared the two, "" for none, and
    all in a sentence."""
    found = find_duplicates(results)
    ids = ["query_id", "reference_id"]
    links = found.links[["image_id", "other_id", *ids]].rename(columns={"other_id": "linked_to"})
    turned = links.rename(columns={"image_id": "linked_to", "linked_to": "image_id"})
    members = found.members.merge(pd.concat([links, turned]), "left", on=["image_id", "linked_to"])
    members[ids] = members[ids].fillna("")
    return members, f"{found}."


@lru_cache(maxsize=2)
def _of_library(groups: Groups) -> tuple[pd.DataFrame, str]:
    """The same of the copies that the library knows, which have no pairs and no scores."""
    known = groups.members
    known = known.assign(image_id=files_of(known["image_id"]))
    known = known.drop_duplicates(["group_id", "image_id"])
    size = known.groupby("group_id")["image_id"].transform("size")
    known = known.assign(size=-size).sort_values(["size", "group_id"], kind="stable")
    number = known["group_id"].ne(known["group_id"].shift()).cumsum()
    members = known.assign(group=number, query_id="", score=float("nan"), weakest=False)
    several = "" if len(groups) == 1 else "s"
    summary = (
        f"{len(members):,} pictures in {len(groups):,} group{several} of the library show the same."
    )
    return members, summary if len(groups) else ""


def _group(number: int, rows: pd.DataFrame) -> dict[str, Any]:
    pictures = rows.to_dict("records")
    weakest = next((row for row in pictures if row["weakest"]), None)
    return {
        "number": number,
        "count": len(pictures),
        "weakest": weakest and weakest | {"said": weakest_in_words(weakest)},
        "pictures": [_picture(row) for row in pictures[:PICTURES_SHOWN]],
        "more": max(0, len(pictures) - PICTURES_SHOWN),
    }


def _picture(row: dict[Any, Any]) -> dict[str, Any]:
    """A member for the template. query_id, reference_id: the pair that its link opens, "" for none."""
    if "linked_to" not in row:
        return row | {"said": row["relation"] or "first of the group", "path": "", "facts": ""}
    path, facts, said = viz.label(row["path"], 0), file_in_words(row), link_in_words(row)
    return row | {"said": said, "path": path, "facts": facts}
