# SPDX-License-Identifier: AGPL-3.0-or-later
"""What differs between two aligned pictures at full resolution."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imgfp.verify.correlation import Alignment, to_grey
from imgfp.verify.differences import find_differences


def receipt(lines: list[str]) -> np.ndarray:
    page = np.full((760, 380), 245, np.uint8)
    cv2.putText(page, "MERIDIAN", (90, 60), cv2.FONT_HERSHEY_DUPLEX, 1.2, 0, 2, cv2.LINE_AA)
    for row, line in enumerate(lines):
        at = 20, 160 + 30 * row
        cv2.putText(page, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 20, 1, cv2.LINE_AA)
    return page


LINES = [f"{n} x silver planet {n * 7.37:.2f}" for n in range(1, 16)]


@pytest.mark.parametrize(
    "edit",
    [
        lambda page: page,
        lambda page: cv2.resize(page, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
        lambda page: cv2.imdecode(cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 0),
        lambda page: 255 - (0.5 * page).astype(np.uint8),
        lambda page: np.roll(page, (1, -1), (0, 1)),  # a homography is not exact
    ],
    ids=["same", "smaller", "JPEG", "negative", "one pixel off"],
)
def test_a_page_in_another_quality_does_not_differ(edit):
    page = receipt(LINES)
    edited = edit(page)
    scale = np.diag([page.shape[1] / edited.shape[1], page.shape[0] / edited.shape[0], 1.0])
    found = find_differences(Alignment(to_grey(edited), to_grey(page), scale))
    assert found.compared > 300 and found.differing == 0


def test_one_line_of_another_text_differs():
    other = [*LINES[:7], "2 x copper harbour 61.30", *LINES[8:]]
    sides = to_grey(receipt(other)), to_grey(receipt(LINES))
    found = find_differences(Alignment(*sides, np.eye(3)))
    assert 0.01 < found.share < 0.2


def test_what_cannot_be_compared_differs():
    flat = np.full((100, 100), 9.0, np.float32)
    apart = np.array([[1, 0, 500], [0, 1, 0], [0, 0, 1.0]])
    assert find_differences(Alignment(flat, flat, np.eye(3))).share == 1
    assert find_differences(Alignment(flat, flat, apart)).share == 1
