# SPDX-License-Identifier: AGPL-3.0-or-later
"""The files of the 2021 system (team imgFp), named and laid out as in its own repository."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from imgfp import sift, store
from imgfp.datatypes import Branch, files_of
from imgfp.decoding import read_image
from imgfp.images import ImageError, cut_box, encode_jpeg, read_bytes
from imgfp.results import Results, Side
from imgfp.stages.crops import box_of_each
from imgfp.stages.features import keypoint_counts
from imgfp.stages.inventory import limits_of, read_images, resolved_paths
from imgfp.stages.verification import KEYS
from imgfp.store import isc2021
from imgfp.store.formats import FormatError

#: Branch -> its pairs and their scores.
PAIRS: dict[Branch, tuple[str, str]] = {
    "local": ("local_fea/faiss_out/local_pair_result.txt", "match_score/local_pair_score.txt"),
    "crop": (
        "local_fea/crop_faiss_out/crop_local_pair_result.txt",
        "match_score/crop_local_pair_score.txt",
    ),
    "global": (
        "global_fea/faiss_search/global_pair_result.txt",
        "match_score/global_pair_score.txt",
    ),
}
QUERY_LIST = "data/querylist.txt"
LOCAL_CROPS, GLOBAL_CROPS = "data/queryimages_crop_local", "data/queryimages_crop_global"
CROP_LIST = "preprocess/local_crop_list.txt"
FEATURES, CROP_FEATURES = "local_fea/feature_out", "local_fea/crop_feature_out"
REFERENCE_FEATURES = "local_fea/reference_feature_out"
#: Mean bytes of a line of keypoint text, by which the disk must have room for those of the library.
_LINE_BYTES = 400
DESCRIPTORS = "global_fea/feature_extract/h5_descriptors/fb_descriptors.h5"
FINAL = "match_score/final_result.txt"


def write(results: Results, folder: Path) -> list[Path]:
    """Write what a run holds as the 2021 system would have left it below `folder`; returns the files.

    Of several crops per query the best is written, as that system had one. Raises StoreError for a query whose picture
    is gone and for a disk without room, and FormatError for an id that cannot be a file name or a value of a line.
    """
    names = _names(results)
    written = [folder / QUERY_LIST]
    isc2021.write_list(written[0], [*names.values()])
    if store.shards(results.run.detections, ".parquet"):
        written += _write_crops(results, folder, names)
    written += _write_features(results, folder)
    if results.run.descriptors_h5.exists():
        written.append(folder / DESCRIPTORS)
        with open(results.run.descriptors_h5, "rb") as file:
            store.write_bytes(written[-1], iter(lambda: file.read(1 << 20), b""))
    written += _write_pairs(results, folder, names)
    if results.run.predictions_csv.exists():
        written.append(folder / FINAL)
        isc2021.write_scores(written[-1], results.predictions)
    return written


def _need_room(results: Results, folder: Path, references: int) -> None:
    """Raise StoreError where the keypoint texts of the references do not fit on the disk."""
    counts = keypoint_counts(results.library.local_features, sampled=5000)
    needed, free = _LINE_BYTES * counts.mean() * references, shutil.disk_usage(folder).free
    if needed > free:
        wrong = f"the keypoints of the references take about {needed / 1e9:,.1f} GB, {free / 1e9:,.1f} GB are free"
        raise store.StoreError(f"{wrong} for {store.show(folder)}; name a folder on another disk")


def _names(results: Results) -> dict[str, str]:
    """The file name of each query, by id."""
    paths = results.queries["path"]
    ids = [str(image_id) for image_id in paths.index]
    _refuse_paths(results.run, ids)
    return dict(zip(ids, map(isc2021.name_of, ids, paths), strict=True))


def _refuse_paths(collection: store.Collection, ids: Iterable[str]) -> None:
    """Raise FormatError for an id that would name a file outside the exported folder, or none."""
    for image_id in ids:
        parts = PurePosixPath(image_id).parts
        if not parts or image_id.startswith("/") or ".." in parts or "\0" in image_id:
            raise FormatError(collection.root, None, f"the id {image_id!r} cannot be a file name")


def _write_crops(results: Results, folder: Path, names: Mapping[str, str]) -> list[Path]:
    """The crop of every query at both operating points, or the query itself, and the list of the local ones."""
    crops = results.crops[results.crops["query_id"].isin(names)]
    local, single = crops[crops["local_rank"] == 0], crops[crops["is_global"]]
    confidences = dict(zip(local["query_id"].map(names), local["confidence"], strict=True))
    written = [folder / CROP_LIST]
    isc2021.write_crop_list(written[0], confidences)
    paths = dict(zip(names, resolved_paths(results.run, [*names]), strict=True))
    for below, chosen in ((LOCAL_CROPS, local), (GLOBAL_CROPS, single)):
        box_of = dict(zip(chosen["query_id"], box_of_each(chosen).values(), strict=True))
        for image_id, name in names.items():
            written.append(folder / below / name)
            picture = _picture(results, paths[image_id], box_of.get(image_id))
            store.write_bytes(written[-1], picture)
    return written


def _picture(results: Results, path: str, box: np.ndarray | None) -> bytes:
    """A part of a picture as JPEG, or its file. Raises StoreError."""
    try:
        if box is None:
            return read_bytes(path)
        return encode_jpeg(cut_box(read_image(path, limits_of(results.run)), box), 100)
    except ImageError as error:
        raise store.StoreError(f"{error}; the export needs the pictures of the queries") from None


def _write_features(results: Results, folder: Path) -> list[Path]:
    """Keypoints of the queries, of their best crops, and of the references."""
    if not store.shards(results.run.local_features, ".h5"):
        return []
    crops = results.crops[results.crops["local_rank"] == 0]
    references = read_images(results.library, ["image_id"])["image_id"]
    references = references[files_of(references) == references]
    _refuse_paths(results.library, references)
    _need_room(results, folder, len(references))
    views: list[tuple[str, Side, Iterable[tuple[str, str]]]] = [
        (FEATURES, "query", zip(results.queries.index, results.queries.index, strict=True)),
        (CROP_FEATURES, "query", zip(crops["query_id"], crops["crop_id"], strict=True)),
        (REFERENCE_FEATURES, "reference", zip(references, references, strict=True)),
    ]
    written = []
    for below, side, of_each in views:
        for image_id, view_id, origin, scale in _frames(results, side, of_each):
            keypoints, descriptors = results.features(side, view_id)
            keypoints = keypoints - np.array([*origin, 0, 0], np.float32)
            written.append(folder / below / f"{image_id}.txt")
            isc2021.write_keypoints(
                written[-1], PurePosixPath(image_id).name, keypoints, descriptors, scale
            )
    return written


def _frames(
    results: Results, side: Side, views: Iterable[tuple[str, str]]
) -> Iterator[tuple[str, str, list[int], float]]:
    """Image, view, first pixel of the view in the image, and frame pixels per pixel, of each image and view."""
    short_side_px = results.parameter("sift_short_side_px")
    for image_id, view_id in views:
        width, height = results.size(side, image_id)
        box = results.box_of(view_id) if side == "query" else None
        x0, y0, x1, y1 = isc2021.pixels_of(box, width, height)
        yield image_id, view_id, [x0, y0], sift.frame_scale(x1 - x0, y1 - y0, short_side_px)


def _write_pairs(results: Results, folder: Path, names: Mapping[str, str]) -> list[Path]:
    """What each branch proposed within the limits of the run, and the match counts: their sum over the branches is the
    score by `fusion: sum`."""
    best = results.crops.loc[results.crops["local_rank"] == 0, "crop_id"]
    evidence = results.evidence.reindex(columns=[*KEYS, "matches"])
    candidates = results.image_candidates.merge(evidence, "left", KEYS, validate="many_to_one")
    candidates = candidates[results.good_enough]
    written = []
    for branch, (pairs_file, scores_file) in PAIRS.items():
        if not store.shards(results.run.candidates(branch), ".parquet"):
            continue
        rows = candidates[candidates["branch"] == branch]
        if branch == "crop":
            rows = rows[rows["view_id"].isin(best)]
        rows = rows.drop_duplicates(["query_id", "reference_id"])
        ids = rows["reference_id"].drop_duplicates().tolist()
        name_of = dict(
            zip(ids, map(isc2021.name_of, ids, resolved_paths(results.library, ids)), strict=True)
        )
        named = rows.assign(
            query_id=rows["query_id"].map(names),
            reference_id=rows["reference_id"].map(name_of),
        ).drop(columns="score")
        written.append(folder / pairs_file)
        isc2021.write_pairs(written[-1], named)
        known = named.dropna(subset=["matches"]).rename(columns={"matches": "score"})
        if len(known):
            written.append(folder / scores_file)
            isc2021.write_pair_scores(written[-1], known)
    return written
