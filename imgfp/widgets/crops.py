# SPDX-License-Identifier: AGPL-3.0-or-later
"""The crop browser: the detected boxes of every query, and which of them each rule cuts out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import ipywidgets as ipw
import numpy as np
import pandas as pd

from imgfp.crops.rule import CORNERS, box_facts, taken_boxes
from imgfp.results import Results
from imgfp.viz import svg
from imgfp.widgets.base import WRAPPED, Pager, facts_table, pane, sentence, slider, yaml_lines

#: A query is borderline if its most confident box is this close to a threshold.
BORDERLINE = 0.08
#: Operating point -> table of the boxes that its rule takes, rows of `box_facts`.
_Taken = dict[str, pd.DataFrame]


class CropBrowser(ipw.VBox):
    """The boxes of each query at both operating points. The sliders apply the rule again, to all queries
    at once; nothing is detected again."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._facts = box_facts(results.detections_of_points, results.query_images)
        self._rows_of = self._facts.groupby("image_id").indices
        self._encoded: tuple[str, bytes] | None = None
        rules = results.crop_rules
        self._max_crops = {"local": int(rules["max_crops"]), "global": 1}
        self.local, self.single = (
            slider(name, rules[name], 0, 1, 0.01)
            for name in ("local_min_confidence", "global_min_confidence")
        )
        self.area = slider("crop_max_area", rules["max_area"], 0.05, 1, 0.01)
        self.aspect = slider("crop_max_aspect", rules["max_aspect"], 1, 10, 0.1)
        self._sliders = (self.local, self.single, self.area, self.aspect)
        self._in_run = self._now = self._apply_rules()
        filters: dict[str, Callable[[], Iterable[Hashable]]] = {
            "all queries": lambda: results.query_images.index,
            "with a box": lambda: self._rows_of,
            "without a box": lambda: [
                q for q in results.query_images.index if q not in self._rows_of
            ],
            "borderline": self._borderline,
            "changed by the sliders": self._changed,
        }
        self.counts, self.picture, self.cuts = pane(), pane("60%"), pane()
        self.listed, self.lines = pane(), pane()
        self.pager = Pager(filters, self._show, "query id")
        for widget in self._sliders:
            widget.observe(self._moved, "value")
        side = ipw.VBox([self.cuts, self.listed], layout=ipw.Layout(width="38%"))
        pictures = ipw.HBox([self.picture, side])
        controls = ipw.HBox(
            [
                ipw.VBox(list(self._sliders), layout=ipw.Layout(flex="0 0 auto")),
                ipw.VBox([self.counts, self.lines], layout=ipw.Layout(flex="1 1 320px")),
            ],
            layout=ipw.Layout(**WRAPPED),
        )
        super().__init__([controls, self.pager, pictures])
        self._moved()

    @property
    def settings(self) -> dict[str, float]:
        """The parameters that the sliders set."""
        return {widget.description: round(widget.value, 4) for widget in self._sliders}

    def _apply_rules(self) -> _Taken:
        confidence = {"local": self.local.value, "global": self.single.value}
        return {
            name: taken_boxes(
                self._facts[self._facts["point"].isin(["", name])],
                min_confidence=confidence[name],
                max_area=self.area.value,
                max_aspect=self.aspect.value,
                max_crops=count,
            )
            for name, count in self._max_crops.items()
        }

    def _moved(self, _: object = None) -> None:
        self._now = self._apply_rules()
        total = len(self._results.query_images)
        rows = []
        for name, now in self._now.items():
            before = self._in_run[name]
            gained = len(now.index.difference(before.index))
            lost = len(before.index.difference(now.index))
            change = f", {gained:,} more and {lost:,} fewer than the run" if gained or lost else ""
            queries = now["image_id"].nunique()
            rows.append(
                (f"{name} crops", f"{len(now):,} in {queries:,} of {total:,} queries{change}")
            )
        self.counts.value = facts_table(rows)
        self.lines.value = yaml_lines(self.settings)
        self.pager.refresh()

    def _borderline(self) -> list[str]:
        best = self._facts.drop_duplicates("image_id")
        near = np.zeros(len(best), bool)
        for threshold in (self.local.value, self.single.value):
            near |= abs(best["confidence"].to_numpy() - threshold) < BORDERLINE
        return best.loc[near, "image_id"].tolist()

    def _changed(self) -> list[str]:
        rows: set[int] = set()
        for name, now in self._now.items():
            rows |= set(now.index.symmetric_difference(self._in_run[name].index))
        return sorted(set(self._facts.loc[list(rows), "image_id"]))

    def _show(self, query_id: str | None) -> None:
        if query_id is None:
            self.picture.value = sentence("No query matches this filter.")
            self.cuts.value = self.listed.value = ""
            return
        size = self._results.size("query", query_id)
        boxes = self._facts.iloc[self._rows_of.get(query_id, [])]
        xyxy = boxes[CORNERS].to_numpy()
        before, now = (_labels(boxes, taken) for taken in (self._in_run, self._now))
        confidence, area = boxes["confidence"].to_numpy(), boxes["area"].to_numpy()
        texts = [
            f"confidence {c:.2f}, {a:.0%} of the image"
            for c, a in zip(confidence, area, strict=True)
        ]
        jpeg = self._jpeg(query_id)
        self.picture.value = svg.boxes(jpeg, size, xyxy, texts, now, confidence)
        strips = {"Crops of the run": before, "Crops with these sliders": now}
        self.cuts.value = "".join(
            sentence(title, strong=True) + _strip(jpeg, size, xyxy, labels)
            for title, labels in strips.items()
        )
        rows = [(now.get(row, "not taken"), text) for row, text in enumerate(texts[:6])]
        self.listed.value = facts_table([("query", query_id), *rows])

    def _jpeg(self, query_id: str) -> bytes:
        if self._encoded is None or self._encoded[0] != query_id:
            picture = self._results.picture("query", query_id)
            self._encoded = query_id, svg.small_jpeg(picture, 640)
        return self._encoded[1]


def _labels(boxes: pd.DataFrame, taken: _Taken) -> dict[int, str]:
    """Row of each taken box among those of one query -> the operating points that take it."""
    labels: dict[int, str] = {}
    for name, rows in taken.items():
        for row in np.flatnonzero(boxes.index.isin(rows.index)).tolist():
            labels[row] = f"{labels[row]} + {name}" if row in labels else name
    return labels


def _strip(jpeg: bytes, size: tuple[int, int], xyxy: np.ndarray, labels: dict[int, str]) -> str:
    """The crops side by side, each with its operating points below."""
    if not labels:
        return sentence("none: only the whole query is searched")
    parts = (
        f"<div>{svg.cut(jpeg, size, xyxy[row], 130)}{sentence(label)}</div>"
        for row, label in labels.items()
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(parts)}</div>'
