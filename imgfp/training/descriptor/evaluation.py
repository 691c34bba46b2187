"""How good a descriptor is by itself: nearest references of edited queries, against hashes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from imgfp.descriptors import hashes
from imgfp.descriptors.base import Model, ModelError
from imgfp.descriptors.registry import load_model
from imgfp.descriptors.views import query_views
from imgfp.edits import families
from imgfp.images import read_image
from imgfp.scoring import metrics
from imgfp.search.normalisation import background_similarity, best_over_views, normalise_scores
from imgfp.training.descriptor.data import Check


def describe_views(
    model: Model, images: Iterable[np.ndarray], views: Sequence[str], batch_size: int = 32
) -> np.ndarray:
    """Vectors (n*v,d) of every view of every image, the views of one image in adjoining rows."""
    shown = (view for image in images for view in query_views(image, views))
    return model.embed(shown, batch_size)


def predict(
    queries: Mapping[str, np.ndarray],
    references: tuple[Sequence[str], np.ndarray],
    top_k: int = 10,
    neighbours: int = 0,
    background: np.ndarray | None = None,
    skip: int = 0,
) -> pd.DataFrame:
    """Each query's top_k references: query_id, reference_id, score (higher is more alike).

    queries: vectors (v,d) of a query's views by id; references: ids and vectors (r,d); neighbours:
    normalise by the mean similarity to that many nearest `background` vectors (b,d) after the first
    `skip`, 0: off.
    """
    ids, known = references
    names = np.asarray(ids, object)
    parts = []
    for query_id, vectors in queries.items():
        scores = vectors @ known.T
        if neighbours:
            means = background_similarity(vectors, background, neighbours, skip)
            scores = normalise_scores(scores, means)
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        best, found, _ = best_over_views(
            np.take_along_axis(scores, rows, axis=1), rows, len(vectors), top_k
        )
        kept = found[0] >= 0
        parts.append(
            pd.DataFrame(
                {
                    "query_id": query_id,
                    "reference_id": names[found[0][kept]],
                    "score": best[0][kept].astype(float),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def by_query(
    query_ids: Sequence[str], vectors: np.ndarray, views: Sequence[str], keep: Sequence[str]
) -> dict[str, np.ndarray]:
    """Rows of `describe_views` by query, only the views in `keep`, so that one pass serves several
    choices of views."""
    columns = [list(views).index(name) for name in keep]
    grouped = vectors.reshape(len(query_ids), len(views), -1)[:, columns]
    return dict(zip(query_ids, grouped, strict=True))


def compare(
    methods: Mapping[str, pd.DataFrame], truth: pd.DataFrame, groups: Mapping[str, Iterable[str]]
) -> pd.DataFrame:
    """One row a group of queries, with micro AP, recall at 90 % precision and recall at 1 a method.

    methods: predictions by name; groups: the queries with a true reference that count, by name; the
    queries without one count in every group. Columns: group, positives, then "<method> uAP",
    "<method> RP90" and "<method> R1".
    """
    expected = metrics.true_references(truth)
    absent = set(expected.index[expected == ""])
    rows = []
    for group, members in groups.items():
        kept = absent | set(members)
        part = truth[truth["query_id"].isin(kept)]
        row = {"group": group, "positives": len(kept - absent)}
        for name, predictions in methods.items():
            figures = metrics.evaluate(predictions[predictions["query_id"].isin(kept)], part)
            row |= {
                f"{name} uAP": figures.micro_ap,
                f"{name} RP90": figures.recall_at_p90 or 0.0,
                f"{name} R1": figures.recall_at_1,
            }
        rows.append(row)
    return pd.DataFrame(rows)


def evaluate(
    name: str, model: Model, check: Check, views: Sequence[str], neighbours: int = 0
) -> dict[str, pd.DataFrame]:
    """Predictions for `check` by method: "<name>" asks with the whole query, "<name> views" with all
    `views`; with neighbours also both "normalised" by the library itself, its nearest left out.

    Raises ImageError for a file that cannot be read.
    """
    library = list(check.references), model.embed(map(read_image, check.references.values()))
    shown = list(dict.fromkeys(["whole", *views]))
    seen = describe_views(model, map(read_image, check.queries.values()), shown)
    predictions = {}
    for what, keep in (("", ["whole"]), (" views", shown)):
        queries = by_query(list(check.queries), seen, shown, keep)
        predictions[name + what] = predict(queries, library)
        if neighbours:
            predictions[f"{name}{what} normalised"] = predict(
                queries, library, neighbours=neighbours, background=library[1], skip=1
            )
    return predictions


def compare_all(methods: Mapping[str, pd.DataFrame], truth: pd.DataFrame) -> pd.DataFrame:
    """One row a method: micro_ap, recall_at_p90, threshold_at_p90, recall_at_1, recall_at_10."""
    fields = ["micro_ap", "recall_at_p90", "threshold_at_p90", "recall_at_1", "recall_at_10"]
    rows = {name: metrics.evaluate(found, truth) for name, found in methods.items()}
    table = {name: [getattr(row, field) for field in fields] for name, row in rows.items()}
    return pd.DataFrame.from_dict(table, orient="index", columns=fields)


def hash_models() -> dict[str, Model]:
    """pHash and PDQ, those whose packages are installed."""
    found = {}
    for name in hashes.NAMES:
        try:
            found[name] = load_model(name)
        except ModelError as error:
            print(error)
    return found


#: Edits after which a query looks right only from another view.
TURNED = frozenset({"mirror", "flip", "rot90", "rotate", "hflip", "vflip"})


def edit_groups(meta: pd.DataFrame, truth: pd.DataFrame) -> dict[str, list[str]]:
    """Queries with a true reference by how many edits were made to them and by edit family; mirrored
    and turned ones apart, at the end.

    meta: query_id and `ops`, names joined by "+".
    """
    expected = metrics.true_references(truth)
    known = meta[meta["query_id"].map(expected).fillna("") != ""]
    chains = {
        query: [op for op in ops.split("+") if op]
        for query, ops in zip(known["query_id"], known["ops"].fillna(""), strict=True)
    }
    groups: dict[str, list[str]] = {"all": list(chains)}
    for count in sorted({len(chain) for chain in chains.values() if chain}):
        groups[f"{count} edits"] = [q for q, chain in chains.items() if len(chain) == count]
    upright = [query for query, chain in chains.items() if not TURNED & set(chain)]
    present = {op for chain in chains.values() for op in chain}
    for name in [*sorted(present - TURNED), *sorted(present & TURNED)]:
        groups[name] = [query for query, chain in chains.items() if name in chain]
    if len(upright) < len(chains):
        groups["neither mirrored nor turned"] = upright
        groups["mirrored or turned"] = [query for query in chains if query not in set(upright)]
    return groups


def made_queries(
    photographs: Mapping[str, np.ndarray],
    strengths: Mapping[str, float],
    wanted: Sequence[str] = tuple(families.FAMILIES),
    seed: int = 0,
) -> tuple[list[tuple[str, str, str]], list[np.ndarray]]:
    """Each photograph edited by each family at each strength: (photograph, family, strength) names and
    pictures. Others of the photographs are what is pasted on and beside."""
    names, pictures = [], []
    every = list(photographs.values())
    for i, (image_id, image) in enumerate(photographs.items()):
        others = [every[(i + j) % len(every)] for j in (1, 2, 3)] if len(every) > 3 else []
        for family in wanted:
            for strength, degree in strengths.items():
                rng = np.random.default_rng([seed, 4, i, len(names)])
                names.append((image_id, family, strength))
                pictures.append(families.apply(image, [(family, degree)], rng, others).image)
    return names, pictures


def recall_by_family(
    names: Sequence[tuple[str, str, str]],
    found: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Share of `made_queries` whose nearest reference is their own photograph.

    found: nearest reference ids by method. One row a family, columns "<method> <strength>".
    """
    table = pd.DataFrame(names, columns=["photograph", "family", "strength"])
    columns = {}
    for method, nearest in found.items():
        right = table["photograph"].to_numpy() == np.asarray(nearest, object)
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
    """`recall_by_family` of `made_queries` by every method, in a library of the photographs and the
    distractors; no photographs give an empty table."""
    if not len(photographs):
        return pd.DataFrame()
    named = {f"p{i}": image for i, image in enumerate(photographs)}
    names, pictures = made_queries(named, strengths, seed=seed)
    ids = [*named, *(f"d{i}" for i in range(len(distractors)))]
    found = {}
    for method, model in methods.items():
        library = model.embed([*photographs, *distractors])
        found[method] = [ids[row] for row in np.argmax(model.embed(pictures) @ library.T, axis=1)]
    return recall_by_family(names, found)
