# SPDX-License-Identifier: AGPL-3.0-or-later
"""How often a run tells the right relation of a pair, known from the edits of its query."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from imgfp.scoring.relations import (
    CONTAINS,
    EDITED,
    PART,
    REENCODED,
    RELATIONS,
    SCENE,
    UNRELATED,
)

#: Families of edits that leave a part of the image out, that put it into something else, that change only its quality.
CROPPING = ("crop",)
PLACING = ("padding", "border", "meme", "paste", "screenshot", "collage")
QUALITY = ("jpeg", "lowres", "blur", "noise", "pixelise", "sharpen")


def confusion(
    pairs: pd.DataFrame,
    meta: pd.DataFrame,
    *,
    cropping: Iterable[str] = CROPPING,
    placing: Iterable[str] = PLACING,
    quality: Iterable[str] = QUALITY,
) -> pd.DataFrame:
    """Number of scored pairs by what they are (rows) and what they were told (columns), of the queries in the truth.

    pairs: `Results.pairs` of a run with truth; meta: `Results.meta`, with `hard_negative_of`, the reference that shows
    the same scene, where that is known. A copy that was cropped is a part, one that was placed contains its reference,
    one whose edits are all of `quality` was re-encoded; any other is an edited copy. cropping, placing, quality: names
    of edits.
    """
    known = meta.reindex(columns=["query_id", "ops", "hard_negative_of"], fill_value="")
    pairs = pairs[pairs["is_true"].notna()].merge(known, on="query_id")
    ops = [set(text.split("+")) for text in pairs["ops"]]
    cropped = np.array([not of.isdisjoint(cropping) for of in ops])
    placed = np.array([not of.isdisjoint(placing) for of in ops])
    copy = pairs["is_true"].to_numpy(bool)
    kinds = {
        REENCODED: copy & [of.issubset(quality) for of in ops],
        PART: copy & cropped & ~placed,
        CONTAINS: copy & placed & ~cropped,
        EDITED: copy,
        SCENE: pairs["reference_id"].eq(pairs["hard_negative_of"]),
    }
    found = np.select(list(kinds.values()), list(kinds), UNRELATED)
    counts = pd.crosstab(found, pairs["relation"].to_numpy(), rownames=["is"], colnames=["told"])
    rows, columns = (
        [name for name in RELATIONS if name in side] for side in (counts.index, counts)
    )
    return counts.loc[rows, columns]
