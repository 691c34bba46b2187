# SPDX-License-Identifier: AGPL-3.0-or-later
"""How the query of a pair is related to its reference, from the evidence: one of `RELATIONS`, with its probability.

The score says whether a pair is a copy, the relation says which kind. A score of 0.5 or more is shared by the kinds of
copies, what it leaves to 1 by the others; on either side the evidence tells one kind. The probability of the relation is
the score, or 1 less the score, times the share of such pairs for which the evidence told the right kind (`TOLD_RIGHTLY`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from imgfp.scoring.fusion import have_other_content, lacks_structure
from imgfp.scoring.metrics import are_in

IDENTICAL = "identical file"
REENCODED = "re-encoded"
EDITED = "edited copy"
PART = "part of"
CONTAINS = "contains"
FORM = "same form, other content"
SCENE = "same scene, other photograph"
UNRELATED = "unrelated"

#: Relation -> what it says of query and reference. The first five are copies.
RELATIONS: dict[str, str] = {
    IDENTICAL: "the two files have the same bytes",
    REENCODED: "the same picture and extent, saved again, resized, or of another quality",
    EDITED: "a changed copy of the same extent, or of a part inside something else",
    PART: "the query is a crop of the reference",
    CONTAINS: "the query shows the whole reference, and more around it",
    FORM: "the same form, card or receipt, with another text or face in it",
    SCENE: "no copy, but the two align: another photograph of one scene or object",
    UNRELATED: "nothing tells that they have anything in common",
}
COPIES = (IDENTICAL, REENCODED, EDITED, PART, CONTAINS)
#: Columns of `relations` after the ids, with their dtypes.
COLUMNS = {"relation": "str", "relation_probability": "float64", "too_little_structure": "bool"}
#: Relation -> share of the pairs told it that are it, among copies or among others: docs/results.md.
TOLD_RIGHTLY = {
    IDENTICAL: 1.0,  # by definition
    REENCODED: 0.89,
    EDITED: 0.89,
    PART: 0.87,
    CONTAINS: 0.96,
    FORM: 0.99,
    SCENE: 0.6,
    UNRELATED: 0.998,
}
#: Score from which a pair is told as a copy.
_IS_COPY = 0.5
#: What a file that was saved again keeps: the overlap's share of both images, the ratio of their scales, the share of
#: the texture that correlates, and at most this mean difference of the colours, grey levels.
_WHOLE, _SCALES_DIFFER, _CORRELATES, _COLOURS_KEEP = 0.98, 0.02, 0.97, 4.0
#: Inliers from which a pair that is no copy shows the same scene, if its pixels align as well.
_SCENE_INLIERS = 10

_PAIR = ["query_id", "reference_id"]


def relations(evidence: pd.DataFrame, copies: pd.DataFrame) -> pd.DataFrame:
    """One row per pair of `copies`, in its order: query_id, reference_id, then COLUMNS.

    evidence: see `fusion`; copies: of `fusion.calibrated` with this evidence. What a pair shows is read from its view
    with most inliers. too_little_structure: no keypoint and no block could tell, only colours and the pair classifier;
    this is a doubt about a relation, not one of them, and such a pair keeps the relation that is most likely.
    """
    rows = evidence.dropna(subset=["inliers"])
    rows = rows.assign(aligned=rows["refused"].fillna("").eq(""))
    order = ["aligned", "inliers", "ncc_inlier_blocks"]
    views = rows.sort_values(order, ascending=False, kind="stable").drop_duplicates(_PAIR)
    pairs = copies[[*_PAIR, "score"]].merge(views.drop(columns="score"), on=_PAIR, how="left")
    shown, is_copy = pairs["direction"], pairs["score"].ge(_IS_COPY)
    same_scene = pairs["aligned"] & pairs["inliers"].ge(_SCENE_INLIERS)
    kinds: dict[str, np.ndarray | pd.Series] = {
        IDENTICAL: is_copy & pairs["identical"].eq(True),
        REENCODED: is_copy & _saved_again(pairs),
        PART: is_copy & shown.eq("reference contains query"),
        CONTAINS: is_copy & shown.eq("query contains reference"),
        EDITED: is_copy,
        FORM: are_in(pairs, evidence[have_other_content(evidence)]),
        SCENE: same_scene & pairs["localisable_blocks"].gt(0),
    }
    told = pd.Series(UNRELATED, pairs.index)
    for kind, is_of in reversed(kinds.items()):  # the first of several holds
        told[np.asarray(is_of, bool)] = kind
    sure = pairs["score"].where(is_copy, 1 - pairs["score"])
    blind = are_in(pairs, rows[lacks_structure(rows)])
    blind &= ~are_in(pairs, rows[rows["exact_inliers"].gt(0) | rows["localisable_blocks"].gt(0)])
    return pairs[_PAIR].assign(
        relation=told.astype("str"),
        relation_probability=sure * told.map(TOLD_RIGHTLY).astype("float64"),
        too_little_structure=blind,
    )


def _saved_again(pairs: pd.DataFrame) -> pd.Series:
    """Which pairs, (n,) bool, have the same frame up to one scale, and the same pixels and colours in it."""
    scale, across = pairs["h00"] / pairs["h22"], pairs["h11"] / pairs["h22"]
    turned = pairs[["h01", "h10"]].abs().max(axis=1) / pairs["h22"].abs()
    frame = scale.gt(0) & (scale - across).abs().lt(_SCALES_DIFFER * scale)
    frame &= turned.lt(_SCALES_DIFFER * scale) & pairs["perspective"].lt(_SCALES_DIFFER)
    frame &= pairs[["query_area", "reference_area"]].min(axis=1).ge(_WHOLE)
    pixels = pairs["ncc_inlier_ratio"].ge(_CORRELATES)
    return frame & pixels & pairs["colour_difference"].lt(_COLOURS_KEEP)
