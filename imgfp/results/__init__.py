# SPDX-License-Identifier: AGPL-3.0-or-later
"""Read-only access to a finished run, for the report, the widgets and the notebooks.

Everything is loaded on first use, so that a large run opens at once. Images are read from the
originals, or from the stored thumbnails if the originals are gone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.crops.rule import CORNERS
from imgfp.datatypes import Boxes, file_of, files_of, frame_of, table
from imgfp.decoding import read_image
from imgfp.images import ImageError, decode_image
from imgfp.results import explain
from imgfp.results.explain import homography_of
from imgfp.results.files import Files
from imgfp.scoring import fusion, relations
from imgfp.scoring.errors import sort_errors
from imgfp.scoring.metrics import are_in, true_pairs
from imgfp.stages.crops import box_of_each
from imgfp.stages.descriptors import described_by
from imgfp.stages.groups import name_copies
from imgfp.stages.inventory import limits_of, read_column, read_thumbnails, resolved_paths
from imgfp.stages.listed import MEASURED_ELSEWHERE
from imgfp.stages.verification import ViewReader, frame_short_side_px, join_evidence
from imgfp.verify.view import View

__all__ = ["Results", "Side", "homography_of"]

Side = Literal["query", "reference"]
#: Number of decoded images that stay in memory.
_IMAGES_CACHED = 64


class Results(Files):
    """The results of a run, per run, per query and per pair, and its images."""

    #: Whether the queries were looked up, so that no run of theirs is kept.
    looked_up = False

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        library_dir: str | os.PathLike[str] = "",
        **changed: Any,
    ) -> None:
        """See `Files`."""
        super().__init__(run_dir, library_dir, **changed)
        self._image = lru_cache(maxsize=_IMAGES_CACHED)(self._read_image)

    # ---------------------------------------------------------------------------------- per run

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """The predictions with `rank` (0: best of its query) and, if there is ground truth, `is_true`,
        which is NA for queries that the truth does not list."""
        pairs = self.predictions.copy()
        pairs["rank"] = pairs.groupby("query_id", sort=False).cumcount()
        if self.truth is not None:
            is_true = pd.Series(are_in(pairs, true_pairs(self.truth)), pairs.index, "boolean")
            pairs["is_true"] = is_true.where(pairs["query_id"].isin(self.truth["query_id"]))
        return pairs

    @property
    def is_reported(self) -> pd.Series:
        """Which rows of `pairs` are reported as copies: scores of at least `threshold`; none without a threshold."""
        return self.pairs["score"] >= (np.inf if self.threshold is None else self.threshold)

    @cached_property
    def reported(self) -> pd.DataFrame:
        """The rows of `pairs` that are reported as copies, best first."""
        return self.pairs[self.is_reported].reset_index(drop=True)

    @property
    def decisions_path(self) -> Path:
        """The decision log: the parameter `decisions_log`, which several runs may share, or a file in
        the run folder."""
        shared = self.named_path("decisions_log")
        return store.project_path(shared) if shared else self.run.decisions_jsonl

    @property
    def threshold(self) -> float | None:
        """The lowest score at which a pair is reported as a copy: the parameter `score_threshold`, or the
        threshold that reached the target precision on the ground truth, or 0.5 if the scores are
        probabilities, or None."""
        return self._threshold[0]

    @property
    def threshold_source(self) -> str:
        """Where `threshold` comes from, in words."""
        return self._threshold[1]

    @cached_property
    def _threshold(self) -> tuple[float | None, str]:
        sources = {
            "the parameter score_threshold": self.params.get("score_threshold"),
            "reaches the target precision on the truth": self.metrics.get("threshold_at_p90"),
        }
        for source, value in sources.items():
            if value is not None and float(value) > 0:
                return float(value), source
        return (0.5, "even odds") if self.probabilities else (None, "no threshold is set")

    @cached_property
    def probabilities(self) -> bool:
        """Whether the scores are probabilities: fused by the calibrated model and all in 0..1."""
        if self._fusion_rule != "calibrated" or not self.run.predictions_csv.exists():
            return False
        return len(self.predictions) > 0 and bool(self.predictions["score"].between(0, 1).all())

    @property
    def score_scale(self) -> str:
        """The scale for drawing the scores, a key of `viz.SCALES`: log for match counts."""
        return "odds" if self.probabilities else "log" if self._fusion_rule == "sum" else "linear"

    @cached_property
    def errors(self) -> pd.DataFrame:
        """Missed copies and false alarms with their causes, see `scoring.errors.sort_errors`, of the
        queries that the truth lists; no rows without truth. Without a threshold nothing is reported,
        so every copy is missed."""
        truth = table("truth") if self.truth is None else self.truth
        return sort_errors(
            self.predictions[self.predictions["query_id"].isin(truth["query_id"])],
            truth,
            self.candidates,
            np.inf if self.threshold is None else self.threshold,
            evidence=self.evidence.assign(reference_id=files_of(self.evidence["reference_id"]))
            if "inliers" in self.evidence
            else None,
            meta=self.meta,
            **self._boxes(),
        )

    def _boxes(self) -> dict[str, Any]:
        """The true boxes of pasted images, if known, and the crops, as fractions of the query's sides."""
        if self.meta is None or not set(CORNERS) <= set(self.meta):
            return {}
        true = self.meta[["query_id", *CORNERS]].copy()
        true[CORNERS] = true[CORNERS].apply(pd.to_numeric, errors="coerce")
        crops = self.crops[["query_id", *CORNERS]].copy()
        size = self.query_images.loc[crops["query_id"], ["width", "height"]].to_numpy(float)
        crops[CORNERS] = crops[CORNERS].to_numpy(float) / np.tile(size, 2)
        crops["query_id"] = files_of(crops["query_id"])
        return {"true_boxes": true, "crops": crops}

    # -------------------------------------------------------------------------- per query or pair

    def candidates_of(self, query_id: str, reference_id: str = "") -> pd.DataFrame:
        """The candidates of a query (and one reference), per branch, best first."""
        rows = self.image_candidates.iloc[self._rows_of("candidates", query_id)]
        if reference_id:
            rows = rows[files_of(rows["reference_id"]) == file_of(reference_id)]
        return rows.sort_values(["branch", "rank"], ignore_index=True)

    def evidence_of(self, query_id: str, reference_id: str = "") -> pd.DataFrame:
        """The evidence of a query (and one reference), one row per view and frame of a reference."""
        rows = self.evidence.iloc[self._rows_of("evidence", query_id)]
        if reference_id:
            rows = rows[files_of(rows["reference_id"]) == file_of(reference_id)]
        return rows.reset_index(drop=True)

    def best_evidence(self, query_id: str, reference_id: str) -> pd.Series | None:
        """The evidence of the view with the most inliers; None for a pair that was not verified."""
        rows = self.evidence_of(query_id, reference_id)
        if not len(rows):
            return None
        return (
            rows.iloc[int(rows["inliers"].to_numpy().argmax())]
            if "inliers" in rows
            else rows.iloc[0]
        )

    def images_of(self, query_id: str, reference_id: str) -> tuple[str, str]:
        """Ids of the images of a pair that its best evidence compares: frames, where a file has several."""
        evidence = self.best_evidence(query_id, reference_id)
        if evidence is None:
            return query_id, reference_id
        return self.image_of(evidence["view_id"]), evidence["reference_id"]

    def image_of(self, view_id: str) -> str:
        """The image that a view of a query is, or that a crop was cut from."""
        return self._views["query"].image_of(view_id)

    def outlines(
        self, query_id: str, reference_id: str
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The overlap of a pair as a polygon in each of `images_of`, see `explain.outlines`."""
        evidence = self.best_evidence(query_id, reference_id)
        query_image, reference_image = self.images_of(query_id, reference_id)
        sizes = self.size("query", query_image), self.size("reference", reference_image)
        box = None if evidence is None else self.box_of(evidence["view_id"])
        return explain.outlines(homography_of(evidence), *sizes, box)

    def box_of(self, view_id: str) -> np.ndarray | None:
        """x0, y0, x1, y1 of a crop in original pixels; None if the view is the whole query."""
        return self._crop_boxes.get(view_id)

    def scores_without(self, query_id: str, reference_id: str) -> dict[str, float | None]:
        """The pair's score, and its score without each branch, see `explain.scores_without`. Empty for a
        run of an older version, whose evidence lacks columns that fusion needs."""
        if not {*fusion.REQUIRED} <= set(self.evidence):
            return {}
        candidates = self.candidates_of(query_id)
        if self._fusion_rule == "sum":
            candidates = candidates[self.are_good_enough(candidates)]
        rows = join_evidence(candidates, self.evidence_of(query_id))
        return explain.scores_without(rows, reference_id, self._fusion_rule, self.fusion_model)

    def contributions(self, query_id: str, reference_id: str) -> dict[str, float]:
        """The contribution of each feature to the pair's log-odds, largest first. Empty for fusion by
        sum, for a pair that was not verified and for a run of an older version."""
        if self.fusion_model is None or not {*fusion.REQUIRED} <= set(self.evidence):
            return {}
        rows = join_evidence(self.candidates_of(query_id), self.evidence_of(query_id))
        return explain.contributions(rows, reference_id, self.fusion_model)

    def relation_of(self, query_id: str, reference_id: str) -> str:
        """How a pair is related, in words with the probability; "" where it was not scored, or by an older version."""
        rows = self.pairs.iloc[self._rows_of("pairs", query_id)]
        rows = rows[(rows["reference_id"] == reference_id) & rows["relation"].ne("")]
        if not len(rows):
            return ""
        row = rows.iloc[0]
        words = f"{row['relation']} ({row['relation_probability']:.2f})"
        return f"{words}, too little structure to tell" if row["too_little_structure"] else words

    def boxes_of(self, query_id: str) -> Boxes:
        """The detections in one query, most confident first."""
        rows = self.detections.iloc[self._rows_of("detections", query_id)]
        return Boxes(rows[CORNERS].to_numpy(), rows["confidence"].to_numpy())

    # ---------------------------------------------------------------------------------- images

    def size(self, side: Side, image_id: str) -> tuple[int, int]:
        """Width and height of the upright original, in pixels. Raises KeyError for an unknown id."""
        ((width, height),) = self.sizes(side, [image_id])
        return int(width), int(height)

    def path(self, side: Side, image_id: str) -> str:
        """Where the file of one image lies now, or its URL. Raises KeyError for an unknown id."""
        return self.paths(side, [image_id])[0]

    def jpeg(self, side: Side, image_id: str) -> bytes:
        """The thumbnail of one image as JPEG bytes. Raises KeyError for an unknown id."""
        return self.jpegs(side, [image_id])[0]

    def thumbnail(self, side: Side, image_id: str) -> np.ndarray:
        """The thumbnail of one image, (h,w,3) uint8 RGB. Raises KeyError for an unknown id."""
        return decode_image(self.jpeg(side, image_id), image_id)[0]

    def remarks(self, query_id: str, reference_id: str) -> list[str]:
        """What is to be known of the files of a pair: which frames its best evidence compares, and which are damaged
        and were decoded in part. Raises KeyError for an unknown id."""
        sides: tuple[Side, Side] = ("query", "reference")
        images = zip(sides, self.images_of(query_id, reference_id), strict=True)
        return [said for side, image in images for said in self.remarks_on(side, [image])[0]]

    def remarks_on(self, side: Side, image_ids: Sequence[str]) -> list[list[str]]:
        """What `remarks` says of each of these images. Raises KeyError for an unknown id."""
        notes = read_column(self._collection(side), image_ids, "notes")
        return [explain.remarks(side, noted) for noted in notes]

    def present(self, side: Side, image_ids: Sequence[str]) -> list[str]:
        """Those of these images that the run or the library has, once each, in their order."""
        ids = list(dict.fromkeys(image_ids))
        rows = store.open_catalogue(self._collection(side)).rows_of(ids)
        return [image for image, row in zip(ids, rows.tolist(), strict=True) if row >= 0]

    def sizes(self, side: Side, image_ids: Sequence[str]) -> np.ndarray:
        """`size` of each of these images, (n,2) int64. Raises KeyError for an unknown id."""
        return store.open_catalogue(self._collection(side)).sizes_of(image_ids)

    def paths(self, side: Side, image_ids: Sequence[str]) -> list[str]:
        """`path` of each of these images. Raises KeyError for an unknown id."""
        return resolved_paths(self._collection(side), image_ids)

    def jpegs(self, side: Side, image_ids: Sequence[str]) -> list[bytes]:
        """`jpeg` of each of these images. Raises KeyError for an unknown id."""
        return read_thumbnails(self._collection(side), image_ids)

    def picture(self, side: Side, image_id: str) -> np.ndarray:
        """The original, or its thumbnail if the original cannot be read or its size has changed,
        (h,w,3) uint8 RGB. Raises KeyError for an unknown id."""
        return self._image(side, image_id)

    def features(self, side: Side, view_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (k,4) in original pixels and descriptors (k,128) of an image or crop; k may be 0."""
        return self._views[side].features(view_id)

    def view(self, side: Side, image_id: str, view_id: str = "") -> View:
        """One side of a pair as verification reads it. view_id: a crop of the query; "": the whole image.
        Without local features it has no keypoints. Raises KeyError for an unknown image."""
        view_id = view_id or image_id
        return self._views[side].read({view_id: image_id})[view_id]

    def _read_image(self, side: Side, image_id: str) -> np.ndarray:
        try:
            limits = limits_of(self._collection(side))
            image = read_image(self.path(side, image_id), limits, frame_of(image_id))
        except ImageError:
            return self.thumbnail(side, image_id)
        unchanged = (image.shape[1], image.shape[0]) == self.size(side, image_id)
        return image if unchanged else self.thumbnail(side, image_id)

    # -------------------------------------------------------------------------------- internals

    def _collection(self, side: Side) -> store.Collection:
        return self.run if side == "query" else self.library

    @property
    def _fusion_rule(self) -> str:
        return self.parameter("fusion")

    @cached_property
    def fusion_model(self) -> fusion.Model | None:
        """The model that computed the scores of this run; None for fusion by sum."""
        path = self.named_path("fusion_model")
        if self._fusion_rule != "calibrated":
            return None
        model = fusion.load_model(store.located(path), self.descriptor)
        return fusion.with_expected_copies(model, float(self.parameter("expected_copies")))

    def fused(self) -> pd.DataFrame:
        """The predictions of this run, computed now from its evidence: one score per pair, best first, then other_copies
        and the columns of `relations`."""
        rule = self._fusion_rule
        # A sum adds what a branch proposed, not what another branch had verified of the same images.
        counted = self.proposals[self.good_enough] if rule == "sum" else self.proposals
        scored = fusion.merge(counted, rule, self.fusion_model)
        copies = scored if rule == "calibrated" else fusion.merge(self.proposals, "calibrated")
        named = name_copies(scored, self.run, self.library)
        told = named.merge(relations.relations(self.proposals, copies))
        # A file of scores tells nothing of how a pair is related.
        rows = self.proposals
        unseen = are_in(told, rows[rows["refused"].eq(MEASURED_ELSEWHERE)])
        unseen &= ~are_in(
            told, rows[rows["refused"].notna() & rows["refused"].ne(MEASURED_ELSEWHERE)]
        )
        for name, nothing in (("relation", ""), ("relation_probability", np.nan)):
            told[name] = told[name].where(~unseen, nothing)
        return told

    @property
    def expected_copies(self) -> float:
        """The share of copies among the queries, 0..1, for which the scores are probabilities; NaN for fusion by sum."""
        if self.fusion_model is None:
            return float("nan")
        return float(self.parameter("expected_copies")) or fusion.share_of_copies(self.fusion_model)

    @cached_property
    def descriptor(self) -> str:
        """Identity of the model that made the vectors of this run; "" where it is not known."""
        return described_by(self.run)

    def _rows_of(self, name: str, query_id: str) -> np.ndarray:
        if name not in self._groups:
            key = "image_id" if name == "detections" else "query_id"
            self._groups[name] = getattr(self, name).groupby(key, sort=False).indices
        return self._groups[name].get(query_id, np.empty(0, np.int64))

    @cached_property
    def _groups(self) -> dict[str, dict]:
        return {}

    @cached_property
    def _views(self) -> dict[Side, ViewReader]:
        frame_px = frame_short_side_px(self.library)
        return {
            "query": ViewReader(self.run, frame_px),
            "reference": ViewReader(self.library, frame_px),
        }

    @cached_property
    def _crop_boxes(self) -> dict[str, np.ndarray]:
        return box_of_each(self.crops)
