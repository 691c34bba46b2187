"""Maps between two pictures that matched keypoints agree on, and which of them to refuse.

Points are (n,2) x, y; a map is a (3,3) homography of them; a similarity and an affine map are the
poorer kinds. Areas are negative where a map mirrors.
"""

from __future__ import annotations

import cv2
import numpy as np


def project(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (n,2) through a homography (3,3); where it sends them to infinity, inf or NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sent = points @ homography[:, :2].T + homography[:, 2]
        return sent[:, :2] / sent[:, 2:]


def local_areas(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """By how much (n,) the map scales areas at points (n,2); negative where it mirrors."""
    depth = points @ homography[2, :2] + homography[2, 2]
    with np.errstate(divide="ignore"):
        return np.linalg.det(homography) / depth**3


def camera_signs(homography: np.ndarray, overlap: np.ndarray) -> tuple[float, float, float]:
    """How far a map is from those that editing makes: tilt and shear in degrees, and perspective.

    tilt: of the picture's sides against the nearest side of the other: cropping, pasting, squeezing,
    mirroring and quarter turns leave none. shear: by how much sides stop being square to each other:
    a rotation leaves none. perspective: by how much the map enlarges one corner of the overlap more
    than another, 0 for none. A second photograph of a thing, taken from elsewhere, has all three.
    overlap (k,2): polygon in query pixels.
    """
    centre = overlap.mean(axis=0)
    depth = homography[2, :2] @ centre + homography[2, 2]
    sent = project(homography, centre[None])[0]
    sides = (homography[:2, :2] - np.outer(sent, homography[2, :2])) / depth
    angles = np.degrees(np.arctan2(sides[1], sides[0]))
    tilt = abs((angles + 45) % 90 - 45).max()
    shear = abs((angles[1] - angles[0]) % 180 - 90)
    depths = overlap @ homography[2, :2] + homography[2, 2]
    with np.errstate(divide="ignore"):
        perspective = abs(depths).max() / abs(depths).min() - 1
    return float(tilt), float(shear), float(perspective)


def corners_of(width: float, height: float) -> np.ndarray:
    """Outer corners (4,2) of a picture in the frame where the centre of its first pixel is
    (0,0)."""
    right, bottom = width - 0.5, height - 0.5
    return np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])


def overlap_of(
    query_corners: np.ndarray, reference_corners: np.ndarray, homography: np.ndarray
) -> np.ndarray:
    """Convex polygon (k,2), in reference pixels, of what query and reference share; (0,2) for none.

    Corners (4,2) of each picture's rectangle in its own pixels.
    """
    sent = project(homography, query_corners)
    depth = query_corners @ homography[2, :2] + homography[2, 2]
    if not np.isfinite(sent).all() or depth.min() * depth.max() <= 0:
        return np.empty((0, 2))
    area, polygon = cv2.intersectConvexConvex(
        sent.astype(np.float32), reference_corners.astype(np.float32)
    )
    return polygon[:, 0].astype(np.float64) if area > 0 else np.empty((0, 2))


def polygon_area(polygon: np.ndarray) -> float:
    """Area of a polygon (k,2), by the shoelace formula."""
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
