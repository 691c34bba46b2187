"""Similarities: the maximum over query views, and normalisation by a background."""

from __future__ import annotations

import numpy as np


def best_over_views(
    similarities: np.ndarray, ids: np.ndarray, n_views: int, top_k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge the results of a query's views: each reference keeps its best similarity.

    similarities (q*v,k) float and ids (q*v,k) int64, the views of one query in consecutive rows, -1:
    no result. Returns similarities (q,top_k) float32, best first (ties: lower id first), ids (q,top_k)
    and the view (q,top_k) with that similarity; missing results are -inf, -1, -1.
    """
    if n_views < 1 or len(ids) % n_views:
        raise ValueError(f"{len(ids)} rows of results do not divide into {n_views} views")
    k = ids.shape[1]
    rows = len(ids) // n_views
    scores = np.where(ids < 0, -np.inf, similarities).reshape(rows, n_views * k)
    ids = np.asarray(ids).reshape(rows, n_views * k)
    views = np.repeat(np.arange(n_views), k)
    best = np.full((rows, top_k), -np.inf, np.float32)
    best_ids = np.full((rows, top_k), -1, np.int64)
    best_views = np.full((rows, top_k), -1, np.int64)
    for row in range(rows):
        order = np.lexsort((views, ids[row], -scores[row]))
        order = order[ids[row][order] >= 0]
        _, first = np.unique(ids[row][order], return_index=True)
        order = order[np.sort(first)][:top_k]
        best[row, : len(order)] = scores[row][order]
        best_ids[row, : len(order)] = ids[row][order]
        best_views[row, : len(order)] = views[order]
    return best, best_ids, best_views


def background_similarity(
    queries: np.ndarray, background: np.ndarray, neighbours: int
) -> np.ndarray:
    """Mean similarity (q,) float32 of each query (q,d) to its nearest background vectors (b,d).

    Raises ValueError if the background has fewer vectors than `neighbours`.
    """
    if not 1 <= neighbours <= len(background):
        raise ValueError(
            f"cannot take {neighbours} neighbours from a background of {len(background)} vectors; "
            "give a larger background or fewer neighbours"
        )
    means = np.empty(len(queries), np.float32)
    for start in range(0, len(queries), 1024):
        block = queries[start : start + 1024] @ background.T
        nearest = -np.sort(-np.partition(block, -neighbours)[:, -neighbours:])
        means[start : start + 1024] = nearest.mean(axis=1)
    return means


def normalise_scores(similarities: np.ndarray, background_means: np.ndarray) -> np.ndarray:
    """Similarities (q,k) minus each query's `background_similarity` (q,), so that a query which is
    similar to many images has no advantage (Pizzi et al. 2022, section 4.3). Higher is more alike."""
    return (similarities - np.asarray(background_means)[:, None]).astype(np.float32)
