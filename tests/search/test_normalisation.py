"""The best view of a query, and scores normalised by a background."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.search.normalisation import background_similarity, best_over_views, normalise_scores


def test_the_best_view_of_each_reference_counts():
    scores = np.array([[0.5, 0.4], [0.9, 0.5], [0.1, 0.0], [0.3, 0.2]], np.float32)
    ids = np.array([[7, 8], [8, 7], [1, -1], [2, 1]])
    best, found, view_rows = best_over_views(scores, ids, n_views=2, top_k=3)
    np.testing.assert_array_equal(found, [[8, 7, -1], [2, 1, -1]])
    np.testing.assert_array_equal(view_rows, [[1, 0, -1], [1, 1, -1]])
    np.testing.assert_allclose(best, [[0.9, 0.5, -np.inf], [0.3, 0.2, -np.inf]])


def test_no_queries_have_no_results():
    best, found, _ = best_over_views(np.empty((0, 4)), np.empty((0, 4), np.int64), 2, 5)
    assert best.shape == found.shape == (0, 5)


def test_results_that_do_not_divide_into_views_are_an_error():
    with pytest.raises(ValueError, match="3 rows of results do not divide into 2 views"):
        best_over_views(np.zeros((3, 1)), np.zeros((3, 1), np.int64), 2, 1)


def test_a_query_that_is_similar_to_many_images_loses():
    background = np.eye(4, dtype=np.float32)[:3]
    hub, clear = np.array([0.8, 0.6, 0, 0]), np.array([0.0, 0, 0, 1])
    means = background_similarity(np.stack([hub, clear]).astype(np.float32), background, 2)
    np.testing.assert_allclose(means, [0.7, 0.0], atol=1e-6)
    scores = normalise_scores(np.array([[0.75, 0.1], [0.7, 0.2]]), means)
    assert scores[1, 0] > scores[0, 0]
    np.testing.assert_allclose(scores[0], [0.05, -0.6], atol=1e-6)


def test_a_background_that_is_too_small_is_an_error():
    with pytest.raises(ValueError, match="from a background of 2 vectors"):
        background_similarity(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 3)
    empty = background_similarity(np.empty((0, 2), np.float32), np.eye(2, dtype=np.float32), 1)
    assert empty.shape == (0,)
