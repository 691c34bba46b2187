"""The files of a finished run and its library, each read when it is first asked for."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import BRANCHES, table
from imgfp.runner.params import read_profile
from imgfp.stages import inventory
from imgfp.store import formats


class Files:
    """One run folder and the library that it searched, as they were written."""

    def __init__(self, run_dir: str | Path, library_dir: str | Path = "", **changed: Any) -> None:
        """library_dir: blank for the one that the run's own parameters name. changed: parameters that
        are not as the run's file says, or that it lacks, as where a notebook runs on its own. Raises
        StoreError when the run is not there."""
        self._changed = changed
        self.run = store.project_path(run_dir)
        if not self.run.is_dir():
            raise store.StoreError(f"{store.show(self.run)} does not exist; run notebooks 01 to 09")
        self.library = store.project_path(library_dir or self.params.get("library_dir", ""))

    @cached_property
    def params(self) -> dict[str, Any]:
        """The resolved parameters of the run."""
        path = self.run / "params.yaml"
        return (read_profile(path) if path.exists() else {}) | self._changed

    @cached_property
    def status(self) -> dict[str, Any]:
        """Stage name -> its state, seconds and error, in the order in which they ran."""
        path = self.run / "status.json"
        return json.loads(path.read_bytes())["stages"] if path.exists() else {}

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What notebook 09 measured; empty for a run without truth."""
        path = self.run / "metrics.json"
        return json.loads(path.read_bytes()) if path.exists() else {}

    @cached_property
    def rejects(self) -> pd.DataFrame:
        """Files that could not be used: path, reason."""
        path = self.run / "rejects.csv"
        if not path.exists():
            return table("rejects")
        return table("rejects", pd.read_csv(path, dtype=str, keep_default_na=False))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Scored pairs, best first: query_id, reference_id, score. Raises StoreError before stage 09."""
        path = self.run / "predictions.csv"
        if not path.exists():
            raise store.StoreError(f"{store.show(path)} is missing; run notebook 09")
        predictions = formats.read_predictions(path)
        return predictions.sort_values(
            ["score", "query_id", "reference_id"], ascending=[False, True, True], ignore_index=True
        )

    @cached_property
    def truth(self) -> pd.DataFrame | None:
        """query_id, reference_id (blank: none) of the run's queries, where its parameters
        name a truth file."""
        if not self._truth_path:
            return None
        truth = formats.read_truth(self._truth_path)
        listed = store.shards(self.run / "images", ".parquet")
        return inventory.truth_of_run(self.run, truth) if listed else truth

    @cached_property
    def meta(self) -> pd.DataFrame | None:
        """What is known of each query beyond its reference, from `meta.csv` beside the truth: query_id,
        `ops` (edits joined by "+") and more columns, all text; None where there is no such file."""
        path = self._truth_path and self._truth_path.with_name("meta.csv")
        if not path or not path.is_file():
            return None
        meta = pd.read_csv(path, dtype=str, keep_default_na=False)
        return meta if {"query_id", "ops"} <= set(meta) else None

    # ----------------------------------------------------------------------------------- tables

    @cached_property
    def queries(self) -> pd.DataFrame:
        """Facts of every readable query, indexed by image id (no thumbnails)."""
        return self._images(self.run)

    @cached_property
    def references(self) -> pd.DataFrame:
        """Facts of every readable reference, indexed by image id (no thumbnails)."""
        return self._images(self.library)

    @cached_property
    def detections(self) -> pd.DataFrame:
        """Every box the detector saw, most confident first within its image."""
        found = self._tables("crops/detections", "detections")
        order = np.lexsort((-found["confidence"], found["image_id"]))
        return found.iloc[order].reset_index(drop=True)

    @cached_property
    def crops(self) -> pd.DataFrame:
        """The boxes that were cut out, as the `crops` table."""
        path = self.run / "crops/crops.parquet"
        return store.load(path) if path.exists() else table("crops")

    @cached_property
    def crop_rules(self) -> dict[str, float]:
        """The settings at which the crops were cut out, as they are stored with them: the names are those
        of `rule.crop_table`. A run without crops took nothing."""
        path = self.run / "crops/crops.parquet"
        nothing = {"local_min_confidence": 1.0, "global_min_confidence": 1.0, "max_crops": 1}
        stored = store.describe(path)["settings"] if path.exists() else {}
        return nothing | {"max_area": 0.85, "max_aspect": 4.0} | stored

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """What every branch proposed, one row a (view, reference, branch)."""
        parts = [self._tables(f"candidates/{branch}", "candidates") for branch in BRANCHES]
        filled = [part for part in parts if len(part)]
        return pd.concat(filled, ignore_index=True) if filled else parts[0]

    @cached_property
    def evidence(self) -> pd.DataFrame:
        """What verification measured, one row a (view, reference)."""
        parts = [store.load(path) for path in store.shards(self.run / "evidence", ".parquet")]
        if not parts:
            return pd.DataFrame(columns=["query_id", "view_id", "reference_id"])
        return pd.concat(parts, ignore_index=True)

    # -------------------------------------------------------------------------------- internals

    @cached_property
    def _truth_path(self) -> Path | None:
        path = store.project_path(self.params["truth"]) if self.params.get("truth") else None
        return path if path is not None and path.is_file() else None

    def _images(self, root: Path) -> pd.DataFrame:
        columns = ["image_id", "path", "width", "height"]
        return inventory.read_images(root, columns).set_index("image_id")

    def _tables(self, folder: str, kind: str) -> pd.DataFrame:
        parts = [store.load(path) for path in store.shards(self.run / folder, ".parquet")]
        filled = [part for part in parts if len(part)]
        return table(kind, pd.concat(filled, ignore_index=True)) if filled else table(kind)
