"""Pairs for the trained eye, and its training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from imgfp.training.pairs import classifier, dataset
from imgfp.training.pairs.hard_negatives import simulate_second_photograph
from imgfp.verify.classifier import (
    SIDE_PX,
    PairClassifier,
    network_input,
)


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
    ids = list(quarters)
    references = {i: quarters[i] for i in ids[:4]}
    outsiders = {i: quarters[i] for i in ids[4:]}
    counts = {"copies": 14, "doubles": 14, "others": 2}
    known = [(ids[4], ids[0])]
    return dataset.aligned_pairs(references, outsiders, same_scene=known, seed=3, **counts)


def test_a_second_photograph_is_of_the_same_scene_but_no_edit(photograph, other_photograph):
    kept = photograph.copy()
    one, two = (
        simulate_second_photograph(photograph, other_photograph, np.random.default_rng(5))
        for _ in range(2)
    )
    assert one.shape == photograph.shape and one.dtype == np.uint8
    assert (one == two).all() and (photograph == kept).all()
    other = simulate_second_photograph(photograph, other_photograph, np.random.default_rng(6))
    assert np.abs(one.astype(int) - other).mean() > 1
    small = simulate_second_photograph(
        photograph[:5, :4], other_photograph, np.random.default_rng(7)
    )
    assert small.shape == (5, 4, 3)


def test_pairs_are_laid_as_a_run_lays_them(pairs, quarters):
    assert set(pairs["kind"]) <= set(dataset.KINDS)
    assert {"copy", "double"} <= set(pairs["kind"])
    own = pairs[pairs["kind"].isin(["copy", "double"])]
    assert (own["source"] == own["reference_id"]).all()
    assert (pairs["source"] != pairs["reference_id"])[pairs["kind"].isin(["other", "scene"])].all()
    laid = dataset.images_of(pairs)
    assert laid.shape == (len(pairs), 3, SIDE_PX, SIDE_PX) and laid.dtype == np.uint8
    assert ((laid[:, 2] > 127).mean(axis=(1, 2)) > 0.05).all()
    copies = laid[(pairs["kind"] == "copy").to_numpy()].astype(float)
    alike = [np.corrcoef(q[m > 127], r[m > 127])[0, 1] for q, r, m in copies]
    assert np.median(np.abs(alike)) > 0.7


def test_what_is_learnt_from_and_what_is_held_out():
    ids = [f"{i:02d}" for i in range(30)]
    groups = ["g1"] * 3 + ["g2"] * 2 + ["g3"] * 2 + [""] * 23
    table = pd.DataFrame({"image_id": ids, "group": groups}).sample(frac=1, random_state=0)
    kept = set(table["image_id"][dataset.training_split(table, held_out=5)])
    assert kept == set(ids[:5]) | set(ids[7:25]), "two groups of three, and all but the last five"
    assert (
        len(set(table["image_id"][dataset.training_split(table, held_out=99)]) - set(ids[:7])) == 1
    )


def test_a_disturbed_pair_stays_a_pair():
    side = 32
    laid = np.zeros((3, side, side), np.uint8)
    laid[:2] = np.random.default_rng(0).integers(0, 256, (side, side))
    laid[2] = 255
    turned = 0
    for seed in range(40):
        pair = classifier.disturbed(laid, np.random.default_rng(seed)).astype(float)
        same = max(
            abs(np.corrcoef(np.roll(pair[0], (y, x), (0, 1)).ravel(), pair[1].ravel())[0, 1])
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
        )
        assert same > 0.99 and pair[2].mean() > 50
        turned += (pair[1] != laid[1]).any()
    assert turned > 20 and (laid[2] == 255).all()


def test_training_that_is_killed_goes_on_and_ends_the_same(pairs, tmp_path):
    laid, kinds = dataset.images_of(pairs), pairs["kind"].to_numpy(str)
    recipe = classifier.Recipe(epochs=2, batch_size=8, width=4)

    def fresh() -> classifier.PairNet:
        torch.manual_seed(0)
        return classifier.PairNet(4)

    whole, killed, resumed = fresh(), fresh(), fresh()
    told = list(classifier.train(laid, kinds, whole, recipe, tmp_path / "whole.pt"))
    assert [row["epoch"] for row in told] == [1, 2]
    rows = classifier.train(laid, kinds, killed, recipe, tmp_path / "killed.pt")
    next(rows)
    rows.close()
    rest = list(classifier.train(laid, kinds, resumed, recipe, tmp_path / "killed.pt"))
    assert [row["epoch"] for row in rest] == [2]
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)
    other = classifier.Recipe(epochs=2, batch_size=8, width=4, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"killed\.pt was made with .*choose another folder"):
        next(classifier.train(laid, kinds, fresh(), other, tmp_path / "killed.pt"))


def test_it_learns_what_can_be_learnt_and_survives_its_file(pairs, tmp_path):
    rng = np.random.default_rng(0)
    laid = dataset.images_of(pairs)[np.arange(96) % len(pairs)].copy()
    kinds = np.where(np.arange(96) % 2, "copy", "double")
    laid[:, 0] = laid[:, 1]
    for row in np.flatnonzero(kinds == "double"):
        laid[row, 0] = np.roll(laid[row, 1], rng.choice([-20, 20]), axis=int(rng.integers(2)))
    torch.manual_seed(1)
    network = classifier.PairNet(4)
    recipe = classifier.Recipe(epochs=6, batch_size=12, width=4, learning_rate=0.01)
    told = list(classifier.train(laid, kinds, network, recipe, tmp_path / "kept.pt"))
    assert told[-1]["loss"] < 0.6 * told[0]["loss"]
    said = classifier.predict_pairs(network, laid)
    measured = classifier.roc_auc_by_kind(said, kinds)
    assert measured["kind"].tolist() == ["double"] and measured["roc_auc"][0] > 0.9
    classifier.export(network, tmp_path / "judge.onnx")
    trained = PairClassifier(str(tmp_path / "judge.onnx"))
    again = np.array([trained(pair) for pair in laid[:10]])
    assert np.abs(again - 1 / (1 + np.exp(-said[:10]))).max() < 1e-5
    assert network_input(laid[0]).shape == (5, SIDE_PX, SIDE_PX)


def test_how_well_kinds_are_told_apart_is_measured():
    said = np.array([3.0, 2.0, 1.0, 0.0, 2.5, -1.0])
    kinds = np.array(["copy", "copy", "copy", "copy", "scene", "other"])
    table = classifier.roc_auc_by_kind(said, kinds).set_index("kind")
    assert table.loc["other"].tolist() == [1, 1.0, 1.0]
    assert table.loc["scene", ["roc_auc", "recall"]].tolist() == [0.25, 0.25]
