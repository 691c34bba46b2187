# SPDX-License-Identifier: AGPL-3.0-or-later
"""Training, evaluation and export of the pair classifier."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from imgfp.training.pairs import classifier, dataset
from imgfp.verify import classifier as shipped
from imgfp.verify.classifier import SIDE_PX, PairClassifier, network_input


def test_an_augmented_pair_stays_aligned():
    side = 32
    planes = np.zeros((3, side, side), np.uint8)
    planes[:2] = np.random.default_rng(0).integers(0, 256, (side, side))
    planes[2] = 255
    turned = 0
    for seed in range(40):
        pair = classifier.augment(planes, np.random.default_rng(seed)).astype(float)
        same = max(
            abs(np.corrcoef(np.roll(pair[0], (y, x), (0, 1)).ravel(), pair[1].ravel())[0, 1])
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
        )
        assert same > 0.99 and pair[2].mean() > 50
        turned += (pair[1] != planes[1]).any()
    assert turned > 20 and (planes[2] == 255).all()


def test_a_resumed_training_gives_the_same_weights(pairs, tmp_path):
    planes, kinds = dataset.planes_of(pairs), pairs["kind"].to_numpy(str)
    recipe = classifier.Recipe(epochs=2, batch_size=8, width=4)

    def fresh() -> classifier.PairNet:
        torch.manual_seed(0)
        return classifier.PairNet(4)

    whole, killed, resumed = fresh(), fresh(), fresh()
    history = list(classifier.train(planes, kinds, whole, recipe, tmp_path / "whole.pt"))
    assert [row["epoch"] for row in history] == [1, 2]
    rows = classifier.train(planes, kinds, killed, recipe, tmp_path / "killed.pt")
    next(rows)
    rows.close()
    rest = list(classifier.train(planes, kinds, resumed, recipe, tmp_path / "killed.pt"))
    assert [row["epoch"] for row in rest] == [2]
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)
    other = classifier.Recipe(epochs=2, batch_size=8, width=4, learning_rate=0.1)
    with pytest.raises(
        ValueError, match=r"killed\.pt was trained with .*learning_rate.*choose another folder"
    ):
        next(classifier.train(planes, kinds, fresh(), other, tmp_path / "killed.pt"))


@pytest.mark.slow
def test_it_learns_and_the_exported_file_agrees(pairs, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    planes = dataset.planes_of(pairs)[np.arange(96) % len(pairs)].copy()
    kinds = np.where(np.arange(96) % 2, "copy", "synthetic")
    planes[:, 0] = planes[:, 1]
    for row in np.flatnonzero(kinds == "synthetic"):
        planes[row, 0] = np.roll(planes[row, 1], rng.choice([-20, 20]), axis=int(rng.integers(2)))
    torch.manual_seed(1)
    network = classifier.PairNet(4)
    recipe = classifier.Recipe(epochs=6, batch_size=12, width=4, learning_rate=0.01)
    history = list(classifier.train(planes, kinds, network, recipe, tmp_path / "kept.pt"))
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    log_odds = classifier.predict_pairs(network, planes)
    measured = classifier.roc_auc_by_kind(log_odds, kinds)
    assert measured["kind"].tolist() == ["synthetic"] and measured["roc_auc"][0] > 0.9
    classifier.export(network, tmp_path / "pair_classifier.onnx")
    trained = PairClassifier(str(tmp_path / "pair_classifier.onnx"))
    monkeypatch.setattr(shipped, "_DECIDED", np.inf)  # the mean over all variants
    again = np.array([trained(pair) for pair in planes[:10]])
    assert np.abs(again - 1 / (1 + np.exp(-log_odds[:10]))).max() < 1e-5
    assert network_input(planes[0]).shape == (5, SIDE_PX, SIDE_PX)


def test_kinds_are_compared_with_copies():
    log_odds = np.array([3.0, 2.0, 1.0, 0.0, 2.5, -1.0])
    kinds = np.array(["copy", "copy", "copy", "copy", "scene", "other"])
    table = classifier.roc_auc_by_kind(log_odds, kinds).set_index("kind")
    assert table.loc["other"].tolist() == [1, 1.0, 1.0]
    assert table.loc["scene", ["roc_auc", "recall"]].tolist() == [0.25, 0.25]
