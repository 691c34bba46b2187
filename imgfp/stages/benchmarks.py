"""Notebooks 30 and 31: how fast the stages are on this machine, and what another scale would need."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd

from imgfp import cluster, index, store
from imgfp.evidence import INLIER_PX
from imgfp.geometry import project
from imgfp.matching import verify
from imgfp.pictures import Picture
from imgfp.readings import nearest_two, tentative_matches
from imgfp.refine import lay
from imgfp.stages import local, pairs
from imgfp.stages.indexing import open_index
from imgfp.voting import vote

#: Bytes of a keypoint (x, y, size, angle) and of its descriptor.
KEYPOINT_BYTES, DESCRIPTOR_BYTES = 16, 128
#: Bytes an indexed keypoint takes, its id included, and what comparing with it costs against floats.
#: Measured on 3 M keypoints: 16-byte codes answer 1.3 times as fast as bytes, list centres included.
STORAGE = {"Flat": (512, 1.0), "SQ8_direct": (136, 1.0), "PQ32": (40, 0.7), "PQ16": (24, 0.45)}
#: Comparing with a list's centre is part of a matrix product, so cheaper than with a vector in a list.
CENTRE_COST = 0.4


# ------------------------------------------------------------------------------ local features


def bare_loop(records: Sequence[dict], **settings) -> int:
    """The least that anybody has to do: decode, resize, OpenCV's SIFT with the same settings.

    records: with a `path`; settings: of `sift.extract`. Nothing is checked, sorted, normalised or kept.
    Returns the number of keypoints.
    """
    halved = 1 + settings["first_octave"]
    detector = cv2.SIFT_create(
        nOctaveLayers=settings["octave_layers"],
        contrastThreshold=settings["contrast_threshold"],
        edgeThreshold=settings["edge_threshold"],
        enable_precise_upscale=True,
    )
    found = 0
    for record in records:
        data = np.fromfile(record["path"], np.uint8)
        grey = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
        scale = min(1.0, settings["short_side_px"] / min(grey.shape)) / (1 + halved)
        frame = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found += len(detector.detectAndCompute(frame, None)[0])
    return found


def our_loop(records: Sequence[dict], **settings) -> int:
    """The local-feature stage on the same pictures in this process; returns the keypoints kept."""
    return int(local.extract_features(list(records), **settings).record.offsets[-1])


def race(
    runners: dict[str, Callable[..., int]], records: Sequence[dict], rounds: int, **settings
) -> pd.DataFrame:
    """Rate of each runner in one process: columns name, images_per_second, keypoints.

    The runners take turns, slice by slice, so that whatever else this machine does slows all alike; the
    processor's seconds of this process count, not the clock's.
    """
    cv2.setNumThreads(1)
    seconds = dict.fromkeys(runners, 0.0)
    keypoints = dict.fromkeys(runners, 0)
    for run in runners.values():
        run(records[:2], **settings)
    for part in range(rounds):
        slices = records[part::rounds]
        for name in sorted(runners, reverse=bool(part % 2)):
            start = time.process_time()
            keypoints[name] += runners[name](slices, **settings)
            seconds[name] += time.process_time() - start
    rows = [
        (name, len(records) / seconds[name], keypoints[name] / len(records)) for name in runners
    ]
    return pd.DataFrame(rows, columns=["name", "images_per_second", "keypoints"])


def stage_rate(records: Sequence[dict], workers: int, **settings) -> dict[str, float]:
    """The whole stage on so many processes of this machine, decoding, writing and reading back included,
    starting the processes excluded.

    Returns images_per_second by the clock, which needs a machine with nothing else to do, and
    core_milliseconds an image, which the processes burnt and which others hardly disturb.
    """
    with TemporaryDirectory() as folder, cluster.processes(workers) as address:
        size = max(1, len(records) // (8 * workers))
        tasks = [
            cluster.Task(Path(folder) / f"{at}.h5", (), {"images": records[at : at + size]}, size)
            for at in range(0, len(records), size)
        ]
        with cluster.client(address) as connected:
            connected.run(our_loop, records[:2], **settings)
            before = sum(connected.run(time.process_time).values())
            start = time.perf_counter()
            cluster.map_shards(local.extract_features, tasks, settings, cluster=address)
            seconds = time.perf_counter() - start
            burnt = sum(connected.run(time.process_time).values()) - before
    return {
        "workers": workers,
        "images_per_second": len(records) / seconds,
        "core_milliseconds": 1000 * burnt / len(records),
    }


# -------------------------------------------------------------------------------- search, pairs


def search_rates(
    library: Path,
    features: Path,
    view_ids: Sequence[str],
    nprobes: Sequence[int],
    *,
    neighbours: int,
    ratio: float,
) -> pd.DataFrame:
    """What visiting more lists costs and brings, against the largest of `nprobes`.

    Columns nprobe, keypoints_per_second (of the processor, Faiss on one thread), same_neighbour (share of
    query keypoints with the same nearest reference keypoint), same_winner (share of queries whose
    most-voted reference is the same): search is tuned on votes, not on neighbours. ratio: of
    `voting.vote`.
    """
    opened = open_index(library, "local")
    lookup = store.FeatureLookup(features)
    queries = [lookup.of(view_id)[1] for view_id in view_ids if view_id in lookup]
    stacked = np.concatenate([np.empty((0, 128), np.uint8), *queries])
    offsets = np.cumsum([0, *map(len, queries)])
    rows = []
    with index.one_thread():
        for nprobe in sorted(nprobes, reverse=True):
            start = time.process_time()
            distances, ids = index.search(opened.parts, stacked, neighbours, nprobe)
            seconds = time.process_time() - start
            images = index.rows_of_ids(ids, opened.offsets)
            winners = np.array(
                [
                    vote(images[a:b], distances[a:b], ratio=ratio)["reference_row"].head(1).sum()
                    for a, b in itertools.pairwise(offsets)
                ]
            )
            if not rows:
                best, first = ids[:, 0], winners
            same = float((ids[:, 0] == best).mean()), float((winners == first).mean())
            rows.append((nprobe, len(stacked) / seconds, *same))
    columns = ["nprobe", "keypoints_per_second", "same_neighbour", "same_winner"]
    return pd.DataFrame(rows[::-1], columns=columns)


def distance_rate(library: Path, nprobe: int, keypoints_per_second: float) -> float:
    """Comparisons with vectors in lists a second behind a measured search rate; those with the centres
    of lists count `CENTRE_COST`."""
    opened = open_index(library, "local")
    lists = [index.lists_of(part) for part in opened.parts]
    sizes = [part.ntotal for part in opened.parts]
    work = [
        CENTRE_COST * n + size * nprobe / max(n, nprobe)
        for n, size in zip(lists, sizes, strict=True)
    ]
    return keypoints_per_second * sum(work)


def pair_rate(run: Path, library: Path, count: int, **settings) -> tuple[int, float]:
    """Pairs scored and processor milliseconds a pair, from cached features and thumbnails, with one
    thread as in a worker: others would wait for each other at full power.

    settings: of `pairs.score_pairs`.
    """
    from threadpoolctl import threadpool_limits

    tasks = pairs.pair_tasks(run, library, pairs.read_candidates(run))
    arguments: list[dict[str, Any]] = [task.arguments for task in tasks]
    chosen = pd.concat([a["pairs"] for a in arguments], ignore_index=True).head(count)
    shared = arguments[0] | {"pairs": chosen.head(5)}
    with threadpool_limits(1):
        pairs.score_pairs(**shared, **settings)
        start = time.process_time()
        scored = pairs.score_pairs(**(shared | {"pairs": chosen}), **settings)
        seconds = time.process_time() - start
    return len(scored.record), 1000 * seconds / max(1, len(scored.record))


def compare_estimators(run: Path, library: Path, candidates: pd.DataFrame) -> pd.DataFrame:
    """How well robust estimators find the map of proposed pairs (columns query_id, reference_id).

    All see the same tentative matches. Returns a row an estimator: pairs, confirmed (share of them where
    the pixels agree once the query is laid on the reference by its map, more than half of the overlap
    and 0.2 beyond chance), inliers (median over the pairs that every estimator has confirmed) and
    milliseconds of processor time a pair. PoseLib is among them where it is installed (extra `peers`).
    """
    views = [store.FeatureLookup(run / "local_features")]
    known = [store.FeatureLookup(library / "local_features")]
    frame_px = pairs.frame_short_side_px(library)
    estimators = {
        name: call
        for name, call in _ESTIMATORS.items()
        if name != "PoseLib" or find_spec("poselib")
    }
    rows = []
    for number, pair in enumerate(candidates.itertuples()):
        sides = [
            pairs.whole_picture(run, views, pair.query_id, frame_px),
            pairs.whole_picture(library, known, pair.reference_id, frame_px),
        ]
        nearest = nearest_two(sides[0].readings, sides[1].readings)
        mirrored, (matches, inverted) = max(
            ((turned, tentative_matches(nearest, turned)) for turned in (False, True)),
            key=lambda reading: len(reading[1][0]),
        )
        ends = [side.keypoints[at] for side, at in zip(sides, matches.T, strict=True)]
        for name, estimate in estimators.items():
            start = time.process_time()
            found = estimate(*ends, mirrored, inverted, sides[0].frame_px, sides[1].frame_px)
            seconds = time.process_time() - start
            rows.append((number, name, seconds, *_judge(found, *ends, *sides)))
    table = pd.DataFrame(rows, columns=["pair", "estimator", "seconds", "inliers", "confirmed"])
    everybody = table.groupby("pair")["confirmed"].transform("all")
    groups = table.groupby("estimator", sort=False)
    return pd.DataFrame(
        {
            "pairs": groups.size(),
            "confirmed": groups["confirmed"].mean(),
            "inliers": table[everybody].groupby("estimator", sort=False)["inliers"].median(),
            "milliseconds": 1000 * groups["seconds"].mean(),
        }
    ).reset_index()


def _robust(estimate: Callable[[np.ndarray, np.ndarray], np.ndarray | None]):
    """An estimator of homographies from points, made to work in frame pixels."""

    def found(query, reference, _mirrored, _inverted, query_px, reference_px):
        if len(query) < 4:
            return None
        matrix = estimate(
            query[:, :2].astype(np.float64) / query_px,
            reference[:, :2].astype(np.float64) / reference_px,
        )
        if matrix is None or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
            return None
        return np.diag([reference_px] * 2 + [1]) @ matrix @ np.diag([1 / query_px] * 2 + [1])

    return found


def _ours(query, reference, mirrored, inverted, query_px, reference_px):
    scales = {"query_px": query_px, "reference_px": reference_px}
    return verify(query, reference, mirrored=mirrored, inverted=inverted, **scales).homography


def _poselib(query: np.ndarray, reference: np.ndarray) -> np.ndarray:
    import poselib

    return poselib.estimate_homography(query, reference, {"max_reproj_error": INLIER_PX}, {})[0]


_ESTIMATORS = {
    "imgfp: votes, then MAGSAC++": _ours,
    "OpenCV MAGSAC++": _robust(
        lambda q, r: cv2.findHomography(q, r, cv2.USAC_MAGSAC, INLIER_PX, maxIters=2000)[0]
    ),
    "OpenCV RANSAC": _robust(
        lambda q, r: cv2.findHomography(q, r, cv2.RANSAC, INLIER_PX, maxIters=2000)[0]
    ),
    "PoseLib": _robust(_poselib),
}


def _judge(homography, query_ends, reference_ends, query: Picture, reference: Picture):
    """Inliers of a map, and whether the pixels confirm it."""
    if homography is None:
        return 0, False
    sent = project(homography, query_ends[:, :2].astype(np.float64))
    off = np.linalg.norm(sent - reference_ends[:, :2], axis=1) / reference.frame_px
    between = reference.to_grey_px @ homography @ np.linalg.inv(query.to_grey_px)
    seen = lay(query.grey, reference.grey, between)
    confirmed = seen is not None and seen.share > 0.5 and seen.share - seen.chance > 0.2
    return int((off < INLIER_PX).sum()), confirmed


# ------------------------------------------------------------------------------------- capacity


def capacity(
    references: int,
    queries: int,
    *,
    keypoints: float,
    images_per_second: float,
    comparisons_per_second: float,
    pair_milliseconds: float,
    candidates: int,
    readings: int,
    nprobe: int,
    cores: int,
) -> pd.DataFrame:
    """Sizes in GB and hours on `cores` for each way of keeping the index of reference keypoints.

    Rates are per core, as notebook 30 measures them; `keypoints` a picture; `readings` of a query that
    are searched; `candidates` scored a query. Columns storage, lists, index_gb, features_gb, build_hours,
    extract_hours, search_hours, score_hours.
    """
    vectors = int(references * keypoints)
    asked = queries * keypoints * readings
    hour = 3600 * cores
    rows = []
    for storage, (size, work) in STORAGE.items():
        lists = 0 if storage == "Flat" else index.lists_for(vectors, "local")
        scanned = vectors * (nprobe / lists if lists else 1) * work
        centres = CENTRE_COST * lists
        training = lists * index.TRAINING_PER_LIST * index.TRAINING_ROUNDS
        rows.append(
            {
                "storage": storage,
                "lists": lists,
                "index_gb": (vectors * size + lists * 512) / 1e9,
                "features_gb": vectors * (KEYPOINT_BYTES + DESCRIPTOR_BYTES) / 1e9,
                "extract_hours": (references + queries) / images_per_second / hour,
                "build_hours": (vectors + training) * centres / comparisons_per_second / hour,
                "search_hours": asked * (centres + scanned) / comparisons_per_second / hour,
                "score_hours": queries * candidates * pair_milliseconds / 1000 / hour,
            }
        )
    return pd.DataFrame(rows)
