"""Losses, learning rate, and the training loop of the descriptor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from imgfp.descriptors.checkpoints import Preprocessing, pack_copynet, unpack_copynet
from imgfp.descriptors.networks import CopyNet
from imgfp.descriptors.registry import load_model
from imgfp.training.descriptor.augmentation import Curriculum, Steps
from imgfp.training.descriptor.trainer import (
    Memory,
    Settings,
    Trainer,
    contrastive_loss,
    learning_rate,
    spreading_loss,
    to_tensor,
    train,
)
from imgfp.training.descriptor.validation import make_validation

GROUPS = ["", "a", "", "b", "a", "", "b", *[""] * 9]
EASY = Curriculum(batch_images=4, start_px=32, end_px=64, ramp_steps=10)
SMALL = Settings(
    backbone="test_resnet",
    dim=16,
    steps=6,
    warmup_steps=2,
    memory=16,
    learning_rate=0.01,
    bf16=False,
)


def vectors_of(*rows):
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_the_loss_is_small_where_the_two_views_agree():
    labels = torch.tensor([0, 1, 0, 1])
    good = contrastive_loss(vectors_of([1, 0], [0, 1], [1, 0], [0, 1]), labels, None, 0.1)
    bad = contrastive_loss(vectors_of([1, 0], [0, 1], [0, 1], [1, 0]), labels, None, 0.1)
    assert good < 0.01 < 5 < bad


def test_the_loss_is_the_cross_entropy_of_the_definition():
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    memory = Memory(4, 8, "cpu")
    memory.push(torch.nn.functional.normalize(torch.randn(3, 8), dim=1), torch.tensor([7, 8, 9]))
    logits = torch.cat([vectors @ vectors.T, vectors @ memory.vectors[:3].T], 1) / 0.05
    logits[range(6), range(6)] = -1e9
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([3, 4, 5, 0, 1, 2]))
    got = contrastive_loss(vectors, torch.arange(3).repeat(2), memory, 0.05)
    assert got.item() == pytest.approx(expected.item(), rel=1e-4)


def test_memory_forgets_the_oldest_and_leaves_out_the_present():
    memory = Memory(3, 1, "cpu")
    assert len(memory.others(torch.tensor([0]))[1]) == 0
    memory.push(torch.ones(2, 1), torch.tensor([1, 2]))
    memory.push(torch.ones(2, 1), torch.tensor([3, 4]))
    assert sorted(memory.others(torch.tensor([0]))[1].tolist()) == [2, 3, 4]
    assert sorted(memory.others(torch.tensor([3]))[1].tolist()) == [2, 4]


def test_spreading_separates_neighbours_but_not_views_of_one_photograph():
    labels = torch.tensor([0, 1, 0, 1])
    near = spreading_loss(vectors_of([1, 0], [1, 0.1], [1, 0], [1, 0.1]), labels)
    far = spreading_loss(vectors_of([1, 0], [-1, 0], [1, 0], [-1, 0]), labels)
    assert near > 1 > 0 > far
    assert torch.isfinite(spreading_loss(vectors_of([1, 0], [1, 0]), torch.tensor([0, 1])))


def test_the_rate_rises_is_constant_and_falls():
    settings = Settings(steps=100, warmup_steps=10, cooldown_share=0.3, learning_rate=1.0)
    rates = [learning_rate(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == rates[70] == pytest.approx(1)
    assert np.all(np.diff(rates[70:]) < 0) and rates[100] == 0


def run(photographs, folder, settings=SMALL, **how):
    validation = make_validation(photographs[:4], side_px=32)
    steps = Steps(photographs, GROUPS, EASY)
    return train(steps, validation, settings, folder / "checkpoint.pt", workers=0, **how)


def weights(network):
    return torch.cat([v.flatten().float() for v in network.state_dict().values()])


def test_training_is_deterministic_and_resumes(photographs, tmp_path):
    rows = []
    whole, history = run(photographs, tmp_path / "whole", report=rows.append)
    assert list(history.step) == [6] and len(rows) == 1
    assert {"loss", "contrast", "spread", "rate", "micro_ap"} <= set(history)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # stopped before anything was saved: it starts again
        run(photographs, tmp_path / "parts", report=stop)
    run(photographs, tmp_path / "parts", replace(SMALL, steps=3, cooldown_share=0.0))
    resumed, history = run(photographs, tmp_path / "parts")
    assert list(history.step) == [3, 6]
    straight, _ = run(photographs, tmp_path / "again")
    assert torch.equal(weights(straight), weights(whole))
    again, _ = run(photographs, tmp_path / "whole")  # finished: nothing is left to do
    assert torch.equal(weights(again), weights(whole))
    assert resumed is not whole


def test_a_checkpoint_of_other_settings_is_refused(photographs, tmp_path):
    run(photographs, tmp_path, replace(SMALL, steps=1))
    with pytest.raises(
        ValueError, match=r"other settings \(temperature: 0\.05 there, 0\.1 asked\)"
    ):
        run(photographs, tmp_path, replace(SMALL, temperature=0.1))


def test_a_training_starts_from_given_weights(photographs, tmp_path):
    torch.manual_seed(5)
    start = CopyNet("test_resnet", 16)
    given, _ = run(photographs, tmp_path, replace(SMALL, steps=0), start=start)
    assert torch.equal(weights(given), weights(start))
    once, _ = run(photographs, tmp_path, replace(SMALL, steps=1), start=start)
    again, _ = run(photographs, tmp_path, replace(SMALL, steps=1), start=CopyNet("test_resnet", 16))
    assert torch.equal(weights(once), weights(again))  # the checkpoint counts, not the start
    assert not torch.equal(weights(once), weights(start))
    with pytest.raises(ValueError, match=r"weights are of .*'dim': 8"):
        run(photographs, tmp_path / "new", start=CopyNet("test_resnet", 8))


def test_training_reduces_the_loss(photographs, tmp_path):
    trainer = Trainer(replace(SMALL, warmup_steps=1, learning_rate=0.003, cooldown_share=0.0), 0)
    rows, views = Steps(photographs, GROUPS, EASY)[0]
    losses = [trainer.update(torch.as_tensor(rows), views)["contrast"] for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]
    path = tmp_path / "w.safetensors"
    path.write_bytes(pack_copynet(trainer.model, Preprocessing(64, interpolation="area")))
    assert load_model("imgfp", str(path)).embed(photographs).shape == (16, 16)
    network, setting = unpack_copynet(path)
    assert network.shape == trainer.model.shape and setting.side_px == 64


def test_tensors_are_normalised_as_the_packed_model_does():
    views = np.full((1, 2, 2, 3), 255, np.uint8)
    np.testing.assert_allclose(
        to_tensor(views, "cpu")[0, :, 0, 0], (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-5
    )  # fmt: skip
