# SPDX-License-Identifier: AGPL-3.0-or-later
"""Parts that the pages share: the template engine, threshold cards, warnings, settings and versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from imgfp import viz
from imgfp.results import Results
from imgfp.scoring import fusion
from imgfp.scoring.metrics import true_pairs
from imgfp.scoring.thresholds import ThresholdCard, drift, threshold_for_precision


def render(name: str, facts: Mapping[str, Any]) -> str:
    """A page as HTML text. name: of the template beside this module; every text of `facts` is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    source = Path(__file__).with_name(f"{name}.html.j2").read_text("utf-8")
    return environment.from_string(source).render(facts)


def threshold_cards(
    results: Results, targets: Iterable[float], rounds: int, seed: int
) -> list[dict[str, Any]]:
    """The threshold for each target precision on the truth of a run, as text; none without truth. rounds, seed: of the
    bootstrap."""
    if results.truth is None:
        return []
    labelled = results.pairs[results.pairs["is_true"].notna()]
    return [
        _card(
            threshold_for_precision(
                labelled["score"].to_numpy(),
                labelled["is_true"].to_numpy(bool),
                goal,
                queries=labelled["query_id"].to_numpy(),
                positives=len(true_pairs(results.truth)),
                rounds=rounds,
                seed=seed,
            )
        )
        for goal in sorted(targets)
    ]


def _card(card: ThresholdCard) -> dict:
    """A threshold card as text."""
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


def warnings(results: Results) -> str:
    """What makes the scores of a run doubtful, in sentences; "" where nothing does."""
    # A truth measures the scores; without one their distribution is all that tells.
    measured = results.truth is not None and len(results.truth)
    drifted = "" if measured or results.looked_up else drift_warning(results)
    found = _misfit_warning(results), drifted, _tuned_warning(results)
    return " ".join(filter(None, found))


def _misfit_warning(results: Results) -> str:
    """A warning if the scores are those of another descriptor, else ""."""
    model = results.fusion_model
    reason = model and fusion.misfit(model, results.descriptor)
    return f"The scores may be no probabilities of the fusion model: {reason}." if reason else ""


def _tuned_warning(results: Results) -> str:
    """A warning if settings of this run were chosen by the truth that measures it, else ""."""
    tuned = results.parameter("tuned_on")
    if not tuned or tuned != results.truth_hash:
        return ""
    return "Settings of this run were chosen by the truth that it is measured by: expect less of other queries."


def drift_warning(results: Results) -> str:
    """A warning if the scores of this run are distributed unlike those of the fit, else ""."""
    model = results.fusion_model
    if model is None or not model.scores:
        return ""
    return drift(
        np.array(model.scores),
        results.pairs.loc[results.pairs["rank"] == 0, "score"].to_numpy(),
        copies=results.expected_copies,
        threshold=results.threshold,
    ).warning


def settings(results: Results) -> list[tuple[str, str, str]]:
    """The parameters of a run, by name: name, value and where it came from."""
    return [(_text(n), _text(v), source) for n, v, source in results.settings.to_numpy()]


def versions(results: Results) -> list[tuple[str, str]]:
    """What a run's scores depend on beside its parameters, as the run recorded it: name and version or hash."""
    facts = results.record.facts.items()
    known = [(_text(name), _text(value)) for name, value in facts]
    return [("descriptor of the vectors", results.descriptor or "not known"), *known]


def _text(value: Any) -> str:
    return viz.label(value, 120) if value != "" else "(blank)"
