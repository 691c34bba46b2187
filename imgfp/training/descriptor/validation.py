"""A small copy-detection task made from held-out photographs, to monitor training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from imgfp.descriptors.base import resize_square
from imgfp.edits import families
from imgfp.scoring import metrics
from imgfp.training.descriptor.augmentation import TURNS, draw_edits


@dataclass(frozen=True)
class Validation:
    """references (r,s,s,3) and queries (q,s,s,3) uint8; answers (q,) int64: reference row, -1: none."""

    references: np.ndarray
    queries: np.ndarray
    answers: np.ndarray


def make_validation(
    held_out: Sequence[np.ndarray],
    distractors: Sequence[np.ndarray] = (),
    side_px: int = 160,
    seed: int = 0,
    turns: bool = False,
) -> Validation:
    """Each held-out photograph is edited once, by one to four edits, with the families in rotation as one of
    them; the first half are references, so the other half of the queries has no match. Distractors are
    references, too. turns: also use turns and mirroring, which a search handles by several views."""
    rng = np.random.default_rng([seed, 3])
    known = len(held_out) // 2
    references = [resize_square(image, side_px) for image in [*held_out[:known], *distractors]]
    rotation = [name for name in families.FAMILIES if turns or name not in TURNS]
    queries = []
    for i, image in enumerate(held_out):
        others = [held_out[j] for j in rng.integers(known, len(held_out), 3) if j != i]
        family = rotation[i % len(rotation)]
        chain = draw_edits(int(rng.integers(1, 5)), 1.0, rng, turns, wanted=[family])
        queries.append(resize_square(families.apply(image, chain, rng, others).image, side_px))
    answers = np.arange(len(held_out))
    answers[known:] = -1
    return Validation(np.stack(references), np.stack(queries), answers)


def similarities(
    validation: Validation, embed: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Similarity of every query with its true reference (p,) and with its nearest other (q,)."""
    scores = embed(validation.queries) @ embed(validation.references).T
    matched = np.flatnonzero(validation.answers >= 0)
    positives = scores[matched, validation.answers[matched]].copy()
    scores[matched, validation.answers[matched]] = -np.inf
    return positives, scores.max(axis=1)


def micro_ap(validation: Validation, embed: Callable[[np.ndarray], np.ndarray]) -> float | None:
    """Micro average precision of each query's ten most similar references, 0..1; None without a true pair."""
    scores = embed(validation.queries) @ embed(validation.references).T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    query_ids = np.array([f"q{i}" for i in range(len(scores))], object)
    names = np.array([f"r{i}" for i in range(scores.shape[1])] + [""], object)
    predictions = pd.DataFrame(
        {
            "query_id": np.repeat(query_ids, best.shape[1]),
            "reference_id": names[best.ravel()],
            "score": np.take_along_axis(scores, best, axis=1).ravel(),
        }
    )
    truth = pd.DataFrame({"query_id": query_ids, "reference_id": names[validation.answers]})
    return metrics.evaluate(predictions, truth).micro_ap


def worst_misses(
    validation: Validation, embed: Callable[[np.ndarray], np.ndarray], count: int
) -> tuple[list[tuple[np.ndarray, ...]], list[tuple[np.ndarray, ...]]]:
    """Images of the errors, worst first, at most `count` of each kind: (query, its reference, the nearest
    reference), and, of queries without a reference, (query, the nearest reference)."""
    scores = embed(validation.queries) @ embed(validation.references).T
    best = scores.argmax(axis=1)
    matched = np.flatnonzero(validation.answers >= 0)
    lost = scores[matched, best[matched]] - scores[matched, validation.answers[matched]]
    missed = [
        row
        for row in matched[np.argsort(-lost, kind="stable")]
        if best[row] != validation.answers[row]
    ]
    alone = np.flatnonzero(validation.answers < 0)
    taken = alone[np.argsort(-scores[alone, best[alone]], kind="stable")]
    queries, references = validation.queries, validation.references
    return [
        (queries[row], references[validation.answers[row]], references[best[row]])
        for row in missed[:count]
    ], [(queries[row], references[best[row]]) for row in taken[:count]]
