# SPDX-License-Identifier: AGPL-3.0-or-later
"""The server of the app: on loopback, for who has the token, under no other site's name."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import webbrowser

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from imgfp import store
from imgfp.app import pages
from imgfp.app.shell import Desk
from imgfp.app.sources import Shelf

#: The port that is tried first; where it is taken, the system gives one.
PORT = 8866
#: Bytes of one request: all pictures that are dropped at once.
MAX_REQUEST_BYTES = 256 * 2**20


def application(shelf: Shelf, token: str) -> Application:
    """The pages of the app, for who shows the token."""
    return Application(pages.ROUTES, desk=Desk(shelf, token), default_handler_class=pages.Missing)


def serve(folder: str = "", port: int = 0, *, show: str = "") -> None:
    """Serve the app until it is stopped. folder: a run or library to open first; port: 0 for `PORT` or any free one;
    show: a tab that is opened in the browser of the user, a key of `shell.TABS`; "" only prints the address. Raises
    StoreError for a folder that is neither, and for a port that is taken."""
    given = store.project_path(folder) if folder else None
    shelf = Shelf(given)
    token = secrets.token_hex(24)
    asyncio.run(_serve(shelf, token, port, show))


async def _serve(shelf: Shelf, token: str, port: int, show: str) -> None:
    served = application(shelf, token)
    server = HTTPServer(served, max_buffer_size=MAX_REQUEST_BYTES)
    sockets = _listening(port)
    server.add_sockets(sockets)
    place = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/{show}?token="
    print(f"imgfp app: open {place}{token}\nStop it with Ctrl-C.", flush=True)
    if show and _has_windows():
        ticket = served.settings["desk"].ticket()
        await asyncio.get_running_loop().run_in_executor(None, webbrowser.open, place + ticket)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    server.stop()


def _has_windows() -> bool:
    """Whether a browser would open a window. On a plain terminal it would take the terminal."""
    return sys.platform == "darwin" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def _listening(port: int) -> list:
    for tried in (port,) if port else (PORT, 0):
        try:
            return bind_sockets(tried, "127.0.0.1")
        except OSError as error:
            reason = error.strerror
    raise store.StoreError(f"port {port} of this machine: {reason}; give another with --port")
