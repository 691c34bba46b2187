# SPDX-License-Identifier: AGPL-3.0-or-later
"""Checkpoints of a training: save the whole state, resume it under the same settings."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from imgfp import store


class Stateful(Protocol):
    """A network, optimiser or schedule: anything whose state can be taken and put back."""

    def state_dict(self) -> Mapping[str, Any]:
        """Tensors and plain values, complete for `load_state_dict`."""

    def load_state_dict(self, state_dict: Any) -> object:
        """Put back what `state_dict` gave."""


def save_checkpoint(
    path: Path, parts: Mapping[str, Stateful], settings: Mapping[str, Any], **progress: Any
) -> None:
    """Write the state of all parts with the settings they were trained with, atomically. progress: plain
    values, such as the steps done, that `load_checkpoint` returns."""
    states = {name: part.state_dict() for name, part in parts.items()}
    data = io.BytesIO()
    torch.save({"parts": states, "settings": dict(settings), "progress": progress}, data)
    store.write_sealed(path, data.getvalue())


def load_checkpoint(
    path: Path,
    parts: Mapping[str, Stateful],
    settings: Mapping[str, Any],
    adjustable: Collection[str] = (),
) -> dict[str, Any]:
    """Put the state of a checkpoint into `parts`; returns the progress saved with it, {} without a file.

    adjustable: settings that may change between two sessions of one training. Raises ValueError, naming
    both values, if any other setting differs.
    """
    if not path.exists():
        return {}
    state = torch.load(io.BytesIO(store.read_sealed(path)), weights_only=True, map_location="cpu")
    then = state["settings"]
    differing = [
        f"{name}: {then.get(name)!r} there, {now!r} asked"
        for name, now in settings.items()
        if name not in adjustable and then.get(name) != now
    ]
    if differing:
        raise ValueError(
            f"{path} was trained with other settings ({', '.join(differing)}); choose another folder"
        )
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    return state["progress"]
