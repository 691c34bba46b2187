# SPDX-License-Identifier: AGPL-3.0-or-later
"""Contact sheets of pairs: thumbnails of both sides, with the score."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from imgfp import store, viz
from imgfp.crops.rule import CORNERS
from imgfp.datatypes import Descriptors, file_of
from imgfp.images import cut_box
from imgfp.results import Results
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


def draw_library_map(library: Library, described: Descriptors) -> Figure:
    """Described references as a map on which similar ones are near each other; members of one group of copies have a
    frame of the same colour."""
    members = store.open_groups(library).members
    number_of = dict(zip(members["image_id"], members["group_id"].factorize()[0], strict=True))
    shown = [number_of.get(file_of(image_id), -1) for image_id in described.image_ids]
    drawn, ax = viz.figure(10, 5)
    viz.draw_map(ax, thumbnails(library, described.image_ids), described.vectors, shown)
    return drawn


def draw_strip(results: Results, query_id: str, references: int = 5) -> Figure:
    """A query, the crops that were cut from it, and the references that score highest, with their scores."""
    boxes = results.crops[results.crops["query_id"] == query_id].drop_duplicates(CORNERS)[CORNERS]
    picture = results.picture("query", query_id)
    found = results.pairs[results.pairs["query_id"] == query_id].head(references)
    images = [picture, *(cut_box(picture, box) for box in boxes.to_numpy(float))]
    titles = [query_id, *(f"crop {number + 1}" for number in range(len(boxes)))]
    for reference_id, score in zip(found["reference_id"], found["score"], strict=True):
        images.append(results.thumbnail("reference", results.images_of(query_id, reference_id)[1]))
        titles.append(f"{reference_id}  {viz.score(score)}")
    drawn, ax = viz.figure(11, 2.2)
    viz.draw_contact_sheet(ax, images, titles, columns=len(images))
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
