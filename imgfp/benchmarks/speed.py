# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebook 30: the speed of the stages on this machine."""

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
from imgfp.stages.search import read_candidates

# ------------------------------------------------------------------------------ local features


def bare_loop(records: Sequence[dict], **settings) -> int:
    """The least possible work: decode, resize, OpenCV's SIFT with the same settings.

    records: with a `path`; settings: of `sift.extract`. Nothing is checked, sorted, normalised or saved.
    Returns the number of keypoints.
    """
    halved = 1 + settings["first_octave"]
    detector = cv2.SIFT.create(
        nOctaveLayers=settings["octave_layers"],
        contrastThreshold=settings["contrast_threshold"],
        edgeThreshold=settings["edge_threshold"],
        enable_precise_upscale=True,
    )
    found = 0
    for record in records:
        data = np.fromfile(record["path"], np.uint8)
        grey = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
        scale = min(1.0, settings["short_side_px"] / min(grey.shape)) / (1 + halved)
        frame = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found += len(detector.detectAndCompute(frame, None)[0])
    return found


def our_loop(records: Sequence[dict], **settings) -> int:
    """The local-feature stage on the same images in this process; returns the number of keypoints."""
    return int(features.extract_features(list(records), **settings).record.offsets[-1])


def race(
    runners: dict[str, Callable[..., int]], records: Sequence[dict], rounds: int, **settings
) -> pd.DataFrame:
    """Rate of each runner in one process: columns name, images_per_second, keypoints.

    The runners alternate, slice by slice, so that other load on the machine affects all of them equally;
    processor time of this process is measured, not wall time.
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
    """The whole stage with `workers` processes on this machine, including decoding, writing and reading
    back, without the start of the processes.

    Returns images_per_second in wall time, which needs an otherwise idle machine, and core_milliseconds,
    processor time per image, which other load hardly affects.
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
            busy = sum(connected.run(time.process_time).values()) - before
    return {
        "workers": workers,
        "images_per_second": len(records) / seconds,
        "core_milliseconds": 1000 * busy / len(records),
    }


# -------------------------------------------------------------------------------- search, pairs


def search_rates(
    library: store.Library,
    features: Path,
    view_ids: Sequence[str],
    nprobes: Sequence[int],
    *,
    neighbours: int,
    ratio: float,
) -> pd.DataFrame:
    """Cost and benefit of probing more lists, in comparison with the largest of `nprobes`.

    Columns nprobe, keypoints_per_second (processor time, Faiss on one thread), same_neighbour (share of
    query keypoints with the same nearest reference keypoint), same_winner (share of queries whose
    most-voted reference is the same): search is tuned on votes, not on neighbours. ratio: of
    `voting.vote`.
    """
    opened = open_index(library, "local")
    lookup = store.FeatureLookup(features)
    queries = [lookup.of(view_id)[1] for view_id in view_ids if view_id in lookup]
    stacked = np.concatenate([np.empty((0, 128), np.uint8), *queries])
    offsets = np.cumsum([0, *map(len, queries)])
    rows: list[tuple[int, float, float, float]] = []
    with index.one_thread():
        for nprobe in sorted(nprobes, reverse=True):
            start = time.process_time()
            distances, ids = index.search(opened.index, stacked, neighbours, nprobe)
            seconds = time.process_time() - start
            images = index.places_of(ids)
            winners = np.array(
                [
                    vote(images[a:b], distances[a:b], ratio=ratio)["reference_row"].head(1).sum()
                    for a, b in itertools.pairwise(offsets)
                ]
            )
            if not rows:
                best, first = ids[:, 0], winners
            same_neighbour = float((ids[:, 0] == best).mean())
            same_winner = float((winners == first).mean())
            rows.append((nprobe, len(stacked) / seconds, same_neighbour, same_winner))
    columns = ["nprobe", "keypoints_per_second", "same_neighbour", "same_winner"]
    return pd.DataFrame(rows[::-1], columns=columns)


def pair_rate(run: store.Run, library: store.Library, count: int, **settings) -> tuple[int, float]:
    """Pairs scored and processor milliseconds per pair, from stored features and thumbnails, with one
    thread as in a worker: waiting threads of a pool would count as processor time.

    settings: of `verification.scoring_settings`.
    """
    from threadpoolctl import threadpool_limits

    tasks = verification.pair_tasks(run, library, read_candidates(run), run.evidence)
    arguments: list[dict[str, Any]] = [task.arguments for task in tasks]
    chosen = pd.concat([a["pairs"] for a in arguments], ignore_index=True).head(count)
    shared = arguments[0] | {"pairs": chosen.head(5)}
    with threadpool_limits(1):
        verification.score_pairs(**shared, **settings)
        start = time.process_time()
        scored = verification.score_pairs(**(shared | {"pairs": chosen}), **settings)
        seconds = time.process_time() - start
    return len(scored.record), 1000 * seconds / max(1, len(scored.record))
