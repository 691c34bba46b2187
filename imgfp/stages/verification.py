# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebooks 03 and 08: the evidence of proposed pairs, from stored features and thumbnails.

The candidates of the local branch with many votes are verified at once. They answer about half of the queries, see
`imgfp.stages.certain`; of the others every branch proposes candidates, which are verified together.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import BRANCHES, Branch, files_of, frame_of, table
from imgfp.decoding import read_image
from imgfp.descriptors.registry import resolved
from imgfp.geometry import project
from imgfp.images import ImageError
from imgfp.runner.cluster import MapReport, ShardResult, Task, map_shards
from imgfp.runner.params import check_choice
from imgfp.scoring.fusion import (
    FORM_INLIERS,
    Model,
    are_always_compared,
    calibrated,
    load_model,
    to_json,
)
from imgfp.search.propose import within_limits
from imgfp.stages.certain import ANOTHER, explained_queries
from imgfp.stages.crops import box_of_each, read_crops
from imgfp.stages.features import feature_settings, stored_features
from imgfp.stages.identical import are_identical
from imgfp.stages.inventory import limits_of, resolved_paths, thumbnails
from imgfp.stages.listed import list_scores
from imgfp.stages.search import read_candidates
from imgfp.store import Collection, Library, Run
from imgfp.verify.classifier import load_classifier
from imgfp.verify.correlation import Alignment, to_grey
from imgfp.verify.differences import cell_of, find_differences
from imgfp.verify.evidence import COLUMNS, evidence_table, score_rows
from imgfp.verify.view import View

#: Columns that identify a row of evidence.
KEYS = ["query_id", "view_id", "reference_id"]
#: Votes from which a candidate of the local branch is verified before the other branches search.
FIRST_VOTES = 4
#: Queries whose images and candidates are in memory together.
QUERIES_AT_ONCE = 16


def verify_first(
    run: Run,
    library: Library,
    *,
    certain_score: float,
    match_ratio: float = 1.8,
    pair_classifier: str = "",
    fusion_model: str = "",
    descriptor_model: str = "auto",
    cluster: str = "local",
    workers: int = 0,
    **limits: Any,
) -> MapReport:
    """Verify those candidates of the local branch that `are_first`, within the `limits` of `propose.within_limits`, and write
    which queries they answer, see `read_certain`.

    certain_score: probability of a copy, by `fusion.calibrated`, that makes a query certain; at 1 nothing is
    verified and no query is. fusion_model, descriptor_model: file of the fusion model, and name of the descriptor of this
    run, whose vectors it must fit; the other settings are those of `verify_pairs`. Raises StoreError before the local
    search.
    """
    check_choice("candidates_scored", limits.get("candidates_scored", "all"))
    _need_candidates(run, "local")
    model = load_model(fusion_model, resolved(descriptor_model)[0])
    candidates = read_candidates(run, "local")
    identical = are_identical(run, library, candidates)
    chosen = within_limits(candidates, identical, **limits) & are_first(candidates, identical)
    first = candidates[chosen] if certain_score < 1 else candidates.head(0)
    scoring = scoring_settings(library, match_ratio, pair_classifier)
    where: dict[str, Any] = {
        "title": "verify first candidates",
        "cluster": cluster,
        "workers": workers,
    }
    report = _score(run, library, first, run.first_evidence, scoring, **where)
    settings = {"certain_score": certain_score, "model": store.hash_of(to_json(model))}
    paths = store.shards(run.first_evidence, ".parquet")
    made = store.origin(certain_of, settings, [store.describe(path)["sha256"] for path in paths])
    if not store.is_current(run.certain_parquet, made):
        proposals = join_evidence(first, _read(run.first_evidence))
        with store.lock(run.root):
            store.save(run.certain_parquet, certain_of(proposals, certain_score, model), made)
    return report


@store.produces("certain")
def certain_of(proposals: pd.DataFrame, certain_score: float, model: Model) -> pd.DataFrame:
    """The only pair of each query that scores at least `certain_score`, as the `certain` table."""
    certain = table("certain", certain_pairs(proposals, certain_score, model))
    return certain.sort_values("query_id", ignore_index=True)


def certain_pairs(proposals: pd.DataFrame, certain_score: float, model: Model) -> pd.DataFrame:
    """The columns of `certain_of`, by query; the ids may be numbers. proposals: of `join_evidence`. A query that another
    reference may be in as well is not certain, see `ANOTHER`."""
    scored = calibrated(proposals, model)
    likely = scored[scored["score"] >= min(certain_score, ANOTHER)]
    alone = ~likely["query_id"].duplicated(keep=False) | likely["score"].eq(1)  # 1: the same file
    best = likely[alone & likely["score"].ge(certain_score)].drop_duplicates("query_id")
    identical = proposals["identical"].eq(True)
    shown = proposals.assign(query_area=proposals["query_area"].where(~identical, 1.0))
    areas = shown.groupby(["query_id", "reference_id"], as_index=False)["query_area"].max()
    return best.merge(areas).sort_values("query_id", ignore_index=True)


def verify_pairs(
    run: Run,
    library: Library,
    *,
    match_ratio: float = 1.8,
    pair_classifier: str = "",
    cluster: str = "local",
    workers: int = 0,
    files: Mapping[Branch, str] | None = None,
    **limits: Any,
) -> MapReport:
    """Measure the evidence of every (view, reference) that a branch proposed within the `limits` of `propose.within_limits` and
    notebook 03 has not verified, each once; none of explained queries.

    match_ratio, pair_classifier: see `scoring_settings`; files: branch -> file of scores that takes the place of the
    measurement for the candidates of the branch, see `list_scores`. Raises StoreError before notebooks 03 to 07.
    """
    check_choice("candidates_scored", limits.get("candidates_scored", "all"))
    _need_candidates(run, *BRANCHES)
    list_scores(run, library, files or {}, **limits)
    candidates = candidates_to_verify(run, library, **limits)
    scoring = scoring_settings(library, match_ratio, pair_classifier)
    where: dict[str, Any] = {"title": "verify", "cluster": cluster, "workers": workers}
    return _score(run, library, candidates, run.evidence, scoring, **where)


def _score(
    run: Run,
    library: Library,
    candidates: pd.DataFrame,
    folder: Path,
    scoring: dict[str, Any],
    **where: Any,
) -> MapReport:
    """Write the evidence of these candidates to `folder`, and remove what else it holds."""
    return map_shards(
        score_pairs,
        pair_tasks(run, library, candidates, folder),
        scoring,
        unit="pair",
        lock_dir=run.root,
        output_dir=folder,
        **where,
    )


def candidates_to_verify(run: Run, library: Library, **limits: Any) -> pd.DataFrame:
    """The candidates that notebook 08 verifies: of queries that are not explained, those within the `limits` of
    `within_limits`, less the pairs that notebook 03 has verified."""
    candidates = read_candidates(run)
    kept = ~candidates["query_id"].isin(explained_queries(run))
    known = pd.concat(_read(folder)[KEYS] for folder in (run.first_evidence, run.listed_evidence))
    kept &= ~pd.MultiIndex.from_frame(candidates[KEYS]).isin(pd.MultiIndex.from_frame(known))
    kept &= within_limits(candidates, are_identical(run, library, candidates), **limits)
    return candidates[kept]


def are_first(candidates: pd.DataFrame, identical: np.ndarray) -> np.ndarray:
    """Which candidates (n,) of the local branch are verified before the other branches search: bool; identical: as in
    `propose.within_limits`."""
    return identical | (candidates["score"] >= FIRST_VOTES).to_numpy()


def _need_candidates(run: Run, *branches: Branch) -> None:
    searched = any(store.shards(run.candidates(branch), ".parquet") for branch in branches)
    has_none = run.catalogue.exists() and not len(store.open_catalogue(run))
    if not searched and not has_none:
        notebooks = "notebook 03" if branches == ("local",) else "notebooks 03 to 07"
        raise store.StoreError(f"{run.root} has no candidates yet; run {notebooks}")


def pair_tasks(run: Run, library: Library, candidates: pd.DataFrame, folder: Path) -> list[Task]:
    """One task per shard of queries: every (view, reference) among the candidates, once; its evidence goes to
    `folder`."""
    pairs = candidates[KEYS].drop_duplicates().sort_values(KEYS)
    queries, references = store.open_catalogue(run), store.open_catalogue(library)
    shards, _ = store.shard_and_row(queries.places_of(pairs["query_id"].tolist()))
    extracted = store.hash_of(feature_settings(run), feature_settings(library))
    read = [run.images, run.local_features, run.crop_features]
    read += [library.images, library.local_features]
    state = store.hash_of(*(store.digest_of(folder, ["*"]) for folder in read))
    first = _read(run.first_evidence) if folder != run.first_evidence else _no_evidence()
    may_lie_in_a_form = first["guided_inliers"].ge(FORM_INLIERS) & first["refused"].eq("")
    matched = {*first.loc[may_lie_in_a_form, "view_id"]}
    shared = store.open_shared(library)
    tasks = []
    for number, rows in pairs.groupby(shards, sort=True):
        of_form = sorted(matched.intersection(rows["view_id"]))
        marks = shared.rows[shared.rows["image_id"].isin(rows["reference_id"])]
        inputs = (
            *rows[KEYS].agg("|".join, axis=1),
            *queries.digests_of(rows["query_id"].tolist()),
            *references.digests_of(rows["reference_id"].tolist()),
            extracted,
            *COLUMNS,
            *of_form,
            *marks.astype(str).agg("|".join, axis=1),
        )
        arguments = {
            "run": run,
            "library": library,
            "pairs": rows.reset_index(drop=True),
            "matched": frozenset(of_form),
            "state": state,
        }
        path = folder / f"{store.shard_name(int(str(number)))}.parquet"
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
    matched: frozenset[str],
    state: str,
    *,
    ratio: float,
    frame_short_side_px: int,
    pair_classifier: str,
    classifier_hash: str,
) -> ShardResult:
    """The evidence of each pair: KEYS and the columns of `evidence.COLUMNS`.

    ratio: second over first squared distance in the match count of the 2021 system; pair_classifier:
    see `classifier.load_classifier`; classifier_hash: of its weights, for the fingerprint; matched: views of which
    another reference has been verified that may share a form with them, see `fusion.have_other_content`; state:
    changes with what is stored of the images, so that a long-lived worker opens it again.
    """
    classifier = load_classifier(pair_classifier)
    views, references = (_view_reader(side, frame_short_side_px, state) for side in (run, library))
    same = pairs.loc[are_identical(run, library, pairs), ["query_id", "reference_id"]]
    identical = {*same.itertuples(index=False, name=None)}
    shared = store.open_shared(library)
    scored: list[dict[str, Any]] = []
    ids = sorted(set(pairs["query_id"]))
    # A few queries at a time, so that memory does not grow with the number of their references.
    for start in range(0, len(ids), QUERIES_AT_ONCE):
        rows = pairs[pairs["query_id"].isin(ids[start : start + QUERIES_AT_ONCE])]
        view_of = views.read({view_id: views.image_of(view_id) for view_id in rows["view_id"]})
        reference_of = references.read({image_id: image_id for image_id in rows["reference_id"]})
        for key, reference_ids in rows.groupby(["query_id", "view_id"])["reference_id"]:
            query_id, view_id = map(str, key)
            among = {image_id: reference_of[image_id] for image_id in reference_ids}
            named = {"query_id": query_id, "view_id": view_id}
            found = score_rows(view_of[view_id], among, ratio=ratio, classifier=classifier)
            _mark_shared(found, view_of[view_id], among, shared)
            matching = [
                row for row in found if row["guided_inliers"] >= FORM_INLIERS and not row["refused"]
            ]
            if len(matching) < 2 and view_id not in matched:
                matching = [row for row in matching if are_always_compared(row)]
            if matching:
                _compare_in_full(run, views.image_of(view_id), library, matching, shared)
            scored += [
                {**named, **row, "identical": (query_id, row["reference_id"]) in identical}
                for row in found
            ]
    return ShardResult(evidence_table(scored) if scored else _no_evidence())


def _mark_shared(
    rows: list[dict[str, Any]], query: View, references: Mapping[str, View], shared: store.Shared
) -> None:
    """Add to rows of evidence of one view which of its inliers lie in parts that other references share."""
    for row in rows:
        inliers = np.array(row["inlier_keypoints"].split(), np.int64)
        part = shared.of(row["reference_id"]) if len(inliers) else None
        if part is None or np.isnan(row["h00"]):  # a folded overlap has inliers and no transform
            continue
        reference = references[row["reference_id"]]
        at = project(homography_of_row(row), query.keypoints[inliers, :2].astype(np.float64))
        inside = int(part[0][cell_of(at, (reference.width, reference.height))].sum())
        row |= {"shared_inliers": inside, "shared_by": part[1] if inside else 0}


def _compare_in_full(
    run: Run, image_id: str, library: Library, rows: list[dict[str, Any]], shared: store.Shared
) -> None:
    """Add to rows of evidence the columns of a comparison at full resolution; none where a file cannot be read any
    more."""
    with suppress(ImageError):
        query = full_grey(run, image_id)
        for row in rows:
            with suppress(ImageError):
                reference = full_grey(library, row["reference_id"])
                alignment = Alignment(query, reference, homography_of_row(row))
                part = shared.of(row["reference_id"])
                row |= find_differences(alignment, part and part[0]).columns


def full_grey(collection: Collection, image_id: str) -> np.ndarray:
    """An image at full resolution, (h,w) float32 grey. Raises ImageError where its file cannot be read."""
    path = resolved_paths(collection, [image_id])[0]  # where it is now, if its folder was moved
    return to_grey(read_image(path, limits_of(collection), frame_of(image_id)))


def homography_of_row(row: Mapping[str, Any] | pd.Series) -> np.ndarray:
    """The homography (3,3) of a row of evidence, from query to reference pixels of the whole images."""
    return np.array([[row[f"h{i}{j}"] for j in range(3)] for i in range(3)], np.float64)


class ViewReader:
    """The sides of pairs of a library or run, from stored features and thumbnails.

    frame_short_side_px: the size at which keypoints were searched, see `frame_short_side_px`.
    """

    def __init__(self, collection: Collection, frame_short_side_px: int) -> None:
        self._collection, self._frame_px = collection, frame_short_side_px
        self._catalogue = store.open_catalogue(collection)
        self._lookups = [stored_features(collection)]
        self._boxes: dict[str, np.ndarray] = {}
        self._image_of: dict[str, str] = {}
        if isinstance(collection, Run):
            self._lookups.append(store.FeatureLookup(collection.crop_features))
            crops = read_crops(collection)
            self._boxes = box_of_each(crops)
            self._image_of = dict(zip(crops["crop_id"], crops["query_id"], strict=True))

    def image_of(self, view_id: str) -> str:
        """The image that a view is, or that a crop was cut from."""
        return self._image_of.get(view_id, view_id)

    def read(self, image_of: dict[str, str]) -> dict[str, View]:
        """The views (images or crops) that are keys, each of the image that is its value. A view
        without local features has no keypoints. Raises KeyError for an unknown image."""
        # Images that are stored together are read together.
        image_of = dict(sorted(image_of.items()))
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
            with suppress(KeyError):
                return lookup.of(view_id)
        return np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8)


@lru_cache(maxsize=2)
def _view_reader(collection: Collection, frame_short_side_px: int, state: str) -> ViewReader:
    return ViewReader(collection, frame_short_side_px)


def frame_short_side_px(library: Library) -> int:
    """The size at which the library's keypoints were searched; 0 where it is not known."""
    return int(feature_settings(library).get("short_side_px", 0))


def read_evidence(run: Run) -> pd.DataFrame:
    """The evidence of all pairs, one row per (view, reference), of files of scores, of notebook 03 and then of notebook
    08: KEYS and `evidence.COLUMNS`."""
    folders = run.listed_evidence, run.first_evidence, run.evidence
    parts = [part for part in map(_read, folders) if len(part)]
    if not parts:
        return _no_evidence()
    # A notebook 03 that has run again may have verified what an older notebook 08 had.
    return pd.concat(parts).drop_duplicates(KEYS, ignore_index=True)


def _read(folder: Path) -> pd.DataFrame:
    parts = [store.load(path) for path in store.shards(folder, ".parquet")]
    return pd.concat(parts, ignore_index=True) if parts else _no_evidence()


def join_evidence(candidates: pd.DataFrame, evidence: pd.DataFrame) -> pd.DataFrame:
    """Candidates, one row per (view, reference, branch), each with the evidence of its pair, as fusion
    reads them: with the file of a reference that is a frame in the place of its id."""
    # Both have `mirrored`: how the query was searched, and what the transform does. Fusion reads the latter.
    proposed = candidates.drop(columns="mirrored")
    joined = proposed.merge(evidence, on=KEYS, how="left", validate="many_to_one")
    return joined.assign(reference_id=files_of(joined["reference_id"]))


def _no_evidence() -> pd.DataFrame:
    types = {**dict.fromkeys(KEYS, "str"), **COLUMNS}
    return pd.DataFrame(columns=list(types)).astype(types)
