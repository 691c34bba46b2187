# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebook 06 without its notebook: vectors of a library and a run, computed or read from a file."""

from __future__ import annotations

import os
import time
import types

import numpy as np
import pandas as pd
import pytest
import small_run

from imgfp import stages
from imgfp.datatypes import Descriptors
from imgfp.descriptors.registry import load_model
from imgfp.descriptors.views import CROP_VIEWS, QUERY_VIEWS
from imgfp.stages import descriptors
from imgfp.stages.crops import read_crops
from imgfp.stages.inventory import read_images
from imgfp.store import formats

GRID = {"model": "gist-grid", "weights": "", "device": "cpu", "batch_size": 4}


def test_a_sure_crop_is_described_in_place_of_its_query(sides, address):
    run, _ = sides
    stages.describe_queries(
        run, views=["whole"], crop_views=["whole"], described="sure", **GRID, cluster=address
    )
    sure = read_crops(run).query("is_global")
    ids = set(descriptors.read_descriptors(run).image_ids)
    queries = set(read_images(run)["image_id"])
    assert ids == (queries - set(sure["query_id"])) | set(sure["crop_id"]) and len(sure)
    assert set(descriptors.first_views(run, 0).image_ids) == queries


def test_a_query_and_all_its_crops_are_described_in_their_views(sides, address):
    run, library = sides
    assert stages.describe_references(library, **GRID, cluster=address).computed == 6
    assert descriptors.described_by(library) == "gist-grid gist-grid-1"
    assert descriptors.described_by(run) == ""  # yet
    references = descriptors.read_descriptors(library)
    assert list(references.image_ids) == list(read_images(library)["image_id"])
    crop = read_crops(run).iloc[0]
    stages.describe_queries(run, **GRID, cluster=address)
    every = descriptors.read_descriptors(run)
    for view_id, views in ((crop.query_id, QUERY_VIEWS), (crop.crop_id, CROP_VIEWS)):
        ours = [name for name in every.image_ids if name.startswith(f"{view_id}@")]
        assert ours == [f"{view_id}@{view}" for view in views]
    first = descriptors.first_views(run, 0)
    assert list(first.image_ids) == list(read_images(run)["image_id"])
    held = dict(zip(first.image_ids, first.vectors, strict=True))[crop.query_id]
    assert np.array_equal(held, every.vectors[list(every.image_ids).index(f"{crop.crop_id}@whole")])


def test_vector_ids_are_parsed_from_the_right(sides):
    run, _ = sides
    query_of = descriptors.query_of_each_view(run) | {"a@b": "a@b"}
    crop = read_crops(run).iloc[0]
    assert query_of[crop.crop_id] == crop.query_id
    assert descriptors.view_of_vector("a@b", query_of) == "a@b"
    assert descriptors.view_of_vector("a@b@rot90", query_of) == "a@b"


def test_another_word_for_what_is_described_is_refused(sides, address):
    run, _ = sides
    with pytest.raises(ValueError, match="'some'"):
        stages.describe_queries(run, described="some", **GRID, cluster=address)


def test_auto_on_a_machine_without_gpu_keeps_what_a_cpu_has_made(sides, address, monkeypatch):
    _, library = sides
    monkeypatch.setattr("imgfp.inference.has_driver", lambda: False)
    model = GRID | {"model": "imgfp"}
    assert stages.describe_references(library, **model, cluster=address).computed == 6
    again = stages.describe_references(library, **model | {"device": "auto"}, cluster=address)
    assert (again.computed, again.reused) == (0, 6)


def test_a_gpu_is_recorded_without_its_number(sides, monkeypatch):
    maps = []
    monkeypatch.setattr(
        descriptors, "map_shards", lambda *given, **more: maps.append((given, more))
    )
    on_gpu = types.SimpleNamespace(name="m", device="cuda", weights_hash="w")
    monkeypatch.setattr(descriptors, "load_model", lambda *_: on_gpu)
    for device in ("auto", "cuda:1"):
        stages.describe_references(sides[1], **GRID | {"device": device})
    (_, first, settings), more = maps[0]
    (_, second, others), _ = maps[1]
    assert settings == others and settings["device"] == "cuda"
    assert [{task.arguments["gpu"] for task in tasks} for tasks in (first, second)] == [
        {"auto"},
        {"cuda:1"},
    ]
    assert more["workers"] == min(4, os.cpu_count())


def test_a_worker_whose_model_is_not_on_the_recorded_device_stops(monkeypatch):
    descriptors._model.cache_clear()
    asked = []
    here = types.SimpleNamespace(device="cpu")
    monkeypatch.setattr(descriptors, "load_model", lambda *given: asked.append(given) or here)
    settings = {"model": "m", "weights": "", "batch_size": 4, "weights_hash": "w", "views": []}
    with pytest.raises(ValueError, match="this worker has no cuda"):
        descriptors.describe([], gpu="cuda:1", device="cuda", **settings)
    assert asked == [("m", "", "cuda:1")]


def test_vectors_computed_elsewhere_are_read_from_a_file(sides, address, tmp_path):
    run, library = sides
    stages.describe_references(library, **GRID, cluster=address)
    stages.describe_queries(run, views=["whole"], **GRID, cluster=address)
    references, queries = descriptors.read_descriptors(library), descriptors.first_views(run, 0)
    short = Descriptors(queries.image_ids[1:], queries.vectors[1:])
    path = tmp_path / "d.h5"
    formats.write_descriptors(path, [short], [references], "another 0123")
    from_file = GRID | {"file": str(path), "cluster": address}
    with pytest.raises(
        formats.FormatError, match="are of another 0123, expected those of gist-grid"
    ):
        stages.describe_references(library, **from_file)
    from_file["model"] = "auto"
    assert not stages.describe_references(library, **from_file).rejects
    ((missing, reason),) = stages.describe_queries(run, **from_file).rejects
    assert missing.endswith(".jpg") and reason == "d.h5 holds no query of this id"
    read = descriptors.read_descriptors(run)
    assert set(read.image_ids) == set(short.image_ids)
    np.testing.assert_array_equal(descriptors.read_descriptors(library).vectors, references.vectors)
    assert descriptors.described_by(library) == "another 0123"
    with pytest.raises(FileNotFoundError):
        stages.describe_references(library, **from_file | {"file": str(tmp_path / "absent.h5")})
    others = Descriptors(np.array(["x.jpg"], object), references.vectors[:1])
    formats.write_descriptors(path, [short], [others])
    with pytest.raises(formats.FormatError, match=r"d\.h5: expected vectors of references by"):
        stages.describe_references(library, **from_file)


def test_inputs_of_a_query_change_with_its_crops(sides):
    run, _ = sides
    crops = read_crops(run)
    more = pd.concat([crops, crops.iloc[:1].assign(crop_id="more", is_global=False)])
    tasks = [
        descriptors.query_tasks(run, table, described=described)[0].inputs
        for table, described in ((crops, "all"), (more, "all"), (crops, "sure"), (more, "sure"))
    ]
    assert tasks[0] != tasks[1] and tasks[0] != tasks[2] and tasks[2] == tasks[3]


def test_the_closest_references_come_first():
    vectors = np.eye(4, dtype=np.float32)[[0, 1, 2, 0]]
    vectors[3] = (vectors[0] + 0.1 * vectors[1]) / np.linalg.norm([1, 0.1])
    described = Descriptors(np.array(["a", "b", "c", "d"], object), vectors)
    first, second, *_ = descriptors.closest_pairs(described, 3)
    assert first[:2] == ("a", "d") and first[2] > second[2] and second[:2] == ("b", "d")


def test_the_shipped_model_describes_forty_pictures_a_second():
    """On one core; a slow or busy machine is given three tries and processor time."""
    model = load_model("imgfp")
    pictures = list(small_run.photographs().values()) * 10
    model.embed(pictures)
    speeds = []
    for _ in range(3):
        start = time.process_time()
        model.embed(pictures)
        speeds.append(len(pictures) / (time.process_time() - start))
    assert max(speeds) >= 40
