"""The seed's matching rule on real pictures: its own true pair, and pairs that are none."""

from __future__ import annotations

from itertools import islice, product

import numpy as np

from imgfp import sift
from imgfp.images import read_image
from imgfp.verify.estimation import count_matches_seed


def frame_features(path):
    """Features with positions in the frame of 300 px, where the seed rounds them."""
    image = read_image(path)
    keypoints, descriptors = sift.extract(image)
    return keypoints * sift.frame_scale(image.shape[1], image.shape[0], 300), descriptors


def score(query, reference):
    mirrored = sift.mirror_descriptors(reference[1])
    return max(count_matches_seed(query[1], reference[1], mirrored, query[0], reference[0]))


def test_true_pair_of_the_challenge(shared):
    query, reference = (
        frame_features(shared / "isc2021" / name) for name in ("Q10893.jpg", "R751771.jpg")
    )
    assert score(query, reference) >= 100


def test_wrong_pairs(shared):
    own = [shared / "isc2021" / name for name in ("Q10893.jpg", "Q24789.jpg")]
    photographs = sorted((shared / "data" / "dev" / "refs").iterdir())
    queries = [frame_features(path) for path in (*own, *photographs[:18])]
    references = [frame_features(path) for path in photographs[20:2520:100]]
    scores = [score(*pair) for pair in islice(product(queries, references), 500)]
    assert len(scores) == 500
    assert np.percentile(scores, 99) <= 15
