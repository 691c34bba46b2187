# SPDX-License-Identifier: AGPL-3.0-or-later
"""What `imgfp lab` and `imgfp app` serve is for the one who started them."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("jupyterlab", reason="the extra lab is not installed")
from imgfp.__main__ import main
from imgfp.runner import serving

SECRET = "what a page shows"
STYLE = "color-scheme"  # what the style of the app says


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name in ("params", "notebooks"):
        (folder / name).mkdir()
    cell = nbformat.v4.new_code_cell(f"print({SECRET!r})")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
    nbformat.write(notebook, folder / "notebooks/01_images.ipynb")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "CONFIG").mkdir()
    # The tests may run as root, which Jupyter refuses unless it is told.
    (folder / "CONFIG/jupyter_server_config.json").write_text('{"ServerApp": {"allow_root": true}}')
    return folder


def listens(port: int) -> bool:
    """Whether the server takes connections, which it does after it has written its address."""
    with socket.socket() as end:
        return end.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module", params=["app", "lab"])
def served(request, project):
    """What is served, its port and its token."""
    own = {f"JUPYTER_{name}_DIR": str(project / name) for name in ("CONFIG", "RUNTIME", "DATA")}
    with open(project / f"{request.param}.log", "w+") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "imgfp", request.param],
            cwd=project,
            env=os.environ | own | {"BROWSER": "true"},
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + 240  # a busy machine is slow, not broken
            while not (
                (
                    found := re.search(
                        r"http://127\.0\.0\.1:(\d+)/\S*\?token=(\w+)",
                        Path(log.name).read_text(),
                    )
                )
                and listens(int(found[1]))
            ):
                assert server.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < deadline, Path(log.name).read_text()
                time.sleep(0.1)
            yield request.param, int(found[1]), found[2]
        finally:
            server.terminate()
            server.wait(120)


def ask(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=240)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        text = "" if answer.status == 101 else answer.read().decode(errors="replace")
        return answer.status, dict(answer.headers), text
    finally:
        connection.close()


def page(what: str) -> str:
    return "/static/app.css" if what == "app" else "/api/contents/notebooks/01_images.ipynb"


def test_without_the_token_there_is_nothing_but_a_login(served):
    what, port, token = served
    status, _, text = ask(port, page(what))
    assert status == 403
    assert SECRET not in text and STYLE not in text and token not in text
    for path in ("/api/kernels/6c4bd3c4-0000-0000-0000-000000000000", "/voila/files/picture.png"):
        assert ask(port, path)[0] in (302, 403, 404)


def test_another_host_is_refused_even_with_the_token(served):
    what, port, token = served
    given = {"Authorization": f"token {token}"}
    for host in ("evil.example", f"evil.example:{port}", "192.0.2.7"):
        status, _, text = ask(port, page(what), Host=host, **given)
        assert status == 403 and SECRET not in text
    assert ask(port, page(what), Host=f"localhost:{port}", **given)[0] == 200


def test_who_has_the_token_sees_the_page(served):
    what, port, token = served
    status, headers, text = ask(port, f"{page(what)}?token={token}")
    if what == "app":  # the token goes out of the address, into a cookie
        assert status == 302 and headers["Location"] == page(what)
        status, _, text = ask(port, page(what), Cookie=headers["Set-Cookie"].partition(";")[0])
    assert status == 200 and (STYLE if what == "app" else SECRET) in text
    if what == "app":
        text = ask(port, "/look", Authorization=f"token {token}")[2]
        assert "this project has no run and no library yet" in text


def test_it_listens_on_this_machine_only(served):
    import psutil

    _, port, _ = served
    listening = [c for c in psutil.net_connections("tcp") if c.status == "LISTEN"]
    assert {c.laddr.ip for c in listening if c.laddr.port == port} == {"127.0.0.1"}


def test_kernels_are_bounded(monkeypatch):
    from tornado.web import HTTPError

    async def start(self, **_options) -> str:
        await asyncio.sleep(0)
        self._kernels[str(len(self))] = None
        return str(len(self))

    async def open_many() -> list:
        asked = [kernels.start_kernel() for _ in range(serving.MAX_KERNELS + 4)]
        return await asyncio.gather(*asked, return_exceptions=True)

    monkeypatch.setattr(serving.AsyncMappingKernelManager, "start_kernel", start)
    kernels = serving.BoundedKernels()
    answers = asyncio.run(open_many())
    refused = [answer for answer in answers if isinstance(answer, HTTPError)]
    assert len(kernels) == serving.MAX_KERNELS and len(refused) == 4
    assert {error.status_code for error in refused} == {503}
    kernels._kernels.clear()
    assert asyncio.run(kernels.start_kernel())


def test_a_folder_without_notebooks_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "params").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["lab"]) == 2
    assert "imgfp init" in capsys.readouterr().err
    assert main(["app", "params"]) == 2
    assert "params is neither a run nor a library" in capsys.readouterr().err
