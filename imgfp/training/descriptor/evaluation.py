# SPDX-License-Identifier: AGPL-3.0-or-later
"""Evaluation of a descriptor alone: nearest references of edited queries, in comparison with hashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from imgfp.decoding import read_image
from imgfp.descriptors import hashes
from imgfp.descriptors.base import Model, ModelError
from imgfp.descriptors.registry import load_model
from imgfp.descriptors.views import query_views
from imgfp.edits import families
from imgfp.scoring import errors, metrics
from imgfp.search import index, propose
from imgfp.training.descriptor.data import Check


def describe_views(
    model: Model, images: Iterable[np.ndarray], views: Sequence[str], batch_size: int = 32
) -> np.ndarray:
    """Vectors (n*v,d) of every view of every image, the views of one image in consecutive rows."""
    every_view = (view for image in images for view in query_views(image, views))
    return model.embed(every_view, batch_size)


def predict(
    queries: Mapping[str, np.ndarray],
    references: tuple[Sequence[str], np.ndarray],
    top_k: int = 10,
    neighbours: int = 0,
    background: np.ndarray | None = None,
) -> pd.DataFrame:
    """Each query's top_k references: query_id, reference_id, score (higher is more alike).

    queries: vectors (v,d) of the views by query id; references: ids and vectors (r,d); neighbours and
    background: as in `propose.from_vectors`.
    """
    ids, vectors = references
    found = propose.from_vectors(
        index.build(vectors, "global"),
        np.concatenate(list(queries.values())),
        np.repeat(np.array(list(queries), object), [len(views) for views in queries.values()]),
        nprobe=1,
        candidates=top_k,
        normalise_neighbours=neighbours,
        background=background,
    )
    found["reference_id"] = np.asarray(ids, object)[found["reference_row"]]
    return found[["query_id", "reference_id", "score"]].astype({"score": float})


def by_query(
    query_ids: Sequence[str], vectors: np.ndarray, views: Sequence[str], keep: Sequence[str]
) -> dict[str, np.ndarray]:
    """Rows of `describe_views` by query, only the views in `keep`, so that one pass over the images serves
    several choices of views."""
    columns = [list(views).index(name) for name in keep]
    grouped = vectors.reshape(len(query_ids), len(views), -1)[:, columns]
    return dict(zip(query_ids, grouped, strict=True))


def compare(
    methods: Mapping[str, pd.DataFrame], truth: pd.DataFrame, groups: Mapping[str, Iterable[str]]
) -> pd.DataFrame:
    """One row per group of queries, with micro-AP, recall at 90 % precision and recall at 1 of each method.

    methods: predictions by name; groups: the queries with a true reference that count, by name; the
    queries without one count in every group. Columns: group, positives, then "<method> micro-AP",
    "<method> RP90" and "<method> R1".
    """
    absent = set(truth["query_id"]) - set(metrics.true_pairs(truth)["query_id"])
    rows = []
    for group, members in groups.items():
        kept = absent | set(members)
        part = truth[truth["query_id"].isin(kept)]
        row: dict[str, Any] = {"group": group, "positives": len(kept - absent)}
        for name, predictions in methods.items():
            figures = metrics.evaluate(predictions[predictions["query_id"].isin(kept)], part)
            row |= {
                f"{name} micro-AP": figures.micro_ap,
                f"{name} RP90": figures.recall_at_p90 or 0.0,
                f"{name} R1": figures.recall_at_1,
            }
        rows.append(row)
    return pd.DataFrame(rows)


def evaluate(
    name: str, model: Model, check: Check, views: Sequence[str], neighbours: int = 0
) -> dict[str, pd.DataFrame]:
    """Predictions for `check` by method: "<name>" describes the whole query, "<name> views" all `views`
    of it; with neighbours also both "normalised" by the references, as in `propose.from_vectors`.

    Raises ImageError for a file that cannot be read.
    """
    references = list(check.references), model.embed(map(read_image, check.references.values()))
    every = list(dict.fromkeys(["whole", *views]))
    vectors = describe_views(model, map(read_image, check.queries.values()), every)
    predictions = {}
    for suffix, keep in (("", ["whole"]), (" views", every)):
        queries = by_query(list(check.queries), vectors, every, keep)
        predictions[name + suffix] = predict(queries, references)
        if neighbours:
            normalised = predict(queries, references, neighbours=neighbours)
            predictions[f"{name}{suffix} normalised"] = normalised
    return predictions


def compare_all(methods: Mapping[str, pd.DataFrame], truth: pd.DataFrame) -> pd.DataFrame:
    """One row per method: micro_ap, recall_at_p90, threshold_at_p90, recall_at_1, recall_at_10."""
    fields = ["micro_ap", "recall_at_p90", "threshold_at_p90", "recall_at_1", "recall_at_10"]
    rows = {name: metrics.evaluate(found, truth) for name, found in methods.items()}
    table = {name: [getattr(row, field) for field in fields] for name, row in rows.items()}
    return pd.DataFrame.from_dict(table, orient="index", columns=fields)


def hash_models() -> dict[str, Model]:
    """pHash and PDQ, those whose packages are installed."""
    models = {}
    for name in hashes.NAMES:
        try:
            models[name] = load_model(name)
        except ModelError as error:
            print(error)
    return models


#: Edits after which a query is similar to its reference in another view only.
TURNED = frozenset({"mirror", "flip", "rot90", "rotate", "hflip", "vflip"})


def comparison_groups(meta: pd.DataFrame, truth: pd.DataFrame) -> dict[str, list[str]]:
    """Queries with a true reference, grouped for `compare` by number of edits and by edit; mirrored and
    turned ones are separate groups at the end.

    meta: as in `errors.edit_groups`.
    """
    known = meta[meta["query_id"].isin(metrics.true_pairs(truth)["query_id"])]
    queries = known["query_id"].tolist()
    edits = errors.edit_groups(known)
    members = {str(name): rows.tolist() for name, rows in edits.groupby("group")["query_id"]}
    counts = edits["query_id"].value_counts()
    groups = {"all": queries}
    for count in sorted(set(counts)):
        groups[f"{count} edits"] = [query for query in queries if counts.get(query) == count]
    for name in [*sorted(members.keys() - TURNED), *sorted(members.keys() & TURNED)]:
        groups[name] = members[name]
    turned = {query for name in members.keys() & TURNED for query in members[name]}
    if turned:
        groups["neither mirrored nor turned"] = [q for q in queries if q not in turned]
        groups["mirrored or turned"] = [q for q in queries if q in turned]
    return groups


def made_queries(
    photographs: Mapping[str, np.ndarray],
    strengths: Mapping[str, float],
    edits: Sequence[str] = tuple(families.FAMILIES),
    seed: int = 0,
) -> tuple[list[tuple[str, str, str]], list[np.ndarray]]:
    """Each photograph edited by each family at each strength: names (photograph, family, strength) and
    images. The other photographs serve as hosts and parts of collages."""
    names: list[tuple[str, str, str]] = []
    images = []
    every = list(photographs.values())
    for i, (image_id, image) in enumerate(photographs.items()):
        others = [every[(i + j) % len(every)] for j in (1, 2, 3)] if len(every) > 3 else []
        for family in edits:
            for strength, degree in strengths.items():
                rng = np.random.default_rng([seed, 4, i, len(names)])
                names.append((image_id, family, strength))
                images.append(families.apply(image, [(family, degree)], rng, others).image)
    return names, images


def recall_by_family(
    names: Sequence[tuple[str, str, str]],
    nearest: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Share of `made_queries` whose nearest reference is their own photograph.

    nearest: ids of the nearest references by method. One row per family, columns "<method> <strength>".
    """
    table = pd.DataFrame(names, columns=["photograph", "family", "strength"])
    columns = {}
    for method, ids in nearest.items():
        right = table["photograph"].to_numpy() == np.asarray(ids, object)
        shares = (
            table.assign(right=right).groupby(["family", "strength"], sort=False)["right"].mean()
        )
        for strength in dict.fromkeys(table["strength"]):
            columns[f"{method} {strength}"] = shares.xs(strength, level="strength")
    return pd.DataFrame(columns)


def by_family(
    methods: Mapping[str, Model],
    photographs: Sequence[np.ndarray],
    distractors: Sequence[np.ndarray],
    strengths: Mapping[str, float],
    seed: int = 0,
) -> pd.DataFrame:
    """`recall_by_family` of `made_queries` for every method, among the photographs and the distractors as
    references; an empty table without photographs."""
    if not len(photographs):
        return pd.DataFrame()
    named = {f"p{i}": image for i, image in enumerate(photographs)}
    names, images = made_queries(named, strengths, seed=seed)
    ids = [*named, *(f"d{i}" for i in range(len(distractors)))]
    nearest = {}
    for method, model in methods.items():
        references = model.embed([*photographs, *distractors])
        rows = np.argmax(model.embed(images) @ references.T, axis=1)
        nearest[method] = [ids[row] for row in rows]
    return recall_by_family(names, nearest)
