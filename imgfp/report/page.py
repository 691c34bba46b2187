# SPDX-License-Identifier: AGPL-3.0-or-later
"""The page `report.html`: results of a run, their reliability, and its errors.

The page is a single file without external resources. Its content security policy forbids them, and every script but
`page.js`, which searches the list of answers, by its hash; the page reads without it. The template engine escapes every
name, and control characters are shown as escapes.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from imgfp import store, viz
from imgfp.report.answers import section
from imgfp.report.figures import (
    branch_figure,
    curve_figure,
    edit_figure,
    reliability_figure,
    score_figure,
)
from imgfp.report.pairs import duplicate_sheet, error_sheets, sheet
from imgfp.report.parts import (
    drift_warning,
    render,
    settings,
    threshold_cards,
    versions,
    warnings,
)
from imgfp.report.tables import (
    branch_table,
    duplicate_table,
    group_table,
    relation_table,
    strength_table,
)
from imgfp.results import Results
from imgfp.results.summary import counted
from imgfp.scoring.errors import branch_breakdown, breakdown, duplicate_references, edit_groups
from imgfp.scoring.metrics import bootstrap, true_pairs

#: Target precisions in the table of thresholds.
TARGETS = (0.8, 0.9, 0.95, 0.99)
#: Parts of the page that it links to: anchor, title.
_PARTS = {
    "answers": "Answers",
    "threshold": "Choosing the threshold",
    "figures": "Figures",
    "pairs": "",
    "refused": "Not searched",
    "made": "How this report was made",
}


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
        "name": "pictures looked up" if results.looked_up else viz.label(results.run.name),
        "looked_up": results.looked_up,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC") + _snapshot(results),
        "summary": _summary(results),
        "answers": section(results),
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
        facts["tables"].append(relation_table(results))
    if results.groups:
        facts["tables"].append(group_table(results.groups))
    facts["warning"] = warnings(results)
    facts["rejects"] = _rejects(results)
    facts["settings"] = settings(results)
    facts["unrecorded"] = results.unrecorded
    facts["stages"] = [_stage(*item) for item in results.status.items()]
    facts["versions"] = versions(results)
    there = {
        "answers": facts["answers"]["pages"],
        "threshold": facts["cards"],
        "figures": facts["figures"],
        "pairs": facts["sheets"],
    }
    titles = _PARTS | {"pairs": "Errors" if facts["cards"] else "Pairs to review"}
    facts["parts"] = {name: title for name, title in titles.items() if there.get(name, True)}
    script = Path(__file__).with_name("page.js").read_text("utf-8")
    facts["script"] = Markup(script)
    facts["script_hash"] = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
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
        drawn = reliability_figure(scores, labels)
        drifted = drift_warning(results)
        facts["figures"].append(replace(drawn, text=f"{drawn.text} {_sentence(drifted)}".strip()))
    branches = branch_breakdown(predictions, truth, candidates, threshold)
    facts["figures"].append(branch_figure(branches))
    facts["tables"].append(branch_table(branches))
    if results.meta is not None:
        edits = edit_groups(results.meta)
        facts["figures"].append(
            edit_figure(breakdown(predictions, truth, edits, threshold, candidates))
        )
        if "strengths" in results.meta:
            edits = edit_groups(results.meta, by_strength=True)
            facts["tables"].append(strength_table(breakdown(predictions, truth, edits, threshold)))
    facts["sheets"] = error_sheets(results)
    duplicates = duplicate_references(predictions, threshold)
    if len(duplicates):
        facts["sheets"].append(duplicate_sheet(results, duplicates))
        facts["tables"].append(duplicate_table(duplicates))


def _tiles(results: Results, interval: pd.DataFrame | None, target: str) -> list[dict]:
    metrics = results.metrics
    spans: dict[Any, str] = {}
    if interval is not None:
        limits = zip(interval.index, interval["low"], interval["high"], strict=True)
        spans = {name: f"{low:.3f} to {high:.3f}" for name, low, high in limits}
    wanted = [
        ("micro_ap", "micro-AP", "average precision over one ranked list of all pairs"),
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
        meaning += f"; {counted(len(results.reported), 'such pair')}"
        facts["tiles"].append({"title": "Likely copies", "value": f"{above:,}", "meaning": meaning})
    for tile in facts["tiles"]:
        tile["interval"] = ""
    if not results.looked_up:
        facts["figures"].append(score_figure(results))
    if threshold is not None:
        near = best.iloc[(best["score"] - threshold).abs().argsort(kind="stable")]
        note = "The scores are least certain here: review these pairs first"
        facts["sheets"].append(sheet(results, "Around the threshold", note, near, count=12))


# ----------------------------------------------------------------------------------------- facts


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
    summary = f"{counted(queries, 'query')} {'was' if queries == 1 else 'were'} compared with "
    summary += counted(references, "reference")
    if any(results.refused.values()):
        of_each = " and ".join(
            f"{count:,} of the {side}" for side, count in results.refused.items()
        )
        summary += f"; files and folders that could not be searched, and stand below: {of_each}"
    if own := results.own_queries:
        summary += f"; {own:,} queries are references themselves and were compared with the others"
    if results.damaged_queries:
        damaged = f"{results.damaged_queries:,}"
        summary += f"; damaged files among the queries, decoded in part: {damaged}"
    threshold = results.threshold
    if threshold is None:
        return f"{summary}. No threshold is set, so no pair is reported as a copy."
    kept = results.reported
    summary += (
        f". Reported as copies: {counted(kept['query_id'].nunique(), 'query')}, in "
        f"{counted(len(kept), 'pair')} (score {viz.number(threshold)} or more)"
    )
    told = kept.loc[kept["rank"].eq(0) & kept["relation"].ne(""), "relation"]
    kinds = [f"{name} {count:,}" for name, count in told.value_counts().items()]
    summary += f"; the best pair of each query: {', '.join(kinds)}." if kinds else "."
    positives = results.metrics.get("positives")
    if positives and "is_true" in kept:
        true = int(kept["is_true"].fillna(False).sum())
        summary += f" According to the ground truth, {true:,} of these {len(kept):,} pairs are"
        summary += f" correct, and {true:,} of {positives:,} true pairs were found."
    return summary


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""
