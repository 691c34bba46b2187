# SPDX-License-Identifier: AGPL-3.0-or-later
"""What can be tried on a finished run, and what comes of it: settings, figures and previews."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from imgfp.results import Results


@dataclass(frozen=True)
class Settings:
    """The parameters that can be tried on what a run has kept, by their names."""

    local_candidates: int
    global_candidates: int
    candidates_verified: int
    candidates_scored: str
    vote_max_mean_squared_distance: float
    local_min_votes: int
    crop_min_votes: int
    global_min_similarity: float
    local_min_confidence: float
    global_min_confidence: float
    crop_max_area: float
    crop_max_aspect: float
    max_crops: int
    certain_score: float
    fusion: str
    score_threshold: float

    @classmethod
    def of(cls, results: Results) -> Settings:
        """Those of a run."""
        return cls(**{name: results.parameter(name) for name in cls.__dataclass_fields__})

    def changed(self, before: Settings) -> dict[str, Any]:
        """The parameters whose value is another one than before: lines for a profile."""
        return {
            name: value for name, value in asdict(self).items() if value != getattr(before, name)
        }

    @property
    def limits(self) -> dict[str, Any]:
        """Those of `propose.within_limits`."""
        names = ("candidates_scored", "candidates_verified", "local_min_votes", "crop_min_votes")
        return {name: getattr(self, name) for name in (*names, "global_min_similarity")}


@dataclass(frozen=True)
class Figures:
    """What a setting gives for some queries. None: not known, or never reached.

    positives: known copies. proposed: copies that each branch, and "union", proposes within the limits; only: copies that no
    other branch does. pairs: (view, reference) to verify. micro_ap, recall_at_p90, threshold_at_p90: see `Metrics`, whose target precision
    is that of the run. cut: lowest score that is reported; reported: pairs; found: copies among them.
    """

    queries: int
    positives: int
    proposed: Mapping[str, int]
    only: Mapping[str, int]
    pairs: int
    micro_ap: float | None
    recall_at_p90: float | None
    threshold_at_p90: float | None
    cut: float | None
    reported: int
    found: int | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Preview:
    """A run under other settings.

    figures: of all queries, as a run with these settings measures them; tuned, held_out: of the two halves of the queries.
    The cut of all three is chosen on `tuned`. seconds: processor time of the stages, None where the run has recorded none.
    beyond: why a run may give other figures -> number of queries; empty where it gives these. uncertain: ids of those queries; the scores
    of all others are exact. pairs: query_id, reference_id, score,
    is_true and is_known, with numbers in place of ids, best first.
    """

    settings: Settings
    figures: Figures
    tuned: Figures
    held_out: Figures
    seconds: float | None
    beyond: Mapping[str, int]
    uncertain: np.ndarray = field(repr=False)
    pairs: pd.DataFrame = field(repr=False)


#: Reasons of `Preview.beyond`.
NOT_KEPT = "candidates that the run has not kept"
NOT_VERIFIED = "pairs that the run has not verified"
OTHER_STATUS = "queries that become certain or explained, or are so no more"
OTHER_CROPS = "crops that the run has not searched, or that its vectors were found by"
NOT_COMPARED = "pairs that the run has not compared at full resolution"
OLD_EVIDENCE = "evidence of an older version, without the keypoints of the inliers"
