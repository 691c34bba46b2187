"""Transforms in words."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.verify.describe import direction, in_words


@pytest.mark.parametrize(
    ("areas", "words"),
    [
        ((1, 1), "same extent"),
        ((0.2, 1), "query contains reference"),
        ((1, 0.4), "reference contains query"),
        ((0.5, 0.5), "parts in common"),
    ],
)
def test_direction(areas, words):
    assert direction(*areas) == words


def turn(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (turn(12), "rotated 12 degrees clockwise"),
        (turn(-90), "rotated 90 degrees counterclockwise"),
        (turn(-179.9), "rotated 180 degrees"),
        (np.diag([1.0, -1, 1]), "flipped upside down"),
        (turn(10) @ np.diag([-1.0, 1, 1]), "mirrored, rotated 10 degrees clockwise"),
        (np.diag([0.8, 1, 1]), "width squeezed to 80 %"),
        (np.array([[1, 0, 0], [0, 1, 0], [0.002, 0, 1]]), "in perspective"),
    ],
)
def test_a_transform_in_words(edit, words):
    """`edit` maps reference to query; the homography goes back."""
    box = np.array([[0.0, 0], [200, 0], [200, 100], [0, 100]])
    found = in_words(np.linalg.inv(edit), (200, 100), box, 1.0, 1.0)
    assert words in found if words == "in perspective" else found == words
