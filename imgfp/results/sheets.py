"""Contact sheets of pairs: thumbnails and their titles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from imgfp.stages.inventory import thumbnails


def pair_thumbnails(run: Path, library: Path, pairs: pd.DataFrame) -> list[np.ndarray]:
    """Thumbnails of query and reference of each pair, in turn."""
    sides = thumbnails(run, pairs["query_id"]), thumbnails(library, pairs["reference_id"])
    return [image for pair in zip(*sides, strict=True) for image in pair]


def change_titles(pairs: pd.DataFrame) -> list[str]:
    """Titles to `pair_thumbnails` of `errors.changes`: the query with both scores, the reference."""
    titles = []
    for row in pairs.itertuples():
        scores = (
            "none" if np.isnan(score) else f"{score:.4g}"
            for score in (row.score_before, row.score_after)
        )
        titles += [f"{row.query_id}  {' to '.join(scores)}", str(row.reference_id)]
    return titles


def pair_titles(pairs: pd.DataFrame, unit: str) -> list[str]:
    """Titles to `pair_thumbnails`: the query with the score, the reference."""
    titles = []
    for query, reference, score in pairs[["query_id", "reference_id", "score"]].itertuples(False):
        titles += [f"{query}  {score:.4g} {unit}".strip(), str(reference)]
    return titles
