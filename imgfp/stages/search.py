# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebooks 03, 05 and 07: the references that a query's keypoints or vectors propose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.datatypes import BRANCHES, Branch, Descriptors, table
from imgfp.runner.cluster import MapReport, Piece, ShardResult, Task, client, machines, map_shards
from imgfp.runner.params import check_choice
from imgfp.search import index, propose
from imgfp.search.gpu import search_device
from imgfp.stages.crops import read_crops
from imgfp.stages.descriptors import described_by, query_of_each_view, view_of_vector
from imgfp.stages.identical import identical_pairs, own_pairs, put_first
from imgfp.stages.index import (
    Owners,
    index_inputs,
    open_index,
    open_owners,
    part_shares,
    release_gpus,
)
from imgfp.stages.inventory import masked_ids, on_gpu
from imgfp.store import IndexKind, Library, Run, formats

#: Query -> the places of the references that are the very same file, for the queries of a shard that have any.
Own = Mapping[str, Sequence[int]]

# ------------------------------------------------------------------------------------------ local


def local_search(
    run: Run,
    library: Library,
    *,
    device: str = "auto",
    cluster: str = "local",
    workers: int = 0,
    **settings: Any,
) -> MapReport:
    """Candidates of the branch local: the references that the keypoints of each query vote for.

    device: see `imgfp.inference`; on a GPU, this machine searches in one process. settings: of
    `propose.from_keypoints`.
    """
    settings["branch"] = "local"
    count = settings["neighbours"]
    return _map(search_local, run, library, "local", count, device, cluster, workers, settings)


def crop_search(
    run: Run,
    library: Library,
    *,
    device: str = "auto",
    cluster: str = "local",
    workers: int = 0,
    **settings: Any,
) -> MapReport:
    """Candidates of the branch crop: the same as `local_search` with the keypoints of each crop."""
    settings["branch"] = "crop"
    count = settings["neighbours"]
    return _map(search_local, run, library, "crop", count, device, cluster, workers, settings)


def nearest_keypoints(
    run: Run,
    library: Library,
    features: Path,
    gpu: str = "",
    *,
    own: Own,
    parts: tuple[str, ...] = (),
    variants: list[str],
    neighbours: int,
    nprobe: int,
    device: str = "cpu",
    **settings: Any,
) -> dict[str, propose.Neighbours]:
    """The reference keypoints nearest to every keypoint of a shard of queries or crops, in some parts of the
    index or in all; see `propose.nearest_keypoints`. own: more are found where it is not empty, as it leaves some out;
    device: "cpu" or "cuda", then by the device `gpu`."""
    return propose.nearest_keypoints(
        open_index(library, "local", parts, gpu or device).index,
        store.load(features).descriptors,
        variants=variants,
        neighbours=neighbours + _most(own),
        nprobe=nprobe,
        copies=copies_of(library),
    )


@store.produces("local_candidates", version=2, piece=nearest_keypoints)
def search_local(
    run: Run,
    library: Library,
    features: Path,
    pieces: Sequence[dict[str, propose.Neighbours]],
    gpu: str = "",
    *,
    own: Own,
    branch: str,
    rule: str,
    ratio: float,
    variants: list[str],
    neighbours: int,
    nprobe: int,
    device: str = "cpu",
    **settings: Any,
) -> ShardResult:
    """The references that the keypoints of each query (or crop) vote for, as `candidates`; first those that are
    identical to the query.

    features: a shard of them; own: references that are left out; pieces: what `nearest_keypoints` has found in each share of the index, none to
    search it here; device, gpu: as there; settings: of `propose.by_votes`.
    """
    check_choice("vote_rule", rule)
    check_choice("descriptor_variants", variants)
    asked: dict[str, Any] = {"variants": variants, "neighbours": neighbours, "nprobe": nprobe}
    copies = copies_of(library)
    counted: dict[str, Any] = {"rule": rule, "ratio": ratio, "copies": copies}
    record = store.load(features)
    query_of = query_of_each_view(run, features.stem)
    # Others are masked.
    rows = [row for row, view_id in enumerate(record.image_ids) if view_id in query_of]
    views = [record.image_ids[row] for row in rows]
    spans = [slice(*record.offsets[row : row + 2]) for row in rows]
    owned = [own.get(query_of[view_id], ()) for view_id in views]
    if pieces:
        found = {v: index.merge_results([piece[v] for piece in pieces]) for v in variants}
        each = [
            {
                v: propose.remaining((d[at], i[at]), neighbours, places, copies)
                for v, (d, i) in found.items()
            }
            for places, at in zip(owned, spans, strict=True)
        ]
    else:
        searched = open_index(library, "local", (), gpu or device).index
        queries = [(record.keypoints[span], record.descriptors[span]) for span in spans]
        each = propose.nearest_of_each(searched, queries, own=owned, **asked, **counted)
    tables = [
        propose.by_votes(nearest, record.keypoints[span], **counted, **settings)
        for span, nearest in zip(spans, each, strict=True)
    ]
    identical = identical_pairs(run, library) if branch == "local" else no_candidates()
    identical = identical[identical["query_id"].isin(query_of.values())]
    groups = store.open_groups(library)
    places = store.open_catalogue(library).places_of(identical["reference_id"].tolist())
    others = [
        place not in own.get(query_id, ())
        for query_id, place in zip(identical["query_id"], places, strict=True)
    ]
    identical = identical[others]
    if not tables:
        return ShardResult(_grouped(put_first(no_candidates(), identical), groups))
    counts = [len(votes) for votes in tables]
    named = _named(pd.concat(tables, ignore_index=True), open_owners(library, "local"))
    named["rank"] = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
    named.insert(0, "view_id", np.repeat(np.array(views, object), counts))
    named.insert(0, "query_id", np.repeat([query_of[view_id] for view_id in views], counts))
    candidates = put_first(table("candidates", named.assign(branch=branch)), identical)
    return ShardResult(_grouped(candidates, groups))


def votes_of(
    features: Path,
    library: Library,
    view_id: str,
    *,
    rule: str,
    variants: list[str],
    **settings: Any,
) -> pd.DataFrame:
    """The references that the keypoints of one query (or crop) vote for, itself too where it is one, best first:
    reference_id, rank, score (votes), mean_squared_distance, mirrored, accepted. An unknown id gets no votes.

    features: folder of the shards with its keypoints; settings: of `propose.from_keypoints`.
    """
    check_choice("vote_rule", rule)
    check_choice("descriptor_variants", variants)
    lookup = store.FeatureLookup(features)
    keypoints, descriptors = np.empty((0, 4)), np.empty((0, 128), np.uint8)
    if view_id in lookup:
        keypoints, descriptors = lookup.of(view_id)
    searched = open_index(library, "local").index
    votes = propose.from_keypoints(
        searched,
        keypoints,
        descriptors,
        rule=rule,
        variants=variants,
        copies=copies_of(library),
        **settings,
    )
    return _named(votes, open_owners(library, "local"))


def voters_of(
    run: Run,
    library: Library,
    query_id: str,
    view_id: str,
    reference_ids: Sequence[str],
    *,
    rule: str,
    ratio: float,
    variants: Sequence[str],
    neighbours: int,
    nprobe: int,
) -> list[np.ndarray]:
    """The keypoints (m,4) of a view of a query, the whole or a crop, that vote for each of these references; arguments as
    of `search_local`. Raises StoreError without an index."""
    features = (store.FeatureLookup(one) for one in (run.local_features, run.crop_features))
    keypoints, descriptors = next(found.of(view_id) for found in features if view_id in found)
    catalogue = store.open_catalogue(library)
    own = own_pairs(run, library)
    own_places = catalogue.places_of(own.loc[own["query_id"] == query_id, "reference_id"].tolist())
    counted: dict[str, Any] = {"rule": rule, "ratio": ratio, "copies": copies_of(library)}
    (found,) = propose.nearest_of_each(
        open_index(library, "local").index,
        [(keypoints, descriptors)],
        variants=variants,
        neighbours=neighbours,
        nprobe=nprobe,
        own=[own_places.tolist()],
        **counted,
    )
    places = catalogue.places_of(reference_ids)
    return [keypoints[rows] for rows in propose.voters(found, keypoints, places, **counted)]


def _named(votes: pd.DataFrame, owners: Owners) -> pd.DataFrame:
    votes.insert(0, "reference_id", owners.image_ids(votes.pop("reference_row").to_numpy()))
    votes.insert(1, "rank", np.arange(len(votes), dtype=np.int32))
    return votes


# ----------------------------------------------------------------------------------------- global


def global_search(
    run: Run,
    library: Library,
    *,
    device: str = "auto",
    cluster: str = "local",
    workers: int = 0,
    **settings: Any,
) -> MapReport:
    """Candidates of the branch global: the references whose vectors are most similar to those of each
    query and its crops. device: as in `local_search`; settings: of `search_global`."""
    background = settings["background"]
    if background:
        formats.check_descriptor(store.project_path(background), described_by(library))
    count = propose.neighbours_of_vectors(
        settings["candidates"], settings["normalise_neighbours"], not background
    )
    return _map(search_global, run, library, "global", count, device, cluster, workers, settings)


def nearest_vectors(
    run: Run,
    library: Library,
    features: Path,
    gpu: str = "",
    *,
    own: Own,
    parts: tuple[str, ...] = (),
    nprobe: int,
    candidates: int,
    normalise_neighbours: int,
    background: str,
    device: str = "cpu",
) -> propose.Neighbours:
    """The reference vectors nearest to every vector of a shard, in some parts of the index or in all; own, device
    and gpu as in `nearest_keypoints`."""
    count = propose.neighbours_of_vectors(candidates, normalise_neighbours, not background)
    count = propose.searched_for(count, copies_of(library))
    searched = open_index(library, "global", parts, gpu or device).index
    return index.search(searched, store.load(features).vectors, count + _most(own), nprobe)


@store.produces("global_candidates", version=2, piece=nearest_vectors)
def search_global(
    run: Run,
    library: Library,
    features: Path,
    pieces: Sequence[propose.Neighbours],
    gpu: str = "",
    *,
    own: Own,
    nprobe: int,
    candidates: int,
    normalise_neighbours: int,
    background: str,
    device: str = "cpu",
) -> ShardResult:
    """The references most similar to each query over its views and crops, as `candidates`.

    own: references that are left out; pieces: what `nearest_vectors` has found in each share of the index, none to search it here; background: ""
    for the library itself, or a challenge HDF5 file whose references are taken; device, gpu: as in
    `nearest_keypoints`; the other settings are those of `propose.by_similarity`.
    """
    described = store.load(features)
    query_of = query_of_each_view(run, features.stem)
    views = [view_of_vector(vector_id, query_of) for vector_id in described.image_ids]
    kept = [row for row, view in enumerate(views) if view in query_of]  # others are masked
    if not kept:
        return ShardResult(no_candidates())
    views = [views[row] for row in kept]
    rules: dict[str, Any] = {"candidates": candidates, "normalise_neighbours": normalise_neighbours}
    if not pieces:
        asked: dict[str, Any] = {"nprobe": nprobe, "background": background, "device": device}
        pieces = [nearest_vectors(run, library, features, gpu, own=own, **asked, **rules)]
    distances, ids = index.merge_results(pieces)
    queries = [query_of[view] for view in views]
    count = distances.shape[1] - _most(own)
    nearest = [
        propose.without(own.get(query, ()), (distances[[row]], ids[[row]]), count)
        for query, row in zip(queries, kept, strict=True)
    ]
    found = propose.by_similarity(
        (np.concatenate([d for d, _ in nearest]), np.concatenate([i for _, i in nearest])),
        described.vectors[kept],
        queries,
        background=_background(background).vectors if background else None,
        copies=copies_of(library),
        **rules,
    )
    found["view_id"] = np.array(views, object)[found.pop("vector_row")]
    owners = open_owners(library, "global")
    found["reference_id"] = owners.image_ids(found.pop("reference_row").to_numpy())
    found = found.assign(branch="global", mirrored=False, accepted=found["rank"] == 0)
    return ShardResult(_grouped(table("candidates", found), store.open_groups(library)))


@lru_cache(maxsize=1)
def _background(path: str) -> Descriptors:
    return formats.read_descriptors(store.project_path(path))[1]


# ----------------------------------------------------------------------------------------- shared


def copies_of(library: Library) -> store.Groups | None:
    """The groups of references that show the same picture; None where there are none."""
    return store.open_groups(library) or None


def _grouped(candidates: pd.DataFrame, groups: store.Groups) -> pd.DataFrame:
    return candidates.assign(group_id=groups.of_ids(candidates["reference_id"]))


def read_candidates(run: Run, *branches: Branch) -> pd.DataFrame:
    """The candidates of these branches, by default of all in the order local, crop, global; no rows
    where no branch has proposed anything. `group_id` names the group of a reference, its own id where it has no
    copies; for one query all branches name the member that the first of them has proposed."""
    return one_member_each(stored_candidates(run, *branches))


def stored_candidates(run: Run, *branches: Branch) -> pd.DataFrame:
    """`read_candidates`, each branch with the member of a group that it has found itself; of the branch crop, those of
    the crops of the local operating point."""
    folders = [run.candidates(branch) for branch in branches or BRANCHES]
    parts = [store.load(path) for folder in folders for path in store.shards(folder, ".parquet")]
    filled = [part for part in parts if len(part)]
    if not filled:
        return no_candidates()
    stored = table("candidates", pd.concat(filled))
    crops = read_crops(run)
    of_global = crops.loc[crops["local_rank"] < 0, "crop_id"]
    if len(of_global):  # where that point has a detector of its own
        stored = stored[(stored["branch"] != "crop") | ~stored["view_id"].isin(of_global)]
        stored = stored.reset_index(drop=True)
    if "group_id" not in stored:  # an older version wrote them
        return stored.assign(group_id=stored["reference_id"])
    return stored


def one_member_each(candidates: pd.DataFrame) -> pd.DataFrame:
    """Candidates of `stored_candidates`, all or some, with one member of a group per query. The ids may be numbers."""
    member = candidates.groupby(["query_id", "group_id"], sort=False)["reference_id"]
    kind = candidates["reference_id"].dtype
    named = candidates.assign(reference_id=member.transform("first").astype(kind))
    return named.drop_duplicates(["view_id", "reference_id", "branch"], ignore_index=True)


def no_candidates() -> pd.DataFrame:
    """A table of candidates without rows."""
    return table("candidates").assign(
        **dict.fromkeys(["view_id", "group_id"], pd.Series(dtype="str"))
    )


#: The index that each branch searches.
_INDEX: dict[Branch, IndexKind] = {"local": "local", "crop": "local", "global": "global"}


def search_tasks(run: Run, library: Library, branch: Branch, cluster: str = "local") -> list[Task]:
    """One task per shard of what the branch searches with: features of queries, of crops, or vectors. Where a
    cluster has several machines, each searches its share of the index."""
    sources: dict[Branch, Path] = {
        "local": run.local_features,
        "crop": run.crop_features,
        "global": run.descriptors,
    }
    searched, kind = sources[branch], _INDEX[branch]
    indexed = [*index_inputs(library, kind)]
    indexed += [store.describe(library.groups)["sha256"]] if copies_of(library) else []
    shares = part_shares(library, kind, machines(cluster))
    own = _own_of_each_shard(run, library)
    pieces = tuple(Piece({"parts": parts}, home) for home, parts in enumerate(shares))
    return [
        Task(
            run.candidates(branch) / f"{path.stem}.parquet",
            (
                store.describe(path)["sha256"],
                *indexed,
                *masked_ids(run, path.stem),
                *map(str, own[store.shard_number(path)].items()),
            ),
            {
                "run": run,
                "library": library,
                "features": path,
                "own": own[store.shard_number(path)],
            },
            store.describe(path)["items"],
            pieces if len(pieces) > 1 else (),
        )
        for path in store.shards(searched, ".h5")
    ]


def _own_of_each_shard(run: Run, library: Library) -> Mapping[int, dict[str, list[int]]]:
    """The `Own` of each shard of queries, by number."""
    pairs = own_pairs(run, library)
    shards, _ = store.shard_and_row(store.open_catalogue(run).places_of(pairs["query_id"].tolist()))
    places = store.open_catalogue(library).places_of(pairs["reference_id"].tolist())
    own: Mapping[int, dict[str, list[int]]] = defaultdict(dict)
    for shard, query_id, place in zip(
        shards.tolist(), pairs["query_id"], places.tolist(), strict=True
    ):
        own[shard].setdefault(query_id, []).append(place)
    return own


def _most(own: Own) -> int:
    """The most references that are left out for one query."""
    return max(map(len, own.values()), default=0)


def _map(
    function: Callable[..., ShardResult],
    run: Run,
    library: Library,
    branch: Branch,
    count: int,
    device: str,
    cluster: str,
    workers: int,
    settings: dict[str, Any],
) -> MapReport:
    tasks = search_tasks(run, library, branch, cluster)
    shares = {piece.arguments["parts"] for task in tasks for piece in task.pieces} or {()}
    largest = max((open_index(library, _INDEX[branch], share).index for share in shares), key=len)
    count += max((_most(task.arguments["own"]) for task in tasks), default=0)
    nprobe = settings["nprobe"] or largest.nprobe
    chosen = search_device(largest.trained, len(largest), device, count, nprobe)
    if chosen != "cpu":  # what a CPU has found is recorded without a device
        settings = settings | {"device": "cuda"}
        # A GPU holds a copy of the index per process.
        tasks, workers = on_gpu(tasks, chosen, workers=1)
    report = map_shards(
        function,
        tasks,
        settings,
        cluster=cluster,
        workers=workers,
        title=f"{branch} search",
        unit="crop" if branch == "crop" else "query",
        lock_dir=run.root,
        output_dir=run.candidates(branch),
    )
    if chosen != "cpu" and cluster != "local":  # where processes go on, for other work
        with client(cluster) as connected:
            connected.run(release_gpus)
    return report
