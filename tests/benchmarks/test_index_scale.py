# SPDX-License-Identifier: AGPL-3.0-or-later
"""The benchmark of large indexes finds its own queries, and adds keypoints that are nobody's copies."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("faiss")

from small_run import made_with

from imgfp import store
from imgfp.benchmarks import index_scale
from imgfp.datatypes import LocalFeatures


@pytest.fixture
def sides(tmp_path, rng):
    """Twenty references of fifty keypoints, and slightly changed copies of five of them as queries."""
    library, run = store.Library(tmp_path / "library"), store.Run(tmp_path / "run")
    descriptors = rng.integers(0, 45, (20, 50, 128), np.uint8)
    keypoints = rng.uniform(0, 300, (50, 4)).astype(np.float32)
    named = [f"R{number}" for number in range(20)], [f"Q{number}" for number in range(5)]
    for collection, ids, arrays in (
        (library, named[0], descriptors),
        (run, named[1], descriptors ^ 1),
    ):
        features = [(keypoints, array) for array in arrays[: len(ids)]]
        record = LocalFeatures.from_images(ids, features)
        store.save(collection.local_features / "shard-00000.h5", record, made_with())
    truth = tmp_path / "truth.csv"
    truth.write_text(
        "query_id,reference_id\n" + "".join(f"Q{n},R{n}\n" for n in range(5)) + "Q9,\n"
    )
    return library, run, truth


def test_added_keypoints_repeat_and_keep_their_distance(sides, monkeypatch):
    library, *_ = sides
    keypoints = index_scale.Keypoints(library, 3000, seed=1)
    monkeypatch.setattr(index_scale, "_STEP", 700)
    once, again = ([keypoints.piece(start) for start in keypoints.starts()] for _ in range(2))
    ids = np.concatenate([piece[1] for piece in once])
    once, again = (np.concatenate([piece[0] for piece in pieces]) for pieces in (once, again))
    assert len(once) == len(keypoints) == 3000 and np.array_equal(once, again)
    assert np.array_equal(once[:1000], keypoints.real)
    rng = np.random.default_rng(3)
    moved = index_scale.jittered(keypoints.real, rng).astype(float)
    assert 255 * 0.97 < np.linalg.norm(moved, axis=1).mean() < 255 * 1.03
    # Sizes of images: those of the library, then 400 keypoints each.
    images = pd.Series(ids >> 20).value_counts(sort=False)
    assert images.tolist() == [50] * 20 + [400] * 5
    sample = keypoints.sample(300)
    assert len(sample) == 300 and 60 < (sample[:, None] == keypoints.real).all(2).any(1).sum() < 140


def test_every_storage_is_compared_with_exact_search(sides, tmp_path, monkeypatch, capsys):
    library, run, truth = sides
    words = [library.root, run.root, truth, tmp_path / "indexes", "--keypoints", 3000, "--exact", 5]
    words += ["--storage", "IVF16,SQ8_direct", "IVF16,PQ16", "--nprobe", 4, 16]
    monkeypatch.setattr(sys, "argv", ["index_scale", *map(str, words)])
    index_scale.main()
    said = capsys.readouterr().out
    assert "3,000 keypoints, 5 queries" in said
    last = said.strip().splitlines()
    rows = [line.split() for line in last if line.lstrip().startswith("IVF16,")][-4:]
    assert [row[:2] for row in rows] == [
        [storage, nprobe]
        for storage in ("IVF16,SQ8_direct", "IVF16,PQ16")
        for nprobe in ["4", "16"]
    ]
    assert all(float(row[7]) == 1 for row in rows), "every copy is among the first ten"
    assert float(rows[0][2]) < 137 and float(rows[2][2]) < 25
    assert "the first 5 queries" in last[-1] and "1.0" in last[-1]
    index_scale.main()
    again = capsys.readouterr().out.strip().splitlines()
    rows = [line.split() for line in again if line.lstrip().startswith("IVF16,")][-4:]
    assert all(float(row[3]) < 0.1 and float(row[4]) == 0 for row in rows), "nothing is built again"
