"""Labelled pairs made from a user's own pictures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from imgfp.descriptors.gist import GistGrid
from imgfp.scoring.fusion import features
from imgfp.training.calibration import calibration_pairs, split_photographs
from imgfp.verify.evidence import COLUMNS


@pytest.fixture(scope="module")
def pictures(photograph, other_photograph) -> list[np.ndarray]:
    """Eight small pictures: quarters of two photographs."""
    return [
        np.ascontiguousarray(image[y : y + 213, x : x + 320])
        for image in (photograph, other_photograph)
        for y in (0, 213)
        for x in (0, 320)
    ]


def test_the_global_branch_speaks_where_it_proposes(pictures):
    references = {f"R{i}": picture for i, picture in enumerate(pictures[:4])}
    outsiders = {f"O{i}": picture for i, picture in enumerate(pictures[4:])}
    settings = {"copies": 3, "others": 1, "strength": (0.0, 0.2), "seed": 1}
    table = calibration_pairs(
        references, outsiders, model=GistGrid(), views=["whole"], normalise_neighbours=0, **settings
    )
    by_global = table[table["branch"] == "global"]
    assert len(by_global) and by_global["score"].between(-1, 1).all()
    copies = by_global[by_global["label"]]
    seen = features(table).merge(copies, on=["query_id", "reference_id"])
    assert len(seen) and seen["likeness"].median() > 0.3
    assert seen["votes"].min() > 0.3  # the keypoint search found them, too


def test_photographs_are_divided_without_overlap():
    ids = [f"{i:03d}" for i in range(40)]
    groups = ["a"] * 3 + ["b"] * 2 + ["c"] + [""] * 34
    table = pd.DataFrame({"image_id": ids, "path": [f"/p/{i}" for i in ids], "group": groups})
    split = split_photographs(table, references=13)
    assert not set(split.references) & set(split.outsiders)
    assert set(split.references) | set(split.outsiders) == set(ids)
    assert {"030", "039"} <= set(split.references) and "010" in split.outsiders  # the last by name
    for outsider, reference in split.same_scene:
        assert groups[int(outsider)] == groups[int(reference)] != ""
        assert outsider in split.outsiders and reference in split.references
    assert len(split.same_scene) == 3  # two of three in "a", one of two in "b"; "c" is alone


def test_pairs_are_labelled_and_repeat(pictures):
    references = {f"R{i}": picture for i, picture in enumerate(pictures[:4])}
    outsiders = {f"O{i}": picture for i, picture in enumerate(pictures[4:])}
    settings = {"copies": 4, "others": 2, "same_scene": [("O1", "R2")], "strength": (0.1, 0.4)}
    table = calibration_pairs(references, outsiders, **settings, seed=1)
    assert {
        "query_id",
        "reference_id",
        "branch",
        "score",
        "mean_squared_distance",
        "label",
        "ops",
        *COLUMNS,
    } <= set(table)
    queries = table.groupby("query_id")
    copies = queries["label"].any()
    assert len(copies) == 7 and copies.sum() == 4
    assert (table[table["label"]].groupby("query_id")["reference_id"].nunique() == 1).all()
    assert "R2" in set(table.loc[table["query_id"].str.startswith("scene"), "reference_id"])
    assert set(table["branch"]) <= {"local", "crop"}
    best = table.groupby(["query_id", "label"])["inliers"].max().unstack()
    assert (best[True] > best[False]).sum() >= 3  # mild edits: most copies stand out
    again = calibration_pairs(references, outsiders, **settings, seed=1)
    pd.testing.assert_frame_equal(table, again)
