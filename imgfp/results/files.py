# SPDX-License-Identifier: AGPL-3.0-or-later
"""The files of a finished run and its library, each read when it is first asked for."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import files_of, table
from imgfp.images import DAMAGED
from imgfp.runner import record
from imgfp.runner.schema import Parameters
from imgfp.scoring import relations
from imgfp.search.propose import within_limits
from imgfp.stages.crops import read_crops, read_detections
from imgfp.stages.identical import are_identical, own_pairs
from imgfp.stages.inventory import gather_rejects, read_images
from imgfp.stages.search import read_candidates
from imgfp.stages.verification import join_evidence, read_evidence
from imgfp.store import Library, Run, formats

#: Parameters that say which candidates are verified: the settings of `propose.within_limits`.
LIMITS = (
    "candidates_scored", "candidates_verified", "local_min_votes", "crop_min_votes", "global_min_similarity",
)  # fmt: skip


class Files:
    """The files of one run folder and of the library that it searched."""

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        library_dir: str | os.PathLike[str] = "",
        **changed: Any,
    ) -> None:
        """library_dir: blank for the one that the run's own parameters name. changed: parameters that
        replace those in the run's file, or that it lacks, as where a notebook runs on its own. Raises
        StoreError when there is no such run."""
        self._changed = changed
        self.run = Run(run_dir)
        if not self.run.root.is_dir():
            raise store.StoreError(
                f"{store.show(self.run.root)} does not exist; run notebooks 01 to 09"
            )
        self.library = self._library(library_dir or self.named_path("library_dir"))

    def _library(self, library_dir: str | os.PathLike[str]) -> Library:
        """The library at the snapshot that the run began with, or as it is where that is not kept any more."""
        try:
            return store.open_sides(library_dir, self.run)[0]
        except store.SnapshotGone:
            return Library(library_dir)

    @cached_property
    def record(self) -> record.Record:
        """What shaped the run: its `params.yaml`."""
        return record.read(self.run.params_yaml)

    @cached_property
    def params(self) -> dict[str, Any]:
        """The parameters that the run has recorded, defaults included, by name."""
        return self.record.ran_with | self._changed

    def parameter(self, name: str, stage: str = "") -> Any:
        """The value that a parameter had in the run, in its last stage or in the one of this number. What an older run has not
        recorded is taken to be the present default, which `unrecorded` says."""
        if name not in self._changed:
            for ran, entry in self.record.stages.items():
                if ran[:2] == stage and name in entry.values:
                    return entry.values[name]
        return self.params.get(name, Parameters.model_fields[name].default)

    def named_path(self, name: str, stage: str = "") -> str:
        """The path that a parameter of the run names, "" where it has none. Where the run was moved together with what it
        names, as with its whole project, that is found from where the run lies now."""
        given = str(self.parameter(name, stage)) if name in self.params else ""
        own = self.record.values.get("run_dir", "")
        if not os.path.isabs(given) or os.path.exists(given) or not os.path.isabs(own):
            return given
        beside = os.path.normpath(self.run.root / os.path.relpath(given, own))
        return beside if os.path.exists(beside) else given

    @cached_property
    def settings(self) -> pd.DataFrame:
        """One row per parameter, by name, for people: name, value, source; see `record.Record.settings`. Paths are relative
        where that is shorter."""
        given = [
            (n, v, "notebook") for n, v in self._changed.items() if n not in self.record.ran_with
        ]
        rows = [*self.record.settings.itertuples(index=False, name=None), *given]
        shown = [
            (name, store.show(Path(value)) if os.path.isabs(str(value)) else value, source)
            for name, value, source in rows
        ]
        return pd.DataFrame(shown, columns=["name", "value", "source"])

    @cached_property
    def unrecorded(self) -> str:
        """What the record of this run does not tell, in a sentence; "" where it tells all."""
        path, known = store.show(self.run.params_yaml), self.record.stages
        absent = ", ".join(name[:2] for name in self.status if name not in known)
        if not self.run.params_yaml.exists():
            return f"{path} is missing, as where notebooks ran one by one: what it would tell is taken from today's defaults."
        if absent or not known:
            of = f" of notebooks {absent}" if absent else ""
            return (
                f"{path} lacks the defaults{of}, which ran under an older version: today's are taken. "
                f"`imgfp run {path}` records them."
            )
        path = self.named_path("fusion_model")
        used = [
            stage.files["fusion_model"] for stage in known.values() if "fusion_model" in stage.files
        ]
        if used and not (os.path.isfile(path) and store.sha256_of(path) == used[-1]):
            return f"fusion_model: {path} is not as it was in this run; put it back, or run notebook 09 again."
        return ""

    @cached_property
    def status(self) -> dict[str, Any]:
        """Stage name -> its state, seconds and error, in the order in which they ran."""
        return _read_json(self.run.status_json).get("stages", {})

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """What notebook 09 measured; empty for a run without truth."""
        return _read_json(self.run.metrics_json)

    @cached_property
    def rejects(self) -> pd.DataFrame:
        """Files that could not be used: path, reason."""
        path = self.run.rejects_csv
        if not path.exists():
            return table("rejects")
        return table("rejects", store.read_sheet(path))

    @cached_property
    def refused(self) -> dict[str, int]:
        """Number of files and folders that could not be used, of "references" and of "queries"."""
        sides = {"references": self.library, "queries": self.run}
        return {side: len(gather_rejects(collection)) for side, collection in sides.items()}

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Scored pairs, best first: query_id, reference_id, score and `relations.COLUMNS`, "" or NaN for a run of an
        older version. Raises StoreError before stage 09."""
        path = self.run.predictions_csv
        if not path.exists():
            raise store.StoreError(f"{store.show(path)} is missing; run notebook 09")
        predictions = formats.read_predictions(path)
        told = store.read_sheet(path).reindex(columns=[*relations.COLUMNS], fill_value="")
        told["relation_probability"] = pd.to_numeric(told["relation_probability"])
        told["too_little_structure"] = told["too_little_structure"].eq("True")
        return predictions.join(told).sort_values(
            ["score", "query_id", "reference_id"], ascending=[False, True, True], ignore_index=True
        )

    @cached_property
    def truth(self) -> pd.DataFrame | None:
        """query_id, reference_id (blank: none) of the run's queries, as notebook 09 has kept them; None for a run
        without truth."""
        path = self.run.truth_csv
        if not path.exists():
            return None
        store.read_sealed(path)
        return formats.read_truth(path)

    @property
    def truth_hash(self) -> str:
        """SHA-256 of `truth`; "" for a run without."""
        return store.sha256_of(self.run.truth_csv) if self.truth is not None else ""

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
    def query_images(self) -> pd.DataFrame:
        """Facts of every readable query and of its further frames, indexed by image id (no thumbnails)."""
        columns = ["image_id", "path", "width", "height"]
        return read_images(self.run, columns).set_index("image_id")

    @cached_property
    def queries(self) -> pd.DataFrame:
        """`query_images` without further frames: one row per query."""
        ids = self.query_images.index.to_series()
        return self.query_images[(files_of(ids) == ids).to_numpy()]

    @cached_property
    def damaged_queries(self) -> int:
        """Number of queries whose file is damaged and was decoded in part."""
        return sum(DAMAGED in notes for notes in read_images(self.run, ["notes"])["notes"])

    @cached_property
    def own_queries(self) -> int:
        """Number of queries that are references themselves, and are not compared with themselves."""
        return own_pairs(self.run, self.library)["query_id"].nunique()

    @property
    def references(self) -> store.Catalogue:
        """The readable references, in a mapped file."""
        return store.open_catalogue(self.library)

    @property
    def groups(self) -> store.Groups:
        """The references that show the same picture, by group."""
        return store.open_groups(self.library)

    @property
    def shared(self) -> store.Shared:
        """The parts of references that other references share."""
        return store.open_shared(self.library)

    @cached_property
    def detections(self) -> pd.DataFrame:
        """Every box that the detector found, most confident first within its image."""
        return read_detections(self.run)

    @cached_property
    def detections_of_points(self) -> pd.DataFrame:
        """`detections` of both operating points, with the `point` of each: "local", or "global" where that has a detector
        of its own, else ""."""
        if not store.shards(self.run.global_detections, ".parquet"):
            return self.detections.assign(point="")
        others = read_detections(self.run, "global").assign(point="global")
        return pd.concat([self.detections.assign(point="local"), others], ignore_index=True)

    @cached_property
    def crops(self) -> pd.DataFrame:
        """The boxes that were cut out, as the `crops` table."""
        return read_crops(self.run)

    @cached_property
    def crop_rules(self) -> dict[str, float]:
        """The settings with which the crops were chosen, as they are stored with them: the names are
        those of `rule.crop_table`. For a run without crops: settings that choose none."""
        path = self.run.crops_parquet
        nothing = {"local_min_confidence": 1.0, "global_min_confidence": 1.0, "max_crops": 1}
        nothing |= {name: self.parameter(f"crop_{name}") for name in ("max_area", "max_aspect")}
        return nothing | (store.describe(path)["settings"] if path.exists() else {})

    @cached_property
    def image_candidates(self) -> pd.DataFrame:
        """What every branch proposed, one row per (view, reference or frame of one, branch)."""
        return read_candidates(self.run)

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """`image_candidates` with the file of each frame in the place of its id."""
        proposed = self.image_candidates
        return proposed.assign(reference_id=files_of(proposed["reference_id"]))

    @cached_property
    def good_enough(self) -> np.ndarray:
        """Which candidates (n,) are within the limits of the run, so that they may be verified: bool."""
        return self.are_good_enough(self.image_candidates)

    def are_good_enough(self, candidates: pd.DataFrame) -> np.ndarray:
        """`good_enough` of some rows (n,) of `image_candidates`."""
        identical = are_identical(self.run, self.library, candidates)
        return within_limits(candidates, identical, **{n: self.parameter(n) for n in LIMITS})

    @cached_property
    def evidence(self) -> pd.DataFrame:
        """What verification measured, one row per (view, reference or frame of one)."""
        return read_evidence(self.run)

    @cached_property
    def proposals(self) -> pd.DataFrame:
        """Candidates with the evidence of their pair, see `verification.join_evidence`."""
        return join_evidence(self.image_candidates, self.evidence)

    # -------------------------------------------------------------------------------- internals

    @cached_property
    def _truth_path(self) -> Path | None:
        path = store.project_path(self.named_path("truth")) if self.named_path("truth") else None
        return path if path is not None and path.is_file() else None


def _read_json(path: Path) -> dict[str, Any]:
    return store.read_json(path) if path.exists() else {}
