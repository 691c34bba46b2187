# SPDX-License-Identifier: AGPL-3.0-or-later
"""A library's index on GPUs, by a Faiss that is built for them.

An exact index (one list, "Flat") becomes half floats, an equal share of the vectors on every GPU; bytes of SIFT
are exact in them. An index of lists goes to one GPU with its codes as they are; two codes of 4 bits count as one of 8.
Its lists are found there by an exact scan of their centres, where a CPU asks an index of many centres, and a CPU
compares codes of 4 bits with tables of bytes, so results are not equal to the last bit. Parts are copied in; vectors that are no longer found are left out.

`search_device` decides before any work, in the process that plans it; `to_gpu` is for the processes that search.
A GPU holds one copy per process, so one process should search. Tested against stand-ins on a CPU; not yet run
on a GPU.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import faiss
import numpy as np

from imgfp.inference import device_number, warn_of_cpu

#: Most neighbours, and most lists visited, that Faiss selects on a GPU.
MOST_SELECTED = 2048
#: Left free on each GPU for the CUDA context and Faiss's scratch memory, 1.5 GB on most.
RESERVED_BYTES = 2 << 30
#: Bytes of a product code for which Faiss has a kernel.
PQ_BYTES = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 48, 56, 64, 96)
#: Above this number of bytes of a code, lookup tables fit into a GPU's shared memory only as half floats.
_PQ_FLOAT32 = 48
_SCALAR = ("QT_8bit", "QT_8bit_direct", "QT_4bit", "QT_fp16")
_CHUNK = 1 << 16


class Lists(Protocol):
    """What is needed of `index.Part`: sizes (lists,) int64, and the codes and ids of a list as bytes."""

    @property
    def sizes(self) -> np.ndarray: ...

    @property
    def code_size(self) -> int: ...

    def codes(self, number: int) -> np.ndarray: ...

    def ids(self, number: int) -> np.ndarray: ...


def gpus() -> int:
    """GPUs that the installed Faiss can use; 0 for faiss-cpu."""
    count = getattr(faiss, "get_num_gpus", lambda: 0)()
    return count if hasattr(faiss, "StandardGpuResources") else 0


def search_device(trained: Any, vectors: int, device: str, k: int, nprobe: int) -> str:
    """What a search for `k` neighbours in an index of so many vectors runs on: "cpu", "cuda" or "cuda:<number>".

    trained: of `index.train`; device: see `imgfp.inference`; nprobe: lists visited. Warns in one line where a GPU
    is there but cannot hold or search this index, or where a demanded one is not there.
    """
    if device == "cpu":
        return "cpu"
    count = gpus()
    if device_number(device) >= count:
        if device != "auto":
            warn_of_cpu(device, "the search", f"Faiss sees {count} GPUs; faiss-gpu may see more")
        return "cpu"
    chosen = "cuda" if device == "auto" else device
    obstacle = _limit(trained, k, nprobe) or shortage(trained, vectors, chosen)
    if obstacle:
        warn_of_cpu(device, "the search", obstacle)
        return "cpu"
    return chosen


@dataclass(frozen=True)
class GpuIndex:
    """An index that lies on GPUs. held: Faiss's index; ids (n,) int64 of its vectors, None where it knows them."""

    held: Any
    ids: np.ndarray | None = None
    #: Faiss's resources of a GPU serve one thread at a time.
    _in_use: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def search(self, queries: np.ndarray, k: int, nprobe: int) -> tuple[np.ndarray, np.ndarray]:
        """squared_distances (q,k) float32 and ids (q,k) int64 of the nearest to queries (q,d) float32; id -1 where
        there are fewer. nprobe means nothing to an exact index. Raises RuntimeError in one line where Faiss
        cannot."""
        with self._in_use, _in_one_line("search on the GPU"):
            if self.ids is not None:
                distances, rows = self.held.search(queries, k)
                return distances, np.where(rows < 0, -1, self.ids[rows])
            parameters = faiss.SearchParametersIVF(nprobe=nprobe)  # type: ignore[call-arg]
            return self.held.search(queries, k, params=parameters)


def to_gpu(
    trained: Any, parts: Sequence[Lists], removed: np.ndarray | None, device: str
) -> GpuIndex:
    """Copy an index to the GPUs that `search_device` has chosen.

    trained, parts and removed as in `index.Index`. Takes main memory meanwhile: 4 bytes per number of a vector for
    the share of one GPU, or once the codes and ids. Raises RuntimeError in one line where Faiss cannot.
    """
    if device_number(device) >= gpus():
        raise RuntimeError(
            f"device {device}: Faiss sees {gpus()} GPUs in this process; set device: cpu"
        )
    removed = np.empty(0, np.int64) if removed is None else np.sort(removed)
    numbers = _numbers(trained, device)
    with _in_one_line("copy the index to the GPU"):
        if trained.nlist == 1:
            return _exact(trained.d, parts, removed, numbers)
        return GpuIndex(_moved(_filled(trained, parts, removed), numbers[0], _needs_half(trained)))


@contextmanager
def _in_one_line(work: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][-200:]
        raise RuntimeError(f"Faiss could not {work}: {reason}; set device: cpu") from None


# -------------------------------------------------------------------------------------- obstacles


def _limit(trained: Any, k: int, nprobe: int) -> str:
    """Why Faiss cannot search this index on a GPU; blank where it can."""
    if k > MOST_SELECTED:
        return f"{k:,} neighbours; a GPU finds at most {MOST_SELECTED:,}"
    if trained.nlist == 1:
        return ""
    if min(nprobe, trained.nlist) > MOST_SELECTED:
        return f"{nprobe:,} lists visited; a GPU visits at most {MOST_SELECTED:,}"
    if isinstance(trained, faiss.IndexIVFPQFastScan):
        if trained.pq.M % 2 or trained.pq.M // 2 not in PQ_BYTES:
            return f"no GPU code for PQ{trained.pq.M}x4fsr"
    elif isinstance(trained, faiss.IndexIVFPQ):
        if trained.pq.nbits != 8 or trained.pq.M not in PQ_BYTES:
            return (
                f"no GPU code for PQ{trained.pq.M}x{trained.pq.nbits}; "
                f"8 bits and {', '.join(map(str, PQ_BYTES))} bytes have one"
            )
    elif isinstance(trained, faiss.IndexIVFScalarQuantizer):
        kinds = [getattr(faiss.ScalarQuantizer, name) for name in _SCALAR]
        if trained.sq.qtype not in kinds:
            return (
                "no GPU code for SQ6 and SQbf16; Flat, SQ8, SQ8_direct, SQ4, SQfp16 and PQ have one"
            )
    return ""


def shortage(trained: Any, vectors: int, device: str) -> str:
    """Which GPU has too little free memory for its share of so many vectors; blank where all have enough."""
    numbers = _numbers(trained, device)
    if trained.nlist == 1:
        needed = -(-vectors // len(numbers)) * (2 * trained.d + 4)  # with its squared length
    else:
        needed = vectors * (trained.code_size + 8) + trained.nlist * trained.d * 4
    for number in numbers:
        free = free_bytes(number) - RESERVED_BYTES
        if needed > free:
            return (
                f"needs {needed / 1e9:.1f} GB on GPU {number}, which has {max(free, 0) / 1e9:.1f} GB "
                "free for it"
            )
    return ""


def free_bytes(number: int) -> int:
    """Free memory of a CUDA device, from NVIDIA's driver; 0 where the driver does not tell."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    # The first that fails ends the row; every call returns 0 for success.
    if (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), number)
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    ):
        return 0
    try:
        if driver.cuCtxPushCurrent_v2(context):
            return 0
        failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
        return 0 if failed else free.value
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)


# ------------------------------------------------------------------------------------------- copy


def _numbers(trained: Any, device: str) -> list[int]:
    """The GPUs that an index goes to: an exact one to all, unless one is named."""
    everywhere = trained.nlist == 1 and device == "cuda"
    return list(range(gpus())) if everywhere else [device_number(device)]


def _exact(d: int, parts: Sequence[Lists], removed: np.ndarray, numbers: Sequence[int]) -> GpuIndex:
    """All vectors as half floats, an equal share on each GPU.

    Faiss's own sharding wants all vectors as floats in main memory; here it is one share at a time, added in one
    piece, since a GPU index that grows takes its memory twice.
    """
    every = [part.ids(0).view(np.int64) for part in parts]
    ids = np.concatenate([own[_kept(own, removed)] for own in every])
    chunks = _chunks(d, parts, removed)
    bounds = np.linspace(0, len(ids), len(numbers) + 1).astype(np.int64)
    # GPUs are searched side by side, and rows are numbered on from one to the next.
    shards = faiss.IndexShards(d, True, True)  # type: ignore[call-arg]
    rest = np.empty((0, d), np.float32)
    for number, size in zip(numbers, np.diff(bounds), strict=True):
        share = np.empty((size, d), np.float32)
        filled = 0
        while filled < size:
            rest = rest if len(rest) else next(chunks)
            taken = rest[: size - filled]
            share[filled : filled + len(taken)] = taken
            filled, rest = filled + len(taken), rest[len(taken) :]
        shard = _moved(faiss.IndexFlatL2(d), number, half=True)
        shard.add(share)
        shards.add_shard(shard)
    return GpuIndex(shards, ids)


def _chunks(d: int, parts: Sequence[Lists], removed: np.ndarray) -> Iterator[np.ndarray]:
    """The vectors (n,d) of parts with one list, some at a time, without those of removed ids."""
    for part in parts:
        kind = np.uint8 if part.code_size == d else np.float32
        vectors, ids = part.codes(0).view(kind).reshape(-1, d), part.ids(0).view(np.int64)
        for start in range(0, len(ids), _CHUNK):
            rows = slice(start, start + _CHUNK)
            kept = vectors[rows][_kept(ids[rows], removed)]
            if len(kept):
                yield kept


def _filled(trained: Any, parts: Sequence[Lists], removed: np.ndarray) -> Any:
    """A CPU index with the vectors of all parts, in the plain form that Faiss copies to a GPU."""
    index = _emptied(trained)
    lists = index.invlists
    for part in parts:
        for number in np.flatnonzero(part.sizes).tolist():
            ids = part.ids(number).copy().view(np.int64)  # in the file it may begin at any byte
            codes = part.codes(number).reshape(-1, part.code_size)
            if len(removed):
                kept = _kept(ids, removed)
                ids, codes = ids[kept], codes[kept]
            lists.add_entries(number, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
            index.ntotal += len(ids)
    return index


def _emptied(trained: Any) -> Any:
    """The same index without vectors, its centres in a flat index."""
    d, nlist = trained.d, trained.nlist
    centres = faiss.IndexFlatL2(d)
    centres.add(trained.quantizer.reconstruct_n(0, nlist))
    index: Any
    if isinstance(trained, faiss.IndexIVFPQ | faiss.IndexIVFPQFastScan):
        pq = _of_bytes(trained.pq) if isinstance(trained, faiss.IndexIVFPQFastScan) else trained.pq
        index = faiss.IndexIVFPQ(centres, d, nlist, pq.M, pq.nbits)
        index.pq = pq
    elif isinstance(trained, faiss.IndexIVFScalarQuantizer):
        kind, residual = trained.sq.qtype, trained.by_residual
        index = faiss.IndexIVFScalarQuantizer(centres, d, nlist, kind, faiss.METRIC_L2, residual)
        index.sq = trained.sq
    else:
        index = faiss.IndexIVFFlat(centres, d, nlist)
    index.is_trained = True
    return index


def _of_bytes(halves: Any) -> Any:
    """The product quantiser of the same codes, read as bytes, in place of two half bytes each."""
    pairs = halves.M // 2
    centroids = faiss.vector_to_array(halves.centroids).reshape(pairs, 2, 16, halves.dsub)
    # The first of two is the low half.
    first, second = np.tile(centroids[:, 0], (1, 16, 1)), np.repeat(centroids[:, 1], 16, axis=1)
    made = faiss.ProductQuantizer(halves.d, pairs, 8)
    faiss.copy_array_to_vector(np.concatenate([first, second], 2).ravel(), made.centroids)
    return made


def _needs_half(trained: Any) -> bool:
    kinds = faiss.IndexIVFPQ | faiss.IndexIVFPQFastScan
    return isinstance(trained, kinds) and trained.code_size > _PQ_FLOAT32


def _moved(index: Any, number: int, half: bool) -> Any:
    options = faiss.GpuClonerOptions()  # type: ignore[attr-defined]
    options.useFloat16 = half
    options.use_cuvs = False  # which would want other layouts
    resources = faiss.StandardGpuResources()  # type: ignore[attr-defined]
    return faiss.index_cpu_to_gpu(resources, number, index, options)  # type: ignore[attr-defined]


def _kept(ids: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Mask (n,) of the ids that are not among `removed`, which is sorted."""
    if not len(removed):
        return np.ones(len(ids), bool)
    at = np.minimum(np.searchsorted(removed, ids), len(removed) - 1)
    return removed[at] != ids
