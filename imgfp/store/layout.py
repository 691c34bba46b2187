# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where everything lies inside `library/<name>/` and `runs/<name>/`. Every path is spelled here, once.

A property names a folder of shards, or a single file; the name of a file ends with its format.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from imgfp import urls
from imgfp.datatypes import Branch
from imgfp.store import fetched
from imgfp.store.files import StoreError, project_path

IndexKind = Literal["local", "global"]


@dataclass(frozen=True, init=False)
class Collection:
    """A folder of images with what was computed from each: the common part of a library and a run.

    A relative root counts from the project root, see `store.project_path`. `contents` is the word for
    its images. Raises StoreError for a URL.
    """

    root: Path
    contents: ClassVar[str] = "images"

    def __init__(self, root: str | os.PathLike[str]) -> None:
        if urls.is_url(root):
            raise StoreError(f"{urls.shown(root)} is a URL; give a local or shared folder")
        object.__setattr__(self, "root", project_path(root))

    def __fspath__(self) -> str:
        return str(self.root)

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def state(self) -> Path:
        """Folder of the files that tell which rows of the image shards are live, and where."""
        return self.root

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def catalogue(self) -> Path:
        """Where each readable image is, see `catalogue.Catalogue`."""
        return self.state / "catalogue.arrow"

    @property
    def masked(self) -> Path:
        """Rows of image shards whose files have gone or changed."""
        return self.state / "masked.parquet"

    @property
    def moved(self) -> Path:
        """Where the files of rows of image shards lie that have been moved since, and their dates."""
        return self.state / "moved.arrow"

    @property
    def rows(self) -> Path:
        """The rows of all image shards, without their thumbnails: what a listing reads of them."""
        return self.root / "rows.arrow"

    @property
    def local_features(self) -> Path:
        return self.root / "local_features"

    @property
    def descriptors(self) -> Path:
        return self.root / "descriptors"


@dataclass(frozen=True)
class IndexFolder:
    """One Faiss index: its trained and empty form, its parts, whose vectors they hold, and which are masked.
    The manifest is written last and names the parts that hold."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "index.json"

    @property
    def trained(self) -> Path:
        return self.root / "trained.faiss"

    @property
    def owners(self) -> Path:
        return self.root / "owners.arrow"

    @property
    def removed(self) -> Path:
        return self.root / "removed.parquet"

    def part(self, first_shard: int, last_shard: int) -> Path:
        return self.root / f"part-{first_shard:05d}-{last_shard:05d}.faiss"


@dataclass(frozen=True, init=False)
class Library(Collection):
    """The reference side, built once and shared by many runs; at a snapshot, or as it is. A URL opens the copy
    that was fetched from it; raises StoreError where there is none."""

    contents: ClassVar[str] = "references"
    snapshot: int | None

    def __init__(self, root: str | os.PathLike[str], snapshot: int | None = None) -> None:
        super().__init__(fetched.opened(root))
        object.__setattr__(self, "snapshot", snapshot)

    @property
    def state(self) -> Path:
        return self.root if self.snapshot is None else self.snapshots / f"{self.snapshot:05d}"

    @property
    def snapshots(self) -> Path:
        """Former states, by number, and the present one."""
        return self.root / "snapshots"

    def index(self, kind: IndexKind) -> IndexFolder:
        return IndexFolder(self.root / "index" / kind)

    @property
    def links(self) -> Path:
        """Shards of pairs of references that show the same picture, or have a part in common."""
        return self.root / "groups"

    @property
    def groups(self) -> Path:
        """The references that have copies in the library, by group."""
        return self.root / "groups/groups.parquet"

    @property
    def shared(self) -> Path:
        """The references that have a part in common with others, and which part."""
        return self.root / "groups/shared.parquet"

    @property
    def decisions_jsonl(self) -> Path:
        """The log of decisions on pictures that were looked up in the library."""
        return self.root / "decisions.jsonl"

    @property
    def plan_json(self) -> Path:
        """What a sample of the images cost, and the plan that was made of it."""
        return self.root / "plan.json"


@dataclass(frozen=True, init=False)
class Run(Collection):
    """The query side: everything that was computed about one batch of queries."""

    contents: ClassVar[str] = "queries"

    @property
    def snapshot_json(self) -> Path:
        """The snapshot of the library that the run began with."""
        return self.root / "snapshot.json"

    @property
    def query_list_csv(self) -> Path:
        """The manifest of the queries that a list names."""
        return self.root / "query_list.csv"

    @property
    def certain_parquet(self) -> Path:
        """Queries that their first candidates answer."""
        return self.root / "certain.parquet"

    @property
    def detections(self) -> Path:
        return self.root / "crops/detections"

    @property
    def global_detections(self) -> Path:
        """Those of the global operating point, where it has a detector of its own."""
        return self.root / "crops/global_detections"

    @property
    def crops_parquet(self) -> Path:
        return self.root / "crops/crops.parquet"

    @property
    def crop_features(self) -> Path:
        return self.root / "crops/local_features"

    def candidates(self, branch: Branch) -> Path:
        return self.root / "candidates" / branch

    @property
    def evidence(self) -> Path:
        return self.root / "evidence"

    @property
    def first_evidence(self) -> Path:
        """Evidence of the pairs that are verified before the other branches search."""
        return self.root / "evidence/first"

    @property
    def listed_evidence(self) -> Path:
        """Evidence from files of scores."""
        return self.root / "evidence/listed"

    @property
    def descriptors_h5(self) -> Path:
        """One vector per image of both sides, in the layout of the ISC2021 challenge."""
        return self.root / "descriptors.h5"

    @property
    def predictions_csv(self) -> Path:
        return self.root / "predictions.csv"

    @property
    def matches_csv(self) -> Path:
        """The answers for people: paths, verdict, relation, regions and evidence in words."""
        return self.root / "matches.csv"

    @property
    def truth_csv(self) -> Path:
        """The truth that the run was measured by, in the ids of the run."""
        return self.root / "truth.csv"

    @property
    def metrics_json(self) -> Path:
        return self.root / "metrics.json"

    @property
    def errors_csv(self) -> Path:
        return self.root / "errors.csv"

    @property
    def rejects_csv(self) -> Path:
        return self.root / "rejects.csv"

    @property
    def report_html(self) -> Path:
        return self.root / "report.html"

    @property
    def duplicates_csv(self) -> Path:
        """One row per picture that has a copy in its folder, by group: of a folder that was searched in itself."""
        return self.root / "duplicates.csv"

    @property
    def duplicates_html(self) -> Path:
        return self.root / "duplicates.html"

    @property
    def fusion_json(self) -> Path:
        """A fusion model that was fitted on the decisions of this run."""
        return self.root / "fusion.json"

    @property
    def decisions_jsonl(self) -> Path:
        """The log of reviewed pairs."""
        return self.root / "decisions.jsonl"

    @property
    def decisions_csv(self) -> Path:
        """The decisions that hold, exported for other tools."""
        return self.root / "decisions.csv"

    @property
    def params_yaml(self) -> Path:
        """The resolved parameters."""
        return self.root / "params.yaml"

    @property
    def status_json(self) -> Path:
        """The state of each stage."""
        return self.root / "status.json"

    @property
    def notebooks(self) -> Path:
        """The executed copies of the notebooks."""
        return self.root / "notebooks"


@dataclass(frozen=True)
class Lab:
    """A robustness lab: queries made from a folder of photographs, and the run that searched them."""

    root: Path

    @property
    def made(self) -> Path:
        """Shards of queries as they were made, with their geometry."""
        return self.root / "made"

    @property
    def queries(self) -> Path:
        """The same as image files."""
        return self.root / "edited/queries"

    @property
    def references_csv(self) -> Path:
        """Manifest of the photographs that are the library."""
        return self.root / "edited/references.csv"

    @property
    def truth_csv(self) -> Path:
        return self.root / "edited/truth.csv"

    @property
    def meta_csv(self) -> Path:
        """The edits and the geometry of each query."""
        return self.root / "edited/meta.csv"

    @property
    def run(self) -> Run:
        return Run(self.root / "run")

    @property
    def curves_csv(self) -> Path:
        return self.root / "curves.csv"

    @property
    def edits_csv(self) -> Path:
        """What became of the copies with each edit."""
        return self.root / "edits.csv"

    @property
    def page_html(self) -> Path:
        return self.root / "robustness.html"
