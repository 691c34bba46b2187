# SPDX-License-Identifier: AGPL-3.0-or-later
"""Score thresholds: choice, expected precision and recall, calibration, and drift of the scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class ThresholdCard:
    """The threshold for a target precision: pairs with score >= threshold are kept.

    threshold is None where no threshold reaches the target; precision and recall are then None too.
    precision, recall: of the labelled pairs at this threshold; *_low, *_high: 95 % (or `level`)
    bootstrap interval over queries of either at the same threshold. pairs: labelled pairs;
    positives: copies among all pairs, see `threshold_for_precision`.
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
    """The threshold of highest recall whose precision reaches the target, with bootstrap intervals; of
    several with the same recall the highest, as in `metrics.evaluate`.

    scores (n,): higher is more similar. labels (n,) bool: the pair is a copy. queries (n,): query of
    each pair; all pairs of a query are resampled together (None: each pair on its own). Ties are never
    split. positives: number of copies, including those that were never scored (None: those in
    `labels`); recall is relative to it. Raises ValueError for scores that are not finite and for a
    target outside 0..1.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    if not np.isfinite(scores).all():
        raise ValueError("every score must be finite; remove pairs without a score")
    if not 0 < target_precision <= 1:
        raise ValueError(f"target_precision must be above 0 and at most 1, got {target_precision}")
    total = int(labels.sum()) if positives is None else positives
    nothing = ThresholdCard(target_precision, None, pairs=len(scores), positives=total)
    order = np.argsort(-scores, kind="stable")
    ranked, true = scores[order], np.cumsum(labels[order])
    ties = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)[: len(ranked)]
    reached = [row for row in ties if true[row] > 0 and true[row] >= target_precision * (row + 1)]
    if not reached or not total:
        return nothing
    row = next(row for row in reached if true[row] == true[reached[-1]])
    kept = scores >= ranked[row]
    groups = np.arange(len(scores)) if queries is None else pd.factorize(np.asarray(queries))[0]
    size = groups.max() + 1
    kept_by, true_by, missed_by = (
        np.bincount(groups, weights, minlength=size)
        for weights in (kept, kept & labels, ~kept & labels)
    )
    draws = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=rounds)
    found = draws @ true_by
    # Copies that were never scored belong to no group; they are missed in every round.
    missed = draws @ missed_by + (total - labels.sum())
    with np.errstate(invalid="ignore"):
        precisions, recalls = found / (draws @ kept_by), found / (found + missed)
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
    """Reliability diagram of probabilities: one row per non-empty bin of equal width.

    Columns: low, high (limits of the bin), pairs, predicted (mean score), observed (share of copies),
    observed_low, observed_high (95 % interval of the share: Wilson 1927); predicted and observed are equal
    for a calibrated score. scores (n,), labels (n,) bool. Raises ValueError for scores outside 0..1.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    if len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError(
            "reliability is defined for probabilities: every score must be within 0..1"
        )
    row = np.minimum((scores * bins).astype(int), bins - 1)
    table = pd.DataFrame({"bin": row, "predicted": scores, "observed": labels})
    grouped = table.groupby("bin")
    result = grouped.mean()
    result.insert(0, "pairs", grouped.size())
    result.insert(0, "high", (result.index + 1) / bins)
    result.insert(0, "low", result.index / bins)
    result["observed_low"], result["observed_high"] = wilson(result["observed"], result["pairs"])
    return result.reset_index(drop=True)


def wilson(share: pd.Series, count: pd.Series) -> tuple[pd.Series, pd.Series]:
    """The 95 % interval of a share of `count` trials; unlike the normal one it stays within 0..1."""
    squared = 1.959964**2 / count
    middle = (share + squared / 2) / (1 + squared)
    half = np.sqrt(squared * (share * (1 - share) + squared / 4)) / (1 + squared)
    return middle - half, middle + half


def brier(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared difference of probability and label (Brier 1950); lower is better, NaN for no
    pairs."""
    difference = np.asarray(scores, float) - np.asarray(labels, bool)
    return float((difference**2).mean()) if len(difference) else float("nan")


@dataclass(frozen=True)
class Drift:
    """Difference between the scores of a batch and those that a model was fitted on.

    stability: population stability index over ten bins, NaN for fewer than 50 queries; queries: their
    number; copies: the share of copies, 0..1, by which the scores fit best, NaN where it is not estimated;
    warning: one line, "" for none.
    """

    stability: float
    queries: int
    copies: float
    warning: str


#: Rule of thumb of credit scoring (Siddiqi 2006): under 0.1 no change, over 0.25 a major one.
DRIFT_WARNS = 0.25
_ENOUGH_QUERIES = 50
#: Resamplings of the queries of a batch for an interval, and values that its scores are grouped into for them.
_ROUNDS, _GROUPS = 300, 200


def drift(
    fitted: np.ndarray, batch: np.ndarray, *, copies: float, threshold: float | None = None
) -> Drift:
    """Compare the best scores of a batch's queries with those of the fitted queries.

    fitted: `fusion.Model.scores`; batch (n,): one score per query, probabilities; copies: the share of copies,
    0..1, for which these are probabilities. Ten bins hold a tenth of the fitted scores each (fewer bins where
    scores are equal). Warns above DRIFT_WARNS, with the share of copies that explains the scores best and what
    precision it leaves at `threshold`, both with a 95 % interval, and for fewer than 50 queries. Raises ValueError
    without fitted scores.
    """
    fitted, batch = np.asarray(fitted, float), np.asarray(batch, float)
    if not len(fitted):
        raise ValueError("no fitted scores to compare with; fit the model again")
    if len(batch) < _ENOUGH_QUERIES:
        too_few = f"only {len(batch)} queries: too few to detect a drift of the scores"
        return Drift(float("nan"), len(batch), float("nan"), too_few)
    edges = np.unique(np.quantile(fitted, np.linspace(0.1, 0.9, 9)))
    shares = [
        np.bincount(np.searchsorted(edges, side, side="right"), minlength=len(edges) + 1)
        / len(side)
        for side in (fitted, batch)
    ]
    before, now = (np.maximum(share, 1e-3) for share in shares)
    stability = float(((now - before) * np.log(now / before)).sum())
    if stability <= DRIFT_WARNS:
        return Drift(stability, len(batch), float("nan"), "")
    warning = (
        f"the best scores of these {len(batch)} queries are distributed unlike the fitted "
        f"ones (stability index {stability:.2f}, limit {DRIFT_WARNS}). "
    )
    share, precision = _still_worth(batch, copies, threshold)
    if precision is not None:
        warning += (
            f"They fit best if {_percent(share)} of the queries are copies, in place of {100 * copies:.0f} %; "
            f"then {_percent(precision)} of the queries at {threshold:.2f} or more are, "
            "unless more of them than in the fit resemble references without being copies. "
        )
    return Drift(
        stability,
        len(batch),
        float(share[0]),
        f"{warning}Set expected_copies, or the threshold on reviewed pairs",
    )


def _percent(value: np.ndarray) -> str:
    """A share and its interval (3,), 0..1, in words."""
    share, low, high = np.rint(100 * value).astype(int)
    return f"about {share} % ({low} to {high} %)"


def _still_worth(
    batch: np.ndarray, copies: float, threshold: float | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The share of copies under which probabilities (n,), made for the share `copies`, are most likely, and the share of
    copies among those at the threshold or above, None where there are none; each with its 95 % interval: (3,).

    Expectation maximisation (Saerens et al. 2002, section 2.2), of the batch and of resamplings of it. That a count of
    copies differs from its expectation is part of the second interval.
    """
    ranked = np.sort(batch)
    cut = len(ranked) if threshold is None else int(np.searchsorted(ranked, threshold))
    parts = [
        part
        for side in (ranked[:cut], ranked[cut:])
        for part in np.array_split(side, min(len(side), _GROUPS) or 1)
        if len(part)
    ]
    value, count = (np.array([of(part) for part in parts]) for of in (np.mean, len))
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(batch), count / len(batch), size=_ROUNDS)
    counts = np.concatenate([count[None], drawn])
    share = np.full((len(counts), 1), copies)
    for _ in range(200):
        for_copies, for_others = value * share / copies, (1 - value) * (1 - share) / (1 - copies)
        revised = for_copies / np.maximum(for_copies + for_others, 1e-300)
        before, share = share, (counts * revised).sum(axis=1, keepdims=True) / len(batch)
        share = np.clip(share, 1e-4, 1 - 1e-4)
        if abs(share - before).max() < 1e-5:
            break
    above = np.array([threshold is not None and part[0] >= threshold for part in parts])
    kept = counts[:, above].sum(axis=1)
    if not kept[0]:
        return _with_interval(share[:, 0]), None
    kept = np.maximum(kept, 1)
    precision = np.minimum((counts * revised)[:, above].sum(axis=1) / kept, 1)
    precision[1:] = rng.binomial(kept[1:], precision[1:]) / kept[1:]
    return _with_interval(share[:, 0]), _with_interval(precision)


def _with_interval(values: np.ndarray) -> np.ndarray:
    """The first value, then the limits of the middle 95 % of the others: (3,)."""
    return np.array([values[0], *np.quantile(values[1:], [0.025, 0.975])])
