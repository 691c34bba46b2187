# SPDX-License-Identifier: AGPL-3.0-or-later
"""Score fusion: one score per pair from the evidence of all branches, as a sum or as a probability.

The evidence table has one row per view of a query (whole image or crop), reference and branch:
query_id, reference_id, branch, score (of the branch: votes or cosine), mean_squared_distance (of
descriptors in the global branch) and the columns of `imgfp.verify.evidence`. Scores: higher is more
similar.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imgfp.inference import SHIPPED, same_model

_PAIR = ["query_id", "reference_id"]
_SHIPPED_MODEL = SHIPPED / "fusion.json"
_FORMAT = "imgfp fusion 1"

#: Mean difference of the aligned colours, grey levels, from which a pair with too little structure to tell shows no
#: copy, and the highest score of such a pair. Of flat drawings copies had up to 5, others 11 and more, while the pair
#: classifier, which sees no colours, gave both 0.98.
COLOURS_DIFFER, MOST_IN_DOUBT = 10.0, 0.2
#: Probability of a copy that the pair classifier gives, and shares of the correlating blocks that do best undisplaced, below
#: which both tell another photograph: with displaced blocks at twice the scale, and without. What they hold back of neighbours
#: in a burst and of copies: docs/results.md.
ANOTHER_PHOTOGRAPH, STABLE, STABLE_ALONE = 0.5, 0.9, 0.6
#: Share of the inliers that other references have too, from which they lie in a form, a letterhead or a watermark, and
#: share of the blocks at full resolution from which two pictures with the same form have other contents. Receipts of one
#: shop differed in 0.11 and more, copies of them in none.
SHARED, OTHER_CONTENT = 0.4, 0.08
#: Blocks that differ outside the parts that other references share, and their share of these and the agreeing ones, from
#: which what is there is something else: by itself, for an edit that lays stripes or a text over a copy reaches 0.66, or
#: where some of it is rewritten as well.
_UNSHARED_BLOCKS, _UNSHARED_DIFFER, _UNSHARED_REWRITTEN = 12, 0.75, 0.35
#: Share of rewritten blocks, of these and the agreeing ones, and their number, from which a form has other contents: where
#: other references are known to share it, and where none is.
_REWRITTEN_OF_FORM, _REWRITTEN_ALONE = (0.03, 15), (0.06, 20)
#: Share of exact inliers of a form that nothing else is known to share; a bent or blurred copy has less.
_EXACT = 0.6
#: Inliers of a pair, in one view, that may lie in such a form.
FORM_INLIERS = 20

#: Cells of the query that a pair must explain, of 49, to have a part of its own there: fewer correlate by chance.
OWN_CELLS = 4
#: Strength of a pair that unrelated pictures reach, too. It tells how far a query is from any other reference, so it
#: counts wherever it lies.
BY_CHANCE = 0.5

#: Columns of numbers that the evidence of every version has.
REQUIRED = (
    "inliers", "guided_inliers", "exact_inliers", "distinct_inliers", "inlier_ratio", "consistency",
    "reprojection_error_px", "angle_error_deg", "tilt_deg", "shear_deg", "perspective",
    "ncc_inlier_ratio", "ncc_chance", "ncc_best_rectangle", "ncc_fine", "ncc_edges", "ncc_stable",
    "ncc_p80", "ncc_inlier_blocks", "aligned_blocks", "localisable_blocks", "displaced_blocks",
    "model_consistency", "copy_probability", "query_area", "reference_area",
)  # fmt: skip

#: Columns of numbers of the evidence that the calibrated score reads.
EVIDENCE = (
    *REQUIRED, "colour_difference", "compared_blocks", "differing_blocks", "shared_inliers", "shared_by",
    "unchanged_blocks", "rewritten_blocks", "unshared_unchanged", "unshared_differing", "drawn", "explained_cells",
)  # fmt: skip

#: Features of the calibrated score. Each rises with the similarity of the pair and is about 0..1.
FEATURES: dict[str, str] = {
    "inliers": "inlier matches of the homography, as log(1 + n) / log(201), at most 1",
    "inlier_ratio": "inliers / putative matches inside the overlap",
    "consistency": "ratio-test matches inside the overlap: within 1.5 frame px / (1 + all)",
    "exactness": "exp(-median reprojection error / 1 px) of the inliers; 0 without inliers",
    "alignment": "exp(-median angle error / 5 degrees) of the inliers; 0 without inliers",
    "uprightness": "exp(-tilt / 1 degree) times trust: sides stay parallel, as after most edits",
    "rigidity": "exp(-shear / 1 degree) / (1 + 20 perspective) times trust: no second camera",
    "ncc_excess": "block NCC inlier ratio of the overlap, less its chance level",
    "ncc_rectangle_excess": "block NCC inlier ratio of the best rectangle; less for few blocks",
    "ncc_fine": "block NCC inlier ratio of fine detail",
    "ncc_edges": "block NCC inlier ratio of edges, less its chance level",
    "stability": "of blocks that correlate nearby, the share that does best undisplaced: no parallax",
    "extent": "NCC inlier blocks, as log(1 + n) / log(201), at most 1",
    "stable_extent": "stability times extent: a large part of the image, and not displaced",
    "sharpness": "80th percentile of the block NCC",
    "undisplaced": "1 - displaced blocks / localisable blocks",
    "copy_probability": "classifier log-odds, clipped to [-6, 6] and scaled to 0..1; 0 if it did not run",
    "second_view": "ncc_excess of the second best view of the query with this reference",
    "margin": "stable NCC excess plus exact inliers, less that of the best other in the same pixels, -2..2",
    "query_area": "share of the query that the overlap covers",
    "reference_area": "share of the reference that the overlap covers",
    "votes": "keypoint votes in the search, whole query or crop, as log(1 + n) / log(201), at most 1",
    "confirmation": "1 - votes (1 - stability): low for votes that stable pixels do not confirm",
    "likeness": "cosine of the global descriptors, scaled: query's last candidate 0, identical 1",
}
#: Former names of features -> names of today, for files that an older version wrote.
RENAMED_FEATURES = {
    "agreement": "ncc_excess",
    "pasted_agreement": "ncc_rectangle_excess",
    "fine_agreement": "ncc_fine",
    "edge_agreement": "ncc_edges",
    "steadiness": "stability",
    "steady_extent": "stable_extent",
    "unmoved": "undisplaced",
    "judged": "copy_probability",
}


@dataclass(frozen=True)
class Model:
    """A logistic regression over FEATURES, stored as JSON.

    weights: feature -> weight, none below 0; intercept; neutral: feature -> the value that
    contributes nothing and replaces a missing one; scores: 101 quantiles of the best score of each
    fitted query, for `thresholds.drift`; origin: what it was fitted on, in words and counts, with `descriptor`, the
    identity of the model whose vectors it knows, and `holds_for`, those of others for which its scores were measured (`imgfp.descriptors.base.Model`).
    """

    weights: Mapping[str, float]
    intercept: float
    neutral: Mapping[str, float]
    scores: tuple[float, ...]
    origin: Mapping[str, object]


def merge(evidence: pd.DataFrame, rule: str, model: Model | None = None) -> pd.DataFrame:
    """Predictions according to `rule`: "sum" or "calibrated", see `seed_sum` and `calibrated`.

    model: for "calibrated"; None: the shipped one. Raises ValueError for another rule.
    """
    if rule == "sum":
        return seed_sum(evidence)
    if rule == "calibrated":
        return calibrated(evidence, model or load_model())
    raise ValueError(f"fusion rule {rule!r}: expected 'sum' or 'calibrated'")


def seed_sum(evidence: pd.DataFrame) -> pd.DataFrame:
    """The rule of the 2021 system: `matches` of the same pair summed over its branches. evidence: of the candidates that
    a branch's own rule lets through, and of no others.

    Returns query_id, reference_id, score, best first; pairs without evidence are left out.
    """
    known = evidence.dropna(subset=["matches"])
    return _predictions(known.groupby(_PAIR)["matches"].sum().rename("score").reset_index())


def calibrated(evidence: pd.DataFrame, model: Model) -> pd.DataFrame:
    """Probability (0..1) of `model` that each pair is a copy: query_id, reference_id, score, best first.

    A pair of identical files has 1. The probability holds for queries like those of the fit, with the same share
    of copies or the one given to `load_model`. Elsewhere the ranking is still valid, but the threshold must be set
    again. Pairs without evidence are left out.
    """
    table, score = _scored(evidence, model)
    return _predictions(table[_PAIR].assign(score=score))


def _scored(evidence: pd.DataFrame, model: Model) -> tuple[pd.DataFrame, np.ndarray]:
    """The features of this evidence, and the score (n,) of each of their pairs."""
    pairs = _Pairs.of(evidence)
    table = _features(evidence, pairs)
    score = _probability(_logit(table, model))

    def with_a_row(rows: pd.Series) -> np.ndarray:
        return pairs.with_a_row(rows.to_numpy(bool))[table.index.to_numpy()]

    in_doubt = _tell_another_photograph(evidence, pairs)[table.index.to_numpy()]
    if "colour_difference" in evidence:  # tables of older versions have none
        difference = evidence["colour_difference"]
        tells = evidence["exact_inliers"].gt(0) | evidence["localisable_blocks"].gt(0)
        tells |= difference.lt(COLOURS_DIFFER)
        in_doubt |= with_a_row(difference.ge(COLOURS_DIFFER)) & ~with_a_row(tells)
    if "compared_blocks" in evidence:
        in_doubt |= with_a_row(have_other_content(evidence))
    score = np.where(in_doubt, np.minimum(score, MOST_IN_DOUBT), score)
    if "identical" in evidence:
        score = np.where(with_a_row(evidence["identical"].eq(True)), 1.0, score)
    return table, score


def shows_another_photograph(evidence: pd.DataFrame | pd.Series) -> Any:
    """Which rows of evidence, or whether one row, the pair classifier and displaced blocks tell to be another photograph:
    bool."""
    stable = evidence["ncc_stable"]
    displaced = (stable < STABLE) & (evidence["displaced_blocks"] > 0) | (stable < STABLE_ALONE)
    return (evidence["copy_probability"] < ANOTHER_PHOTOGRAPH) & displaced


def _tell_another_photograph(evidence: pd.DataFrame, pairs: _Pairs) -> np.ndarray:
    """Which pairs show another photograph of the reference's scene: (p,) bool. The pair classifier tells it in every view in
    which it ran, and there the blocks that correlate do so displaced."""
    ran = evidence["copy_probability"].gt(0) & evidence["refused"].fillna("").eq("")
    against = ran & shows_another_photograph(evidence)
    tell, deny = (pairs.with_a_row(rows.to_numpy(bool)) for rows in (against, ran & ~against))
    return tell & ~deny


def have_other_content(evidence: pd.DataFrame) -> pd.Series:
    """Which rows of evidence, of all pairs of their queries, show the same form as the reference with other content: bool.

    The inliers of the row lie in parts that the library has marked as shared, and at full resolution blocks outside these
    differ: nearly all, or many of which some are rewritten. Or there are no such marks, but somewhere in the query other references share the inliers of a pair, and
    more than `OTHER_CONTENT` of all blocks of the row differ. Or what differs has the ground and the contrast of what the
    reference shows there, whoever shares the form. This holds in every view that was compared.
    """
    compared = evidence["compared_blocks"].gt(0).to_numpy()
    if not compared.any():
        return pd.Series(False, evidence.index)
    known = evidence.reindex(columns=EVIDENCE, fill_value=0)  # older versions have fewer
    pairs = _Pairs.of(evidence)
    marked = lie_in_shared_parts(known)
    shared = known["inliers"].ge(FORM_INLIERS)
    shared &= marked | (evidence["distinct_inliers"] < (1 - SHARED) * known["inliers"])
    of_form = np.zeros(pairs.query.max() + 1, bool)
    of_form[pairs.query[pairs.of_row[shared.to_numpy()]]] = True
    differ = known["differing_blocks"] > OTHER_CONTENT * known["compared_blocks"]
    rest = known["unshared_differing"]
    rest_share = rest / (rest + known["unshared_unchanged"]).clip(lower=1)
    rest_differs = rest.ge(_UNSHARED_BLOCKS) & rest_share.gt(_UNSHARED_DIFFER)
    rest_differs |= rest_share.gt(_UNSHARED_REWRITTEN) & _have_rewritten(known, _REWRITTEN_OF_FORM)
    differ &= of_form[pairs.query][pairs.of_row]
    other = rest_differs.where(marked, differ) | are_rewritten(known)
    held = pairs.with_a_row(compared & other.to_numpy())
    held &= ~pairs.with_a_row(compared & ~other.to_numpy())
    return pd.Series(held[pairs.of_row], evidence.index)


def are_rewritten(evidence: Any) -> Any:
    """Whether a row of evidence, or which rows, show a form with other contents by themselves: what differs from a page, a
    screen or a drawing has the ground and the contrast of what that shows there. Bool."""
    return are_exact(evidence) & _have_rewritten(evidence, _REWRITTEN_ALONE)


def are_exact(evidence: Any) -> Any:
    """Whether most inliers of a row of evidence, or of which rows, are exact, as in a form or a logo that two pictures share
    and not between two kinds of print that resemble each other: bool."""
    return evidence["exact_inliers"] >= _EXACT * evidence["inliers"]


def _have_rewritten(evidence: Any, least: tuple[float, int]) -> Any:
    """Whether a row of evidence, or which rows, of a drawn reference have this share and this number of rewritten blocks."""
    share, number = least
    rewritten = evidence["rewritten_blocks"]
    both = rewritten + evidence["unchanged_blocks"]
    return (evidence["drawn"] == 1) & (rewritten >= number) & (rewritten > share * both)


def lie_in_shared_parts(evidence: Any) -> Any:
    """Whether the inliers of a row of evidence, or of which rows, lie in parts that other references share: bool."""
    shared = evidence["shared_inliers"]
    return (shared > 0) & (shared >= SHARED * evidence["inliers"])


def are_always_compared(evidence: Any) -> Any:
    """Whether a row of evidence with `FORM_INLIERS`, or which rows, are compared at full resolution though no other reference
    matches its view: bool."""
    return (evidence["drawn"] == 1) | lie_in_shared_parts(evidence)


def lacks_structure(evidence: pd.DataFrame | pd.Series) -> Any:
    """Which rows of evidence, or whether one row, had neither an exact inlier nor a localisable block to tell, only
    colours: bool."""
    nothing = (evidence["exact_inliers"] == 0) & (evidence["localisable_blocks"] == 0)
    return nothing & pd.notna(evidence["colour_difference"])


def _predictions(table: pd.DataFrame) -> pd.DataFrame:
    """The table, which is in the order of the ids, best first."""
    scored = table[[*_PAIR, "score"]].astype({"score": "float64"})
    order = np.argsort(-scored["score"].to_numpy(), kind="stable")
    return scored.iloc[order].reset_index(drop=True)


@dataclass(frozen=True)
class _Pairs:
    """The pairs of a table of evidence by number, in the order of their ids.

    ids: query_id, reference_id of each; query (p,) int64: number of its query, in order; of_row (n,) int64: the pair of
    each row of the table.
    """

    ids: pd.DataFrame
    query: np.ndarray
    of_row: np.ndarray

    @classmethod
    def of(cls, evidence: pd.DataFrame) -> _Pairs:
        (query, queries), (reference, references) = (
            pd.factorize(evidence[name], sort=True) for name in _PAIR
        )
        count = max(len(references), 1)
        keys, of_row = np.unique(query * count + reference, return_inverse=True)
        ids = {"query_id": queries[keys // count], "reference_id": references[keys % count]}
        return cls(pd.DataFrame(ids), keys // count, of_row)

    def with_a_row(self, chosen: np.ndarray) -> np.ndarray:
        """Which pairs have a row among those chosen (n,) bool: (p,) bool."""
        pairs = np.zeros(len(self.query), bool)
        pairs[self.of_row[chosen]] = True
        return pairs


def features(evidence: pd.DataFrame) -> pd.DataFrame:
    """One row per pair, ordered by the ids: query_id, reference_id, then FEATURES as float64.

    The features of a pair are those of its view with the strongest evidence; votes and likeness of a
    branch that did not propose the pair are 0.
    """
    return _features(evidence, _Pairs.of(evidence)).reset_index(drop=True)


def _features(evidence: pd.DataFrame, pairs: _Pairs) -> pd.DataFrame:
    """`features`; the index is the number of the pair."""
    verified = evidence["inliers"].notna().to_numpy()
    rows = _row_features(evidence[verified])
    pair = pairs.of_row[verified]
    # The rows of each pair, strongest first.
    order = np.lexsort((-rows["strength"], pair))
    numbers, first, counts = np.unique(pair[order], return_index=True, return_counts=True)
    best = order[first]
    table = {name: values[best] for name, values in rows.items()}
    # Branches that share a view repeat its evidence; a repetition is not a second view.
    strongest = np.repeat(best, counts)
    another = np.zeros(len(order), bool)
    for name in ("ncc_excess", "inliers"):
        another |= rows[name][order] != rows[name][strongest]
    seconds, at = np.unique(pair[order[another]], return_index=True)
    table["second_view"] = np.zeros(len(numbers))
    table["second_view"][np.searchsorted(numbers, seconds)] = rows["ncc_excess"][order[another]][at]
    table["votes"] = _votes(evidence, pairs, verified)[numbers]
    table["confirmation"] = 1 - table["votes"] * (1 - table["stability"])
    table["likeness"] = _likeness(evidence, pairs)[numbers]
    cells = np.zeros(len(rows["strength"]), np.int64)
    if "explained_cells" in evidence:  # tables of older versions have none
        cells = evidence.loc[verified, "explained_cells"].fillna(0).to_numpy(np.int64)
    other = _best_other(table["strength"], cells[best], pairs.query[numbers])
    table["margin"] = table["strength"] - other
    named = pd.DataFrame({name: table[name] for name in FEATURES}, numbers, dtype="float64")
    return pd.concat([pairs.ids.iloc[numbers], named], axis=1)


def _row_features(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """The features of each verified row (n,) by name, and its `strength`, by which the best view of a pair is chosen."""
    known = {name: rows[name].to_numpy(np.float64) for name in REQUIRED}
    kept = (rows["refused"].fillna("") == "").to_numpy().astype(float)
    placed = kept * (known["inliers"] >= 3)  # fewer determine no homography
    found: dict[str, np.ndarray] = {}
    found["inliers"] = kept * _log_share(
        np.minimum(known["guided_inliers"], 2 * _distinct_inliers(rows))
    )
    found["inlier_ratio"] = placed * known["inlier_ratio"]
    found["consistency"] = placed * known["consistency"]
    found["exactness"] = placed * np.exp(-np.nan_to_num(known["reprojection_error_px"], nan=np.inf))
    found["alignment"] = placed * np.exp(-np.nan_to_num(known["angle_error_deg"], nan=np.inf) / 5)
    # Tilt and shear count only where many blocks are consistent with the homography: a single edge
    # fits many homographies.
    trust = (
        kept * known["model_consistency"] * known["aligned_blocks"] / (known["aligned_blocks"] + 20)
    )
    tilt, shear, perspective = (
        np.nan_to_num(known[name], nan=np.inf) for name in ("tilt_deg", "shear_deg", "perspective")
    )
    found["uprightness"] = trust * np.exp(-tilt)
    found["rigidity"] = trust * np.exp(-shear) / (1 + 20 * perspective)
    found["undisplaced"] = 1 - kept * known["displaced_blocks"] / (known["localisable_blocks"] + 5)
    with np.errstate(divide="ignore"):
        odds = np.log(known["copy_probability"]) - np.log1p(-known["copy_probability"])
    found["copy_probability"] = kept * (np.clip(odds, -6, 6) / 12 + 0.5)
    found["ncc_excess"] = kept * np.clip(known["ncc_inlier_ratio"] - known["ncc_chance"], 0, 1)
    enough = np.minimum(known["ncc_inlier_blocks"] / 20, 1)
    found["ncc_rectangle_excess"] = kept * known["ncc_best_rectangle"] * enough
    found["ncc_fine"] = kept * known["ncc_fine"]
    found["ncc_edges"] = kept * np.clip(known["ncc_edges"], 0, 1)
    found["stability"] = kept * known["ncc_stable"]
    found["extent"] = kept * _log_share(known["ncc_inlier_blocks"])
    found["stable_extent"] = found["stability"] * found["extent"]
    found["query_area"] = kept * known["query_area"]
    found["reference_area"] = kept * known["reference_area"]
    found["sharpness"] = kept * known["ncc_p80"]
    exact = placed * _log_share(known["exact_inliers"])
    found["strength"] = found["ncc_excess"] * found["stability"] + exact
    return found


def _distinct_inliers(rows: pd.DataFrame) -> np.ndarray:
    """`distinct_inliers` (n,), where those in a part that k other references share count 1/(1 + k) at most."""
    distinct, inliers = (
        rows[name].to_numpy(np.float64) for name in ("distinct_inliers", "inliers")
    )
    marks = rows.reindex(columns=["shared_inliers", "shared_by"], fill_value=0).fillna(0)
    shared, by = marks.to_numpy(np.float64).T
    return np.minimum(distinct, inliers - shared * by / (1 + by))


def _numbers(column: pd.Series) -> np.ndarray:
    """A column in its own precision; one without rows may have no type."""
    return column.to_numpy() if column.dtype != object else column.to_numpy(np.float64)


def _log_share(count: np.ndarray) -> np.ndarray:
    """Counts as log(1 + n) / log(201), at most 1."""
    return np.minimum(np.log1p(count) / math.log(201), 1)


def _votes(evidence: pd.DataFrame, pairs: _Pairs, verified: np.ndarray) -> np.ndarray:
    """The most votes of each pair (p,) in the verified views (n,) bool, as `_log_share`; 0 where it has none."""
    voted = evidence["branch"].isin(["local", "crop"]).to_numpy() & verified
    score = _numbers(evidence["score"])
    most = np.zeros(len(pairs.query), score.dtype)
    np.maximum.at(most, pairs.of_row[voted], np.nan_to_num(score[voted]))
    return _log_share(most)


def _likeness(evidence: pd.DataFrame, pairs: _Pairs) -> np.ndarray:
    """The cosine of each pair (p,), scaled so that the query's last candidate, verified or not, has 0 and an identical
    vector 1; 0 for a pair that the branch did not propose.

    The scale makes descriptors comparable: they differ in the similarity of unrelated images, and so
    do their last candidates.
    """
    distance = _numbers(evidence["mean_squared_distance"])
    proposed = np.flatnonzero((evidence["branch"] == "global").to_numpy() & ~np.isnan(distance))
    cosine, pair = 1 - distance[proposed] / 2, pairs.of_row[proposed]
    query = pairs.query[pair]
    last = np.full(len(pairs.query), np.inf, cosine.dtype)
    np.minimum.at(last, query, cosine)
    lead = (cosine - last[query]) / np.maximum(1 - last[query], 1e-6)
    likeness = np.zeros(len(pairs.query), lead.dtype)
    np.maximum.at(likeness, pair, lead)
    return likeness


def _best_other(strength: np.ndarray, cells: np.ndarray, query: np.ndarray) -> np.ndarray:
    """For each pair, the highest strength among its query's other pairs (n,), 0 without any; query (n,) ascending.

    cells (n,) int64: of the query, those that each pair explains. References compete for the same pixels only: the
    strength of another counts with the share of the pair's cells that it explains too. It counts in full where these
    are fewer than `OWN_CELLS`, and up to `BY_CHANCE` anyway.
    """
    other = np.zeros_like(strength)
    _, first, counts = np.unique(query, return_index=True, return_counts=True)
    for start, stop in zip(first, first + counts, strict=True):
        own = cells[start:stop]
        size = np.bitwise_count(own)[:, None]
        shared = np.bitwise_count(own[:, None] & own) / np.maximum(size, 1)
        whole = strength[start:stop]
        apart = np.maximum(shared * whole, np.minimum(whole, BY_CHANCE))
        against = np.where(size >= OWN_CELLS, apart, whole)
        np.fill_diagonal(against, 0)
        other[start:stop] = against.max(axis=1)
    return other


def _filled(table: pd.DataFrame, model: Model) -> pd.DataFrame:
    return table[list(model.weights)].fillna(dict(model.neutral))


def _logit(table: pd.DataFrame, model: Model) -> np.ndarray:
    weights = np.array(list(model.weights.values()))
    return _filled(table, model).to_numpy(np.float64) @ weights + model.intercept


def _probability(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def contributions(evidence: pd.DataFrame, model: Model) -> pd.DataFrame:
    """Contribution of each feature to the log-odds of each pair, relative to its neutral value.

    Columns: query_id, reference_id, one per feature, base (the log-odds of an all-neutral pair) and
    score. The features and the base sum to the log-odds of the score, except of identical files and of pairs that are held
    back: too little structure to tell, other content in a form, another photograph.
    """
    table, score = _scored(evidence, model)
    table = table.reset_index(drop=True)
    weights = pd.Series(dict(model.weights))
    neutral = pd.Series(dict(model.neutral))[weights.index]
    parts = (_filled(table, model) - neutral) * weights
    parts["base"] = model.intercept + float(neutral.to_numpy() @ weights.to_numpy())
    return pd.concat([table[_PAIR], parts, pd.Series(score, table.index, name="score")], axis=1)


def fit(evidence: pd.DataFrame, labels: pd.DataFrame, seed: int = 0, **origin: object) -> Model:
    """Fit the calibrated score on labelled pairs.

    evidence: see the module. labels: query_id, reference_id, label (bool: is a copy), one row per
    pair; pairs without a label are not used. origin: words or counts to keep with the model.
    The pairs come from `training.calibration` or from reviewed decisions, never from the truth that
    a run is then measured on. Constant features and those with a negative weight are left out.
    Raises ValueError without pairs of both classes.
    """
    from sklearn.linear_model import LogisticRegression

    table = features(evidence).merge(labels[[*_PAIR, "label"]], on=_PAIR, validate="one_to_one")
    label = table["label"].to_numpy(bool)
    if label.all() or not label.any():
        raise ValueError(
            f"{label.sum()} of {len(label)} labelled pairs are copies; "
            "fitting needs both copies and negatives"
        )
    neutral = table[list(FEATURES)].median()
    # Half way between copies and negatives is evidence neither for nor against a copy.
    middle = (table[label][list(FEATURES)].median() + table[~label][list(FEATURES)].median()) / 2
    neutral = neutral.where(neutral.isna(), middle)
    used = [name for name in FEATURES if table[name].nunique() > 1]
    while True:
        values = table[used].fillna(neutral)
        model = LogisticRegression(C=1.0, max_iter=2000, random_state=seed)
        weights = pd.Series(model.fit(values, label).coef_[0], index=used)
        if weights.min() >= 0:
            break
        used.remove(str(weights.idxmin()))
    fitted = Model(
        weights={name: round(float(weights[name]), 6) for name in used},
        intercept=round(float(model.intercept_[0]), 6),
        neutral={name: round(float(neutral[name]), 6) for name in used},
        scores=(),
        origin={
            "pairs": len(label),
            "copies": int(label.sum()),
            "queries": int(table["query_id"].nunique()),
            "seed": seed,
            **origin,
        },
    )
    score = pd.Series(_probability(_logit(table, fitted)))
    best = score.groupby(table["query_id"]).max()
    quantiles = tuple(float(q) for q in np.quantile(best, np.linspace(0, 1, 101)).round(6))
    return replace(fitted, scores=quantiles)


def to_json(model: Model) -> str:
    """The model as readable text; its numbers are finite by construction of `fit`."""
    return json.dumps({"format": _FORMAT, **asdict(model)}, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> Model:
    """The model that `to_json` wrote, in this or an older version (see RENAMED_FEATURES). Raises
    ValueError naming what is wrong with it."""
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
        if data.pop("format") != _FORMAT:
            raise KeyError("format")
        for field in ("weights", "neutral"):
            data[field] = {RENAMED_FEATURES.get(n, n): value for n, value in data[field].items()}
        model = Model(**{**data, "scores": tuple(data["scores"])})
        numbers = [*model.weights.values(), model.intercept, *model.neutral.values()]
        known = set(model.weights) <= set(FEATURES) and set(model.weights) == set(model.neutral)
        known &= isinstance(model.origin, dict)
        numeric = all(isinstance(x, (int, float)) for x in [*numbers, *model.scores])
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"not a fusion model ({_FORMAT!r}): {error}; fit one again") from None
    if not (known and numeric):
        raise ValueError(
            f"fusion model: its features must be among {', '.join(FEATURES)}, with numbers for "
            "weights and neutral values, and names in its origin; fit it again"
        )
    return model


def _refuse_constant(name: str) -> float:
    raise ValueError(f"fusion model contains {name} instead of a number; fit it again")


def load_model(path: str = "", descriptor: str = "") -> Model:
    """The model in a JSON file of `to_json`; "": the shipped one.

    descriptor: identity or name of the model that makes the vectors; "": not known. Raises ValueError naming the
    file, also for one that was fitted with another descriptor. Others of which `misfit` tells are loaded.
    """
    file = Path(path or _SHIPPED_MODEL)
    try:
        model = from_json(file.read_text("utf-8"))
        if path and "descriptor" in model.origin and (reason := misfit(model, descriptor)):
            raise ValueError(reason)
    except (OSError, ValueError) as error:
        raise ValueError(f"fusion model {str(file)!r}: {error}") from None
    return model


def misfit(model: Model, descriptor: str) -> str:
    """In one line, that a model does not say that it was fitted with this descriptor, and what to do; else ""."""
    fitted = str(model.origin.get("descriptor", ""))
    measured = model.origin.get("holds_for", [])
    fits = [fitted, *measured] if isinstance(measured, list) else [fitted]
    if not descriptor or any(one and same_model(str(one), descriptor) for one in fits):
        return ""
    return (
        f"it was fitted with vectors of {fitted or 'a descriptor that it does not name'}, and those of this run are of "
        f"{descriptor}: calibrate again (params/calibrate.yaml)"
        + (f", or set descriptor_model: {fitted.split(' ')[0]}" if fitted else "")
    )


def share_of_copies(model: Model) -> float:
    """The share of the queries of the fit that are copies, 0..1; a half where the model does not say."""
    copies, queries = (model.origin.get(name) for name in ("copies", "queries"))
    known = isinstance(copies, int) and isinstance(queries, int) and 0 < copies < queries
    return copies / queries if known else 0.5  # type: ignore[operator]


def with_expected_copies(model: Model, share: float) -> Model:
    """The model for another share of copies, 0..1, among the same kinds of queries; 0: that of its fit.

    The likelihoods stay, so by Bayes' rule the log-odds of all scores move by the difference of the two priors
    (Saerens et al. 2002, Adjusting the outputs of a classifier to new a priori probabilities, section 2.1).
    """
    if not share:
        return model
    move = float(_odds(np.clip(share, 1e-6, 1 - 1e-6)) - _odds(share_of_copies(model)))
    scores = _probability(_odds(np.clip(model.scores, 1e-9, 1 - 1e-9)) + move)
    return replace(
        model, intercept=model.intercept + move, scores=tuple(float(score) for score in scores)
    )


def _odds(probability: np.ndarray | float) -> np.ndarray:
    return np.log(probability) - np.log1p(-np.asarray(probability))
