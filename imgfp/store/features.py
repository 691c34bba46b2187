# SPDX-License-Identifier: AGPL-3.0-or-later
"""Local features of single images, read as slices out of stored shards."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd

from imgfp.store.artefacts import open_h5, shards, verify

#: Shards that a lookup keeps open.
_OPEN_SHARDS = 32


class _Shard(NamedTuple):
    """An open shard, and its arrays: to look them up again costs more than to read an image's rows."""

    file: h5py.File
    row_of: dict[str, int]
    offsets: np.ndarray
    keypoints: h5py.Dataset
    descriptors: h5py.Dataset


class FeatureLookup:
    """Local features of single images from a folder of shards, read as slices of the stored arrays.

    shard_of: the name of the shard that may hold an image, from its id; raises KeyError for an unknown one.
    Without it the ids of all shards are read once. A few shards are open at a time.
    """

    def __init__(self, folder: Path, shard_of: Callable[[str], str] | None = None) -> None:
        self._folder = folder
        self._open: OrderedDict[str, _Shard] = OrderedDict()
        if shard_of is None:
            names = [path.stem for path in shards(folder, ".h5")]
            shard_of = {i: name for name in names for i in self._shard(name).row_of}.__getitem__
        self._shard_of = shard_of

    def __contains__(self, image_id: str) -> bool:
        try:
            return image_id in self._shard(self._shard_of(image_id)).row_of
        except KeyError:
            return False

    def of(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (k,4) and descriptors (k,128) of one image. Raises KeyError for an unknown id."""
        shard = self._shard(self._shard_of(image_id))
        row = shard.row_of[image_id]
        start, stop = shard.offsets[row : row + 2].tolist()
        return shard.keypoints[start:stop], shard.descriptors[start:stop]

    def _shard(self, name: str) -> _Shard:
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        path = self._folder / f"{name}.h5"
        if not path.exists():
            raise KeyError(name)
        verify(path)
        file = open_h5(path)
        row_of = {i: row for row, i in enumerate(file["image_ids"].asstr()[:])}
        stored = file["offsets"][:], file["keypoints"], file["descriptors"]
        self._open[name] = _Shard(file, row_of, *stored)
        if len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)[1].file.close()
        return self._open[name]


def feature_counts(path: Path) -> pd.Series:
    """Number of keypoints per image of one shard of local features, indexed by image id; descriptors are
    not read."""
    verify(path)
    with open_h5(path) as file:
        ids = np.array(file["image_ids"].asstr()[:], dtype=object)
        return pd.Series(np.diff(file["offsets"][:]), index=ids, dtype="int64")
