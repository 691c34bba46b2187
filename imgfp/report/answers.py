# SPDX-License-Identifier: AGPL-3.0-or-later
"""All answers of a run: as a table for people (`matches.csv`), and as the list on the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup

from imgfp import viz
from imgfp.datatypes import BRANCHES, files_of
from imgfp.images import decode_image
from imgfp.report.pairs import best_of_each_query, decided_pairs, edit_in_words, evidence_in_words
from imgfp.results import Results, Side, homography_of
from imgfp.results.explain import outlines
from imgfp.scoring.metrics import are_in
from imgfp.stages.inventory import gather_rejects
from imgfp.viz import svg

#: What `matches.csv` says of a query.
COPY, NO_COPY, NOT_SEARCHED, UNDECIDED = "copy", "no copy found", "not searched", "no threshold set"
#: Columns of `matches.csv`, in order.
COLUMNS = (
    "query_path", "reference_path", "verdict", "score", "relation", "edit", "query_region_xyxy",
    "reference_region_xyxy", "evidence", "proposed_by", "decision", "other_copies", "query_id", "reference_id",
)  # fmt: skip
#: Pairs that the page lists, and queries without an answer that it names; `matches.csv` has all.
MOST_PAIRS, MOST_NAMES = 20_000, 1_000
#: Queries of one page of the list.
PER_PAGE = 24
#: Longer side of a picture in the list, px -> the number of pictures up to which it is taken; beyond the last number
#: pairs have none. With these the report of 1,150 queries stays below 5 MB.
_PICTURES = {112: 1_600, 80: 2_400, 64: 3_200, 48: 4_800}

_PAIR = ["query_id", "reference_id"]
Outlines = tuple[np.ndarray | None, np.ndarray | None]
_SIDES: tuple[Side, Side] = ("query", "reference")


class Answer(NamedTuple):
    """A pair as the list shows it. images: ids of query and reference, or of their frames; sizes: their width and height
    in pixels, 0 for one that is missing; outlines: the overlap as a polygon (k,2) in the pixels of each; evidence: its row, None for a pair that was not
    verified; remarks: of `Results.remarks`."""

    query_id: str
    reference_id: str
    images: tuple[str, str]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    outlines: Outlines
    evidence: pd.Series | None
    remarks: list[str]


def listed(results: Results) -> pd.DataFrame:
    """The pairs that are listed: those reported, or without a threshold the best of each query; best first."""
    return best_of_each_query(results) if results.threshold is None else results.reported


def matches(results: Results) -> pd.DataFrame:
    """Every reported pair, then every query without one, then every file that was not searched: COLUMNS as text, blank
    where there is nothing to say. Regions are boxes "x0 y0 x1 y1" in pixels of the upright original, exclusive ends."""
    pairs = listed(results).reset_index(drop=True)
    proposers = _proposers(results, pairs)
    decided = decided_pairs(results)
    paths = _paths(results, pairs)
    rows: list[dict[str, str]] = []
    for number, answer in enumerate(answers(results, pairs)):
        ids = answer.query_id, answer.reference_id
        pair = pairs.iloc[number]
        rows.append(
            {
                "query_path": paths["query"].get(ids[0], ""),
                "reference_path": paths["reference"].get(ids[1], ""),
                "verdict": UNDECIDED if results.threshold is None else COPY,
                "score": viz.number(pair["score"]),
                "relation": pair["relation"],
                "edit": edit_in_words(answer.evidence),
                "query_region_xyxy": _region(answer.outlines[0], answer.sizes[0]),
                "reference_region_xyxy": _region(answer.outlines[1], answer.sizes[1]),
                "evidence": evidence_in_words(answer.evidence, answer.remarks),
                "proposed_by": proposers.get(ids, ""),
                "decision": decided.get(ids, "").replace("_", " "),
                "other_copies": "; ".join(results.groups.others(ids[1])),
                **dict(zip(_PAIR, ids, strict=True)),
            }
        )
    left = without_answer(results)
    for query_id, path in zip(left, results.paths("query", left), strict=True):
        verdict = UNDECIDED if results.threshold is None else NO_COPY
        rows.append({"query_path": path, "query_id": query_id, "verdict": verdict})
    for side, collection in zip(_SIDES, (results.run, results.library), strict=True):
        refused = gather_rejects(collection)
        for path, reason in refused[["path", "reason"]].itertuples(index=False):
            rows.append({f"{side}_path": path, "verdict": NOT_SEARCHED, "evidence": reason})
    return pd.DataFrame(rows, columns=[*COLUMNS], dtype="str").fillna("")


def without_answer(results: Results) -> list[str]:
    """Ids of the queries of which no pair is listed, in the order of their ids."""
    ids = results.queries.index
    return sorted(ids[~ids.isin(listed(results)["query_id"])].tolist())


def answers(results: Results, pairs: pd.DataFrame) -> Iterator[Answer]:
    """Each of the pairs (n rows query_id, reference_id), with its best evidence as of `Results.best_evidence`."""
    evidence = _best_evidence(results, pairs)
    images = [_images(results, *ids, row) for ids, row in zip(_ids(pairs), evidence, strict=True)]
    sizes: dict[Side, dict[str, tuple[int, int]]] = {}
    remarks: dict[Side, dict[str, list[str]]] = {}
    for at, side in enumerate(_SIDES):
        ids = results.present(side, [pair[at] for pair in images])
        sizes[side] = {
            i: (w, h) for i, (w, h) in zip(ids, results.sizes(side, ids).tolist(), strict=True)
        }
        remarks[side] = dict(zip(ids, results.remarks_on(side, ids), strict=True))
    for (query_id, reference_id), row, (query, reference) in zip(
        _ids(pairs), evidence, images, strict=True
    ):
        both = sizes["query"].get(query, (0, 0)), sizes["reference"].get(reference, (0, 0))
        overlap: Outlines = (None, None)
        if row is not None and all(map(all, both)):
            overlap = outlines(homography_of(row), *both, results.box_of(row["view_id"]))
        said = [*remarks["query"].get(query, ()), *remarks["reference"].get(reference, ())]
        yield Answer(query_id, reference_id, (query, reference), both, overlap, row, said)


def section(results: Results) -> dict[str, Any]:
    """The list of the report: its queries by page, each with its pictures and answers, and what is said about it."""
    every = listed(results)
    pairs = every.head(MOST_PAIRS).reset_index(drop=True)
    shown = list(answers(results, pairs))
    by_query: dict[str, list[int]] = {}
    for number, answer in enumerate(shown):
        by_query.setdefault(answer.query_id, []).append(number)
    draw = _Pictures(results, [[shown[number] for number in of] for of in by_query.values()])
    decided = decided_pairs(results)
    queries = []
    for query_id, numbers in by_query.items():
        rows = pairs.iloc[numbers]
        of_query = [shown[number] for number in numbers]
        queries.append(
            {
                "id": viz.label(query_id, 60),
                "score": float(rows["score"].iloc[0]),
                "picture": draw.query(of_query),
                "answers": [
                    _item(row, answer, draw, decided)
                    for row, answer in zip(rows.to_dict("records"), of_query, strict=True)
                ],
            }
        )
    left = without_answer(results)
    return {
        "pages": [queries[at : at + PER_PAGE] for at in range(0, len(queries), PER_PAGE)],
        "queries": every["query_id"].nunique(),
        "pairs": len(every),
        "more": len(every) - len(pairs),
        "decided": results.threshold is not None,
        "pictured": draw.complete,
        "left": len(left),
        "left_names": [viz.label(query_id, 60) for query_id in left[:MOST_NAMES]],
    }


def _item(
    row: dict[Any, Any], answer: Answer, draw: _Pictures, decided: dict[tuple[str, str], str]
) -> dict[str, Any]:
    words = [edit_in_words(answer.evidence), *answer.remarks]
    known = "is_true" in row and not pd.isna(row["is_true"])
    return {
        "id": viz.label(answer.reference_id, 60),
        "score": viz.score(row["score"]),
        "picture": draw.reference(answer),
        "relation": row["relation"],
        "words": "; ".join(filter(None, words)),
        "reviewed": decided.get((answer.query_id, answer.reference_id), "").replace("_", " "),
        "wrong": bool(known and not row["is_true"]),
    }


class _Pictures:
    """The pictures of the list, as small as their number asks."""

    def __init__(self, results: Results, groups: Sequence[Sequence[Answer]]) -> None:
        """groups: the answers of each query, in the order of the list; `complete` tells whether all have pictures."""
        wanted = sum(1 + len(answers) for answers in groups)
        sides = [side for side, most in _PICTURES.items() if wanted <= most]
        self.long_side_px = max(sides, default=min(_PICTURES))
        self.complete = bool(sides)
        left = max(_PICTURES.values())
        images: dict[Side, dict[str, None]] = {"query": {}, "reference": {}}
        for answers in groups:
            left -= 1 + len(answers)
            if left < 0:
                break
            images["query"][answers[0].images[0]] = None
            images["reference"].update(dict.fromkeys(answer.images[1] for answer in answers))
        self._jpegs: dict[Side, dict[str, bytes]] = {}
        for side, ids in images.items():
            present = results.present(side, list(ids))
            self._jpegs[side] = dict(zip(present, results.jpegs(side, present), strict=True))

    def query(self, answers: Sequence[Answer]) -> Markup:
        """The query, with what of it each answer explains."""
        image = answers[0].images[0]
        overlaps = [answer.outlines[0] for answer in answers if answer.images[0] == image]
        return self._draw("query", image, answers[0].sizes[0], overlaps)

    def reference(self, answer: Answer) -> Markup:
        """The reference of an answer, with the overlap."""
        return self._draw("reference", answer.images[1], answer.sizes[1], [answer.outlines[1]])

    def _draw(
        self,
        side: Side,
        image: str,
        size: tuple[int, int],
        overlaps: Sequence[np.ndarray | None],
    ) -> Markup:
        jpeg = self._jpegs[side].get(image)
        if jpeg is None:
            return Markup()
        drawn = [overlap for overlap in overlaps if overlap is not None]
        pixels = decode_image(jpeg, image)[0]
        return Markup(svg.thumbnail(pixels, self.long_side_px, size, drawn, f"{side} {image}"))


def _ids(pairs: pd.DataFrame) -> Iterator[tuple[str, str]]:
    return pairs[_PAIR].itertuples(index=False, name=None)


def _best_evidence(results: Results, pairs: pd.DataFrame) -> list[pd.Series | None]:
    """Of each pair the row that `Results.best_evidence` gives, for all at once."""
    evidence = results.evidence
    files = evidence[["query_id"]].assign(reference_id=files_of(evidence["reference_id"]))
    rows = np.flatnonzero(are_in(files, pairs))
    found = files.iloc[rows].assign(row=rows)
    if "inliers" in evidence:
        inliers = evidence["inliers"].to_numpy()[rows]
        found = found.iloc[np.argsort(-inliers, kind="stable")]
    best = found.drop_duplicates(_PAIR)
    row_of = dict(zip(_ids(best), best["row"].tolist(), strict=True))
    at = [row_of.get(ids) for ids in _ids(pairs)]
    return [None if row is None else evidence.iloc[row] for row in at]


def _images(
    results: Results, query_id: str, reference_id: str, evidence: pd.Series | None
) -> tuple[str, str]:
    """See `Results.images_of`."""
    if evidence is None:
        return query_id, reference_id
    return results.image_of(evidence["view_id"]), evidence["reference_id"]


def _paths(results: Results, pairs: pd.DataFrame) -> dict[Side, dict[str, str]]:
    paths: dict[Side, dict[str, str]] = {}
    for side in _SIDES:
        ids = results.present(side, pairs[f"{side}_id"].tolist())
        paths[side] = dict(zip(ids, results.paths(side, ids), strict=True))
    return paths


def _proposers(results: Results, pairs: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Pair -> the branches that proposed it, in words."""
    candidates = results.candidates[[*_PAIR, "branch"]]
    of_pairs = candidates[are_in(candidates, pairs)].drop_duplicates()
    found: dict[tuple[str, str], set[str]] = {}
    for query_id, reference_id, branch in of_pairs.itertuples(index=False, name=None):
        found.setdefault((query_id, reference_id), set()).add(branch)
    return {ids: " + ".join(b for b in BRANCHES if b in found[ids]) for ids in found}


def _region(outline: np.ndarray | None, size: tuple[int, int]) -> str:
    """The box around a polygon (k,2), clipped to the image: "x0 y0 x1 y1", whole pixels, exclusive ends."""
    if outline is None or not np.isfinite(outline).all():
        return ""
    low = np.floor(outline.min(0)).clip(0, size)
    high = np.ceil(outline.max(0)).clip(0, size)
    return " ".join(f"{value:.0f}" for value in [*low, *high])
