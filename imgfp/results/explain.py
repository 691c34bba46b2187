"""Why a pair has the score it has: pure functions of one query's rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from imgfp.geometry import corners_of, overlap_of, project
from imgfp.scoring import fusion

_MAP = [f"h{row}{column}" for row in range(3) for column in range(3)]
_KEYS = ["query_id", "view_id", "reference_id"]


def joined(candidates: pd.DataFrame, evidence: pd.DataFrame) -> pd.DataFrame:
    """Candidates, one row a (view, reference, branch), each with its evidence, as fusion reads them."""
    # Both say `mirrored`: how it was searched, and what the map does. Fusion reads the latter.
    proposed = candidates.drop(columns="mirrored")
    new = [name for name in evidence.columns if name not in proposed.columns]
    return proposed.merge(evidence[[*_KEYS, *new]], on=_KEYS, how="left")


def scores_without(
    rows: pd.DataFrame, reference_id: str, rule: str, model: fusion.Model | None
) -> dict[str, float | None]:
    """A pair's score from "all branches", and "without local" and so on for each that proposed it (None
    where no other branch did); rows: of `joined`, all of one query."""
    branches = rows.loc[rows["reference_id"] == reference_id, "branch"].unique()
    if not len(branches):
        return {}
    # One query a case, so that all cases are fused at once.
    cases = {"all branches": rows} | {f"without {b}": rows[rows["branch"] != b] for b in branches}
    fused = fusion.merge(
        pd.concat([left.assign(query_id=name) for name, left in cases.items()]), rule, model
    )
    found = fused[fused["reference_id"] == reference_id].set_index("query_id")["score"].to_dict()
    return {name: found.get(name) for name in cases}


def contributions(rows: pd.DataFrame, reference_id: str, model: fusion.Model) -> dict[str, float]:
    """What each feature adds to a pair's log-odds, largest first; rows: of `joined`, all of one query."""
    parts = fusion.contributions(rows, model)
    parts = parts[parts["reference_id"] == reference_id]
    if not len(parts):
        return {}
    named = parts.iloc[0].drop(["query_id", "reference_id", "base", "score"]).astype(float)
    return named.sort_values(key=abs, ascending=False).to_dict()


def homography_of(evidence: pd.Series | None) -> np.ndarray | None:
    """The map (3,3) query -> reference pixels of one row of the evidence table; None where it has none."""
    if evidence is None or "h00" not in evidence:
        return None
    matrix = evidence[_MAP].to_numpy(float).reshape(3, 3)
    return matrix if np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-12 else None


def outlines(
    homography: np.ndarray | None,
    query_size: tuple[int, int],
    reference_size: tuple[int, int],
    box: np.ndarray | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What two pictures share, as a closed outline (k,2) in the pixels of each; None without a map.

    box: x0, y0, x1, y1 of the part of the query that was compared; None: all of it.
    """
    if homography is None:
        return None, None
    part = corners_of(*query_size)
    if box is not None:
        part = np.asarray(box, float)[[[0, 1], [2, 1], [2, 3], [0, 3]]]
    shared = overlap_of(part, corners_of(*reference_size), homography)
    if not len(shared):
        return None, None
    return project(np.linalg.inv(homography), shared), shared
