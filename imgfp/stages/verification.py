# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebook 08: the evidence of every proposed pair, from stored features and thumbnails."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import BRANCHES
from imgfp.runner.cluster import MapReport, ShardResult, Task, map_shards
from imgfp.runner.params import check_choice
from imgfp.stages.crops import box_of_each, read_crops
from imgfp.stages.features import stored_features
from imgfp.stages.inventory import thumbnails
from imgfp.stages.search import read_candidates
from imgfp.store import Collection, Library, Run
from imgfp.verify.classifier import load_classifier
from imgfp.verify.evidence import COLUMNS, score_query
from imgfp.verify.view import View

#: Columns that identify a row of evidence.
KEYS = ["query_id", "view_id", "reference_id"]
#: Queries whose images and candidates are in memory together.
QUERIES_AT_ONCE = 16


def verify_pairs(
    run: Run,
    library: Library,
    *,
    candidates_scored: str = "all",
    match_ratio: float = 1.8,
    pair_classifier: str = "",
    cluster: str = "local",
    workers: int = 0,
) -> MapReport:
    """Measure the evidence of every (view, reference) that a branch proposed, each once.

    candidates_scored: "all", or "accepted" for those that their branch's own rule accepted;
    match_ratio, pair_classifier: see `scoring_settings`. Raises StoreError before notebooks 04 to 07.
    """
    check_choice("candidates_scored", candidates_scored)
    if not any(store.shards(run.candidates(branch), ".parquet") for branch in BRANCHES):
        raise store.StoreError(f"{run.root} has no candidates yet; run notebooks 04 to 07")
    candidates = read_candidates(run)
    if candidates_scored == "accepted":
        candidates = candidates[candidates["accepted"]]
    return map_shards(
        score_pairs,
        pair_tasks(run, library, candidates),
        scoring_settings(library, match_ratio, pair_classifier),
        cluster=cluster,
        workers=workers,
        title="verify",
        unit="pair",
        lock_dir=run.root,
        output_dir=run.evidence,
    )


def pair_tasks(run: Run, library: Library, candidates: pd.DataFrame) -> list[Task]:
    """One task per shard of queries: every (view, reference) among the candidates, once."""
    pairs = candidates[KEYS].drop_duplicates().sort_values(KEYS)
    queries, references = store.open_catalogue(run), store.open_catalogue(library)
    shards, _ = store.shard_and_row(queries.places_of(pairs["query_id"].tolist()))
    extracted = store.hash_of(_feature_settings(run), _feature_settings(library))
    read = [run.images, run.local_features, run.crop_features]
    read += [library.images, library.local_features]
    state = store.hash_of(*(store.digest_of(folder, ["*"]) for folder in read))
    tasks = []
    for number, rows in pairs.groupby(shards, sort=True):
        inputs = (
            *rows[KEYS].agg("|".join, axis=1),
            *queries.digests_of(rows["query_id"].tolist()),
            *references.digests_of(rows["reference_id"].tolist()),
            extracted,
            *COLUMNS,
        )
        arguments = {
            "run": run,
            "library": library,
            "pairs": rows.reset_index(drop=True),
            "state": state,
        }
        path = run.evidence / f"{store.shard_name(int(str(number)))}.parquet"
        tasks.append(Task(path, inputs, arguments, len(rows)))
    return tasks


def scoring_settings(library: Library, match_ratio: float, pair_classifier: str = "") -> dict:
    """Settings of `score_pairs`. match_ratio: its `ratio`; pair_classifier: ONNX file of a
    `classifier.PairClassifier`, "" for the shipped one."""
    path = store.located(pair_classifier)
    return {
        "ratio": match_ratio,
        "frame_short_side_px": frame_short_side_px(library),
        "pair_classifier": path,
        "classifier_hash": load_classifier(path).weights_hash,
    }


@store.produces("evidence", formerly=["imgfp.stages.pairs.score_pairs"])
def score_pairs(
    run: Run,
    library: Library,
    pairs: pd.DataFrame,
    state: str,
    *,
    ratio: float,
    frame_short_side_px: int,
    pair_classifier: str,
    classifier_hash: str,
) -> ShardResult:
    """The evidence of each pair: KEYS and the columns of `evidence.COLUMNS`.

    ratio: second over first squared distance in the match count of the 2021 system; pair_classifier:
    see `classifier.load_classifier`; classifier_hash: of its weights, for the fingerprint; state:
    changes with what is stored of the images, so that a long-lived worker opens it again.
    """
    classifier = load_classifier(pair_classifier)
    views, references = (_view_reader(side, frame_short_side_px, state) for side in (run, library))
    tables = []
    ids = sorted(set(pairs["query_id"]))
    # A few queries at a time, so that memory does not grow with the number of their references.
    for start in range(0, len(ids), QUERIES_AT_ONCE):
        rows = pairs[pairs["query_id"].isin(ids[start : start + QUERIES_AT_ONCE])]
        view_of = views.read(dict(zip(rows["view_id"], rows["query_id"], strict=True)))
        reference_of = references.read({image_id: image_id for image_id in rows["reference_id"]})
        for key, reference_ids in rows.groupby(["query_id", "view_id"])["reference_id"]:
            query_id, view_id = map(str, key)
            among = {image_id: reference_of[image_id] for image_id in reference_ids}
            scored = score_query(view_of[view_id], among, ratio=ratio, classifier=classifier)
            scored.insert(0, "view_id", view_id)
            scored.insert(0, "query_id", query_id)
            tables.append(scored)
    return ShardResult(pd.concat(tables, ignore_index=True) if tables else _no_evidence())


class ViewReader:
    """The sides of pairs of a library or run, from stored features and thumbnails.

    frame_short_side_px: the size at which keypoints were searched, see `frame_short_side_px`.
    """

    def __init__(self, collection: Collection, frame_short_side_px: int) -> None:
        self._collection, self._frame_px = collection, frame_short_side_px
        self._catalogue = store.open_catalogue(collection)
        self._lookups = [stored_features(collection)]
        self._boxes: dict[str, np.ndarray] = {}
        if isinstance(collection, Run):
            self._lookups.append(store.FeatureLookup(collection.crop_features))
            self._boxes = box_of_each(read_crops(collection))

    def read(self, image_of: dict[str, str]) -> dict[str, View]:
        """The views (images or crops) that are keys, each of the image that is its value. A view
        without local features has no keypoints. Raises KeyError for an unknown image."""
        ids = list(dict.fromkeys(image_of.values()))
        shown = dict(zip(ids, thumbnails(self._collection, ids), strict=True))
        sizes = dict(zip(ids, self._catalogue.sizes_of(ids).tolist(), strict=True))
        return {
            view_id: View(
                *self.features(view_id),
                shown[image_id],
                sizes[image_id][0],
                sizes[image_id][1],
                self._boxes.get(view_id),
                self._frame_px,
            )
            for view_id, image_id in image_of.items()
        }

    def features(self, view_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (k,4) in original pixels and descriptors (k,128) of an image or crop; none where
        nothing was found."""
        for lookup in self._lookups:
            if view_id in lookup:
                return lookup.of(view_id)
        return np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8)


@lru_cache(maxsize=2)
def _view_reader(collection: Collection, frame_short_side_px: int, state: str) -> ViewReader:
    return ViewReader(collection, frame_short_side_px)


def frame_short_side_px(library: Library) -> int:
    """The size at which the library's keypoints were searched; 0 where it is not known."""
    return int(_feature_settings(library).get("short_side_px", 0))


def read_evidence(run: Run) -> pd.DataFrame:
    """The evidence of all pairs, one row per (view, reference): KEYS and `evidence.COLUMNS`; no rows
    before notebook 08."""
    parts = [store.load(path) for path in store.shards(run.evidence, ".parquet")]
    return pd.concat(parts, ignore_index=True) if parts else _no_evidence()


def join_evidence(candidates: pd.DataFrame, evidence: pd.DataFrame) -> pd.DataFrame:
    """Candidates, one row per (view, reference, branch), each with the evidence of its pair, as fusion
    reads them."""
    # Both have `mirrored`: how the query was searched, and what the transform does. Fusion reads the latter.
    proposed = candidates.drop(columns="mirrored")
    return proposed.merge(evidence, on=KEYS, how="left", validate="many_to_one")


def _no_evidence() -> pd.DataFrame:
    types = {**dict.fromkeys(KEYS, "str"), **COLUMNS}
    return pd.DataFrame(columns=list(types)).astype(types)


def _feature_settings(collection: Collection) -> dict:
    """How the keypoints of a library or run were extracted."""
    paths = store.shards(collection.local_features, ".h5")
    return store.describe(paths[0])["settings"] if paths else {}
