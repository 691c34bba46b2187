# SPDX-License-Identifier: AGPL-3.0-or-later
"""Queries that show several references at once, with their truth: strips, grids, insets and pages of pictures.

    python -m imgfp.benchmarks.collages REFERENCES FOLDER --count 120 --seed 5

Writes FOLDER/queries and FOLDER/truth.csv, which has one row per reference of a query. Each picture is cropped to its
frame, and three in ten are mirrored. REFERENCES has no folders inside.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from imgfp import store
from imgfp.decoding import read_image
from imgfp.images import encode_jpeg, walk_images

#: Layouts, which take turns.
LAYOUTS = ("strip", "grid", "insets", "page")
_MIRRORED = 0.3


def frames(layout: str, width: int, height: int, count: int, rng: np.random.Generator) -> list:
    """Frames xyxy, in pixels, of `count` pictures on a canvas; later ones cover earlier ones."""
    step = width // count
    if layout == "strip":
        return [(i * step, 0, (i + 1) * step, height) for i in range(count)]
    if layout == "grid":
        x, y = width // 2, height // 2
        cells = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
        return cells[:count]
    if layout == "page":
        edge, top, tall = step // 20, height // 5, int(0.7 * step)
        return [(i * step + edge, top, (i + 1) * step - edge, top + tall) for i in range(count)]
    found = [(0, 0, width, height)]
    for _ in range(count - 1):
        share = rng.uniform(0.25, 0.38)
        x, y = int(rng.uniform(0, 1 - share) * width), int(rng.uniform(0, 1 - share) * height)
        found.append((x, y, x + int(share * width), y + int(share * height)))
    return found


def collage(paths: Sequence[Path], layout: str, rng: np.random.Generator) -> np.ndarray:
    """The pictures of these files in one, (h,w,3) uint8."""
    width, height = int(rng.integers(700, 1100)), int(rng.integers(500, 800))
    canvas = np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    for path, frame in zip(paths, frames(layout, width, height, len(paths), rng), strict=True):
        size = np.array([frame[2] - frame[0], frame[3] - frame[1]])
        picture = read_image(path)
        shape = picture.shape[1::-1]
        scale = rng.uniform(1, 1.25) * max(size / shape)
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        x, y = (
            int(rng.integers(0, max(a - b, 0) + 1))
            for a, b in zip(picture.shape[1::-1], size, strict=True)
        )
        part = picture[y : y + size[1], x : x + size[0]]
        if rng.random() < _MIRRORED:
            part = part[:, ::-1]
        canvas[frame[1] :, frame[0] :][: len(part), : part.shape[1]] = part
    return canvas


def make(references: Path, folder: Path, count: int, seed: int) -> None:
    """Write the queries and their truth. Raises FileNotFoundError where there are fewer than four references."""
    paths = list(walk_images(references))
    if len(paths) < 4:
        raise FileNotFoundError(
            f"{store.show(references)} holds {len(paths)} pictures; four are needed"
        )
    truth = []
    for number in tqdm(range(count), unit="query", mininterval=5):
        rng = np.random.default_rng([seed, number])
        several = int(rng.integers(2, 5))
        own = [paths[i] for i in rng.choice(len(paths), several, replace=False)]
        layout = LAYOUTS[number % len(LAYOUTS)]
        data = encode_jpeg(collage(own, layout, rng), quality=int(rng.integers(50, 90)))
        store.write_bytes(folder / "queries" / f"{layout}-{number:05}.jpg", data)
        truth += [(f"{layout}-{number:05}", path.stem) for path in own]
    store.write_sheet(
        folder / "truth.csv", pd.DataFrame(truth, columns=["query_id", "reference_id"])
    )


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("references", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    make(arguments.references, arguments.folder, arguments.count, arguments.seed)


if __name__ == "__main__":
    main()
