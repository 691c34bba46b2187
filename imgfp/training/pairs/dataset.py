"""Pairs laid on each other, with known answers, for `training.pair_judge`.

    pairs = judged_pairs(references, outsiders, same_scene=known, seed=0)

Every query is made by seeded edits and laid on a reference by the map that verification finds, right or
wrong, as a run does it; pairs in which verification sees no reason for a close look teach nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.edits import families
from imgfp.runner.cluster import ShardResult
from imgfp.training.calibration import (
    CandidateGenerator,
    FileReader,
    Split,
    simulated_views,
    view_of,
)
from imgfp.training.pairs.hard_negatives import simulate_second_photograph
from imgfp.verify.classifier import SIDE_PX
from imgfp.verify.evidence import score_pair
from imgfp.verify.view import View

#: A pair is a copy; another photograph of the reference's scene; one that was made so; or another
#: picture altogether, beside a reference that a search took for it.
KINDS = ("copy", "scene", "double", "other")

#: False references a query of the last kind, by most votes of keypoints, beside the one whose whole frame
#: looks most alike.
_CANDIDATES = 3


def aligned_pairs(
    references: Mapping[str, np.ndarray],
    outsiders: Mapping[str, np.ndarray],
    *,
    copies: int = 600,
    doubles: int = 300,
    others: int = 150,
    same_scene: Sequence[tuple[str, str]] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Pairs with the map that verification found: kind (of KINDS), query_id, source, reference_id, ops,
    laid (bytes of the (3,SIDE_PX,SIDE_PX) uint8 of `classifier.pair_planes`).

    references, outsiders: image id -> (H,W,3) uint8 RGB. copies, doubles: queries made from references and
    from made second photographs of them, each beside its reference; others: made from outsiders, beside
    the references that look most alike; same_scene: (outsider id, reference id) of two photographs of one
    thing. A query with a pasted picture is laid twice, whole and by its box.
    """
    rng = np.random.default_rng(seed)
    ids, names = list(references), list(outsiders)
    sides = {i: view_of(references[i], {}, 192) for i in ids}
    proposer = CandidateGenerator(ids, list(sides.values()), seed)
    sources = [("copy", ids[i], ids[i]) for i in rng.integers(len(ids), size=copies)]
    sources += [("double", ids[i], ids[i]) for i in rng.integers(len(ids), size=doubles)]
    sources += [("other", names[i], "") for i in rng.integers(len(names), size=others)]
    sources += [("scene", outsider, reference) for outsider, reference in same_scene]
    rows = []
    for number, (kind, source, partner) in enumerate(sources):
        own = np.random.default_rng([seed, number])
        picture = references[source] if kind in ("copy", "double") else outsiders[source]
        hosts = [outsiders[names[i]] for i in own.integers(len(names), size=4)]
        if kind == "double":
            picture = simulate_second_photograph(picture, hosts[0], own)
        edited = families.apply(picture, _chain(own), own, hosts, (0.0, 1.0))
        ops = "+".join(name for name, _ in edited.ops)
        for _, query in simulated_views(edited, {}, own):
            wanted = [partner] if partner else _candidates(proposer, query)
            for name in wanted:
                for laid in _aligned(query, sides[name]):
                    rows.append((kind, f"{kind}{number:05d}", source, name, ops, laid.tobytes()))
    columns = ["kind", "query_id", "source", "reference_id", "ops", "laid"]
    return pd.DataFrame(rows, columns=columns)


def _chain(rng: np.random.Generator) -> list[str]:
    """One to four families; in half of the chains one of them is drawn evenly, so that the rare ones are
    learnt as well."""
    count = int(rng.integers(1, 5))
    rare = [str(rng.choice(list(families.FAMILIES)))] if rng.random() < 0.5 else []
    return families.draw(count, rng, rare)


def _candidates(proposer: CandidateGenerator, query: View) -> list[str]:
    proposed = [*proposer.votes(query).index[:_CANDIDATES], proposer.most_alike(query)]
    return list(dict.fromkeys(proposed))


def _aligned(query: View, reference: View) -> list[np.ndarray]:
    """The pair as a judge would be shown it: once, or never without reason for a close look."""
    shown: list[np.ndarray] = []

    def look(laid: np.ndarray) -> float:
        shown.append(laid)
        return 0.0

    score_pair(query, reference, classifier=look)
    return shown


def training_split(photographs: pd.DataFrame, held_out: int) -> np.ndarray:
    """(n,) bool of photographs (image_id, group; blank group: none): those to learn from. The last
    `held_out` ungrouped ones by id and the last third of the groups by name are left for judging the judge
    and for calibrating what it says."""
    groups = sorted(set(photographs["group"]) - {""})
    alone = photographs["group"] == ""
    singles = sorted(photographs.loc[alone, "image_id"])
    kept = set(singles[: max(1, len(singles) - held_out)])
    known = set(groups[: len(groups) - len(groups) // 3])
    return np.where(alone, photographs["image_id"].isin(kept), photographs["group"].isin(known))


@store.produces("training_pairs", formerly=["imgfp.training.judged_pairs.judged_round"])
def training_round(
    split: Split, seed: int, *, scenes: int, references: int, outsiders: int, **settings: Any
) -> ShardResult:
    """`aligned_pairs` of files, as a shard of work. Query ids begin with the seed.

    scenes: how many pairs of `split.same_scene` to ask about, some perhaps more than once, as each is
    edited anew; references, outsiders: how many files of each kind to draw beside theirs; settings: of
    `aligned_pairs`.
    """
    rng = np.random.default_rng(seed)
    known = split.same_scene
    asked = [known[i] for i in rng.integers(len(known), size=scenes)] if known else []
    used = {"references": [r for _, r in asked], "outsiders": [o for o, _ in asked]}
    files = []
    for name, count in (("references", references), ("outsiders", outsiders)):
        paths = getattr(split, name)
        drawn = rng.permutation(np.array(list(paths), dtype=object))[:count]
        files.append(FileReader({i: paths[i] for i in dict.fromkeys([*drawn, *used[name]])}))
    table = aligned_pairs(*files, same_scene=asked, seed=seed, **settings)
    return ShardResult(table.assign(query_id=f"{seed}-" + table["query_id"]))


def images_of(pairs: pd.DataFrame) -> np.ndarray:
    """(n,3,SIDE_PX,SIDE_PX) uint8 of the column `laid`."""
    flat = np.frombuffer(b"".join(pairs["laid"]), np.uint8)
    return flat.reshape(-1, 3, SIDE_PX, SIDE_PX)
