# SPDX-License-Identifier: AGPL-3.0-or-later
"""What differs between two aligned pictures at full resolution."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data

from imgfp.scoring.fusion import are_rewritten
from imgfp.verify.correlation import Alignment, to_grey
from imgfp.verify.differences import CELLS, compare_blocks, find_differences, is_drawn


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


OTHER = [f"{n * 3} x copper harbour {n * 3.91:.2f}" for n in range(1, 16)]


def covered(page: np.ndarray) -> np.ndarray:
    """The page with a patterned sticker over a sixth of it."""
    edited = page.copy()
    edited[250:420, 20:320] = (
        np.random.default_rng(0).integers(0, 160, (17, 30)).repeat(10, 0).repeat(10, 1)
    )
    return edited


def faint(page: np.ndarray) -> np.ndarray:
    """The page as a darker scan of less contrast."""
    return (20 + 0.6 * page).astype(np.uint8)


@pytest.mark.parametrize(
    ("edited", "rewritten"),
    [
        (receipt(OTHER), True),
        (faint(receipt(OTHER)), True),
        (255 - receipt(OTHER), True),
        (faint(receipt(LINES)), False),
        (covered(receipt(LINES)), False),
        (cv2.GaussianBlur(receipt(LINES), (0, 0), 4), False),
    ],
    ids=[
        "other text",
        "other text, faint",
        "other text, negative",
        "faint",
        "sticker",
        "blurred",
    ],
)
def test_another_text_on_the_same_ground_is_rewritten(edited, rewritten):
    found = find_differences(Alignment(to_grey(edited), to_grey(receipt(LINES)), np.eye(3)))
    assert (
        are_rewritten(found.columns | {"inliers": 30, "exact_inliers": 28, "drawn": True})
        == rewritten
    )


def test_faint_text_under_noise_is_not_rewritten():
    page = np.full((760, 380), 245, np.uint8)
    for row, line in enumerate(["MERIDIAN"] * 4):
        cv2.putText(
            page, line, (40, 50 + 50 * row), cv2.FONT_HERSHEY_DUPLEX, 1.5, 0, 3, cv2.LINE_AA
        )
    for row, line in enumerate(LINES):
        cv2.putText(
            page, line, (20, 260 + 32 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 170, 1, cv2.LINE_AA
        )
    noise = np.random.default_rng(0).normal(0, 50, page.shape)
    noisy = np.clip(page + noise, 0, 255).astype(np.uint8)
    found = find_differences(Alignment(to_grey(noisy), to_grey(page), np.eye(3)))
    assert found.differing > 300 and found.rewritten == 0


def test_what_two_forms_share_is_marked_and_left_out():
    """At half the size, so that the cells of each side are found in its own pixels."""
    small = cv2.resize(receipt(OTHER), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    alignment = Alignment(to_grey(small), to_grey(receipt(LINES)), np.diag([2.0, 2.0, 1.0]))
    query, reference = compare_blocks(alignment).shared_cells((190, 380), (380, 760))
    assert (query == reference).mean() > 0.99
    head = np.arange(CELLS) < 80 / 760 * CELLS
    assert reference[head].sum() > 20 and reference[~head].mean() < 0.1
    found = find_differences(alignment, reference)
    assert found.unshared_differing > max(150, 4 * found.unshared_unchanged)
    assert find_differences(alignment).unshared_differing == 0


def test_pages_are_drawn_and_photographs_are_not():
    assert is_drawn(to_grey(receipt(LINES)))
    assert not is_drawn(to_grey(skimage.data.chelsea()))
