# SPDX-License-Identifier: AGPL-3.0-or-later
"""The vectors of a library and of a run, for search engines: `.npy` for Faiss and Qdrant, Parquet for Milvus and LanceDB.

Vectors are of unit norm, so that the inner product is the cosine. What an engine answers comes back as a file of candidates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from imgfp import store
from imgfp.results import Results
from imgfp.stages.descriptors import descriptors_by_shard, query_of_each_view, view_of_vector
from imgfp.stages.inventory import resolved_paths
from imgfp.store.arrays import write_npy, write_parquet


class _Part(NamedTuple):
    """Vectors of one shard and what is known of each: names of columns -> values."""

    vectors: np.ndarray
    columns: dict[str, list[str]]


def references(results: Results) -> Iterator[_Part]:
    """The vectors of the library, shard by shard: image_id, path."""
    for part in descriptors_by_shard(results.library):
        ids = part.image_ids.tolist()
        paths = resolved_paths(results.library, ids)
        yield _Part(part.vectors, {"image_id": ids, "path": paths})


def queries(results: Results) -> Iterator[_Part]:
    """The vectors of the run, one per view of each query and of its crops: vector_id, query_id (the file that an answer
    counts for)."""
    query_of = query_of_each_view(results.run)
    for part in descriptors_by_shard(results.run):
        views = [view_of_vector(vector_id, query_of) for vector_id in part.image_ids]
        held = [row for row, view in enumerate(views) if view in query_of]
        ids = [query_of[views[row]] for row in held]
        names = {"vector_id": part.image_ids[held].tolist(), "query_id": ids}
        yield _Part(part.vectors[held], names)


def write_numpy(results: Results, folder: Path) -> list[Path]:
    """Write `references.npy` and `queries.npy`, (n,d) float32, and what each row is in `references.json` and
    `queries.json`: names of columns -> values, in the order of the rows."""
    written = []
    for name, side in (("references", references), ("queries", queries)):
        columns: dict[str, list[str]] = {}

        def vectors(parts: Iterator[_Part], columns: dict[str, list[str]]) -> Iterator[np.ndarray]:
            for part in parts:
                for column, values in part.columns.items():
                    columns.setdefault(column, []).extend(values)
                yield part.vectors

        write_npy(folder / f"{name}.npy", vectors(side(results), columns))
        store.write_bytes(folder / f"{name}.json", json.dumps(columns).encode())
        written += [folder / f"{name}.npy", folder / f"{name}.json"]
    return written


def write_tables(results: Results, folder: Path) -> list[Path]:
    """Write `references.parquet` and `queries.parquet`, with the vectors in the column `vector`, a list of fixed size."""
    written = []
    for name, side in (("references", references), ("queries", queries)):
        written.append(folder / f"{name}.parquet")
        write_parquet(written[-1], map(_arrow, side(results)))
    return written


def _arrow(part: _Part) -> pa.Table:
    flat = pa.array(np.ascontiguousarray(part.vectors, np.float32).ravel())
    vector = pa.FixedSizeListArray.from_arrays(flat, part.vectors.shape[1])
    return pa.table(part.columns | {"vector": vector})
