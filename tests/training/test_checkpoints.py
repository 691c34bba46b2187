"""Checkpoints: the whole state, refused under other settings."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from imgfp.training.checkpoints import load_checkpoint, save_checkpoint


def parts() -> dict:
    network = torch.nn.Linear(2, 1)
    return {"network": network, "optimiser": torch.optim.Adam(network.parameters(), lr=0.1)}


def test_state_and_progress_come_back(tmp_path):
    torch.manual_seed(0)
    trained, path = parts(), tmp_path / "checkpoint.pt"
    trained["network"](torch.ones(3, 2)).sum().backward()
    trained["optimiser"].step()
    settings = {"rate": 0.1, "steps": 10}
    assert load_checkpoint(path, trained, settings) == {}
    save_checkpoint(path, trained, settings, step=1, history=[{"loss": 2.0}])
    resumed = parts()
    progress = load_checkpoint(path, resumed, settings)
    assert progress == {"step": 1, "history": [{"loss": 2.0}]}
    assert torch.equal(resumed["network"].weight, trained["network"].weight)
    states = [each["optimiser"].state_dict()["state"] for each in (resumed, trained)]
    assert torch.equal(states[0][0]["exp_avg"], states[1][0]["exp_avg"])


def test_other_settings_are_refused_unless_adjustable(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, parts(), {"rate": 0.1, "steps": 10}, step=1)
    other = {"rate": 0.2, "steps": 20}
    with pytest.raises(ValueError, match=r"rate: 0\.1 there, 0\.2 asked\); choose another folder"):
        load_checkpoint(path, parts(), other, adjustable=["steps"])
    assert load_checkpoint(path, parts(), other, adjustable=["steps", "rate"]) == {"step": 1}
    with pytest.raises(ValueError, match="width: None there, 4 asked"):
        load_checkpoint(path, parts(), {"rate": 0.1, "steps": 10, "width": 4})


def test_a_file_with_code_is_not_executed(tmp_path):
    """`weights_only`: a class from anywhere but torch is refused."""
    path = tmp_path / "checkpoint.pt"
    torch.save({"settings": {}, "parts": {}, "progress": tmp_path}, path)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        load_checkpoint(path, {}, {})
