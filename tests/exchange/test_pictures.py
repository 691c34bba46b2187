# SPDX-License-Identifier: AGPL-3.0-or-later
"""Regions of copies in COCO and FiftyOne, against the geometry with which the queries were made."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from imgfp import store
from imgfp.exchange import export
from imgfp.results import Results

#: Where the photograph was pasted in the query `q-pasted`: xyxy in pixels, and the size of the query.
PASTED, SIZE = (100, 60, 400, 260), (480, 360)


@pytest.fixture(scope="module")
def results(hostile_run) -> Results:
    return Results(hostile_run, score_threshold=20.0)


@pytest.fixture(scope="module")
def coco(results, tmp_path_factory):
    return export(results, "coco", tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="module")
def fiftyone(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fiftyone")
    export(results, "fiftyone", folder)
    return folder


def _reported(results: Results) -> set[tuple[str, str]]:
    pairs = results.pairs[results.pairs["score"] >= results.threshold]
    return set(zip(pairs["query_id"], pairs["reference_id"], strict=True))


def test_coco_has_every_reported_pair_and_its_region(coco, results):
    copies, boxes = (json.loads(path.read_text("utf-8")) for path in coco)
    image = {row["id"]: row for row in copies["images"]}
    reference = {row["id"]: row["name"] for row in copies["categories"]}
    pairs = {
        (image[row["image_id"]]["image_id"], reference[row["category_id"]])
        for row in copies["annotations"]
    }
    assert pairs == _reported(results) and len(pairs) >= 4
    (pasted,) = (
        row
        for row in copies["annotations"]
        if image[row["image_id"]]["image_id"] == "q-pasted" and row["located"]
    )
    x0, y0, width, height = pasted["bbox"]
    np.testing.assert_allclose((x0, y0, x0 + width, y0 + height), PASTED, atol=1.5)
    np.testing.assert_allclose(pasted["area"], 300 * 200, rtol=0.02)
    for row in copies["annotations"]:
        corners = np.reshape(row["segmentation"][0], (-1, 2))
        size = image[row["image_id"]]["width"], image[row["image_id"]]["height"]
        assert (corners >= 0).all() and (corners <= size).all()
    assert boxes["annotations"][0]["bbox"] == [100, 60, 300, 200]
    assert len(boxes["annotations"]) == len(results.detections)


def test_coco_is_read_by_pycocotools(coco):
    reader = pytest.importorskip("pycocotools.coco")
    for path in coco:
        truth = reader.COCO(str(path))
        found = truth.loadRes(truth.dataset["annotations"])
        assert len(found.anns) == len(truth.anns) > 0
        for row in truth.anns.values():
            assert abs(truth.annToMask(row).sum() - row["area"]) < 0.02 * row["area"] + 5


def test_a_fiftyone_dataset_holds_both_sides_of_each_answer(fiftyone, results, tmp_path):
    samples = json.loads((fiftyone / "samples.json").read_text("utf-8"))["samples"]
    queries = {row["image_id"]: row for row in samples if row["tags"] == ["query"]}
    references = {row["image_id"]: row for row in samples if row["tags"] == ["reference"]}
    assert set(queries) == set(results.queries.index)
    for query_id, reference_id in _reported(results):
        (there,) = (
            line
            for line in queries[query_id]["copies"]["polylines"]
            if line["label"] == reference_id
        )
        assert there["reported"]
        back = {line["label"] for line in references[reference_id]["copies"]["polylines"]}
        assert query_id in back
    line = queries["q-pasted"]["copies"]["polylines"][0]
    corners = np.array(line["points"][0]) * SIZE
    np.testing.assert_allclose([*corners.min(axis=0), *corners.max(axis=0)], PASTED, atol=1.5)
    assert queries["q-pasted"]["crops"]["detections"][0]["bounding_box"] == pytest.approx(
        [100 / 480, 60 / 360, 300 / 480, 200 / 360], abs=1e-5
    )
    assert queries["q-grey"]["verdict"]["label"] == "no copy found"
    with Image.open(fiftyone / queries["q-pasted"]["filepath"]) as picture:
        assert picture.size == SIZE
    export(results, "fiftyone", tmp_path / "again")
    for path in fiftyone.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(fiftyone)).read_bytes()


@pytest.mark.slow
def test_fiftyone_reads_the_dataset(fiftyone):
    reader = pytest.importorskip("fiftyone")
    dataset = reader.Dataset.from_dir(str(fiftyone), dataset_type=reader.types.FiftyOneDataset)
    try:
        dataset.add_dynamic_sample_fields()
        samples = json.loads((fiftyone / "samples.json").read_text("utf-8"))["samples"]
        assert len(dataset) == len(samples)
        read = dataset.match(reader.ViewField("image_id") == "q-pasted").first()
        assert read.copies.polylines[0].score > 0 and len(read.crops.detections) == 2
    finally:
        dataset.delete()


def test_an_export_never_writes_into_what_is_there(results, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(store.StoreError, match="is not an empty folder"):
        export(results, "coco", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(store.StoreError, match="there is nothing to write"):
        export(results, "parquet", tmp_path / "parquet")  # the run has no vectors
    assert not (tmp_path / "parquet").exists()
