"""One page that says what a run found, how far to trust it, and where it loses: `report.html`.

The page is a single file without scripts and without any outside address; its own security policy
forbids both. Every name is escaped by the template engine and stripped of unseen signs.
"""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from imgfp import __version__, viz
from imgfp.report.figures import (
    branch_figure,
    curve_figure,
    edit_figure,
    reliability_figure,
    score_figure,
)
from imgfp.report.pairs import best_of_each_query, double_sheet, loss_sheets, sheet
from imgfp.results import Results
from imgfp.scoring.errors import branch_breakdown, breakdown, duplicate_references, edit_groups
from imgfp.scoring.metrics import bootstrap
from imgfp.scoring.thresholds import ThresholdCard, drift, threshold_for_precision

TARGETS = (0.8, 0.9, 0.95, 0.99)
LIBRARIES = ("numpy", "opencv-contrib-python-headless", "faiss-cpu", "torch", "scikit-learn")


def build(
    results: Results,
    *,
    target_precision: float = 0.9,
    rounds: int = 300,
    seed: int = 0,
) -> str:
    """The report of a run as HTML text.

    rounds: of the bootstrap, 0 shows no intervals. Where the truth has a meta.csv beside it, losses are also sorted by edit.
    """
    facts: dict[str, Any] = {
        "name": viz.label(results.run.name),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "verdict": _verdict(results),
        "sheets": [],
        "cards": [],
        "figures": [],
        "tables": [],
    }
    if results.truth is not None and len(results.truth):
        _add_judged(facts, results, target_precision, rounds, seed)
    else:
        _add_unjudged(facts, results)
    facts["warning"] = _drift(results)
    facts["rejects"] = _rejects(results)
    facts["settings"] = sorted((name, _text(value)) for name, value in results.params.items())
    facts["stages"] = [_stage(*item) for item in results.status.items()]
    facts["versions"] = _versions()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text("utf-8"))
    return template.render(facts)


# ------------------------------------------------------------------------------------- with truth


def _add_judged(facts, results: Results, target: float, rounds: int, seed: int) -> None:
    truth = results.truth
    known = results.pairs["is_true"].notna()
    predictions = results.predictions[known]
    candidates = results.candidates
    threshold = results.threshold
    if threshold is None:
        threshold = float("inf")  # no cut is right often enough: nothing is called a copy
    copy_probability = results.pairs[known]
    scores, labels = (
        copy_probability["score"].to_numpy(),
        copy_probability["is_true"].to_numpy(bool),
    )
    groups, copies = (
        copy_probability["query_id"].to_numpy(),
        int((truth["reference_id"] != "").sum()),
    )
    more = {"rounds": max(rounds, 1), "seed": seed}
    enough = rounds and (truth["reference_id"] != "").any()
    again = {"target_precision": target, "rounds": rounds, "seed": seed}
    interval = bootstrap(predictions, truth, **again) if enough else None
    facts["tiles"] = _tiles(results, interval, f"{100 * target:g} %")
    facts["cards"] = [
        _card(
            threshold_for_precision(scores, labels, goal, queries=groups, positives=copies, **more)
        )
        for goal in sorted({*TARGETS, target})
    ]
    facts["figures"] += [
        score_figure(results, results.threshold),
        curve_figure(predictions, truth, target),
    ]
    if results.fusion_model is not None and len(scores):
        facts["figures"].append(reliability_figure(scores, labels))
    branches = branch_breakdown(predictions, truth, candidates, threshold)
    facts["figures"].append(branch_figure(branches))
    facts["tables"].append(_branch_table(branches))
    if results.meta is not None:
        groups = breakdown(
            predictions,
            truth,
            edit_groups(results.meta),
            threshold,
            candidates,
        )
        facts["figures"].append(edit_figure(groups))
        if "strengths" in results.meta:
            groups = edit_groups(results.meta, by_strength=True)
            facts["tables"].append(
                _strength_table(breakdown(predictions, truth, groups, threshold))
            )
    facts["sheets"] = [
        sheet(
            results,
            "Best matches",
            "The surest pairs of this run, best first",
            best_of_each_query(results),
        ),
        *loss_sheets(results, results.losses),
    ]
    doubles = duplicate_references(predictions, threshold)
    if len(doubles):
        facts["sheets"].append(double_sheet(results, doubles))
        facts["tables"].append(_double_table(doubles))


def _tiles(results: Results, interval: pd.DataFrame | None, target: str) -> list[dict]:
    metrics = results.metrics
    spans = (
        {}
        if interval is None
        else {name: f"{row.low:.3f} to {row.high:.3f}" for name, row in interval.iterrows()}
    )
    wanted = [
        ("micro_ap", "Average precision", "over one ranked list of all pairs (uAP)"),
        ("recall_at_p90", "Copies found", f"when {target} of the reported pairs are right"),
        ("recall_at_1", "Right at rank 1", "of the copies"),
        ("candidate_recall", "Proposed", "of the copies, by any branch"),
        ("threshold_at_p90", "Threshold", f"score from which on {target} of the pairs are right"),
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


def _card(card: ThresholdCard) -> dict:
    """A threshold card as words."""
    if card.threshold is None:
        return {"target": card.target_precision, "threshold": None}
    return {
        "target": card.target_precision,
        "threshold": viz.number(card.threshold),
        "precision": f"{card.precision:.3f}",
        "precision_span": f"{card.precision_low:.3f} to {card.precision_high:.3f}",
        "recall": f"{card.recall:.3f}",
        "recall_span": f"{card.recall_low:.3f} to {card.recall_high:.3f}",
    }


# ---------------------------------------------------------------------------------- without truth


def _add_unjudged(facts, results: Results) -> None:
    pairs, threshold = results.pairs, results.threshold
    best = pairs[pairs["rank"] == 0]
    above = int((best["score"] >= threshold).sum()) if threshold is not None else None
    facts["tiles"] = [
        {"title": "Queries", "value": f"{len(results.queries):,}", "meaning": "that could be read"},
        {
            "title": "References",
            "value": f"{len(results.references):,}",
            "meaning": "in the library",
        },
        {"title": "Scored pairs", "value": f"{len(pairs):,}", "meaning": "proposed and compared"},
    ]
    if above is not None:
        tile = {"title": "Likely copies", "value": f"{above:,}"}
        facts["tiles"].append(
            tile | {"meaning": f"queries with a pair from {viz.number(threshold)} on"}
        )
    for tile in facts["tiles"]:
        tile["interval"] = ""
    facts["figures"].append(score_figure(results, threshold))
    note = "No truth was given, so look: the surest pairs of this run, best first"
    facts["sheets"].append(
        sheet(results, "Best matches", note, best_of_each_query(results), count=12)
    )
    if threshold is not None:
        near = best.iloc[(best["score"] - threshold).abs().argsort(kind="stable")]
        note = "Where a decision is least certain: review these first"
        facts["sheets"].append(sheet(results, "Around the threshold", note, near, count=12))


# ---------------------------------------------------------------------------------------- tables


def _branch_table(branches: pd.DataFrame) -> dict:
    return {
        "title": "Branches",
        "note": "Pairs that each branch, or exactly one combination of branches, proposes.",
        "head": ["branches", "pairs", "copies", "kept", "kept copies", "uAP alone"],
        "rows": [
            [
                row.branches,
                f"{row.pairs:,}",
                f"{row.true_pairs:,}",
                f"{row.kept:,}",
                f"{row.kept_true:,}",
                "–" if np.isnan(row.micro_ap) else f"{row.micro_ap:.3f}",
            ]
            for row in branches.itertuples()
        ],
    }


def _strength_table(groups: pd.DataFrame) -> dict:
    """Groups of `errors.edit_groups` by strength: an edit a row, a third of the strength a column."""
    names = groups["group"].str.rsplit(" ", n=1, expand=True)
    said = groups["recall"].map("{:.0%}".format) + groups["positives"].map(" of {:,}".format)
    said = said.where(groups["positives"] > 0, "–")
    thirds = ["weak", "medium", "strong"]
    shown = said.groupby([names[0], names[1]]).first().unstack().reindex(columns=thirds)
    return {
        "title": "Copies found, by edit and strength",
        "note": "Thirds of the range from 0 to 1; a query with several edits is in several rows.",
        "head": ["edit", *thirds],
        "rows": [[viz.label(row[0], 60), *row[1:]] for row in shown.fillna("–").itertuples()],
    }


def _double_table(doubles: pd.DataFrame) -> dict:
    return {
        "title": "References that may be the same picture",
        "note": f"{len(doubles):,} pairs of references are reported together for one query.",
        "head": ["reference", "other", "shared queries", "score"],
        "rows": [
            [
                viz.label(row.reference_id, 60),
                viz.label(row.other_id, 60),
                row.queries,
                viz.number(row.score),
            ]
            for row in doubles.head(20).itertuples()
        ],
    }


def _rejects(results: Results) -> dict:
    shown = results.rejects.head(50)
    return {
        "count": len(results.rejects),
        "rows": [
            (viz.label(row.path, 90), viz.label(row.reason, 120)) for row in shown.itertuples()
        ],
    }


def _stage(name: str, entry: dict) -> tuple[str, str, str]:
    seconds = f"{entry['seconds']:.1f} s" if "seconds" in entry else ""
    state = str(entry.get("state", ""))
    return name.replace("_", " "), "made this page" if state == "running" else state, seconds


def _text(value: Any) -> str:
    return viz.label(value, 120) if value != "" else "(blank)"


def _versions() -> list[tuple[str, str]]:
    found = [("imgfp", __version__), ("Python", platform.python_version())]
    for name in LIBRARIES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return [*found, ("system", f"{platform.system()} {platform.machine()}")]


def _drift(results: Results) -> str:
    """A warning where this run's scores are unlike those that its fusion was fitted on, else ""."""
    model = results.fusion_model
    if model is None or not model.scores:
        return ""
    best = results.pairs.loc[results.pairs["rank"] == 0, "score"].to_numpy()
    return drift(np.array(model.scores), best).warning


def _verdict(results: Results) -> str:
    """What the run found, in one sentence that needs no other."""
    queries, references = len(results.queries), len(results.references)
    start = f"{queries:,} queries were compared with {references:,} references"
    threshold = results.threshold
    if threshold is None:
        return f"{start}; no threshold is set yet, so nothing is called a copy."
    kept = results.pairs[results.pairs["score"] >= threshold]
    found = kept["query_id"].nunique()
    said = f"{start}: {found:,} are reported as copies (score {viz.number(threshold)} or more)"
    metrics = results.metrics
    if metrics.get("positives") and "is_true" in kept:
        right = int(kept["is_true"].fillna(False).sum())
        said += f". By the known truth {right:,} of {len(kept):,} reported pairs are right,"
        said += f" and {right:,} of {metrics['positives']:,} copies were found"
    return said + "."
