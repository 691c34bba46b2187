"""Query views: rotated, mirrored, cropped."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.descriptors import views
from imgfp.descriptors.views import query_views


def test_views_are_what_their_names_say():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    whole, mirror, rotated = query_views(image, ["whole", "mirror", "rot90"])
    np.testing.assert_array_equal(whole, image)
    np.testing.assert_array_equal(mirror[:, 0], image[:, 2])
    assert rotated.shape == (3, 2, 3)
    np.testing.assert_array_equal(rotated[0, 0], image[0, 2])  # the top right comes to the top left
    assert all(view.flags.c_contiguous for view in (whole, mirror, rotated))


def test_the_eight_dihedral_views_all_differ():
    image = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    turned = query_views(image, views.DIHEDRAL)
    assert len(views.DIHEDRAL) == len({view.tobytes() for view in turned}) == 8


def test_centre_crops_never_vanish():
    assert query_views(np.zeros((1, 1, 3), np.uint8), ["centre50"])[0].shape == (1, 1, 3)
    big = np.zeros((100, 50, 3), np.uint8)
    assert query_views(big, ["centre70"])[0].shape == (70, 35, 3)


def test_unknown_or_no_views_are_errors():
    with pytest.raises(ValueError, match="unknown query views \\['mirrored'\\]"):
        query_views(np.zeros((2, 2, 3), np.uint8), ["mirrored"])
    with pytest.raises(ValueError, match="no query views; choose from whole"):
        query_views(np.zeros((2, 2, 3), np.uint8), [])
