# SPDX-License-Identifier: AGPL-3.0-or-later
"""Queries that are references byte for byte."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest

from imgfp import stages, store
from imgfp.scoring import fusion
from imgfp.stages.certain import read_certain
from imgfp.stages.identical import identical_pairs, put_first
from imgfp.stages.search import no_candidates
from imgfp.stages.verification import join_evidence, read_evidence

VOTE = {
    "nprobe": 1, "neighbours": 5, "variants": ["plain"], "candidates": 3, "rule": "robust", "ratio": 1.5, "min_hits": 3,
    "min_hits_single": 5, "max_mean_squared_distance": 8000.0,
}  # fmt: skip


@pytest.fixture
def flat(tmp_path, address):
    """A library of three flat pictures, two of them one file, and a run that asks for it and for another picture."""
    run, library = store.Run(tmp_path / "run"), store.Library(tmp_path / "library")
    greys = {"references": {"a": 0, "b": 0, "c": 90}, "queries": {"same": 0, "other": 91}}
    for (side, pictures), collection in zip(greys.items(), (library, run), strict=True):
        (tmp_path / side).mkdir()
        for name, grey in pictures.items():
            cv2.imwrite(str(tmp_path / side / f"{name}.png"), np.full((64, 64), grey, np.uint8))
        sizes = {"shard_images": 2, "thumbnail_short_side_px": 64}
        stages.list_images(collection, str(tmp_path / side), **sizes, cluster=address)
        stages.extract_local_features(collection, cluster=address)
    stages.build_index(library, "local", factory="Flat", seed=0, part_images=4, cluster=address)
    return run, library


def test_a_file_that_is_a_reference_is_certain_whatever_it_shows(flat, address):
    run, library = flat
    pairs = identical_pairs(run, library)
    assert pairs.to_numpy().tolist() == [["same", "a"], ["same", "b"]]
    stages.local_search(run, library, **VOTE, cluster=address)
    stages.verify_first(run, library, certain_score=0.9, cluster=address)
    evidence = read_evidence(run)
    assert evidence["identical"].tolist() == [True, True]
    certain = read_certain(run)
    assert certain["query_id"].tolist() == ["same"] and certain["score"].tolist() == [1.0]
    assert certain["query_area"].tolist() == [1.0], "it is explained"
    proposals = join_evidence(stages.search.read_candidates(run), evidence)
    model = fusion.load_model()
    assert fusion.calibrated(proposals, model)["score"].tolist() == [1.0, 1.0]
    assert fusion.contributions(proposals, model)["score"].tolist() == [1.0, 1.0]
    different = proposals.assign(identical=False)
    assert (fusion.calibrated(different, model)["score"] < 0.5).all()


def test_identical_references_come_first_and_once():
    rows = {
        "query_id": "q",
        "view_id": "q",
        "branch": "local",
        "mirrored": False,
        "accepted": False,
    }
    found = pd.DataFrame(
        {"reference_id": ["x", "y", "z"], "rank": range(3), "score": [9.0, 8.0, 7.0]}
    )
    found = pd.concat([no_candidates(), found.assign(**rows, mean_squared_distance=1.0)])
    identical = pd.DataFrame({"query_id": "q", "reference_id": ["new", "y"]})
    first = put_first(found, identical)
    assert sorted(first["reference_id"][:2]) == ["new", "y"]
    assert first["reference_id"][2:].tolist() == ["x", "z"]
    assert first["rank"].tolist() == [0, 1, 2, 3]
    assert first.set_index("reference_id").loc["y", "score"] == 8.0, "its votes are kept"
