# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tables and records that pass between stages. Shapes are checked once, at construction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

Branch = Literal["local", "crop", "global"]
BRANCHES: tuple[Branch, ...] = ("local", "crop", "global")

#: What the id of a frame or page, and of a crop of it, has after that of its file. No id of a file ends so.
_FRAME = re.compile(r"#frame=(\d+)(?:#\d+)?\Z")

#: Columns of every stored table, in order, with their pandas dtypes.
TABLES: dict[str, dict[str, str]] = {
    # One row per file, and after them one per further frame or page that is searched, see `frame_id`; its `sha256` is
    # of that of its file and its number. `reason` is blank for an image that could be read; otherwise the sizes are 0 and
    # there is no thumbnail. Sizes are of the upright image, in pixels. `thumbnail` is a small JPEG, so
    # that verification and browsing work without the originals.
    "images": {
        "image_id": "str",
        "path": "str",
        "file_bytes": "int64",
        "mtime_ns": "int64",
        "sha256": "str",
        "format": "str",
        "width": "int32",
        "height": "int32",
        "notes": "str",
        "reason": "str",
        "source": "str",
        "blocks": "str",
        "thumbnail": "object",
    },
    "rejects": {"path": "str", "reason": "str"},
    # Every box of the detector, before any rule: corners in original upright pixels, exclusive ends.
    "detections": {
        "image_id": "str",
        "x0": "float32",
        "y0": "float32",
        "x1": "float32",
        "y1": "float32",
        "confidence": "float32",
    },
    # The boxes kept by the rule, in a query or a frame of one. `crop_id` is `<query_id>#<number>`; it is joined on.
    # `local_rank`: 0 for the best box at the local operating point, -1 for a box not chosen there.
    "crops": {
        "crop_id": "str",
        "query_id": "str",
        "x0": "float32",
        "y0": "float32",
        "x1": "float32",
        "y1": "float32",
        "confidence": "float32",
        "local_rank": "int32",
        "is_global": "bool",
    },
    # A proposed pair. `rank` 0 is the branch's best. `score`: votes or cosine, higher is more similar.
    # `accepted`: the branch's own decision rule held. `mirrored`: proposed by the mirrored query.
    "candidates": {
        "query_id": "str",
        "reference_id": "str",
        "branch": "str",
        "rank": "int32",
        "score": "float32",
        "mean_squared_distance": "float32",
        "mirrored": "bool",
        "accepted": "bool",
    },
    # A query that its first candidates answer. `score`: probability of a copy; `query_area`: share of the query
    # that the overlap with the reference covers.
    "certain": {
        "query_id": "str",
        "reference_id": "str",
        "score": "float64",
        "query_area": "float32",
    },
    # Two references that show the same picture, the second earlier in the library. `relation`: "identical" for files
    # of the same bytes, "same picture" for one that was encoded again, scaled, toned or mirrored. "shared part" for two
    # different pictures that have a form, a logo or a frame in common: `image_part` and `other_part` of each, see
    # `store.groups.Shared`; else blank.
    "links": {
        "image_id": "str",
        "other_id": "str",
        "relation": "str",
        "image_part": "str",
        "other_part": "str",
    },
    # A reference of which other references, no copies of it, share a part. `references`: how many do, by way of others, too.
    "shared": {"image_id": "str", "part": "str", "references": "int32"},
    # A reference that has copies in its library. `group_id`: the first of them; `relation` to it, as of links.
    "groups": {"image_id": "str", "group_id": "str", "relation": "str"},
    "predictions": {"query_id": "str", "reference_id": "str", "score": "float64"},
    "truth": {"query_id": "str", "reference_id": "str"},
}

#: Former names of evidence columns -> names of today, for tables that an older version wrote.
RENAMED_COLUMNS: dict[str, str] = {
    "inverted": "contrast_reversed",
    "angle_error": "angle_error_deg",
    "error": "reprojection_error_px",
    "tilt": "tilt_deg",
    "shear": "shear_deg",
    "agreement": "ncc_inlier_ratio",
    "agreement_chance": "ncc_chance",
    "agreement_edges": "ncc_edges",
    "agreement_inside": "ncc_best_rectangle",
    "agreement_fine": "ncc_fine",
    "agreeing_blocks": "ncc_inlier_blocks",
    "agreement_steady": "ncc_stable",
    "agreement_best": "ncc_p80",
    "close_blocks": "aligned_blocks",
    "firm_blocks": "localisable_blocks",
    "moved_blocks": "displaced_blocks",
    "explained": "model_consistency",
    "judged": "copy_probability",
    "map_from": "hypothesis_source",
}
#: Former values of evidence columns, by column: former value -> value of today.
RENAMED_VALUES: dict[str, dict[str, str]] = {"model": {"upright": "axis_aligned"}}


def table(kind: str, rows: pd.DataFrame | Sequence | None = None, **columns) -> pd.DataFrame:
    """A table of `kind` (a key of TABLES): its declared columns first, in order, with their dtypes.

    Extra columns follow the declared ones. Without rows or columns the table is empty. Raises
    ValueError naming missing columns.
    """
    declared = TABLES[kind]
    frame = pd.DataFrame(columns if rows is None else rows, copy=False)
    if frame.empty and not len(frame.columns):
        frame = pd.DataFrame(columns=list(declared))
    missing = [name for name in declared if name not in frame.columns]
    if missing:
        raise ValueError(
            f"table '{kind}' lacks the columns {missing}; it has {list(frame.columns)}"
        )
    extra = [name for name in frame.columns if name not in declared]
    return frame[[*declared, *extra]].astype(declared).reset_index(drop=True)


def frame_id(file_id: str, number: int) -> str:
    """Id of a further frame or page of a file, numbered from 1; the first that is searched has the id of the file."""
    return f"{file_id}#frame={number}"


def frame_of(image_id: str) -> int:
    """Number of the frame that an image, or a crop, is or lies in, by its id; 0 for the one with the id of its file."""
    found = _FRAME.search(image_id)
    return int(found[1]) if found else 0


def file_of(image_id: str) -> str:
    """Id of the file that an image, or a crop of a frame, is part of."""
    return _FRAME.sub("", image_id)


def files_of(image_ids: pd.Series) -> pd.Series:
    """`file_of` of each."""
    of_frames = image_ids.str.contains("#frame=", regex=False)
    if not of_frames.any():
        return image_ids
    return image_ids.where(~of_frames, image_ids.map(file_of)).astype("str")


def _ids(image_ids: Iterable[str]) -> np.ndarray:
    ids = np.array(list(image_ids), dtype=object)
    repeated = pd.Series(ids, dtype=object).duplicated().to_numpy()
    if repeated.any():
        raise ValueError(f"image id {ids[repeated][0]!r} occurs more than once; make ids unique")
    return ids


def _expect(name: str, array: np.ndarray, shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name}: expected shape {shape} (None: any), got {array.shape}")


@dataclass(frozen=True)
class LocalFeatures:
    """Keypoints and descriptors of several images, as ragged arrays.

    image_ids (n,) object; offsets (n+1,) int64: image i owns rows offsets[i]:offsets[i+1];
    keypoints (N,4) float32: x, y, size in original upright pixels, angle in radians;
    descriptors (N,128) uint8: RootSIFT x 255, so that the squared norm is about 255 squared.
    """

    image_ids: np.ndarray
    offsets: np.ndarray
    keypoints: np.ndarray
    descriptors: np.ndarray
    _row: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = _ids(self.image_ids)
        offsets = np.asarray(self.offsets, np.int64)
        keypoints = np.asarray(self.keypoints, np.float32)
        descriptors = np.asarray(self.descriptors)
        _expect("offsets", offsets, (len(ids) + 1,))
        _expect("keypoints", keypoints, (int(offsets[-1]), 4))
        _expect("descriptors", descriptors, (int(offsets[-1]), 128))
        if descriptors.dtype != np.uint8:
            raise ValueError(f"descriptors: expected uint8, got {descriptors.dtype}")
        if offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise ValueError("offsets must start at 0 and never decrease")
        if not np.isfinite(keypoints).all():
            raise ValueError("keypoints contain a value that is not finite")
        for name, value in (
            ("image_ids", ids),
            ("offsets", offsets),
            ("keypoints", keypoints),
            ("descriptors", descriptors),
            ("_row", {image_id: row for row, image_id in enumerate(ids)}),
        ):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._row

    def of(self, image_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (k,4) and descriptors (k,128) of one image. Raises KeyError for an unknown id."""
        row = self._row[image_id]
        rows = slice(self.offsets[row], self.offsets[row + 1])
        return self.keypoints[rows], self.descriptors[rows]

    @classmethod
    def from_images(
        cls, image_ids: Sequence[str], features: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> LocalFeatures:
        """Join (keypoints, descriptors) of single images, in the order of `image_ids`."""
        counts = [len(keypoints) for keypoints, _ in features]
        return cls(
            np.array(image_ids, dtype=object),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([np.empty((0, 4), np.float32), *(k for k, _ in features)]),
            np.concatenate([np.empty((0, 128), np.uint8), *(d for _, d in features)]),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[LocalFeatures]) -> LocalFeatures:
        """Join records in order; no parts give an empty record."""
        ids = [image_id for part in parts for image_id in part.image_ids]
        counts = np.concatenate([[0], *(np.diff(part.offsets) for part in parts)])
        return cls(
            np.array(ids, dtype=object),
            np.cumsum(counts).astype(np.int64),
            np.concatenate([np.empty((0, 4), np.float32), *(p.keypoints for p in parts)]),
            np.concatenate([np.empty((0, 128), np.uint8), *(p.descriptors for p in parts)]),
        )


@dataclass(frozen=True)
class Descriptors:
    """One vector per image: image_ids (n,) object, vectors (n,d) float32 of unit norm."""

    image_ids: np.ndarray
    vectors: np.ndarray

    def __post_init__(self) -> None:
        ids = _ids(self.image_ids)
        vectors = np.ascontiguousarray(self.vectors, np.float32)
        _expect("vectors", vectors, (len(ids), None))
        norms = np.linalg.norm(vectors, axis=1)
        if len(ids) and not np.allclose(norms, 1, atol=1e-3):
            worst = int(np.nanargmax(np.where(np.isfinite(norms), abs(norms - 1), np.inf)))
            raise ValueError(f"vector of {ids[worst]!r} has norm {norms[worst]:.4g}, expected 1")
        object.__setattr__(self, "image_ids", ids)
        object.__setattr__(self, "vectors", vectors)

    def __len__(self) -> int:
        return len(self.image_ids)

    @classmethod
    def concatenate(cls, parts: Sequence[Descriptors]) -> Descriptors:
        """Join records in order. Raises ValueError when there are none (the width is unknown)."""
        if not parts:
            raise ValueError("no descriptors to join; give at least one record")
        ids = [image_id for part in parts for image_id in part.image_ids]
        return cls(np.array(ids, dtype=object), np.concatenate([part.vectors for part in parts]))


@dataclass(frozen=True)
class Boxes:
    """Boxes detected in one image: xyxy (n,4) float32 in original upright pixels with exclusive ends,
    confidence (n,) float32 in 0..1, most confident first."""

    xyxy: np.ndarray
    confidence: np.ndarray

    def __post_init__(self) -> None:
        xyxy = np.asarray(self.xyxy, np.float32).reshape(-1, 4)
        confidence = np.asarray(self.confidence, np.float32)
        _expect("confidence", confidence, (len(xyxy),))
        order = np.argsort(-confidence, kind="stable")
        object.__setattr__(self, "xyxy", xyxy[order])
        object.__setattr__(self, "confidence", confidence[order])

    def __len__(self) -> int:
        return len(self.xyxy)
