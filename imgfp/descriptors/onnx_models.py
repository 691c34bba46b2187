# SPDX-License-Identifier: AGPL-3.0-or-later
"""Descriptor models in ONNX files, run by onnxruntime; neither needs torch.

`imgfp.training.onnx_export.export_descriptor` and `imgfp convert` write such files.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from imgfp.descriptors.base import Model, ModelError, Preprocessing
from imgfp.inference import SHIPPED, onnx_session, session_device, sha256_of

#: The shipped network.
DESCRIPTOR_ONNX = SHIPPED / "descriptor.onnx"


class OnnxModel(Model):
    """A network with its preprocessing, on one CPU thread or on a GPU; see `imgfp.inference.onnx_session`.

    The network takes (n,side_px,side_px,3) uint8 pixels and returns (n,dim) float32. Metadata of the file:
    `preprocessing`, the fields of `Preprocessing` as JSON, and `weights_sha256` where it was exported from a file of
    weights, the hash of that file, by which both files give one `weights_hash`. Raises ModelError for a file that is
    missing, damaged, or without a preprocessing.
    """

    def __init__(self, name: str, path: str | Path, device: str = "cpu"):
        path = Path(path)
        if not path.is_file():
            advice = "reinstall imgfp" if path == DESCRIPTOR_ONNX else "check the path"
            raise ModelError(f"weights file {path} does not exist; {advice}")
        try:
            self._session = onnx_session(path, device)
        except ValueError as error:
            raise ModelError(str(error)) from error
        about = self._session.get_modelmeta().custom_metadata_map
        try:
            self.preprocessing = Preprocessing(**json.loads(about["preprocessing"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{path} does not name its preprocessing ({error}); make it with notebook 21 or `imgfp convert`"
            ) from None
        self.name, self.device = name, session_device(self._session)
        self.weights_hash = about.get("weights_sha256") or sha256_of(path)
        self._input = self._session.get_inputs()[0].name
        side = self.preprocessing.side_px
        vectors = self._vectors(np.zeros((1, side, side, 3), np.uint8))
        if vectors.ndim != 2 or len(vectors) != 1:
            raise ModelError(f"{path} gives {vectors.shape} for one image, not one vector")
        self.dim = vectors.shape[1]

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """(side_px,side_px,3) uint8: the image resized to a square."""
        return self.preprocessing.resized(image)

    def _vectors(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: batch})[0]
