# SPDX-License-Identifier: AGPL-3.0-or-later
"""A finished run under other settings, computed from the boxes, candidates and evidence that it has kept.

Nothing is searched or verified: fewer candidates than the run has kept can be tried, more cannot. Where a setting needs
what was not kept, the preview says of how many queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import BRANCHES
from imgfp.results import Results
from imgfp.results.previews import (
    NOT_COMPARED,
    NOT_KEPT,
    NOT_VERIFIED,
    OLD_EVIDENCE,
    OTHER_CROPS,
    OTHER_STATUS,
    Figures,
    Preview,
    Settings,
)
from imgfp.results.tables import Tables, numbers_of
from imgfp.scoring import fusion
from imgfp.scoring.metrics import measure
from imgfp.search.propose import within_limits
from imgfp.stages.certain import EXPLAINED, read_certain
from imgfp.stages.search import one_member_each
from imgfp.stages.verification import are_first, certain_pairs
from imgfp.verify.evidence import are_shared_by_many

_PAIR = ["query_id", "reference_id"]


class Replay(Tables):
    """A finished run, prepared for `preview`."""

    def __init__(self, results: Results, seed: int = 0, settings: Settings | None = None) -> None:
        """seed: of the halves of the queries, which have no reference in common; settings: that previews are compared with, None
        for those of the run. Raises StoreError, naming the notebook to run, for a run without evidence of this version."""
        super().__init__(results, seed)
        self._own = Settings.of(results)
        self.settings = settings or self._own
        path = store.located(results.named_path("fusion_model", "03"))
        self._certain_model = fusion.load_model(path, results.parameter("descriptor_model", "03"))
        model = fusion.load_model(
            store.located(results.named_path("fusion_model")), results.descriptor
        )
        self._model = fusion.with_expected_copies(model, results.parameter("expected_copies"))
        certain = read_certain(results.run)
        query = numbers_of(certain["query_id"], self.query_ids)
        self._certain = pd.DataFrame({"query_id": query, "query_area": certain["query_area"]})
        self._keep_verified()
        refused = self._shared(self._first, self._later)[1]
        self._were_compared = self._compared(self._first, self._later, refused)

    def _keep_verified(self) -> None:
        """Which rows of evidence (n+1,) bool the run has measured in notebook 03, and which in 08."""
        kept, _, _, self._crop_count = self._kept(self._own)
        self._first = self._at_first(kept, self._own)[1]
        self._first, self._later = self._verified(kept, self._own)[:2]

    @cached_property
    def base(self) -> Preview:
        """The run under its own settings, or those to compare with."""
        return self.preview(self.settings)

    def preview(self, settings: Settings) -> Preview:
        """The figures of a run with these settings."""
        nobody = np.zeros(len(self.query_ids), bool)
        kept, not_kept, other_crops, crops = self._kept(settings)
        first, later, certain, missing = self._verified(kept, settings)
        distinct, refused = self._shared(first, later)
        compared = self._compared(first, later, refused)
        beyond = {
            NOT_KEPT: not_kept,
            NOT_VERIFIED: missing,
            OTHER_STATUS: self._other_status(certain),
            OTHER_CROPS: other_crops,
            NOT_COMPARED: self._queries_of(compared & ~self._were_compared),
            OLD_EVIDENCE: ~nobody if self._is_old else nobody,
        }
        joined = self._joined(kept, first | later, distinct, refused, compared)
        good_enough = within_limits(kept, kept["identical"].to_numpy(), **settings.limits)
        counted = joined[good_enough] if settings.fusion == "sum" else joined
        pairs = self._judged(fusion.merge(counted, settings.fusion, self._model))
        proposed = self._proposed(kept[good_enough])
        verified = self._evidence_query[(first | later)[:-1]]
        each = pairs, proposed, np.bincount(verified, minlength=len(nobody))
        cut: float | None = settings.score_threshold or None
        if cut is None:
            cut = self._figures(self.is_tuned, *each, None).threshold_at_p90
            cut = 0.5 if cut is None and settings.fusion == "calibrated" else cut
        return Preview(
            settings,
            figures=self._figures(~nobody, *each, cut),
            tuned=self._figures(self.is_tuned, *each, cut),
            held_out=self._figures(~self.is_tuned, *each, cut),
            seconds=self._seconds(len(verified), crops),
            beyond={why: int(of.sum()) for why, of in beyond.items() if of.any()},
            uncertain=self.query_ids[np.any([*beyond.values()], axis=0)],
            pairs=pairs,
        )

    def scores(self, source: str, measure: str) -> tuple[np.ndarray, np.ndarray | None]:
        """A measure of the candidates of a branch, of "boxes", of the "evidence", or of the "pairs" that the run has scored: of
        copies and of others; where no copy is known, and of boxes, of all, and None."""
        rows = self.base.pairs if source == "pairs" else self.measured(source, measure)
        values = rows[measure].to_numpy()
        if source == "boxes" or not len(self._positive):
            return values, None
        is_copy = np.isin(self._pair_of(rows), self._positive)
        return values[is_copy], values[~is_copy]

    def predictions(self, preview: Preview) -> pd.DataFrame:
        """The scored pairs of a preview, best first: query_id, reference_id, score."""
        return pd.DataFrame(
            {
                "query_id": self.query_ids[preview.pairs["query_id"]],
                "reference_id": self.reference_ids[preview.pairs["reference_id"]],
                "score": preview.pairs["score"],
            }
        )

    def changes(self, preview: Preview) -> pd.DataFrame:
        """The pairs that only one of the run and the preview reports, each at its own cut: query_id, reference_id, score (in the one
        that reports it), is_true (NA: not known), change ("lost" or "gained"); copies first, then by score."""
        sides = {"lost": self.base, "gained": preview}
        reported = {}
        for change, side in sides.items():
            cut = np.inf if side.figures.cut is None else side.figures.cut
            reported[change] = side.pairs[side.pairs["score"] >= cut].assign(change=change)
        every = pd.concat(reported.values(), ignore_index=True)
        only = every[~every.duplicated(_PAIR, keep=False)]
        only = only.sort_values(["is_true", "score"], ascending=False, kind="stable")
        return pd.DataFrame(
            {
                "query_id": self.query_ids[only["query_id"]],
                "reference_id": self.reference_ids[only["reference_id"]],
                "score": only["score"].to_numpy(),
                "is_true": only["is_true"].astype("boolean").where(only["is_known"]).array,
                "change": only["change"].to_numpy(),
            }
        )

    def _kept(self, settings: Settings) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, int]:
        """The candidates that a run with these settings has; the queries (q,) bool of which more are needed than were kept, and those whose
        crops are others than were searched; the number of crops."""
        rows, before = self._candidates, self._own
        by_vectors = (rows["branch"] == "global").to_numpy()
        place, query, view = (rows[n].to_numpy() for n in ("place", "query_id", "view_id"))
        kept = place < np.where(by_vectors, settings.global_candidates, settings.local_candidates)
        kept |= (rows["identical"] & (rows["branch"] == "local")).to_numpy()
        last = np.where(by_vectors, before.global_candidates, before.local_candidates) - 1
        more = np.where(
            by_vectors,
            settings.global_candidates > before.global_candidates,
            settings.local_candidates > before.local_candidates,
        )
        not_kept, other_crops = np.zeros((2, len(self.query_ids)), bool)
        not_kept[query[more & (place >= last)]] = True
        accepted, unknown = self._accepted(settings)
        not_kept[query[unknown]] = True
        (boxes, single), (boxes_before, single_before) = map(self._crops_of, (settings, before))
        if boxes is not boxes_before or single is not single_before:
            cut_out = pd.concat([boxes, single])
            other_crops[cut_out.loc[cut_out["crop_id"].isna(), "image_id"]] = True
            if self.results.parameter("global_described") == "sure":
                other = pd.concat([single, single_before]).drop_duplicates(keep=False)
                other_crops[other["image_id"]] = True
            gone = self._is_crop.copy()
            gone[cut_out.loc[cut_out["view_id"] >= 0, "view_id"]] = False
            other_crops[query[kept & gone[view] & by_vectors]] = True
            kept &= ~gone[view]
        table = rows[kept].assign(accepted=accepted[kept])
        table = one_member_each(table) if self._has_groups else table.reset_index(drop=True)
        return table, not_kept, other_crops, len(pd.concat([boxes, single]).drop_duplicates())

    def _accepted(self, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        """Which candidates (n,) bool the rule of their branch accepts, and of which that is not known: a higher limit of the
        distance accepts some that the run has rejected, perhaps for fewer votes than the runner-up had."""
        rows = self._candidates
        accepted = rows["accepted"].to_numpy()
        limit, before = (one.vote_max_mean_squared_distance for one in (settings, self._own))
        if settings.candidates_scored == "all" or limit == before:
            return accepted, np.zeros(len(rows), bool)
        by_votes = (rows["branch"] != "global").to_numpy()
        distance = rows["mean_squared_distance"].to_numpy()
        unknown = by_votes & ~accepted & (distance >= before) & (distance < limit)
        return accepted & ~(by_votes & (distance >= limit)), unknown

    def _crops_of(self, settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The boxes that the rule takes at both operating points, local and global."""
        names = ("local_min_confidence", "global_min_confidence", "max_crops", "crop_max_area", "crop_max_aspect")  # fmt: skip
        return self._cut_out(*(getattr(settings, name) for name in names))

    def _verified(
        self, kept: pd.DataFrame, settings: Settings
    ) -> tuple[np.ndarray, np.ndarray, pd.DataFrame, np.ndarray]:
        """Which rows of evidence (n+1,) bool notebooks 03 and 08 measure of these candidates; the certain queries, with query_area; the queries (q,)
        bool of which a pair was not verified."""
        row, identical = self._row_of(kept), kept["identical"].to_numpy()
        chosen, first = self._at_first(kept, settings)
        certain = self._certain_of(kept[chosen], first, settings)
        is_explained = np.zeros(len(self.query_ids), bool)
        is_explained[certain.loc[certain["query_area"] >= EXPLAINED, "query_id"]] = True
        query = kept["query_id"].to_numpy()
        rest = within_limits(kept, identical, **settings.limits) & ~is_explained[query]
        later = self._rows(row[rest])
        missing = np.zeros(len(self.query_ids), bool)
        missing[query[(row == len(first) - 1) & (chosen | rest)]] = True
        return first, later & ~first, certain, missing

    def _at_first(self, kept: pd.DataFrame, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        """Which of these candidates (n,) bool notebook 03 verifies, and which rows of evidence it measures."""
        identical, limits = kept["identical"].to_numpy(), settings.limits
        known = {name: limits[name] for name in ("candidates_scored", "local_min_votes")}
        chosen = within_limits(kept, identical, **known) & are_first(kept, identical)
        chosen &= (kept["branch"] == "local").to_numpy() & (settings.certain_score < 1)
        return chosen, self._rows(self._row_of(kept)[chosen])

    def _certain_of(
        self, candidates: pd.DataFrame, first: np.ndarray, settings: Settings
    ) -> pd.DataFrame:
        """The queries that the candidates which are verified first answer: query_id, query_area."""
        other = np.ones(len(self.query_ids), bool)
        if settings.certain_score == self._own.certain_score:
            other = self._queries_of(first != self._first)
        asked = candidates[other[candidates["query_id"].to_numpy()]]
        unchanged = self._certain[~other[self._certain["query_id"].to_numpy()]]
        if asked.empty:
            return unchanged
        none = np.zeros_like(first)
        distinct, refused = self._shared(first, none)
        compared = self._compared(first, none, refused)
        proposals = self._joined(asked, first, distinct, refused, compared)
        found = certain_pairs(proposals, settings.certain_score, self._certain_model)
        return pd.concat([unchanged, found[list(unchanged)]], ignore_index=True)

    def _joined(
        self,
        candidates: pd.DataFrame,
        verified: np.ndarray,
        distinct: np.ndarray,
        refused: np.ndarray,
        compared: np.ndarray,
    ) -> pd.DataFrame:
        """`join_evidence` of the rows of evidence (n+1,) that are verified, with what depends on those they are verified with."""
        row = self._row_of(candidates)
        row[~verified[row]] = len(verified) - 1
        names = [*_PAIR, "branch", "score", "mean_squared_distance"]
        proposed = candidates[names].reset_index(drop=True)
        proposed["reference_id"] = self._file_of[proposed["reference_id"]]
        evidence = self._evidence.iloc[row].reset_index(drop=True)
        evidence["distinct_inliers"] = distinct[row]
        evidence["compared_blocks"] = np.where(compared[row], evidence["compared_blocks"], 0)
        said = pd.Categorical.from_codes(refused[row].astype(np.int64), pd.Index(["", "refused"]))
        return pd.concat([proposed, evidence.assign(refused=said)], axis=1)

    def _shared(self, first: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`distinct_inliers` (n+1,) of the rows of evidence that are measured, and whether each is refused: pairs of one view that are
        verified together share inliers."""
        if self._is_old:
            return self._evidence["distinct_inliers"].to_numpy(), self._refused
        used, row = first | later, self._inlier_row
        weight = used[row].astype(np.float64)
        sharing = row[self._shared_inliers]
        number = 2 * self._shared_number + later[sharing]
        references = np.bincount(number, used[sharing])
        weight[self._shared_inliers] /= np.maximum(references[number], 1)
        distinct = np.bincount(row, weight, minlength=len(used))
        columns = (self._evidence[n].to_numpy() for n in ("inliers", "ncc_inlier_ratio"))
        inliers, ratio = columns
        crowded = are_shared_by_many(inliers, distinct, ratio)
        return distinct.astype(np.float32), (self._refused & ~self._shared_by_many) | crowded

    def _compared(self, first: np.ndarray, later: np.ndarray, refused: np.ndarray) -> np.ndarray:
        """Which rows of evidence (n+1,) are compared at full resolution, see `stages.verification.score_pairs`."""
        guided = self._evidence["guided_inliers"].to_numpy()
        matching = ((first | later) & ~refused & (guided >= fusion.FORM_INLIERS))[:-1]
        together = 2 * self._evidence_view + later[:-1]
        count = np.bincount(together, matching, minlength=2 * len(self._view_ids))
        before = count[2 * self._evidence_view] > 0
        several = (count[together] > 1) | (later[:-1] & before)
        alone = fusion.are_always_compared(self._evidence).to_numpy()[:-1]
        return np.append(matching & (several | alone), False)

    def _other_status(self, certain: pd.DataFrame) -> np.ndarray:
        """The queries (q,) bool that are certain or explained here and not in the run, or the other way round."""
        status = np.zeros((2, len(self.query_ids)), np.int8)
        for side, table in zip(status, (certain, self._certain), strict=True):
            side[table["query_id"]] = 1 + (table["query_area"] >= EXPLAINED)
        return status[0] != status[1]

    def _judged(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Predictions with is_true and is_known, bool."""
        pair = self._pair_of(predictions)
        is_true = np.isin(pair, self._positive)
        is_known = is_true | np.isin(pair, self._negative)
        is_known |= self._listed[predictions["query_id"]]
        return predictions.assign(is_true=is_true, is_known=is_known)

    def _proposed(self, candidates: pd.DataFrame) -> dict[str, np.ndarray]:
        """Which known copies (p,) bool each branch proposes."""
        pair, branch = self._pair_of(candidates), candidates["branch"]
        return {
            name: np.isin(self._positive, pair[(branch == name).to_numpy()]) for name in BRANCHES
        }

    def _figures(
        self,
        part: np.ndarray,
        pairs: pd.DataFrame,
        proposed: Mapping[str, np.ndarray],
        verified: np.ndarray,
        cut: float | None,
    ) -> Figures:
        """The figures of the queries (q,) bool of a part; verified (q,): pairs to verify of each query."""
        inside = part[pairs["query_id"].to_numpy()]
        known = inside & pairs["is_known"].to_numpy()
        scores, is_true = pairs["score"].to_numpy(), pairs["is_true"].to_numpy()
        copies = part[self._positive // len(self.reference_ids)]
        positives = int(copies.sum())
        target = self.results.parameter("target_precision")
        micro_ap, recall, threshold = measure(scores[known], is_true[known], positives, target)
        reported = scores >= (np.inf if cut is None else cut)
        found, judged = int((reported & known & is_true).sum()), int((reported & known).sum())
        by = np.stack([*proposed.values()]) & copies
        alone = by & (by.sum(axis=0) == 1)
        counts = dict(zip(proposed, by.sum(axis=1).tolist(), strict=True))
        return Figures(
            queries=int(part.sum()),
            positives=positives,
            proposed=counts | {"union": int(by.any(axis=0).sum())},
            only=dict(zip(proposed, alone.sum(axis=1).tolist(), strict=True)),
            pairs=int(verified[part].sum()),
            micro_ap=micro_ap,
            recall_at_p90=recall,
            threshold_at_p90=threshold,
            cut=cut,
            reported=int((reported & inside).sum()),
            found=found if positives else None,
            precision=found / judged if positives and judged else None,
            recall=found / positives if positives else None,
        )

    def _seconds(self, pairs: int, crops: int) -> float | None:
        """Processor seconds of notebooks 01 to 09, from what they took in the run and its rates per verified pair and searched crop."""
        spent = {
            name[:2]: stage.get("processor_seconds", stage.get("seconds", 0.0))
            for name, stage in self.results.status.items()
        }
        later, searched = int(self._later.sum()), self._crop_count
        if not later or "08" not in spent:
            return None
        per_pair = spent["08"] / later
        per_crop = spent.get("05", 0.0) / max(searched, 1)
        before = int((self._first | self._later).sum())
        return sum(spent.values()) + (pairs - before) * per_pair + (crops - searched) * per_crop
