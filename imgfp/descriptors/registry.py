"""Descriptor models by name."""

from __future__ import annotations

from imgfp.descriptors.base import Model, ModelError
from imgfp.descriptors.gist import GistGrid


def load_model(name: str = "imgfp", weights: str = "", device: str = "cpu") -> Model:
    """A model by name; `weights`: path of its weights file, "" for the model's own.

    Names: "imgfp" (shipped), "gist-grid", "phash" and "pdq" (no weights), the published models of
    `imgfp.descriptors.checkpoints.MODELS`, and all of `timm.list_models()`. Raises ModelError for an
    unknown name, a missing file, a file of another layout, or a package that is not installed.
    """
    from imgfp.descriptors import hashes

    if weights and name in (GistGrid.name, *hashes.NAMES):
        raise ModelError(f"model {name!r} takes no weights, got {weights!r}; leave weights empty")
    if name == GistGrid.name:
        return GistGrid()
    if name in hashes.NAMES:
        return hashes.load(name)
    try:
        from imgfp.descriptors import checkpoints
    except ImportError as error:
        raise ModelError(
            f"{name} needs a package that is not installed ({error.name}); install imgfp[torch]"
        ) from error
    return checkpoints.load(name, weights, device)
