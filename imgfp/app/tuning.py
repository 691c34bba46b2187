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
from imgfp.results.replay import Replay, Settings
from imgfp.runner import params
from imgfp.runner.schema import Parameters
from imgfp.viz import svg
from imgfp.widgets.parts import profile_of
from imgfp.widgets.tuner import (
    NUMBERS,
    SOURCES,
    Source,
    changed_pairs,
    figure_rows,
    in_words,
    limit_of,
    said_of,
)

#: Name of what can be looked at -> source and measure of `SOURCES`; the final score first.
SHOWN = {
    f"{source}: {measure}": (source, measure)
    for source in sorted(SOURCES, key=lambda name: name != "pairs")
    for measure in SOURCES[source]
}

_replay = lru_cache(maxsize=2)(Replay)


def shown(results: Results, words: Mapping[str, str]) -> dict[str, Any]:
    """The chart of a branch, the fields, and the figures of the run and of these settings. words: of the address, with
    `branch` and the parameters that are tried. Raises StoreError for a run without evidence, ValueError for a value
    out of its range."""
    replay = _replay(results)
    settings = _settings(replay, words)
    branch = words.get("branch") or next(iter(SHOWN))
    if branch not in SHOWN:
        raise ValueError(f"branch: {branch!r} is none of {', '.join(SHOWN)}")
    now = replay.preview(settings)
    profiles = store.project_path("params")
    names = sorted(path.name for path in profiles.glob("*.yaml"))
    changed = _changed(replay, settings)
    return {
        "branches": list(SHOWN),
        "branch": branch,
        "fields": _fields(results, replay, settings),
        "rows": figure_rows(replay.base, now),
        "said": in_words(replay, now),
        "changes": changed_pairs(replay, now),
        "changed": [f"{name}: {value!r}" for name, value in changed.items()],
        "profiles": names,
        "profile": profile_of(results, profiles, names),
        **_chart(results, replay, branch, settings),
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


def _limits() -> dict[str, Source]:
    """The parameters that limit something -> the first measure that they limit."""
    measures = [SOURCES[source][measure] for source, measure in SHOWN.values()]
    return {one.parameter: one for one in reversed(measures) if one.parameter}


def _settings(replay: Replay, words: Mapping[str, str]) -> Settings:
    """The settings of the run with those of the address in their place."""
    own, given = replay.settings, dict[str, Any]()
    for name in (*NUMBERS, *_limits()):
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


def _fields(results: Results, replay: Replay, settings: Settings) -> list[dict[str, Any]]:
    """Name, value, step and meaning of every parameter that can be tried, and the value of the run."""
    rows = [(name, limit.step) for name, limit in reversed(_limits().items())]
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


def _chart(results: Results, replay: Replay, branch: str, settings: Settings) -> dict[str, Any]:
    """The histogram of what a branch decides on, with a line at the value that is tried, and the ends of its axis; no line
    where nothing is limited."""
    source, measure = SHOWN[branch]
    shown = SOURCES[source][measure]
    scale, value = shown.scale or results.score_scale, limit_of(shown, replay, settings)
    fig, ax = viz.figure(7, 3)
    groups = replay.scores(source, shown.measure)
    viz.draw_score_histogram(ax, *groups, value, scale=scale, axis=shown.axis)
    chart = svg.Chart.of(fig, ax)
    drawn = {"chart": svg.data_uri(chart.png, "png"), "hint": said_of(shown, value), "slider": None}
    if value is None:
        return drawn
    (left, _, right, _), (width, _) = chart.frame, chart.size
    position = float(np.clip(viz.SCALES[scale].forward(value), chart.low, chart.high))
    return drawn | {
        "slider": {
            "name": shown.parameter,
            "scale": scale,
            "low": chart.low,
            "high": chart.high,
            "step": (chart.high - chart.low) / 1000,
            "at": position,
            "text": f"{value:.4g}",
            "round_to": shown.step,
            "left": 100 * left / width,
            "right": 100 * (1 - right / width),
        },
    }
