"""The baseline of gradient directions on a grid."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.demo import painting
from imgfp.descriptors.gist import GistGrid
from imgfp.edits.families import FAMILIES


@pytest.fixture(scope="module")
def grid():
    return GistGrid()


def test_grid_of_no_images_is_empty_with_the_right_width(grid):
    assert grid.embed([]).shape == (0, grid.dim)
    assert grid.embed(iter([])).dtype == np.float32


def test_grid_gives_unit_vectors_for_any_image(grid, mosaics):
    odd = [np.zeros((1, 1, 3), np.uint8), np.full((3, 900, 3), 200, np.uint8)]
    vectors = grid.embed([*mosaics, *odd])
    assert vectors.shape == (9, grid.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_grid_does_not_depend_on_batches_or_order(grid, mosaics):
    whole = grid.embed(mosaics)
    np.testing.assert_allclose(grid.embed(iter(mosaics), batch_size=2), whole, atol=1e-6)
    np.testing.assert_allclose(grid.embed(mosaics[::-1])[::-1], whole, atol=1e-6)


def test_grid_finds_a_darker_copy_more_similar_than_a_mirrored_one(grid, mosaics):
    first = mosaics[0]
    vectors = grid.embed([first, (first * 0.7).astype(np.uint8), first[:, ::-1], mosaics[1]])
    dark, mirrored, other = vectors[1:] @ vectors[0]
    assert dark > 0.95
    assert dark > mirrored
    assert dark > other


@pytest.mark.parametrize("edit", ["blur", "jpeg", "noise", "colour", "text"])
def test_lightly_edited_copies_are_most_similar_to_their_original(grid, edit):
    kinds = list(painting.KINDS)
    library = [
        painting.procedural(np.random.default_rng(number), kinds[number % len(kinds)], (150, 200))
        for number in range(2 * len(kinds))
    ]
    rng = np.random.default_rng(0)
    queries = [FAMILIES[edit](image, 0.3, rng).image for image in library]
    similarity = grid.embed(queries) @ grid.embed(library).T
    found = similarity.argmax(axis=1) == np.arange(len(library))
    assert found.mean() >= 0.95
