# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a sample of images costs on this machine: the prices that a plan multiplies.

The stages' own functions work on the sample in this process, on one thread, and their processor time is taken. Copies are
made from sampled references by seeded edits, so that candidate recall is measured. Nothing is written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import cv2
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from imgfp import sift, store
from imgfp.benchmarks.capacity import Costs, Indexes
from imgfp.crops.detectors import DETECTORS
from imgfp.crops.rule import CORNERS
from imgfp.datatypes import LocalFeatures
from imgfp.decoding import Limits, read_image
from imgfp.descriptors.registry import load_model
from imgfp.edits import families
from imgfp.images import decode_image, resize_short_side
from imgfp.runner import cluster, machine
from imgfp.runner.schema import Parameters
from imgfp.search import index, plan, propose
from imgfp.search.plan import CodecCost, IndexPlan, SearchCost
from imgfp.stages import descriptors, features, inventory
from imgfp.stages.crops import crops_of, detect_boxes
from imgfp.store import formats
from imgfp.verify.classifier import load_classifier
from imgfp.verify.evidence import score_query
from imgfp.verify.view import View

#: Copies that are made, their short side before they are edited, and the pictures that an edit may add.
COPIES, _COPY_PX, _OTHERS = 32, 400, 8
#: Codecs that are always priced: those that `index.plan` chooses among, at any size.
CODECS = {"local": ("Flat", "SQ8_direct", index.PRODUCT_CODEC), "global": ("Flat", "SQfp16")}
#: Lists of two indexes of the same codes, whose times tell the price of a list from that of a code.
_FEW_LISTS, _MANY_LISTS = 16, 256
#: Codes that prices are taken on, vectors that search them, and neighbours of each.
_CODES, _SEARCHES, _NEIGHBOURS = 250_000, 128, 11
#: Times that a scan is timed.
_REPEATED = 3
#: Vectors that train them; product codes are later trained on as many as Faiss takes.
_TRAINING, _LARGEST_TRAINING = 8192, 65_536
#: Lists whose centres are compared one by one and through an index of their own, and those visited.
_FLAT_LISTS, _FAR_LISTS, _VISITED = 1024, 8192, 8
_STEPS = 6


def measure(
    settings: Parameters,
    references: pd.DataFrame,
    queries: pd.DataFrame,
    *,
    indexes: Indexes,
    planned_references: int,
) -> Costs:
    """What sampled files (of `inventory.list_files`) cost, for indexes of a library of `planned_references`. Raises
    ValueError where no file of a side can be read."""
    rng = np.random.default_rng(settings.seed)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with (
            cluster.progress("plan", "step", _STEPS) as bar,
            threadpool_limits(1),
            index.one_thread(),
        ):
            images, found, of_references = _references(settings, references)
            bar.update()
            of_queries = _queries(settings, queries)
            bar.update()
            width = int(of_references["vector_width"])
            copies = _Copies(settings, images, found, rng)
            bar.update()
            keypoints = math.ceil(planned_references * of_references["keypoints"])
            planned = plan.plan_index(keypoints, "local", 128, indexes.local, indexes.local_nprobe)
            of_copies = copies.measure(planned)
            bar.update()
            local = search_cost(_stock(found.descriptors, rng), "local", planned.codec)
            bar.update()
            vectors = _unit_vectors(width, rng)
            similar = search_cost(vectors, "global", indexes.similar.rpartition(",")[2])
            bar.update()
    finally:
        cv2.setNumThreads(threads)
    return Costs(**of_references, **of_queries, **of_copies, local=local, similar=similar)


def _timed(
    function: Callable[..., Any], records: list[dict], *, wall: bool = False, **settings: Any
) -> tuple[Any, float]:
    """What a shard function makes of records, and its seconds, of processor time or else on the wall; it has loaded its
    models before."""
    function(records[:1], **settings)
    watch = time.perf_counter if wall else machine.processor_seconds  # its decoder counts
    start = watch()
    record = function(records, **settings).record
    return record, watch() - start


def _read(settings: Parameters, files: pd.DataFrame, side: str) -> tuple[pd.DataFrame, float]:
    """The readable ones of sampled files with their thumbnails, and seconds of processor time per file."""
    rows, seconds = _timed(
        inventory.inspect_files,
        files[["image_id", "path", "file_bytes", "mtime_ns", "source"]].to_dict("records"),
        limits=Limits(
            settings.max_file_mb,
            settings.max_megapixels,
            settings.max_decode_seconds,
            settings.max_decode_memory_mb,
        ),
        thumbnail_short_side_px=settings.thumbnail_short_side_px,
    )
    readable = rows[rows["reason"] == ""].reset_index(drop=True)
    if readable.empty:
        raise ValueError(
            f"none of {len(rows)} sampled {side} can be read: {rows['path'].iloc[0]} {rows['reason'].iloc[0]}"
        )
    return readable, seconds / len(rows)


def _sift(settings: Parameters) -> dict[str, Any]:
    """The settings of `sift.extract`."""
    given = settings.model_dump()
    return {name[5:]: value for name, value in given.items() if name.startswith("sift_")}


def _described(
    settings: Parameters, records: list[dict], views: Sequence[str]
) -> tuple[int, int, float]:
    """Vectors, their width, and seconds, of records in some views; none where vectors come from a file."""
    if settings.descriptor_file:
        held = formats.read_descriptors(store.project_path(settings.descriptor_file))[1]
        return len({record["path"] for record in records}), held.vectors.shape[1], 0.0
    weights = store.located(settings.descriptor_weights)
    taken = load_model(settings.descriptor_model, weights, settings.device).device
    made, seconds = _timed(
        descriptors.describe,
        records,
        wall=taken != "cpu",
        gpu="" if taken == "cpu" else settings.device,
        model=settings.descriptor_model,
        weights=weights,
        device=taken,
        batch_size=settings.descriptor_batch_size,
        weights_hash="",
        views=list(views),
    )
    return len(made), made.vectors.shape[1], seconds


def _references(
    settings: Parameters, files: pd.DataFrame
) -> tuple[pd.DataFrame, LocalFeatures, dict[str, Any]]:
    """Readable images and local features of the sampled references, and their part of `Costs`."""
    images, inspect_s = _read(settings, files, "references")
    records = images[["image_id", "path"]].to_dict("records")
    found, extract_s = _timed(features.extract_features, records, **_sift(settings))
    _, width, describe_s = _described(settings, records, ["whole"])
    count = len(files)
    return (
        images,
        found,
        {
            "images": count,
            "keypoints": float(found.offsets[-1] / count),
            "thumbnail_bytes": float(images["thumbnail"].map(len).sum() / count),
            "inspect_s": inspect_s,
            "extract_s": extract_s / count,
            "describe_s": describe_s / count,
            "vector_width": width,
        },
    )


def _queries(settings: Parameters, files: pd.DataFrame) -> dict[str, Any]:
    """The part of `Costs` that the sampled queries tell."""
    images, inspect_s = _read(settings, files, "queries")
    records = images[["image_id", "path"]].to_dict("records")
    found, extract_s = _timed(features.extract_features, records, **_sift(settings))
    detections, detect_s = _timed(
        detect_boxes,
        records,
        crop_detector=store.located(settings.crop_detector, DETECTORS),
        weights_hash="",
    )
    crops = crops_of(
        images,
        detections,
        local_min_confidence=settings.local_min_confidence,
        global_min_confidence=settings.global_min_confidence,
        max_area=settings.crop_max_area,
        max_aspect=settings.crop_max_aspect,
        max_crops=settings.max_crops,
    )
    crops["path"] = crops["query_id"].map(images.set_index("image_id")["path"])
    boxes = crops.rename(columns={"crop_id": "image_id"})[["image_id", "path", *CORNERS]]
    inside, crop_s = _timed(features.extract_features, boxes.to_dict("records"), **_sift(settings))
    whole = images
    if settings.global_described == "sure":
        whole = images[~images["image_id"].isin(crops.loc[crops["is_global"], "query_id"])]
        boxes = boxes[crops["is_global"]]
    items = whole[["image_id", "path"]].to_dict("records")
    items += [{**box, "views": settings.global_crop_views} for box in boxes.to_dict("records")]
    items.sort(key=itemgetter("path"))  # a file is read once for what is described of it
    vectors, _, describe_s = _described(settings, items, settings.global_views)
    count = len(files)
    return {
        "queries": count,
        "query_keypoints": float(found.offsets[-1] / count),
        "query_inspect_s": inspect_s,
        "query_extract_s": extract_s / count,
        "query_describe_s": describe_s / count,
        "query_vectors": vectors / count,
        "crops": len(crops) / count,
        "crop_keypoints": float(inside.offsets[-1] / count),
        "crops_s": (detect_s + crop_s) / count,
    }


class _Copies:
    """Seeded edits of sampled references, to be found among them."""

    def __init__(
        self,
        settings: Parameters,
        images: pd.DataFrame,
        found: LocalFeatures,
        rng: np.random.Generator,
    ) -> None:
        self._settings = settings
        counts = np.diff(found.offsets)
        self._descriptors = found.descriptors
        self._ids = index.ids_of(np.arange(len(counts)), counts)
        with_keypoints = np.flatnonzero(counts)
        self.true = rng.permutation(with_keypoints)[:COPIES].tolist()
        pictures = {
            row: resize_short_side(read_image(images["path"].iloc[row]), _COPY_PX)
            for row in self.true
        }
        self.views = []
        for row in self.true:
            others = [picture for other, picture in pictures.items() if other != row][:_OTHERS]
            edited = families.apply(pictures[row], None, rng, others).image
            self.views.append(self._view(edited, *sift.extract(edited, **_sift(settings))))
        self._references = {
            row: View(
                found.keypoints[found.offsets[row] : found.offsets[row + 1]],
                found.descriptors[found.offsets[row] : found.offsets[row + 1]],
                decode_image(images["thumbnail"].iloc[row])[0],
                int(images["width"].iloc[row]),
                int(images["height"].iloc[row]),
                frame_short_side_px=settings.sift_short_side_px,
            )
            for row in range(len(images))
        }

    def _view(self, image: np.ndarray, keypoints: np.ndarray, found: np.ndarray) -> View:
        small = resize_short_side(image, self._settings.thumbnail_short_side_px)
        height, width = image.shape[:2]
        frame = self._settings.sift_short_side_px
        return View(keypoints, found, small, width, height, frame_short_side_px=frame)

    def measure(self, planned: IndexPlan) -> dict[str, Any]:
        """The part of `Costs` that searches of the copies tell: exact ones, and those of a small index by the planned
        codec with lists of the planned length."""
        exact, _ = self._search("Flat", 0)
        factory, nprobe = "Flat", 0
        if planned.lists > 1:
            lists = round(len(self._ids) * planned.lists / planned.vectors)
            factory = f"IVF{max(1, min(lists, len(self._ids)))},{planned.codec}"
            nprobe = planned.visited
        found, vote_s = self._search(factory, nprobe)
        pairs, pair_s = self._verify(found)
        searched = sum(len(view.keypoints) for view in self.views)
        return {
            "copies": len(self.views),
            "recall_exact": self._recall(exact),
            "recall_planned": self._recall(found),
            "vote_s": vote_s / max(searched, 1),
            "pair_s": pair_s / max(pairs, 1),
        }

    def _search(self, factory: str, nprobe: int) -> tuple[list[list[int]], float]:
        """Rows of the candidates of each copy, best first, and seconds of voting."""
        settings = self._settings
        if not len(self._ids):
            return [[] for _ in self.views], 0.0
        built = index.build(self._descriptors, "local", factory, settings.seed, self._ids)
        rows, seconds = [], 0.0
        for view in self.views:
            neighbours = propose.nearest_keypoints(
                built,
                view.descriptors,
                variants=settings.descriptor_variants,
                neighbours=settings.local_neighbours,
                nprobe=nprobe,
            )
            start = time.process_time()
            votes = propose.by_votes(
                neighbours,
                view.keypoints,
                candidates=settings.local_candidates,
                rule=settings.vote_rule,
                ratio=settings.vote_ratio,
                min_hits=settings.vote_min_hits,
                min_hits_single=settings.vote_min_hits_single,
                max_mean_squared_distance=settings.vote_max_mean_squared_distance,
            )
            seconds += time.process_time() - start
            rows.append(votes["reference_row"].tolist())
        return rows, seconds

    def _recall(self, found: list[list[int]]) -> float:
        """Share of the copies whose reference is among their candidates; 0 where nothing could be copied."""
        hits = [true in rows for true, rows in zip(self.true, found, strict=True)]
        return sum(hits) / max(len(hits), 1)

    def _verify(self, found: list[list[int]]) -> tuple[int, float]:
        """Pairs that were verified, and seconds."""
        settings = self._settings
        classifier = load_classifier(store.located(settings.pair_classifier))
        verified = settings.candidates_verified or settings.local_candidates
        pairs = [
            (view, {str(row): self._references[row] for row in rows[:verified]})
            for view, rows in zip(self.views, found, strict=True)
            if rows
        ]
        for timed in (pairs[:1], pairs):  # the first time loads the network
            start = time.process_time()
            for view, among in timed:
                score_query(view, among, ratio=settings.match_ratio, classifier=classifier)
        return sum(len(among) for _, among in pairs), time.process_time() - start


# ----------------------------------------------------------------------------------------- prices


def search_cost(vectors: np.ndarray, kind: index.Kind, codec: str = "") -> SearchCost:
    """Prices of searches among vectors (n,d) uint8 or float32, n at least 8192, for every codec that a plan may choose, and
    for one more."""
    asked = vectors[np.linspace(0, len(vectors) - 1, _SEARCHES).astype(int)]
    codecs = dict.fromkeys([*CODECS[kind], *([codec] if codec not in ("", "auto") else [])])
    flat, far = (
        index.train(f"IVF{lists},{CODECS[kind][1]}", vectors[:_TRAINING])
        for lists in (_FLAT_LISTS, _FAR_LISTS)
    )
    floats = np.ascontiguousarray(vectors[: 8 * _SEARCHES], np.float32)
    return SearchCost(
        centre_ns=1e9 * _centres_s(flat, floats) / _FLAT_LISTS,
        coded_centre_ns=1e9 * _centres_s(far, floats) / plan.coded_comparisons(_FAR_LISTS),
        uneven=_uneven(flat, vectors),
        codecs={codec: _codec_cost(codec, vectors, asked, kind) for codec in codecs},
    )


def _centres_s(trained: Any, floats: np.ndarray) -> float:
    """Seconds to find the nearest lists of one vector."""
    start = time.process_time()
    index.nearest_lists(trained, floats, _VISITED)
    return (time.process_time() - start) / len(floats)


def _uneven(trained: Any, vectors: np.ndarray) -> float:
    """Vectors in a visited list relative to the mean list."""
    floats = np.ascontiguousarray(vectors, np.float32)
    sizes = np.bincount(index.nearest_lists(trained, floats, 1)[1][:, 0], minlength=trained.nlist)
    visited = index.nearest_lists(trained, floats[:: max(1, len(floats) // _SEARCHES)], _VISITED)[1]
    return float(sizes[visited].mean() / sizes.mean())


def _codec_cost(codec: str, vectors: np.ndarray, asked: np.ndarray, kind: index.Kind) -> CodecCost:
    ids = index.ids_of(np.arange(len(vectors)), np.ones(len(vectors)))
    if codec == "Flat":
        seconds, encode_s, _ = _scan_s("Flat", vectors, ids, asked)
        return CodecCost(0.0, 1e9 * seconds / len(vectors), 1e6 * encode_s, 0.0)
    repeated = math.ceil(_CODES / len(vectors))
    few, encode_s, train_s = _scan_s(f"IVF{_FEW_LISTS},{codec}", vectors, ids, asked, repeated)
    many, _, _ = _scan_s(f"IVF{_MANY_LISTS},{codec}", vectors, ids, asked, repeated)
    list_s = max(0.0, (many - few) / (_MANY_LISTS - _FEW_LISTS))
    code_s = max(0.0, few - _FEW_LISTS * list_s) / (repeated * len(vectors))
    if codec.startswith("PQ"):
        train_s *= _LARGEST_TRAINING / _TRAINING
    return CodecCost(1e6 * list_s, 1e9 * code_s, 1e6 * encode_s, train_s)


def _scan_s(
    factory: str, vectors: np.ndarray, ids: np.ndarray, asked: np.ndarray, repeated: int = 1
) -> tuple[float, float, float]:
    """Seconds to scan all lists of `repeated` times these vectors for one, without finding the lists; to encode one; to
    train."""
    start = time.process_time()
    trained = index.train(factory, vectors[:_TRAINING])
    train_s = time.process_time() - start
    start = time.process_time()
    data = b"".join(bytes(piece) for piece in index.encode(trained, vectors, ids))
    encode_s = (time.process_time() - start) / len(vectors)
    part = index.open_part(data, trained)
    several = index.open_part(
        b"".join(bytes(piece) for piece in index.merge([part] * repeated)), trained
    )
    searched = index.Index(trained, [several], trained.nlist)
    floats = np.ascontiguousarray(asked, np.float32)
    seconds = []
    for _ in range(_REPEATED):
        start = time.process_time()
        if trained.nlist > 1:
            index.nearest_lists(trained, floats, trained.nlist)
        centres_s = time.process_time() - start
        start = time.process_time()
        index.search(searched, asked, _NEIGHBOURS)
        seconds.append(time.process_time() - start - centres_s)
    # The least: other work on the machine only adds.
    return max(0.0, min(seconds)) / len(asked), encode_s, train_s


def _stock(found: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Descriptors (n,128) uint8 in random order, at least as many as a training takes: repeated where the sample has
    fewer, drawn where it has none."""
    if not len(found):
        return rng.integers(0, 60, (_TRAINING, 128), dtype=np.uint8)
    rows = rng.permutation(max(len(found), _TRAINING)) % len(found)
    return found[rows]


def _unit_vectors(width: int, rng: np.random.Generator) -> np.ndarray:
    """Vectors (n,width) float32 of unit norm: prices of global vectors do not depend on what they show."""
    drawn = rng.normal(size=(_TRAINING, width)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
