# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tables of the report: title, note, head and rows of text each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from imgfp import store, viz
from imgfp.report.pairs import best_of_each_query
from imgfp.results import Results
from imgfp.scoring.relations import RELATIONS


class _Branch(NamedTuple):
    """A row of `errors.branch_breakdown`."""

    branches: str
    pairs: int
    true_pairs: int
    kept: int
    kept_true: int
    micro_ap: float


def branch_table(branches: pd.DataFrame) -> dict:
    """What each branch proposes; branches: of `errors.branch_breakdown`."""
    return {
        "title": "Branches",
        "note": "Pairs that each branch, or exactly one combination of branches, proposes; kept: at or above the threshold.",
        "head": ["branches", "pairs", "copies", "kept", "kept copies", "micro-AP of these pairs"],
        "rows": [
            [
                row.branches,
                f"{row.pairs:,}",
                f"{row.true_pairs:,}",
                f"{row.kept:,}",
                f"{row.kept_true:,}",
                "–" if np.isnan(row.micro_ap) else f"{row.micro_ap:.3f}",
            ]
            for row in map(_Branch._make, branches[list(_Branch._fields)].itertuples(index=False))
        ],
    }


def strength_table(groups: pd.DataFrame) -> dict:
    """Groups of `errors.edit_groups` by strength: one row per edit, one column per third."""
    names = groups["group"].str.rsplit(" ", n=1, expand=True)
    recall = groups["recall"].map("{:.0%}".format) + groups["positives"].map(" of {:,}".format)
    recall = recall.where(groups["positives"] > 0, "–")
    thirds = ["weak", "medium", "strong"]
    shown = recall.groupby([names[0], names[1]]).first().unstack().reindex(columns=thirds)
    return {
        "title": "Copies found, by edit and strength",
        "note": "Thirds of the strength range 0 to 1. A query with several edits counts in several rows.",
        "head": ["edit", *thirds],
        "rows": [[viz.label(row[0], 60), *row[1:]] for row in shown.fillna("–").itertuples()],
    }


def duplicate_table(duplicates: pd.DataFrame) -> dict:
    """References that are reported together; duplicates: of `errors.duplicate_references`."""
    columns = ["reference_id", "other_id", "queries", "score"]
    return {
        "title": "Possible duplicate references",
        "note": f"{len(duplicates):,} pairs of references are reported together for one query.",
        "head": ["reference", "other reference", "queries with both", "score"],
        "rows": [
            [viz.label(one, 60), viz.label(other, 60), queries, viz.score(score)]
            for one, other, queries, score in duplicates[columns].head(20).itertuples(index=False)
        ],
    }


def group_table(groups: store.Groups) -> dict:
    """The largest groups of references that show the same picture."""
    largest = groups.members.groupby("group_id", sort=False).agg(
        references=("image_id", "size"),
        identical=("relation", lambda relations: int((relations == "identical").sum())),
        others=("image_id", lambda ids: ", ".join(viz.label(one, 40) for one in ids.iloc[1:6])),
    )
    shown = largest.sort_values("references", ascending=False, kind="stable").head(20)
    return {
        "title": "Copies in the library",
        "note": f"{len(groups.members):,} references in {len(groups):,} groups show the same picture, and are answered "
        "as one. Identical: the same file again; the others were encoded, scaled, toned or mirrored.",
        "head": ["first reference", "references", "identical", "others"],
        "rows": [
            [viz.label(row.Index, 40), f"{row.references:,}", f"{row.identical:,}", row.others]
            for row in shown.itertuples()
        ],
    }


def relation_table(results: Results) -> dict:
    """How many queries have each relation."""
    best = best_of_each_query(results)["relation"].value_counts()
    return {
        "title": "Relations",
        "note": "How each query is related to the reference of its best pair.",
        "head": ["relation", "meaning", "queries"],
        "rows": [
            [name, meaning, f"{best[name]:,}"]
            for name, meaning in RELATIONS.items()
            if name in best
        ],
    }
