"""A finished run, read and never changed: what the report, the browsers and the notebooks look at.

Everything is read when it is first asked for, thumbnails shard by shard, so that a large run opens at
once; pictures come from the thumbnails that library and run keep, or from the originals where they are
still there.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import Boxes, table
from imgfp.images import ImageError, decode_image, read_image
from imgfp.results import explain
from imgfp.results.explain import homography_of
from imgfp.results.files import Files
from imgfp.scoring import fusion
from imgfp.scoring.errors import sort_losses
from imgfp.scoring.metrics import true_references
from imgfp.verify.evidence import COLUMNS

__all__ = ["Results", "Side", "homography_of"]

Side = Literal["query", "reference"]
#: Image shards whose thumbnails stay in memory, and decoded pictures that do.
_SHARDS_KEPT, _PICTURES_KEPT = 32, 64


class Results(Files):
    """What the files of a run and its library say of pairs, and the pictures themselves."""

    def __init__(self, run_dir: str | Path, library_dir: str | Path = "", **changed: Any) -> None:
        """As `FileReader`."""
        super().__init__(run_dir, library_dir, **changed)
        self._thumbnails: OrderedDict[Path, dict[str, bytes]] = OrderedDict()
        self._pictures: OrderedDict[tuple, np.ndarray] = OrderedDict()

    # ------------------------------------------------------------------------------ what it says

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """The predictions with `rank` (0: best of its query), and `is_true` where truth is known.

        Pairs whose query the truth does not list have no `is_true` (NA).
        """
        pairs = self.predictions.copy()
        pairs["rank"] = pairs.groupby("query_id", sort=False).cumcount()
        if self.truth is not None:
            expected = true_references(self.truth)
            right = pairs["query_id"].map(expected)
            known = pairs["query_id"].isin(expected.index)
            is_true = (right == pairs["reference_id"]) & (right != "")
            pairs["is_true"] = is_true.astype("boolean").where(known)
        return pairs

    @property
    def decisions_path(self) -> Path:
        """The log of reviewed pairs: `decisions_log` of the parameters, which several runs may share,
        else one in the run folder."""
        shared = self.params.get("decisions_log")
        return store.project_path(shared) if shared else self.run / "decisions.jsonl"

    @cached_property
    def threshold(self) -> float | None:
        """The score from which on a pair counts as a copy: `score_threshold` of the run's parameters,
        else the one that reached the target precision on the truth, else one half where scores are
        probabilities; None when nothing is known."""
        for value in (self.params.get("score_threshold"), self.metrics.get("threshold_at_p90")):
            if value is not None and float(value) > 0:
                return float(value)
        return 0.5 if self.probabilities else None

    @cached_property
    def probabilities(self) -> bool:
        """Whether the scores are probabilities: fused by the calibrated model, all in 0..1."""
        if self._fusion_rule != "calibrated" or not (self.run / "predictions.csv").exists():
            return False
        return len(self.predictions) > 0 and bool(self.predictions["score"].between(0, 1).all())

    @property
    def score_scale(self) -> str:
        """How the scores are best drawn, a name of `viz.SCALES`: counts of matches by their size."""
        return "odds" if self.probabilities else "log" if self._fusion_rule == "sum" else "linear"

    @cached_property
    def losses(self) -> pd.DataFrame:
        """Every missed copy and every false pair above the threshold, with one cause each, of the
        queries that the truth lists, see `errors.sort_losses`; no rows without truth. Where there is no
        threshold, nothing is reported and every copy is missed."""
        truth = table("truth") if self.truth is None else self.truth
        return sort_losses(
            self.predictions[self.predictions["query_id"].isin(truth["query_id"])],
            truth,
            self.candidates,
            np.inf if self.threshold is None else self.threshold,
            evidence=self.evidence if "inliers" in self.evidence else None,
            meta=self.meta,
            **self._boxes(),
        )

    def _boxes(self) -> dict[str, pd.DataFrame]:
        """Where pasted pictures truly lie, if known, and the crops that were cut, as shares of the
        query."""
        sides = ["x0", "y0", "x1", "y1"]
        if self.meta is None or not set(sides) <= set(self.meta):
            return {}
        true = self.meta[["query_id", *sides]].copy()
        true[sides] = true[sides].apply(pd.to_numeric, errors="coerce")
        crops = self.crops[["query_id", *sides]].copy()
        size = self.queries.loc[crops["query_id"], ["width", "height"]].to_numpy(float)
        crops[sides] = crops[sides].to_numpy(float) / np.tile(size, 2)
        return {"true_boxes": true, "crops": crops}

    # -------------------------------------------------------------------------- of one query or pair

    def candidates_of(self, query_id: str, reference_id: str = "") -> pd.DataFrame:
        """What the branches proposed for a query (and one reference), each branch's best first."""
        rows = self.candidates.iloc[self._rows_of("candidates", query_id)]
        if reference_id:
            rows = rows[rows["reference_id"] == reference_id]
        return rows.sort_values(["branch", "rank"], ignore_index=True)

    def evidence_of(self, query_id: str, reference_id: str = "") -> pd.DataFrame:
        """What verification measured for a query (and one reference), one row a view."""
        rows = self.evidence.iloc[self._rows_of("evidence", query_id)]
        if reference_id:
            rows = rows[rows["reference_id"] == reference_id]
        return rows.reset_index(drop=True)

    def best_evidence(self, query_id: str, reference_id: str) -> pd.Series | None:
        """The row of the view that verification found most inliers for; None for a pair never verified."""
        rows = self.evidence_of(query_id, reference_id)
        if not len(rows):
            return None
        return rows.loc[rows["inliers"].idxmax()] if "inliers" in rows else rows.iloc[0]

    def outlines(
        self, query_id: str, reference_id: str
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What the pictures of a pair share by its best evidence, as an outline in each, see `explain.outlines`."""
        evidence = self.best_evidence(query_id, reference_id)
        sizes = self.size("query", query_id), self.size("reference", reference_id)
        box = None if evidence is None else self.box_of(evidence["view_id"])
        return explain.outlines(homography_of(evidence), *sizes, box)

    def box_of(self, view_id: str) -> np.ndarray | None:
        """x0, y0, x1, y1 of a crop in original pixels; None for a view that is a whole query."""
        rows = self.crops[self.crops["crop_id"] == view_id]
        return rows[["x0", "y0", "x1", "y1"]].to_numpy(float)[0] if len(rows) else None

    def scores_without(self, query_id: str, reference_id: str) -> dict[str, float | None]:
        """The pair's score by the run's own fusion, and without each branch: see `explain.scores_without`.
        Empty for a run of an older version, whose evidence lacks columns that fusion reads."""
        if not set(COLUMNS) <= set(self.evidence):
            return {}
        rows = explain.joined(self.candidates_of(query_id), self.evidence_of(query_id))
        return explain.scores_without(rows, reference_id, self._fusion_rule, self.fusion_model)

    def contributions(self, query_id: str, reference_id: str) -> dict[str, float]:
        """What each kind of evidence adds to the pair's log-odds, largest first; empty for fusion by
        sum, for a pair never verified and for a run of an older version."""
        if self.fusion_model is None or not set(COLUMNS) <= set(self.evidence):
            return {}
        rows = explain.joined(self.candidates_of(query_id), self.evidence_of(query_id))
        return explain.contributions(rows, reference_id, self.fusion_model)

    def boxes_of(self, query_id: str) -> Boxes:
        """What the detector saw in one query, most confident first."""
        rows = self.detections.iloc[self._rows_of("detections", query_id)]
        return Boxes(rows[["x0", "y0", "x1", "y1"]].to_numpy(), rows["confidence"].to_numpy())

    # --------------------------------------------------------------------------------- pictures

    def size(self, side: Side, image_id: str) -> tuple[int, int]:
        """Width and height of the upright original, in pixels. Raises KeyError for an unknown id."""
        row = self._facts(side).loc[image_id]
        return int(row["width"]), int(row["height"])

    def jpeg(self, side: Side, image_id: str) -> bytes:
        """The thumbnail of one image as JPEG bytes. Raises KeyError for an unknown id."""
        root = self.run if side == "query" else self.library
        path = root / "images" / f"{self._facts(side).loc[image_id, 'shard']}.parquet"
        if path not in self._thumbnails:
            rows = store.load(path, ["image_id", "thumbnail"])
            self._thumbnails[path] = dict(zip(rows["image_id"], rows["thumbnail"], strict=True))
            if len(self._thumbnails) > _SHARDS_KEPT:
                self._thumbnails.popitem(last=False)
        return self._thumbnails[path][image_id]

    def thumbnail(self, side: Side, image_id: str) -> np.ndarray:
        """The thumbnail of one image, (h,w,3) uint8 RGB. Raises KeyError for an unknown id."""
        return decode_image(self.jpeg(side, image_id), image_id)[0]

    def picture(self, side: Side, image_id: str) -> np.ndarray:
        """The original where it can still be read at the size it had, else its thumbnail."""
        key = side, image_id
        if key not in self._pictures:
            self._pictures[key] = self._read(side, image_id)
            if len(self._pictures) > _PICTURES_KEPT:
                self._pictures.popitem(last=False)
        return self._pictures[key]

    def features(self, side: Side, view_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (k,4) in original pixels and descriptors (k,128) of an image or crop.

        Raises KeyError for an image without local features.
        """
        lookup = self._reference_features if side == "reference" else self._query_features
        if side == "query" and view_id not in lookup:
            lookup = self._crop_features
        return lookup.of(view_id)

    def _read(self, side: Side, image_id: str) -> np.ndarray:
        try:
            image = read_image(self._facts(side).loc[image_id, "path"])
        except ImageError:
            return self.thumbnail(side, image_id)
        same = (image.shape[1], image.shape[0]) == self.size(side, image_id)
        return image if same else self.thumbnail(side, image_id)

    # -------------------------------------------------------------------------------- internals

    @property
    def _fusion_rule(self) -> str:
        return self.params.get("fusion", "calibrated")

    @cached_property
    def fusion_model(self) -> fusion.Model | None:
        """The model that turned this run's evidence into scores; None for fusion by sum."""
        path = self.params.get("fusion_model", "")
        if self._fusion_rule != "calibrated":
            return None
        return fusion.load_model(str(store.project_path(path)) if path else "")

    def _facts(self, side: Side) -> pd.DataFrame:
        return self.queries if side == "query" else self.references

    def _rows_of(self, name: str, query_id: str) -> np.ndarray:
        if name not in self._groups:
            key = "image_id" if name == "detections" else "query_id"
            self._groups[name] = getattr(self, name).groupby(key, sort=False).indices
        return self._groups[name].get(query_id, np.empty(0, np.int64))

    @cached_property
    def _groups(self) -> dict[str, dict]:
        return {}

    @cached_property
    def _query_features(self) -> store.FeatureLookup:
        return store.FeatureLookup(self.run / "local_features")

    @cached_property
    def _crop_features(self) -> store.FeatureLookup:
        return store.FeatureLookup(self.run / "crops/local_features")

    @cached_property
    def _reference_features(self) -> store.FeatureLookup:
        return store.FeatureLookup(self.library / "local_features")
