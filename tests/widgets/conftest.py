# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fixtures for tests of the widgets."""

import shutil
from collections.abc import Callable

import ipywidgets as ipw
import pytest

from imgfp.results import Results


@pytest.fixture(scope="session")
def results(finished_run) -> Results:
    """The finished run; not to be changed."""
    return Results(finished_run)


@pytest.fixture
def own_run(finished_run, tmp_path) -> Results:
    """A copy of the finished run, to write into."""
    root = shutil.copytree(finished_run.parent, tmp_path / "copy")
    return Results(root / "run", root / "library")


@pytest.fixture(scope="session")
def text_of() -> Callable[[ipw.Widget], str]:
    """All text that a widget and its children show, as the kernel knows it."""

    def text(widget: ipw.Widget) -> str:
        own = str(getattr(widget, "value", ""))
        return own + "".join(text(child) for child in getattr(widget, "children", ()))

    return text


@pytest.fixture
def calls_of(monkeypatch) -> Callable[[object, str], list]:
    """Counts the calls of a function: `calls_of(module, name)` gives a list that grows with each."""

    def watch(owner: object, name: str) -> list:
        calls, function = [], getattr(owner, name)

        def counted(*arguments, **options):
            calls.append(arguments)
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)
        return calls

    return watch
