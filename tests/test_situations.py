# SPDX-License-Identifier: AGPL-3.0-or-later
"""A whole run over a few pictures that are made here: situations in which photographs are no guide."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import whole_run
from flat_drawings import disc, ring

from imgfp import store

NAVY, ORANGE, CREAM, GREEN, PLUM, GOLD = (
    (20, 60, 90), (240, 120, 30), (230, 230, 210), (30, 90, 60), (90, 20, 70), (220, 190, 60),
)  # fmt: skip


def write(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    for name, image in pictures.items():
        cv2.imwrite(str(folder / f"{name}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return folder


@pytest.fixture(scope="module")
def run(photograph, other_photograph, in_process, tmp_path_factory) -> store.Run:
    folder = tmp_path_factory.mktemp("situations")
    logos = {
        "ring": ring(NAVY, ORANGE),
        "other ring": ring(CREAM, GREEN, 100),
        "disc": disc(NAVY, GOLD),
        "other disc": disc(PLUM, CREAM, 110),
    }
    references = write(
        folder / "references", {"china": photograph, "flower": other_photograph, **logos}
    )
    smaller = {name: cv2.resize(image, (448, 280)) for name, image in logos.items()}
    queries = write(
        folder / "queries",
        {
            "both": np.concatenate([photograph, other_photograph], axis=1),
            "ring again": smaller["ring"],
            "ring mirrored": smaller["ring"][:, ::-1],
            "disc again": smaller["disc"],
            "third ring": ring(GREEN, GOLD),
            "third disc": disc(GREEN, ORANGE, 130),
        },
    )
    truth = folder / "truth.csv"
    rows = ["query_id,reference_id", "both,china", "both,flower", "ring again,ring"]
    rows += ["ring mirrored,ring", "disc again,disc", "third ring,", "third disc,"]
    truth.write_text("\n".join(rows))
    return whole_run.execute(folder, references, queries, in_process, truth=str(truth))


def test_flat_drawings_of_one_form_are_told_apart_by_their_colours(run):
    found = whole_run.answers(run)
    for query in ("ring again", "ring mirrored", "disc again"):
        assert found[query].index[0] == query.split()[0] and found[query].iloc[0] > 0.5
        assert (found[query].iloc[1:] < 0.5).all()
    for query in ("third ring", "third disc"):
        assert (found[query] < 0.5).all()


def test_two_references_in_one_query_are_found_and_measured(run):
    found = whole_run.answers(run)["both"]
    assert {*found.index[found > 0.5]} == {"china", "flower"}
    metrics = store.read_json(run.metrics_json)
    assert metrics["positives"] == 5 and metrics["micro_ap"] == 1.0
