# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page `report.html`: results of a run, their reliability, and its errors.

The page is a single file without scripts and without external resources; its content security policy
forbids both. The template engine escapes every name, and control characters are shown as escapes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from imgfp import store, viz
from imgfp.report.figures import (
    branch_figure,
    curve_figure,
    edit_figure,
    reliability_figure,
    score_figure,
)
from imgfp.report.pairs import best_of_each_query, duplicate_sheet, error_sheets, sheet
from imgfp.report.parts import render, settings, threshold_cards, versions, warnings
from imgfp.results import Results
from imgfp.scoring.errors import branch_breakdown, breakdown, duplicate_references, edit_groups
from imgfp.scoring.metrics import bootstrap, true_pairs
from imgfp.scoring.relations import RELATIONS

#: Target precisions in the table of thresholds.
TARGETS = (0.8, 0.9, 0.95, 0.99)


def build(
    results: Results,
    *,
    target_precision: float = 0.9,
    rounds: int = 300,
    seed: int = 0,
) -> str:
    """The report of a run as HTML text.

    target_precision: for the recall and the threshold that are shown first; rounds: of the bootstrap,
    0 for no intervals; seed: of the bootstrap. With a meta.csv beside the truth, recall is also shown
    per edit.
    """
    facts: dict[str, Any] = {
        "name": viz.label(results.run.name),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC") + _snapshot(results),
        "summary": _summary(results),
        "sheets": [],
        "cards": [],
        "figures": [],
        "tables": [],
    }
    truth = results.truth
    if truth is not None and len(truth):
        _add_with_truth(facts, results, truth, target_precision, rounds, seed)
    else:
        _add_without_truth(facts, results)
    if results.pairs["relation"].ne("").any():
        facts["tables"].append(_relation_table(results))
    if results.groups:
        facts["tables"].append(_group_table(results.groups))
    facts["warning"] = warnings(results)
    facts["rejects"] = _rejects(results)
    facts["settings"] = settings(results)
    facts["unrecorded"] = results.unrecorded
    facts["stages"] = [_stage(*item) for item in results.status.items()]
    facts["versions"] = versions(results)
    return render("page", facts)


def _snapshot(results: Results) -> str:
    number = store.begun_with(results.run).get("snapshot")
    return f", snapshot {number} of library {viz.label(results.library.name)}" if number else ""


# ------------------------------------------------------------------------------------- with truth


def _add_with_truth(
    facts: dict[str, Any],
    results: Results,
    truth: pd.DataFrame,
    target: float,
    rounds: int,
    seed: int,
) -> None:
    labelled = results.pairs[results.pairs["is_true"].notna()]
    predictions = labelled[["query_id", "reference_id", "score"]]
    scores, labels = labelled["score"].to_numpy(), labelled["is_true"].to_numpy(bool)
    copies = len(true_pairs(truth))
    candidates = results.candidates
    # Without a threshold nothing is reported.
    threshold = float("inf") if results.threshold is None else results.threshold
    interval = None
    if rounds and copies:
        interval = bootstrap(predictions, truth, target_precision=target, rounds=rounds, seed=seed)
    facts["tiles"] = _tiles(results, interval, f"{100 * target:g} %")
    facts["cards"] = threshold_cards(results, {*TARGETS, target}, max(rounds, 1), seed)
    facts["figures"] += [score_figure(results), curve_figure(predictions, truth, target)]
    if results.fusion_model is not None and len(scores):
        facts["figures"].append(reliability_figure(scores, labels))
    branches = branch_breakdown(predictions, truth, candidates, threshold)
    facts["figures"].append(branch_figure(branches))
    facts["tables"].append(_branch_table(branches))
    if results.meta is not None:
        edits = edit_groups(results.meta)
        facts["figures"].append(
            edit_figure(breakdown(predictions, truth, edits, threshold, candidates))
        )
        if "strengths" in results.meta:
            edits = edit_groups(results.meta, by_strength=True)
            facts["tables"].append(_strength_table(breakdown(predictions, truth, edits, threshold)))
    note = "The highest scores of this run, best first"
    facts["sheets"] = [
        sheet(results, "Best matches", note, best_of_each_query(results)),
        *error_sheets(results),
    ]
    duplicates = duplicate_references(predictions, threshold)
    if len(duplicates):
        facts["sheets"].append(duplicate_sheet(results, duplicates))
        facts["tables"].append(_duplicate_table(duplicates))


def _tiles(results: Results, interval: pd.DataFrame | None, target: str) -> list[dict]:
    metrics = results.metrics
    spans: dict[Any, str] = {}
    if interval is not None:
        limits = zip(interval.index, interval["low"], interval["high"], strict=True)
        spans = {name: f"{low:.3f} to {high:.3f}" for name, low, high in limits}
    wanted = [
        ("micro_ap", "Average precision", "over one ranked list of all pairs (uAP)"),
        ("recall_at_p90", "Recall", f"share of the copies found at {target} precision"),
        ("recall_at_1", "Recall at rank 1", "copies whose best pair is the true one"),
        ("candidate_recall", "Proposed", "share of the copies that any branch proposes"),
        ("threshold_at_p90", "Threshold", f"precision is at least {target} from this score on"),
    ]
    tiles = []
    for key, title, meaning in wanted:
        value = metrics.get(key)
        shown = (
            "–" if value is None else viz.number(value) if "threshold" in key else f"{value:.3f}"
        )
        tiles.append(
            {"title": title, "value": shown, "meaning": meaning, "interval": spans.get(key, "")}
        )
    return tiles


# ---------------------------------------------------------------------------------- without truth


def _add_without_truth(facts: dict[str, Any], results: Results) -> None:
    pairs, threshold = results.pairs, results.threshold
    best = pairs[pairs["rank"] == 0]
    facts["tiles"] = [
        {"title": "Queries", "value": f"{len(results.queries):,}", "meaning": "that could be read"},
        {
            "title": "References",
            "value": f"{results.references.count_files():,}",
            "meaning": "in the library",
        },
        {"title": "Scored pairs", "value": f"{len(pairs):,}", "meaning": "proposed and verified"},
    ]
    if threshold is not None:
        above = int((best["score"] >= threshold).sum())
        meaning = f"queries with a pair that scores {viz.number(threshold)} or more"
        facts["tiles"].append({"title": "Likely copies", "value": f"{above:,}", "meaning": meaning})
    for tile in facts["tiles"]:
        tile["interval"] = ""
    facts["figures"].append(score_figure(results))
    note = "There is no ground truth. The highest scores of this run, best first"
    facts["sheets"].append(
        sheet(results, "Best matches", note, best_of_each_query(results), count=12)
    )
    if threshold is not None:
        near = best.iloc[(best["score"] - threshold).abs().argsort(kind="stable")]
        note = "The scores are least certain here: review these pairs first"
        facts["sheets"].append(sheet(results, "Around the threshold", note, near, count=12))


# ---------------------------------------------------------------------------------------- tables


class _Branch(NamedTuple):
    """A row of `errors.branch_breakdown`."""

    branches: str
    pairs: int
    true_pairs: int
    kept: int
    kept_true: int
    micro_ap: float


def _branch_table(branches: pd.DataFrame) -> dict:
    return {
        "title": "Branches",
        "note": "Pairs that each branch, or exactly one combination of branches, proposes; kept: at or above the threshold.",
        "head": ["branches", "pairs", "copies", "kept", "kept copies", "uAP of these pairs"],
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


def _strength_table(groups: pd.DataFrame) -> dict:
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


def _duplicate_table(duplicates: pd.DataFrame) -> dict:
    columns = ["reference_id", "other_id", "queries", "score"]
    return {
        "title": "Possible duplicate references",
        "note": f"{len(duplicates):,} pairs of references are reported together for one query.",
        "head": ["reference", "other reference", "queries with both", "score"],
        "rows": [
            [viz.label(one, 60), viz.label(other, 60), queries, viz.number(score)]
            for one, other, queries, score in duplicates[columns].head(20).itertuples(index=False)
        ],
    }


def _group_table(groups: store.Groups) -> dict:
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


def _relation_table(results: Results) -> dict:
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


def _rejects(results: Results) -> dict:
    shown = results.rejects.head(50)
    return {
        "count": len(results.rejects),
        "rows": [
            (viz.label(path, 90), viz.label(reason, 120))
            for path, reason in shown[["path", "reason"]].itertuples(index=False)
        ],
    }


def _stage(name: str, entry: dict) -> tuple[str, str, str, str]:
    seconds, spent = (
        f"{entry[key]:,.1f} s" if key in entry else "" for key in ("seconds", "processor_seconds")
    )
    state = str(entry.get("state", ""))
    state = "wrote this page" if state == "running" else state
    return name.replace("_", " "), state, seconds, spent


def _summary(results: Results) -> str:
    """The result of the run in a few sentences."""
    queries, references = len(results.queries), results.references.count_files()
    summary = f"{queries:,} queries were compared with {references:,} references"
    if any(results.refused.values()):
        of_each = " and ".join(
            f"{count:,} of the {side}" for side, count in results.refused.items()
        )
        summary += f"; files and folders that could not be searched, and stand below: {of_each}"
    if own := results.own_queries:
        summary += f"; {own:,} queries are references themselves and were compared with the others"
    if results.damaged_queries:
        summary += f"; {results.damaged_queries:,} queries are damaged files, decoded in part"
    threshold = results.threshold
    if threshold is None:
        return f"{summary}. No threshold is set, so no pair is reported as a copy."
    kept = results.pairs[results.pairs["score"] >= threshold]
    reported = kept["query_id"].nunique()
    summary += (
        f". {reported:,} queries are reported as copies (score {viz.number(threshold)} or more)"
    )
    told = kept.loc[kept["rank"].eq(0) & kept["relation"].ne(""), "relation"]
    kinds = [f"{name} {count:,}" for name, count in told.value_counts().items()]
    summary += f": {', '.join(kinds)}." if kinds else "."
    positives = results.metrics.get("positives")
    if positives and "is_true" in kept:
        true = int(kept["is_true"].fillna(False).sum())
        summary += f" According to the ground truth, {true:,} of {len(kept):,} reported pairs are"
        summary += f" correct, and {true:,} of {positives:,} copies were found."
    return summary
