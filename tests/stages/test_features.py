# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebooks 02 and 04 without their notebooks: keypoints of both sides and of crops."""

from __future__ import annotations

import numpy as np

from imgfp import sift, stages, store
from imgfp.decoding import read_image
from imgfp.stages import crops, features
from imgfp.stages.inventory import read_images

SETTINGS = {"short_side_px": 120, "max_keypoints": 60}


def test_features_of_every_image_are_those_of_sift(sides, address):
    for collection in sides:
        report = stages.extract_local_features(collection, **SETTINGS, cluster=address)
        images = read_images(collection)
        assert report.computed == len(images) and not report.rejects
        lookup = store.FeatureLookup(collection.local_features)
        for image in images.itertuples():
            keypoints, descriptors = sift.extract(read_image(image.path), **SETTINGS)
            assert np.array_equal(lookup.of(image.image_id)[0], keypoints)
            assert np.array_equal(lookup.of(image.image_id)[1], descriptors)
        again = stages.extract_local_features(collection, **SETTINGS, cluster=address)
        assert (again.computed, again.reused) == (0, len(images))


def test_crops_are_searched_on_their_own_in_pixels_of_the_query(sides, address):
    run, _ = sides
    stages.extract_crop_features(run, cluster=address)
    counts = features.keypoint_counts(run.crop_features)
    lookup = store.FeatureLookup(run.crop_features)
    boxes = crops.box_of_each(crops.read_crops(run))
    assert set(counts.index) == set(boxes)
    for crop_id, box in boxes.items():
        keypoints, _ = lookup.of(crop_id)
        assert len(keypoints) == counts[crop_id] > 10
        assert (keypoints[:, :2] >= box[:2] - 1).all() and (keypoints[:, :2] <= box[2:]).all()


def test_without_crops_nothing_of_them_is_left(sides, address):
    run, _ = sides
    assert store.shards(run.crop_features, ".h5")
    rules = {"local_min_confidence": 1.0, "global_min_confidence": 1.0}
    stages.choose_crops(run, **rules)
    stages.extract_crop_features(run, cluster=address)
    assert not store.shards(run.crop_features, ".h5")
    assert features.keypoint_counts(run.crop_features).empty


def test_inputs_of_a_crop_change_with_its_box(sides):
    run, _ = sides
    table = crops.read_crops(run)
    (before,) = features.crop_tasks(run, table)
    (after,) = features.crop_tasks(run, table.assign(x0=table["x0"] + 1))
    assert before.path == after.path and before.inputs != after.inputs
