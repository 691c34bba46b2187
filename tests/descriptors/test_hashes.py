"""Perceptual hashes as descriptors."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.descriptors.registry import load_model


@pytest.mark.parametrize("name", ["phash", "pdq"])
def test_hashes_serve_as_descriptors(name, photograph, other_photograph):
    pytest.importorskip({"phash": "imagehash", "pdq": "pdqhash"}[name])
    model = load_model(name)
    darker = (photograph * 0.8).astype(np.uint8)
    vectors = model.embed([photograph, darker, other_photograph])
    assert vectors.shape == (3, model.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    assert vectors[0] @ vectors[1] > 0.8 > vectors[0] @ vectors[2]
    assert model.embed([]).shape == (0, 256)
