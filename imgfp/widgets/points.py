# SPDX-License-Identifier: AGPL-3.0-or-later
"""The evidence of all pairs as a scatter plot whose dots open their pairs."""

from __future__ import annotations

from collections import Counter
from functools import partial

import ipywidgets as ipw
import numpy as np
import pandas as pd

from imgfp import viz
from imgfp.datatypes import files_of
from imgfp.results import Results
from imgfp.viz import svg
from imgfp.widgets.base import pane
from imgfp.widgets.inspector import MatchInspector

#: Columns and rows of the cells that can be clicked.
GRID = 30, 12
#: Label of the x and y axis.
AXES = "inliers", "share of blocks that agree"


class EvidenceMap(ipw.VBox):
    """Inliers of every verified pair against the share of blocks that agree, coloured by the pair classifier. A click into the plot
    opens the pairs at that place in the inspector, one after the other.

    The plot is covered by buttons, one per cell that holds a dot, so that it costs the same for any number of pairs and
    is reached by the keyboard.
    """

    _STYLE = """<style>
.imgfp-cell { background: none !important; border: 1px solid transparent; padding: 0 !important; margin: 0 !important; min-width: 0; }
.imgfp-cell:hover, .imgfp-cell:focus { border-color: #1f2933 !important; box-shadow: none !important; }
</style>"""

    def __init__(self, results: Results, inspector: MatchInspector) -> None:
        self._inspector = inspector
        self.said = ipw.Label("A click into the plot opens the pairs there.")
        drawn = pane(grid_area="1 / 1")
        self._points = points = _points(results)
        self.cells: dict[tuple[int, int], ipw.Button] = {}
        self._next: dict[tuple[int, int], int] = {}
        x, y, colour = (
            points[name].to_numpy(float)
            for name in ("inliers", "ncc_inlier_ratio", "copy_probability")
        )
        fig, ax = viz.figure(7.5, 3.6)
        viz.draw_points(ax, x, y, colour, axes=AXES, colour="pair classifier")
        chart = svg.Chart.of(fig, ax)
        drawn.value = self._STYLE + chart.marked()
        to_axes = ax.transData + ax.transAxes.inverted()
        at = to_axes.transform(np.column_stack([x, y])) if len(points) else np.empty((0, 2))
        at = np.clip(at * [1, -1] + [0, 1], 0, 1 - 1e-9)  # rows from the top
        held = Counter((int(column), int(row)) for column, row in (at * GRID).tolist())
        points["column"], points["row"] = (at * GRID).astype(int).T
        for cell, count in sorted(held.items()):
            self.cells[cell] = self._button(cell, count)
        (left, top, right, bottom), (width, height) = chart.frame, chart.size
        # CSS margins in per cent are relative to the width, on all four sides.
        margins = (top, width - right, height - bottom, left)
        above = ipw.GridBox(
            [*self.cells.values()],
            layout=ipw.Layout(
                grid_area="1 / 1",
                grid_template_columns=f"repeat({GRID[0]}, minmax(0, 1fr))",
                grid_template_rows=f"repeat({GRID[1]}, minmax(0, 1fr))",
                margin=" ".join(f"{100 * margin / width:.3f}%" for margin in margins),
            ),
        )
        layout = ipw.Layout(grid_template_columns="100%", max_width="900px")
        plot = ipw.GridBox([drawn, above], layout=layout)
        super().__init__([plot, self.said])

    def _button(self, cell: tuple[int, int], count: int) -> ipw.Button:
        column, row = cell
        one = ipw.Button(
            tooltip=f"{count:,} pair{'s' if count > 1 else ''}",
            layout=ipw.Layout(
                grid_area=f"{row + 1} / {column + 1}", width="auto", height="auto", min_width="0"
            ),
        )
        one.add_class("imgfp-cell")
        one.on_click(partial(self._open, cell))
        return one

    def _open(self, cell: tuple[int, int], _: object) -> None:
        """Show the next pair of a cell, the highest score first."""
        column, line = cell
        rows = self._points[self._points["column"].eq(column) & self._points["row"].eq(line)]
        place = self._next.get(cell, 0) % len(rows)
        self._next[cell] = place + 1
        row = rows.iloc[place]
        ids = row["query_id"], row["reference_id"]
        self._inspector.look_at(*ids)
        self.said.value = (
            f"Pair {place + 1} of {len(rows)} here: {' and '.join(viz.label(one, 50) for one in ids)}, "
            f"score {viz.number(row['score'])}. It is open in the inspector."
        )


def _points(results: Results) -> pd.DataFrame:
    """One row per scored pair that was verified, best first: query_id, reference_id, score, and inliers,
    ncc_inlier_ratio and copy_probability of the view with most inliers."""
    pair = ["query_id", "reference_id"]
    best = results.evidence.assign(reference_id=files_of(results.evidence["reference_id"]))
    best = best.sort_values("inliers", ascending=False, kind="stable").drop_duplicates(pair)
    columns = [*pair, "inliers", "ncc_inlier_ratio", "copy_probability"]
    return results.pairs[[*pair, "score"]].merge(best[columns], on=pair)
