"""A small run and library that the stages may write to, and one worker process for all of them."""

from __future__ import annotations

import shutil

import pytest

from imgfp import store
from imgfp.runner import cluster


@pytest.fixture(scope="session")
def address():
    with cluster.processes(1) as started:
        yield started


@pytest.fixture
def sides(hostile_run, tmp_path) -> tuple[store.Run, store.Library]:
    """A copy of `hostile_run` and its library; the original images are where they were."""
    for name in ("run", "library"):
        shutil.copytree(hostile_run.parent / name, tmp_path / name)
    return store.Run(tmp_path / "run"), store.Library(tmp_path / "library")
