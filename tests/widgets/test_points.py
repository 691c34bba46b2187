# SPDX-License-Identifier: AGPL-3.0-or-later
from imgfp import widgets


def test_a_click_opens_the_pairs_of_that_place_one_after_the_other(results):
    inspector = widgets.MatchInspector(results)
    points = widgets.EvidenceMap(results, inspector)
    held = points._points.assign(
        cell=[*zip(points._points["column"], points._points["row"], strict=True)]
    )
    assert sum(int(cell.tooltip.split()[0]) for cell in points.cells.values()) == len(held) > 0
    # Copies are high and to the right: the best pair's cell is right of and above that of the worst.
    best, worst = (held.iloc[row]["cell"] for row in (0, -1))
    assert best[0] > worst[0] and best[1] < worst[1]
    cell = held["cell"].mode().iloc[0]
    rows = held[held["cell"] == cell]
    for row in (*rows.itertuples(), next(rows.itertuples())):  # around the end
        points.cells[cell].click()
        assert inspector._key == (row.query_id, row.reference_id)
        assert f"score {row.score:.4g}"[:8] in points.said.value


def test_cells_lie_over_their_dots(results):
    """The button over a dot is in the column and row of the grid that the axes of the plot have there."""
    points = widgets.EvidenceMap(results, widgets.MatchInspector(results))
    row = points._points.iloc[0]
    column, line = row["column"], row["row"]
    assert points.cells[column, line].layout.grid_area == f"{line + 1} / {column + 1}"
    # 12 rows from the top over a share of blocks of 0 to about 1.
    assert abs((1 - (line + 0.5) / 12) - row["ncc_inlier_ratio"]) < 0.15
