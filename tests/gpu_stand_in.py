# SPDX-License-Identifier: AGPL-3.0-or-later
"""Faiss's CPU indexes in the place of its GPU ones."""

from __future__ import annotations

import types

import faiss
import pytest

from imgfp.search import gpu

GB = 10**9


class StandIn:
    """What Faiss offers where it is built for GPUs. moved: (GPU, type of the index, half floats?) of each copy."""

    def __init__(self, count: int):
        self.count, self.free, self.moved = count, 80 * GB, []

    def index_cpu_to_gpu(self, resources, number, held, options):
        assert isinstance(resources, self.Resources) and options.use_cuvs is False
        assert 0 <= number < self.count
        self.moved.append((number, type(held).__name__, options.useFloat16))
        if isinstance(held, faiss.IndexFlatL2) and options.useFloat16:
            assert held.ntotal == 0
            return faiss.IndexScalarQuantizer(held.d, faiss.ScalarQuantizer.QT_fp16)
        if isinstance(held, faiss.IndexIVF):
            assert type(faiss.downcast_index(held.quantizer)) is faiss.IndexFlatL2
            assert held.quantizer.ntotal == held.nlist
        return faiss.clone_index(held)

    class Resources:
        pass


def install(monkeypatch: pytest.MonkeyPatch, count: int) -> StandIn:
    """Let Faiss offer so many GPUs of 80 GB."""
    made = StandIn(count)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: made.count)
    monkeypatch.setattr(faiss, "StandardGpuResources", StandIn.Resources, raising=False)
    monkeypatch.setattr(faiss, "GpuClonerOptions", types.SimpleNamespace, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", made.index_cpu_to_gpu, raising=False)
    monkeypatch.setattr(gpu, "free_bytes", lambda number: made.free)
    return made
