# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page `duplicates.html`: the pictures of a folder that are copies of each other, group by group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from imgfp import viz
from imgfp.report.parts import render
from imgfp.results import Results
from imgfp.results.duplicates import Duplicates
from imgfp.scoring.relations import CONTAINS, PART
from imgfp.viz import svg

#: Groups on the page, pictures of each, and the longer side of a picture in pixels.
GROUPS, PICTURES, LONG_SIDE_PX = 150, 12, 200


def build_duplicates(results: Results, duplicates: Duplicates) -> str:
    """The page as HTML text: the largest groups, each with its first pictures, how they are linked and which link is
    the weakest."""
    members = duplicates.members
    shown = members[members["group"] <= GROUPS]
    facts = {
        "name": viz.label(results.run.name),
        "summary": f"{duplicates}.",
        "threshold": viz.number(results.threshold or 0),
        "groups": [_group(results, rows) for _, rows in shown.groupby("group", sort=True)],
        "count": len(duplicates),
    }
    return render("duplicates", facts)


def _group(results: Results, rows: pd.DataFrame) -> dict[str, Any]:
    weakest = rows[rows["weakest"]].to_dict("records")
    return {
        "number": int(rows["group"].iloc[0]),
        "count": len(rows),
        "weakest": weakest_in_words(weakest[0]) if weakest else "",
        "pictures": [_picture(results, row) for row in rows.head(PICTURES).to_dict("records")],
        "more": [viz.label(path, 0) for path in rows["path"].iloc[PICTURES:]],
    }


def _picture(results: Results, row: dict[Any, Any]) -> dict[str, Any]:
    image_id, size = row["image_id"], (row["width"], row["height"])
    small = svg.small_jpeg(results.thumbnail("reference", image_id), LONG_SIDE_PX, 75)
    return {
        "drawn": Markup(svg.outlined(small, size, None, f"picture {image_id}")),
        "name": viz.label(image_id, 60),
        "path": viz.label(row["path"], 0),
        "facts": file_in_words(row),
        "link": link_in_words(row),
    }


def weakest_in_words(row: Mapping[Any, Any]) -> str:
    """The link that would split a group first; row: of `Duplicates.members`."""
    names = " to ".join(viz.label(row[name], 60) for name in ("image_id", "linked_to"))
    return f"{names}, score {viz.score(row['score'])}"


def file_in_words(row: Mapping[Any, Any]) -> str:
    """Size of a picture and of its file; row: of `Duplicates.members`."""
    return f"{row['width']:,} x {row['height']:,} px, {row['file_bytes'] / 1e3:,.0f} kB"


def link_in_words(row: Mapping[Any, Any]) -> str:
    """What a picture of a group is to the one that it is linked to, "" for the first of the group; row: of
    `Duplicates.members`."""
    if not row["linked_to"]:
        return ""
    relation, score = row["relation"], row["score"]
    # Only these two tell which picture was made from which.
    told = f"{relation} it" if relation in (PART, CONTAINS) else relation
    said = f"linked to {viz.label(row['linked_to'], 44)}: {told}"
    return said if pd.isna(score) else f"{said} ({viz.score(score)})"
