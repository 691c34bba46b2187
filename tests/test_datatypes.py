"""Records and tables: shapes checked at construction, order, errors that name what is wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from imgfp.datatypes import (
    RENAMED_COLUMNS,
    RENAMED_VALUES,
    TABLES,
    Boxes,
    Descriptors,
    LocalFeatures,
    table,
)
from imgfp.verify.evidence import COLUMNS


def features(*counts: int, first: int = 0) -> LocalFeatures:
    ids = [f"i{first + number}" for number in range(len(counts))]
    parts = [
        (np.full((n, 4), number, np.float32), np.full((n, 128), number, np.uint8))
        for number, n in enumerate(counts)
    ]
    return LocalFeatures.from_images(ids, parts)


@pytest.mark.parametrize("kind", TABLES)
def test_an_empty_table_has_its_columns_and_dtypes(kind):
    empty = table(kind)
    assert list(empty.columns) == list(TABLES[kind]) and empty.empty
    assert empty.dtypes.astype(str).tolist() == list(
        pd.DataFrame(columns=list(TABLES[kind])).astype(TABLES[kind]).dtypes.astype(str)
    )


def test_a_table_orders_its_columns_and_keeps_further_ones():
    frame = pd.DataFrame({"note": ["x"], "score": [1], "reference_id": ["r"], "query_id": ["q"]})
    made = table("predictions", frame)
    assert list(made.columns) == ["query_id", "reference_id", "score", "note"]
    assert made["score"].dtype == "float64"
    with pytest.raises(ValueError, match=r"'truth' lacks the columns \['reference_id'\]"):
        table("truth", query_id=["q"])


def test_features_of_images_are_joined_and_found_again():
    joined = features(2, 0, 3)
    assert len(joined) == 3 and joined.offsets.tolist() == [0, 2, 2, 5]
    keypoints, descriptors = joined.of("i2")
    assert keypoints.shape == (3, 4) and (descriptors == 2).all()
    assert "i1" in joined and "i9" not in joined
    with pytest.raises(KeyError):
        joined.of("i9")
    whole = LocalFeatures.concatenate([joined, features(1, first=3)])
    assert whole.image_ids.tolist() == ["i0", "i1", "i2", "i3"]
    assert whole.offsets.tolist() == [0, 2, 2, 5, 6]
    assert len(LocalFeatures.concatenate([])) == 0


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"image_ids": ["a", "a"]}, "'a' occurs more than once"),
        ({"offsets": [0, 1]}, r"offsets: expected shape \(3,\)"),
        ({"offsets": [0, 3, 2]}, "never decrease"),
        ({"keypoints": np.zeros((2, 3))}, r"keypoints: expected shape \(2, 4\)"),
        ({"keypoints": np.full((2, 4), np.nan)}, "not finite"),
        ({"descriptors": np.zeros((2, 128), np.float32)}, "expected uint8, got float32"),
    ],
)
def test_wrong_features_are_refused(change, wrong):
    right = {
        "image_ids": ["a", "b"],
        "offsets": [0, 1, 2],
        "keypoints": np.zeros((2, 4)),
        "descriptors": np.zeros((2, 128), np.uint8),
    }
    LocalFeatures(**right)
    with pytest.raises(ValueError, match=wrong):
        LocalFeatures(**right | change)


def test_descriptors_have_unit_norm():
    good = Descriptors(["a", "b"], np.eye(3)[:2])
    assert good.vectors.dtype == np.float32 and len(good) == 2
    joined = Descriptors.concatenate([good, Descriptors(["c"], np.eye(3)[2:])])
    assert joined.image_ids.tolist() == ["a", "b", "c"]
    with pytest.raises(ValueError, match="vector of 'b' has norm 2"):
        Descriptors(["a", "b"], [[1, 0], [2, 0]])
    with pytest.raises(ValueError, match="vector of 'a' has norm nan"):
        Descriptors(["a", "b"], [[np.nan, 0], [1, 0]])
    with pytest.raises(ValueError, match="no descriptors to join"):
        Descriptors.concatenate([])


def test_boxes_are_sorted_by_confidence():
    boxes = Boxes([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]], [0.2, 0.9, 0.2])
    assert boxes.confidence.tolist() == pytest.approx([0.9, 0.2, 0.2])
    assert boxes.xyxy[:, 0].tolist() == [2, 0, 4]  # equal ones keep their order
    with pytest.raises(ValueError, match="confidence: expected shape"):
        Boxes([[0, 0, 1, 1]], [0.5, 0.6])


def test_former_names_lead_to_columns_of_today():
    assert set(RENAMED_COLUMNS.values()) <= set(COLUMNS)
    assert not set(RENAMED_COLUMNS) & set(COLUMNS)
    assert set(RENAMED_VALUES) <= set(COLUMNS)
