# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a run has found, in a few lines for a terminal: at its end, and while it goes on."""

from __future__ import annotations

from imgfp import store, text
from imgfp.results import Results
from imgfp.stages.certain import read_certain
from imgfp.stages.inventory import gather_rejects
from imgfp.store import Library, Run

#: Answers that are shown while a run goes on.
FIRST_SHOWN = 10


def conclusion(results: Results) -> list[str]:
    """What a finished run has found, and where to look. Raises StoreError before notebook 09."""
    run, metrics = results.run, results.metrics
    lines = []
    if metrics:
        figures = {
            "micro-AP": metrics["micro_ap"],
            f"recall at {metrics['target_precision']:.0%} precision": metrics["recall_at_p90"],
            "true pair proposed": metrics["candidate_recall"],
        }
        named = (f"{n} {'never' if v is None else format(v, '.4f')}" for n, v in figures.items())
        lines.append(", ".join(named))
    kept, refused = results.reported, len(results.rejects)
    copies, references = kept["query_id"].nunique(), kept["reference_id"].nunique()
    found = f"{counted(copies, 'copy')} of {counted(references, 'reference')}"
    if results.threshold is None:
        found = "no threshold is set, so no pair is reported"
    elif len(kept) != copies:
        found += f", in {counted(len(kept), 'pair')}"
    searched = f"among {counted(len(results.queries), 'query')}"
    lines.append(f"{found}, {searched}; {counted(refused, 'file')} refused")
    places = {
        "look": run.report_html,
        "table": run.matches_csv,
        "scores": run.predictions_csv,
        **({"refused": run.rejects_csv} if refused else {}),
    }
    return lines + [
        f"{name:<8} {store.show(path)}" for name, path in places.items() if path.exists()
    ]


def listed(run: Run, library: Library) -> list[str]:
    """What notebook 01 has listed; nothing before it has."""
    if not (run.catalogue.exists() and library.catalogue.exists()):
        return []
    queries, references = (store.open_catalogue(side).count_files() for side in (run, library))
    refused = len(gather_rejects(library, run))
    counts = counted(queries, "query"), counted(references, "reference"), counted(refused, "file")
    return ["{} against {}; {} refused".format(*counts)]


def first_answers(run: Run) -> list[str]:
    """The queries that notebook 03 has answered with certainty, the first of them with their references; nothing before
    it has, or where there are none."""
    certain = read_certain(run).sort_values("score", ascending=False, kind="stable")
    if not len(certain):
        return []
    references = certain["reference_id"].nunique()
    shown = certain.head(FIRST_SHOWN)[["query_id", "reference_id", "score"]]
    return [
        f"first answers: {counted(len(certain), 'copy')} of {counted(references, 'reference')} are certain already",
        *(
            f"  {text.label(query_id)} is a copy of {text.label(reference_id)} ({text.score(score)})"
            for query_id, reference_id, score in shown.itertuples(index=False, name=None)
        ),
    ]


def counted(number: int, one: str) -> str:
    """A number with its noun: "1 query", "2 queries"."""
    several = f"{one[:-1]}ies" if one.endswith("y") else f"{one}s"
    return f"{number:,} {one if number == 1 else several}"
