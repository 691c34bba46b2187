"""Where to cut a score, what to expect from the cut, and when not to trust it any more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class ThresholdCard:
    """The cut for a target precision: pairs with score >= threshold are kept.

    threshold is None where no cut reaches the target; the other figures are then None too.
    precision, recall: of the labelled pairs at this cut; *_low, *_high: 95 % (or `level`) bootstrap
    interval over queries of what the same cut gives on another sample of as many.
    """

    target_precision: float
    threshold: float | None
    precision: float | None = None
    precision_low: float | None = None
    precision_high: float | None = None
    recall: float | None = None
    recall_low: float | None = None
    recall_high: float | None = None
    pairs: int = 0
    positives: int = 0


def threshold_for_precision(
    scores: np.ndarray,
    labels: np.ndarray,
    target_precision: float = 0.9,
    *,
    queries: np.ndarray | None = None,
    positives: int | None = None,
    rounds: int = 500,
    level: float = 0.95,
    seed: int = 0,
) -> ThresholdCard:
    """The cut of `scores` (n,) with most recall whose precision reaches the target, with intervals; the
    highest of several with the same recall, as in `metrics.evaluate`.

    labels (n,) bool: the pair is a copy. queries (n,): resampled as wholes (None: pairs are). A tie
    is never split. positives: copies there are, found or not (None: those in `labels`); recall is
    of these. Raises ValueError for scores that are not finite and for a target outside 0..1.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    if not np.isfinite(scores).all():
        raise ValueError("every score must be finite: leave pairs without a score out")
    if not 0 < target_precision <= 1:
        raise ValueError(f"target_precision must be above 0 and at most 1, got {target_precision}")
    total = int(labels.sum()) if positives is None else positives
    nothing = ThresholdCard(target_precision, None, pairs=len(scores), positives=total)
    order = np.argsort(-scores, kind="stable")
    ranked, true = scores[order], np.cumsum(labels[order])
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1) if len(ranked) else []
    reached = [row for row in last if true[row] > 0 and true[row] >= target_precision * (row + 1)]
    if not reached or not total:
        return nothing
    row = next(row for row in reached if true[row] == true[reached[-1]])
    kept = scores >= ranked[row]
    groups = np.arange(len(scores)) if queries is None else pd.factorize(np.asarray(queries))[0]
    size = groups.max() + 1
    kept_by, true_by, lost_by = (
        np.bincount(groups, weights, minlength=size)
        for weights in (kept, kept & labels, ~kept & labels)
    )
    draws = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=rounds)
    found = draws @ true_by
    # Copies that were never scored belong to no group here; they are lost in every round.
    lost = draws @ lost_by + (total - labels.sum())
    with np.errstate(invalid="ignore"):
        precisions, recalls = found / (draws @ kept_by), found / (found + lost)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.nanquantile(precisions, tails), np.nanquantile(recalls, tails)
    return ThresholdCard(
        target_precision=target_precision,
        threshold=float(ranked[row]),
        precision=float(true[row] / (row + 1)),
        precision_low=float(low[0]),
        precision_high=float(low[1]),
        recall=float(true[row] / total),
        recall_low=float(high[0]),
        recall_high=float(high[1]),
        pairs=len(scores),
        positives=total,
    )


def reliability(scores: np.ndarray, labels: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Does a probability of 0.8 come true 8 times of 10? One row a filled bin of equal width.

    Columns: low, high (the bin), pairs, predicted (mean score), observed (share of copies).
    scores (n,) must be within 0..1.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    if len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError("reliability is of probabilities: every score must be within 0..1")
    row = np.minimum((scores * bins).astype(int), bins - 1)
    table = pd.DataFrame({"bin": row, "predicted": scores, "observed": labels})
    grouped = table.groupby("bin")
    result = grouped.mean()
    result.insert(0, "pairs", grouped.size())
    result.insert(0, "high", (result.index + 1) / bins)
    result.insert(0, "low", result.index / bins)
    return result.reset_index(drop=True)


def brier(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared difference of probability and truth (Brier 1950); lower is better, NaN for
    none."""
    difference = np.asarray(scores, float) - np.asarray(labels, bool)
    return float((difference**2).mean()) if len(difference) else float("nan")


@dataclass(frozen=True)
class Drift:
    """How far a batch's scores are from those a model was fitted on.

    stability: population stability index over ten bins; warning: one line, "" for none.
    """

    stability: float
    queries: int
    warning: str


#: Rule of thumb of credit scoring (Siddiqi 2006): under 0.1 no change, over 0.25 a major one.
DRIFT_WARNS = 0.25
_ENOUGH_QUERIES = 50


def drift(fitted: np.ndarray, batch: np.ndarray) -> Drift:
    """Compare the best scores of a batch's queries with those of the fitted queries.

    fitted: `fusion.Model.scores`, or the best scores of an earlier batch; batch (n,): one score a
    query. Ten bins hold a tenth of the fitted scores each (fewer where scores are equal). Warns
    above DRIFT_WARNS, and says so where 50 queries are not there to judge by.
    """
    fitted, batch = np.asarray(fitted, float), np.asarray(batch, float)
    if not len(fitted):
        raise ValueError("no fitted scores to compare with: fit the model again")
    if len(batch) < _ENOUGH_QUERIES:
        short = f"only {len(batch)} queries: too few to tell whether the scores have drifted"
        return Drift(float("nan"), len(batch), short)
    edges = np.unique(np.quantile(fitted, np.linspace(0.1, 0.9, 9)))
    shares = [
        np.bincount(np.searchsorted(edges, side, side="right"), minlength=len(edges) + 1)
        / len(side)
        for side in (fitted, batch)
    ]
    before, now = (np.maximum(share, 1e-3) for share in shares)
    stability = float(((now - before) * np.log(now / before)).sum())
    warning = ""
    if stability > DRIFT_WARNS:
        warning = (
            f"the best scores of these {len(batch)} queries are distributed unlike the fitted "
            f"ones (stability index {stability:.2f}, warns above {DRIFT_WARNS}): "
            "set the threshold anew on reviewed pairs"
        )
    return Drift(stability, len(batch), warning)
