# SPDX-License-Identifier: AGPL-3.0-or-later
"""Query views: the image rotated, mirrored or cropped. The search takes the best result of all views."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from imgfp.descriptors.base import check_image

_VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "whole": lambda image: image,
    "mirror": lambda image: image[:, ::-1],
    "flip": lambda image: image[::-1],
    "rot90": lambda image: np.rot90(image, 1),
    "rot180": lambda image: np.rot90(image, 2),
    "rot270": lambda image: np.rot90(image, 3),
    "mirror-rot90": lambda image: np.rot90(image[:, ::-1], 1),
    "mirror-rot270": lambda image: np.rot90(image[:, ::-1], 3),
    "centre70": lambda image: _centre(image, 0.7),
    "centre50": lambda image: _centre(image, 0.5),
}
#: Names of the views. Rotations are counter-clockwise; centre70 keeps 70 % of both sides.
VIEWS = tuple(_VIEWS)
#: Views of a query, and of a crop inside it, that are described by default: on the edits of `docs/results.md` they
#: propose the same copies that no other branch proposes as all views do, at half the cost.
QUERY_VIEWS = ("whole", "mirror", "flip", "rot90", "rot270", "centre70")
CROP_VIEWS = ("whole", "mirror", "centre70")
#: The eight views of the dihedral group: rotations by multiples of 90 degrees, plain and mirrored.
DIHEDRAL = VIEWS[:8]


def _centre(image: np.ndarray, share: float) -> np.ndarray:
    height, width = image.shape[:2]
    keep_height, keep_width = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - keep_height) // 2, (width - keep_width) // 2
    return image[top : top + keep_height, left : left + keep_width]


def query_views(image: np.ndarray, names: Sequence[str] = ("whole",)) -> list[np.ndarray]:
    """The named views of an image, contiguous (h,w,3) uint8 each. Raises ValueError for an unknown name
    and for no names."""
    if not len(names):
        raise ValueError(f"no query views; choose from {', '.join(VIEWS)}")
    unknown = [name for name in names if name not in _VIEWS]
    if unknown:
        raise ValueError(f"unknown query views {unknown}; choose from {', '.join(VIEWS)}")
    return [np.ascontiguousarray(_VIEWS[name](check_image(image))) for name in names]
