"""The review queue: decide pairs by eye, the ones that teach most first."""

from __future__ import annotations

import ipywidgets as ipw
import numpy as np
import pandas as pd

from imgfp import store, viz
from imgfp.report import evidence_in_words
from imgfp.results import Results
from imgfp.store import decisions
from imgfp.viz import svg
from imgfp.widgets.base import WIDE, WRAPPED, button, facts_table, pane, sentence
from imgfp.widgets.inspector import MatchInspector

#: Decision -> its word on the button, and the letter that stands for it.
WORDS = {
    "copy": ("copy", "c"),
    "same_scene": ("same scene", "s"),
    "shared_overlay": ("shared overlay", "o"),
    "unrelated": ("unrelated", "u"),
    "skip": ("skip", "k"),
}
KEYS = {letter: decision for decision, (_, letter) in WORDS.items()} | {" ": "skip"}


def by_worth(pairs: pd.DataFrame, threshold: float | None) -> pd.DataFrame:
    """Pairs in the order in which a decision teaches: nearest to the threshold first, from above and
    below in turn, counted in pairs, so that the score's scale does not matter.

    pairs: with `score`, best first; threshold None: the middle of the list.
    """
    scores = pairs["score"].to_numpy(float)
    middle = len(scores) / 2
    if threshold is not None:
        middle = float(np.searchsorted(-scores, -threshold, side="right"))
    far = np.abs(np.arange(len(scores)) + 0.5 - middle)
    return pairs.iloc[np.argsort(far, kind="stable")].reset_index(drop=True)


class ReviewQueue(ipw.VBox):
    """One undecided pair after the other; every decision is on the disk before the next is shown.

    Buttons always work. Letters typed into the key box do the same, and deleting one takes a decision
    back.
    """

    def __init__(
        self, results: Results, reviewer: str = "", *, inspector: MatchInspector | None = None
    ) -> None:
        """reviewer: a name to begin with; inspector: can be opened here on the pair to decide."""
        self._results, self._inspector = results, inspector
        self.path = results.decisions_path
        pairs = by_worth(results.pairs, results.threshold)
        ids = (pairs[name].tolist() for name in ("query_id", "reference_id"))
        self._queue = list(zip(*ids, strict=True))
        self._score = dict(zip(self._queue, pairs["score"], strict=True))
        self._typed = ""
        self.current: tuple[str, str] | None = None
        self.reviewer = ipw.Text(value=reviewer, description="reviewer", style=WIDE)
        self.reason = ipw.Text(placeholder="why (optional)", description="reason", style=WIDE)
        self.reason.layout.width = "470px"
        self.letters = ipw.Text(
            placeholder="click here, then type c s o u k; delete to undo",
            description="keys",
            style=WIDE,
        )
        self.letters.layout.width = "470px"
        self.query, self.reference, self.said = pane("48%"), pane("48%"), pane()
        self.progress = ipw.IntProgress(min=0, max=max(len(self._queue), 1), style=WIDE)
        self.progress.layout.width = "470px"
        self.note = ipw.Label()
        styles = {"copy": "success", "unrelated": "warning"}
        self.buttons = {
            word: button(
                f"{name} ({letter})", self._decider(word), f"key {letter}", styles.get(word, "")
            )
            for word, (name, letter) in WORDS.items()
        }
        self.back = button("undo (z)", self.undo, "take back the last decision")
        export = button("export CSV", self.export, "write decisions.csv into the run's folder")
        self.closer = ipw.Checkbox(description="open this pair in the inspector", indent=False)
        self.closer.disabled = inspector is None
        self.closer.observe(self._look, "value")
        self.looked = ipw.VBox()
        self.letters.observe(self._type, "value")
        super().__init__(
            [
                self.said,
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
                self.closer,
                self.looked,
            ]
        )
        self.next()

    def decide(self, decision: str) -> None:
        """Write a decision (a key of `decisions.DECISIONS`) on the pair shown and go on."""
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
        self.note.value = f"{WORDS[decision][0]}: {viz.label(self.current[0], 40)}"
        self.next()

    def undo(self) -> None:
        """Take back this reviewer's last decision on a pair of this run, of today or before, and show the
        pair again."""
        log = decisions.read(self.path)
        ours = [
            pair in self._score for pair in zip(log["query_id"], log["reference_id"], strict=True)
        ]
        pair = decisions.last_of(log[ours], self.reviewer.value)
        if pair is None:
            self.note.value = "nothing to take back: no decision of this reviewer holds"
            return
        try:
            decisions.append(self.path, *pair, decisions.UNDO, reviewer=self.reviewer.value)
        except store.StoreError as error:
            self.note.value = str(error)
            return
        self.note.value = f"taken back: {viz.label(pair[0], 40)}"
        self.next(pair)

    def next(self, pair: tuple[str, str] | None = None) -> None:
        """Show a pair, or the first that nobody has settled: the log is read anew, so that two people
        share one queue."""
        held = decisions.consensus(decisions.read(self.path))
        settled = set(held[["query_id", "reference_id"]].itertuples(index=False, name=None))
        left = [key for key in self._queue if key not in settled]
        self.progress.value = len(self._queue) - len(left)
        self.progress.description = f"{self.progress.value:,} of {len(self._queue):,}"
        self.current = pair or next(iter(left), None)
        self._show()

    def export(self) -> None:
        """Write what holds now to `decisions.csv` in the run folder."""
        path = self._results.run.decisions_csv
        log = decisions.read(self.path)
        decisions.export_csv(log, path)
        count = len(decisions.consensus(log))
        self.note.value = f"decided pairs: {count:,}, written to {store.show(path)}"

    def _decider(self, decision: str):
        return lambda: self.decide(decision)

    def _type(self, change: dict) -> None:
        """Letters added are decisions; letters deleted take the last ones back."""
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
        """The inspector below, on the pair to decide, as long as its box is ticked."""
        wanted = self.closer.value and self._inspector is not None
        if wanted and self.current is not None:
            self._inspector.look_at(*self.current)
        self.looked.children = (self._inspector,) if wanted else ()

    def _show(self) -> None:
        self._look()
        if self.current is None:
            self.said.value = sentence("Every pair of this run is decided.", strong=True)
            self.query.value = self.reference.value = ""
            return
        results, ids = self._results, self.current
        evidence = results.best_evidence(*ids)
        sides = list(zip(("query", "reference"), ids, strict=True))
        sizes = [results.size(side, image_id) for side, image_id in sides]
        shapes = results.outlines(*ids)
        for (side, image_id), size, shape in zip(sides, sizes, shapes, strict=True):
            jpeg = svg.small_jpeg(results.picture(side, image_id), 480)
            picture = svg.outlined(jpeg, size, shape, image_id)
            place = f'<div style="height:330px">{picture.replace("<svg ", _FIT, 1)}</div>'
            getattr(self, side).value = place + facts_table([(side, image_id)])
        score = self._score.get(ids)
        said = "" if score is None else f"Score {viz.number(score)}. Evidence: "
        self.said.value = sentence(said + evidence_in_words(evidence) + ".", strong=True)


_FIT = '<svg style="width:100%;height:100%" '
