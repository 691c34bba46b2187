# SPDX-License-Identifier: AGPL-3.0-or-later
"""Figures and page of a robustness lab. `labs` are curves by name, of one lab or of two that are drawn over each other:
tables of `results.robustness.curves`, the first of them in solid lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawing

from imgfp import viz
from imgfp.datatypes import BRANCHES
from imgfp.report.figures import embed
from imgfp.results.robustness import ALIGNED, ALL

Labs = Mapping[str, pd.DataFrame]
_COLUMNS = 7
_NAMES = {
    "micro_ap": "micro-AP",
    "recall_at_p90": "recall at target precision",
    "proposed": "copies proposed",
    "found": "copies found",
    "aligned": f"corner error up to {ALIGNED:.0%}",
}


def draw_overall(labs: Labs) -> Drawing:
    """micro-AP, recall at the target precision, copies proposed and regions recovered against strength, all families
    together."""
    fig, axes = viz.figure(12, 3.1, columns=4)
    measures = ("micro_ap", "recall_at_p90", "proposed", "aligned")
    for ax, measure in zip(axes, measures, strict=True):
        bands = {name: _band(curves, ALL, ALL, measure) for name, curves in labs.items()}
        viz.draw_bands(
            ax, bands, axes=("strength", ""), title=_NAMES[measure], legend=len(labs) > 1
        )
    return fig


def draw_branches(labs: Labs) -> Drawing:
    """The first three measures by branch."""
    fig, axes = viz.figure(12, 3.3, columns=3)
    for ax, measure in zip(axes, ("micro_ap", "recall_at_p90", "proposed"), strict=True):
        bands, colours = {}, {}
        for name, curves in labs.items():
            for branch in (ALL, *BRANCHES):
                key = branch if len(labs) == 1 else f"{branch}, {name}"
                bands[key] = _band(curves, ALL, branch, measure)
                colours[key] = viz.BRANCH_COLOURS.get(branch, "#1f2933")
        viz.draw_bands(ax, bands, colours=colours, axes=("strength", ""), title=_NAMES[measure])
    return fig


def draw_families(labs: Labs) -> Drawing:
    """A panel per family: copies proposed and found against strength, the family that is found least first."""
    first = next(iter(labs.values()))
    whole = first[(first["branch"] == ALL) & first["strength"].isna() & (first["family"] != ALL)]
    families = whole.sort_values(["found", "proposed"])["family"].tolist()
    columns = min(_COLUMNS, len(families))
    rows = -(-len(families) // columns)
    fig, axes = viz.figure(1.8 * columns, 0.4 + 1.55 * rows, rows=rows, columns=columns)
    panels = np.atleast_1d(axes).ravel()
    for ax, family in zip(panels, families, strict=False):
        bands, colours = {}, {}
        for measure, colour in (("proposed", viz.CYCLE[5]), ("found", viz.CYCLE[0])):
            for name, curves in labs.items():
                key = measure if len(labs) == 1 else f"{measure}, {name}"
                bands[key] = _band(curves, family, ALL, measure)
                colours[key] = colour
        viz.draw_bands(ax, bands, colours=colours, title=viz.label(family, 24), legend=False)
    for ax in panels[len(families) :]:
        ax.set_axis_off()
    handles, names = panels[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside upper left", ncols=4, frameon=False, fontsize=8)
    fig.supxlabel("strength", fontsize=9)
    return fig


def draw_corners(labs: Labs) -> Drawing:
    """Copies whose region is recovered, by family, over all strengths."""
    first = next(iter(labs.values()))
    whole = first[(first["branch"] == ALL) & first["strength"].isna() & (first["family"] != ALL)]
    whole = whole[whole["aligned"].notna()].sort_values("aligned")
    fig, ax = viz.figure(5.5, 0.8 + 0.17 * len(whole))
    viz.draw_bars(
        ax, whole["family"].tolist(), whole["aligned"].tolist(), number_format="{:.0%}",
        axis=f"share of the copies with a corner error of at most {ALIGNED:.0%} of the diagonal",
    )  # fmt: skip
    return fig


def build(name: str, labs: Labs, fates: pd.DataFrame, summary: str) -> str:
    """The page as HTML text, without scripts and without external resources. fates: of `results.robustness.fates`."""
    texts = {
        draw_overall: "All families together. Bands are 95 % intervals: bootstrap over queries, and Wilson's of shares.",
        draw_branches: "The same by branch: what each would find alone, by the final score.",
        draw_families: "By family, the one that is found least first. Found: at the threshold of the run.",
        draw_corners: "Corner error of the recovered region, as a share of the reference's diagonal, over all strengths.",
    }
    rows = [
        [viz.label(row.edit), row.copies, f"{row.proposed:.2f}", f"{row.found:.2f}", *row[4:]]
        for row in fates.itertuples(index=False)
    ]
    head = [str(column).replace("_", " ") for column in fates.columns]
    note = "Shares of the copies proposed and found, and the number of those that are not found, by cause."
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = Path(__file__).with_name("robustness.html.j2").read_text("utf-8")
    return environment.from_string(page).render(
        name=viz.label(name),
        summary=summary,
        figures=[embed(draw(labs), text) for draw, text in texts.items()],
        tables=[{"title": "What became of the copies", "note": note, "head": head, "rows": rows}],
    )


def _band(
    curves: pd.DataFrame, family: str, branch: str, measure: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Strengths, values and limits of one curve."""
    chosen = curves[(curves["family"] == family) & (curves["branch"] == branch)]
    chosen = chosen[chosen["strength"].notna()].sort_values("strength")
    columns = ["strength", measure, f"{measure}_low", f"{measure}_high"]
    x, value, low, high = chosen[columns].to_numpy(float).T
    return x, value, low, high
