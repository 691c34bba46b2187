# SPDX-License-Identifier: AGPL-3.0-or-later
"""A folder as the 2021 system would leave it, made by a run of our own, runs from any step to the end."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import small_run
import whole_run

from imgfp import sift, stages, store
from imgfp.decoding import read_image
from imgfp.exchange import export
from imgfp.exchange import isc2021 as layout
from imgfp.images import encode_jpeg
from imgfp.results import Results
from imgfp.runner.cluster import HERE
from imgfp.stages import list_candidates, list_predictions, list_queries
from imgfp.stages.crops import read_crops
from imgfp.stages.features import feature_settings, stored_features
from imgfp.stages.listed import MEASURED_ELSEWHERE, list_scores
from imgfp.stages.search import read_candidates
from imgfp.stages.verification import read_evidence
from imgfp.store import Library, Run
from imgfp.store import isc2021 as texts
from imgfp.store.formats import FormatError

#: The settings of params/isc2021.yaml that matter for a few pictures.
SETTINGS = {
    "local_min_confidence": 0.5,
    "global_min_confidence": 0.55,
    "max_crops": 1,
    "local_index": "Flat",
    "local_neighbours": 1,
    "descriptor_variants": ["plain"],
    "local_candidates": 1,
    "vote_rule": "seed",
    "certain_score": 1.0,
    "descriptor_model": "gist-grid",
    "global_described": "sure",
    "global_views": ["whole"],
    "global_crop_views": ["whole"],
    "global_candidates": 1,
    "normalise_neighbours": 0,
    "candidates_scored": "accepted",
    "candidates_verified": 0,
    "fusion": "sum",
}
PAIR = ["query_id", "reference_id"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """references/ and queries/, JPEG: one query has a picture pasted on another."""
    root = tmp_path_factory.mktemp("corpus")
    pictures = small_run.photographs()
    queries, *_ = small_run._queries(pictures, hostile=False)
    for side, images in (("references", pictures), ("queries", queries)):
        (root / side).mkdir()
        for name, image in images.items():
            (root / side / f"{name}.jpg").write_bytes(encode_jpeg(image, 95))
    # Two detectors, one per operating point, which find boxes of their own.
    for point, (x0, y0) in (("local", (100, 60)), ("global", (96, 50))):
        box = f"q-pasted,{x0 / 480},{y0 / 360},{400 / 480},{260 / 360},0.83\n"
        (root / f"{point}.csv").write_text(f"image_id,x0,y0,x1,y1,confidence\n{box}")
    return root


@pytest.fixture(scope="module")
def ours(corpus, in_process, tmp_path_factory) -> Path:
    """A folder with our `library` and `run`, and `seed`: what was exported of them."""
    root = tmp_path_factory.mktemp("ours")
    detectors = {
        "crop_detector": str(corpus / "local.csv"),
        "global_crop_detector": str(corpus / "global.csv"),
    }
    folders = corpus / "references", corpus / "queries"
    run = whole_run.execute(root, *folders, in_process, **SETTINGS, **detectors)
    results = Results(run, root / "library", **SETTINGS)
    export(results, "isc2021", root / "seed")
    return root


def execute(ours: Path, corpus: Path, folder: Path, cluster: str, **files: str) -> Run:
    """A run against a copy of our library with some files of the exported folder in place of stages."""
    shutil.copytree(ours / "library", folder / "library")
    given = {name: str(ours / "seed" / file) for name, file in files.items()}
    return whole_run.execute(
        folder, corpus / "references", corpus / "queries", cluster, **{**SETTINGS, **given}
    )


def scores(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.predictions_csv)[[*PAIR, "score"]]


def test_what_is_written_is_the_layout_of_the_2021_system(ours, corpus):
    seed, run = ours / "seed", Run(ours / "run")
    assert (seed / layout.QUERY_LIST).read_text().splitlines()[0] == "q-cropped.jpg"
    (name,) = texts.read_crop_list(seed / layout.CROP_LIST)
    assert name == "q-pasted.jpg"
    for crops in (layout.LOCAL_CROPS, layout.GLOBAL_CROPS):
        assert len([*(seed / crops).iterdir()]) == 8
    whole = "q-whole.jpg"
    assert (seed / layout.LOCAL_CROPS / whole).read_bytes() == (
        corpus / "queries" / whole
    ).read_bytes()
    cut = {
        point: read_image(seed / folder / name)
        for point, folder in (("local", layout.LOCAL_CROPS), ("global", layout.GLOBAL_CROPS))
    }
    assert cut["local"].shape == (200, 300, 3) and cut["global"].shape == (210, 304, 3)
    assert (seed / layout.FEATURES / "q-grey.txt").read_bytes() == b""
    pairs, scored = layout.PAIRS["global"]
    assert "q-pasted.jpg,china.jpg\n" in (seed / pairs).read_text()
    assert "q-pasted.jpg,china.jpg,score:" in (seed / scored).read_text()
    # The three files of scores add up to the final result, as the rule of 2021 says.
    parts = [texts.read_scores(seed / file) for _, file in layout.PAIRS.values()]
    added = pd.concat(parts).groupby(PAIR)["score"].sum()
    final = texts.read_scores(seed / layout.FINAL)
    assert dict(zip(final["query_id"] + ".jpg", final["score"], strict=True)) == dict(
        zip(added.index.get_level_values(0), added, strict=True)
    )
    assert len(final) == len(scores(run))


def test_their_crops_keypoints_and_vectors_take_the_place_of_ours(
    ours, corpus, in_process, tmp_path
):
    """Steps 1, 2, 4 and 6; search and verification stay ours. The list leaves one query out."""
    listed = ours / "seed" / layout.QUERY_LIST
    kept = [n for n in texts.read_list(listed) if n != "q-turned.jpg"]
    texts.write_list(tmp_path / "list.txt", [f"../../data/queryimages/{name}" for name in kept])
    run = execute(
        ours,
        corpus,
        tmp_path,
        in_process,
        query_list=str(tmp_path / "list.txt"),
        local_crops_dir=layout.LOCAL_CROPS,
        global_crops_dir=layout.GLOBAL_CROPS,
        local_crop_list=layout.CROP_LIST,
        local_features_file=layout.FEATURES,
        reference_features_file=layout.REFERENCE_FEATURES,
        crop_features_file=layout.CROP_FEATURES,
        descriptor_file=layout.DESCRIPTORS,
    )
    before = Run(ours / "run")
    corners = ["query_id", "x0", "y0", "x1", "y1", "local_rank", "is_global"]
    cut, was = read_crops(run)[corners], read_crops(before)[corners].round()
    assert cut.equals(was.astype(cut.dtypes)) and cut["is_global"].tolist() == [False, True]
    mine = Results(before, ours / "library")
    theirs = Results(run, tmp_path / "library")
    assert feature_settings(theirs.library)["texts"].endswith(layout.REFERENCE_FEATURES)
    for side, view in (("query", "q-whole"), ("query", "q-pasted#0"), ("reference", "cat")):
        for a, b in zip(mine.features(side, view), theirs.features(side, view), strict=True):
            assert len(a) and np.allclose(a, b, atol=0.02)
    expected = scores(before)
    expected = expected[expected["query_id"] != "q-turned"].reset_index(drop=True)
    assert scores(run).equals(expected)


def test_their_pairs_and_scores_take_the_place_of_ours(ours, corpus, in_process, tmp_path):
    """Steps 3, 5, 7 and 8: from the crops on, nothing is searched and nothing measured."""
    files = {}
    for branch, (pairs, scored) in layout.PAIRS.items():
        files |= {f"{branch}_candidates_file": pairs, f"{branch}_scores_file": scored}
    crops = {"local_crops_dir": layout.LOCAL_CROPS, "global_crops_dir": layout.GLOBAL_CROPS}
    run = execute(ours, corpus, tmp_path, in_process, **files, **crops)
    assert scores(run).equals(scores(Run(ours / "run")))
    assert set(read_evidence(run)["refused"]) == {MEASURED_ELSEWHERE}
    assert pd.read_csv(run.predictions_csv)["relation"].isna().all()
    # Scores of one branch alone: the other pairs are measured here.
    library = store.open_sides(tmp_path / "library", run)[0]
    one = ours / "seed" / layout.PAIRS["crop"][1]
    list_scores(run, library, {"crop": str(one)})
    assert len(read_evidence(run)) == 1
    final = list_predictions(run, library, str(ours / "seed" / layout.FINAL))
    assert final.equals(scores(run))


def test_bad_files_name_the_line(ours, corpus, tmp_path, capsys, monkeypatch):
    root = tmp_path / "run"
    shutil.copytree(ours / "run", root)
    run, library = Run(root), Library(ours / "library")

    def refused(text: str, said: str, branch="local") -> None:
        (tmp_path / "pairs.txt").write_text(text)
        with pytest.raises(FormatError, match=said):
            list_candidates(run, library, branch, str(tmp_path / "pairs.txt"))

    refused("q-whole,china\nq-whole,chin\n", "line 2: expected a readable reference .*'chin'")
    refused("q-whole,china\nq-whole,china\n", "line 2: expected each pair once")
    refused("who,china\n", "line 1: expected a query of this run")
    refused("q-whole,china,2\n", "line 1: expected a cosine", "global")
    (tmp_path / "pairs.txt").write_text("who,china\nq-whole,cat,\n".replace(",\n", "\n"))
    list_candidates(run, library, "local", str(tmp_path / "pairs.txt"))
    found = read_candidates(run, "local")
    assert found[[*PAIR, "score", "rank"]].to_numpy().tolist() == [["q-whole", "cat", 0.0, 0]]
    (tmp_path / "scores.txt").write_text("q-whole,cat,3\nq-whole,china,4\n")
    with pytest.raises(FormatError, match="line 2: expected a candidate of the branch local"):
        list_scores(run, library, {"local": str(tmp_path / "scores.txt")})
    # A table with a header will do, and its lines are counted as they stand in the file.
    (tmp_path / "scores.txt").write_text('"query_id","reference_id",score\n\nq-whole,chin,3\n')
    with pytest.raises(FormatError, match=r"line 3: expected a readable reference .*'chin'"):
        list_predictions(run, library, str(tmp_path / "scores.txt"))
    crops = tmp_path / "crops"
    shutil.copytree(ours / "seed" / layout.LOCAL_CROPS, crops)
    (tmp_path / "list.txt").write_text("q-pasted.jpg 0.8\nq-passed.jpg 0.9\n")
    detect = {"local_crops_dir": str(crops), "local_crop_list": str(tmp_path / "list.txt")}
    stages.detect_crops(run, crop_detector="none", **detect, cluster=HERE)
    assert "1 names are of no query of this run: first line 2, 'q-passed.jpg'" in (
        capsys.readouterr().out
    )
    with pytest.raises(FormatError, match=r"such as q-cropped\.jpg, got none"):
        stages.detect_crops(run, crop_detector="none", local_crops_dir=str(tmp_path), cluster=HERE)
    (crops / "q-pasted.jpg").unlink()
    with pytest.raises(FormatError, match=r"line 1: expected a crop of this name .*'q-pasted"):
        stages.detect_crops(run, crop_detector="none", **detect, cluster=HERE)
    (tmp_path / "list.txt").write_text("q-pasted 0.8\n")
    with pytest.raises(FormatError, match=r"line 1: expected the file name of a query"):
        stages.detect_crops(run, crop_detector="none", **detect, cluster=HERE)
    (tmp_path / "list.txt").write_text("")
    with pytest.raises(FormatError, match="got an empty file"):
        list_queries(run, str(corpus / "queries"), str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_text("q-whole.jpg\nq-hole.jpg\n")
    with pytest.raises(FormatError, match=r"line 2: .*q-hole\.jpg.*is 'q-whole.jpg' meant"):
        list_queries(run, str(corpus / "queries"), str(tmp_path / "list.txt"))
    with pytest.raises(store.StoreError, match="not an empty folder"):
        export(Results(run, library), "isc2021", ours / "seed")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000))
    with pytest.raises(store.StoreError, match=r"take about .* GB, 0\.0 GB are free"):
        export(Results(run, library, **SETTINGS), "isc2021", tmp_path / "full")
    assert not (tmp_path / "full").exists()


def test_keypoints_that_the_2021_system_wrote_enter_beside_ours(isc2021, tmp_path):
    """`isc2021/Q24789.sift.txt` is theirs; an image without a text is rejected with a reason."""
    (tmp_path / "queries").mkdir()
    (tmp_path / "texts").mkdir()
    for name in ("Q24789", "Q10893", "R751771"):
        shutil.copy(isc2021 / f"{name}.jpg", tmp_path / "queries")
    shutil.copy(isc2021 / "Q24789.sift.txt", tmp_path / "texts/Q24789.txt")
    image = read_image(isc2021 / "Q10893.jpg")
    keypoints, descriptors = sift.extract(image)
    scale = sift.frame_scale(image.shape[1], image.shape[0], 300)
    texts.write_keypoints(tmp_path / "texts/Q10893.txt", "Q10893", keypoints, descriptors, scale)
    run, here = Run(tmp_path / "run"), {"cluster": HERE}
    listed = {"shard_images": 8, "thumbnail_short_side_px": 64}
    stages.list_images(run, str(tmp_path / "queries"), **listed, **here)
    settings = {"short_side_px": 300, "file": str(tmp_path / "texts")}
    report = stages.extract_local_features(run, **settings, **here)
    assert [Path(path).name for path, _ in report.rejects] == ["R751771.jpg"]
    assert "has no R751771.txt" in report.rejects[0][1]
    lookup = stored_features(run)
    assert np.array_equal(lookup.of("Q10893")[1], descriptors)
    theirs, _ = lookup.of("Q24789")
    ((width, height),) = store.open_catalogue(run).sizes_of(["Q24789"])
    assert theirs.shape == (661, 4)
    assert (theirs[:, :2].max(axis=0) < [width, height]).all()
    assert (theirs[:, :2].max(axis=0) > [0.9 * width, 0.9 * height]).all()
    with pytest.raises(FormatError, match=r"such as Q10893\.txt, got none of any image"):
        elsewhere = settings | {"file": str(tmp_path / "queries")}
        stages.extract_local_features(run, **elsewhere, **here)
    # A text of another frame than that of the settings stops the run: its keypoints would lie elsewhere.
    with pytest.raises(FormatError, match=r"line \d+: expected a keypoint inside a picture"):
        small = settings | {"short_side_px": 100}
        stages.extract_local_features(run, **small, **here)
    # A text of another image under this one's name stops the run.
    shutil.copy(isc2021 / "Q24789.sift.txt", tmp_path / "texts/R751771.txt")
    with pytest.raises(FormatError, match="expected keypoints of 'R751771', got those of 'Q24789'"):
        stages.extract_local_features(run, **settings, **here)
