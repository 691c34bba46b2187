# SPDX-License-Identifier: AGPL-3.0-or-later
"""The server of the app: on loopback, for who has the token, under no other site's name."""

from __future__ import annotations

import asyncio
import secrets
import signal
from urllib.parse import urlencode

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


def serve(folder: str = "", port: int = 0) -> None:
    """Serve the app until it is stopped. folder: a run or library to open first; port: 0 for `PORT` or any free one.
    Raises StoreError for a folder that is neither, and for a port that is taken."""
    given = store.project_path(folder) if folder else None
    shelf = Shelf(given)
    token = secrets.token_hex(24)
    asyncio.run(_serve(shelf, token, port))


async def _serve(shelf: Shelf, token: str, port: int) -> None:
    server = HTTPServer(application(shelf, token), max_buffer_size=MAX_REQUEST_BYTES)
    sockets = _listening(port)
    server.add_sockets(sockets)
    address = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/?{urlencode({'token': token})}"
    print(f"imgfp app: open {address}\nStop it with Ctrl-C.", flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    server.stop()


def _listening(port: int) -> list:
    for tried in (port,) if port else (PORT, 0):
        try:
            return bind_sockets(tried, "127.0.0.1")
        except OSError as error:
            reason = error.strerror
    raise store.StoreError(f"port {port} of this machine: {reason}; give another with --port")
