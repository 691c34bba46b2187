# SPDX-License-Identifier: AGPL-3.0-or-later
"""The robustness lab on a few photographs, its run in the process of the test."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import small_run
import whole_run

from imgfp import store
from imgfp.images import encode_jpeg
from imgfp.runner import notebooks

pytestmark = pytest.mark.pipeline


def test_the_lab_makes_queries_runs_and_draws_curves(tmp_path, in_process, monkeypatch):
    (tmp_path / "photographs").mkdir()
    for name, image in small_run.photographs().items():
        (tmp_path / f"photographs/{name}.jpg").write_bytes(encode_jpeg(image))
    lab = store.Lab(tmp_path / "<b>lab")
    plans = []

    def execute(plan):
        plans.append(plan)
        notebooks._begin_record(plan).write(plan.run.params_yaml)
        queries = str(lab.queries)
        given = {n: plan.values[n] for n in ("truth", "certain_score", "fusion")}
        return whole_run.execute(lab.root, lab.references_csv, queries, in_process, **given)

    monkeypatch.setattr(notebooks, "execute", execute)
    values = {"photo_dir": str(tmp_path / "photographs"), "run_dir": str(lab.root)}
    values |= {"library_dir": str(lab.root / "library"), "cluster": in_process}
    values |= {"edit_families": ["mirror"], "edit_strengths": [0.2, 0.6]}
    values |= {"copies_per_point": 1, "unrelated": 2, "negatives": 1, "edited_short_side_px": 128}
    values |= {"insecure_cluster": True, "bootstrap_rounds": 10, "other_run_dir": str(lab.root)}
    values |= {"measured_settings": ["certain_score: 1", "fusion: sum"]}
    names = whole_run.run_cells(whole_run.NOTEBOOKS / "24_robustness_lab.ipynb", values)
    assert plans[0].values["certain_score"] == 1.0 and plans[0].values["fusion"] == "sum"
    assert plans[0].library.root == lab.root / "library"
    curves = pd.read_csv(lab.curves_csv)
    whole = curves[(curves["family"] == "mirror") & curves["strength"].isna()]
    mirror = whole.set_index("branch").loc["all"]
    assert mirror["found"] == mirror["proposed"] == mirror["aligned"] == 1
    assert mirror["corner_error"] < 0.005, "the recovered region lies where the edits put it"
    assert len(names["labs"]) == 2 and np.allclose(names["compared"]["difference"], 0)
    page = lab.page_html.read_text("utf-8")
    assert page.count("data:image/png") == 4 and "&lt;b&gt;lab" in page and "<b>" not in page
    assert pd.read_csv(lab.edits_csv)[["edit", "copies"]].values.tolist() == [["mirror", 2]]
