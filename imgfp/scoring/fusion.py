"""One score a pair out of the evidence of all branches: the seed's sum, or a calibrated
probability.

The evidence table has one row for every view of a query (whole, or a crop), reference and branch:
query_id, reference_id, branch, what the branch said of it (`score`, its votes, and
`mean_squared_distance`, of vectors in the global branch) and the columns of `imgfp.verify.evidence`. Scores
say: higher is more alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from imgfp.inference import SHIPPED

_PAIR = ["query_id", "reference_id"]
_SHIPPED_MODEL = SHIPPED / "fusion.json"
_FORMAT = "imgfp fusion 1"

_NUMBERS = (
    "inliers", "guided_inliers", "exact_inliers", "distinct_inliers", "inlier_ratio", "consistency",
    "reprojection_error_px", "angle_error_deg", "tilt_deg", "shear_deg", "perspective", "ncc_inlier_ratio", "ncc_chance",
    "ncc_best_rectangle", "ncc_fine", "ncc_edges", "ncc_stable", "ncc_p80",
    "ncc_inlier_blocks", "aligned_blocks", "localisable_blocks", "displaced_blocks", "model_consistency", "copy_probability", "query_area", "reference_area",
)  # fmt: skip

#: What the calibrated score looks at. Each rises with the likeness of the pair and is about 0..1.
FEATURES: dict[str, str] = {
    "inliers": "keypoints that agree on one map, as log(1 + n) / log(201), at most 1",
    "inlier_ratio": "share of the matches inside the overlap that agree with the map",
    "consistency": "share of the sure matches inside the overlap that lie exactly where it says",
    "exactness": "exp(-error): how near inliers lie to where the map sends them; 0 without inliers",
    "alignment": "exp(-angle / 5 degrees): how well their orientations fit; 0 without inliers",
    "uprightness": "exp(-tilt / 1 degree): the map keeps the picture's sides, as editing does; times trust",
    "rigidity": "exp(-shear / 1 degree) / (1 + 20 perspective): no second camera; times trust",
    "ncc_excess": "share of the overlap whose pixels agree, beyond what agrees by chance",
    "ncc_rectangle_excess": "the same in the rectangle that agrees best, less for few blocks",
    "ncc_fine": "share of the overlap whose fine detail agrees",
    "ncc_edges": "share of the overlap whose edges agree, beyond what agrees by chance",
    "stability": "share of its blocks that agree best right here: one flat picture, no parallax",
    "extent": "pixel blocks that agree, as log(1 + n) / log(201), at most 1",
    "stable_extent": "steadiness times extent: much of the picture, and nothing of it moved",
    "sharpness": "correlation of the better blocks",
    "undisplaced": "1 less the share of blocks that tell to a pixel where they agree, and agree elsewhere",
    "copy_probability": "what the trained eye says, as log-odds of -6..6 brought to 0..1; 0: it was not asked",
    "second_view": "agreement of the second best view of the query with this reference",
    "margin": "steady agreement and exact inliers ahead of the query's best other reference, -2..2",
    "query_area": "share of the query that the overlap covers",
    "reference_area": "share of the reference that the overlap covers",
    "votes": "keypoint votes in the search, whole query or crop, as log(1 + n) / log(201), at most 1",
    "confirmation": "1 less the votes that no steady pixels confirm, as of a scene photographed twice",
    "likeness": "cosine of the global descriptors: from the query's last candidate, 0, to equal, 1",
}


@dataclass(frozen=True)
class Model:
    """A logistic regression over FEATURES, fitted and shipped as JSON.

    weights: feature -> weight, none below 0; intercept; neutral: feature -> the value that
    contributes nothing and stands in for a missing one; scores: 101 quantiles of the best score of
    each fitted query, by which drift is judged; origin: what it was fitted on, in words and counts.
    """

    weights: Mapping[str, float]
    intercept: float
    neutral: Mapping[str, float]
    scores: tuple[float, ...]
    origin: Mapping[str, object]


def merge(evidence: pd.DataFrame, rule: str, model: Model | None = None) -> pd.DataFrame:
    """Predictions by `rule`: "sum" or "calibrated", see `seed_sum` and `calibrated`."""
    if rule == "sum":
        return seed_sum(evidence)
    if rule == "calibrated":
        return calibrated(evidence, model or load_model())
    raise ValueError(f"fusion rule {rule!r}: expected 'sum' or 'calibrated'")


def seed_sum(evidence: pd.DataFrame) -> pd.DataFrame:
    """The seed's rule: `matches` of the same pair summed over its branches.

    Returns query_id, reference_id, score, best first; pairs without evidence are left out.
    """
    known = evidence.dropna(subset=["matches"])
    summed = known.groupby(_PAIR, as_index=False, sort=True)["matches"].sum()
    return _predictions(summed.rename(columns={"matches": "score"}))


def calibrated(evidence: pd.DataFrame, model: Model) -> pd.DataFrame:
    """Probability that each pair is a copy, by `model`: query_id, reference_id, score, best first.

    It holds for queries like those of the fit, with copies as frequent as there; elsewhere it still
    ranks, and its threshold must be set anew. Pairs without evidence are left out.
    """
    table = features(evidence)
    return _predictions(table[_PAIR].assign(score=_probability(_logit(table, model))))


def _predictions(table: pd.DataFrame) -> pd.DataFrame:
    return (
        table[[*_PAIR, "score"]]
        .astype({"score": "float64"})
        .sort_values(["score", *_PAIR], ascending=[False, True, True], ignore_index=True)
    )


def features(evidence: pd.DataFrame) -> pd.DataFrame:
    """One row a pair, in order of the ids: query_id, reference_id, then FEATURES as float64.

    The view with the strongest evidence speaks for the pair. A branch that did not propose it says 0.
    """
    rows = evidence.dropna(subset=["inliers"]).copy()
    known = {name: rows[name].to_numpy(np.float64) for name in _NUMBERS}
    kept = (rows["refused"].fillna("") == "").to_numpy().astype(float)
    placed = kept * (known["inliers"] >= 3)  # fewer fix no map, and say nothing of one
    rows["inliers"] = kept * _log_share(
        np.minimum(known["guided_inliers"], 2 * known["distinct_inliers"])
    )
    rows["inlier_ratio"] = placed * known["inlier_ratio"]
    rows["consistency"] = placed * known["consistency"]
    rows["exactness"] = placed * np.exp(-np.nan_to_num(known["reprojection_error_px"], nan=np.inf))
    rows["alignment"] = placed * np.exp(-np.nan_to_num(known["angle_error_deg"], nan=np.inf) / 5)
    # A map is trusted as far as it explains blocks, and as there are any: one edge fits many maps.
    trust = (
        kept * known["model_consistency"] * known["aligned_blocks"] / (known["aligned_blocks"] + 20)
    )
    signs = {
        name: np.nan_to_num(known[name], nan=np.inf)
        for name in ("tilt_deg", "shear_deg", "perspective")
    }
    rows["uprightness"] = trust * np.exp(-signs["tilt_deg"])
    rows["rigidity"] = trust * np.exp(-signs["shear_deg"]) / (1 + 20 * signs["perspective"])
    rows["undisplaced"] = 1 - kept * known["displaced_blocks"] / (known["localisable_blocks"] + 5)
    with np.errstate(divide="ignore"):
        odds = np.log(known["copy_probability"]) - np.log1p(-known["copy_probability"])
    rows["copy_probability"] = kept * (np.clip(odds, -6, 6) / 12 + 0.5)
    rows["ncc_excess"] = kept * np.clip(known["ncc_inlier_ratio"] - known["ncc_chance"], 0, 1)
    enough = np.minimum(known["ncc_inlier_blocks"] / 20, 1)
    rows["ncc_rectangle_excess"] = kept * known["ncc_best_rectangle"] * enough
    rows["ncc_fine"] = kept * known["ncc_fine"]
    rows["ncc_edges"] = kept * np.clip(known["ncc_edges"], 0, 1)
    rows["stability"] = kept * known["ncc_stable"]
    rows["extent"] = kept * _log_share(known["ncc_inlier_blocks"])
    rows["stable_extent"] = rows["stability"] * rows["extent"]
    rows["query_area"] = kept * known["query_area"]
    rows["reference_area"] = kept * known["reference_area"]
    rows["sharpness"] = kept * known["ncc_p80"]
    exact = placed * _log_share(known["exact_inliers"])
    rows["strength"] = rows["ncc_excess"] * rows["stability"] + exact
    rows = rows.sort_values([*_PAIR, "strength"], ascending=[True, True, False], kind="stable")
    table = rows.groupby(_PAIR, sort=False).head(1).set_index(_PAIR)
    # Branches that share a view repeat its evidence: that is no second opinion.
    views = rows.drop_duplicates([*_PAIR, "ncc_excess", "inliers"])
    second = views[views.groupby(_PAIR, sort=False).cumcount() == 1].set_index(_PAIR)
    table["second_view"] = second["ncc_excess"].reindex(table.index).fillna(0.0)
    table["votes"] = _votes(rows).reindex(table.index).fillna(0.0)
    table["confirmation"] = 1 - table["votes"] * (1 - table["stability"])
    table["likeness"] = _likeness(rows).reindex(table.index).fillna(0.0)
    table = table.reset_index()
    table["margin"] = table["strength"] - _best_other(table)
    return table[[*_PAIR, *FEATURES]].astype(dict.fromkeys(FEATURES, "float64"))


def _log_share(count: np.ndarray) -> np.ndarray:
    return np.minimum(np.log1p(count) / np.log(201), 1)


def _votes(rows: pd.DataFrame) -> pd.Series:
    """The most votes that a pair got in a keypoint search, as a share, by pair."""
    searched = rows[rows["branch"].isin(["local", "crop"])]
    most = searched.groupby(_PAIR)["score"].max().fillna(0)
    return _log_share(most)


def _likeness(rows: pd.DataFrame) -> pd.Series:
    """How far the cosine of a pair rises above that of the query's last candidate, by pair: descriptors
    differ in how alike they find unrelated pictures, and their last candidates with them."""
    proposed = rows[rows["branch"] == "global"]
    cosine = 1 - proposed["mean_squared_distance"] / 2
    last = cosine.groupby(proposed["query_id"]).transform("min")
    lead = (cosine - last) / np.maximum(1 - last, 1e-6)
    return lead.groupby([proposed[name] for name in _PAIR]).max()


def _best_other(table: pd.DataFrame) -> np.ndarray:
    """The highest strength among the query's other references, 0 where it has none."""
    ranked = table.sort_values(["query_id", "strength"], ascending=[True, False], kind="stable")
    place = ranked.groupby("query_id", sort=False).cumcount()
    first, second = (
        ranked[place == n]
        .set_index("query_id")["strength"]
        .reindex(table["query_id"], fill_value=0)
        for n in (0, 1)
    )
    leads = table.index.isin(ranked.index[place == 0])
    return np.where(leads, second, first)


def _filled(table: pd.DataFrame, model: Model) -> pd.DataFrame:
    return table[list(model.weights)].fillna(dict(model.neutral))


def _logit(table: pd.DataFrame, model: Model) -> np.ndarray:
    weights = np.array(list(model.weights.values()))
    return _filled(table, model).to_numpy(np.float64) @ weights + model.intercept


def _probability(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def contributions(evidence: pd.DataFrame, model: Model) -> pd.DataFrame:
    """What each feature adds to the log-odds of each pair, against the neutral value.

    query_id, reference_id, one column a feature, `base` (the log-odds of an all-neutral pair) and
    score. The columns and the base sum to the log-odds of the score.
    """
    table = features(evidence)
    weights = pd.Series(dict(model.weights))
    neutral = pd.Series(dict(model.neutral))[weights.index]
    parts = (_filled(table, model) - neutral) * weights
    parts["base"] = model.intercept + float(neutral @ weights)
    score = _probability(_logit(table, model))
    return pd.concat([table[_PAIR], parts, pd.Series(score, name="score")], axis=1)


def fit(evidence: pd.DataFrame, labels: pd.DataFrame, seed: int = 0, **origin: object) -> Model:
    """Fit the calibrated score on pairs whose answer is known.

    evidence: see the module. labels: query_id, reference_id, label (bool: is a copy), one row a
    pair; pairs without a label are not used. origin: words or counts to keep with the model.
    The pairs come from `training.calibration` or from reviewed decisions, never from the truth that
    a run is then measured on. Features that never vary, and those that would count against a pair
    though they speak for it, are left out. Raises ValueError without pairs of both kinds.
    """
    from sklearn.linear_model import LogisticRegression

    table = features(evidence).merge(labels[[*_PAIR, "label"]], on=_PAIR, validate="one_to_one")
    label = table["label"].to_numpy(bool)
    if label.all() or not label.any():
        raise ValueError(
            f"{label.sum()} of {len(label)} labelled pairs are copies; "
            "fitting needs both copies and pairs that are none"
        )
    neutral = table[list(FEATURES)].median()
    # Half way between copies and others says nothing for or against a pair.
    middle = (table[label][list(FEATURES)].median() + table[~label][list(FEATURES)].median()) / 2
    neutral = neutral.where(neutral.isna(), middle)
    used = [name for name in FEATURES if table[name].nunique() > 1]
    while True:
        values = table[used].fillna(neutral)
        model = LogisticRegression(C=1.0, max_iter=2000, random_state=seed)
        weights = pd.Series(model.fit(values, label).coef_[0], index=used)
        if weights.min() >= 0:
            break
        used.remove(weights.idxmin())
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
    """The model as readable text; numbers are finite by construction of `fit`."""
    return json.dumps({"format": _FORMAT, **asdict(model)}, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> Model:
    """A model out of `to_json`. Raises ValueError naming what is wrong with it."""
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
        if data.pop("format") != _FORMAT:
            raise KeyError("format")
        model = Model(**{**data, "scores": tuple(data["scores"])})
        numbers = [*model.weights.values(), model.intercept, *model.neutral.values()]
        known = set(model.weights) <= set(FEATURES) and set(model.weights) == set(model.neutral)
        numeric = all(isinstance(x, (int, float)) for x in [*numbers, *model.scores])
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"not a fusion model ({_FORMAT!r}): {error}; fit one again") from None
    if not (known and numeric):
        raise ValueError(f"fusion model: its features must be among {', '.join(FEATURES)}")
    return model


def _refuse_constant(name: str) -> float:
    raise ValueError(f"fusion model holds {name}, which is no number; fit it again")


def load_model(path: str = "") -> Model:
    """The model in a JSON file of `to_json`; "" is the one that ships."""
    file = Path(path) if path else _SHIPPED_MODEL
    try:
        return from_json(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"fusion model {str(file)!r}: {error}") from None
