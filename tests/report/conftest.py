"""Fixtures for tests of the report."""

import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from imgfp import report
from imgfp.results import Results


class Page(HTMLParser):
    """The tags, external addresses, event handlers and visible words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "action", "data") and not value.startswith("data:image/"):
                self.addresses.append(value)
            if name.startswith("on"):
                self.handlers.append(name)

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="session")
def parse() -> Callable[[str], Page]:
    return Page


@pytest.fixture(scope="session")
def html(finished_run) -> str:
    """The report of the finished run, which has ground truth."""
    return report.build(Results(finished_run), rounds=20)


@pytest.fixture(scope="session")
def words(html) -> str:
    """The visible words of `html`."""
    return Page(html).words


@pytest.fixture
def copied_run(finished_run, tmp_path) -> Path:
    """A copy of the finished run to change; its library and truth are beside it."""
    return shutil.copytree(finished_run.parent, tmp_path / "copy") / "run"
