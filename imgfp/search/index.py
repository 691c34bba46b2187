# SPDX-License-Identifier: AGPL-3.0-or-later
"""One logical Faiss index over many parts: plan, train, encode, merge, search.

An index is a trained quantiser (the centres of lists, and the codec of vectors) and parts. A part holds the
codes and ids of some vectors, grouped by list, in Faiss's own format of inverted lists, and is used where it
lies: in memory, or in a file that all processes map. The nearest lists of a query vector are found once, then
these lists of every part are scanned. So parts can be built side by side, added, merged and dropped without
touching the others.

Distances are squared L2, lower is more alike. An id is an int64 that holds the place of an image and the
number of the vector in that image, see `ids_of`; -1 stands for no result. Voting tolerates approximation, so
the local index is tuned on votes, not on neighbours.
"""

from __future__ import annotations

import mmap
import re
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Any, Literal

import faiss
import numpy as np
from faiss.class_wrappers import add_to_referenced_objects

from imgfp.search import blocks
from imgfp.search.gpu import GpuIndex

Kind = Literal["local", "global"]

#: Up to this number of vectors an exact scan is as fast as any index (2 cores: 20,000 keypoints against 20,000
#: in 3 s).
FLAT_VECTORS = {"local": 20_000, "global": 1_000_000}
#: Above this number of keypoints (1.4 GB as bytes) they are product-quantised: 16 bytes instead of 128.
BYTES_VECTORS = 10_000_000
#: How: 32 codes of 4 bits for the difference to the list's centre, which are scanned four times as fast as 16 of 8 bits.
PRODUCT_CODEC = "PQ32x4fsr"
#: Training vectors per list; Faiss warns below 39 and ignores those above 256.
TRAINING_PER_LIST = 40
#: Iterations of k-means for the centres of lists; votes do not improve with more.
TRAINING_ROUNDS = 6
#: Above this number of lists their centres are clustered in two levels and searched by an index of their own.
MOST_FLAT_LISTS = 4096
#: Clusters of centres that this index visits for a vector, of 2 sqrt(lists).
CENTRE_PROBES = 32
#: Centres that it is asked for, at least, and those that it then compares exactly, the nearest by their codes.
_FEWEST_CENTRES, _EXACT_CENTRES = 8, 32

#: Bits of an id that number the vectors of one image.
VECTOR_BITS = 20

_FACTORY = re.compile(
    r"Flat|IVF([1-9]\d*),(Flat|SQ8_direct|SQ8|SQ6|SQ4|SQfp16|SQbf16|PQ\d+(x\d+|x4fsr)?)"
)
_MOST_LISTS = {"local": 1 << 20, "global": 1 << 14}
_BATCH, _CODED_BATCH = 8192, 1024
#: Threads of a worker share an open index, whose lists are those of one part at a time.
_part_in_use = threading.Lock()
#: Faiss would keep lists x bytes of a code x 1 kB in each process, a gigabyte at 65,536 lists and PQ16.
_NO_TABLE = -1
_HEADER = struct.Struct("<4sQQ4sQ")


# ------------------------------------------------------------------------------------------- plan


def plan(n_vectors: int, kind: Kind) -> str:
    """Storage of `n_vectors` keypoints (kind local, 128 bytes each) or global vectors, as a Faiss factory string.

    Small ones are exact ("Flat"). "IVFn" splits them into n lists, a power of two. Bytes of SIFT are stored
    unchanged (SQ8_direct), so distances are exact in the visited lists; beyond `BYTES_VECTORS` keypoints they
    are product codes of 16 bytes. Global vectors are kept as floats, many of them as half floats in lists.
    """
    if n_vectors < 0:
        raise ValueError(f"n_vectors: expected 0 or more, got {n_vectors}")
    if kind not in FLAT_VECTORS:
        raise ValueError(f"kind: expected 'local' or 'global', got {kind!r}")
    if n_vectors <= FLAT_VECTORS[kind]:
        return "Flat"
    lists = lists_for(n_vectors, kind)
    if kind == "global":
        return f"IVF{lists},SQfp16"
    return f"IVF{lists},SQ8_direct" if n_vectors <= BYTES_VECTORS else f"IVF{lists},{PRODUCT_CODEC}"


def lists_for(n_vectors: int, kind: Kind) -> int:
    """Lists to split `n_vectors` into, a power of two: about 2 sqrt(n_vectors); 4 sqrt(n_vectors) beyond a
    million keypoints, and beyond `BYTES_VECTORS` so many that a search costs less than the square root."""
    lists = 2 * max(n_vectors, 1) ** 0.5
    if kind == "local" and n_vectors > 1_000_000:
        lists *= 2 * max(1.0, n_vectors / BYTES_VECTORS) ** 0.1
    return min(1 << round(float(np.log2(lists))), _MOST_LISTS[kind])


def nprobe_for(n_lists: int, kind: Kind) -> int:
    """Lists to visit per vector. With many short lists eight of them propose as many true pairs as four did
    among fewer, for less work (3 M keypoints of photographs: docs/scale.md)."""
    if kind == "global":
        return 16
    return 4 if n_lists < MOST_FLAT_LISTS else 8


def resolve(factory: str, n_vectors: int, kind: Kind) -> str:
    """The storage that `factory` names; "auto" is `plan`. Raises ValueError for one that is not supported."""
    chosen = plan(n_vectors, kind) if factory == "auto" else factory
    if not _FACTORY.fullmatch(chosen):
        raise ValueError(
            f"index {factory!r}: expected auto, Flat (exact), or IVF<lists>,<codec> with codec Flat, SQ8_direct, "
            f"SQ8, SQ6, SQ4, SQfp16, SQbf16, PQ<bytes> or PQ<n>x4fsr, e.g. IVF4096,{PRODUCT_CODEC}"
        )
    return chosen


def lists_of_factory(factory: str) -> int:
    """Lists that a resolved factory string splits vectors into; 1 for an exact scan."""
    found = _FACTORY.fullmatch(factory)
    return int(found[1]) if found and found[1] else 1


def vector_bytes(factory: str, width: int, kind: Kind) -> int:
    """Bytes of one vector of `width` numbers in an index of this resolved factory string, with its id. Raises
    ValueError for a codec that does not fit the width."""
    codec = factory.rpartition(",")[2]
    if factory == "Flat" and kind == "local":
        codec = "SQ8_direct"  # as `train` stores bytes
    try:
        return int(faiss.index_factory(width, f"IVF1,{codec}").code_size) + 8  # type: ignore[attr-defined]
    except RuntimeError as error:
        raise ValueError(f"index {factory!r}: {_last_line(error)}") from None


def training_size(factory: str) -> int:
    """Number of vectors that `train` should get for this factory string; 0 if it needs none."""
    lists = lists_of_factory(factory)
    return 0 if factory == "Flat" else max(lists * TRAINING_PER_LIST, 256 * TRAINING_PER_LIST)


# ------------------------------------------------------------------------------------------ train


def train(factory: str, sample: np.ndarray, seed: int = 0) -> Any:
    """An empty Faiss IVF index for vectors as wide as `sample` (m,d), its centres and codec trained on it.

    factory: resolved; sample: uint8 or float32; "Flat" takes only its type and width, and has a single list.
    The same sample, seed and number of threads give the same index. Raises ValueError for a codec that does not
    fit the width, for values that are not finite, and for fewer vectors than lists.
    """
    as_bytes = np.asarray(sample).dtype == np.uint8
    sample = _floats(sample, "training sample")
    lists = lists_of_factory(factory)
    codec = factory.rpartition(",")[2]
    if factory == "Flat":
        codec = "SQ8_direct" if as_bytes else "Flat"
    try:
        index: Any = faiss.index_factory(sample.shape[1], f"IVF{lists},{codec}")
    except RuntimeError as error:
        raise ValueError(f"index {factory!r}: {_last_line(error)}") from None
    if len(sample) < lists:
        raise ValueError(
            f"{factory!r} has {lists} lists but {len(sample)} training vectors; "
            f"give about {lists * TRAINING_PER_LIST} or plan fewer lists"
        )
    # The caller has drawn the sample; its size is no reason for a warning.
    index.cp.min_points_per_centroid = 1
    index.cp.niter = TRAINING_ROUNDS
    index.cp.seed = seed
    if codec == "SQ8_direct":
        # Otherwise Faiss stores differences to the list's centre as bytes, clipped at 0.
        index.by_residual = False
    if codec.startswith("PQ"):
        if not isinstance(index, faiss.IndexIVFPQFastScan):
            # It reorders codes for Hamming distances, which are not used.
            index.do_polysemous_training = False
        index.use_precomputed_table = _NO_TABLE
        index.pq.cp.min_points_per_centroid = 1
    if lists == 1:
        index.quantizer.add(np.zeros((1, sample.shape[1]), np.float32))
    elif lists > MOST_FLAT_LISTS:
        quantiser = _centre_index(_centres(sample, lists, seed), seed)
        index.quantizer, index.own_fields = quantiser, False
        add_to_referenced_objects(index, quantiser)
    index.train(sample)
    return index


def _centres(sample: np.ndarray, lists: int, seed: int) -> np.ndarray:
    """Centres (lists,d) by k-means in two levels: sqrt(lists) clusters, each split into its share of lists.

    One level costs lists x sample distances per iteration: hours at 65,536 lists, against seconds.
    """
    clusters = round(lists**0.5)
    top = _kmeans(sample, clusters, seed)
    owner = top.assign(sample)[1]
    members = np.bincount(owner, minlength=clusters)
    shares = np.diff(np.cumsum(members) * lists // len(sample), prepend=0)
    by_owner = np.split(np.argsort(owner, kind="stable"), np.cumsum(members)[:-1])
    return np.concatenate(
        [
            _kmeans(sample[rows], int(share), seed).centroids
            for rows, share in zip(by_owner, shares, strict=True)
            if share
        ]
    )


def _kmeans(sample: np.ndarray, clusters: int, seed: int) -> Any:
    made = faiss.Kmeans(
        sample.shape[1], clusters, niter=TRAINING_ROUNDS, seed=seed, min_points_per_centroid=1
    )
    made.train(np.ascontiguousarray(sample))
    return made


def _centre_index(centres: np.ndarray, seed: int) -> Any:
    """An index of centres: in the nearest clusters of them their codes of 4 bits for two dimensions are compared
    (Andre, Kermarrec and Le Scouarnec, "Cache locality is not enough: high-performance nearest neighbor search with
    product quantization fast scan", 2015), then the best by the centres themselves.

    For the eight nearest of 65,536 centres it takes a quarter of the time of a comparison in 16 of 256 clusters
    without codes, for more of the right ones: docs/scale.md. Every number of threads builds the same.
    """
    width = centres.shape[1]
    pieces = width // gcd(width, 2)
    clusters = 2 * round(len(centres) ** 0.5)
    index: Any = faiss.index_factory(width, f"IVF{clusters},PQ{pieces}x4fs,RFlat")
    coded: Any = faiss.downcast_index(index.base_index)
    for trained in (coded.cp, coded.pq.cp):
        trained.seed = seed
        trained.min_points_per_centroid = 1
    coded.cp.niter = TRAINING_ROUNDS
    coded.nprobe = CENTRE_PROBES
    index.train(centres)
    index.add(centres)
    index.k_factor = _EXACT_CENTRES / _FEWEST_CENTRES
    return index


def _batch(trained: Any) -> int:
    """Vectors that are compared at once; tables for codes of 4 bits should stay in a processor's cache."""
    coded = trained.nlist > MOST_FLAT_LISTS or isinstance(trained, faiss.IndexIVFPQFastScan)
    return _CODED_BATCH if coded else _BATCH


def nearest_lists(trained: Any, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` lists nearest to each vector (n,d) float32: squared distances of their centres (n,count) float32
    and numbers (n,count) int64, nearest first."""
    if trained.nlist <= MOST_FLAT_LISTS:
        return trained.quantizer.search(vectors, count)
    # An index of centres compares exactly as many as `k_factor` for each that it is asked for.
    distances, numbers = trained.quantizer.search(vectors, max(count, _FEWEST_CENTRES))
    return distances[:, :count].copy(), numbers[:, :count].copy()


# ------------------------------------------------------------------------------------------ parts


def ids_of(places: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Ids (sum of counts,) int64 of consecutive vectors: `counts` (n,) vectors of the images at `places` (n,).

    A place is a number of at most 43 bits that the caller gives to an image; `places_of` gives it back. Raises
    ValueError for more vectors of one image than an id can number.
    """
    counts = np.asarray(counts, np.int64)
    if counts.size and counts.max() >= 1 << VECTOR_BITS:
        raise ValueError(f"an image has {counts.max():,} vectors; at most {1 << VECTOR_BITS:,} fit")
    first = np.cumsum(counts) - counts
    number = np.arange(counts.sum()) - np.repeat(first, counts)
    return np.repeat(np.asarray(places, np.int64) << VECTOR_BITS, counts) | number


def places_of(ids: np.ndarray) -> np.ndarray:
    """Place of the image that each vector belongs to; -1 stays -1."""
    return np.asarray(ids) >> VECTOR_BITS


@dataclass(frozen=True)
class Part:
    """Codes and ids of some vectors, grouped by list.

    sizes (lists,): vectors of each list; rows (lists,): codes stored of each, with those that fill a block; starts
    (lists,): where the codes of each list begin in data, followed by its ids; data: the whole part as bytes; in_blocks:
    whether codes lie in blocks; scanned_in_blocks: whether Faiss wants them to. Those of a part that one task has made do
    not: blocks of short lists would be empty for the most part.
    """

    sizes: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    data: np.ndarray
    code_size: int
    in_blocks: bool
    scanned_in_blocks: bool
    name: str

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def codes(self, number: int) -> np.ndarray:
        """The codes of one list as bytes, one after the other."""
        start = self.starts[number]
        data = self.data[start : start + self.rows[number] * self.code_size]
        if self.in_blocks:
            return blocks.unpacked(data, self.sizes[number], self.code_size).reshape(-1)
        return data

    def ids(self, number: int) -> np.ndarray:
        """The ids of one list as bytes."""
        start = self.starts[number] + self.rows[number] * self.code_size
        return self.data[start : start + self.sizes[number] * 8]

    @cached_property
    def lists(self) -> Any:
        """Faiss's view of the same memory; of a copy in blocks where they do not lie in them. Raises ValueError."""
        view = self.data
        if self.scanned_in_blocks != self.in_blocks:
            view = np.frombuffer(b"".join(bytes(piece) for piece in merge([self])), np.uint8)
        faiss.set_deserialization_vector_byte_limit(view.size + (1 << 20))
        faiss.set_deserialization_loop_limit(len(self.sizes) + (1 << 20))
        try:
            lists = faiss.read_InvertedLists(_reader(view))
        except (RuntimeError, MemoryError) as error:
            raise ValueError(f"{self.name}: not readable by Faiss: {_last_line(error)}") from None
        add_to_referenced_objects(lists, view)
        return lists


def encode(trained: Any, vectors: np.ndarray, ids: np.ndarray) -> Iterator[bytes | np.ndarray]:
    """A part with these vectors (n,d) uint8 or float32 and their ids (n,) int64, piece by piece, for the store
    or `open_part`. Raises ValueError for a wrong width or values that are not finite."""
    numbers, codes = [np.empty(0, np.int64)], [np.empty((0, trained.code_size), np.uint8)]
    step = _batch(trained)
    for start in range(0, len(vectors), step):
        some = _floats(vectors[start : start + step], "vectors to add", width=trained.d)
        owner = nearest_lists(trained, some, 1)[1][:, 0]
        code = np.empty((len(some), trained.code_size), np.uint8)
        trained.encode_vectors(
            len(some), faiss.swig_ptr(some), faiss.swig_ptr(owner), faiss.swig_ptr(code)
        )
        numbers.append(owner)
        codes.append(code)
    owner = np.concatenate(numbers)
    order = np.argsort(owner, kind="stable")
    sizes = np.bincount(owner, minlength=trained.nlist)
    code, ids = np.concatenate(codes)[order], np.asarray(ids, np.int64)[order]
    yield _header(sizes, trained.code_size)
    ends = np.cumsum(sizes)
    for number in np.flatnonzero(sizes):
        rows = slice(ends[number] - sizes[number], ends[number])
        yield code[rows].reshape(-1)
        yield ids[rows].view(np.uint8)


def merge(parts: Sequence[Part]) -> Iterator[bytes | np.ndarray]:
    """One part with the vectors of several, piece by piece; the same bytes as `encode` of all of them, but in blocks
    where blocks are scanned. After those comes how many codes fill the last block of each list, a byte each."""
    sizes = np.sum([part.sizes for part in parts], axis=0)
    in_blocks = parts[0].scanned_in_blocks
    rows = blocks.rows(sizes) if in_blocks else sizes
    yield _header(rows, parts[0].code_size)
    for number in np.flatnonzero(sizes).tolist():
        codes = (part.codes(number) for part in parts)
        if in_blocks:
            every = np.concatenate([*codes]).reshape(-1, parts[0].code_size)
            yield blocks.packed(every)
        else:
            yield from codes
        yield from (part.ids(number) for part in parts)
        yield b"\xff" * (8 * int(rows[number] - sizes[number]))  # the id -1
    if in_blocks:
        yield (rows - sizes).astype(np.uint8)


def open_part(data: bytes | mmap.mmap, trained: Any, name: str = "part") -> Part:
    """The part that these bytes hold, without a copy, so that processes that map one file share its memory.

    Raises ValueError, naming `name`, for bytes that are damaged or belong to another trained index. Nothing
    that the bytes say can make the reader take more memory than they have.
    """
    view = np.frombuffer(data, np.uint8)
    foreign = ValueError(f"{name}: no part of this index, or damaged; remove it and build it again")
    if view.size < _HEADER.size:
        raise foreign
    magic, n_lists, code_size, layout, n_sizes = _HEADER.unpack(view[: _HEADER.size].tobytes())
    expected = (b"ilar", trained.nlist, trained.code_size, b"full", trained.nlist)
    begin = _HEADER.size + 8 * n_sizes
    if (magic, n_lists, code_size, layout, n_sizes) != expected or view.size < begin:
        raise foreign
    stored = np.frombuffer(data, "<u8", n_sizes, _HEADER.size)
    if stored.max(initial=0) > view.size:
        raise foreign
    rows = stored.astype(np.int64)
    lengths = rows * (code_size + 8)
    end = begin + lengths.sum()
    scanned = isinstance(trained, faiss.IndexIVFPQFastScan)
    in_blocks = scanned and view.size == end + n_sizes
    if not in_blocks and end != view.size:
        raise foreign
    fill = view[end:].astype(np.int64) if in_blocks else np.zeros_like(rows)
    # Faiss reads whole blocks, whatever the sizes say.
    if in_blocks and ((fill > rows).any() or (blocks.rows(rows - fill) != rows).any()):
        raise foreign
    starts = begin + np.cumsum(lengths) - lengths
    part = Part(rows - fill, rows, starts, view, int(code_size), in_blocks, scanned, name)
    if scanned == in_blocks:
        _ = part.lists
    return part


def _header(sizes: np.ndarray, code_size: int) -> bytes:
    header = _HEADER.pack(b"ilar", len(sizes), code_size, b"full", len(sizes))
    return header + sizes.astype("<u8").tobytes()


# ----------------------------------------------------------------------------------------- search


@dataclass(frozen=True)
class Index:
    """A trained index with parts, ready to search. nprobe: lists visited where a search does not say; removed
    (r,) int64: ids that are no longer found; gpu: a copy of all this on GPUs, which is then searched instead."""

    trained: Any
    parts: Sequence[Part]
    nprobe: int = 8
    removed: np.ndarray | None = None
    gpu: GpuIndex | None = None

    def __len__(self) -> int:
        return sum(map(len, self.parts))


def build(
    vectors: np.ndarray,
    kind: Kind,
    factory: str = "auto",
    seed: int = 0,
    ids: np.ndarray | None = None,
) -> Index:
    """An index of all `vectors` (n,d) in memory; ids: of `ids_of`, by default of one vector per image, at places
    from 0. factory as in `resolve`, n at least 1."""
    chosen = resolve(factory, len(vectors), kind)
    size = min(training_size(chosen) or 1, len(vectors))
    sample = np.random.default_rng(seed).choice(len(vectors), size, replace=False)
    trained = train(chosen, vectors[np.sort(sample)], seed)
    if ids is None:
        ids = ids_of(np.arange(len(vectors)), np.ones(len(vectors)))
    data = b"".join(bytes(piece) for piece in encode(trained, vectors, ids))
    return Index(trained, [open_part(data, trained)], nprobe_for(trained.nlist, kind))


def search(
    index: Index, queries: np.ndarray, k: int, nprobe: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest vectors of each query over all parts: squared_distances (q,k) float32, ids (q,k) int64.

    queries: (q,d) uint8 or float32. nprobe: lists visited, 0 for the index's own number; all of them is an exact
    search if the codec is, and an index of one list always is. Nearest first, equal distances by id (which of several equal ones is in the
    k-th place is undefined); (inf, -1) where there are fewer than k. Raises ValueError for a wrong width or
    values that are not finite.
    """
    if not index.parts:
        raise ValueError("no index to search; build the library first")
    nprobe = nprobe or index.nprobe
    if k < 1 or nprobe < 1:
        raise ValueError(f"k and nprobe must be at least 1, got {k} and {nprobe}")
    queries = np.asarray(queries)
    step = _batch(index.trained)
    found = [
        _search_batch(
            index, _floats(queries[start : start + step], "queries", index.trained.d), k, nprobe
        )
        for start in range(0, len(queries), step)
    ]
    if not found:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    distances, ids = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return distances, ids


def merge_results(
    found: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of several results of `search` for the same queries, in the same order; exact."""
    if len(found) > 1:
        distances, ids = faiss.merge_knn_results(
            np.stack([d for d, _ in found]), np.stack([i for _, i in found])
        )
    else:
        distances, ids = found[0]
    distances[ids < 0] = np.inf
    order = np.lexsort((ids, distances))
    return np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)


def _search_batch(index: Index, batch: np.ndarray, k: int, nprobe: int):
    trained = index.trained
    if index.gpu is not None:
        return merge_results([index.gpu.search(batch, k, min(nprobe, trained.nlist))])
    if trained.nlist == 1:
        return merge_results([_scan(index, part, batch, k) for part in index.parts])
    nprobe = min(nprobe, trained.nlist)
    to_centres, lists = nearest_lists(trained, batch, nprobe)
    selector = _selector(index)
    parameters = faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)  # type: ignore[call-arg]
    found = []
    for part in index.parts:
        distances = np.empty((len(batch), k), np.float32)
        ids = np.empty((len(batch), k), np.int64)
        # Faiss's own wrapper of this call takes no parameters.
        arrays = [faiss.swig_ptr(array) for array in (lists, to_centres, distances, ids)]
        with _part_in_use:
            trained.replace_invlists(part.lists, False)
            trained.search_preassigned_c(
                len(batch), faiss.swig_ptr(batch), k, *arrays, False, parameters
            )
        found.append((distances, ids))
    return merge_results(found)


def _selector(index: Index) -> Any:
    """Which ids a search may find, None for all: not those removed, nor the -1 that fill a block."""
    removed = np.empty(0, np.int64) if index.removed is None else index.removed
    if isinstance(index.trained, faiss.IndexIVFPQFastScan):
        if not len(removed):
            return faiss.IDSelectorRange(0, np.iinfo(np.int64).max)
        removed = np.append(removed, -1)
    return faiss.IDSelectorNot(faiss.IDSelectorBatch(removed)) if len(removed) else None


def _scan(index: Index, part: Part, batch: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact search in the single list of a part, some vectors at a time."""
    distances = np.full((len(batch), k), np.inf, np.float32)
    ids = np.full((len(batch), k), -1, np.int64)
    kind = np.uint8 if part.code_size == index.trained.d else np.float32
    vectors = part.codes(0).view(kind).reshape(-1, index.trained.d)
    numbers = part.ids(0).view(np.int64)
    step = 1 << 16
    for start in range(0, len(vectors), step):
        some, own = vectors[start : start + step], numbers[start : start + step]
        if index.removed is not None and len(index.removed):
            kept = ~np.isin(own, index.removed)
            some, own = some[kept], own[kept]
        if not len(some):
            continue
        d, i = faiss.knn(batch, np.ascontiguousarray(some, np.float32), min(k, len(some)))
        d = np.pad(d, ((0, 0), (0, k - d.shape[1])), constant_values=np.inf)
        i = np.pad(own[i], ((0, 0), (0, k - i.shape[1])), constant_values=-1)
        distances, ids = faiss.merge_knn_results(np.stack([distances, d]), np.stack([ids, i]))
    return distances, ids


@contextmanager
def one_thread():
    """Faiss on one thread inside, for timings a core and for worker processes that share a machine."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


# ------------------------------------------------------------------------------------------ bytes


def to_bytes(trained: Any) -> bytes:
    """A trained and empty index as bytes for the store."""
    return faiss.serialize_index(trained).tobytes()


def from_bytes(data: bytes | mmap.mmap, name: str = "index") -> Any:
    """The trained index of `to_bytes`. Raises ValueError, naming `name`, for damaged or foreign bytes.

    Memory and loops of the reader are bounded by the size of the data, and an index whose lists are in another
    file is refused: reading one would open any path that it names.
    """
    at = data.find(b"ilod")
    while at >= 0:
        lists, code_size = struct.unpack("<QQ", data[at + 4 : at + 20].ljust(16, b"\xff"))
        if lists < 1 << 32 and code_size < 1 << 20:
            raise ValueError(f"{name}: keeps its lists in another file; that is refused")
        at = data.find(b"ilod", at + 1)
    faiss.set_deserialization_vector_byte_limit(len(data) * 4 + (1 << 20))
    faiss.set_deserialization_loop_limit((1 << 20) + len(data))
    view = np.frombuffer(data, np.uint8)
    try:
        index = faiss.read_index(_reader(view), faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"{name}: not a readable Faiss index: {_last_line(error)}") from None
    if not isinstance(index, faiss.IndexIVF):
        raise ValueError(
            f"{name}: a {type(index).__name__} is no index of a library; build it again"
        )
    # The mapped file must live as long as the index that points into it.
    add_to_referenced_objects(index, view)
    if isinstance(index, faiss.IndexIVFPQ | faiss.IndexIVFPQFastScan):
        index.use_precomputed_table = _NO_TABLE
    return index


def _reader(view: np.ndarray) -> Any:
    reader = faiss.ZeroCopyIOReader  # type: ignore[attr-defined]  # missing in Faiss's stub
    return reader(faiss.swig_ptr(view), view.size)


def _floats(vectors: np.ndarray, name: str, width: int | None = None) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, np.float32)
    if vectors.ndim != 2 or (width is not None and vectors.shape[1] != width):
        raise ValueError(f"{name}: expected shape (n, {width or 'd'}), got {vectors.shape}")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ValueError(f"{name}: row {row} holds a value that is not finite")
    return vectors


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
