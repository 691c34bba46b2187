# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a run finds of the queries of a robustness lab, by family of edits, strength and branch.

The copies of a family and strength are measured against all unrelated queries of the lab, so that precision means something
and no group is favoured by its own negatives.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from imgfp.datatypes import BRANCHES
from imgfp.geometry import corners_of, overlap_of, project
from imgfp.results import Results, homography_of
from imgfp.scoring.errors import MISSED, edit_groups
from imgfp.scoring.metrics import are_in, bootstrap, measure
from imgfp.scoring.thresholds import wilson

#: All families together, and all branches together.
ALL = "all"
#: A corner error, as a share of the diagonal, up to which a region counts as recovered.
ALIGNED = 0.01
#: The curves that have a point and an interval each.
MEASURES = ("micro_ap", "recall_at_p90", "proposed", "found", "aligned")


def curves(
    results: Results, meta: pd.DataFrame, *, target_precision: float, rounds: int, seed: int
) -> pd.DataFrame:
    """One row per family, strength and branch, ALL families and all strengths (NaN) included.

    meta: of `benchmarks.edited_queries.make`. Columns family, strength, branch, copies, then with `_low` and `_high` (95 % intervals):
    micro_ap, recall_at_p90 (bootstrap over queries; of the pairs that the branch proposes), proposed (share of copies
    whose pair is among its candidates), found (of these, those at the run's threshold or above), aligned (of all branches only:
    share whose corner error is at most ALIGNED, of the copies with an exact homography); last corner_error, its median.
    rounds: of the bootstrap, 0 for no intervals of the first two.
    """
    proposals = results.candidates[["query_id", "reference_id", "branch"]].drop_duplicates()
    scored = results.predictions[["query_id", "reference_id", "score"]]
    scored = scored.assign(is_true=are_in(scored, meta))
    every = meta.assign(corner_error=corner_errors(results, meta))
    rows = []
    for branch in (ALL, *BRANCHES):
        proposed = proposals if branch == ALL else proposals[proposals["branch"] == branch]
        ranked = scored[are_in(scored, proposed)]
        every["proposed"] = are_in(every, proposed)
        every["found"] = are_in(every, ranked[ranked["score"] >= _threshold(results)])
        for family, strength, part in _groups(every):
            copies = part[part["reference_id"] != ""]
            row = {"family": family, "strength": strength, "branch": branch, "copies": len(copies)}
            own = _that_count(ranked[ranked["query_id"].isin(part["query_id"])])
            pairs = own["score"].to_numpy(), own["is_true"].to_numpy()
            values = measure(*pairs, len(copies), target_precision)
            row |= {"micro_ap": values[0], "recall_at_p90": values[1] or 0.0}
            if rounds:
                interval = bootstrap(
                    own, part, target_precision=target_precision, rounds=rounds, seed=seed
                )
                for name in ("micro_ap", "recall_at_p90"):
                    row[f"{name}_low"], row[f"{name}_high"] = interval.loc[name, ["low", "high"]]
            row |= _share("proposed", copies["proposed"]) | _share("found", copies["found"])
            if branch == ALL:
                exact = copies[copies["homography"].notna()]
                row |= _share("aligned", exact["corner_error"] <= ALIGNED)
                row["corner_error"] = exact["corner_error"].median()
            rows.append(row)
    columns = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    first = ["family", "strength", "branch", "copies"]
    return pd.DataFrame(rows).reindex(columns=[*first, *columns, "corner_error"])


def _groups(meta: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """Family, strength and queries of each group: its copies and all unrelated queries."""
    unrelated = meta["reference_id"] == ""
    families = [ALL, *dict.fromkeys(meta.loc[~unrelated, "family"])]
    strengths = [float("nan"), *sorted(set(meta.loc[~unrelated, "strength"]))]
    for family in families:
        of_family = ~unrelated if family == ALL else meta["family"] == family
        for strength in strengths:
            chosen = of_family if np.isnan(strength) else of_family & (meta["strength"] == strength)
            yield family, strength, meta[chosen | unrelated]


def _that_count(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs that score at least as high as the lowest true one: no other changes a metric, in any sample of queries."""
    return pairs[pairs["score"] >= pairs.loc[pairs["is_true"], "score"].min()]


def _share(name: str, hits: pd.Series) -> dict[str, float]:
    """A share of copies with its Wilson interval; NaN without any."""
    if not len(hits):
        return {}
    share = pd.Series([hits.mean()])
    low, high = wilson(share, pd.Series([len(hits)]))
    return {name: share[0], f"{name}_low": low[0], f"{name}_high": high[0]}


def _threshold(results: Results) -> float:
    return np.inf if results.threshold is None else results.threshold


def corner_errors(results: Results, meta: pd.DataFrame) -> np.ndarray:
    """Corner error (n,) of the region that the run recovered of each copy, as a share of the reference's diagonal.

    The corners are those of the part of the reference that the query shows, mapped by the true homography and back by the
    recovered one; their mean distance counts. NaN for a pair that was not verified, or without one of the two.
    """
    errors = np.full(len(meta), np.nan)
    known = are_in(meta, results.evidence) & meta["homography"].notna().to_numpy()
    for row in np.flatnonzero(known):
        query_id, reference_id, true = meta[["query_id", "reference_id", "homography"]].iloc[row]
        found = homography_of(results.best_evidence(query_id, reference_id))
        if found is not None:
            sizes = results.size("query", query_id), results.size("reference", reference_id)
            errors[row] = corner_error(true, found, *sizes)
    return errors


def corner_error(
    true: np.ndarray,
    found: np.ndarray,
    query_size: tuple[int, int],
    reference_size: tuple[int, int],
) -> float:
    """See `corner_errors`. true: reference pixel -> query pixel; found: query pixel -> reference pixel, both (3,3) of pixel
    centres; sizes: width and height, px. Infinite where a corner is mapped to infinity."""
    region = overlap_of(corners_of(*query_size), corners_of(*reference_size), np.linalg.inv(true))
    if not len(region):
        return float("nan")
    distances = np.linalg.norm(project(found, project(true, region)) - region, axis=1)
    return float(np.nan_to_num(distances.mean(), nan=np.inf) / np.hypot(*reference_size))


def fates(results: Results, meta: pd.DataFrame) -> pd.DataFrame:
    """What became of the copies with each edit, the worst first: edit (also where it was a further one), copies, proposed, found
    (shares, at the threshold of the run), and the number of the missed by cause, see `scoring.errors.MISSED`."""
    copies = meta[meta["reference_id"] != ""]
    missed = results.errors[results.errors["kind"] == "missed"].set_index("query_id")["cause"]
    copies = copies.assign(
        proposed=are_in(copies, results.candidates),
        cause=[missed.get(query_id, "") for query_id in copies["query_id"]],
    )
    every = edit_groups(copies).rename(columns={"group": "edit"}).merge(copies, on="query_id")
    every["found"] = every["cause"] == ""
    causes = pd.crosstab(every["edit"], every["cause"]).reindex(columns=MISSED, fill_value=0)
    of_edit = every.groupby("edit")
    shares = of_edit[["proposed", "found"]].mean()
    table = pd.concat([of_edit.size().rename("copies"), shares, causes], axis=1)
    return table.sort_values(["found", "proposed"]).reset_index()


def differences(
    results: Results,
    other: Results,
    meta: pd.DataFrame,
    *,
    target_precision: float,
    rounds: int,
    seed: int,
) -> pd.DataFrame:
    """`metrics.bootstrap` of one run against another of the same queries, by family, over all strengths: family, metric and
    its columns (`baseline` is the other run). Raises ValueError where the other has other queries."""
    runs = []
    for run in (results, other):
        if run.truth is None or set(run.truth["query_id"]) != set(meta["query_id"]):
            raise ValueError(
                f"{run.run.root} has other queries; a lab of the same design and photographs can be compared"
            )
        scored = run.predictions[["query_id", "reference_id", "score"]]
        runs.append(scored.assign(is_true=are_in(scored, meta)))
    tables = []
    for family, strength, part in _groups(meta):
        if not np.isnan(strength):
            continue
        own = [_that_count(run[run["query_id"].isin(part["query_id"])]) for run in runs]
        compared = bootstrap(
            *(own[0], part, own[1]), target_precision=target_precision, rounds=rounds, seed=seed
        )
        tables.append(compared.rename_axis("metric").reset_index().assign(family=family))
    table = pd.concat(tables, ignore_index=True)
    return table[["family", *table.columns.drop("family")]]
