"""Batches, resizing, normalisation, errors of images."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.descriptors import base
from imgfp.descriptors.gist import GistGrid


@pytest.fixture(scope="module")
def grid():
    return GistGrid()


def test_a_wrong_image_is_named(grid, mosaics):
    with pytest.raises(ValueError, match=r"image 1: expected an \(H,W,3\) uint8 image"):
        grid.embed([mosaics[0], mosaics[0][..., 0]])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        grid.embed(mosaics, batch_size=0)


def test_an_error_while_decoding_reaches_the_caller(grid, mosaics):
    def decode():
        yield mosaics[0]
        raise OSError("damaged.jpg")

    with pytest.raises(OSError, match=r"damaged\.jpg"):
        grid.embed(decode(), batch_size=1)


def test_a_zero_or_nan_vector_is_not_normalised():
    with pytest.raises(ValueError, match="row 1 of 2"):
        base.l2_normalise(np.array([[1.0, 0], [0, 0]]))
    with pytest.raises(ValueError, match="row 0 of 1"):
        base.l2_normalise(np.array([[np.nan, 1]]))


def test_a_square_ignores_the_aspect():
    image = np.zeros((10, 40, 3), np.uint8)
    image[:, 20:] = 255
    for how in ("area", "bilinear", "bicubic"):
        small = base.resize_square(image, 8, how)
        assert small.shape == (8, 8, 3)
        assert small[:, :3].max() == 0
        assert small[:, 5:].min() == 255


def test_batches_keep_the_order_and_are_read_one_ahead():
    taken = []

    def images():
        for number in range(7):
            taken.append(number)
            yield np.full((2, 2, 3), number, np.uint8)

    batches = base.prepared_batches(images(), lambda image: image[0, 0], 3)
    assert next(batches).tolist() == [[i] * 3 for i in range(3)]
    assert len(taken) <= 6  # two batches, not the whole iterator
    assert [len(batch) for batch in batches] == [3, 1]
