# SPDX-License-Identifier: AGPL-3.0-or-later
"""The review queue: decisions on pairs, the most uncertain pairs first."""

from __future__ import annotations

from functools import partial

import ipywidgets as ipw
import numpy as np
import pandas as pd

from imgfp import store, viz
from imgfp.report import evidence_in_words
from imgfp.results import Results, Side
from imgfp.store import decisions
from imgfp.viz import svg
from imgfp.widgets.base import WIDE, WRAPPED, button, facts_table, pane, sentence
from imgfp.widgets.inspector import MatchInspector

#: Decision -> label of its button, and its key.
LABELS = {
    "copy": ("copy", "c"),
    "same_scene": ("same scene", "s"),
    "shared_overlay": ("shared overlay", "o"),
    "unrelated": ("unrelated", "u"),
    "skip": ("skip", "k"),
}
KEYS = {letter: decision for decision, (_, letter) in LABELS.items()} | {" ": "skip"}


def by_uncertainty(pairs: pd.DataFrame, threshold: float | None) -> pd.DataFrame:
    """Pairs ordered by uncertainty: those next to the threshold first, alternately above and below.
    Distance is counted in pairs, so that the scale of the scores does not matter.

    pairs: with `score`, best first; threshold None: the middle of the list.
    """
    scores = pairs["score"].to_numpy(float)
    middle = len(scores) / 2
    if threshold is not None:
        middle = float(np.searchsorted(-scores, -threshold, side="right"))
    distance = np.abs(np.arange(len(scores)) + 0.5 - middle)
    return pairs.iloc[np.argsort(distance, kind="stable")].reset_index(drop=True)


class ReviewQueue(ipw.VBox):
    """Undecided pairs, one after the other; each decision is on disk before the next pair is shown.

    Decide with the buttons, or by typing letters into the key box; deleting a letter undoes its
    decision.
    """

    def __init__(
        self, results: Results, reviewer: str = "", *, inspector: MatchInspector | None = None
    ) -> None:
        """reviewer: initial name; inspector: can be opened below on the current pair."""
        self._results, self._inspector = results, inspector
        self.path = results.decisions_path
        pairs = by_uncertainty(results.pairs, results.threshold)
        ids = pairs["query_id"].tolist(), pairs["reference_id"].tolist()
        self._queue: list[tuple[str, str]] = list(zip(*ids, strict=True))
        self._score = dict(zip(self._queue, pairs["score"], strict=True))
        self._typed = ""
        self.current: tuple[str, str] | None = None
        self.reviewer = ipw.Text(value=reviewer, description="reviewer", style=WIDE)
        self.reason = ipw.Text(placeholder="optional", description="reason", style=WIDE)
        self.reason.layout.width = "470px"
        self.letters = ipw.Text(
            placeholder="click here, then type c s o u k; delete to undo",
            description="keys",
            style=WIDE,
        )
        self.letters.layout.width = "470px"
        self.query, self.reference, self.summary = pane("48%"), pane("48%"), pane()
        self.progress = ipw.IntProgress(min=0, max=max(len(self._queue), 1), style=WIDE)
        self.progress.layout.width = "470px"
        self.note = ipw.Label()
        styles = {"copy": "success", "unrelated": "warning"}
        self.buttons = {
            decision: button(
                f"{label} ({letter})",
                partial(self.decide, decision),
                f"key {letter}",
                styles.get(decision, ""),
            )
            for decision, (label, letter) in LABELS.items()
        }
        self.back = button("undo (z)", self.undo, "undo the last decision")
        export = button("export CSV", self.export, "write decisions.csv into the run folder")
        self.inspect = ipw.Checkbox(description="open this pair in the inspector", indent=False)
        self.inspect.disabled = inspector is None
        self.inspect.observe(self._look, "value")
        self.inspected = ipw.VBox()
        self.letters.observe(self._type, "value")
        super().__init__(
            [
                self.summary,
                ipw.HBox(
                    [self.query, self.reference],
                    layout=ipw.Layout(width="100%", max_width="1000px"),
                ),
                ipw.HBox([*self.buttons.values(), self.back, export], layout=ipw.Layout(**WRAPPED)),
                self.note,
                self.letters,
                self.reason,
                self.reviewer,
                self.progress,
                self.inspect,
                self.inspected,
            ]
        )
        self.next()

    def decide(self, decision: str) -> None:
        """Log a decision (a key of `decisions.DECISIONS`) on the current pair and show the next."""
        if self.current is None:
            return
        try:
            decisions.append(
                self.path,
                *self.current,
                decision,
                reviewer=self.reviewer.value,
                reason=self.reason.value,
            )
        except (ValueError, store.StoreError) as error:
            self.note.value = str(error)
            return
        self.reason.value = ""
        self.note.value = f"{LABELS[decision][0]}: {viz.label(self.current[0], 40)}"
        self.next()

    def undo(self) -> None:
        """Undo this reviewer's last decision on pairs of this run, also of an earlier session, and show the first of
        them again."""
        log = decisions.read(self.path)
        ids = zip(log["query_id"], log["reference_id"], strict=True)
        of_run = log[[key in self._score for key in ids]]
        pairs = decisions.last_of(of_run, self.reviewer.value)
        if not pairs:
            self.note.value = "nothing to undo: this reviewer has no decision on this run"
            return
        try:
            decisions.append_all(self.path, pairs, decisions.UNDO, reviewer=self.reviewer.value)
        except store.StoreError as error:
            self.note.value = str(error)
            return
        more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
        self.note.value = f"undone: {viz.label(pairs[0][0], 40)}{more}"
        self.next(pairs[0])

    def next(self, pair: tuple[str, str] | None = None) -> None:
        """Show a pair, by default the first without a decision. The log is read again, so that several
        people can share the queue."""
        reviewed = decisions.consensus(decisions.read(self.path))
        decided = set(zip(reviewed["query_id"], reviewed["reference_id"], strict=True))
        left = [key for key in self._queue if key not in decided]
        self.progress.value = len(self._queue) - len(left)
        self.progress.description = f"{self.progress.value:,} of {len(self._queue):,}"
        self.current = pair or next(iter(left), None)
        self._show()

    def export(self) -> None:
        """Write the decisions that hold to `decisions.csv` in the run folder."""
        path = self._results.run.decisions_csv
        log = decisions.read(self.path)
        decisions.export_csv(log, path)
        count = len(decisions.consensus(log))
        self.note.value = f"decided pairs: {count:,}, written to {store.show(path)}"

    def _type(self, change: dict) -> None:
        """Letters added are decisions; letters deleted undo the last ones."""
        before, after = self._typed, change["new"]
        self._typed = after
        if after.startswith(before):
            for letter in after[len(before) :].lower():
                if letter in KEYS:
                    self.decide(KEYS[letter])
                elif letter == "z":
                    self.undo()
        elif before.startswith(after):
            for letter in reversed(before[len(after) :].lower()):
                if letter in KEYS:
                    self.undo()

    def _look(self, _: object = None) -> None:
        """Show the inspector below on the current pair, if its box is ticked."""
        inspector = self._inspector if self.inspect.value else None
        if inspector is not None and self.current is not None:
            inspector.look_at(*self.current)
        self.inspected.children = () if inspector is None else (inspector,)

    def _show(self) -> None:
        self._look()
        if self.current is None:
            self.summary.value = sentence("Every pair of this run is decided.", strong=True)
            self.query.value = self.reference.value = ""
            return
        results, (query_id, reference_id) = self._results, self.current
        outlines = results.outlines(query_id, reference_id)
        query, reference = results.images_of(query_id, reference_id)
        self.query.value = self._picture("query", query, outlines[0])
        self.reference.value = self._picture("reference", reference, outlines[1])
        score = self._score.get(self.current)
        relation = results.relation_of(query_id, reference_id)
        text = f"{relation[:1].upper()}{relation[1:]}. " if relation else ""
        text += "" if score is None else f"Score {viz.score(score)}. Evidence: "
        evidence = results.best_evidence(query_id, reference_id)
        copies = len(results.groups.others(reference_id))
        text += evidence_in_words(evidence, results.remarks(query_id, reference_id), copies)
        self.summary.value = sentence(f"{text}.", strong=True)

    def _picture(self, side: Side, image_id: str, outline: np.ndarray | None) -> str:
        jpeg = svg.small_jpeg(self._results.picture(side, image_id), 480)
        drawn = svg.outlined(jpeg, self._results.size(side, image_id), outline, image_id)
        drawn = drawn.replace("<svg ", '<svg style="width:100%;height:100%" ', 1)
        return f'<div style="height:330px">{drawn}</div>' + facts_table([(side, image_id)])
