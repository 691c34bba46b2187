# SPDX-License-Identifier: AGPL-3.0-or-later
"""The answers of a run as tables: every pair with its decision, filtered, sorted, and queued for review."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import get_args, get_type_hints

import numpy as np
import pandas as pd

from imgfp.datatypes import BRANCHES, files_of
from imgfp.results import Results
from imgfp.scoring.relations import RELATIONS
from imgfp.store import decisions

PAIR = ["query_id", "reference_id"]
#: Choice of the filter `decided` -> its words.
DECIDED = {
    "": "decided or not",
    "no": "not decided",
    "yes": "decided",
    "conflict": "reviewers disagree",
    **{name: name.replace("_", " ") for name in decisions.DECISIONS},
}
VERDICTS = {"": "any verdict", "copy": "copies", "none": "no copy"}
SORTS = {
    "score": "highest score first",
    "lowest": "lowest score first",
    "cut": "nearest to the threshold first",
    "copies": "most copies first",
    "name": "by name",
}


@dataclass(frozen=True)
class Filter:
    """Which pairs are shown. score_from, score_to: limits, None for none. text: part of the id of the query or
    reference. edit: part of the edit in words. "" in any other field: no condition."""

    score_from: float | None = None
    score_to: float | None = None
    relation: str = ""
    branch: str = ""
    decided: str = ""
    verdict: str = ""
    edit: str = ""
    text: str = ""
    sort: str = "score"

    @classmethod
    def of(cls, words: Mapping[str, str]) -> Filter:
        """From the words of an address; others are not looked at. Raises ValueError for one that means nothing."""
        given = {name.name: words[name.name] for name in fields(cls) if words.get(name.name)}
        numbers = [name for name, kind in get_type_hints(cls).items() if float in get_args(kind)]
        known = {"relation": RELATIONS, "branch": BRANCHES, "decided": DECIDED}
        known |= {"verdict": VERDICTS, "sort": SORTS}
        for name, choices in known.items():
            if name in given and given[name] not in choices:
                raise ValueError(
                    f"{name}: {given[name]!r} is none of {', '.join(filter(None, choices))}"
                )
        values: dict[str, str | float] = dict(given)
        for name in set(numbers) & set(given):
            try:
                values[name] = float(given[name])
            except ValueError:
                raise ValueError(
                    f"{name.replace('_', ' ')}: {given[name]!r} is no number"
                ) from None
            if not math.isfinite(float(values[name])):
                raise ValueError(f"{name.replace('_', ' ')}: {given[name]!r} is no number")
        return cls(**values)  # type: ignore[arg-type]

    @property
    def limits_pairs(self) -> bool:
        """Whether a query without any candidate is left out."""
        only_queries = Filter(verdict=self.verdict, text=self.text, sort=self.sort)
        return self != only_queries or self.verdict == "copy"


def all_pairs(results: Results) -> pd.DataFrame:
    """`Results.pairs` with `reported` (bool: at or above the threshold), `branches` (names joined by "+") and `transform`
    (the edit in words, "" where none was found)."""
    pairs = results.pairs
    proposed = results.candidates[[*PAIR, "branch"]].drop_duplicates()
    order = pd.CategoricalDtype([*BRANCHES], ordered=True)
    proposed = proposed.assign(branch=proposed["branch"].astype(order)).sort_values("branch")
    proposed = proposed.astype({"branch": str})
    named = proposed.groupby(PAIR, sort=False)["branch"].agg("+".join).rename("branches")
    for facts in (named.reset_index(), _edits(results)):
        pairs = pairs.merge(facts, on=PAIR, how="left", sort=False)
    pairs = pairs.fillna({"branches": "", "transform": ""})
    cut = math.inf if results.threshold is None else results.threshold
    return pairs.assign(reported=pairs["score"] >= cut)


def _edits(results: Results) -> pd.DataFrame:
    """The transform in words of the view of each pair with the most inliers: query_id, reference_id, transform."""
    evidence = results.evidence
    if not {"inliers", "transform"} <= set(evidence):  # of an older version
        return pd.DataFrame(columns=[*PAIR, "transform"], dtype="str")
    best = evidence.assign(reference_id=files_of(evidence["reference_id"]))
    best = best.sort_values("inliers", ascending=False, kind="stable").drop_duplicates(PAIR)
    return best[[*PAIR, "transform"]]


def with_decisions(pairs: pd.DataFrame, log: pd.DataFrame) -> pd.DataFrame:
    """Pairs with `decision`, the last one ("" where there is none), and `conflicting` (bool: reviewers disagree)."""
    held = decisions.consensus(log)[[*PAIR, "decision", "conflicting"]]
    joined = pairs.merge(held, on=PAIR, how="left", sort=False, validate="one_to_one")
    joined["conflicting"] = joined["conflicting"].eq(True)
    return joined.fillna({"decision": ""})


def chosen(pairs: pd.DataFrame, wanted: Filter) -> pd.DataFrame:
    """The pairs of `with_decisions` that a filter lets through, in their order."""
    keep = np.ones(len(pairs), bool)
    if wanted.score_from is not None:
        keep &= pairs["score"] >= wanted.score_from
    if wanted.score_to is not None:
        keep &= pairs["score"] <= wanted.score_to
    if wanted.relation:
        keep &= pairs["relation"] == wanted.relation
    if wanted.branch:
        keep &= pairs["branches"].str.split("+").map(lambda names: wanted.branch in names)
    if wanted.decided == "conflict":
        keep &= pairs["conflicting"]
    elif wanted.decided in ("yes", "no"):
        keep &= (pairs["decision"] != "") == (wanted.decided == "yes")
    elif wanted.decided:
        keep &= pairs["decision"] == wanted.decided
    if wanted.verdict == "copy":
        keep &= pairs["reported"]
    if wanted.edit:
        keep &= pairs["transform"].str.contains(wanted.edit, case=False, regex=False)
    if wanted.text:
        keep &= np.any(
            [pairs[name].str.contains(wanted.text, regex=False) for name in PAIR], axis=0
        )
    return pairs[keep]


def queries_in_order(results: Results, pairs: pd.DataFrame, wanted: Filter) -> list[str]:
    """The queries that a gallery shows, those of `chosen` pairs and, where the filter does not ask for pairs, those
    without any."""
    ids = results.queries.index
    facts = pairs.groupby("query_id", sort=False).agg(
        best=("score", "max"), copies=("reported", "sum")
    )
    if wanted.limits_pairs:
        facts = facts[facts.index.isin(ids)]
    else:
        named = ids[ids.str.contains(wanted.text, regex=False)]
        facts = facts.reindex(named.union(facts.index.intersection(ids), sort=False))
    facts = facts.fillna({"best": -math.inf, "copies": 0})
    if wanted.verdict == "none":
        facts = facts[facts["copies"] == 0]
    cut = 0.0 if results.threshold is None else results.threshold
    keys = {
        "score": -facts["best"],
        "lowest": facts["best"],
        "cut": (facts["best"] - cut).abs(),
        "copies": -facts["copies"],
        "name": pd.Series(0, facts.index),
    }
    order = np.lexsort((facts.index.to_numpy(str), keys[wanted.sort].to_numpy(float)))
    return facts.index[order].tolist()


def to_review(pairs: pd.DataFrame) -> pd.DataFrame:
    """The queue: pairs of `with_decisions` that are reported and not decided, or that reviewers disagree on, lowest
    score first, since there a decision changes most."""
    open_ = pairs["reported"] & pairs["decision"].eq("")
    return pairs[open_ | pairs["conflicting"]].iloc[::-1]
