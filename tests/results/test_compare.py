# SPDX-License-Identifier: AGPL-3.0-or-later
import numpy as np

from imgfp.results import Results, compare
from imgfp.results.compare import DIFFERS, SHARED


def test_an_image_matches_itself_and_an_empty_one_nothing(finished_run):
    features = Results(finished_run).features("reference", "china")
    matches = compare.PairMatcher(features, features).matches()
    assert matches.verification.inliers.sum() > 100
    none = np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8)
    empty = compare.PairMatcher(none, features).matches()
    assert not len(empty.query_xy) and empty.verification.refused == "too_few"
    fewer = compare.PairMatcher(features, features, keypoints=50)
    assert 0 < len(fewer.matches().query_xy) <= 50


def test_a_stricter_ratio_leaves_fewer_matches_without_a_new_search(finished_run, monkeypatch):
    results = Results(finished_run)
    matcher = compare.PairMatcher(
        results.features("query", "q-turned"), results.features("reference", "cat")
    )
    loose = matcher.matches(1.15, at_most=5000)
    monkeypatch.setattr(compare, "nearest_two", None)
    assert 0 < len(matcher.matches(3.0, at_most=5000).query_xy) < len(loose.query_xy)


def test_the_matcher_of_a_pair_reads_the_crop_that_was_verified(finished_run):
    results = Results(finished_run)
    best = results.best_evidence("q-pasted", "china")
    matcher = compare.pair_matcher(results, "q-pasted", "china")
    assert len(matcher.query) == len(results.features("query", best["view_id"])[0]) > 0
    assert len(matcher.matches().query_xy) == best["tentative"]
    assert len(compare.pair_matcher(results, "q-pasted", "china", keypoints=20).query) == 20


def test_a_query_is_warped_by_the_homography(photograph):
    shift = np.array([[1.0, 0, 100], [0, 1, 0], [0, 0, 1]])
    size = photograph.shape[1::-1]
    small = photograph[::2, ::2]
    warped, target, inside = compare.warp_query(small, photograph, size, size, shift, 320)
    assert warped.shape == target.shape == (214, 320, 3)
    assert not inside[:, :48].any() and inside[5:-5, 55:].all()
    assert abs(warped[:, 60:].astype(int) - target[:, 10:-50]).mean() < 12


def test_what_differs_and_what_others_share_are_marked_in_the_reference(other_photograph):
    edited = np.ascontiguousarray(other_photograph[:, ::-1])
    edited[100:200, 400:500] = (
        np.random.default_rng(0).integers(0, 256, (10, 10, 3)).repeat(10, 0).repeat(10, 1)
    )
    mirror = np.array([[-1.0, 0, 639], [0, 1, 0], [0, 0, 1]])
    sizes = (640, 427), (640, 427)
    cells = np.zeros((32, 32), bool)
    cells[:4] = True
    marks = compare.marked_pixels(edited, other_photograph, *sizes, mirror, (214, 320), cells)
    where = np.zeros((214, 320), bool)
    where[50:100, 70:120] = True  # the patch as the reference has it, at half the size
    assert (marks[where] == DIFFERS).mean() > 0.9 and (marks[~where] == DIFFERS).mean() < 0.05
    assert (marks[:20] == SHARED).all() and not (marks[30:] == SHARED).any()
