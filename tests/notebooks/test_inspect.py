# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebook 10 without a person: figures in place of the browsers, in the copy and in its HTML export."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks/10_inspect_and_review.ipynb"


@pytest.mark.pipeline
@pytest.mark.parametrize("truth", [True, False])
def test_headless_copy_holds_static_figures(hostile_run, tmp_path, monkeypatch, truth):
    import papermill
    from nbconvert import HTMLExporter

    run = hostile_run
    if not truth:
        import small_run

        run = small_run.build(tmp_path, with_truth=False, keep_originals=False)
    monkeypatch.setenv("IMGFP_HEADLESS", "1")
    executed = papermill.execute_notebook(
        str(NOTEBOOK),
        None,
        parameters={"run_dir": str(run), "library_dir": str(run.parent / "library")},
        progress_bar=False,
    )
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    shown = [output.get("data", {}) for output in outputs]
    assert sum("image/png" in data for data in shown) == 5
    notes = [data for data in shown if "to use the live browser" in str(data)]
    assert len(notes) == 6 and not any("widget-view" in str(data) for data in shown)
    page, _ = HTMLExporter().from_notebook_node(executed)
    assert page.count('<div class="jp-RenderedImage') == 5
    assert "<img src=x onerror" not in page
