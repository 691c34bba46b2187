# SPDX-License-Identifier: AGPL-3.0-or-later
"""Parts that the browsers share: a pager, HTML panes, tables, and a draggable line over a chart."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ipywidgets as ipw
from IPython.display import Markdown

from imgfp.viz.svg import Chart, data_uri, escaped

WIDE = {"description_width": "160px"}
#: Layout of a row that wraps on a narrow page.
WRAPPED = {"flex_flow": "row wrap", "align_items": "flex-start"}
_NOTE = "Open this notebook in JupyterLab to use the live browser; `make app` shows the run in a web page."


def show(
    browser: Callable[..., ipw.Widget], *arguments: Any, **options: Any
) -> ipw.Widget | Markdown:
    """The browser, or one line of text in a headless run (environment variable IMGFP_HEADLESS)."""
    if os.environ.get("IMGFP_HEADLESS"):
        return Markdown(f"*{_NOTE}*")
    return browser(*arguments, **options)


def pane(width: str = "auto", **layout: str) -> ipw.HTML:
    """An empty HTML widget; text that is put into it must be escaped."""
    return ipw.HTML(layout=ipw.Layout(width=width, **layout))


def slider(name: str, value: float, low: float, high: float, step: float) -> ipw.FloatSlider:
    """A slider that shows its value and reacts while it moves."""
    return ipw.FloatSlider(
        value=min(max(value, low), high),
        min=low,
        max=high,
        step=step,
        description=name,
        readout_format=".3g" if step < 0.1 else ".4g",
        style=WIDE,
        layout=ipw.Layout(width="470px"),
    )


def button(name: str, act: Callable[[], Any], hint: str = "", style: str = "") -> ipw.Button:
    """A button that calls `act`; hint: tooltip; style: a `button_style` of ipywidgets."""
    widget = ipw.Button(
        description=name,
        tooltip=hint,
        button_style=style,
        layout=ipw.Layout(width="auto", min_width="38px", flex="0 0 auto"),
    )
    widget.on_click(lambda _: act())
    return widget


def facts_table(rows: Sequence[tuple[object, ...]], hints: Mapping[str, str] = {}) -> str:
    """Rows of a name and one or more values as a small HTML table, all escaped; hints: name -> tooltip."""
    cells = "".join(
        f'<tr style="vertical-align:top" title="{escaped(hints.get(str(name), ""))}">'
        f'<td style="color:#66727f;padding-right:14px;white-space:nowrap">{escaped(name)}</td>'
        + "".join(
            f'<td style="padding-right:14px;overflow-wrap:anywhere">{escaped(value, 90)}</td>'
            for value in values
        )
        + "</tr>"
        for name, *values in rows
    )
    return f'<table style="font-size:12.5px;line-height:1.45">{cells}</table>'


def yaml_lines(values: dict[str, float]) -> str:
    """Settings as lines for a parameter file."""
    lines = "\n".join(escaped(f"{name}: {value!r}") for name, value in values.items())
    return f'<pre style="font-family:monospace;line-height:1.45;user-select:all">{lines}</pre>'


def sentence(text: str, strong: bool = False) -> str:
    """One line of text as HTML, escaped."""
    weight = "font-weight:600;" if strong else ""
    return f'<div style="{weight}line-height:1.45">{escaped(text)}</div>'


def download(name: str, data: bytes, media_type: str) -> str:
    """A link by which a browser saves these bytes under a name."""
    uri = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    size = f"{len(data) / 1e6:.1f} MB"
    return f'<a download="{escaped(name)}" href="{uri}">{escaped(name)}</a> ({size})'


def thumbnail_pair(query: bytes, reference: bytes, text: str, height_px: int = 92) -> str:
    """Two JPEG thumbnails side by side with a line of text below."""
    style = f"height:{height_px}px;max-width:46%;object-fit:contain;background:#f4f6f8"
    pictures = "".join(
        f'<img src="{data_uri(jpeg)}" style="{style}">' for jpeg in (query, reference)
    )
    return (
        f'<div style="display:flex;gap:4px">{pictures}</div>'
        f'<div style="font-size:11.5px;line-height:1.3">{escaped(text)}</div>'
    )


class DraggableLine(ipw.GridBox):
    """A chart with a vertical line that is moved by dragging, by clicking, or with the arrow keys.

    The line is the handle of a slider on top of the chart, so that it follows the pointer without the
    kernel; `line.value` is its position on the x axis.
    """

    _STYLE = """<style>
.imgfp-line .slider-container, .imgfp-line .noUi-target { height: 100% !important; }
.imgfp-line .slider-container { margin: 0 !important; }
.imgfp-line .noUi-target { margin: 0 !important; background: none; border: none; cursor: pointer; }
.imgfp-line .noUi-origin { height: 100% !important; }
.imgfp-line .noUi-connects { background: none; }
.imgfp-line .noUi-connect { display: none; }
.imgfp-line .noUi-handle { height: 100% !important; width: 18px !important; top: 0 !important;
  right: -9px !important; border: none !important; border-radius: 0; box-shadow: none !important;
  background: repeating-linear-gradient(#1f2933 0 7px, transparent 7px 11px) center / 2px 100%
  no-repeat !important; cursor: ew-resize; transform: none !important; }
.imgfp-line .noUi-handle:hover, .imgfp-line .noUi-handle:focus, .imgfp-line .noUi-active {
  background-size: 4px 100% !important; outline: none; }
</style>"""

    def __init__(self) -> None:
        self._chart = pane(grid_area="1 / 1")
        self.line = ipw.FloatSlider(readout=False)
        self.line.add_class("imgfp-line")
        super().__init__([self._chart, self.line], layout=ipw.Layout(grid_template_columns="100%"))

    def draw(self, chart: Chart) -> None:
        """Show another chart; the line moves over its whole x axis."""
        self._chart.value = self._STYLE + chart.marked()
        # The widget never accepts a minimum above its maximum, so widen before narrowing.
        self.line.max = max(self.line.max, chart.high)
        self.line.min, self.line.max = chart.low, chart.high
        self.line.step = (chart.high - chart.low) / 1000
        (left, top, right, bottom), (width, height) = chart.frame, chart.size
        # CSS margins in per cent are relative to the width, on all four sides.
        margins = (top, width - right, height - bottom, left)
        self.line.layout = ipw.Layout(
            grid_area="1 / 1",
            width="auto",
            height="auto",
            align_self="stretch",
            margin=" ".join(f"{100 * margin / width:.3f}%" for margin in margins),
        )


class Pager(ipw.HBox):
    """Steps through keys: previous, next, a filter, and a text box to jump to an id. The first filter has all keys: an id
    that the present one hides is looked for there.

    `key` is the current key, None if the filter leaves none; `changed` is called with it.
    """

    def __init__(
        self,
        filters: Mapping[str, Callable[[], Iterable[Any]]],
        changed: Callable[[Any], None],
        name: str = "jump to",
        matches: Callable[[Any, str], bool] = lambda key, text: text in str(key),
    ) -> None:
        """filters: name -> function that returns its keys, in order; name: placeholder of the text box;
        matches: whether a key matches a typed text."""
        self._filters, self._changed, self._matches = dict(filters), changed, matches
        self._keys: list[Any] = []
        self._position = 0
        self.filter = ipw.Dropdown(
            options=list(filters), layout=ipw.Layout(width="auto", max_width="320px")
        )
        self.jump = ipw.Text(
            placeholder=f"{name} …", continuous_update=False, layout=ipw.Layout(width="230px")
        )
        self.where = ipw.Label()
        self._quiet = False
        self.filter.observe(self._filtered, "value")
        self.jump.observe(self._jump, "value")
        super().__init__(
            [
                button("◀", lambda: self.step(-1), "previous"),
                button("▶", lambda: self.step(1), "next"),
                self.where,
                self.filter,
                self.jump,
            ],
            layout=ipw.Layout(align_items="center", flex_flow="row wrap"),
        )

    @property
    def key(self) -> Any:
        return self._keys[self._position] if self._keys else None

    def refresh(self, key: Any = None) -> None:
        """Apply the filter again and stay at `key` (default: the current key) if it is still there."""
        key = self.key if key is None else key
        self._keys = list(self._filters[self.filter.value]())
        self._position = self._keys.index(key) if key in self._keys else 0
        self._show()

    def go(self, key: Any) -> None:
        """Show a key; a filter that hides it is reset to the first."""
        if key not in self._keys:
            self._quiet = True
            self.filter.value = next(iter(self._filters))
            self._quiet = False
            self._keys = list(self._filters[self.filter.value]())
        if key in self._keys:
            self._position = self._keys.index(key)
        self._show()

    def step(self, count: int) -> None:
        """Forwards or backwards, wrapping around at the ends."""
        if self._keys:
            self._position = (self._position + count) % len(self._keys)
            self._show()

    def _filtered(self, _: object = None) -> None:
        if not self._quiet:
            self.refresh()

    def _jump(self, change: dict) -> None:
        text, count = change["new"], len(self._keys)
        if not text:
            return
        for step in range(1, count + 1):
            position = (self._position + step) % count
            if self._matches(self._keys[position], text):
                self._position = position
                self._show()
                return
        every = next(iter(self._filters.values()))()
        outside = next((key for key in every if self._matches(key, text)), None)
        if outside is None:
            self.where.value = "no such id"
        else:
            self.go(outside)

    def _show(self) -> None:
        self.where.value = (
            f"{self._position + 1:,} of {len(self._keys):,}" if self._keys else "none"
        )
        self._changed(self.key)
