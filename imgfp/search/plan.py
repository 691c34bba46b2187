# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an index will cost before it is built: bytes, processor time, lost candidates. Numbers in, numbers out.

Times are of one thread. The model counts what a search does: it compares a vector with centres of lists, prepares
each list that it visits, and compares it with the codes in them; the price of each is measured
(`benchmarks.planning`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log10

from imgfp.search import blocks, index
from imgfp.search.index import Kind

#: Candidate recall of the local branch that each tenfold of the library costs, on the safe side of what was measured
#: from 60 to 10,362 different photographs. Where the library holds each about thirteen times it was 0.011, at
#: 100,000: see docs/scale.md.
LOSS_PER_TENFOLD = 0.005
#: Bytes that an index keeps of a list beside its codes, and of a centre beside its numbers.
_LIST_BYTES, _CENTRE_BYTES = 8, 16
#: Codes that fill the last block of a list, where lists are scanned in blocks.
_FILLED = blocks.BLOCK // 2
#: Rounds over the training sample: those of k-means, once for the clusters of centres and once inside them.
_TWO_LEVELS = 2
#: What tables of a vector and exact comparisons with a few centres take, in comparisons with codes.
_CENTRES_AT_LEAST = 3000


@dataclass(frozen=True)
class CodecCost:
    """Processor time of one codec: microseconds to prepare a visited list, nanoseconds per code in it,
    microseconds to encode a vector whose list is known, seconds to train."""

    list_us: float
    code_ns: float
    encode_us: float
    train_s: float


@dataclass(frozen=True)
class SearchCost:
    """Processor time of a search by vectors of one kind.

    centre_ns: of one comparison with a centre where all of them are compared; coded_centre_ns: with the code of one, see
    `coded_comparisons`; uneven: codes in a visited list relative to the mean list; codecs: by name, the last part of a
    factory string.
    """

    centre_ns: float
    coded_centre_ns: float
    uneven: float
    codecs: Mapping[str, CodecCost]


@dataclass(frozen=True)
class IndexPlan:
    """An index that is to be built.

    factory: resolved; vectors: how many of `width` numbers; lists, visited: lists in all and per search;
    vector_bytes: of one vector on disk, with its id.
    """

    kind: Kind
    factory: str
    vectors: int
    width: int
    lists: int
    visited: int
    vector_bytes: int

    @property
    def codec(self) -> str:
        return self.factory.rpartition(",")[2]

    @property
    def bytes(self) -> int:
        """Of all parts, on disk; a search reads all of them, so they should be in memory."""
        filled = _FILLED * self.vector_bytes if self.codec.endswith("fsr") else 0
        return self.vectors * self.vector_bytes + self.lists * (_LIST_BYTES + filled)

    @property
    def trained_bytes(self) -> int:
        """Of the centres, which every process holds."""
        codes = self.width // 4 + _CENTRE_BYTES if self.lists > index.MOST_FLAT_LISTS else 0
        return self.lists * (4 * self.width + _CENTRE_BYTES + codes)


def plan_index(
    vectors: int, kind: Kind, width: int, factory: str = "auto", nprobe: int = 0
) -> IndexPlan:
    """The index of `vectors` vectors. factory, nprobe: what the user asks for, "auto" and 0 for the plan's own.
    Raises ValueError for a factory string that is not supported."""
    chosen = index.resolve(factory, vectors, kind)
    lists = index.lists_of_factory(chosen)
    visited = min(nprobe or index.nprobe_for(lists, kind), lists)
    size = index.vector_bytes(chosen, width, kind)
    return IndexPlan(kind, chosen, vectors, width, lists, visited, size)


def search_s(plan: IndexPlan, cost: SearchCost, machines: int = 1, parts: int = 1) -> float:
    """Processor time in seconds of one search by a vector, over all machines: each finds the nearest lists for its own
    share of the parts, and prepares them for every part. Raises ValueError for a codec that was not measured."""
    codec = _codec(plan, cost)
    if plan.lists == 1:
        return 1e-9 * plan.vectors * codec.code_ns
    share = min(1.0, plan.visited / plan.lists * cost.uneven)
    centres = machines * _centre_s(plan.lists, cost)
    tables = 1e-6 * max(parts, machines) * plan.visited * codec.list_us
    return centres + tables + 1e-9 * plan.vectors * share * codec.code_ns


def add_s(plan: IndexPlan, cost: SearchCost) -> float:
    """Processor time in seconds to add one vector."""
    return _centre_s(plan.lists, cost) + 1e-6 * _codec(plan, cost).encode_us


def train_s(plan: IndexPlan, cost: SearchCost) -> float:
    """Processor time in seconds to train the index."""
    if plan.lists == 1:
        return 0.0
    sample = min(index.training_size(plan.factory), plan.vectors)
    compared = plan.lists
    if plan.lists > index.MOST_FLAT_LISTS:
        compared = _TWO_LEVELS * round(plan.lists**0.5)
    rounds = index.TRAINING_ROUNDS * sample * compared * 1e-9 * cost.centre_ns
    return rounds + _codec(plan, cost).train_s


def coded_comparisons(lists: int) -> float:
    """Comparisons of a vector with codes of centres that it takes to find its nearest lists, where the centres have an
    index of their own."""
    clusters = 2 * lists**0.5
    return clusters + index.CENTRE_PROBES * lists / clusters + _CENTRES_AT_LEAST


def expected_recall(measured: float, at_images: int, images: int) -> float:
    """Candidate recall among `images` references, from that measured among `at_images`, by `LOSS_PER_TENFOLD`."""
    tenfolds = max(0.0, log10(max(images, 1) / max(at_images, 1)))
    return max(0.0, measured - LOSS_PER_TENFOLD * tenfolds)


def refusal(
    plan: IndexPlan,
    *,
    memory_bytes: float,
    disk_bytes: float,
    written_bytes: float,
    machines: int = 1,
    processes: int = 1,
) -> str:
    """Why this index cannot be built and searched, in one line with the sizes; blank if it can.

    memory_bytes: free on one machine, which holds its share of the parts, and the centres once for each of its processes;
    disk_bytes: free; written_bytes: what a build writes before it deletes anything.
    """
    needed = plan.bytes / machines + processes * plan.trained_bytes
    what = f"{plan.kind} index {plan.factory} of {plan.vectors:,} vectors"
    if needed > memory_bytes:
        where = "on each machine" if machines > 1 else "on one machine"
        return (
            f"{what} needs {_size(needed)} of memory {where}, {_size(memory_bytes)} are free; "
            f"{_smaller(plan)}more machines (cluster=tls://...), or fewer references"
        )
    if written_bytes > disk_bytes:
        return (
            f"{what} writes {_size(written_bytes)} while it is built, {_size(disk_bytes)} of disk are free; "
            f"{_smaller(plan)}another disk (library_dir=...), or fewer references"
        )
    return ""


def _codec(plan: IndexPlan, cost: SearchCost) -> CodecCost:
    if plan.codec not in cost.codecs:
        raise ValueError(
            f"{plan.factory} was not measured; measure it: imgfp run PROFILE {plan.kind}_index={plan.factory} --plan"
        )
    return cost.codecs[plan.codec]


def _smaller(plan: IndexPlan) -> str:
    """A codec that takes less, if there is one."""
    codes = {"local": index.PRODUCT_CODEC, "global": "SQfp16"}[plan.kind]
    lists = plan.lists if plan.lists > 1 else index.lists_for(plan.vectors, plan.kind)
    less = plan_index(plan.vectors, plan.kind, plan.width, f"IVF{lists},{codes}")
    if less.vector_bytes >= plan.vector_bytes:
        return "take "
    return f"take {plan.kind}_index={less.factory} ({_size(less.bytes)}), "


def _size(count: float) -> str:
    power = min(4, max(0, int(log10(max(count, 1)) // 3)))
    return f"{count / 1000**power:,.1f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _centre_s(lists: int, cost: SearchCost) -> float:
    """Seconds to find the nearest centres of lists for one vector."""
    if lists == 1:
        return 0.0
    if lists <= index.MOST_FLAT_LISTS:
        return 1e-9 * lists * cost.centre_ns
    return 1e-9 * coded_comparisons(lists) * cost.coded_centre_ns
