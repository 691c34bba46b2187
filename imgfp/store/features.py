"""Local features of single images, read as slices out of stored shards."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from imgfp.store.artefacts import open_h5, shards, verify


class FeatureLookup:
    """Local features of single images from a folder of shards, read as slices of the stored arrays."""

    def __init__(self, folder: Path) -> None:
        self._files: list[h5py.File] = []
        self._where: dict[str, tuple[int, int, int]] = {}
        for path in shards(folder, ".h5"):
            verify(path)
            file = open_h5(path)
            offsets = file["offsets"][:]
            for row, image_id in enumerate(file["image_ids"].asstr()[:]):
                span = int(offsets[row]), int(offsets[row + 1])
                self._where[image_id] = (len(self._files), *span)
            self._files.append(file)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._where

    def __len__(self) -> int:
        return len(self._where)

    def of(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (k,4) and descriptors (k,128) of one image. Raises KeyError for an unknown id."""
        number, start, stop = self._where[image_id]
        file = self._files[number]
        return file["keypoints"][start:stop], file["descriptors"][start:stop]


def feature_counts(path: Path) -> pd.Series:
    """Number of keypoints per image of one shard of local features, indexed by image id; descriptors are
    not read."""
    verify(path)
    with open_h5(path) as file:
        ids = np.array(file["image_ids"].asstr()[:], dtype=object)
        return pd.Series(np.diff(file["offsets"][:]), index=ids, dtype="int64")
