"""Training and export of the box scorer."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from imgfp.crops.box_features import N_FEATURES
from imgfp.crops.detectors import EdgeDetector
from imgfp.inference import onnx_session
from imgfp.training.crops.box_scorer import collect, export_box_scorer, fit_box_scorer


def test_box_scorer_learns_features_and_is_exported_to_onnx(photographs, tmp_path):
    features, cover = collect(photographs, EdgeDetector(), scenes=12, untouched=0, seed=0)
    more, none = collect(photographs, EdgeDetector(), scenes=12, untouched=2, seed=0)
    assert (more[: len(features)] == features).all()
    assert len(more) > len(features) and (none[len(features) :] == 0).all()
    assert features.shape == (len(cover), N_FEATURES)
    assert np.isfinite(features).all()
    assert 0 <= cover.min() < 0.5 < cover.max() <= 1
    scorer, losses = fit_box_scorer(features, cover, epochs=8)
    assert losses[-1] < losses[0]
    assert fit_box_scorer(features, cover, epochs=8)[1] == losses
    pytest.importorskip("onnx")
    export_box_scorer(scorer, tmp_path / "scorer.onnx")
    session = onnx_session(tmp_path / "scorer.onnx")
    confidence = session.run(None, {"features": features})[0]
    assert confidence.shape == (len(features),)
    assert session.run(None, {"features": features[:0]})[0].shape == (0,)
    assert np.mean(confidence[cover > 0.5]) > np.mean(confidence[cover == 0])
