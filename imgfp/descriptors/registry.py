"""Descriptor models by name."""

from __future__ import annotations

from imgfp.descriptors.base import Model, ModelError
from imgfp.descriptors.gist import GistGrid


def load_model(name: str = "imgfp", weights: str = "", device: str = "cpu") -> Model:
    """A model by name, its weights from a file where `weights` is given, else those it comes with.

    Names: "imgfp" (shipped), "gist-grid", "phash" and "pdq" (no weights), the published models of
    `imgfp.descriptors.checkpoints.MODELS`, and all of `timm.list_models()`. Raises ModelError saying
    what to do about an unknown name, a missing file, or a file of another layout.
    """
    from imgfp.descriptors import hashes

    if weights and name in (GistGrid.name, *hashes.NAMES):
        raise ModelError(f"model {name!r} has no weights, got {weights!r}; leave weights empty")
    if name == GistGrid.name:
        return GistGrid()
    if name in hashes.NAMES:
        return hashes.load(name)
    from imgfp.descriptors import checkpoints

    return checkpoints.load(name, weights, device)
