# SPDX-License-Identifier: AGPL-3.0-or-later
"""The evidence of a pair as rows of text: what was measured and what it means, what each branch proposed, and what each
feature adds to the score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from imgfp import viz
from imgfp.datatypes import BRANCHES
from imgfp.results import Results
from imgfp.scoring.fusion import FEATURES

#: Columns of the evidence that tell most: name -> label, meaning.
SHOWN = {
    "tentative": (
        "putative matches",
        "mutual nearest neighbours of the SIFT descriptors that pass a ratio test",
    ),
    "inliers": (
        "inliers",
        "putative matches that the homography maps to within 4 pixels of the keypoint frame",
    ),
    "inlier_ratio": ("inlier ratio", "inliers / putative matches inside the overlap"),
    "ncc_inlier_ratio": (
        "block NCC inlier ratio",
        "fraction of the overlap whose blocks correlate once the query is warped onto the reference "
        "(normalised cross-correlation above 0.7)",
    ),
    "ncc_chance": (
        "… chance level",
        "the block NCC inlier ratio of deliberately misaligned images: high for repeated texture",
    ),
    "ncc_edges": (
        "edge NCC inlier ratio",
        "fraction of the blocks whose edges correlate, less its chance level",
    ),
    "model_consistency": (
        "model consistency",
        "fraction of the matching blocks whose displacement the transform model explains: high for "
        "copies, lower for a second photograph",
    ),
    "localisable_blocks": (
        "localisable blocks",
        "matching blocks whose best displacement is well defined in every direction",
    ),
    "displaced_blocks": (
        "… displaced",
        "localisable blocks that match elsewhere: parallax or motion, as in a second photograph",
    ),
    "copy_probability": (
        "pair classifier",
        "probability, 0 to 1, that the aligned images are copy and original; 0: it did not run",
    ),
    "colour_difference": (
        "colour difference",
        "mean difference of the aligned colours, grey levels",
    ),
    "compared_blocks": (
        "blocks compared",
        "textured blocks compared at full resolution, where references share what matches, or the reference is a page, a "
        "screen or a drawing",
    ),
    "differing_blocks": (
        "blocks that differ",
        "blocks that show something else at full resolution: many in a form with other content",
    ),
    "rewritten_blocks": (
        "… rewritten",
        "differing blocks on the same ground in the same contrast, as another text in a form, less those on another",
    ),
    "shared_inliers": (
        "inliers in shared parts",
        "inliers in a form, a logo or a frame that other references have, too: they tell little",
    ),
    "shared_by": ("… shared by", "references that have such a part in common with this one"),
    "tilt_deg": (
        "tilt, degrees",
        "rotation against the nearest image axis; 0 after most edits",
    ),
    "query_area": ("query overlap", "fraction of the query that the overlap covers"),
    "reference_area": (
        "reference overlap",
        "fraction of the reference that the overlap covers",
    ),
    "direction": ("containment", "which image contains the other"),
    "model": ("transform model", "the simplest model that explains the alignment"),
    "refused": ("no transform because", "the plausibility test that failed"),
}
#: The other columns of the evidence but the homography and the numbers of keypoints: name -> label, meaning.
OTHERS = {
    "drawn": (
        "reference drawn",
        "flat in large parts, as pages, screens and drawings are: always compared at full resolution",
    ),
    "unchanged_blocks": (
        "blocks unchanged",
        "blocks that certainly show the same at full resolution",
    ),
    "unshared_unchanged": (
        "… outside shared parts",
        "unchanged blocks outside the parts that other references share",
    ),
    "unshared_differing": (
        "blocks that differ outside shared parts",
        "blocks that show something else outside the parts that other references share",
    ),
    "matches": (
        "ratio-test matches",
        "matches that pass the ratio test of the 2021 system, one per rounded position: the larger of the next two",
    ),
    "matches_plain": ("… as it is", "ratio-test matches with the reference as it is"),
    "matches_mirrored": ("… mirrored", "ratio-test matches with the mirrored reference"),
    "mirrored": ("mirrored", "the transform mirrors the query"),
    "contrast_reversed": (
        "contrast reversed",
        "fraction of the inliers whose contrast is reversed: near 1 for a negative",
    ),
    "guided_inliers": (
        "guided inliers",
        "inliers, also among matches searched near the positions that the transform predicts",
    ),
    "exact_inliers": (
        "exact inliers",
        "inliers with a reprojection error of less than one pixel of the keypoint frame",
    ),
    "consistency": (
        "consistency",
        "of the ratio-test matches in the overlap, exact inliers / (1 + all)",
    ),
    "angle_error_deg": (
        "angle error, degrees",
        "median error of the inliers' angles: small for a copy",
    ),
    "distinct_inliers": (
        "distinct inliers",
        "inliers, each over the number of candidate references that share it: small for a logo or text",
    ),
    "reprojection_error_px": (
        "reprojection error, px",
        "median over the inliers, in pixels of the keypoint frame",
    ),
    "shear_deg": ("shear, degrees", "deviation of the image axes from a right angle"),
    "perspective": ("perspective", "largest ratio of scale between corners of the overlap, less 1"),
    "ncc_best_rectangle": (
        "… best rectangle",
        "block NCC inlier ratio in the rectangle where inliers prevail most",
    ),
    "ncc_fine": (
        "… fine detail",
        "fraction of the overlap's texture that correlates in fine detail",
    ),
    "ncc_inlier_blocks": ("… blocks", "blocks that correlate in the best rectangle"),
    "ncc_stable": (
        "… stable",
        "of the blocks that correlate nearby, the fraction that does best undisplaced",
    ),
    "ncc_p80": ("… 80th percentile", "80th percentile of the absolute block correlations"),
    "aligned_blocks": (
        "aligned blocks",
        "blocks that match undisplaced after refinement; 0: not refined",
    ),
    "hypothesis_source": (
        "transform from",
        "what gave the transform: keypoint matches, or the frames laid on each other",
    ),
    "identical": ("identical files", "the two files have the same bytes"),
    "transform": ("transform", "the transform in words"),
}


def measured(
    evidence: pd.Series | None, columns: Mapping[str, tuple[str, str]]
) -> list[tuple[str, str, str]]:
    """Label, value and meaning of each of these columns (name -> label, meaning) that has a value in a row of the
    evidence table; none for a pair that was not verified."""
    rows = []
    for name, (label, meaning) in columns.items():
        value = None if evidence is None else evidence.get(name)
        if value is None or value == "" or pd.isna(value):
            continue
        if isinstance(value, bool | np.bool_):
            text = "yes" if value else "no"
        elif isinstance(value, float | np.floating):
            text = f"{value:.3g}"
        else:
            text = str(value).replace("_", " ")
        rows.append((label, text, meaning))
    return rows


def branch_rows(results: Results, query_id: str, reference_id: str) -> list[tuple[str, str]]:
    """How each branch proposed the pair, and the score without each branch."""
    candidates = results.candidates_of(query_id, reference_id)
    if not len(candidates):
        return [("proposed by", "no branch")]
    columns = ["rank", "score", "mirrored", "accepted"]
    by_rule = results.parameter("candidates_scored") == "accepted"
    rows = []
    for branch in BRANCHES:
        of_branch = candidates.loc[candidates["branch"] == branch, columns]
        for rank, score, mirrored, accepted in of_branch.itertuples(index=False):
            value = f"similarity {score:.3f}" if branch == "global" else f"{score:g} votes"
            text = f"rank {rank + 1}, {value}{' mirrored' if mirrored else ''}"
            rows.append((f"branch {branch}", text + (", accepted" if accepted and by_rule else "")))
    for name, score in results.scores_without(query_id, reference_id).items():
        rows.append((f"score, {name}", "not proposed" if score is None else viz.score(score)))
    return rows


def log_odds_added(
    results: Results, query_id: str, reference_id: str
) -> list[tuple[str, str, str]]:
    """Label, value and meaning of what each feature adds to the log-odds of a pair, largest first."""
    return [
        (f"log-odds: {name.replace('_', ' ')}", f"{value:+.2f}", FEATURES.get(name, ""))
        for name, value in results.contributions(query_id, reference_id).items()
    ]
