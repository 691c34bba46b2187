"""Notebooks 30 and 31: how fast the stages are on this machine, and what another scale would need."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd

from imgfp import store
from imgfp.runner import cluster
from imgfp.search import index
from imgfp.search.voting import vote
from imgfp.stages import features, verification
from imgfp.stages.index import open_index

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
    return int(features.extract_features(list(records), **settings).record.offsets[-1])


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
            cluster.map_shards(features.extract_features, tasks, settings, cluster=address)
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


def pair_rate(run: Path, library: Path, count: int, **settings) -> tuple[int, float]:
    """Pairs scored and processor milliseconds a pair, from cached features and thumbnails, with one
    thread as in a worker: others would wait for each other at full power.

    settings: of `pairs.score_pairs`.
    """
    from threadpoolctl import threadpool_limits

    tasks = verification.pair_tasks(run, library, verification.read_candidates(run))
    arguments: list[dict[str, Any]] = [task.arguments for task in tasks]
    chosen = pd.concat([a["pairs"] for a in arguments], ignore_index=True).head(count)
    shared = arguments[0] | {"pairs": chosen.head(5)}
    with threadpool_limits(1):
        verification.score_pairs(**shared, **settings)
        start = time.process_time()
        scored = verification.score_pairs(**(shared | {"pairs": chosen}), **settings)
        seconds = time.process_time() - start
    return len(scored.record), 1000 * seconds / max(1, len(scored.record))


# ------------------------------------------------------------------------------------- capacity
