# SPDX-License-Identifier: AGPL-3.0-or-later
"""Queries of several references: what is pasted where, and a truth that names all of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from imgfp.benchmarks import collages
from imgfp.decoding import read_image
from imgfp.images import encode_jpeg

COLOURS = {"red": (220, 0, 0), "green": (0, 220, 0), "blue": (0, 0, 220), "white": (255, 255, 255)}


@pytest.fixture
def references(tmp_path):
    folder = tmp_path / "references"
    folder.mkdir()
    for name, colour in COLOURS.items():
        image = np.full((90, 120, 3), colour, np.uint8)
        (folder / f"{name}.jpg").write_bytes(encode_jpeg(image))
    return folder


def test_every_reference_of_the_truth_is_in_its_query(references, tmp_path):
    collages.make(references, tmp_path / "a", 8, seed=1)
    collages.make(references, tmp_path / "b", 4, seed=1)
    truth = pd.read_csv(tmp_path / "a" / "truth.csv")
    assert truth.groupby("query_id").size().between(2, 4).all() and truth["query_id"].nunique() == 8
    for query_id, rows in truth.groupby("query_id"):
        path = tmp_path / "a" / "queries" / f"{query_id}.jpg"
        pixels = read_image(path).reshape(-1, 3).astype(int)
        shown = {
            name
            for name, colour in COLOURS.items()
            if (abs(pixels - colour).max(axis=1) < 30).mean() > 0.02
        }
        assert shown >= {*rows["reference_id"]}
        again = tmp_path / "b" / "queries" / path.name
        assert not again.exists() or again.read_bytes() == path.read_bytes()


def test_too_few_references_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds 0 pictures"):
        collages.make(tmp_path, tmp_path / "out", 4, seed=1)
