# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebook 04 without its notebook: detections, and the crops that rules choose from them."""

from __future__ import annotations

import types

import numpy as np
import pandas as pd
import pytest
import small_run

from imgfp import stages, store
from imgfp.stages import crops
from imgfp.stages.inventory import read_images

RULES = {
    "local_min_confidence": 0.4,
    "global_min_confidence": 0.8,
    "max_area": 0.85,
    "max_aspect": 4.0,
    "max_crops": 2,
}


def test_known_boxes_become_detections_and_crops(sides, address, tmp_path):
    run, _ = sides
    query = read_images(run).iloc[0]
    rows = [(query.image_id, 0.1, 0.2, 0.6, 0.9, 0.9), (query.image_id, 0, 0, 0.05, 0.9, 0.95)]
    columns = ["image_id", "x0", "y0", "x1", "y1", "confidence"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "boxes.csv", index=False)
    report = stages.detect_crops(run, crop_detector=str(tmp_path / "boxes.csv"), cluster=address)
    assert report.computed == len(read_images(run))
    found = crops.read_detections(run)
    assert np.allclose(found["confidence"], [0.95, 0.9])  # most confident first
    chosen = stages.choose_crops(
        run, **RULES
    )  # the narrow box is more than 4 times as tall as wide
    assert chosen["query_id"].tolist() == [query.image_id] and chosen["is_global"].all()
    (box,) = crops.box_of_each(chosen).values()
    expected = [0.1 * query.width, 0.2 * query.height, 0.6 * query.width, 0.9 * query.height]
    assert abs(box - expected).max() < 1e-3
    (cut,) = crops.cut_all(chosen, read_images(run))
    assert (
        abs(cut.shape[1] - 0.5 * query.width) <= 1 and abs(cut.shape[0] - 0.7 * query.height) <= 1
    )


def test_the_device_is_recorded_only_where_it_is_a_gpu(sides, address, monkeypatch):
    run, _ = sides
    known = stages.detect_crops(run, crop_detector="classical", device="auto", cluster=address)
    assert known.computed
    (path, *_) = store.shards(run.detections, ".parquet")
    assert "device" not in store.describe(path)["settings"]
    again = stages.detect_crops(run, crop_detector="classical", device="cpu", cluster=address)
    assert not again.computed
    maps = []
    monkeypatch.setattr(crops, "map_shards", lambda *given, **more: maps.append(given))
    here = types.SimpleNamespace(device="cuda", weights_hash="w")
    monkeypatch.setattr(crops, "load_detector", lambda name, *, device: here)
    stages.detect_crops(run, crop_detector="imgfp", device="cuda:1")
    ((_, tasks, settings),) = maps
    assert settings["device"] == "cuda" and {task.arguments["gpu"] for task in tasks} == {"cuda:1"}


def test_a_worker_whose_detector_is_not_on_the_recorded_device_stops(monkeypatch):
    crops._detector.cache_clear()
    here = types.SimpleNamespace(device="cpu")
    monkeypatch.setattr(crops, "load_detector", lambda name, *, device: here)
    with pytest.raises(ValueError, match="this worker has no cuda"):
        crops.detect_boxes([], crop_detector="imgfp", weights_hash="w", device="cuda")


def test_rules_choose_again_from_the_same_detections(sides):
    run, _ = sides
    before = crops.read_crops(run)
    detections = crops.read_detections(run)
    rules = RULES | {"max_aspect": 10.0}
    more = stages.choose_crops(run, **rules)
    assert len(more) == 3 > len(before) and more["is_global"].sum() == 1
    pd.testing.assert_frame_equal(crops.read_crops(run), more)
    pd.testing.assert_frame_equal(crops.read_detections(run), detections)
    assert store.describe(run.crops_parquet)["settings"] == rules
    none = stages.choose_crops(
        run, **RULES | {"local_min_confidence": 1, "global_min_confidence": 1}
    )
    assert none.empty and list(none.columns) == list(more.columns)


def test_a_run_that_has_only_begun_has_no_detection_and_no_crop(tmp_path):
    run = store.Run(tmp_path)
    assert crops.read_detections(run).empty and crops.read_crops(run).empty


def test_boxes_of_one_image_are_a_record(sides):
    detections = crops.read_detections(sides[0])
    (query_id,) = detections["image_id"][detections["confidence"] > 0.8]
    boxes = crops.boxes_of(detections, query_id)
    assert boxes.xyxy.tolist() == [[100, 60, 400, 260], [10, 10, 60, 350]]
    assert not len(crops.boxes_of(detections, small_run.HOSTILE[0]))
