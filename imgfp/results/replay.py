# SPDX-License-Identifier: AGPL-3.0-or-later
"""A finished run under other settings, computed from the boxes, candidates and evidence that it has kept.

Nothing is searched or verified: fewer candidates than the run has kept can be tried, more cannot. Where a setting needs
what was not kept, the preview says of how many queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.crops.rule import CORNERS, box_facts, taken_boxes
from imgfp.datatypes import BRANCHES, files_of
from imgfp.results import Results
from imgfp.scoring import fusion
from imgfp.scoring.metrics import measure, true_pairs
from imgfp.search.propose import within_limits
from imgfp.stages.certain import EXPLAINED, read_certain
from imgfp.stages.identical import are_identical
from imgfp.stages.search import one_member_each, stored_candidates
from imgfp.stages.verification import are_first, certain_pairs, read_evidence
from imgfp.store import decisions
from imgfp.verify.evidence import SHARED_BY_MANY, are_shared_by_many, inlier_keypoints

_PAIR = ["query_id", "reference_id"]


@dataclass(frozen=True)
class Settings:
    """The parameters that can be tried on what a run has kept, by their names."""

    local_candidates: int
    global_candidates: int
    candidates_verified: int
    candidates_scored: str
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


class Replay:
    """A finished run, prepared for `preview`: its tables with numbers in place of ids."""

    def __init__(self, results: Results, seed: int = 0) -> None:
        """seed: of the halves of the queries, which have no reference in common. Raises StoreError, naming the notebook to
        run, for a run without evidence of this version."""
        self.results, self.settings = results, Settings.of(results)
        candidates, evidence = stored_candidates(results.run), read_evidence(results.run)
        if not {*fusion.EVIDENCE[:-3]} <= set(evidence) or not len(evidence):
            notebooks = "notebook 08" if len(candidates) else "notebooks 03 to 08"
            raise store.StoreError(
                f"{store.show(results.run.root)} has no evidence of this version; run {notebooks}"
            )
        labels = self._labels()
        groups = results.groups.of_ids(labels["reference_id"])
        self.query_ids = _sorted(results.queries.index)
        references = candidates["reference_id"], candidates["group_id"], evidence["reference_id"]
        self.reference_ids = _sorted(*references, groups, files_of(candidates["reference_id"]))
        self._file_of = _numbers(files_of(pd.Series(self.reference_ids)), self.reference_ids)
        self._view_ids = _sorted(candidates["view_id"], evidence["view_id"])
        self._is_crop = np.isin(self._view_ids, results.crops["crop_id"].to_numpy(object))
        self._keep_candidates(candidates)
        self._keep_evidence(evidence)
        self._keep_boxes()
        self._cut_out = lru_cache(maxsize=16)(self._cut_out_of)
        self._keep_labels(labels, groups, seed)
        path = store.located(results.named_path("fusion_model", "03"))
        self._certain_model = fusion.load_model(path, results.parameter("descriptor_model", "03"))
        model = fusion.load_model(
            store.located(results.named_path("fusion_model")), results.descriptor
        )
        self._model = fusion.with_expected_copies(model, results.parameter("expected_copies"))
        certain = read_certain(results.run)
        query = _numbers(certain["query_id"], self.query_ids)
        self._certain = pd.DataFrame({"query_id": query, "query_area": certain["query_area"]})
        self._keep_verified()
        refused = self._shared(self._first, self._later)[1]
        self._were_compared = self._compared(self._first, self._later, refused)

    def _keep_verified(self) -> None:
        """Which rows of evidence (n+1,) bool the run has measured in notebook 03, and which in 08."""
        kept, _, _, self._crop_count = self._kept(self.settings)
        self._first = self._at_first(kept, self.settings)[1]
        self._first, self._later = self._verified(kept, self.settings)[:2]

    @cached_property
    def base(self) -> Preview:
        """The run under its own settings."""
        return self.preview(self.settings)

    # ------------------------------------------------------------------------------ preparation

    def _coded(self, table: pd.DataFrame, names: list[str]) -> dict[str, np.ndarray]:
        """The columns of ids as numbers."""
        among = {"query_id": self.query_ids, "view_id": self._view_ids}
        return {n: _numbers(table[n], among.get(n, self.reference_ids)) for n in names}

    def _keep_candidates(self, candidates: pd.DataFrame) -> None:
        results = self.results
        columns = ["rank", "score", "mean_squared_distance", "accepted"]
        self._candidates = candidates[columns].assign(
            **self._coded(candidates, ["query_id", "view_id", "reference_id", "group_id"]),
            branch=candidates["branch"].astype(pd.CategoricalDtype([*BRANCHES])),
            identical=are_identical(results.run, results.library, candidates),
        )
        self._candidates["place"] = self._places()
        self._group_of = np.arange(len(self.reference_ids))
        self._group_of[self._candidates["reference_id"]] = self._candidates["group_id"]
        self._has_groups = bool((candidates["group_id"] != candidates["reference_id"]).any())

    def _places(self) -> np.ndarray:
        """The place (n,) of each candidate in its search, before identical ones were put first."""
        rows = self._candidates[self._candidates["branch"] == "local"]
        places = self._candidates["rank"].to_numpy().copy()
        moved = rows["view_id"].isin(rows.loc[rows["identical"], "view_id"])
        found = rows[moved & (rows["score"] > 0)].sort_values(
            ["score", "mean_squared_distance"], ascending=[False, True], kind="stable"
        )
        places[found.index] = found.groupby("view_id").cumcount()
        return places

    def _keep_evidence(self, evidence: pd.DataFrame) -> None:
        keys = self._coded(evidence, ["query_id", "view_id", "reference_id"])
        self._evidence_query, self._evidence_view = keys["query_id"], keys["view_id"]
        place = keys["view_id"] * len(self.reference_ids) + keys["reference_id"]
        self._by_place = np.argsort(place)
        self._evidence_places = place[self._by_place]
        numeric = [*fusion.EVIDENCE, "matches", "identical"]
        absent = {name: np.nan for name in numeric if name not in evidence}
        numbers = evidence.assign(**absent)[numeric].astype(np.float64)
        # The last row is that of a pair that is not verified.
        nothing = pd.DataFrame(np.nan, [len(numbers)], numeric)
        self._evidence = pd.concat([numbers, nothing])
        refused = np.append(evidence["refused"].to_numpy(object), "")
        self._refused, self._shared_by_many = refused != "", refused == SHARED_BY_MANY
        name = "inlier_keypoints"
        self._is_old = name not in evidence or bool(evidence[name].isna().any())
        if self._is_old:
            return
        inliers = inlier_keypoints(evidence)
        self._inlier_row = np.repeat(np.arange(len(evidence)), [len(one) for one in inliers])
        keypoint = np.concatenate(inliers)
        view = self._evidence_view[self._inlier_row] * (keypoint.max(initial=0) + 1)
        _, number, count = np.unique(view + keypoint, return_inverse=True, return_counts=True)
        self._shared_inliers = np.flatnonzero(count[number] > 1)
        self._shared_number = number[self._shared_inliers]

    def _keep_boxes(self) -> None:
        sizes = self.results.queries[["width", "height"]]
        boxes = self.results.detections
        facts = box_facts(boxes[boxes["image_id"].isin(sizes.index)], sizes)
        crops = self.results.crops.rename(columns={"query_id": "image_id"})
        same = ["image_id", *CORNERS, "confidence"]
        facts = facts.merge(crops[[*same, "crop_id"]].drop_duplicates(same), "left", on=same)
        query = _numbers(facts["image_id"], self.query_ids)
        view = _numbers(facts["crop_id"], self._view_ids)
        self._boxes = facts.assign(image_id=query, view_id=view)

    def _labels(self) -> pd.DataFrame:
        """query_id, reference_id, label of the pairs that are known: the copies of the truth, or, where the run has none,
        what reviewers have decided."""
        if self.results.truth is not None:
            return true_pairs(self.results.truth).assign(label=True)
        return decisions.labels(decisions.read(self.results.decisions_path))

    def _keep_labels(self, labels: pd.DataFrame, groups: pd.Series, seed: int) -> None:
        count, truth = len(self.reference_ids), self.results.truth
        query = _numbers(labels["query_id"], self.query_ids)
        reference = _numbers(groups, self.reference_ids)
        pair, is_copy = query * count + reference, labels["label"].to_numpy(bool)
        self._positive = np.unique(pair[is_copy & (query >= 0)])
        self._negative = np.unique(pair[~is_copy & (query >= 0)])
        listed = labels.head(0) if truth is None else truth
        self._listed = np.isin(self.query_ids, listed["query_id"].to_numpy(object))
        # Queries of one source are in the same half.
        source = np.arange(len(self.query_ids)) + count
        source[self._positive // count] = self._positive % count
        _, number = np.unique(source, return_inverse=True)
        order = np.random.default_rng(seed).permutation(number.max(initial=0) + 1)
        self.is_tuned = order[number] % 2 == 0

    # ------------------------------------------------------------------------------ one setting

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
        pairs = self._judged(fusion.merge(joined, settings.fusion, self._model))
        identical = kept["identical"].to_numpy()
        proposed = self._proposed(kept[within_limits(kept, identical, **settings.limits)])
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

    def scores(self, source: str) -> tuple[np.ndarray, np.ndarray | None]:
        """What the run decides on, of copies and of other candidates of a branch; where no copy is known, and for "boxes", the
        confidence of each detection, of all, and None."""
        if source == "boxes":
            return self._boxes["confidence"].to_numpy(), None
        rows = self._candidates[self._candidates["branch"] == source]
        score, is_copy = rows["score"].to_numpy(), np.isin(self._pair_of(rows), self._positive)
        return (score[is_copy], score[~is_copy]) if len(self._positive) else (score, None)

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
        rows, before = self._candidates, self.settings
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
        table = rows[kept]
        table = one_member_each(table) if self._has_groups else table.reset_index(drop=True)
        return table, not_kept, other_crops, len(pd.concat([boxes, single]).drop_duplicates())

    def _crops_of(self, settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The boxes that the rule takes at both operating points, local and global."""
        names = ("local_min_confidence", "global_min_confidence", "max_crops", "crop_max_area", "crop_max_aspect")  # fmt: skip
        return self._cut_out(*(getattr(settings, name) for name in names))

    def _cut_out_of(
        self, local: float, single: float, count: int, area: float, aspect: float
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        limits: dict[str, Any] = {"max_area": area, "max_aspect": aspect}
        return (
            taken_boxes(self._boxes, min_confidence=local, max_crops=count, **limits),
            taken_boxes(self._boxes, min_confidence=single, **limits),
        )

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

    def _rows(self, numbers: np.ndarray) -> np.ndarray:
        """Rows of evidence (n+1,) bool by number, without the last, which is that of a pair that is not verified."""
        rows = np.zeros(len(self._evidence), bool)
        rows[numbers] = True
        rows[-1] = False
        return rows

    def _certain_of(
        self, candidates: pd.DataFrame, first: np.ndarray, settings: Settings
    ) -> pd.DataFrame:
        """The queries that the candidates which are verified first answer: query_id, query_area."""
        other = np.ones(len(self.query_ids), bool)
        if settings.certain_score == self.settings.certain_score:
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

    def _row_of(self, candidates: pd.DataFrame) -> np.ndarray:
        """The row of evidence (n,) of each candidate; the last where it has none."""
        view, reference = candidates["view_id"].to_numpy(), candidates["reference_id"].to_numpy()
        place = view * len(self.reference_ids) + reference
        at = np.searchsorted(self._evidence_places, place)
        at = np.minimum(at, len(self._evidence_places) - 1)
        found = self._evidence_places[at] == place
        return np.where(found, self._by_place[at], len(self._evidence) - 1)

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
        """Which rows of evidence (n+1,) are compared at full resolution: where several references match one view."""
        guided = self._evidence["guided_inliers"].to_numpy()
        matching = ((first | later) & ~refused & (guided >= fusion.FORM_INLIERS))[:-1]
        together = 2 * self._evidence_view + later[:-1]
        count = np.bincount(together, matching, minlength=2 * len(self._view_ids))
        before = count[2 * self._evidence_view] > 0
        return np.append(matching & ((count[together] > 1) | (later[:-1] & before)), False)

    def _other_status(self, certain: pd.DataFrame) -> np.ndarray:
        """The queries (q,) bool that are certain or explained here and not in the run, or the other way round."""
        status = np.zeros((2, len(self.query_ids)), np.int8)
        for side, table in zip(status, (certain, self._certain), strict=True):
            side[table["query_id"]] = 1 + (table["query_area"] >= EXPLAINED)
        return status[0] != status[1]

    def _queries_of(self, rows: np.ndarray) -> np.ndarray:
        """The queries (q,) bool of rows of evidence (n+1,) bool."""
        queries = np.zeros(len(self.query_ids), bool)
        queries[self._evidence_query[rows[:-1]]] = True
        return queries

    def _judged(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Predictions with is_true and is_known, bool."""
        pair = self._pair_of(predictions)
        is_true = np.isin(pair, self._positive)
        is_known = is_true | np.isin(pair, self._negative)
        is_known |= self._listed[predictions["query_id"]]
        return predictions.assign(is_true=is_true, is_known=is_known)

    def _pair_of(self, table: pd.DataFrame) -> np.ndarray:
        group = self._group_of[table["reference_id"].to_numpy()]
        return table["query_id"].to_numpy() * len(self.reference_ids) + group

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


def _sorted(*ids: Any) -> np.ndarray:
    """All ids, each once, in order: (n,) object."""
    return np.unique(np.concatenate([np.asarray(one, object) for one in ids]))


def _numbers(ids: pd.Series, among: np.ndarray) -> np.ndarray:
    """The place (n,) of each id among others, which are in order; -1 for an unknown one."""
    return pd.Index(among).get_indexer(pd.Index(ids.astype(object)))
