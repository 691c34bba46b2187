"""Notebook 08: the evidence of every proposed pair, from cached features and thumbnails."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import BRANCHES
from imgfp.runner.cluster import ShardResult, Task
from imgfp.runner.params import check_choice
from imgfp.stages.inventory import read_images, thumbnails
from imgfp.verify.classifier import load_classifier
from imgfp.verify.evidence import COLUMNS, score_query
from imgfp.verify.view import View

#: What evidence rows are known by.
KEYS = ["query_id", "view_id", "reference_id"]
#: Queries whose pictures and candidates are in memory together.
QUERIES_AT_ONCE = 16


def read_candidates(run: Path, scored: str = "all") -> pd.DataFrame:
    """The candidates of all branches, in the order local, crop, global.

    scored: "all", or "accepted" for those that their branch's own rule accepted.
    """
    check_choice("candidates_scored", scored)
    folders = [run / "candidates" / branch for branch in BRANCHES]
    parts = [store.load(p) for folder in folders for p in store.shards(folder, ".parquet")]
    if not parts:
        raise store.StoreError(f"{run} has no candidates yet; run notebooks 04 to 07")
    candidates = pd.concat(parts, ignore_index=True)
    return candidates[candidates["accepted"]] if scored == "accepted" else candidates


def pair_tasks(run: Path, library: Path, candidates: pd.DataFrame) -> list[Task]:
    """One task a shard of queries: every (view, reference) that a branch proposed, once."""
    pairs = candidates[KEYS].drop_duplicates().sort_values(KEYS)
    queries = read_images(run, ["image_id", "sha256"]).set_index("image_id")
    references = read_images(library, ["image_id", "sha256"]).set_index("image_id")["sha256"]
    features = store.digest_of(run, ["local_features/*", "crops/local_features/*"])
    made = store.digest_of(library, ["local_features/*"])
    extracted = store.hash_of(_feature_settings(run), _feature_settings(library))
    tasks = []
    for name, rows in pairs.groupby(pairs["query_id"].map(queries["shard"]), sort=True):
        seen = rows[KEYS].agg("|".join, axis=1)
        inputs = (
            *seen,
            *queries["sha256"].loc[rows["query_id"]],
            *references.loc[rows["reference_id"]],
        )
        inputs = (*inputs, extracted, *COLUMNS)
        arguments = {
            "run": run,
            "library": library,
            "pairs": rows.reset_index(drop=True),
            "state": store.hash_of(features, made),
        }
        path = run / "evidence" / f"{name}.parquet"
        tasks.append(Task(path, inputs, arguments, len(rows)))
    return tasks


def scoring_settings(library: Path, match_ratio: float, pair_classifier: str = "") -> dict:
    """Settings of `score_pairs`; pair_judge: file of a `classifier.PairClassifier`, "" for the one that ships."""
    path = str(store.project_path(pair_classifier)) if pair_classifier else ""
    return {
        "ratio": match_ratio,
        "frame_short_side_px": frame_short_side_px(library),
        "pair_classifier": path,
        "classifier_hash": load_classifier(path).weights_hash,
    }


@store.produces("evidence", formerly=["imgfp.stages.pairs.score_pairs"])
def score_pairs(
    run: Path,
    library: Path,
    pairs: pd.DataFrame,
    state: str,
    *,
    ratio: float,
    frame_short_side_px: int,
    pair_classifier: str,
    classifier_hash: str,
) -> ShardResult:
    """The evidence of each pair: KEYS and the columns of `evidence.COLUMNS`.

    ratio: second over first squared distance that the seed's match count asks for; pair_judge: see
    `classifier.load_classifier`; judge_hash tells its weights in the fingerprint. `state` changes with the
    features, so that a worker that lives long opens them anew.
    """
    classifier = load_classifier(pair_classifier)
    views, reference_features = _features(run, library, state)
    boxes = _boxes(run, state)
    sizes = _sizes(run, state), _sizes(library, state)
    tables = []
    ids = sorted(set(pairs["query_id"]))
    # A few queries at a time, so that memory does not grow with the number of references they share.
    for start in range(0, len(ids), QUERIES_AT_ONCE):
        rows = pairs[pairs["query_id"].isin(ids[start : start + QUERIES_AT_ONCE])]
        query_ids, reference_ids = (sorted(set(rows[key])) for key in ("query_id", "reference_id"))
        shown = dict(zip(query_ids, thumbnails(run, query_ids), strict=True))
        references = {
            image_id: View(
                *_of(reference_features, image_id),
                thumbnail,
                *sizes[1][image_id],
                frame_short_side_px=frame_short_side_px,
            )
            for image_id, thumbnail in zip(
                reference_ids, thumbnails(library, reference_ids), strict=True
            )
        }
        for (query_id, view_id), proposed in rows.groupby(["query_id", "view_id"], sort=True):
            query = View(
                *_of(views, view_id),
                shown[query_id],
                *sizes[0][query_id],
                box=boxes.get(view_id),
                frame_short_side_px=frame_short_side_px,
            )
            among = {image_id: references[image_id] for image_id in proposed["reference_id"]}
            scored = score_query(query, among, ratio=ratio, classifier=classifier)
            scored.insert(0, "view_id", view_id)
            scored.insert(0, "query_id", query_id)
            tables.append(scored)
    if not tables:
        return ShardResult(pd.DataFrame(columns=[*KEYS, *COLUMNS]))
    return ShardResult(pd.concat(tables, ignore_index=True))


def whole_picture(
    root: Path, lookups: list[store.FeatureLookup], image_id: str, frame_short_side_px: int
) -> View:
    """One image of a library or run, ready to be compared; lookups: where its features are."""
    size = _sizes(root, store.digest_of(root, ["images/*"]))[image_id]
    thumbnail = thumbnails(root, [image_id])[0]
    features = _of(lookups, image_id)
    return View(*features, thumbnail, *size, frame_short_side_px=frame_short_side_px)


def frame_short_side_px(library: Path) -> int:
    """The size at which the library's keypoints were searched."""
    return int(_feature_settings(library).get("short_side_px", 0))


def read_evidence(run: Path) -> pd.DataFrame:
    """The evidence of all pairs, each row once for every branch that proposed it, with the branch's
    rank, score and acceptance."""
    evidence = store.load_tables(run / "evidence")
    candidates = read_candidates(run).rename(columns={"mirrored": "proposed_mirrored"})
    return candidates.merge(evidence, on=KEYS, how="left", validate="many_to_one")


def _feature_settings(root: Path) -> dict:
    """How the keypoints of a library or run were extracted."""
    paths = store.shards(root / "local_features", ".h5")
    return store.describe(paths[0])["settings"] if paths else {}


@lru_cache(maxsize=1)
def _features(run: Path, library: Path, state: str):
    views = [store.FeatureLookup(run / name) for name in ("local_features", "crops/local_features")]
    return views, [store.FeatureLookup(library / "local_features")]


def _of(lookups: list[store.FeatureLookup], image_id: str) -> tuple[np.ndarray, np.ndarray]:
    for lookup in lookups:
        if image_id in lookup:
            return lookup.of(image_id)
    return np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8)


@lru_cache(maxsize=1)
def _boxes(run: Path, state: str) -> dict[str, np.ndarray]:
    crops = store.load(run / "crops/crops.parquet")
    corners = crops[["x0", "y0", "x1", "y1"]].to_numpy(np.float64)
    return dict(zip(crops["crop_id"], corners, strict=True))


@lru_cache(maxsize=2)
def _sizes(root: Path, state: str) -> dict[str, tuple[int, int]]:
    images = read_images(root, ["image_id", "width", "height"])
    return {
        i: (w, h) for i, w, h in images[["image_id", "width", "height"]].itertuples(index=False)
    }
