# SPDX-License-Identifier: AGPL-3.0-or-later
"""Animations and documents of several pages, as queries and as references, through a whole run."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import whole_run
from PIL import Image

from imgfp import report, store
from imgfp.results import Results
from imgfp.stages.verification import read_evidence


def blobs(seed: int, width: int = 480, height: int = 320) -> np.ndarray:
    """A picture that no other shows."""
    small = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def save(path: Path, *frames: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    first, *others = map(Image.fromarray, frames)
    first.save(path, **({"save_all": True, "append_images": others} if others else {}))


@pytest.fixture(scope="module")
def run(photograph, other_photograph, in_process, tmp_path_factory) -> store.Run:
    folder = tmp_path_factory.mktemp("frames")
    references, queries = folder / "references", folder / "queries"
    save(references / "china.jpg", photograph)
    save(references / "document.tif", blobs(1), blobs(2), other_photograph[:, ::-1], blobs(3))
    save(references / "single.png", blobs(4))
    save(queries / "film.gif", blobs(5), photograph[40:400, 60:600])
    save(
        queries / "both.webp",
        photograph[:300, :400],
        blobs(6, 400, 300),
        other_photograph[:300, :400],
    )
    save(queries / "page.jpg", cv2.resize(other_photograph, (480, 320)))
    save(queries / "stranger.png", blobs(7), blobs(8))
    truth = folder / "truth.csv"
    rows = ["film,china", "both,china", "both,document", "page,document", "stranger,"]
    truth.write_text("\n".join(["query_id,reference_id", *rows]))
    return whole_run.execute(
        folder, references, queries, in_process, truth=str(truth), max_frames=4
    )


def test_a_frame_is_found_and_the_file_is_answered(run):
    found = whole_run.answers(run)
    copies = {query: {*scores.index[scores > 0.5]} for query, scores in found.items()}
    assert copies["film"] == {"china"} and copies["page"] == {"document"}
    assert copies["both"] == {"china", "document"} and not copies.get("stranger")
    metrics = store.read_json(run.metrics_json)
    assert (metrics["queries"], metrics["positives"], metrics["micro_ap"]) == (4, 4, 1.0)


def test_the_evidence_names_the_frames(run):
    rows = read_evidence(run).query("inliers > 20")
    pairs = {*rows[["view_id", "reference_id"]].itertuples(index=False, name=None)}
    assert pairs >= {("film#frame=2", "china"), ("page", "document#frame=3")}
    assert pairs >= {("both", "china"), ("both#frame=3", "document#frame=3")}

    results = Results(run, run.root.parent / "library")
    assert results.images_of("both", "document") == ("both#frame=3", "document#frame=3")
    assert results.remarks("both", "document") == ["query: frame 3 of 3", "reference: frame 3 of 4"]
    assert results.remarks("both", "china") == ["query: frame 1 of 3"]
    shown = results.picture("query", "both#frame=3"), results.thumbnail("query", "both#frame=3")
    assert shown[0].shape == (300, 400, 3) and shown[1].shape == (192, 256, 3)
    outlines = results.outlines("film", "china")
    np.testing.assert_allclose(outlines[1].min(axis=0), (60, 40), atol=3)
    page = report.build(results, rounds=0)
    assert "4 queries were compared with 3 references" in page
    assert "query: frame 2 of 2" in page
