# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures that many tests use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of processes that share the files of tests, none should be left alone with the longest."""
    if hasattr(config, "workerinput"):  # pytest-xdist's
        longest = ("pipeline", "install", "browser")
        items.sort(key=lambda item: not any(map(item.get_closest_marker, longest)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of development data beside the repository; tests that need it skip without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the development data (../shared) is not here")
    return folder


@pytest.fixture(scope="session")
def isc2021(shared) -> Path:
    """Files of the 2021 challenge and results of the 2021 system. Tests that need them skip without
    them; each has a sibling that runs on small generated files."""
    folder = shared / "isc2021"
    if not folder.is_dir():
        pytest.skip("the files of 2021 (../shared/isc2021) are not here")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def in_process():
    """A cluster of one worker that is a thread of this process, where stand-ins reach it."""
    import dask
    from distributed import LocalCluster

    from imgfp.runner import cluster

    plain = {"distributed.comm.require-encryption": False}
    with (
        dask.config.set(plain),
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=False,
            protocol="tcp",
            host="127.0.0.1",
            dashboard_address=None,
        ) as started,
    ):
        yield cluster.trusted(started.scheduler_address, insecure_cluster=True)


@pytest.fixture(autouse=True)
def plain_in_process(request):
    """A test with `in_process` speaks to it also where another cluster of the session has asked for encryption since."""
    if "in_process" not in request.fixturenames:
        yield
        return
    import dask

    with dask.config.set({"distributed.comm.require-encryption": False}):
        yield


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A real photograph, (427,640,3) uint8 RGB, that ships with scikit-learn."""
    from sklearn.datasets import load_sample_image

    return _frozen(load_sample_image("china.jpg"))


@pytest.fixture(scope="session")
def other_photograph() -> np.ndarray:
    """Another real photograph, (427,640,3) uint8 RGB, of a flower."""
    from sklearn.datasets import load_sample_image

    return _frozen(load_sample_image("flower.jpg"))


def _frozen(image: np.ndarray) -> np.ndarray:
    """A copy that no test can change for those after it."""
    image = np.array(image)
    image.setflags(write=False)
    return image


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """The folder of a small finished run with truth and plain ids; its library is beside it. Look, do
    not write: copy `finished_run.parent` to change something."""
    import small_run

    return small_run.build(tmp_path_factory.mktemp("finished"), hostile=False)


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory) -> Path:
    """The same run with ids that try to be markup, script, mathematics or another line."""
    import small_run

    return small_run.build(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="session")
def calibrated_run(tmp_path_factory) -> Path:
    """The run of `finished_run`, scored as probabilities by the fusion model that ships."""
    import small_run

    folder = tmp_path_factory.mktemp("calibrated")
    return small_run.build(folder, hostile=False, rule="calibrated")


@pytest.fixture(scope="session")
def self_search(tmp_path_factory) -> Path:
    """The folder of a run that has searched a folder in itself; its library is beside it. Look, do not write."""
    import small_run

    return small_run.build_self_search(tmp_path_factory.mktemp("self"))


def blobs(seed: int) -> np.ndarray:
    """A picture that no other shows, (320,480,3) uint8 RGB."""
    import cv2

    small = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
    return cv2.resize(small, (480, 320), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session")
def whole_batch(photograph, other_photograph, in_process, tmp_path_factory) -> Path:
    """references/, queries/, and the library/ and run/ that notebooks 01 to 09 made of them. Look, do not write."""
    import whole_run
    from PIL import Image

    root = tmp_path_factory.mktemp("batch")
    for name in ("references", "queries"):
        (root / name).mkdir()
    references = {"china": photograph, "flower": other_photograph, "blobs": blobs(1)}
    for name, image in references.items():
        Image.fromarray(image).save(root / "references" / f"{name}.png")
    queries = {
        "crop": photograph[40:400, 60:600],
        "mirrored": other_photograph[:, ::-1],
        "stranger": blobs(2),
    }
    for name, image in queries.items():
        Image.fromarray(image).save(root / "queries" / f"{name}.jpg", quality=80)
    whole_run.execute(root, root / "references", root / "queries", in_process)
    return root
