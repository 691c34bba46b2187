# SPDX-License-Identifier: AGPL-3.0-or-later
"""Queries of the robustness lab: exact geometry, held-out photographs, what a change of the design leaves alone."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import small_run

from imgfp import store
from imgfp.benchmarks import edited_queries
from imgfp.decoding import read_image
from imgfp.images import encode_png
from imgfp.runner.cluster import HERE
from imgfp.runner.params import ParameterError

DESIGN = edited_queries.Design(["mirror+paste", "blur"], [0.3, 0.8], 2, 0, 4, 2, 96)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for name, image in small_run.photographs().items():
        (folder / f"{name}.png").write_bytes(encode_png(image))
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def made(photographs, tmp_path_factory):
    lab = store.Lab(tmp_path_factory.mktemp("lab"))
    return lab, edited_queries.make(lab, str(photographs), DESIGN, cluster=HERE)


def test_a_copy_has_one_source_at_every_strength_and_lies_where_its_homography_says(
    made, photographs
):
    lab, meta = made
    copies = meta[meta["reference_id"] != ""]
    assert copies.groupby("family").size().to_dict() == {"mirror+paste": 4, "blur": 4}
    number = copies["query_id"].str[-3:]
    assert (copies.groupby(["family", number])["reference_id"].nunique() == 1).all()
    for row in copies[copies["family"] == "mirror+paste"].itertuples():
        assert np.linalg.det(row.homography[:2, :2]) < 0, "mirrored"
        query = read_image(lab.queries / f"{row.query_id}.jpg").astype(float)
        source = read_image(photographs / f"{row.reference_id}.png")
        size = query.shape[1::-1]
        warped = cv2.warpPerspective(source, row.homography, size, flags=cv2.INTER_AREA)
        seen = cv2.warpPerspective(np.ones(source.shape[:2], np.uint8), row.homography, size) > 0
        flat = query[seen].ravel(), warped[seen].ravel()
        assert np.corrcoef(*flat)[0, 1] > 0.7


def test_what_is_held_out_is_no_reference_and_what_is_broken_no_source(made, capsys):
    lab, meta = made
    references = set(edited_queries.list_files(lab.references_csv)["image_id"])
    assert references > set(meta["reference_id"]) - {""}
    names = {*small_run.photographs(), "broken"}
    assert len(names - references) == 2 and references < names
    assert "broken" not in set(meta["reference_id"])
    assert (meta["family"] == edited_queries.UNRELATED).sum() == 4


def test_another_family_changes_no_other_query_and_what_is_gone_is_deleted(made, photographs):
    lab, meta = made
    before = {path: path.stat().st_mtime_ns for path in lab.queries.iterdir()}
    more = replace(DESIGN, families=["blur", "pencil"], unrelated=0)
    after = edited_queries.make(lab, str(photographs), more, cluster=HERE)
    kept = set(meta["query_id"]) & set(after["query_id"])
    assert kept == set(meta.loc[meta["family"] == "blur", "query_id"])
    for query_id in kept:
        path = lab.queries / f"{query_id}.jpg"
        assert path.stat().st_mtime_ns == before[path]
    assert {path.stem for path in lab.queries.iterdir()} == set(after["query_id"])


def test_further_edits_are_those_of_the_copy_at_every_strength(photographs):
    rng = np.random.default_rng
    names = edited_queries.chain("pencil+paste", 2, rng(5))
    assert names == edited_queries.chain("pencil+paste", 2, rng(5)) and len(set(names)) == 4
    assert {"pencil", "paste"} < set(names)
    assert not {"collage", "screenshot"} & set(names), "pasted once"
    assert edited_queries.chain("blur+crop", 0, rng(5)) == ["blur", "crop"]
    sources = [(name, str(photographs / f"{name}.png")) for name in ("china", "cat")]
    settings = {"strengths": [0.2, 0.6], "further": 2, "short_side_px": 96, "seed": 3}
    rows = edited_queries.make_queries("wave", ["wave"], 4, sources, sources, **settings).record
    assert rows.groupby("reference_id")["ops"].nunique().tolist() == [1, 1]
    assert rows["ops"].str.count(r"\+").eq(2).all() and rows["homography"].eq("").all()


def test_mistakes_are_told_in_one_line(photographs, tmp_path):
    with pytest.raises(ParameterError, match="'mirorr'; did you mean 'mirror'"):
        replace(DESIGN, families=["blur", "mirorr+paste"])
    lab = store.Lab(tmp_path)
    words = edited_queries.settings_of(lab, "library", ["certain_score: 1"], workers=2, flag=False)
    assert words[-3:] == ["workers=2", "flag=false", "certain_score=1"]
    for line in ("certain_score 1", "query_dir: elsewhere"):
        with pytest.raises(ParameterError, match=line.split()[0]):
            edited_queries.settings_of(lab, "library", [line])
    (tmp_path / "few").mkdir()
    (tmp_path / "few/one.png").write_bytes((photographs / "china.png").read_bytes())
    with pytest.raises(ValueError, match="holds 1 file"):
        edited_queries.make(lab, str(tmp_path / "few"), DESIGN, cluster=HERE)
