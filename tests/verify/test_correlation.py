# SPDX-License-Identifier: AGPL-3.0-or-later
"""Alignments and their overlays, block correlations, displacements."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imgfp.verify import correlation
from imgfp.verify.correlation import Alignment, best_rectangle, to_grey


def test_an_overlay_is_computed_once_per_size(grey, monkeypatch):
    computed = []
    warp = correlation._warp_both

    def counted(alignment: Alignment, size_px: int) -> correlation.Overlay | None:
        computed.append(size_px)
        return warp(alignment, size_px)

    monkeypatch.setattr(correlation, "_warp_both", counted)
    alignment = Alignment(grey, grey, np.eye(3))
    overlays = [alignment.overlay(size_px) for size_px in (96, 192, 96, 192)]
    assert overlays[0] is overlays[2] and overlays[1] is overlays[3]
    assert [max(overlay.query.shape) for overlay in overlays] == [96, 192, 96, 192]
    assert alignment.overlay() is overlays[0] and computed == [96, 192]

    apart = alignment.under(np.array([[1, 0, 1000], [0, 1, 0], [0, 0, 1.0]]))
    assert apart.query is grey and apart.reference is grey
    assert apart.overlay() is None and apart.overlay() is None
    assert computed == [96, 192, 96], "an empty overlap is remembered too"


def test_an_overlay_is_no_finer_than_the_coarser_image(grey):
    small = cv2.resize(grey, (72, 48), interpolation=cv2.INTER_AREA)
    enlarge = np.array([[4, 0, 1.5], [0, 4, 1.5], [0, 0, 1.0]])
    overlay = Alignment(small, grey, enlarge).overlay()
    assert overlay.query.shape == overlay.reference.shape == overlay.mask.shape == (48, 72)
    assert overlay.inlier_ratio > 0.95 and overlay.mask.min() == 1


def test_edges_correlate_where_brightness_does_not(reference, other_photograph):
    grey = reference.grey
    solarised = np.where(grey > 128, 255 - grey, grey)
    drawing = cv2.magnitude(*(cv2.Sobel(grey, cv2.CV_32F, 1 - axis, axis) for axis in (0, 1)))
    for changed in (solarised, drawing):
        found = Alignment(changed, grey, np.eye(3)).overlay().summary()
        assert found.edges > 0.25 and found.edges > found.inlier_ratio - found.chance
    other = to_grey(cv2.resize(other_photograph, grey.shape[::-1]))
    assert Alignment(other, grey, np.eye(3)).overlay().edges() < 0.1


def test_edges_are_the_same_to_the_last_bit_wherever_the_pixels_lie_in_memory(rng):
    """Some vector instructions round by the alignment of their operands, so that two runs would differ."""
    found = set()
    image = rng.uniform(0, 255, (73, 97)).astype(np.float32)
    for offset in range(0, 64, 4):
        memory = np.empty(image.nbytes + 128, np.uint8)
        start = -memory.ctypes.data % 64 + offset
        moved = memory[start : start + image.nbytes].view(np.float32).reshape(image.shape)
        moved[...] = image
        found.add(correlation._edge_strength(moved).tobytes())
        _ = np.empty(4 * offset + 4, np.uint8)
    assert len(found) == 1


def test_displacements_are_subpixel_and_blocks_tell_whether_they_are_localisable(grey):
    shift = np.array([[1, 0, 1.5], [0, 1, -0.75], [0, 0, 1.0]])
    found = Alignment(grey, grey, shift).overlay(192).displacements(4)
    localisable = (found.strength > 0.9) & (found.sharpness > 0.1) & found.peak
    assert localisable.sum() > 50
    scale = 192 / 288  # working pixels per pixel of the image
    assert np.median(found.shifts[localisable], axis=0) == pytest.approx(
        [1.5 * scale, -0.75 * scale], abs=0.1
    )

    stripes = np.tile(128 + 60 * np.sin(np.arange(288, dtype=np.float32) / 3), (192, 1))
    found = Alignment(stripes, stripes, np.eye(3)).overlay(192).displacements(4)
    assert found.sharpness.max() < 0.05, "a block of stripes fits anywhere along them"


def test_best_rectangle_against_brute_force(rng):
    assert best_rectangle(np.empty((0, 3))) == (slice(0, 0), slice(0, 0))
    for _ in range(20):
        gains = rng.normal(size=(4, 5)) - 0.2
        rows, columns = best_rectangle(gains)
        best = max(
            gains[t:b, a:c].sum()
            for t in range(4)
            for b in range(t + 1, 5)
            for a in range(5)
            for c in range(a + 1, 6)
        )
        assert gains[rows, columns].sum() == pytest.approx(best)
