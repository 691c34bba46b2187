# SPDX-License-Identifier: AGPL-3.0-or-later
"""Curves of the robustness lab against figures that are known by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from imgfp.report import robustness as figures
from imgfp.results import robustness


@pytest.fixture
def lab():
    """Four copies, of which one is not proposed and one is below an unrelated query: a run and its meta."""
    rows = [("b1", "r1", "blur", 0.2), ("b2", "r2", "blur", 0.8), ("c1", "r3", "crop", 0.2)]
    rows += [("c2", "r4", "crop", 0.8), ("u1", "", "unrelated", 0.2), ("u2", "", "unrelated", 0.8)]
    meta = pd.DataFrame(rows, columns=["query_id", "reference_id", "family", "strength"])
    meta["ops"] = ["blur", "blur+crop", "crop", "crop", "blur", "blur"]
    meta["homography"] = [np.diag([2.0, 2, 1])] * len(meta)
    pairs = [("b1", "r1", 0.9), ("u1", "r1", 0.7), ("c1", "r3", 0.6), ("b2", "r4", 0.3)]
    predictions = pd.DataFrame(pairs, columns=["query_id", "reference_id", "score"])
    candidates = predictions.assign(branch=["local", "global", "global", "local"])
    moved = np.diag([0.5, 0.5, 1])
    moved[0, 2] = 5  # px of the reference, whose diagonal is 500
    evidence = predictions[["query_id", "reference_id"]]
    found = dict.fromkeys([f"h{i}{j}" for i in range(3) for j in range(3)])
    run = SimpleNamespace(
        run=SimpleNamespace(root=Path("runs/lab")),
        predictions=predictions,
        candidates=candidates,
        threshold=0.5,
        evidence=evidence,
        truth=meta[["query_id", "reference_id"]],
        size=lambda side, image_id: (600, 800) if side == "query" else (300, 400),
        best_evidence=lambda *pair: pd.Series(dict(zip(found, moved.ravel(), strict=True))),
        errors=pd.DataFrame(
            [("b2", "missed", "not_proposed"), ("c2", "missed", "not_proposed")],
            columns=["query_id", "kind", "cause"],
        ),
    )
    return run, meta


def test_each_group_is_measured_against_all_unrelated_queries(lab):
    curves = robustness.curves(*lab, target_precision=0.9, rounds=20, seed=0)
    assert len(curves) == 3 * 3 * 4

    def point(family, strength, branch="all"):
        chosen = curves[(curves["family"] == family) & (curves["branch"] == branch)]
        at = chosen["strength"].isna() if strength is None else chosen["strength"] == strength
        (row,) = chosen[at].to_dict("records")
        return row

    blur, crop, weak = point("blur", None), point("crop", None), point("all", 0.2)
    assert (blur["copies"], blur["proposed"], blur["found"], blur["micro_ap"]) == (2, 0.5, 0.5, 0.5)
    assert crop["micro_ap"] == pytest.approx(0.25) and crop["recall_at_p90"] == 0
    assert weak["micro_ap"] == pytest.approx((1 + 2 / 3) / 2)
    assert point("all", None, "local")["proposed"] == 0.25
    assert point("crop", 0.2, "global")["micro_ap"] == 0.5
    for row in curves.to_dict("records"):
        for name in ("micro_ap", "recall_at_p90", "proposed", "found"):
            assert row[f"{name}_low"] <= row[name] + 1e-9 <= row[f"{name}_high"] + 2e-9
    assert point("all", None)["aligned"] == 0.5  # of four copies, two are proposed; moved by 1 %


def test_corner_error_is_a_share_of_the_diagonal():
    true = np.array([[0, -2.0, 799], [2, 0, 0], [0, 0, 1]])  # turned, twice as large
    found = np.linalg.inv(true)
    sizes = (600, 800), (300, 400)
    assert robustness.corner_error(true, found, *sizes) == pytest.approx(0, abs=1e-9)
    found[1, 2] += 25
    assert robustness.corner_error(true, found, *sizes) == pytest.approx(25 / 500)
    outside = np.array([[1, 0, 9000.0], [0, 1, 0], [0, 0, 1]])
    assert np.isnan(robustness.corner_error(outside, found, *sizes))


def test_fates_and_differences(lab):
    run, meta = lab
    fates = robustness.fates(run, meta).set_index("edit")
    assert fates.loc["crop", ["copies", "found", "not_proposed"]].tolist() == [3, 1 / 3, 2]
    assert fates.loc["blur", ["copies", "proposed"]].tolist() == [2, 0.5]
    worse = SimpleNamespace(**vars(run))
    worse.predictions = run.predictions.assign(score=[0.1, 0.7, 0.6, 0.3])
    options = {"target_precision": 0.9, "rounds": 20, "seed": 0}
    table = robustness.differences(run, worse, meta, **options)
    blur = table[(table["family"] == "blur") & (table["metric"] == "micro_ap")].iloc[0]
    assert blur["value"] == 0.5 and blur["difference"] > 0.2
    assert set(table["family"]) == {"all", "blur", "crop"}
    worse.truth = run.truth.iloc[:3]
    with pytest.raises(ValueError, match="other queries"):
        robustness.differences(run, worse, meta, **options)


def test_two_labs_are_drawn_over_each_other(lab):
    curves = robustness.curves(*lab, target_precision=0.9, rounds=0, seed=0)
    labs = {"one": curves, "two": curves}
    legend = figures.draw_branches(labs).axes[0].get_legend().texts
    assert {"all, one", "global, two"} <= {text.get_text() for text in legend}
    assert len(figures.draw_overall(labs).axes[0].lines) == 2
    panels = figures.draw_families(labs).axes
    assert [ax.get_title(loc="left") for ax in panels[:2]] == ["blur", "crop"]
    assert panels[0].lines[1].get_ydata().tolist() == [1, 0], "found at each strength"
