"""Contact sheets of pairs: thumbnails of both sides, with the score."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from imgfp import viz
from imgfp.stages.inventory import thumbnails
from imgfp.store import Library, Run


def draw_best_and_worst(
    run: Run, library: Library, pairs: pd.DataFrame, unit: str = "", count: int = 3
) -> Figure:
    """The `count` pairs with the highest score, and below them those with the lowest. pairs: query_id,
    reference_id, score; unit: of the score."""
    ranked = pairs.sort_values("score", ascending=False, kind="stable")
    rest = ranked.iloc[count:]
    return draw_pairs(run, library, pd.concat([ranked.head(count), rest.tail(count)]), unit, count)


def draw_pairs(
    run: Run, library: Library, pairs: pd.DataFrame, unit: str = "", columns: int = 3
) -> Figure:
    """Pairs side by side, `columns` in a row, in the order of the table: see `draw_best_and_worst`."""
    rows = max(1, -(-len(pairs) // columns))
    drawn, ax = viz.figure(10, 2.2 * rows)
    images, titles = pair_thumbnails(run, library, pairs), pair_titles(pairs, unit)
    viz.draw_contact_sheet(ax, images, titles, columns=2 * columns)
    return drawn


def pair_thumbnails(run: Run, library: Library, pairs: pd.DataFrame) -> list[np.ndarray]:
    """Thumbnails of query and reference of each pair, in turn."""
    sides = thumbnails(run, pairs["query_id"]), thumbnails(library, pairs["reference_id"])
    return [image for pair in zip(*sides, strict=True) for image in pair]


def change_titles(pairs: pd.DataFrame) -> list[str]:
    """Titles to `pair_thumbnails` of `errors.changes`: the query with both scores, the reference."""
    titles = []
    columns = ["query_id", "reference_id", "score_before", "score_after"]
    for query, reference, *scores in pairs[columns].itertuples(index=False):
        words = ("none" if np.isnan(score) else f"{score:.4g}" for score in scores)
        titles += [f"{query}  {' to '.join(words)}", str(reference)]
    return titles


def pair_titles(pairs: pd.DataFrame, unit: str) -> list[str]:
    """Titles to `pair_thumbnails`: the query with the score, the reference."""
    titles = []
    for query, reference, score in pairs[["query_id", "reference_id", "score"]].itertuples(False):
        titles += [f"{query}  {score:.4g} {unit}".strip(), str(reference)]
    return titles
