"""A map between two pictures, said in words."""

from __future__ import annotations

import numpy as np

from imgfp.geometry import project

#: From this share of its area on, a picture counts as wholly inside the other.
WHOLE = 0.9


def direction(query_area: float, reference_area: float) -> str:
    """Which picture contains the other, from the share of each that the overlap covers."""
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
    """What was done to the reference to make the query: "mirrored, 43 % crop, rotated 12 degrees".

    homography: query -> reference pixels; sizes (width, height); reference_overlap (k,2): the
    overlap in reference pixels; areas: shares 0..1 of the pictures that it covers.
    """
    made = np.linalg.inv(homography)  # reference -> query, the way the edit went
    centre = reference_overlap.mean(axis=0)
    # Steps of a hundredth of the overlap measure the map where the pictures meet.
    step = max(1e-3, 0.01 * np.ptp(reference_overlap, axis=0).max())
    here, right, down = project(made, centre + np.array([[0, 0], [step, 0], [0, step]]))
    across, along = (right - here) / step, (down - here) / step
    words = []
    mirrored = across[0] * along[1] - across[1] * along[0] < 0
    if mirrored:
        across = -across
    turn = float(np.degrees(np.arctan2(across[1] - along[0], across[0] + along[1])))
    if mirrored and abs(turn) > 135:  # a mirror image turned by half is a flip
        words.append("flipped upside down")
        turn = (turn + 180 + 180) % 360 - 180
    elif mirrored:
        words.append("mirrored")
    if reference_area < WHOLE:
        words.append(f"{100 * reference_area:.0f} % crop")
    if abs(turn) >= 2:
        way = "" if abs(turn) >= 179.5 else " clockwise" if turn > 0 else " counterclockwise"
        words.append(f"rotated {abs(turn):.0f} degrees{way}")
    stretch = np.hypot(*across) / np.hypot(*along)
    if max(stretch, 1 / stretch) > 1.07 and abs(abs(turn) - 90) > 20:
        side, share = ("width", stretch) if stretch < 1 else ("height", 1 / stretch)
        words.append(f"{side} squeezed to {100 * share:.0f} %")
    corners = project(made, reference_overlap)
    depths = reference_overlap @ made[2, :2] + made[2, 2]
    if depths.max() / depths.min() > 1.15:
        words.append("in perspective")
    if query_area < WHOLE:
        words.append(f"pasted {_place(corners.mean(axis=0), query_size)}")
    return ", ".join(words) or "as it is"


def _place(centre: np.ndarray, size: tuple[int, int]) -> str:
    """Where in a picture a point is: "top right", "centre", ..."""
    thirds = np.clip((3 * centre / np.asarray(size)).astype(int), 0, 2)
    row, column = ("top", "", "bottom")[thirds[1]], ("left", "", "right")[thirds[0]]
    return f"{row} {column}".strip() or "centre"
