# SPDX-License-Identifier: AGPL-3.0-or-later
"""The demo corpus: photographs, queries, exact geometry, files."""

from __future__ import annotations

import importlib.util
import json
from itertools import combinations

import cv2
import numpy as np
import pandas as pd
import pytest

from imgfp import decoding, store
from imgfp.demo import corpus
from imgfp.demo.painting.flat import FLAT

for package in {package for package, *_ in corpus.PHOTOGRAPHS.values()}:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the demo photographs of {package} are not installed", allow_module_level=True)

SMALL = {"n_painted": 5, "n_positive": 22, "n_negative": 11}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert corpus.write_demo_corpus(folder, seed=3, **SMALL)
    return folder


def _thumbnail(image: np.ndarray) -> np.ndarray:
    small = cv2.resize(image, (24, 24), interpolation=cv2.INTER_AREA).astype(float)
    return ((small - small.mean()) / small.std()).ravel() / np.sqrt(small.size)


def test_the_photographs_are_there_and_differ():
    photographs = corpus.photographs()
    assert len(photographs.keys() - set(corpus.HELD_OUT)) >= 20
    for image in photographs.values():
        assert image.dtype == np.uint8 and image.shape[2] == 3
        assert 150 <= min(image.shape[:2]) <= 400
        assert image.std() > 10
    thumbnails = {name: _thumbnail(image) for name, image in photographs.items()}
    for one, two in combinations(thumbnails, 2):
        if corpus.SAME_SCENE.get(two) != one:
            assert thumbnails[one] @ thumbnails[two] < 0.9, (one, two)


def test_what_is_not_installed_is_left_out(monkeypatch):
    """A small installation, without the extra `train`, makes the demo, too."""
    folder_of = corpus._folder_of
    monkeypatch.setattr(
        corpus,
        "_folder_of",
        lambda package: folder_of(package) if package != "ultralytics" else None,
    )
    assert len(corpus.photographs()) == len(corpus.PHOTOGRAPHS) - 2
    assert "bus" not in dict(corpus.references(3, 0))
    made = list(corpus.queries(3, 3, 11, 0))
    assert len(made) == 14 and "motorcycle" in {query.hard_negative_of for query in made}


def test_painted_images_all_differ():
    thumbnails = [_thumbnail(corpus.painted(0, number)[1]) for number in range(42)]
    similarity = np.array(thumbnails) @ np.array(thumbnails).T - np.eye(42)
    assert similarity.max() < 0.98
    names = [corpus.painted(0, number)[0] for number in (0, 1, 21)]
    assert len(set(names)) == 3


def test_drawings_of_one_template_are_no_copies():
    for kind in FLAT:
        one, again, other = (corpus.drawing(3, kind, contents) for contents in (0, 0, 1))
        assert (one == again).all() and (one != other).any()


def test_a_corpus_has_its_parts(small):
    meta = corpus.read_demo_corpus(small)
    truth = pd.read_csv(small / "truth.csv", dtype=str, keep_default_na=False)
    assert list(truth) == ["query_id", "reference_id"]
    assert len(truth) == 33 and (truth.reference_id == "").sum() == 11
    references = {path.stem for path in (small / "references").iterdir()}
    assert len(references) == len(corpus.PHOTOGRAPHS) - len(corpus.HELD_OUT) + len(FLAT) + 5
    positives = meta[meta.reference_id != ""]
    shown = set(positives.reference_id)
    assert len(shown & set(corpus.PHOTOGRAPHS)) == 19 and shown & set(FLAT) == {"logo", "slide"}
    assert not shown & set(corpus.HELD_OUT)
    assert {path.stem for path in (small / "masks").iterdir()} == set(positives.query_id)
    assert {path.stem for path in (small / "queries").iterdir()} == set(meta.query_id)
    assert set(meta.hard_negative_of) == {"", "motorcycle", "logo", "slide"}
    assert meta.strength.between(0, 1).all()
    boxed = meta.dropna(subset="x0")
    assert len(boxed) and (boxed.x0 < boxed.x1).all() and (boxed.y0 < boxed.y1).all()
    assert boxed[["x0", "y0", "x1", "y1"]].to_numpy().min() >= 0
    assert boxed[["x0", "y0", "x1", "y1"]].to_numpy().max() <= 1


def test_the_stored_homography_aligns_the_reference_with_the_query(small):
    meta = corpus.read_demo_corpus(small)
    correlations = []
    for row in meta[meta.reference_id != ""].itertuples():
        query = decoding.read_image(small / "queries" / f"{row.query_id}.jpg").mean(axis=2)
        mask = decoding.read_image(small / "masks" / f"{row.query_id}.png")[..., 0] > 0
        assert mask.shape == query.shape and mask.any()
        reference = decoding.read_image(small / "references" / f"{row.reference_id}.jpg").mean(
            axis=2
        )
        warped = cv2.warpPerspective(reference, row.homography, query.shape[::-1])
        correlations.append(abs(np.corrcoef(warped[mask], query[mask])[0, 1]))
    # Photometric edits may hide the source from a plain correlation, a wrong homography always does.
    assert np.median(correlations) > 0.8
    assert np.mean(np.array(correlations) > 0.5) > 0.75


def test_a_whole_corpus_is_kept_and_a_damaged_one_generated_again(small):
    assert not corpus.write_demo_corpus(small, seed=3, **SMALL)
    meta = (small / "meta.csv").read_bytes()
    query = small / "queries" / "Q000.jpg"
    good = query.read_bytes()
    query.write_bytes(good[:100])
    assert corpus.write_demo_corpus(small, seed=3, **SMALL)
    assert query.read_bytes() == good and (small / "meta.csv").read_bytes() == meta


def test_an_unfinished_or_other_corpus_leaves_nothing_behind(tmp_path):
    few = {"n_painted": 1, "n_positive": 1, "n_negative": 0}
    assert corpus.write_demo_corpus(tmp_path, seed=1, n_painted=2, n_positive=1, n_negative=1)
    first = (tmp_path / "queries" / "Q000.jpg").read_bytes()
    (tmp_path / "corpus.json").write_bytes(b"{}")  # as a killed run leaves it
    assert corpus.write_demo_corpus(tmp_path, seed=2, **few)
    assert len(list((tmp_path / "queries").iterdir())) == 1
    assert (tmp_path / "queries" / "Q000.jpg").read_bytes() != first
    files = json.loads((tmp_path / "corpus.json").read_bytes())["files"]
    assert all((tmp_path / name).stat().st_size == size for name, size in files.items())


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "references").mkdir()
    (tmp_path / "references" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(store.StoreError, match="not a demo corpus"):
        corpus.write_demo_corpus(tmp_path, n_painted=1, n_positive=1, n_negative=0)
    assert (tmp_path / "references" / "mine.jpg").read_bytes() == b"mine"
