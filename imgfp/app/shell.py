# SPDX-License-Identifier: AGPL-3.0-or-later
"""What every page of the app has: who is heard, the address, the menu and the tabs around its contents."""

from __future__ import annotations

import asyncio
import getpass
import ipaddress
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

import jinja2
from tornado.web import HTTPError, RequestHandler

from imgfp import store, viz
from imgfp.app.sources import Shelf, Source, progress
from imgfp.app.views import Opened
from imgfp.results import Side
from imgfp.widgets.review import LABELS

HERE = Path(__file__).parent
TABS = {
    "look": "Look up",
    "answers": "Answers",
    "pair": "Pair",
    "review": "Review",
    "duplicates": "Duplicates",
    "tune": "Tune",
    "report": "Report",
}
#: Tabs that a source has.
OF_KIND = {"run": tuple(TABS), "library": ("look",), "look": ("look", "answers", "pair", "review")}
#: The page may load nothing from elsewhere and run no code but its own file; SVG and tables have styles.
_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class Desk:
    """What all requests share. Pages are made in one thread and look-ups in another, so that neither needs locks and
    a second visitor adds nothing but requests."""

    def __init__(self, shelf: Shelf, token: str) -> None:
        self.shelf, self.token = shelf, token
        self.session = secrets.token_hex(24)
        self._ticket = ""
        self.reading, self.looking = (ThreadPoolExecutor(1, name) for name in ("pages", "look-ups"))
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.filters["label"] = viz.label

    def ticket(self) -> str:
        """A token that holds once, for a browser that is started with it: other users of the machine see the words that
        programs are started with."""
        self._ticket = secrets.token_hex(24)
        return self._ticket

    def knows(self, token: str) -> bool:
        """Whether this is the token, or the ticket, which is used up by it."""
        if self._ticket and _same(token, self._ticket):
            self._ticket = ""
            return True
        return _same(token, self.token)


class Page(RequestHandler):
    """A page for who has the token, under the name of this machine."""

    tab = ""

    def initialize(self) -> None:
        self.desk: Desk = self.application.settings["desk"]

    def set_default_headers(self) -> None:
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Cache-Control", "no-store")

    # ------------------------------------------------------------------------------ who is heard

    def prepare(self) -> None:
        if not _is_this_machine(self.request.host_name):
            raise HTTPError(403, "a Host other than this machine")
        if self.request.headers.get("Origin") not in (None, f"http://{self.request.host}"):
            raise HTTPError(403, "an Origin other than this page")
        given = self.get_query_argument("token", "")
        if given and self.desk.knows(given):
            self.set_cookie(self._cookie, self.desk.session, httponly=True, samesite="Lax")
            if self.request.method == "GET":
                path = "/" + self.request.path.lstrip("/")  # "//name" would be another site
                self.redirect(self.address(path, token=""))  # out of the history
        elif not self._is_known():
            self.set_status(403)
            self.finish(self.desk.templates.get_template("login.html.j2").render())

    @property
    def _cookie(self) -> str:
        # Cookies do not know ports, and a machine may serve several apps.
        return f"imgfp-{self.request.host.rpartition(':')[2]}"

    def _is_known(self) -> bool:
        cookie = self.get_cookie(self._cookie) or ""
        header = self.request.headers.get("Authorization", "").removeprefix("token ")
        return _same(cookie, self.desk.session) or _same(header, self.desk.token)

    # ----------------------------------------------------------------------------------- answers

    async def get(self) -> None:
        await self._answer(self.desk.reading, self.page)

    async def _answer(self, where: ThreadPoolExecutor, make: Callable[[], str | bytes]) -> None:
        """Finish with what `make` returns, which runs in a thread; a user's mistake becomes a page with a sentence."""
        try:
            made = await asyncio.get_running_loop().run_in_executor(where, make)
        except (store.StoreError, ValueError, ModuleNotFoundError) as error:
            self.set_status(400)
            made = await asyncio.get_running_loop().run_in_executor(
                self.desk.reading, self.sorry, str(error)
            )
        self.finish(made)

    def page(self) -> str | bytes:
        """The body of the answer, made in the thread of the pages."""
        raise NotImplementedError

    def sorry(self, sentence: str) -> str:
        """The page with one sentence in the place of its contents."""
        return self.render_page("problem.html.j2", sentence=sentence)

    def write_error(self, status_code: int, **_: Any) -> None:
        self.finish(
            f"{status_code}: {self._reason}. The terminal that serves this page may say more."
        )

    def render_page(self, template: str, **values: Any) -> str:
        """A template with what every page has: menu, tabs, progress, and the words of the address."""
        sources = self.desk.shelf.sources()
        source = sources.get(self.of) or next(iter(sources.values()), None)
        shell = {
            "sources": sources.values(),
            "source": source,
            "tabs": TABS,
            "tab": self.tab,
            "open_tabs": () if source is None else OF_KIND[source.kind],
            "progress": None if source is None else progress(source),
            "words": self.words,
            "address": self.address,
            "picture": self.picture,
            "labels": LABELS,
            "reviewer": self.reviewer,
        }
        return self.desk.templates.get_template(template).render(shell | values)

    # ------------------------------------------------------------------------------ the address

    @property
    def words(self) -> dict[str, str]:
        """The words of the address, the last of each name."""
        return {name: self.get_query_argument(name) for name in self.request.query_arguments}

    @property
    def of(self) -> str:
        return self.get_argument("of", "")

    def whole(self, name: str, default: int) -> int:
        """A whole number of the address, or the default for any other text."""
        text = self.words.get(name, "")
        return int(text) if text.isdecimal() and len(text) < 9 else default

    def address(self, path: str, **changed: Any) -> str:
        """This address with another path and other words; a blank word is left out."""
        words = {name: value for name, value in (self.words | changed).items() if value != ""}
        return f"{path}?{urlencode(words)}" if words else path

    def picture(self, side: Side, image_id: str) -> str:
        """The address of a thumbnail."""
        return f"/picture?{urlencode({'of': self.of, 'side': side, 'id': image_id})}"

    def source(self) -> Source:
        """The source that the address names, else the first. Raises StoreError where there is none."""
        sources = self.desk.shelf.sources()
        if self.of and self.of not in sources:
            raise store.StoreError(
                f"there is no run, library or look-up {viz.label(self.of)!r} here (any more): choose one in the menu"
            )
        if not sources:
            raise store.StoreError(
                "this project has no run and no library yet: `imgfp run params/mine.yaml` makes both, "
                "`imgfp demo` a small one to try"
            )
        return sources[self.of] if self.of else next(iter(sources.values()))

    def opened(self) -> Opened:
        """The answers of the source with the present decisions."""
        return Opened.now(self.desk.shelf.results(self.source()))

    @property
    def reviewer(self) -> str:
        """The name in decisions: the one used last in this browser, else that of the environment."""
        kept = unquote(self.get_cookie("imgfp-reviewer") or "")
        return kept or os.environ.get("IMGFP_REVIEWER", "") or _login()


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container, whose user has no name
        return ""


def _same(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())


def _is_this_machine(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
