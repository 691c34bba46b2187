"""Labelled aligned pairs, and the split into training and held-out photographs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("faiss")

from imgfp.training.pairs import dataset
from imgfp.verify.classifier import SIDE_PX


def test_pairs_are_aligned_as_in_a_run(pairs):
    assert set(pairs["kind"]) <= set(dataset.KINDS)
    assert {"copy", "synthetic"} <= set(pairs["kind"])
    own = pairs[pairs["kind"].isin(["copy", "synthetic"])]
    assert (own["source"] == own["reference_id"]).all()
    assert (pairs["source"] != pairs["reference_id"])[pairs["kind"].isin(["other", "scene"])].all()
    planes = dataset.planes_of(pairs)
    assert planes.shape == (len(pairs), 3, SIDE_PX, SIDE_PX) and planes.dtype == np.uint8
    assert ((planes[:, 2] > 127).mean(axis=(1, 2)) > 0.05).all()
    copies = planes[(pairs["kind"] == "copy").to_numpy()].astype(float)
    correlations = [np.corrcoef(q[m > 127], r[m > 127])[0, 1] for q, r, m in copies]
    assert np.median(np.abs(correlations)) > 0.7


def test_the_last_photographs_and_groups_are_held_out():
    ids = [f"{i:02d}" for i in range(30)]
    groups = ["g1"] * 3 + ["g2"] * 2 + ["g3"] * 2 + [""] * 23
    table = pd.DataFrame({"image_id": ids, "group": groups}).sample(frac=1, random_state=0)
    kept = set(table["image_id"][dataset.training_split(table, held_out=5)])
    assert kept == set(ids[:5]) | set(ids[7:25]), "two groups of three, and all but the last five"
    assert (
        len(set(table["image_id"][dataset.training_split(table, held_out=99)]) - set(ids[:7])) == 1
    )
