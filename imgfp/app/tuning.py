# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tab Tune: what a run with other settings gives, computed from what the run has kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from imgfp import store, viz
from imgfp.results import Results
from imgfp.results.previews import Settings
from imgfp.results.replay import Replay
from imgfp.runner import params
from imgfp.runner.schema import Parameters
from imgfp.viz import svg
from imgfp.widgets.parts import profile_of
from imgfp.widgets.thresholds import Scores
from imgfp.widgets.tuner import (
    NUMBERS,
    SOURCES,
    Source,
    changed_pairs,
    figure_rows,
    in_words,
)

_replay = lru_cache(maxsize=2)(Replay)
#: What can be tried, by its name in the address: source and measure of `tuner.SOURCES`.
_TRIED = {
    "score": ("pairs", "score"),
    "local": ("local", "votes"),
    "crop": ("crop", "votes"),
    "global": ("global", "similarity"),
    "boxes": ("boxes", "confidence"),
    "area": ("boxes", "area"),
}


def shown(results: Results, words: Mapping[str, str]) -> dict[str, Any]:
    """The chart of a branch, the fields, and the figures of the run and of these settings. words: of the address, with
    `branch` and the parameters that are tried. Raises StoreError for a run without evidence, ValueError for a value
    out of its range."""
    replay = _replay(results)
    settings = _settings(replay, words)
    sources = _sources(results)
    branch = words.get("branch") or "score"
    if branch not in sources:
        raise ValueError(f"branch: {branch!r} is none of {', '.join(sources)}")
    now = replay.preview(settings)
    profiles = store.project_path("params")
    names = sorted(path.name for path in profiles.glob("*.yaml"))
    changed = _changed(replay, settings)
    return {
        "branches": list(sources),
        "branch": branch,
        "fields": _fields(results, replay, settings, sources),
        "rows": figure_rows(replay.base, now),
        "said": in_words(replay, now),
        "changes": changed_pairs(replay, now),
        "changed": [f"{name}: {value!r}" for name, value in changed.items()],
        "profiles": names,
        "profile": profile_of(results, profiles, names),
        **_chart(results, replay, sources[branch], branch, settings),
    }


def write(results: Results, words: Mapping[str, str], profile: str) -> str:
    """Write the settings that differ from the run's to a parameter file of the project; returns what was done in one
    sentence. Raises ValueError for a file that is not one of `params/`."""
    replay = _replay(results)
    changed = _changed(replay, _settings(replay, words))
    folder = store.project_path("params")
    if profile not in {path.name for path in folder.glob("*.yaml")}:
        raise ValueError(
            f"there is no parameter file {viz.label(profile)!r} in {store.show(folder)}"
        )
    if not changed:
        return "Nothing differs from the run, so nothing was written."
    params.write_values(folder / profile, changed)
    said = ", ".join(f"{name} set to {value!r}" for name, value in changed.items())
    return f"{profile}: {said}."


def _sources(results: Results) -> dict[str, Source]:
    """The final score, and what each branch decides on."""
    sources = {name: SOURCES[source][measure] for name, (source, measure) in _TRIED.items()}
    step = 1 if results.score_scale == "log" else 0.001
    return sources | {"score": sources["score"]._replace(scale=results.score_scale, step=step)}


def _settings(replay: Replay, words: Mapping[str, str]) -> Settings:
    """The settings of the run with those of the address in their place."""
    own, given = replay.settings, dict[str, Any]()
    limits = (source.parameter for source in _sources(replay.results).values())
    for name in (*NUMBERS, *limits):
        if text := words.get(name):
            kind = type(getattr(own, name))
            try:
                value = kind(text)
            except ValueError:
                raise ValueError(
                    f"{name}: {text!r} is no {'number' if kind is float else 'whole number'}"
                ) from None
            declared = params.Declared(name, kind.__name__, repr(getattr(own, name)), "")
            given |= params.check({name: value}, {name: declared})
    return replace(own, **given)


def _changed(replay: Replay, settings: Settings) -> dict[str, Any]:
    """The parameters that are moved, and the truth by which."""
    changed = settings.changed(replay.settings)
    tuned = {"tuned_on": replay.results.truth_hash} if changed else {}
    return changed | (tuned if all(tuned.values()) else {})


def _fields(
    results: Results, replay: Replay, settings: Settings, sources: Mapping[str, Source]
) -> list[dict[str, Any]]:
    """Name, value, step and meaning of every parameter that can be tried, and the value of the run."""
    rows = [(source.parameter, source.step) for source in sources.values()]
    rows += [(name, 1) for name in NUMBERS]
    return [
        {
            "name": name,
            "value": f"{getattr(settings, name):.6g}",
            "own": _own(results, name, getattr(replay.settings, name)),
            "step": step,
            "meaning": Parameters.model_fields[name].description or "",
        }
        for name, step in rows
    ]


def _own(results: Results, name: str, value: float) -> str:
    """The value of the run; a threshold of 0 is the measured one."""
    if name == "score_threshold" and not value and results.threshold:
        return f"measured, {results.threshold:.4g}"
    return f"{value:.6g}"


def _chart(
    results: Results, replay: Replay, source: Source, branch: str, settings: Settings
) -> dict[str, Any]:
    """The histogram of what a branch decides on, with a line at the value that is tried, and the ends of its axis."""
    groups = replay.scores(_TRIED[branch][0], source.measure)
    if branch == "score":
        groups = Scores.of(results).groups()
    value = float(getattr(settings, source.parameter))
    if branch == "score" and value == 0:
        value = results.threshold or 0.0
    fig, ax = viz.figure(7, 3)
    viz.draw_score_histogram(ax, *groups, value, scale=source.scale, axis=source.axis)
    chart = svg.Chart.of(fig, ax)
    (left, _, right, _), (width, _) = chart.frame, chart.size
    position = float(np.clip(viz.SCALES[source.scale].forward(value), chart.low, chart.high))
    return {
        "chart": svg.data_uri(chart.png, "png"),
        "slider": {
            "name": source.parameter,
            "scale": source.scale,
            "low": chart.low,
            "high": chart.high,
            "step": (chart.high - chart.low) / 1000,
            "at": position,
            "text": f"{value:.4g}",
            "round_to": source.step,
            "left": 100 * left / width,
            "right": 100 * (1 - right / width),
        },
    }
