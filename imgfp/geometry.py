"""Plane geometry: points, areas and polygons under a homography, and the overlap of boxes.

Points are (n,2) x, y; a homography is (3,3) and maps points of one image to another; similarities and
affine transforms are special cases of it. Areas are negative where a transform mirrors. Boxes are
x0, y0, x1, y1 with exclusive ends.
"""

from __future__ import annotations

import cv2
import numpy as np


def project(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (n,2) under a homography (3,3); inf or NaN for points mapped to infinity."""
    with np.errstate(divide="ignore", invalid="ignore"):
        projected = points @ homography[:, :2].T + homography[:, 2]
        return projected[:, :2] / projected[:, 2:]


def local_areas(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Factor (n,) by which the homography scales areas at points (n,2); negative where it mirrors."""
    depth = points @ homography[2, :2] + homography[2, 2]
    with np.errstate(divide="ignore"):
        return np.linalg.det(homography) / depth**3


def camera_signs(homography: np.ndarray, overlap: np.ndarray) -> tuple[float, float, float]:
    """Signs of a second camera in a homography: tilt and shear in degrees, and perspective.

    tilt: angle of the image's sides to the nearest side of the other image; cropping, pasting,
    scaling, mirroring and quarter turns leave none. shear: deviation of the sides from a right angle
    to each other; a rotation leaves none. perspective: ratio of the largest to the smallest scale in
    the overlap, less 1; 0 for an affine transform. A second photograph of the same scene, taken from
    another viewpoint, has all three. overlap (k,2): polygon in query pixels.
    """
    centre = overlap.mean(axis=0)
    depth = homography[2, :2] @ centre + homography[2, 2]
    projected = project(homography, centre[None])[0]
    sides = (homography[:2, :2] - np.outer(projected, homography[2, :2])) / depth
    angles = np.degrees(np.arctan2(sides[1], sides[0]))
    tilt = abs((angles + 45) % 90 - 45).max()
    shear = abs((angles[1] - angles[0]) % 180 - 90)
    depths = overlap @ homography[2, :2] + homography[2, 2]
    with np.errstate(divide="ignore"):
        perspective = abs(depths).max() / abs(depths).min() - 1
    return float(tilt), float(shear), float(perspective)


def corners_of(width: float, height: float) -> np.ndarray:
    """Outer corners (4,2) of an image, clockwise from the top left, where the centre of its first
    pixel is (0,0)."""
    right, bottom = width - 0.5, height - 0.5
    return np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])


def overlap_of(
    query_corners: np.ndarray, reference_corners: np.ndarray, homography: np.ndarray
) -> np.ndarray:
    """Convex polygon (k,2), in reference pixels, that query and reference share; (0,2) for none.

    query_corners, reference_corners (4,2): rectangle of each image in its own pixels. homography:
    query pixel -> reference pixel. A query that is mapped across infinity shares nothing.
    """
    projected = project(homography, query_corners)
    depth = query_corners @ homography[2, :2] + homography[2, 2]
    if not np.isfinite(projected).all() or depth.min() * depth.max() <= 0:
        return np.empty((0, 2))
    area, polygon = cv2.intersectConvexConvex(
        projected.astype(np.float32), reference_corners.astype(np.float32)
    )
    return polygon[:, 0].astype(np.float64) if area > 0 else np.empty((0, 2))


def polygon_area(polygon: np.ndarray) -> float:
    """Area of a polygon (k,2), by the shoelace formula."""
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def iou(a: np.ndarray, b: np.ndarray, over: str = "union") -> np.ndarray:
    """Intersection over union of boxes (...,4) xyxy, in 0..1, shape (...).

    The two arrays broadcast: `iou(a, b)` compares row by row, `iou(a[:, None], b)` every box of `a`
    (n,4) with every box of `b` (m,4), giving (n,m). over: "smaller" divides by the area of the smaller
    box instead of the union. Boxes without an area share nothing.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lower = np.maximum(a[..., :2], b[..., :2])
    upper = np.minimum(a[..., 2:], b[..., 2:])
    shared = (upper - lower).clip(0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).clip(0).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).clip(0).prod(-1)
    whole = np.minimum(area_a, area_b) if over == "smaller" else area_a + area_b - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
