# SPDX-License-Identifier: AGPL-3.0-or-later
"""A project with finished, unfinished and broken runs, and the app that serves it from a thread."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from imgfp import store
from imgfp.app.server import application
from imgfp.app.sources import Shelf
from imgfp.results import Results
from imgfp.results.duplicates import find_duplicates

TOKEN = "the token of these tests"


@pytest.fixture(scope="session")
def lay_out(tmp_path_factory, self_search) -> Callable[[Path], Path]:
    """Makes a project of the folder of a library and a run: runs/mine, library/mine, runs/lost without a library,
    runs/going, and runs/self, which has searched a folder in itself."""
    return lambda batch: _project(tmp_path_factory.mktemp("project"), batch, self_search)


def _project(root: Path, batch: Path, self_search: Path) -> Path:
    (root / "params").mkdir()
    (root / "params/mine.yaml").write_text("seed: 0  # of every random choice\n")
    shutil.copytree(batch / "library", root / "library/mine")
    for name in ("mine", "lost"):
        shutil.copytree(batch / "run", root / "runs" / name)
    for name, library in (("mine", "library/mine"), ("lost", "library/elsewhere")):
        values = f"library_dir: {library}\nrun_dir: runs/{name}\n"
        store.write_sealed(root / f"runs/{name}/params.yaml", values.encode())
    shutil.copytree(self_search, root / "runs/self")
    found = find_duplicates(Results(self_search)).members
    store.write_sheet(root / "runs/self/duplicates.csv", found)
    stages = {"01_images": {"state": "ok"}, "02_local_features": {"state": "running"}}
    going = store.Run(root / "runs/going")
    going.notebooks.mkdir(parents=True)
    status = {"stages": stages, "left_s": 7200, "left_at": time.time()}
    store.write_sealed(going.status_json, json.dumps(status).encode())
    return root


@pytest.fixture(scope="module")
def served(project) -> Iterator[int]:
    """The port of the app, opened on runs/mine, for a reviewer Ada of the environment."""
    ready: Queue = Queue()

    async def serve() -> None:
        server = HTTPServer(application(Shelf(project / "runs/mine"), TOKEN))
        (socket,) = sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        stop = asyncio.Event()
        ready.put((socket.getsockname()[1], asyncio.get_running_loop(), stop))
        await stop.wait()
        server.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setenv("IMGFP_REVIEWER", "Ada")
        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        port, loop, stop = ready.get(timeout=60)
        yield port
        loop.call_soon_threadsafe(stop.set)
        thread.join()
