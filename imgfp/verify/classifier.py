"""A trained eye for a pair laid on each other: one picture edited, or two photographs of one thing?

Counts of blocks that agree cannot tell a sticker from a hand that moved, nor faint texture under a blur
from a scene photographed twice. A small network that sees both pictures can. It is shown no colours, and
only pairs whose pixels gave reason for a close look (`imgfp.verify.refinement`).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from imgfp.inference import SHIPPED, onnx_session, sha256_of
from imgfp.verify.correlation import make_overlay

SHIPPED_CLASSIFIER = SHIPPED / "pair_classifier.onnx"

#: Side of the square frame that the network looks at; a power of two, so that rounding never makes the
#: overlay larger.
SIDE_PX = 128
#: Side of the window by which local brightness and contrast are evened out, and the grey levels that
#: keep flat places flat: of the whole picture, and of a window.
_WINDOW_PX, _FLAT_WHOLE, _FLAT_LOCAL = 17, 8.0, 6.0


def pair_planes(
    query: np.ndarray, reference: np.ndarray, homography: np.ndarray
) -> np.ndarray | None:
    """(3,SIDE_PX,SIDE_PX) uint8: the query, the reference and, 255 where both are seen, the mask, in one
    frame no finer than the coarser picture, in the middle of black; None where they hardly overlap.

    query, reference (h,w) float32 grey, see `correlation.to_grey`; homography (3,3) from query to
    reference pixels.
    """
    seen = make_overlay(query, reference, homography, SIDE_PX)
    if seen is None:
        return None
    height, width = seen.first.shape
    laid = np.zeros((3, SIDE_PX, SIDE_PX), np.uint8)
    y, x = (SIDE_PX - height) // 2, (SIDE_PX - width) // 2
    planes = np.stack([seen.first, seen.second, 255 * seen.inside])
    laid[:, y : y + height, x : x + width] = np.clip(np.rint(planes), 0, 255)
    return laid


def network_input(laid: np.ndarray) -> np.ndarray:
    """What the network is given, (5,h,w) float32, of (3,h,w) uint8 as by `pair_planes`: the query less its
    mean over its deviation, in the whole overlap and about every pixel; the reference likewise; the mask.
    """
    mask = (laid[2] > 127).astype(np.float32)
    count, near = max(float(mask.sum()), 1.0), np.maximum(_box(mask), 1e-3)
    planes = []
    for side in laid[:2]:
        grey = side * mask
        whole = (grey - grey.sum() / count) * mask
        deviation = np.sqrt(np.square(whole).sum() / count)
        mean = _box(grey) / near
        spread = np.sqrt(np.maximum(_box(grey * grey) / near - mean * mean, 0))
        planes += [
            whole / (deviation + _FLAT_WHOLE),
            (grey - mean) * mask / (spread + _FLAT_LOCAL),
        ]
    return np.stack([*planes, mask])


def tta_variants(planes: np.ndarray) -> np.ndarray:
    """(4,5,h,h): the same pair as it is, mirrored, upside down and over the diagonal; an answer that holds
    for all of them is surer than one."""
    ways = [planes, planes[:, :, ::-1], planes[:, ::-1], planes.transpose(0, 2, 1)]
    return np.stack(ways)


def _box(plane: np.ndarray) -> np.ndarray:
    return cv2.boxFilter(plane, -1, (_WINDOW_PX, _WINDOW_PX), borderType=cv2.BORDER_CONSTANT)


class PairClassifier:
    """The network in an ONNX file of `training.pair_judge`; "" is the one that ships.

    Raises ValueError naming a file that is absent or no such network.
    """

    def __init__(self, path: str = ""):
        self.path = Path(path) if path else SHIPPED_CLASSIFIER
        try:
            self.weights_hash = sha256_of(self.path)
        except OSError as error:
            raise ValueError(f"pair judge {str(self.path)!r}: {error.strerror}") from None
        self._session = onnx_session(self.path)
        inputs = self._session.get_inputs()
        if [side.shape[1:] for side in inputs] != [[5, SIDE_PX, SIDE_PX]]:
            raise ValueError(
                f"pair judge {str(self.path)!r}: no network of notebook 23, it takes "
                + ", ".join(f"{side.name} {side.shape}" for side in inputs)
            )
        self._input = inputs[0].name

    def __call__(self, laid: np.ndarray) -> float:
        """The probability, 0..1, that a pair as by `pair_planes` is a picture and its copy, where half of the
        pairs are; higher is surer. The mean log-odds of four `tta_variants`."""
        said = self._session.run(None, {self._input: tta_variants(network_input(laid))})[0]
        return float(1 / (1 + np.exp(-said.mean(dtype=np.float64))))


@lru_cache(maxsize=2)
def load_classifier(path: str = "") -> PairClassifier:
    """A `PairClassifier`, loaded once a process."""
    return PairClassifier(path)
