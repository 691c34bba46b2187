# SPDX-License-Identifier: AGPL-3.0-or-later
"""Many settings of a finished run side by side: what each costs and finds, and the cheapest that loses little."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from imgfp import store
from imgfp.results import Results
from imgfp.results.previews import Preview, Settings
from imgfp.results.replay import Replay
from imgfp.runner import notebooks
from imgfp.runner.params import ParameterError, check_choice
from imgfp.scoring.metrics import bootstrap

#: Settings that are evaluated at most; each takes about a tenth of a second.
MOST_SETTINGS = 20_000


def parse(lines: Sequence[str]) -> dict[str, list[Any]]:
    """Lists of values by parameter, from lines as "local_candidates: 10,5,2". Raises ParameterError for a line of another form, for a
    parameter that cannot be tried on a finished run, and for a value that it cannot have."""
    values: dict[str, list[Any]] = {}
    for line in lines:
        name, colon, text = (part.strip() for part in line.partition(":"))
        known = Settings.__dataclass_fields__
        if not colon or name not in known:
            raise ParameterError(
                f"{line!r}: expected 'name: value,value' with a name of {', '.join(known)}"
            )
        values[name] = [YAML(typ="safe", pure=True).load(word) for word in text.split(",")]
        if known[name].type == "float":
            values[name] = [float(v) if isinstance(v, int) else v for v in values[name]]
        for value in values[name]:
            check_choice(name, value)
    return values


def _most(verified: Sequence[int]) -> int:
    return 0 if 0 in verified else max(verified)


#: Which of several values of a parameter needs most to be kept.
_WIDEST: dict[str, Callable[[Sequence[Any]], Any]] = {
    **dict.fromkeys(("local_candidates", "global_candidates", "max_crops"), max),
    **dict.fromkeys(("crop_max_area", "crop_max_aspect", "certain_score"), max),
    **dict.fromkeys(("local_min_votes", "crop_min_votes", "global_min_similarity"), min),
    "local_min_confidence": min,
    "vote_max_mean_squared_distance": max,
    "candidates_verified": _most,
    "candidates_scored": lambda words: "all" if "all" in words else words[0],
}


def not_kept(settings: Settings, values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The parameters of which a value needs more than a run with these settings has kept, each with the value that needs most."""
    widest = {
        name: _WIDEST[name]([getattr(settings, name), *tried])
        for name, tried in values.items()
        if name in _WIDEST
    }
    return {name: value for name, value in widest.items() if value != getattr(settings, name)}


def wider_run(results: Results, values: Mapping[str, Any], folder: str) -> Results:
    """The run again in another folder, with parameters that keep more; what they do not reach is taken from the run. Raises
    StoreError for a run whose settings are not recorded, StageFailed and ParameterError."""
    if results.unrecorded:
        raise store.StoreError(results.unrecorded)
    run = store.Run(folder)
    if not run.root.exists():
        leave = shutil.ignore_patterns("notebooks", "decisions*", "status.json", ".status.json.*", "params.yaml", ".params.yaml.*")  # fmt: skip
        shutil.copytree(results.run.root, run.root, ignore=leave)
    changed = [f"{name}={value}" for name, value in {**values, "run_dir": run.root}.items()]
    notebooks.execute(notebooks.prepare(results.run.params_yaml, changed))
    return Results(run)


def sweep(replay: Replay, values: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """The settings of the run, then every combination of these values, one per row: the parameters that are tried, and

    pairs: to verify, of all queries; seconds: of processor time; proposed: share of the known copies that a branch proposes;
    micro_ap, recall_at_p90: of the half of the queries on which settings are chosen; held_out_micro_ap, held_out_recall_at_p90, held_out_precision, held_out_recall:
    of the other half, the last two at the cut of the first; uncertain: queries for which a run may give other figures, see
    `Preview.beyond`. Raises ParameterError for too many combinations.
    """
    count = int(np.prod([len(each) for each in values.values()]))
    if count > MOST_SETTINGS:
        raise ParameterError(f"{count:,} combinations; try at most {MOST_SETTINGS:,}")
    tried = [dict(zip(values, each, strict=True)) for each in product(*values.values())]
    own = {name: getattr(replay.settings, name) for name in values}
    rows = []
    for setting in [own, *(one for one in tried if one != own)]:
        preview = replay.preview(replace(replay.settings, **setting))
        rows.append(setting | _row(preview))
    return pd.DataFrame(rows)


def _row(preview: Preview) -> dict[str, Any]:
    figures, tuned, held_out = preview.figures, preview.tuned, preview.held_out
    return {
        "pairs": figures.pairs,
        "seconds": preview.seconds,
        "proposed": figures.proposed["union"] / max(figures.positives, 1),
        "micro_ap": tuned.micro_ap,
        "recall_at_p90": tuned.recall_at_p90,
        "held_out_micro_ap": held_out.micro_ap,
        "held_out_recall_at_p90": held_out.recall_at_p90,
        "held_out_precision": held_out.precision,
        "held_out_recall": held_out.recall,
        "uncertain": len(preview.uncertain),
    }


def pareto_front(cost: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Which points (n,) bool no other one beats: none is cheaper and as good, or as cheap and better."""
    order = np.lexsort((-quality, cost))
    best = np.maximum.accumulate(quality[order])
    front = np.ones(len(order), bool)
    front[1:] = quality[order][1:] > best[:-1]
    chosen = np.zeros(len(order), bool)
    chosen[order[front]] = True
    return chosen


def cheapest(table: pd.DataFrame, loss: float) -> int:
    """The row of `sweep` with the fewest pairs among those whose micro_ap, on the half on which settings are chosen, is at
    most `loss` below that of the run; of equal ones the best."""
    good = table[table["micro_ap"] >= table["micro_ap"].iloc[0] - loss]
    return int(good.sort_values(["pairs", "micro_ap"], ascending=[True, False]).index[0])


def compare(replay: Replay, settings: Settings, *, rounds: int, seed: int) -> pd.DataFrame:
    """`metrics.bootstrap` of these settings against those of the run, on the queries that were held out."""
    truth = replay.results.truth
    if truth is None:
        raise ValueError("the run has no truth: give it one (truth=...) and run notebook 09")
    held_out = replay.query_ids[~replay.is_tuned]
    truth = truth[truth["query_id"].isin(held_out)]
    sides = []
    for preview in (replay.preview(settings), replay.base):
        named = replay.predictions(preview)
        sides.append(named[named["query_id"].isin(truth["query_id"])])
    target = replay.results.parameter("target_precision")
    return bootstrap(sides[0], truth, sides[1], target_precision=target, rounds=rounds, seed=seed)
