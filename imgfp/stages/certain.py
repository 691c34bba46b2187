# SPDX-License-Identifier: AGPL-3.0-or-later
"""Queries that their first candidates answer, so that later stages spend less on them.

A query is *certain* when notebook 03 has found a reference with a score of at least `certain_score`, and no other that
may be in it as well: it is then described in one view. It is *explained* when that reference also covers at least
`EXPLAINED` of it: nothing else can be inside, so that no crops are searched and no more pairs verified. An unexplained
one may be a collage, or have another frame.
"""

from __future__ import annotations

import pandas as pd

from imgfp import store
from imgfp.datatypes import file_of, table
from imgfp.store import Run

#: Score of another reference from which a query may be a collage of both.
ANOTHER = 0.5
#: Share of the query that the overlap with its certain reference covers.
EXPLAINED = 0.5


def read_certain(run: Run) -> pd.DataFrame:
    """The certain queries of a run, as the `certain` table; no rows before notebook 03."""
    return store.load(run.certain_parquet) if run.certain_parquet.exists() else table("certain")


def certain_queries(run: Run) -> frozenset[str]:
    """Ids of the certain queries."""
    return frozenset(read_certain(run)["query_id"])


def explained_queries(run: Run) -> frozenset[str]:
    """Ids of the certain queries that are explained; none that has several frames."""
    certain = read_certain(run)
    explained = certain.loc[certain["query_area"] >= EXPLAINED, "query_id"]
    several = map(file_of, store.open_catalogue(run).frame_ids()) if len(explained) else ()
    return frozenset(explained).difference(several)
