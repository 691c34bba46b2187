"""Learned whitening of the last layer."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from imgfp.descriptors.base import l2_normalise
from imgfp.descriptors.networks import CopyNet
from imgfp.training.descriptor import whitening
from imgfp.training.descriptor.trainer import embed


def test_whitening_suppresses_what_edits_change():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(200, 2)).astype(np.float32)
    noise = 5 * rng.normal(size=(2, 200, 2)).astype(np.float32)
    mild, hard = (np.concatenate([signal, part], axis=1) for part in noise)
    weight, bias = whitening.learn_whitening(mild, hard, 2)
    assert weight.shape == (2, 4) and bias.shape == (2,)
    assert np.abs(weight[:, :2]).min(axis=1).max() > 5 * np.abs(weight[:, 2:]).max()
    np.testing.assert_allclose((mild @ weight.T + bias).mean(axis=0), 0, atol=0.5)
    with pytest.raises(ValueError, match="200 photographs and 4 features cannot make 5 numbers"):
        whitening.learn_whitening(mild, hard, 5)


@pytest.mark.parametrize("rows", [5, 60])
def test_principal_directions_are_those_of_most_variance(rows):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, 8)) * [9, 1, 5, 1, 1, 1, 1, 1] + 3
    mean, directions = whitening.principal(features, 3)
    expected = np.linalg.svd(features - features.mean(axis=0))[2][:3]
    np.testing.assert_allclose(mean, features.mean(axis=0))
    np.testing.assert_allclose(np.abs((expected * directions.T).sum(axis=1)), 1, atol=1e-6)


def test_whitening_a_network_increases_the_margin_of_matching_views(photographs):
    torch.manual_seed(0)
    network = CopyNet("test_resnet", dim=8)
    mild, hard = whitening.view_pairs(photographs, 16, 32)
    assert mild.shape == hard.shape == (16, 32, 32, 3)

    def margin():
        first, second = (l2_normalise(embed(network, views, "cpu")) for views in (mild, hard))
        scores = first @ second.T
        return np.diag(scores).mean() - scores[~np.eye(16, dtype=bool)].mean()

    before = margin()
    whitening.whiten(network, mild, hard, components=12, refine_steps=20)
    assert margin() > before + 0.1
