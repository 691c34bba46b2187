# SPDX-License-Identifier: AGPL-3.0-or-later
"""Queries that are references byte for byte: copies whatever their texture, without a search, unless the query is that
file itself."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from imgfp import store
from imgfp.datatypes import files_of, table
from imgfp.scoring.metrics import are_in
from imgfp.stages.inventory import resolved_paths
from imgfp.store import Library, Run


def identical_pairs(run: Run, library: Library) -> pd.DataFrame:
    """The pairs whose files have the same bytes, by SHA-256: query_id, reference_id, in order."""
    queries, references = store.open_catalogue(run), store.open_catalogue(library)
    rows = references.rows_with(queries.digests)
    known = {
        "reference_id": references.ids_at(rows),
        "sha256": references.digests.take(pa.array(rows)),
    }
    asked = {"query_id": queries.ids_at(np.arange(len(queries))), "sha256": queries.digests}
    both = pd.DataFrame(asked).merge(pd.DataFrame(known), on="sha256").astype("str")
    both = both[files_of(both["query_id"]) == both["query_id"]]  # frames are no files
    return both[["query_id", "reference_id"]].sort_values(
        ["query_id", "reference_id"], ignore_index=True
    )


def are_identical(run: Run, library: Library, pairs: pd.DataFrame) -> np.ndarray:
    """Which of these pairs (n rows query_id, reference_id) are two files of the same bytes: (n,) bool."""
    queries = store.open_catalogue(run).digests_of(pairs["query_id"].tolist())
    references = store.open_catalogue(library).digests_of(pairs["reference_id"].tolist())
    return np.array(queries, object) == np.array(references, object)


def own_pairs(run: Run, library: Library) -> pd.DataFrame:
    """Those of `identical_pairs` that are one and the same file, which is no copy of itself: files of one resolved path
    or URL, or, where one side is a copy of the other side's whole folder, of one id. All frames of such a file follow."""
    pairs = identical_pairs(run, library)
    sides = (run, pairs["query_id"]), (library, pairs["reference_id"])
    paths = (np.array(resolved_paths(side, ids.tolist()), object) for side, ids in sides)
    same_id = (pairs["query_id"] == pairs["reference_id"]).to_numpy()
    whole = {same_id.sum()} == {store.open_catalogue(side).count_files() for side in (run, library)}
    own = pairs[(next(paths) == next(paths)) | (same_id & whole)].reset_index(drop=True)
    frames = pd.Series(store.open_catalogue(library).frame_ids(), dtype="str")
    if own.empty or frames.empty:
        return own
    of_each = pd.DataFrame({"reference_id": files_of(frames), "frame_id": frames})
    more = own.merge(of_each).drop(columns="reference_id")
    return pd.concat([own, more.rename(columns={"frame_id": "reference_id"})], ignore_index=True)


def put_first(candidates: pd.DataFrame, identical: pd.DataFrame) -> pd.DataFrame:
    """Candidates of whole queries with the references that are identical to theirs first, proposed or not.

    candidates: the `candidates` table with view_id; identical: of `identical_pairs`, of these queries.
    """
    if identical.empty:
        return candidates
    absent = identical[~are_in(identical, candidates)]
    added = absent.assign(view_id=absent["query_id"], branch="local", rank=0, score=0.0)
    added = added.assign(mean_squared_distance=0.0, mirrored=False, accepted=True)
    every = pd.concat([candidates, table("candidates", added)], ignore_index=True)
    later = ~are_in(every, identical)
    order = (
        every.assign(later=later).sort_values(["query_id", "later", "rank"], kind="stable").index
    )
    every = every.loc[order].reset_index(drop=True)
    every["rank"] = every.groupby("view_id").cumcount().astype("int32")
    return every
