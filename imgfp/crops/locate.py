# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where in an image a part of it lies that was cut out and saved again."""

from __future__ import annotations

import cv2
import numpy as np

#: Largest root mean square difference of a part to its place, grey levels. JPEG at quality 75 of a photograph
#: differs by 2 to 4, another place by 20 and more.
MAX_DIFFERENCE = 8.0


def locate(image: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, float]:
    """The box xyxy (4,) float32, whole pixels of the image, that a part was cut from, and how far its pixels differ
    from those in the box: root mean square, grey levels, more than `MAX_DIFFERENCE` for what is no part of the image.

    image, part: (h,w,3) uint8 RGB, the part not scaled. The place is that of the least sum of squared differences.
    A part that is larger than the image differs by infinity.
    """
    whole, cut = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (image, part))
    height, width = cut.shape
    if height > whole.shape[0] or width > whole.shape[1]:
        return np.array([0, 0, width, height], np.float32), float("inf")
    (x0, y0) = cv2.minMaxLoc(cv2.matchTemplate(whole, cut, cv2.TM_SQDIFF))[2]
    there = whole[y0 : y0 + height, x0 : x0 + width]
    # Again, as the sums of a large part have few digits.
    difference = float(np.sqrt(np.mean((there.astype(np.float32) - cut) ** 2)))
    return np.array([x0, y0, x0 + width, y0 + height], np.float32), difference
