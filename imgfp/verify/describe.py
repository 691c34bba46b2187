# SPDX-License-Identifier: AGPL-3.0-or-later
"""A transform between two images in words."""

from __future__ import annotations

import numpy as np

from imgfp.geometry import project

#: From this fraction of its area on, an image counts as wholly inside the other.
WHOLE = 0.9


def direction(query_area: float, reference_area: float) -> str:
    """Which image contains the other, from the fraction of each that the overlap, or its bounding box, covers."""
    if query_area >= WHOLE and reference_area >= WHOLE:
        return "same extent"
    if reference_area >= WHOLE:
        return "query contains reference"
    if query_area >= WHOLE:
        return "reference contains query"
    return "parts in common"


def in_words(
    homography: np.ndarray,
    query_size: tuple[int, int],
    reference_overlap: np.ndarray,
    query_area: float,
    reference_area: float,
) -> str:
    """What turned the reference into the query: "mirrored, 43 % crop, pasted top right".

    homography (3,3): query -> reference pixels; query_size (width, height); reference_overlap
    (k,2): the overlap in reference pixels; areas: the fractions 0..1 of the images that it covers, of the query with
    its bounding box.
    """
    edit = np.linalg.inv(homography)  # reference -> query, the direction of the edit
    centre = reference_overlap.mean(axis=0)
    # Steps of a hundredth of the overlap linearise the transform at its centre.
    step = max(1e-3, 0.01 * np.ptp(reference_overlap, axis=0).max())
    here, right, down = project(edit, centre + np.array([[0, 0], [step, 0], [0, step]]))
    across, along = (right - here) / step, (down - here) / step
    words = []
    mirrored = across[0] * along[1] - across[1] * along[0] < 0
    if mirrored:
        across = -across
    turn = float(np.degrees(np.arctan2(across[1] - along[0], across[0] + along[1])))
    if mirrored and abs(turn) > 135:  # mirrored and rotated by half a turn: upside down
        words.append("flipped upside down")
        turn = (turn + 180 + 180) % 360 - 180
    elif mirrored:
        words.append("mirrored")
    if reference_area < WHOLE:
        words.append(f"{100 * reference_area:.0f} % crop")
    if abs(turn) >= 2:
        sense = "" if abs(turn) >= 179.5 else " clockwise" if turn > 0 else " counterclockwise"
        words.append(f"rotated {abs(turn):.0f} degrees{sense}")
    stretch = np.hypot(*across) / np.hypot(*along)
    if max(stretch, 1 / stretch) > 1.07 and abs(abs(turn) - 90) > 20:
        side, ratio = ("width", stretch) if stretch < 1 else ("height", 1 / stretch)
        words.append(f"{side} squeezed to {100 * ratio:.0f} %")
    corners = project(edit, reference_overlap)
    depths = reference_overlap @ edit[2, :2] + edit[2, 2]
    if depths.max() / depths.min() > 1.15:
        words.append("in perspective")
    if query_area < WHOLE:
        words.append(f"pasted {_position(corners.mean(axis=0), query_size)}")
    return ", ".join(words) or "as it is"


def _position(centre: np.ndarray, size: tuple[int, int]) -> str:
    """The third of an image, (width, height), in which a point lies: "top right", "centre", ..."""
    thirds = np.clip((3 * centre / np.asarray(size)).astype(int), 0, 2)
    row, column = ("top", "", "bottom")[thirds[1]], ("left", "", "right")[thirds[0]]
    return f"{row} {column}".strip() or "centre"
