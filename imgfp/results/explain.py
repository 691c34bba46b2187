# SPDX-License-Identifier: AGPL-3.0-or-later
"""Explanations of the score of a pair: ablation of branches, contributions of features, overlap."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from imgfp.geometry import corners_of, overlap_of, project
from imgfp.images import DAMAGED
from imgfp.scoring import fusion
from imgfp.stages.verification import homography_of_row


def scores_without(
    rows: pd.DataFrame, reference_id: str, rule: str, model: fusion.Model | None
) -> dict[str, float | None]:
    """A pair's score from "all branches", and "without local" etc. for each branch that proposed it,
    None if no other branch did. rows: of `verification.join_evidence`, all of one query."""
    branches = rows.loc[rows["reference_id"] == reference_id, "branch"].unique()
    if not len(branches):
        return {}
    # Each case poses as a query of its own, so that one call fuses all.
    cases = {"all branches": rows} | {f"without {b}": rows[rows["branch"] != b] for b in branches}
    fused = fusion.merge(
        pd.concat([left.assign(query_id=name) for name, left in cases.items()]), rule, model
    )
    scores = fused[fused["reference_id"] == reference_id].set_index("query_id")["score"].to_dict()
    return {name: scores.get(name) for name in cases}


def contributions(rows: pd.DataFrame, reference_id: str, model: fusion.Model) -> dict[str, float]:
    """What each feature adds to a pair's log-odds, largest first. rows: of
    `verification.join_evidence`, all of one query."""
    parts = fusion.contributions(rows, model)
    parts = parts[parts["reference_id"] == reference_id]
    if not len(parts):
        return {}
    values = parts.iloc[0].drop(["query_id", "reference_id", "base", "score"]).astype(float)
    ordered = values.sort_values(key=abs, ascending=False)
    return dict(zip(ordered.index, ordered.tolist(), strict=True))


def homography_of(evidence: pd.Series | None) -> np.ndarray | None:
    """The homography (3,3), query -> reference pixels, of one row of the evidence table, or None."""
    if evidence is None or "h00" not in evidence:
        return None
    matrix = homography_of_row(evidence)
    return matrix if np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-12 else None


def outlines(
    homography: np.ndarray | None,
    query_size: tuple[int, int],
    reference_size: tuple[int, int],
    box: np.ndarray | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The overlap of two images, as a polygon (k,2) in the pixels of each; None without a homography.

    box: x0, y0, x1, y1 of the part of the query that was compared; None: all of it.
    """
    if homography is None:
        return None, None
    part = corners_of(*query_size)
    if box is not None:
        part = np.asarray(box, float)[[[0, 1], [2, 1], [2, 3], [0, 3]]]
    overlap = overlap_of(part, corners_of(*reference_size), homography)
    if not len(overlap):
        return None, None
    return project(np.linalg.inv(homography), overlap), overlap


def remarks(side: str, notes: str) -> list[str]:
    """What is to be known of the file of one side of a pair, from its notes in the images table: which frame it is,
    and that it is damaged and was decoded in part."""
    frame = re.search(r"\bframe \d+ of [^,]+", notes)
    said = [f"{side}: {frame[0]}"] if frame else []
    return [*said, f"{side}: {DAMAGED}"] if DAMAGED in notes else said
