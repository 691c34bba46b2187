"""Faiss indexes: plan, train, extend, and search several shards as one.

Indexes are read from bytes and written to bytes: only the store touches files. Distances are squared L2,
lower is more alike; ids are the caller's int64 numbers, -1 where an index has fewer results. Voting
tolerates approximation, so the local index is tuned on votes, not on neighbours.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any, Literal

import faiss
import numpy as np
from faiss.class_wrappers import add_to_referenced_objects

Kind = Literal["local", "global"]

#: Up to this number of vectors an exact scan is as fast as any index (2 cores: 20,000 keypoints against 20,000
#: in 3 s).
FLAT_VECTORS = {"local": 20_000, "global": 1_000_000}
#: Above this number of keypoints (13.6 GB as bytes) they are product-quantised to 16 bytes: 600 M in 15 GB.
BYTES_VECTORS = 100_000_000
#: Training vectors per list; Faiss warns below 39 and ignores those above 256.
TRAINING_PER_LIST = 40
#: Iterations of k-means for the centres of lists; votes do not improve with more.
TRAINING_ROUNDS = 6

_MOST_LISTS = {"local": 65_536, "global": 16_384}
_BATCH = 8192
_ONDISK_LISTS = b"ilod"


def plan(n_vectors: int, kind: Kind) -> str:
    """Faiss factory string for `n_vectors` keypoints (kind local, 128 bytes each) or global vectors.

    Small ones are exact. Bytes of SIFT are stored unchanged (`SQ8_direct`), so distances are exact in the
    probed lists; `IVFn` splits them into n lists, about 2 sqrt(n_vectors), a power of two. Beyond
    `BYTES_VECTORS` keypoints are kept as 16-byte product codes. Global vectors are kept as floats, many of them
    as half floats in lists.
    """
    if n_vectors < 0:
        raise ValueError(f"n_vectors: expected 0 or more, got {n_vectors}")
    if kind not in FLAT_VECTORS:
        raise ValueError(f"kind: expected 'local' or 'global', got {kind!r}")
    if n_vectors <= FLAT_VECTORS[kind]:
        return "IDMap2,SQ8_direct" if kind == "local" else "IDMap2,Flat"
    lists = lists_for(n_vectors, kind)
    if kind == "global":
        return f"IVF{lists},SQfp16"
    return f"IVF{lists},SQ8_direct" if n_vectors <= BYTES_VECTORS else f"IVF{lists},PQ16"


def resolve(factory: str, n_vectors: int, kind: Kind) -> str:
    """A Faiss factory string whose index keeps ids: `plan` for "auto", else `factory` itself."""
    chosen = plan(n_vectors, kind) if factory == "auto" else factory
    # Only lists and maps keep the ids that `add` gives.
    return chosen if any(word in chosen for word in ("IVF", "IDMap")) else f"IDMap2,{chosen}"


def lists_for(n_vectors: int, kind: Kind) -> int:
    """Lists to split `n_vectors` into: about 2 sqrt(n_vectors), a power of two, at most 65,536 (local)."""
    return min(1 << round(float(np.log2(2 * max(n_vectors, 1) ** 0.5))), _MOST_LISTS[kind])


def lists_of(index: Any) -> int:
    """Number of lists of an index; 0 if every search scans all vectors."""
    inverted = faiss.try_extract_index_ivf(index)
    return inverted.nlist if inverted else 0


@contextmanager
def one_thread():
    """Faiss on one thread inside, for timings a core and for worker processes that share a machine."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def training_size(factory: str) -> int:
    """Number of vectors that `train` should get for this factory string; 0 if it needs none."""
    return lists_of(faiss.index_factory(128, factory)) * TRAINING_PER_LIST


def train(factory: str, sample: np.ndarray, seed: int = 0) -> Any:
    """An empty index made by `factory` for vectors as wide as `sample` (m,d), trained on it.

    sample: uint8 or float32; indexes that need no training take only its width. The same sample, seed and
    number of threads give the same index. Raises ValueError for a bad factory string, for values that are
    not finite, and for fewer vectors than lists.
    """
    sample = _floats(sample, "training sample")
    try:
        index = faiss.index_factory(sample.shape[1], factory)
    except RuntimeError as error:
        raise ValueError(f"index factory {factory!r}: {_last_line(error)}") from None
    if index.is_trained:
        return index
    inverted = faiss.try_extract_index_ivf(index)
    if inverted is not None:
        if len(sample) < inverted.nlist:
            raise ValueError(
                f"{factory!r} has {inverted.nlist} lists but {len(sample)} training vectors; "
                f"give about {inverted.nlist * TRAINING_PER_LIST} or plan fewer lists"
            )
        inverted.cp.seed = seed
        # The caller has drawn the sample; its size is no reason for a warning.
        inverted.cp.min_points_per_centroid = 1
        inverted.cp.niter = TRAINING_ROUNDS
        if factory.endswith("SQ8_direct"):
            # Otherwise Faiss stores differences to the list's centre as bytes, clipped at 0.
            inverted.by_residual = False
    index.train(sample)
    return index


def build(vectors: np.ndarray, kind: Kind, factory: str = "auto", seed: int = 0) -> Any:
    """An index of all `vectors` (n,d) in memory, numbered from 0; factory as in `resolve`, n at least 1."""
    chosen = resolve(factory, len(vectors), kind)
    size = min(training_size(chosen) or 1, len(vectors))
    sample = np.random.default_rng(seed).choice(len(vectors), size, replace=False)
    built = train(chosen, vectors[np.sort(sample)], seed)
    add(built, vectors, 0)
    return built


def add(index: Any, vectors: np.ndarray, first_id: int) -> None:
    """Add vectors (n,d) uint8 or float32 in place, with the ids first_id, first_id + 1, ...

    Raises ValueError for a wrong width or values that are not finite (Faiss would drop those silently).
    """
    vectors = _floats(vectors, "vectors to add", width=index.d)
    for start in range(0, len(vectors), 1 << 18):
        part = vectors[start : start + (1 << 18)]
        ids = np.arange(len(part), dtype=np.int64) + (first_id + start)
        index.add_with_ids(part, ids)
    _check_lists(index)


def search(
    indexes: Any | Sequence[Any], queries: np.ndarray, k: int, nprobe: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest vectors of each query over all shards: squared_distances (q,k) float32, ids (q,k) int64.

    queries: (q,d) uint8 or float32. nprobe: lists probed in each shard; all of them is exact search, flat
    indexes ignore it. Nearest first, equal distances by id (which of several equal ones is in the k-th place
    is undefined); (inf, -1) where there are fewer than k. The merge over shards is exact. Raises ValueError
    for a wrong width or values that are not finite.
    """
    shards: list[Any] = list(indexes) if isinstance(indexes, (list, tuple)) else [indexes]
    if not shards:
        raise ValueError("no index to search; build the library first")
    if k < 1 or nprobe < 1:
        raise ValueError(f"k and nprobe must be at least 1, got {k} and {nprobe}")
    queries = np.asarray(queries)
    distances = np.full((len(queries), k), np.inf, np.float32)
    ids = np.full((len(queries), k), -1, np.int64)
    for shard in shards:
        inverted = faiss.try_extract_index_ivf(shard)
        if inverted is not None:
            inverted.nprobe = min(nprobe, inverted.nlist)
    for start in range(0, len(queries), _BATCH):
        rows = slice(start, start + _BATCH)
        batch = _floats(queries[rows], "queries", width=shards[0].d)
        found = [shard.search(batch, k) for shard in shards]
        if len(found) == 1:
            distances[rows], ids[rows] = found[0]
        else:
            distances[rows], ids[rows] = faiss.merge_knn_results(
                np.stack([d for d, _ in found]), np.stack([i for _, i in found])
            )
    distances[ids < 0] = np.inf
    order = np.lexsort((ids, distances))
    return np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)


def rows_of_ids(ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Image row of each keypoint number (any shape, -1: none, stays -1) by an offset table.

    offsets (n+1,) int64: image row i owns the numbers offsets[i]..offsets[i+1]-1.
    """
    ids = np.asarray(ids)
    if ids.size and ids.max() >= offsets[-1]:
        raise ValueError(
            f"the index holds keypoint {ids.max()} but the library has {offsets[-1]}; build it again"
        )
    return np.where(ids < 0, -1, np.searchsorted(offsets, ids, side="right") - 1)


def to_bytes(index: Any) -> bytes:
    """The index as bytes for the store."""
    return faiss.serialize_index(index).tobytes()


def from_bytes(data: bytes | mmap.mmap, name: str = "index", *, shared: bool = False) -> Any:
    """The index of `to_bytes`. Raises ValueError, naming `name`, for damaged or foreign bytes.

    shared: use codes and lists in `data` without a copy, so that processes that map one file share its
    memory; nothing can then be added. Memory and loops of the reader are bounded by the size of the
    data, and an index whose lists are in another file is refused: reading one would open any path that
    it names.
    """
    at = data.find(_ONDISK_LISTS)
    while at >= 0:
        lists, code_size = struct.unpack("<QQ", data[at + 4 : at + 20].ljust(16, b"\xff"))
        if lists < 1 << 32 and code_size < 1 << 20:
            raise ValueError(f"{name}: keeps its lists in another file; that is refused")
        at = data.find(_ONDISK_LISTS, at + 1)
    faiss.set_deserialization_vector_byte_limit(len(data) * 4 + (1 << 20))
    faiss.set_deserialization_loop_limit(1 << 20)
    view = np.frombuffer(data, np.uint8)
    try:
        if shared:
            reader = faiss.ZeroCopyIOReader  # type: ignore[attr-defined]  # missing in Faiss's stub
            index = faiss.read_index(reader(faiss.swig_ptr(view), view.size))
            # The mapped file must live as long as the index that points into it.
            add_to_referenced_objects(index, view)
        else:
            index = faiss.deserialize_index(view)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"{name}: not a readable Faiss index: {_last_line(error)}") from None
    _check_lists(index)
    return index


def _floats(vectors: np.ndarray, name: str, width: int | None = None) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, np.float32)
    if vectors.ndim != 2 or (width is not None and vectors.shape[1] != width):
        raise ValueError(f"{name}: expected shape (n, {width or 'd'}), got {vectors.shape}")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ValueError(f"{name}: row {row} holds a value that is not finite")
    return vectors


def _check_lists(index: Any) -> None:
    inverted = faiss.try_extract_index_ivf(index)
    lists: Any = inverted.invlists if inverted is not None else None
    if lists is not None and lists.compute_ntotal() != index.ntotal:
        raise ValueError(
            f"index lists hold {lists.compute_ntotal()} vectors of {index.ntotal}; build it again"
        )


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
