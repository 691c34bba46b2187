# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the pages show: plain values for the templates, computed from an opened run or look-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from imgfp import viz
from imgfp.app import answers
from imgfp.app.answers import Filter
from imgfp.report import evidence_in_words
from imgfp.results import Results, Side, homography_of
from imgfp.results.compare import marks_of, pair_matcher, warp_query
from imgfp.store import decisions
from imgfp.viz import svg
from imgfp.widgets import inspector

#: Queries on one page of the gallery, and candidates of each that are shown.
QUERIES_PER_PAGE, CANDIDATES_SHOWN = 20, 4
#: Reported queries, and others, that the page of look-ups offers to press.
EXAMPLES = 4, 2
#: Longer side of the two pictures of a pair, in pixels.
LONG_SIDE_PX = 640

#: Whether matches of the mirrored query are drawn.
MIRRORING = ("as verified", "plain", "mirrored")

Key = tuple[str, str]
_all_pairs = lru_cache(maxsize=4)(answers.all_pairs)


class Opened(NamedTuple):
    """A run or look-up at the moment of a request. pairs: of `answers.with_decisions`; decided_by: pair -> reviewer
    -> decision."""

    results: Results
    pairs: pd.DataFrame
    decided_by: Mapping[Key, Mapping[str, str]]

    @classmethod
    def now(cls, results: Results) -> Opened:
        """With the decisions as they are on disk."""
        log = decisions.read(results.decisions_path)
        pairs = answers.with_decisions(_all_pairs(results), log)
        return cls(results, pairs, decisions.by_reviewer(log))

    def check(self, query_id: str, reference_id: str) -> Key:
        """The pair, which need not be scored. Raises ValueError for an id that is not there."""
        if query_id not in self.results.query_images.index:
            raise ValueError(f"there is no query {viz.label(query_id)!r} here")
        if reference_id not in self.results.references:
            raise ValueError(f"there is no reference {viz.label(reference_id)!r} in the library")
        return query_id, reference_id


def gallery(opened: Opened, wanted: Filter, page: int) -> dict[str, Any]:
    """One page of queries with their best candidates."""
    results = opened.results
    pairs = answers.chosen(opened.pairs, wanted)
    queries = answers.queries_in_order(results, pairs, wanted)
    pairs = pairs[pairs["query_id"].isin(queries)]
    pages = max(1, -(-len(queries) // QUERIES_PER_PAGE))
    page = min(max(page, 1), pages)
    shown = queries[(page - 1) * QUERIES_PER_PAGE : page * QUERIES_PER_PAGE]
    of_page = dict(iter(pairs[pairs["query_id"].isin(shown)].groupby("query_id", sort=False)))
    every = opened.pairs[opened.pairs["query_id"].isin(shown)]
    copies = every.groupby("query_id")["reported"].sum()
    none = opened.pairs.iloc[:0]
    return {
        "cards": [
            {
                "query_id": query_id,
                "copies": int(copies.get(query_id, 0)),
                "proposed": int((every["query_id"] == query_id).sum()),
                "pairs": _candidates(opened, of_page.get(query_id, none).head(CANDIDATES_SHOWN)),
                "more": max(0, len(of_page.get(query_id, none)) - CANDIDATES_SHOWN),
            }
            for query_id in shown
        ],
        "queries": len(queries),
        "every_query": len(results.queries),
        "pairs": len(pairs),
        "page": page,
        "pages": pages,
        "threshold": "" if results.threshold is None else viz.number(results.threshold),
        "rejects": results.rejects.to_dict("records"),
    }


def looked(opened: Opened, page: int) -> dict[str, Any]:
    """One page of pictures that were looked up, with the matches of the best answer, if there is any."""
    best = opened.pairs[opened.pairs["reported"]].head(1)[answers.PAIR].to_dict("records")
    drawn = [
        {**one, **pair(opened, (one["query_id"], one["reference_id"]), Knobs())} for one in best
    ]
    return {**gallery(opened, Filter(), page), "best": drawn}


def _candidates(opened: Opened, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of `Opened.pairs` for a template."""
    names = (*answers.PAIR, "relation", "transform", "reported", "branches")
    return [
        {
            **{name: row[name] for name in names},
            "score": "" if pd.isna(row["score"]) else viz.score(row["score"]),
            "decisions": opened.decided_by.get((row["query_id"], row["reference_id"]), {}),
        }
        for row in rows.to_dict("records")
    ]


def examples(results: Results) -> list[str]:
    """Queries of a run to try a look-up with: reported ones and others, of all scores from high to low."""
    best = results.pairs[results.pairs["rank"] == 0]
    reported = best["query_id"].isin(results.reported["query_id"])
    chosen = []
    for rows, count in zip((best[reported], best[~reported]), EXAMPLES, strict=True):
        places = np.unique(np.linspace(0, max(len(rows) - 1, 0), count).round().astype(int))
        chosen += rows["query_id"].iloc[places[: len(rows)]].tolist()
    return chosen


def file_of_query(results: Results, query_id: str) -> tuple[str, bytes]:
    """Name and bytes of the file of a query. Raises ValueError where the run has none of this id, or it has gone."""
    if query_id not in results.queries.index:
        raise ValueError(f"there is no query {viz.label(query_id)!r} here")
    path = results.path("query", query_id)
    try:
        return Path(path).name, Path(path).read_bytes()
    except OSError:
        raise ValueError(f"{viz.label(path, 0)} cannot be read any more") from None


def in_order(opened: Opened, wanted: Filter) -> list[Key]:
    """The pairs that a filter lets through as the gallery shows them: query by query, best first."""
    pairs = answers.chosen(opened.pairs, wanted)
    queries = answers.queries_in_order(opened.results, pairs, wanted)
    place = pairs["query_id"].map({query: row for row, query in enumerate(queries)})
    ordered = pairs.assign(place=place).dropna(subset="place").sort_values("place", kind="stable")
    return list(zip(ordered["query_id"], ordered["reference_id"], strict=True))


def neighbours(keys: list[Key], key: Key) -> dict[str, Any]:
    """The pairs before and after one, and its place from 1; 0 where it is not among them."""
    if key not in keys:
        return {"before": None, "after": next(iter(keys), None), "place": 0, "count": len(keys)}
    place = keys.index(key)
    before = keys[place - 1] if place else None
    after = keys[place + 1] if place + 1 < len(keys) else None
    return {"before": before, "after": after, "place": place + 1, "count": len(keys)}


class Knobs(NamedTuple):
    """How a pair is matched and drawn, see `PairMatcher.matches` and `inspector.drawn_overlay`."""

    ratio: float = inspector.RATIO
    keypoints: int = 0
    mirrored: str = "as verified"
    outliers: str = "yes"
    match: int = 0
    mode: str = "blend"
    blend: float = 0.5

    @classmethod
    def of(cls, words: Mapping[str, str]) -> Knobs:
        """From the words of an address. Raises ValueError for one out of its range."""
        return cls(
            ratio=_within(words, "ratio", float, cls().ratio, 1, 3),
            keypoints=_within(words, "keypoints", int, 0, 0, 100_000),
            mirrored=_one_of(words, "mirrored", MIRRORING),
            outliers=_one_of(words, "outliers", ("yes", "no")),
            match=_within(words, "match", int, 0, 0, 100_000),
            mode=_one_of(words, "mode", inspector.OVERLAYS),
            blend=_within(words, "blend", float, cls().blend, 0, 1),
        )


def pair(opened: Opened, key: Key, knobs: Knobs) -> dict[str, Any]:
    """Everything that the inspector tells of a pair, drawn with the knobs."""
    results = opened.results
    evidence = results.best_evidence(*key)
    images = results.images_of(*key)
    sizes = results.size("query", images[0]), results.size("reference", images[1])
    pictures = results.picture("query", images[0]), results.picture("reference", images[1])
    outlines = results.outlines(*key)
    mirrored = knobs.mirrored == "mirrored"
    if knobs.mirrored == "as verified":
        mirrored = evidence is not None and bool(evidence.get("mirrored", False))
    matcher = pair_matcher(results, *key, knobs.keypoints)
    matches = matcher.matches(knobs.ratio, mirrored)
    found = len(matches.query_xy)
    drawn = svg.matches(
        svg.small_jpeg(pictures[0], LONG_SIDE_PX),
        svg.small_jpeg(pictures[1], LONG_SIDE_PX),
        *sizes,
        matches.query_xy,
        matches.reference_xy,
        matches.verification.inliers,
        matches.labels,
        outliers=knobs.outliers == "yes",
        highlight=knobs.match - 1 if 0 < knobs.match <= found else None,
        query_outline=outlines[0],
        reference_outline=outlines[1],
    )
    homography = homography_of(evidence)
    aligned = None if homography is None else warp_query(*pictures, *sizes, homography)
    marks = None
    if knobs.mode == "difference" and aligned is not None:
        marks = marks_of(results, key, pictures, aligned[1].shape[:2])
    branches, hints = inspector.explained(results, key)
    return {
        "summary": inspector.summary_of(results, key),
        "drawn": drawn,
        "matches": found,
        "in_words": inspector.matches_in_words(matches, matcher),
        "overlay": inspector.drawn_overlay(aligned, knobs.mode, knobs.blend, marks),
        "facts": inspector.fact_rows(results, key),
        "branches": branches,
        "hints": inspector.HINTS | hints,
        "knobs": knobs._asdict(),
        "unset": dict.fromkeys(Knobs._fields, ""),
        "choices": {"mirrored": MIRRORING, "outliers": ("yes", "no"), "mode": inspector.OVERLAYS},
        "decisions": opened.decided_by.get(key, {}),
    }


def side_by_side(opened: Opened, key: Key) -> dict[str, Any]:
    """Both pictures of a pair with their overlap outlined, its score, relation and evidence: what a reviewer needs."""
    results = opened.results
    images, outlines = results.images_of(*key), results.outlines(*key)
    sides: tuple[Side, Side] = ("query", "reference")
    evidence = evidence_in_words(
        results.best_evidence(*key), results.remarks(*key), len(results.groups.others(key[1]))
    )
    score = opened.pairs.loc[_is(opened.pairs, key), "score"]
    return {
        "query_id": key[0],
        "reference_id": key[1],
        "pictures": {
            side: svg.outlined(
                svg.small_jpeg(results.picture(side, image_id), LONG_SIDE_PX),
                results.size(side, image_id),
                outline,
                f"{side} {image_id}",
            )
            for side, image_id, outline in zip(sides, images, outlines, strict=True)
        },
        "score": viz.score(score.iloc[0]) if len(score) else "not scored",
        "relation": results.relation_of(*key),
        "evidence": evidence,
        "decisions": opened.decided_by.get(key, {}),
    }


def drawn_query(opened: Opened, query_id: str) -> str:
    """A query as SVG text."""
    jpeg = svg.small_jpeg(opened.results.picture("query", query_id), LONG_SIDE_PX)
    return svg.outlined(jpeg, opened.results.size("query", query_id), None, f"Query {query_id}")


def candidates_of(opened: Opened, query_id: str) -> list[dict[str, Any]]:
    """The scored candidates of a query, best first."""
    return _candidates(opened, opened.pairs[opened.pairs["query_id"] == query_id])


def _is(pairs: pd.DataFrame, key: Key) -> np.ndarray:
    return (pairs["query_id"].eq(key[0]) & pairs["reference_id"].eq(key[1])).to_numpy()


def _within(
    words: Mapping[str, str],
    name: str,
    kind: Callable[[str], Any],
    default: Any,
    low: float,
    high: float,
) -> Any:
    """A number of an address. Raises ValueError for another text, and for one out of its range."""
    text = words.get(name)
    if not text:
        return default
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, got {text!r}")
    return value


def _one_of(words: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """A word of an address, by default the first of the choices. Raises ValueError for another."""
    value = words.get(name) or choices[0]
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is none of {', '.join(choices)}")
    return value
