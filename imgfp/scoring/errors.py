# SPDX-License-Identifier: AGPL-3.0-or-later
"""Error analysis of a run: missed copies and false alarms, per kind of query, per branch, per cause.

Every function takes plain tables and returns one. Scores: higher is more similar.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from imgfp.geometry import iou
from imgfp.scoring.metrics import are_in, rank_predictions, true_pairs


def edit_groups(meta: pd.DataFrame, by_strength: bool = False) -> pd.DataFrame:
    """The edits of each query: rows query_id, group, for `breakdown`.

    meta: query_id and `ops` (names joined by "+", repeats count once). by_strength: split each edit
    into thirds, "blur weak", "blur medium", "blur strong", according to the column `strengths`, which
    has one number in 0..1 per op, joined by "+" too. Raises ValueError naming a query where the two
    differ in number.
    """
    names = [text.split("+") for text in meta["ops"].fillna("").astype(str)]
    if by_strength:
        strengths = [text.split("+") for text in meta["strengths"].fillna("").astype(str)]
        for query_id, ops, degrees in zip(meta["query_id"], names, strengths, strict=True):
            if len(ops) != len(degrees):
                raise ValueError(
                    f"query {query_id!r}: `ops` has {len(ops)} entries and `strengths` {len(degrees)}; "
                    "give one strength per op"
                )
        names = [
            [f"{name} {_third(degree)}" for name, degree in zip(*row, strict=True) if name]
            for row in zip(names, strengths, strict=True)
        ]
    exploded = meta[["query_id"]].assign(group=pd.Series(names, index=meta.index)).explode("group")
    named = exploded[exploded["group"].notna() & (exploded["group"] != "")]
    return named.drop_duplicates(ignore_index=True)


def _third(strength: str) -> str:
    return ("weak", "medium", "strong")[min(int(3 * float(strength)), 2)]


def breakdown(
    predictions: pd.DataFrame,
    truth: pd.DataFrame,
    groups: pd.DataFrame,
    threshold: float,
    candidates: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Recall per group of queries; `groups` has rows query_id, group, and a query may be in
    several.

    One row per group, worst recall first: group, positives (true pairs of its queries), recall (share of them
    that score >= threshold), recall_at_1 (share of the queries with a true reference whose best prediction is
    one), proposed (share of the true pairs among `candidates`, NaN without candidates), negatives (queries
    without a reference), false_alarms (share of the negatives with any pair >= threshold, NaN without
    negatives).
    """
    ranked = rank_predictions(predictions, truth)
    kept = ranked[ranked["score"] >= threshold]
    first = ranked.loc[ranked["is_true"] & (ranked["rank"] == 0), "query_id"]
    copies = true_pairs(truth)
    copies["found"] = are_in(copies, kept)
    copies["first"] = copies["query_id"].isin(first)
    copies["proposed"] = np.nan if candidates is None else are_in(copies, candidates).astype(float)
    others = truth.loc[~truth["query_id"].isin(copies["query_id"]), ["query_id"]].drop_duplicates()
    others["alarm"] = others["query_id"].isin(kept["query_id"])
    rows = []
    for name, members in groups.groupby("group", sort=True)["query_id"]:
        inside, without = (table[table["query_id"].isin(members)] for table in (copies, others))
        rows.append(
            {
                "group": name,
                "positives": len(inside),
                "recall": inside["found"].mean(),
                "recall_at_1": inside.drop_duplicates("query_id")["first"].mean(),
                "proposed": inside["proposed"].mean(),
                "negatives": len(without),
                "false_alarms": without["alarm"].mean(),
            }
        )
    columns = [
        "group",
        "positives",
        "recall",
        "recall_at_1",
        "proposed",
        "negatives",
        "false_alarms",
    ]
    return pd.DataFrame(rows, columns=columns).sort_values("recall", ignore_index=True)


def branch_breakdown(
    predictions: pd.DataFrame, truth: pd.DataFrame, candidates: pd.DataFrame, threshold: float
) -> pd.DataFrame:
    """What each branch, and each combination of branches, contributes.

    candidates: query_id, reference_id, branch. A row named "local" counts the pairs that this branch
    proposes, alone or not; a row named "only local+crop" the pairs that exactly these branches
    propose. Columns: branches, pairs, true_pairs, share (of all true pairs in the truth), kept and
    kept_true (pairs with score >= threshold), micro_ap (of these pairs alone).
    """
    known = ("local", "crop", "global")
    pairs = candidates.drop_duplicates(["query_id", "reference_id", "branch"])
    order = {name: row for row, name in enumerate(known)}
    proposers = pairs.groupby(["query_id", "reference_id"])["branch"].agg(
        lambda names: "+".join(sorted(names, key=lambda n: (order.get(n, len(order)), n)))
    )
    ranked = rank_predictions(predictions, truth).join(
        proposers.rename("proposers"), on=["query_id", "reference_id"]
    )
    positives = len(true_pairs(truth))
    ranked["proposers"] = ranked["proposers"].fillna("")
    single = sorted(set(pairs["branch"]), key=lambda n: (order.get(n, len(order)), n))
    choices = [
        (name, ranked["proposers"].str.split("+").map(lambda p, n=name: n in p)) for name in single
    ]
    choices += [
        (f"only {names}", ranked["proposers"] == names) for names in sorted(set(proposers), key=len)
    ]
    rows = []
    for name, mask in choices:
        part = ranked[mask.to_numpy(bool)]
        true = part["is_true"].to_numpy()
        precision = np.cumsum(true) / np.arange(1, len(part) + 1)
        kept = part["score"] >= threshold
        rows.append(
            {
                "branches": name,
                "pairs": len(part),
                "true_pairs": int(true.sum()),
                "share": true.sum() / positives if positives else np.nan,
                "kept": int(kept.sum()),
                "kept_true": int((kept & true).sum()),
                "micro_ap": precision[true].sum() / positives if positives else np.nan,
            }
        )
    columns = ["branches", "pairs", "true_pairs", "share", "kept", "kept_true", "micro_ap"]
    return pd.DataFrame(rows, columns=columns)


def changes(
    before: pd.DataFrame,
    after: pd.DataFrame,
    truth: pd.DataFrame,
    threshold_before: float,
    threshold_after: float,
) -> pd.DataFrame:
    """Pairs that reach the threshold of their run in only one of two runs.

    Rows query_id, reference_id, is_true, change ("gained": kept only after, "lost": kept only
    before), score_before, score_after (NaN: not predicted). Gained true pairs and lost false pairs
    are improvements.
    """
    keys = ["query_id", "reference_id", "is_true"]
    tables = [rank_predictions(run, truth)[[*keys, "score"]] for run in (before, after)]
    both = tables[0].merge(tables[1], on=keys, how="outer", suffixes=("_before", "_after"))
    kept_before = (both["score_before"] >= threshold_before).to_numpy()
    kept_after = (both["score_after"] >= threshold_after).to_numpy()
    both["change"] = np.where(kept_after, "gained", "lost")
    moved: Sequence[str] = [*keys, "change", "score_before", "score_after"]
    both = both.loc[kept_before != kept_after, moved]
    return both.sort_values(
        ["is_true", "change", "query_id"], ascending=[False, True, True], ignore_index=True
    )


#: Causes of a missed copy, in the order in which they are tried.
MISSED = ("crop_box_wrong", "not_proposed", "beaten_by_another", "under_scored")
#: Causes of a false alarm, in the order in which they are tried.
FALSE_ALARMS = (
    "duplicate_of_the_truth",
    "same_scene_other_photograph",
    "suspicious_truth",
    "wrong_reference_of_a_copy",
    "reference_matches_many_queries",
    "no_geometric_evidence",
    "look_alike",
)


def sort_errors(
    predictions: pd.DataFrame,
    truth: pd.DataFrame,
    candidates: pd.DataFrame,
    threshold: float,
    *,
    evidence: pd.DataFrame | None = None,
    meta: pd.DataFrame | None = None,
    true_boxes: pd.DataFrame | None = None,
    crops: pd.DataFrame | None = None,
    min_box_iou: float = 0.5,
    min_ncc_inlier_ratio: float = 0.8,
    many: int = 3,
) -> pd.DataFrame:
    """Every missed copy and every false alarm, with one cause each.

    A copy is missed when its true pair does not reach the threshold; a false alarm is a false pair
    that does. Rows: query_id, reference_id, score (NaN: never scored), kind ("missed" or
    "false_alarm"), cause (the first of MISSED or FALSE_ALARMS that applies), other_reference_id (the
    one that scored higher than a missed pair; the best true reference of the query of a false alarm; "" for none).
    Missed copies first, then by falling score.

    true_boxes and crops (query_id, x0, y0, x1, y1; in the same unit): a pair that no branch proposed
    is `crop_box_wrong` when the query has a true box and no crop with an IoU of `min_box_iou` with
    it. meta: its column `hard_negative_of` names the reference that shows the same scene as a query.
    evidence (query_id, reference_id, inliers, ncc_inlier_ratio): a false pair with an NCC inlier
    ratio of at least `min_ncc_inlier_ratio` is `suspicious_truth` (the truth may lack it), one
    without inliers is `no_geometric_evidence`. A reference in false pairs of at least `many` queries
    is `reference_matches_many_queries`.
    """
    expected = true_pairs(truth)
    ranked = rank_predictions(predictions, truth)
    missed = _missed(ranked, expected, candidates, threshold)
    wrong = _wrong_boxes(true_boxes, crops, min_box_iou)
    unproposed = missed["cause"] == "not_proposed"
    missed.loc[unproposed & missed["query_id"].isin(wrong), "cause"] = "crop_box_wrong"
    alarms = ranked[(ranked["score"] >= threshold) & ~ranked["is_true"]].copy()
    # The true references by score, then those that have none.
    best = pd.concat([ranked[ranked["is_true"]], expected]).drop_duplicates("query_id")
    true_one = best.set_index("query_id")["reference_id"]
    alarms["other_reference_id"] = alarms["query_id"].map(true_one).fillna("")
    alarms["kind"] = "false_alarm"
    alarms["cause"] = _alarm_causes(
        alarms, ranked, threshold, evidence, meta, min_ncc_inlier_ratio, many
    )
    columns = ["query_id", "reference_id", "score", "kind", "cause", "other_reference_id"]
    return pd.concat([missed[columns], alarms[columns]], ignore_index=True)


def _missed(
    ranked: pd.DataFrame, expected: pd.DataFrame, candidates: pd.DataFrame, threshold: float
) -> pd.DataFrame:
    """True pairs without a score >= threshold, with the causes that the scores alone show."""
    missed = expected.merge(ranked[["query_id", "reference_id", "score"]], how="left")
    false = ranked[~ranked["is_true"]].drop_duplicates("query_id").set_index("query_id")
    best_false = false.reindex(missed["query_id"]).reset_index(drop=True)
    proposed = are_in(missed, candidates) | missed["score"].notna()
    beaten = proposed & (best_false["score"] >= missed["score"].fillna(-np.inf))
    cause = np.select([~proposed, beaten], ["not_proposed", "beaten_by_another"], "under_scored")
    other = best_false["reference_id"].where(beaten, "")
    missed = missed.assign(kind="missed", cause=cause, other_reference_id=other)
    below = missed[~(missed["score"] >= threshold)]
    return below.sort_values(["score", "query_id"], ascending=[False, True], ignore_index=True)


def _wrong_boxes(
    true_boxes: pd.DataFrame | None, crops: pd.DataFrame | None, min_iou: float
) -> set[str]:
    """Queries with a true box that no crop overlaps with an IoU of `min_iou`."""
    if true_boxes is None or crops is None:
        return set()
    sides = ["x0", "y0", "x1", "y1"]
    boxes = true_boxes.dropna(subset=sides)
    pairs = boxes[["query_id", *sides]].merge(crops[["query_id", *sides]], on="query_id")
    one, two = (pairs[[f"{s}_{end}" for s in sides]].to_numpy(float) for end in "xy")
    good = set(pairs.loc[iou(one, two) >= min_iou, "query_id"])
    return set(boxes["query_id"]) - good


def _alarm_causes(
    alarms: pd.DataFrame,
    ranked: pd.DataFrame,
    threshold: float,
    evidence: pd.DataFrame | None,
    meta: pd.DataFrame | None,
    min_ncc_inlier_ratio: float,
    many: int,
) -> np.ndarray:
    """The cause (one of FALSE_ALARMS) of each row of `alarms`."""
    keys = ["query_id", "reference_id"]
    pairs = pd.MultiIndex.from_frame(alarms[keys])
    ncc_inlier_ratio, inliers = np.full(len(alarms), np.nan), np.full(len(alarms), np.nan)
    if evidence is not None:
        best = evidence.groupby(keys)[["ncc_inlier_ratio", "inliers"]].max().reindex(pairs)
        ncc_inlier_ratio, inliers = best["ncc_inlier_ratio"].to_numpy(), best["inliers"].to_numpy()
    scene = np.zeros(len(alarms), bool)
    if meta is not None and "hard_negative_of" in meta:
        known = meta.dropna(subset=["hard_negative_of"])
        scene = pairs.isin(list(zip(known["query_id"], known["hard_negative_of"], strict=True)))
    copies = alarms["other_reference_id"] != ""
    table = duplicate_references(ranked, threshold)
    duplicates = {
        frozenset(pair) for pair in zip(table["reference_id"], table["other_id"], strict=True)
    }
    duplicate = [
        frozenset(pair) in duplicates
        for pair in zip(alarms["reference_id"], alarms["other_reference_id"], strict=True)
    ]
    alarmed = alarms.groupby("reference_id")["query_id"].transform("nunique")
    return np.select(
        [
            copies & np.array(duplicate, bool),
            scene,
            ~copies & (ncc_inlier_ratio >= min_ncc_inlier_ratio),
            copies,
            alarmed >= many,
            inliers == 0,
        ],
        FALSE_ALARMS[:-1],
        FALSE_ALARMS[-1],
    )


def duplicate_references(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Pairs of references that may be duplicates of each other: a query scores >= threshold with both.

    Rows reference_id, other_id (in name order), queries (number of such queries), score (the lower of
    the two scores, of the query where it is highest), most queries first. The two references are
    duplicates, or two photographs of the same scene.
    """
    kept = predictions.loc[predictions["score"] >= threshold, ["query_id", "reference_id", "score"]]
    pairs = kept.merge(kept, on="query_id", suffixes=("", "_other"))
    pairs = pairs[pairs["reference_id"] < pairs["reference_id_other"]]
    pairs["score"] = pairs[["score", "score_other"]].min(axis=1)
    duplicates = pairs.groupby(["reference_id", "reference_id_other"], as_index=False).agg(
        queries=("query_id", "nunique"), score=("score", "max")
    )
    duplicates = duplicates.rename(columns={"reference_id_other": "other_id"})
    return duplicates.sort_values(
        ["queries", "score", "reference_id"], ascending=[False, False, True], ignore_index=True
    )
