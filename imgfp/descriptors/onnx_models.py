# SPDX-License-Identifier: AGPL-3.0-or-later
"""The trainable descriptor model in an ONNX file, run by onnxruntime; neither needs torch.

`imgfp.training.onnx_export.export_descriptor` writes such files.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from imgfp.descriptors.base import Model, ModelError, Preprocessing
from imgfp.inference import SHIPPED, onnx_session, session_device

#: The shipped network.
DESCRIPTOR_ONNX = SHIPPED / "descriptor.onnx"


class OnnxModel(Model):
    """A network with its preprocessing, on one CPU thread or on a GPU; see `imgfp.inference.onnx_session`.

    The network takes (n,side_px,side_px,3) uint8 pixels and returns (n,dim) float32. Metadata of the file:
    `preprocessing`, the fields of `Preprocessing` as JSON, and `weights_sha256`, the hash of the file
    of weights that it was exported from, by which both files give one `weights_hash`. Raises
    ModelError for a file that is missing, damaged or without this metadata.
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
        if not {"preprocessing", "weights_sha256"} <= about.keys():
            raise ModelError(f"{path} does not name its preprocessing; export it with notebook 21")
        self.name, self.weights_hash = name, about["weights_sha256"]
        self.device = session_device(self._session)
        self.preprocessing = Preprocessing(**json.loads(about["preprocessing"]))
        self._input = self._session.get_inputs()[0].name
        side = self.preprocessing.side_px
        self.dim = self._vectors(np.zeros((1, side, side, 3), np.uint8)).shape[1]

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """(side_px,side_px,3) uint8: the image resized to a square."""
        return self.preprocessing.resized(image)

    def _vectors(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: batch})[0]
