# SPDX-License-Identifier: AGPL-3.0-or-later
"""The study of keypoint budgets: what each rule keeps, and one table from a library, a run and a truth."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("faiss")

from small_run import made_with

from imgfp import store
from imgfp.benchmarks import keypoint_budget
from imgfp.benchmarks.index_scale import copies
from imgfp.datatypes import LocalFeatures


def crowded(rng):
    """300 strong keypoints in one corner, then 100 over the whole image of 300 px; x, y, size, angle."""
    places = np.concatenate([rng.uniform(0, 30, (300, 2)), rng.uniform(0, 300, (100, 2))])
    return np.hstack([places, np.ones((400, 2))]).astype(np.float32)


@pytest.fixture
def sides(tmp_path, rng):
    """Ten crowded references, and as queries five of them, of which only the faint keypoints are left."""
    library, run = store.Library(tmp_path / "library"), store.Run(tmp_path / "run")
    descriptors = rng.integers(0, 45, (10, 400, 128), np.uint8)
    places = [crowded(rng) for _ in descriptors]
    sides = (
        (library, "R", list(zip(places, descriptors, strict=True))),
        (run, "Q", [(p[300:], d[300:] ^ 1) for p, d in zip(places[:5], descriptors, strict=False)]),
    )
    for collection, letter, features in sides:
        ids = [f"{letter}{number}" for number in range(len(features))]
        record = LocalFeatures.from_images(ids, features)
        store.save(collection.local_features / "shard-00000.h5", record, made_with())
    truth = tmp_path / "truth.csv"
    truth.write_text(
        "query_id,reference_id\n" + "".join(f"Q{n},R{n}\n" for n in range(5)) + "Q9,\n"
    )
    return library, run, truth


@pytest.mark.parametrize("rule", keypoint_budget.CHOICES)
def test_every_rule_keeps_the_budget(rule, rng):
    keypoints = crowded(rng)
    kept = keypoint_budget.kept(keypoints, rule, 60)
    assert len(kept) == 60 and (np.diff(kept) > 0).all() and kept[0] == 0
    assert (np.mean(kept >= 300) > 0.5) == (rule != "strongest"), "all others leave the crowd"
    for budget in (0, 400, 500):
        assert np.array_equal(keypoint_budget.kept(keypoints, rule, budget), np.arange(400))
    assert len(keypoint_budget.kept(keypoints[:0], rule, 60)) == 0
    assert len(keypoint_budget.kept(np.zeros((9, 4), np.float32), rule, 5)) == 5


def test_cells_take_turns_and_squares_exclude():
    crowd = np.linspace(0, 0.9, 100)[:, None] * [1, 1]
    corners = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(-1, 2)[1:]
    points = np.float32([*crowd, *(corners + 0.4), *(corners + 0.6), [8, 8]])
    first_turn = [0, *range(100, 163)]
    assert keypoint_budget.by_cells(points, 64).tolist() == first_turn
    assert keypoint_budget.by_cells(points, 40).tolist() == first_turn[:40]
    assert keypoint_budget.by_cells(points, 66).tolist() == [0, 1, *range(100, 164)]
    row = np.float32([[0, 0], [1, 0], [50, 0], [50, 3], [100, 0]])
    assert keypoint_budget.by_squares(row, 3).tolist() == [0, 2, 4]


def test_the_table_of_a_library(sides, monkeypatch, capsys):
    library, run, truth = sides
    words = [library.root, run.root, truth, "--budgets", 60, 0, "--rules", "strongest", "radius"]
    monkeypatch.setattr(sys, "argv", ["keypoint_budget", *map(str, words)])
    keypoint_budget.main()
    said = capsys.readouterr().out
    assert "10 references, 5 queries" in said
    table = [line.split() for line in said.strip().splitlines()[-4:]]
    names = table[0]
    strongest, radius, everything = (dict(zip(names, row, strict=True)) for row in table[1:])
    assert [row["rule"] for row in (strongest, radius, everything)] == [
        "strongest",
        "radius",
        "all",
    ]
    # The queries show faint keypoints only.
    assert float(strongest["first"]) == 0 and float(radius["first"]) == 1
    assert float(everything["first"]) == 1
    assert float(radius["keypoints"]) == 60 and float(radius["feature_bytes"]) == 60 * 144
    assert 60 * 136 <= float(radius["index_bytes"]) < 60 * 137


def test_queries_have_a_budget_of_their_own(sides):
    library, run, truth = sides
    features = keypoint_budget.Features(library)
    queries = copies(run, truth, features.image_ids, 9, seed=0)
    every, few = (keypoint_budget.measure(features, queries, "radius", 0, n) for n in (0, 20))
    assert (every["query_keypoints"], few["query_keypoints"]) == (100, 20)
    assert every["keypoints"] == few["keypoints"] == 400
    assert every["first"] == few["first"] == 1


def test_a_library_with_a_budget_is_refused(sides):
    library, *_ = sides
    path = library.local_features / "shard-00000.h5"
    record = store.load(path)
    store.save(path, record, made_with(max_keypoints=200))
    with pytest.raises(
        store.StoreError, match=r"shard-00000\.h5: was made with sift_max_keypoints"
    ):
        keypoint_budget.Features(library)
