# SPDX-License-Identifier: AGPL-3.0-or-later
"""Synthetic shards are taken by the stages for their own: nothing is computed again when they are listed."""

from __future__ import annotations

import numpy as np

from imgfp import store
from imgfp.benchmarks import million


def test_synthetic_references_are_listed_added_and_removed(tmp_path):
    world = million.World(tmp_path, 1100, 2, queries=5, exact=1, workers=1, seed=0)
    every = np.arange(world.references + million.CHANGED)

    def listed(numbers):
        million.write_manifest(world, numbers)
        assert million.list_references(world) == f"0 computed, {len(numbers):,} reused, 0 refused"
        assert all(said.startswith("0 computed") for said in million.extract(world).split(" and "))
        return store.open_catalogue(world.library)

    million.write_references(world, 0, world.references)
    listed(every[: world.references])
    million.write_queries(world, "batch")
    asked = world.asked("batch")
    ids = store.open_catalogue(world.run("batch")).ids_at(np.arange(len(asked)))
    assert sorted(ids) == sorted(f"copy of {million.reference_id(number)}" for number in asked)

    million.write_references(world, world.references, len(every))
    assert len(listed(every)) == len(every)
    kept = listed(np.setdiff1d(every, world.removed))
    assert million.reference_id(int(world.removed[0])) not in kept and len(kept) == 1100
