"""The report's pairs: two pictures, what they share, the score and the evidence in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
from markupsafe import Markup

from imgfp import viz
from imgfp.datatypes import BRANCHES
from imgfp.results import Results, Side
from imgfp.store import decisions
from imgfp.verify.estimation import REFUSALS
from imgfp.viz import svg

#: Pictures on the page: the longer side in pixels, and how many pairs a sheet shows.
LONG_SIDE_PX, PAIRS_A_SHEET = 300, 6
REASONS = {name: f"no map between the pictures: {why}" for name, why in REFUSALS.items()} | {
    "shared_by_many": "not believed: the matches lie in text, a logo or a texture of many references"
}
CAUSES = {
    "crop_box_wrong": "The pasted picture was not boxed, and nothing was proposed",
    "not_proposed": "No branch proposed the true reference",
    "beaten_by_another": "Another reference scored at least as high",
    "under_scored": "Proposed, but scored under the threshold",
    "duplicate_of_the_truth": "Reported beside the true reference: the two may be one picture",
    "same_scene_other_photograph": "Another photograph of the same scene",
    "suspicious_truth": "The pixels agree: the truth may be incomplete",
    "wrong_reference_of_a_copy": "A copy, but of another reference",
    "reference_matches_many_queries": "The reference matches many queries",
    "no_geometric_evidence": "No geometric evidence supports the pair",
    "look_alike": "The pictures look alike",
}


def best_of_each_query(results: Results) -> pd.DataFrame:
    return results.pairs[results.pairs["rank"] == 0]


def sheet(
    results: Results,
    title: str,
    note: str,
    rows: pd.DataFrame,
    *,
    kind: str = "",
    count: int = PAIRS_A_SHEET,
) -> dict:
    held = decisions.consensus(decisions.read(results.decisions_path))
    said = held.set_index(["query_id", "reference_id"])["decision"].to_dict()
    pairs = [_pair(results, row, said) for row in rows.head(count).itertuples()]
    return {"title": title, "note": note, "kind": kind, "pairs": [p for p in pairs if p]}


def _pair(results: Results, row, said: dict[tuple[str, str], str]) -> dict | None:
    """One pair as pictures, score and evidence; None where a picture is not in run and library."""
    ids = {"query": row.query_id, "reference": row.reference_id}
    try:
        for side, image_id in ids.items():
            results.size(side, image_id)
    except KeyError:
        return None
    evidence = results.best_evidence(*ids.values())
    shapes = results.outlines(*ids.values())
    pictures = {
        side: _picture(results, side, image_id, shape)
        for (side, image_id), shape in zip(ids.items(), shapes, strict=True)
    }
    found = set(results.candidates_of(*ids.values())["branch"])
    branches = [branch for branch in BRANCHES if branch in found]
    return {
        "query": viz.label(row.query_id, 44),
        "reference": viz.label(row.reference_id, 44),
        "pictures": pictures,
        "score": "not scored" if pd.isna(row.score) else viz.number(row.score),
        "branches": " + ".join(branches) or "no branch",
        "other": _other(row),
        "said": evidence_in_words(evidence),
        "reviewed": said.get(tuple(ids.values()), "").replace("_", " "),
    }


def _picture(
    results: Results, side: Side, image_id: str, shape: np.ndarray | None = None
) -> Markup:
    """An image with an outline (k,2) on it."""
    small = svg.small_jpeg(results.thumbnail(side, image_id), LONG_SIDE_PX)
    return Markup(svg.outlined(small, results.size(side, image_id), shape, f"{side} {image_id}"))


def double_sheet(results: Results, doubles: pd.DataFrame) -> dict:
    """The references of `errors.duplicate_references`, side by side."""
    pairs = []
    for row in doubles.head(PAIRS_A_SHEET).itertuples():
        ids = {"query": row.reference_id, "reference": row.other_id}
        pair = {side: viz.label(image_id, 44) for side, image_id in ids.items()}
        pair["pictures"] = {s: _picture(results, "reference", i) for s, i in ids.items()}
        pair |= {"score": viz.number(row.score), "branches": "", "other": "", "reviewed": ""}
        many = "one query" if row.queries == 1 else f"{row.queries:,} queries"
        pairs.append(pair | {"said": f"reported together for {many}"})
    note = "Both are references: one picture twice, or two pictures in one query"
    return {"title": "References that may be the same", "note": note, "kind": "", "pairs": pairs}


def _other(row) -> str:
    """Of a loss, which other reference it is about, else ""."""
    other = getattr(row, "other_reference_id", "")
    what = "beaten by" if other and row.kind == "missed" else "made from"
    return f"{what} {viz.label(other, 44)}" if other else ""


def evidence_in_words(evidence: pd.Series | None) -> str:
    """A row of the evidence table as one line for people."""
    if evidence is None:
        return "never compared"
    if evidence.get("refused"):
        return REASONS.get(evidence["refused"], str(evidence["refused"]).replace("_", " "))
    said = [str(evidence["transform"])] if evidence.get("transform") else []
    if "inliers" in evidence:
        said.append(f"{int(evidence['inliers'])} of {int(evidence['tentative'])} matches agree")
    if pd.notna(evidence.get("ncc_inlier_ratio")):
        said.append(f"{evidence['ncc_inlier_ratio']:.0%} of the overlap looks the same")
    if evidence.get("copy_probability"):
        said.append(f"the trained eye: {evidence['copy_probability']:.0%} a copy")
    return "; ".join(said)


def loss_sheets(results: Results, losses: pd.DataFrame) -> list[dict]:
    sheets = []
    for kind, title in (("missed", "Missed"), ("false_alarm", "False alarm")):
        of_kind = losses[losses["kind"] == kind]
        for cause, rows in of_kind.groupby("cause", sort=False):
            note = f"{len(rows):,} of {len(of_kind):,} "
            note += "missed copies" if kind == "missed" else "false pairs above the threshold"
            sheets.append(sheet(results, f"{title}: {CAUSES[cause]}", note, rows, kind=kind))
    return sheets
