# SPDX-License-Identifier: AGPL-3.0-or-later
"""Parts that the tuners share: values written to a parameter file, and a shelf of pairs that open in the inspector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as ipw

from imgfp import store, viz
from imgfp.results import Results
from imgfp.runner import params
from imgfp.widgets.base import WRAPPED, button, pane, sentence, thumbnail_pair, yaml_lines
from imgfp.widgets.inspector import MatchInspector


class ProfileWriter(ipw.VBox):
    """Values as lines for a parameter file, and a button that writes them to one."""

    def __init__(
        self, results: Results, profiles: str | Path, values: Callable[[], Mapping[str, Any]]
    ) -> None:
        """results: of the run whose own parameter file is offered first; profiles: folder of the parameter files."""
        self._values = values
        self._folder = store.project_path(profiles)
        files = sorted(p.name for p in self._folder.glob("*.yaml"))
        self.lines, self.written = pane("auto"), ipw.Label()
        self.profile = ipw.Dropdown(options=files, description="profile")
        self.profile.value = profile_of(results, self._folder, files)
        write = button("write to profile", self.write, "set these values in the parameter file")
        super().__init__([self.lines, ipw.HBox([self.profile, write]), self.written])

    def show(self) -> None:
        """Show the present values."""
        self.lines.value = yaml_lines(dict(self._values()))

    def write(self) -> None:
        """Write the present values to the chosen parameter file."""
        if self.profile.value is None:
            self.written.value = f"no parameter file in {store.show(self._folder)}"
            return
        values = self._values()
        params.write_values(self._folder / self.profile.value, values)
        said = ", ".join(f"{name} set to {value!r}" for name, value in values.items())
        self.written.value = f"{self.profile.value}: {said or 'nothing to set'}"


class PairShelf(ipw.VBox):
    """Thumbnails of a few pairs, each with a button that opens it in the inspector below."""

    def __init__(self, results: Results, inspector: MatchInspector | None, count: int) -> None:
        """inspector: None leaves the buttons disabled; count: number of pairs."""
        self._results, self._inspector = results, inspector
        self.pairs: list[tuple[str, str]] = []
        narrow = ipw.Layout(width="32%", align_items="flex-start")
        self.places = [
            ipw.VBox(
                [
                    pane(),
                    button("inspect", partial(self._open, row), "open this pair in the inspector"),
                ],
                layout=narrow,
            )
            for row in range(count)
        ]
        self.inspected = ipw.VBox()
        super().__init__([ipw.HBox(self.places, layout=ipw.Layout(**WRAPPED)), self.inspected])

    def show(self, pairs: Sequence[tuple[str, str, str]]) -> None:
        """Show the first pairs: query id, reference id, a line of text."""
        self.pairs = [(query, reference) for query, reference, _ in pairs]
        for row, place in enumerate(self.places):
            thumbnails, inspect = place.children
            inspect.disabled = self._inspector is None or row >= len(pairs)
            thumbnails.value = self._thumbnails(*pairs[row]) if row < len(pairs) else ""

    def _thumbnails(self, query_id: str, reference_id: str, text: str) -> str:
        try:
            query = self._results.jpeg("query", query_id)
            reference = self._results.jpeg("reference", reference_id)
        except KeyError:
            return sentence("an image of this pair is missing from the run or library")
        names = f"{viz.label(query_id, 20)} / {viz.label(reference_id, 20)}"
        return thumbnail_pair(query, reference, f"{text}: {names}")

    def _open(self, row: int) -> None:
        if self._inspector is not None and row < len(self.pairs):
            self._inspector.look_at(*self.pairs[row])
            self.inspected.children = (self._inspector,)


def profile_of(results: Results, folder: Path, names: list[str]) -> str | None:
    """The parameter file that the run was made with, or else the first."""
    made_with = [Path(stage.profile) for stage in results.record.stages.values()]
    own = [path.name for path in made_with if path.parent == folder and path.name in names]
    return next(iter([*own[-1:], *names]), None)
