# SPDX-License-Identifier: AGPL-3.0-or-later
"""Queries that are references byte for byte."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import whole_run
from PIL import Image

from imgfp import report, stages, store
from imgfp.decoding import Limits
from imgfp.results import Results
from imgfp.scoring import fusion
from imgfp.stages.certain import read_certain
from imgfp.stages.identical import identical_pairs, own_pairs, put_first
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


def listed(folder, references, queries, address):
    """A run and a library that only list the files of two folders."""
    run, library = store.Run(folder / "run"), store.Library(folder / "library")
    sizes = {"shard_images": 2, "thumbnail_short_side_px": 64}
    for collection, source in ((library, references), (run, queries)):
        stages.list_images(collection, str(source), **sizes, cluster=address)
    return run, library


@pytest.fixture
def archive(tmp_path):
    """Three files, two of them with the same bytes, and one in a subfolder."""
    folder = tmp_path / "archive"
    (folder / "sub").mkdir(parents=True)
    for name, grey in {"a": 0, "b": 0, "sub/c": 90}.items():
        cv2.imwrite(str(folder / f"{name}.png"), np.full((64, 64), grey, np.uint8))
    return folder


def test_one_file_on_both_sides_is_known_by_its_path(archive, tmp_path, address):
    def own(name, queries):
        (tmp_path / name).mkdir()
        pairs = own_pairs(*listed(tmp_path / name, archive, queries, address))
        return pairs.to_numpy().tolist()

    assert own("same", archive) == [["a", "a"], ["b", "b"], ["sub/c", "sub/c"]]
    assert own("below", archive / "sub") == [["c", "sub/c"]]
    (tmp_path / "link").symlink_to(archive)
    manifest = tmp_path / "some.csv"
    manifest.write_text(f"image_id,path\nx,{tmp_path}/link/a.png\n")
    assert own("named", manifest) == [["x", "a"]]
    # Moved since both sides were listed, and listed again on one of them.
    moved = archive.rename(tmp_path / "moved")
    run, library = store.Run(tmp_path / "below/run"), store.Library(tmp_path / "same/library")
    sizes = {"shard_images": 2, "thumbnail_short_side_px": 64}
    stages.list_images(library, str(moved), **sizes, cluster=address)
    assert own_pairs(run, library).empty
    stages.list_images(run, str(moved / "sub"), **sizes, cluster=address)
    assert own_pairs(run, library).to_numpy().tolist() == [["c", "sub/c"]]


def test_a_copy_of_a_file_is_itself_only_in_a_copy_of_the_whole_folder(archive, tmp_path, address):
    copy = shutil.copytree(archive, tmp_path / "copy")
    run, library = listed(tmp_path, archive, copy, address)
    assert own_pairs(run, library)["query_id"].tolist() == ["a", "b", "sub/c"]
    shutil.rmtree(copy / "sub")
    (tmp_path / "part").mkdir()
    run, library = listed(tmp_path / "part", archive, copy, address)
    assert own_pairs(run, library).empty


def test_a_query_that_is_a_reference_is_compared_with_the_others_alone(
    photograph, other_photograph, tmp_path, in_process
):
    folder = tmp_path / "one"
    folder.mkdir()
    pictures = {
        "flower": other_photograph,
        "flower-mirrored": other_photograph[:, ::-1],
        "china": photograph,
    }
    for name, image in pictures.items():
        cv2.imwrite(str(folder / f"{name}.jpg"), image[..., ::-1])
    shutil.copy(folder / "china.jpg", folder / "china again.jpg")
    run = whole_run.execute(tmp_path, folder, folder, in_process)
    found = whole_run.answers(run)
    best = {query: (scores.index[0], scores.iloc[0]) for query, scores in found.items()}
    assert {query: reference for query, (reference, _) in best.items()} == {
        "flower": "flower-mirrored",
        "flower-mirrored": "flower",
        "china": "china again",
        "china again": "china",
    }
    assert best["china"][1] == 1.0 and best["flower"][1] > 0.9
    assert all(query not in scores for query, scores in found.items())
    results = Results(run, tmp_path / "library")
    proposed = (
        results.candidates.query("branch == 'global'").groupby("query_id")["group_id"].agg(set)
    )
    assert proposed["flower"] == proposed["china"] == {"flower", "china"}, "copies count as one"
    page = report.build(results, rounds=0)
    assert "4 queries are references themselves and were compared with the others" in page


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


def test_no_frame_of_a_file_is_a_copy_of_it(archive, tmp_path, rng, address):
    pages = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(3)]
    pages[0].save(archive / "doc.tif", save_all=True, append_images=pages[1:])
    limits = {"run": Limits(), "library": Limits(max_frames=3)}
    run, library = store.Run(tmp_path / "run"), store.Library(tmp_path / "library")
    for side in (run, library):
        sizes = {"shard_images": 2, "thumbnail_short_side_px": 64, "limits": limits[side.name]}
        stages.list_images(side, str(archive), **sizes, cluster=address)
    own = own_pairs(run, library)
    assert own.loc[own["query_id"] == "doc", "reference_id"].tolist() == [
        "doc",
        "doc#frame=2",
        "doc#frame=3",
    ]
    assert len(own) == 6 and identical_pairs(run, library)["reference_id"].nunique() == 4
