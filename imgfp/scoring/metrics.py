# SPDX-License-Identifier: AGPL-3.0-or-later
"""Metrics of a run, and their uncertainty.

Scores: higher is more similar. Ties are counted worst-case everywhere: among equal scores the false
pairs come before the true one, so that a constant score cannot look good. A truth table has one row per
true pair (query_id, reference_id): a query may be made from several references, and one with a blank
`reference_id` has none. Metric definitions follow the image similarity challenge (Douze et al. 2021, "The 2021
Image Similarity Dataset and Challenge"), which counts pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

_PAIR = ["query_id", "reference_id"]


@dataclass(frozen=True)
class Metrics:
    """Metrics of one run, all in 0..1 except the threshold. None: never reached, or nothing to count.

    micro_ap: mean over all true pairs of the precision at their rank in one list of all predictions.
    recall_at_p90: the highest recall of any threshold whose precision reaches `target_precision`
    (0.9); threshold_at_p90 is that threshold: pairs with score >= threshold are kept. recall_at_1,
    recall_at_10: share of the queries with a true reference that have one among their best 1 or 10 predictions.
    candidate_recall: share of true pairs among the candidates of any branch, whatever their score. queries,
    positives: queries and true pairs of the truth.
    """

    micro_ap: float | None
    recall_at_p90: float | None
    threshold_at_p90: float | None
    recall_at_1: float | None
    recall_at_10: float | None
    candidate_recall: float | None
    queries: int
    positives: int
    target_precision: float


def true_pairs(truth: pd.DataFrame) -> pd.DataFrame:
    """The true pairs of a truth table, each once: query_id, reference_id.

    Raises ValueError for a query that is listed with a reference and without one.
    """
    pairs = truth[_PAIR].fillna("").astype(str).drop_duplicates(ignore_index=True)
    blank = pairs["reference_id"] == ""
    both = pairs.loc[blank & pairs["query_id"].isin(pairs.loc[~blank, "query_id"]), "query_id"]
    if len(both):
        raise ValueError(
            f"truth lists query {both.iloc[0]!r} with a reference and with a blank reference_id, which means "
            "that it has none; keep one of the two"
        )
    return pairs[~blank].reset_index(drop=True)


def are_in(pairs: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    """Which of `pairs` (n rows query_id, reference_id) are among `others`: (n,) bool."""
    known = pd.MultiIndex.from_frame(others[_PAIR])
    return np.asarray(pd.MultiIndex.from_frame(pairs[_PAIR]).isin(known), bool)


def rank_predictions(predictions: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """The predictions, best first, false before true among equal scores, with two more columns.

    `is_true` (bool) and `rank` (int, 0 is the best of its query, with the same order of ties).
    Raises ValueError for a score that is not finite, a pair listed twice, or a query missing in the
    truth.
    """
    expected = true_pairs(truth)
    table = predictions[["query_id", "reference_id", "score"]].reset_index(drop=True)
    scores = table["score"].to_numpy(float)
    if not np.isfinite(scores).all():
        bad = table.iloc[int(np.argmin(np.isfinite(scores)))]
        raise ValueError(
            f"score of pair ({bad.query_id!r}, {bad.reference_id!r}) is {bad.score}; "
            "every score must be finite: leave a pair without a score out"
        )
    twice = table.duplicated(["query_id", "reference_id"])
    if twice.any():
        bad = table[twice].iloc[0]
        raise ValueError(
            f"pair ({bad.query_id!r}, {bad.reference_id!r}) is predicted more than once; "
            "merge the branches into one score per pair first"
        )
    unknown = table["query_id"][~table["query_id"].isin(truth["query_id"])].unique()
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} predicted queries are not in the truth, first {list(unknown[:3])}; "
            "add them to the truth or remove their predictions"
        )
    table["is_true"] = are_in(table, expected)
    table["score"] = scores
    table = table.sort_values(
        ["score", "is_true", "query_id", "reference_id"],
        ascending=[False, True, True, True],
        ignore_index=True,
    )
    table["rank"] = table.groupby("query_id", sort=False).cumcount()
    return table


def precision_recall_curve(predictions: pd.DataFrame, truth: pd.DataFrame) -> pd.DataFrame:
    """One row per distinct score, highest first: threshold, kept, true, precision, recall.

    kept: number of pairs with score >= threshold; true: number of true ones among them. Recall is
    relative to all true pairs of the truth; it is NaN when there is none.
    """
    ranked = rank_predictions(predictions, truth)
    positives = len(true_pairs(truth))
    last = _last_of_ties(ranked["score"].to_numpy())
    kept, true = last + 1, np.cumsum(ranked["is_true"].to_numpy())[last]
    return pd.DataFrame(
        {
            "threshold": ranked["score"].to_numpy()[last],
            "kept": kept,
            "true": true,
            "precision": true / kept,
            "recall": true / positives if positives else np.full(len(true), np.nan),
        }
    )


def evaluate(
    predictions: pd.DataFrame,
    truth: pd.DataFrame,
    candidates: pd.DataFrame | None = None,
    target_precision: float = 0.9,
) -> Metrics:
    """Metrics of `predictions` (query_id, reference_id, score) against `truth` (query_id,
    reference_id).

    candidates: pairs that any branch proposed (query_id, reference_id, repeats allowed). Raises the
    errors of `rank_predictions`.
    """
    ranked = rank_predictions(predictions, truth)
    expected = true_pairs(truth)
    positives = len(expected)
    is_true = ranked["is_true"].to_numpy()
    measured = measure(ranked["score"].to_numpy(), is_true, positives, target_precision)

    def found_first(count: int) -> float | None:
        first = ranked[is_true & (ranked["rank"] < count)]
        return first["query_id"].nunique() / expected["query_id"].nunique() if positives else None

    found_by = None
    if positives and candidates is not None:
        found_by = float(are_in(expected, candidates).mean())
    return Metrics(
        micro_ap=measured[0],
        recall_at_p90=measured[1],
        threshold_at_p90=measured[2],
        recall_at_1=found_first(1),
        recall_at_10=found_first(10),
        candidate_recall=found_by,
        queries=truth["query_id"].nunique(),
        positives=positives,
        target_precision=float(target_precision),
    )


def measure(
    scores: np.ndarray, is_true: np.ndarray, positives: int, target_precision: float = 0.9
) -> tuple[float | None, float | None, float | None]:
    """micro_ap, recall_at_p90 and threshold_at_p90, see `Metrics`, of scored pairs in any order: scores (n,), is_true
    (n,) bool; positives: number of true pairs, scored or not."""
    if not positives:
        return None, None, None
    order = np.lexsort((is_true, -scores))
    scores, is_true = scores[order], is_true[order]
    true = np.cumsum(is_true)
    precision = true / np.arange(1, len(true) + 1)
    micro_ap = float(precision[is_true].sum() / positives)
    last = _last_of_ties(scores)
    enough = last[(precision[last] >= target_precision) & (true[last] > 0)]
    if not len(enough):
        return micro_ap, None, None
    best = enough[true[enough].argmax()]
    return micro_ap, float(true[best] / positives), float(scores[best])


def bootstrap(
    predictions: pd.DataFrame,
    truth: pd.DataFrame,
    baseline: pd.DataFrame | None = None,
    *,
    target_precision: float = 0.9,
    rounds: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Percentile intervals of micro_ap and recall_at_p90 by resampling queries (Efron 1979).

    Index: the metric. Columns: value, low, high; with a `baseline` run also baseline, difference,
    difference_low, difference_high and better, the share of rounds in which `predictions` has the
    higher value. Both runs are measured on the same resampled queries, so the difference is paired.
    In a round that never reaches the target precision, recall_at_p90 counts as 0. Raises ValueError
    for a truth without any true pair.
    """
    if true_pairs(truth).empty:
        raise ValueError("the truth has no true pair, so there is nothing to bootstrap")
    runs = [predictions] if baseline is None else [predictions, baseline]
    sortings = [_Sorted.of(run, truth) for run in runs]
    queries = truth["query_id"].nunique()
    rng = np.random.default_rng(seed)
    shares = np.full(queries, 1 / queries)
    rows = max(1, 20_000_000 // max(1, *(len(s.query) for s in sortings), queries))
    samples: list[np.ndarray] = []
    for start in range(0, rounds, rows):
        weights = rng.multinomial(queries, shares, size=min(rows, rounds - start))
        samples.append(np.stack([s.figures(weights, target_precision) for s in sortings]))
    drawn = np.concatenate(samples, axis=1)  # (runs, rounds, metrics)
    once = np.ones((1, queries), np.int64)
    values = np.stack([s.figures(once, target_precision)[0] for s in sortings])
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(drawn[0], tails, axis=0)
    columns = {"value": values[0], "low": low, "high": high}
    if baseline is not None:
        gain = drawn[0] - drawn[1]
        low, high = np.quantile(gain, tails, axis=0)
        columns |= {
            "baseline": values[1],
            "difference": values[0] - values[1],
            "difference_low": low,
            "difference_high": high,
            "better": (gain > 0).mean(axis=0),
        }
    return pd.DataFrame(columns, index=["micro_ap", "recall_at_p90"])


@dataclass(frozen=True)
class _Sorted:
    """Predictions sorted once, so that a bootstrap round only changes the weights of their queries.

    query (n,): row of each prediction's query in the truth; is_true (n,) bool; last (t,): last row of
    each tie; positives (q,): number of true references of each query.
    """

    query: np.ndarray
    is_true: np.ndarray
    last: np.ndarray
    positives: np.ndarray

    @classmethod
    def of(cls, predictions: pd.DataFrame, truth: pd.DataFrame) -> _Sorted:
        ranked = rank_predictions(predictions, truth)
        queries = pd.Index(truth["query_id"].unique())
        positives = true_pairs(truth)["query_id"].value_counts()
        return cls(
            queries.get_indexer(pd.Index(ranked["query_id"])),
            ranked["is_true"].to_numpy(),
            _last_of_ties(ranked["score"].to_numpy()),
            positives.reindex(queries, fill_value=0).to_numpy(),
        )

    def figures(self, weights: np.ndarray, target: float) -> np.ndarray:
        """weights (b,q), how often each query is drawn -> (b,2) micro_ap and recall at `target`."""
        each = weights[:, self.query]
        positives = np.maximum(weights @ self.positives, 1)
        hits = each * self.is_true
        true, kept = np.cumsum(hits, axis=1), np.cumsum(each, axis=1)
        precision = true / np.maximum(kept, 1)
        micro_ap = (hits * precision).sum(axis=1) / positives
        reached = np.where(precision >= target, true, 0)[:, self.last]
        return np.stack([micro_ap, reached.max(axis=1, initial=0) / positives], axis=1)


def _last_of_ties(scores: np.ndarray) -> np.ndarray:
    """Last row of each tie in a sorted array: the rows where a threshold can be set."""
    if not len(scores):
        return np.empty(0, np.int64)
    return np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
