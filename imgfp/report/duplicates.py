# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page `duplicates.html`: the pictures of a folder that are copies of each other, group by group."""

from __future__ import annotations

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
    weakest = rows[rows["weakest"]]
    weak = ""
    if len(weakest):
        row = weakest.iloc[0]
        weak = (
            f"{viz.label(row['image_id'], 60)} to {viz.label(row['linked_to'], 60)}, "
            f"score {viz.score(row['score'])}"
        )
    columns = [
        "image_id",
        "path",
        "width",
        "height",
        "file_bytes",
        "linked_to",
        "relation",
        "score",
    ]
    return {
        "number": int(rows["group"].iloc[0]),
        "count": len(rows),
        "weakest": weak,
        "pictures": [
            _picture(results, *row)
            for row in rows[columns].head(PICTURES).itertuples(index=False, name=None)
        ],
        "more": [viz.label(path, 0) for path in rows["path"].iloc[PICTURES:]],
    }


def _picture(
    results: Results,
    image_id: str,
    path: str,
    width: int,
    height: int,
    file_bytes: int,
    linked_to: str,
    relation: str,
    score: float,
) -> dict[str, Any]:
    small = svg.small_jpeg(results.thumbnail("reference", image_id), LONG_SIDE_PX, 75)
    link = ""
    if linked_to:
        # Only these two tell which picture was made from which.
        told = f"{relation} it" if relation in (PART, CONTAINS) else relation
        link = f"linked to {viz.label(linked_to, 44)}: {told}"
        link += "" if pd.isna(score) else f" ({viz.score(score)})"
    return {
        "drawn": Markup(svg.outlined(small, (width, height), None, f"picture {image_id}")),
        "name": viz.label(image_id, 60),
        "path": viz.label(path, 0),
        "facts": f"{width:,} x {height:,} px, {file_bytes / 1e3:,.0f} kB",
        "link": link,
    }
