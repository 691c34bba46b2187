# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tables of a finished run with numbers in place of ids, prepared for many previews."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.crops.rule import CORNERS, box_facts, taken_boxes
from imgfp.datatypes import BRANCHES, files_of
from imgfp.results import Results
from imgfp.scoring import fusion
from imgfp.scoring.metrics import true_pairs
from imgfp.stages.identical import are_identical
from imgfp.stages.search import stored_candidates
from imgfp.stages.verification import read_evidence
from imgfp.store import decisions
from imgfp.verify.evidence import SHARED_BY_MANY, inlier_keypoints


class Tables:
    """Candidates, evidence, boxes and labels of a run: ids are numbers, places in `query_ids` and `reference_ids`. The last row of the
    evidence (n+1) is that of a pair that is not verified."""

    def __init__(self, results: Results, seed: int = 0) -> None:
        """seed: of the halves of the queries, which have no reference in common. Raises StoreError, naming the notebook to
        run, for a run without evidence of this version."""
        self.results = results
        candidates, evidence = stored_candidates(results.run), read_evidence(results.run)
        if not {*fusion.ALWAYS_MEASURED} <= set(evidence) or not len(evidence):
            notebooks = "notebook 08" if len(candidates) else "notebooks 03 to 08"
            raise store.StoreError(
                f"{store.show(results.run.root)} has no evidence of this version; run {notebooks}"
            )
        labels = self._labels()
        groups = results.groups.of_ids(labels["reference_id"])
        self.query_ids = _sorted(results.queries.index)
        references = candidates["reference_id"], candidates["group_id"], evidence["reference_id"]
        self.reference_ids = _sorted(*references, groups, files_of(candidates["reference_id"]))
        self._file_of = numbers_of(files_of(pd.Series(self.reference_ids)), self.reference_ids)
        self._view_ids = _sorted(candidates["view_id"], evidence["view_id"])
        self._is_crop = np.isin(self._view_ids, results.crops["crop_id"].to_numpy(object))
        self._keep_candidates(candidates)
        self._keep_evidence(evidence)
        self._keep_boxes()
        self._cut_out = lru_cache(maxsize=16)(self._cut_out_of)
        self._keep_labels(labels, groups, seed)

    def _coded(self, table: pd.DataFrame, names: list[str]) -> dict[str, np.ndarray]:
        """The columns of ids as numbers."""
        among = {"query_id": self.query_ids, "view_id": self._view_ids}
        return {n: numbers_of(table[n], among.get(n, self.reference_ids)) for n in names}

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
        boxes = self.results.detections_of_points
        facts = box_facts(boxes[boxes["image_id"].isin(sizes.index)], sizes)
        crops = self.results.crops.rename(columns={"query_id": "image_id"})
        same = ["image_id", *CORNERS, "confidence"]
        facts = facts.merge(crops[[*same, "crop_id"]].drop_duplicates(same), "left", on=same)
        query = numbers_of(facts["image_id"], self.query_ids)
        view = numbers_of(facts["crop_id"], self._view_ids)
        self._boxes = facts.assign(image_id=query, view_id=view)

    def _labels(self) -> pd.DataFrame:
        """query_id, reference_id, label of the pairs that are known: the copies of the truth, or, where the run has none,
        what reviewers have decided."""
        if self.results.truth is not None:
            return true_pairs(self.results.truth).assign(label=True)
        return decisions.labels(decisions.read(self.results.decisions_path))

    def _keep_labels(self, labels: pd.DataFrame, groups: pd.Series, seed: int) -> None:
        count, truth = len(self.reference_ids), self.results.truth
        query = numbers_of(labels["query_id"], self.query_ids)
        reference = numbers_of(groups, self.reference_ids)
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

    def measured(self, source: str, measure: str) -> pd.DataFrame:
        """The rows of a branch, of "boxes" or of "evidence", with a column of this name. "margin": of the first candidate of each
        view the votes that it has more than the next; "cosine": of the two vectors of a global candidate."""
        if source == "boxes":
            return self._boxes
        if source == "evidence":
            rows = self._candidates.drop_duplicates(["view_id", "reference_id"])
            return rows.assign(**{measure: self._evidence[measure].to_numpy()[self._row_of(rows)]})
        rows = self._candidates[self._candidates["branch"] == source]
        if measure == "cosine":
            return rows.assign(cosine=1 - rows["mean_squared_distance"] / 2)  # of unit vectors
        return _leading(rows) if measure == "margin" else rows

    def _cut_out_of(
        self, local: float, single: float, count: int, area: float, aspect: float
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        limits: dict[str, Any] = {"max_area": area, "max_aspect": aspect}
        of = {
            point: self._boxes[self._boxes["point"].isin(["", point])]
            for point in ("local", "global")
        }
        return (
            taken_boxes(of["local"], min_confidence=local, max_crops=count, **limits),
            taken_boxes(of["global"], min_confidence=single, **limits),
        )

    def _row_of(self, candidates: pd.DataFrame) -> np.ndarray:
        """The row of evidence (n,) of each candidate; the last where it has none."""
        view, reference = candidates["view_id"].to_numpy(), candidates["reference_id"].to_numpy()
        place = view * len(self.reference_ids) + reference
        at = np.searchsorted(self._evidence_places, place)
        at = np.minimum(at, len(self._evidence_places) - 1)
        found = self._evidence_places[at] == place
        return np.where(found, self._by_place[at], len(self._evidence) - 1)

    def _rows(self, numbers: np.ndarray) -> np.ndarray:
        """Rows of evidence (n+1,) bool by number, without the last, which is that of a pair that is not verified."""
        rows = np.zeros(len(self._evidence), bool)
        rows[numbers] = True
        rows[-1] = False
        return rows

    def _queries_of(self, rows: np.ndarray) -> np.ndarray:
        """The queries (q,) bool of rows of evidence (n+1,) bool."""
        queries = np.zeros(len(self.query_ids), bool)
        queries[self._evidence_query[rows[:-1]]] = True
        return queries

    def _pair_of(self, table: pd.DataFrame) -> np.ndarray:
        group = self._group_of[table["reference_id"].to_numpy()]
        return table["query_id"].to_numpy() * len(self.reference_ids) + group


def _leading(rows: pd.DataFrame) -> pd.DataFrame:
    """The first candidate of each view, with margin: the votes that it has more than the next."""
    first = rows[rows["rank"] == 0]
    second = rows[rows["rank"] == 1].set_index("view_id")["score"]
    return first.assign(margin=first["score"] - first["view_id"].map(second).fillna(0))


def _sorted(*ids: Any) -> np.ndarray:
    """All ids, each once, in order: (n,) object."""
    return np.sort(pd.unique(np.concatenate([np.asarray(one, object) for one in ids])))


def numbers_of(ids: pd.Series, among: np.ndarray) -> np.ndarray:
    """The place (n,) of each id among others, which are in order; -1 for an unknown one."""
    return pd.Index(among).get_indexer(pd.Index(ids.astype(object)))
