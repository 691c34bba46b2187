"""Figures of a finished run that must stay as they are, in `golden/<name>.json`.

After a change that is meant to move them, run the test with IMGFP_RENEW_GOLDEN=1 in the environment: it
writes the file again, and the difference is reviewed and committed with the change.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from imgfp.datatypes import BRANCHES
from imgfp.results import Results
from imgfp.scoring.metrics import evaluate

FOLDER = Path(__file__).parent / "golden"
#: Shares may differ by this, because rounding differs by platform; the number of pairs by 2 %.
TOLERANCE, _RELATIVE = 0.01, {"pairs": 0.02}


def figures_of(run: Path) -> dict[str, float]:
    """Metrics of a run folder, recall of the candidates of each branch, number of predicted pairs."""
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    names = ("micro_ap", "recall_at_p90", "recall_at_1", "candidate_recall", "queries", "positives")
    figures = {name: metrics[name] for name in names}
    results = Results(run)
    for branch in BRANCHES:
        proposed = results.candidates[results.candidates["branch"] == branch]
        recall = evaluate(results.predictions, results.truth, proposed).candidate_recall
        figures[f"candidate_recall_{branch}"] = recall
    figures["pairs"] = len(pd.read_csv(run / "predictions.csv"))
    return figures


def check(run: Path, name: str) -> None:
    """Compare the figures of a run folder with `golden/<name>.json`, or renew that file."""
    path, figures = FOLDER / f"{name}.json", figures_of(run)
    if os.environ.get("IMGFP_RENEW_GOLDEN"):
        path.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
        return
    golden = json.loads(path.read_text("utf-8"))
    assert figures.keys() == golden.keys(), f"renew {path.name} with IMGFP_RENEW_GOLDEN=1"
    differ = {
        name: f"{figures[name]}, was {value}"
        for name, value in golden.items()
        if figures[name] != pytest.approx(value, abs=TOLERANCE, rel=_RELATIVE.get(name, 0))
    }
    assert not differ, f"{differ}; if that is meant, renew {path.name} with IMGFP_RENEW_GOLDEN=1"
