# SPDX-License-Identifier: AGPL-3.0-or-later
"""Many pictures from few: a folder of photographs and seeded edits of them, as distractors in a large library.

    python -m imgfp.benchmarks.distractors PHOTOGRAPHS FOLDER --count 97000 --seed 1

The first pictures are the photographs themselves, one each; after them come edits of all of them in turn, one to
four families each. The distractors of a library so made are copies of each other, which is harder for a search
than photographs of different things. Files that are there already are left as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from imgfp import store
from imgfp.decoding import read_image
from imgfp.edits.families import apply
from imgfp.images import encode_jpeg, walk_images

#: Mild and medium edits: most of a distractor's keypoints remain.
STRENGTH = (0.0, 0.5)
#: Pictures from which those that an edit pastes on, or adds, are drawn.
_OTHERS = 200
_PER_FOLDER = 1000


def picture(photographs: Sequence[Path], number: int, seed: int) -> bytes:
    """The file of the distractor of this number, JPEG; the same for the same seed."""
    path = photographs[number % len(photographs)]
    if number < len(photographs):
        return encode_jpeg(read_image(path))
    rng = np.random.default_rng([seed, number])
    others = [other for other in photographs[:_OTHERS] if other != path]
    drawn = [_pixels(others[i]) for i in rng.integers(0, len(others), 4)] if others else []
    return encode_jpeg(apply(read_image(path), None, rng, drawn, STRENGTH).image)


_pixels = lru_cache(maxsize=_OTHERS)(read_image)


def make(photographs: Path, folder: Path, count: int, seed: int) -> None:
    """Write `count` distractors below `folder`, a thousand a subfolder. Raises FileNotFoundError where there are no
    photographs."""
    sources = list(walk_images(photographs))
    if not sources:
        raise FileNotFoundError(f"{store.show(photographs)} holds no pictures")
    for number in tqdm(range(count), unit="image", mininterval=5):
        path = folder / f"{number // _PER_FOLDER:04}" / f"d{number:07}.jpg"
        if not path.exists():
            store.write_bytes(path, picture(sources, number, seed))


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    make(arguments.photographs, arguments.folder, arguments.count, arguments.seed)


if __name__ == "__main__":
    main()
