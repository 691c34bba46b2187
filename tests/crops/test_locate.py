# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from imgfp.crops.locate import MAX_DIFFERENCE, locate
from imgfp.images import decode_image, encode_jpeg


@pytest.mark.parametrize("quality", [100, 75])
def test_a_part_that_was_saved_again_is_found_to_the_pixel(photograph, quality):
    box = [37, 81, 337, 281]
    part = decode_image(encode_jpeg(photograph[81:281, 37:337], quality), "part")[0]
    found, difference = locate(photograph, part)
    assert found.tolist() == box and difference < MAX_DIFFERENCE


def test_an_image_lies_in_itself_and_what_is_larger_nowhere(photograph):
    found, difference = locate(photograph, photograph)
    assert found.tolist() == [0, 0, 640, 427] and difference == 0
    assert locate(photograph[:, :-1], photograph)[1] == np.inf


def test_a_part_of_another_image_differs(photograph, other_photograph):
    assert locate(photograph, other_photograph[100:300, 100:400])[1] > 2 * MAX_DIFFERENCE
    # One of the image, but scaled or mirrored, is no part of its pixels either.
    assert locate(photograph, photograph[81:281, 37:337][:, ::-1])[1] > 2 * MAX_DIFFERENCE
