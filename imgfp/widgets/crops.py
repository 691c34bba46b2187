"""The crop browser: every box of a query, and what each rule would take."""

from __future__ import annotations

import ipywidgets as ipw
import numpy as np
import pandas as pd

from imgfp.crops.rule import box_facts, choose_box, taken_boxes
from imgfp.datatypes import Boxes
from imgfp.results import Results
from imgfp.viz import svg
from imgfp.widgets.base import WRAPPED, Pager, facts_table, pane, sentence, slider, yaml_lines

#: A query is borderline when its best box is this near to a threshold.
BORDERLINE = 0.08


class CropBrowser(ipw.VBox):
    """Boxes of every query at both operating points; the sliders only repeat the choice."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._facts = box_facts(results.detections, results.queries)
        self._of_query = self._facts.groupby("image_id").indices
        rules = results.crop_rules
        self._most = {"local": int(rules["max_crops"]), "global": 1}
        self.local, self.single = (
            slider(name, rules[name], 0, 1, 0.01)
            for name in ("local_min_confidence", "global_min_confidence")
        )
        self.area = slider("crop_max_area", rules["max_area"], 0.05, 1, 0.01)
        self.aspect = slider("crop_max_aspect", rules["max_aspect"], 1, 10, 0.1)
        self._sliders = (self.local, self.single, self.area, self.aspect)
        self._at_first = self.settings
        self._before = self._now = self._rules()
        filters = {
            "all queries": lambda: results.queries.index,
            "with a box": lambda: self._of_query,
            "without a box": lambda: [q for q in results.queries.index if q not in self._of_query],
            "borderline": self._borderline,
            "changed by the sliders": self._changed,
        }
        self.counts, self.picture, self.cuts = pane(), pane("60%"), pane()
        self.listed, self.lines = pane(), pane()
        self.pager = Pager(filters, self._show, "query id")
        for one in self._sliders:
            one.observe(self._moved, "value")
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
        """The parameters at which the sliders stand."""
        return {one.description: round(one.value, 4) for one in self._sliders}

    def _rules(self) -> dict[str, pd.DataFrame]:
        """Operating point -> the boxes that it takes with the sliders as they stand."""
        limits = {"max_area": self.area.value, "max_aspect": self.aspect.value}
        points = zip(self._most.items(), (self.local.value, self.single.value), strict=True)
        return {
            name: taken_boxes(self._facts, min_confidence=point, max_crops=most, **limits)
            for (name, most), point in points
        }

    def _moved(self, _: object = None) -> None:
        self._now = self._rules()
        total = len(self._results.queries)
        rows = []
        for name, now in self._now.items():
            before = self._before[name]
            gained = len(now.index.difference(before.index))
            lost = len(before.index.difference(now.index))
            change = f", {gained:,} more and {lost:,} fewer than the run" if gained or lost else ""
            found = now["image_id"].nunique()
            rows.append(
                (f"{name} crops", f"{len(now):,} in {found:,} of {total:,} queries{change}")
            )
        self.counts.value = facts_table(rows)
        self.lines.value = yaml_lines(self.settings)
        self.pager.refresh()

    def _borderline(self) -> list[str]:
        best = self._facts.drop_duplicates("image_id")
        near = np.zeros(len(best), bool)
        for point in (self.local.value, self.single.value):
            near |= abs(best["confidence"].to_numpy() - point) < BORDERLINE
        return best.loc[near, "image_id"].tolist()

    def _changed(self) -> list[str]:
        rows: set[int] = set()
        for name, now in self._now.items():
            rows |= set(now.index.symmetric_difference(self._before[name].index))
        return sorted(set(self._facts.loc[list(rows), "image_id"]))

    def _show(self, query_id: str | None) -> None:
        if query_id is None:
            self.picture.value = sentence("No query fits this filter.")
            self.cuts.value = self.listed.value = ""
            return
        size = self._results.size("query", query_id)
        boxes = self._results.boxes_of(query_id)
        before, tags = (self._taken(boxes, size, at) for at in (self._at_first, self.settings))
        share = (boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]).prod(axis=1) / (size[0] * size[1])
        said = [
            f"{c:.2f}, {a:.0%} of the picture" for c, a in zip(boxes.confidence, share, strict=True)
        ]
        jpeg = self._jpeg(query_id)
        self.picture.value = svg.boxes(jpeg, size, boxes.xyxy, said, tags, boxes.confidence)
        strips = {"Cut out in the run": before, "Cut out with these sliders": tags}
        self.cuts.value = "".join(
            sentence(title, strong=True) + _strip(jpeg, size, boxes.xyxy, taken)
            for title, taken in strips.items()
        )
        rows = [(tags.get(row, "not taken"), text) for row, text in enumerate(said[:6])]
        self.listed.value = facts_table([("query", query_id), *rows])

    def _taken(self, boxes: Boxes, size: tuple[int, int], at: dict[str, float]) -> dict[int, str]:
        """Row of each box that the rules take at these settings -> the operating points that do."""
        limits = {"max_area": at["crop_max_area"], "max_aspect": at["crop_max_aspect"]}
        tags: dict[int, str] = {}
        for name, count in self._most.items():
            point = {"min_confidence": at[f"{name}_min_confidence"], "max_crops": count}
            for row in choose_box(boxes, *size, **point, **limits)[1].tolist():
                tags[row] = f"{tags[row]} + {name}" if row in tags else name
        return tags

    def _jpeg(self, query_id: str) -> bytes:
        if getattr(self, "_encoded", ("",))[0] != query_id:
            picture = self._results.picture("query", query_id)
            self._encoded = query_id, svg.small_jpeg(picture, 640)
        return self._encoded[1]


def _strip(jpeg: bytes, size: tuple[int, int], xyxy: np.ndarray, taken: dict[int, str]) -> str:
    """The parts that are searched, side by side, each with its operating points below."""
    if not taken:
        return sentence("nothing: only the whole query is searched")
    parts = (
        f"<div>{svg.cut(jpeg, size, xyxy[row], 130)}{sentence(word)}</div>"
        for row, word in taken.items()
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(parts)}</div>'
