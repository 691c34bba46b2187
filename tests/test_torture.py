# SPDX-License-Identifier: AGPL-3.0-or-later
"""A small sample of `make torture`."""

from __future__ import annotations

import random

import pandas as pd
import torture
import torture_kills
from small_run import made_with

from imgfp import store


def test_a_small_sample(tmp_path):
    store.save(tmp_path / "run/images/shard-00000.parquet", pd.DataFrame({"x": [1]}), made_with())
    store.write_sealed(tmp_path / "run/status.json", b'{"stages": {}}')
    assert torture.damage(tmp_path / "run", 20, random.Random(0)) == (80, [])
    assert torture.hostile_ids(tmp_path, 500, random.Random(0)) == []
    assert torture.kill_writers(tmp_path, 2, random.Random(0)) == []


def test_killed_workers_change_no_byte_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torture_kills.tempfile, "tempdir", str(tmp_path.parent))
    torture_kills.make_corpus(tmp_path, 2)
    undisturbed = torture_kills.DisturbedRun(tmp_path, "undisturbed", "01")
    assert undisturbed.start().wait() == 0, undisturbed.said()
    wanted = torture_kills.results_of(undisturbed.folder)
    assert len(wanted) > 5
    assert torture_kills.trial(tmp_path, "killed", 1, wanted, ["worker"], "01") == []


def test_damage_that_verify_does_not_see_is_told(tmp_path, monkeypatch):
    store.write_sealed(tmp_path / "status.json", b'{"stages": {}}')
    monkeypatch.setattr(torture.integrity, "damage_of", lambda *_: None)
    trials, unseen = torture.damage(tmp_path, 5, random.Random(0))
    assert trials == 10 and len(unseen) > 5 and "status.json: " in unseen[-1]
