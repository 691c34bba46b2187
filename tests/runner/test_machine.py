# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import os
import shutil

import psutil
import pytest

from imgfp.runner import machine


def test_this_machine(tmp_path):
    here = machine.this_machine(tmp_path / "not/yet/there")
    assert here.cores == os.cpu_count()
    assert 0 < here.memory_bytes <= psutil.virtual_memory().total
    assert here.disk_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)


@pytest.mark.parametrize(("limit", "bounded"), [("1000000\n", True), ("max\n", False)])
def test_a_container_may_have_less_memory(tmp_path, monkeypatch, limit, bounded):
    (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(machine, "_LIMIT", tmp_path / "memory.max")
    assert (machine.this_machine(tmp_path).memory_bytes == 1_000_000) is bounded


def test_gpus_are_named(tmp_path, monkeypatch):
    folder = tmp_path / "0000:01:00.0"
    folder.mkdir()
    (folder / "information").write_text("Model: \t\t Fast 100\nIRQ: 5\n")
    monkeypatch.setattr(machine, "_GPUS", tmp_path)
    assert machine.this_machine(tmp_path).gpus == ("Fast 100",)
