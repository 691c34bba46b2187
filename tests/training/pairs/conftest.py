"""Eight small images and the aligned pairs made from them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="module")
def quarters(photograph, other_photograph) -> dict[str, np.ndarray]:
    return {
        f"{name}{x}{y}": np.ascontiguousarray(image[y : y + 213, x : x + 320])
        for name, image in (("a", photograph), ("b", other_photograph))
        for y in (0, 213)
        for x in (0, 320)
    }


@pytest.fixture(scope="module")
def pairs(quarters) -> pd.DataFrame:
    from imgfp.training.pairs import dataset

    ids = list(quarters)
    references = {i: quarters[i] for i in ids[:4]}
    negatives = {i: quarters[i] for i in ids[4:]}
    counts = {"copies": 14, "synthetic": 14, "others": 2}
    known = [(ids[4], ids[0])]
    return dataset.aligned_pairs(references, negatives, same_scene=known, seed=3, **counts)
