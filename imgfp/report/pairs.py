# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pairs on the report: both images with their overlap, the score, and the evidence in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup

from imgfp import viz
from imgfp.datatypes import BRANCHES
from imgfp.results import Results, Side
from imgfp.scoring.fusion import COLOURS_DIFFER, lacks_structure, shows_another_photograph
from imgfp.stages.listed import MEASURED_ELSEWHERE
from imgfp.store import decisions
from imgfp.verify.estimation import REFUSALS
from imgfp.viz import svg

#: Longer side of an image on the page, in pixels, and number of pairs per sheet.
LONG_SIDE_PX, PAIRS_PER_SHEET = 300, 6
REASONS = {name: f"no transform between the images: {why}" for name, why in REFUSALS.items()} | {
    "shared_by_many": "rejected: the matches lie in text, a logo or a texture of many references",
    MEASURED_ELSEWHERE: "a match count that was read from a file: nothing else is known of the pair",
}
CAUSES = {
    "crop_box_wrong": "The pasted image was not detected, and no branch proposed its reference",
    "not_proposed": "No branch proposed the true reference",
    "beaten_by_another": "Another reference scored at least as high",
    "under_scored": "Proposed, but scored below the threshold",
    "duplicate_of_the_truth": "Reported beside the true reference: the two may be duplicates",
    "same_scene_other_photograph": "Another photograph of the same scene",
    "suspicious_truth": "The pixels match: the ground truth may be incomplete",
    "wrong_reference_of_a_copy": "A copy, but of another reference",
    "reference_matches_many_queries": "The reference matches many queries",
    "no_geometric_evidence": "No geometric evidence supports the pair",
    "look_alike": "The images look alike",
}


class _Row(NamedTuple):
    """One pair to show; other_reference_id and kind: of a row of `scoring.errors.sort_errors`."""

    query_id: str
    reference_id: str
    score: float
    other_reference_id: str = ""
    kind: str = ""


def best_of_each_query(results: Results) -> pd.DataFrame:
    """The rows of `Results.pairs` with the highest score of their query."""
    return results.pairs[results.pairs["rank"] == 0]


def decided_pairs(results: Results) -> dict[tuple[str, str], str]:
    """(query_id, reference_id) -> the decision of the reviewers that is in force."""
    reviewed = decisions.consensus(decisions.read(results.decisions_path))
    ids = zip(reviewed["query_id"], reviewed["reference_id"], strict=True)
    return dict(zip(ids, reviewed["decision"], strict=True))


def sheet(
    results: Results,
    title: str,
    note: str,
    rows: pd.DataFrame,
    *,
    kind: str = "",
    count: int = PAIRS_PER_SHEET,
) -> dict[str, Any]:
    """The first `count` pairs under a title; rows: query_id, reference_id, score and, for errors,
    other_reference_id and kind."""
    decided = decided_pairs(results)
    columns = [name for name in _Row._fields if name in rows]
    values = rows[columns].head(count).itertuples(index=False, name=None)
    shown = (_Row(**dict(zip(columns, row, strict=True))) for row in values)
    pairs = [_pair(results, row, decided) for row in shown]
    return {"title": title, "note": note, "kind": kind, "pairs": [p for p in pairs if p]}


def _pair(
    results: Results, row: _Row, decided: dict[tuple[str, str], str]
) -> dict[str, Any] | None:
    """One pair on a sheet; None if an image is missing from the run or library."""
    query_id, reference_id = row.query_id, row.reference_id
    if query_id not in results.queries.index or reference_id not in results.references:
        return None
    overlaps = results.outlines(query_id, reference_id)
    images = results.images_of(query_id, reference_id)
    proposers = set(results.candidates_of(query_id, reference_id)["branch"])
    return {
        "query": viz.label(query_id, 44),
        "reference": viz.label(reference_id, 44),
        "pictures": {
            "query": _picture(results, "query", images[0], overlaps[0]),
            "reference": _picture(results, "reference", images[1], overlaps[1]),
        },
        "score": "not scored" if pd.isna(row.score) else viz.score(row.score),
        "relation": results.relation_of(query_id, reference_id),
        "branches": " + ".join(b for b in BRANCHES if b in proposers) or "no branch",
        "other": _other(row),
        "evidence": evidence_in_words(
            results.best_evidence(query_id, reference_id),
            results.remarks(query_id, reference_id),
            len(results.groups.others(reference_id)),
        ),
        "reviewed": decided.get((query_id, reference_id), "").replace("_", " "),
    }


def _picture(
    results: Results, side: Side, image_id: str, outline: np.ndarray | None = None
) -> Markup:
    """An image with the polygon (k,2) of the overlap."""
    small = svg.small_jpeg(results.thumbnail(side, image_id), LONG_SIDE_PX)
    return Markup(svg.outlined(small, results.size(side, image_id), outline, f"{side} {image_id}"))


def duplicate_sheet(results: Results, duplicates: pd.DataFrame) -> dict[str, Any]:
    """The references of `errors.duplicate_references`, side by side."""
    columns = ["reference_id", "other_id", "queries", "score"]
    pairs = []
    for row in duplicates[columns].head(PAIRS_PER_SHEET).to_dict("records"):
        ids = {"query": row["reference_id"], "reference": row["other_id"]}
        together = "one query" if row["queries"] == 1 else f"{row['queries']:,} queries"
        pairs.append(
            {
                **{side: viz.label(image_id, 44) for side, image_id in ids.items()},
                "pictures": {s: _picture(results, "reference", i) for s, i in ids.items()},
                "score": viz.score(row["score"]),
                "relation": "",
                "branches": "",
                "other": "",
                "reviewed": "",
                "evidence": f"reported together for {together}",
            }
        )
    note = "Both images are references: duplicates, or two images that one query combines"
    return {"title": "Possible duplicate references", "note": note, "kind": "", "pairs": pairs}


def _other(row: _Row) -> str:
    """The other reference of an error, or ""."""
    if not row.other_reference_id:
        return ""
    relation = "outscored by" if row.kind == "missed" else "made from"
    return f"{relation} {viz.label(row.other_reference_id, 44)}"


def evidence_in_words(
    evidence: pd.Series | None, remarks: Sequence[str] = (), other_copies: int = 0
) -> str:
    """A row of the evidence table as one line; None: the pair was not verified. remarks: of
    `Results.remarks`; other_copies: references that show the same picture as that of the pair."""
    words = [_in_words(evidence), *remarks]
    if other_copies:
        show = "reference shows" if other_copies == 1 else "references show"
        words.append(f"{other_copies:,} more {show} the same picture")
    return "; ".join(words)


def edit_in_words(evidence: pd.Series | None) -> str:
    """The transform from the reference to the query, as of `verify.describe`; "" where none is known."""
    if evidence is None or evidence.get("identical") or evidence.get("refused"):
        return ""
    return str(evidence.get("transform", ""))


def _in_words(evidence: pd.Series | None) -> str:
    if evidence is None:
        return "not verified"
    if evidence.get("identical"):
        return "the two files are identical, byte for byte"
    if evidence.get("refused"):
        return REASONS.get(evidence["refused"], str(evidence["refused"]).replace("_", " "))
    words = list(filter(None, [edit_in_words(evidence)]))
    if "inliers" in evidence:
        words.append(
            f"{int(evidence['inliers'])} of {int(evidence['tentative'])} matches are inliers"
        )
    if evidence.get("shared_by", 0) > 0:
        inside, others = int(evidence["shared_inliers"]), int(evidence["shared_by"])
        share = "reference shares" if others == 1 else "references share"
        words.append(f"{inside:,} of them lie in a part that {others:,} more {share}")
    if pd.notna(evidence.get("ncc_inlier_ratio")):
        chance = (
            f" (chance {100 * evidence['ncc_chance']:.0f} %)" if "ncc_chance" in evidence else ""
        )
        words.append(f"block NCC inlier ratio {100 * evidence['ncc_inlier_ratio']:.0f} %{chance}")
    if evidence.get("localisable_blocks"):
        displaced, blocks = int(evidence["displaced_blocks"]), int(evidence["localisable_blocks"])
        words.append(f"{displaced} of {blocks} localisable blocks displaced")
    if evidence.get("compared_blocks"):
        differing, compared = int(evidence["differing_blocks"]), int(evidence["compared_blocks"])
        words.append(f"{differing:,} of {compared:,} blocks differ at full resolution")
        if evidence.get("unshared_differing", 0) > 0:
            outside = int(evidence["unshared_differing"])
            words[-1] += f", {outside:,} of them outside the shared part"
    if evidence.get("copy_probability"):
        words.append(f"pair classifier: {evidence['copy_probability']:.2f} probability of a copy")
        if "ncc_stable" in evidence and shows_another_photograph(evidence):
            words[-1] += ", and the blocks that correlate do so displaced: another photograph"
    if "colour_difference" in evidence and lacks_structure(evidence):
        colours = "differ" if evidence["colour_difference"] >= COLOURS_DIFFER else "agree"
        words.append(f"too little structure to tell; the colours {colours}")
    return "; ".join(words)


def error_sheets(results: Results) -> list[dict[str, Any]]:
    """One sheet per kind and cause of the run's errors."""
    sheets = []
    kinds = {"missed": ("Missed", "missed copies"), "false_alarm": ("False alarm", "false alarms")}
    for kind, (title, plural) in kinds.items():
        of_kind = results.errors[results.errors["kind"] == kind]
        for cause in of_kind["cause"].unique():
            rows = of_kind[of_kind["cause"] == cause]
            note = f"{len(rows):,} of {len(of_kind):,} {plural}"
            sheets.append(sheet(results, f"{title}: {CAUSES[cause]}", note, rows, kind=kind))
    return sheets
