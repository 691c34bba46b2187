# SPDX-License-Identifier: AGPL-3.0-or-later
"""Capacity plan: memory, disk and time for a number of references."""

from __future__ import annotations

import pandas as pd

from imgfp.search import index
from imgfp.stages.index import open_index
from imgfp.store import Library

#: Bytes of a keypoint (x, y, size, angle) and of its descriptor.
KEYPOINT_BYTES, DESCRIPTOR_BYTES = 16, 128
#: Bytes per indexed keypoint, including its id, and the cost of a comparison with it relative to floats.
#: Measured with 3 M keypoints: 16-byte codes are 1.3 times as fast as bytes, including list centres.
STORAGE = {"Flat": (512, 1.0), "SQ8_direct": (136, 1.0), "PQ32": (40, 0.7), "PQ16": (24, 0.45)}
#: Cost of a comparison with a list's centre relative to a vector in a list: it is part of a matrix product.
CENTRE_COST = 0.4


def distance_rate(library: Library, nprobe: int, keypoints_per_second: float) -> float:
    """Comparisons with vectors in lists per second that give a measured search rate; those with the centres
    of lists count `CENTRE_COST`."""
    searched = open_index(library, "local").index
    lists, size = searched.trained.nlist, len(searched)
    work = CENTRE_COST * lists + size * nprobe / max(lists, nprobe)
    return keypoints_per_second * work


def capacity(
    references: int,
    queries: int,
    *,
    keypoints: float,
    images_per_second: float,
    comparisons_per_second: float,
    pair_milliseconds: float,
    candidates: int,
    variants: int,
    nprobe: int,
    cores: int,
) -> pd.DataFrame:
    """Sizes in GB and hours on `cores` for each storage of the index of reference keypoints.

    Rates are per core, as notebook 30 measures them; keypoints: per image; variants: descriptor variants
    searched per query; candidates: pairs verified per query. Columns storage, lists, index_gb, features_gb, build_hours,
    extract_hours, search_hours, score_hours.
    """
    vectors = int(references * keypoints)
    asked = queries * keypoints * variants
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
