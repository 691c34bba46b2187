"""Labelled aligned pairs for `training.pairs.classifier`.

    pairs = aligned_pairs(references, negatives, same_scene=known, seed=0)

Every query is made by seeded edits and aligned with a reference by the transform that verification finds,
right or wrong, as in a run. Pairs that verification does not refine are left out: the classifier never
sees them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from imgfp import sift, store
from imgfp.edits import families
from imgfp.edits.record import Edited
from imgfp.images import resize_short_side
from imgfp.runner.cluster import ShardResult
from imgfp.training.calibration import VOTE_RULES, CandidateGenerator, FileReader, Split
from imgfp.training.pairs.hard_negatives import simulate_second_photograph
from imgfp.verify.classifier import SIDE_PX
from imgfp.verify.evidence import score_pair
from imgfp.verify.view import View

#: A query is a copy of the reference; another photograph of its scene; a simulated one, which is a
#: synthetic hard negative; or another image, paired with the references that a search returns for it.
KINDS = ("copy", "scene", "synthetic", "other")

#: References per query of the last kind, by most votes of keypoints; one more is the reference whose whole
#: frame is most similar.
_CANDIDATES = 3
#: Standard deviation by which each side of a true box is moved, as a share of the box: detectors are not
#: exact.
_BOX_JITTER = 0.02
#: Share of queries without a pasted image that get a false box, as detectors give.
_FALSE_BOXES = 0.15
_THUMBNAIL_SHORT_SIDE_PX = 192


def aligned_pairs(
    references: Mapping[str, np.ndarray],
    negatives: Mapping[str, np.ndarray],
    *,
    copies: int = 600,
    synthetic: int = 300,
    others: int = 150,
    same_scene: Sequence[tuple[str, str]] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Pairs aligned by verification: kind (of KINDS), query_id, source, reference_id, ops, aligned (bytes of
    the (3,SIDE_PX,SIDE_PX) uint8 of `classifier.pair_planes`).

    references, negatives: image id -> (H,W,3) uint8 RGB. copies, synthetic: queries made from references
    and from simulated second photographs of them, each paired with its reference; others: queries made from
    negatives, paired with the most similar references; same_scene: (negative id, reference id) of two
    photographs of one scene. A query with a pasted image gives two pairs, one whole and one of its box.
    """
    rng = np.random.default_rng(seed)
    ids, names = list(references), list(negatives)
    views = {i: _reference_view(references[i]) for i in ids}
    generator = CandidateGenerator(views, VOTE_RULES, "auto", seed)
    sources = [("copy", ids[i], ids[i]) for i in rng.integers(len(ids), size=copies)]
    sources += [("synthetic", ids[i], ids[i]) for i in rng.integers(len(ids), size=synthetic)]
    sources += [("other", names[i], "") for i in rng.integers(len(names), size=others)]
    sources += [("scene", negative, reference) for negative, reference in same_scene]
    rows = []
    for number, (kind, source, partner) in enumerate(sources):
        own = np.random.default_rng([seed, number])
        image = references[source] if kind in ("copy", "synthetic") else negatives[source]
        hosts = [negatives[names[i]] for i in own.integers(len(names), size=4)]
        if kind == "synthetic":
            image = simulate_second_photograph(image, hosts[0], own)
        edited = families.apply(image, _chain(own), own, hosts, (0.0, 1.0))
        ops = "+".join(name for name, _ in edited.ops)
        for query in simulated_views(edited, own):
            wanted = [partner] if partner else _similar(query, generator, views)
            for name in wanted:
                for planes in _aligned(query, views[name]):
                    rows.append((kind, f"{kind}{number:05d}", source, name, ops, planes.tobytes()))
    columns = ["kind", "query_id", "source", "reference_id", "ops", "aligned"]
    return pd.DataFrame(rows, columns=columns)


def simulated_views(edited: Edited, rng: np.random.Generator) -> Iterator[View]:
    """The query whole, then the part of it in a box if a detector might give one."""
    image = edited.image
    height, width = image.shape[:2]
    yield View(*sift.extract(image), image, width, height)
    box = _simulated_box(edited, rng)
    if box is not None:
        yield View(*sift.extract_from_box(image, box), image, width, height, box)


def _simulated_box(edited: Edited, rng: np.random.Generator) -> np.ndarray | None:
    """The jittered box of the pasted source, or sometimes a false one; whole pixels xyxy, or None."""
    height, width = edited.image.shape[:2]
    box = edited.box
    if box is None:
        if rng.random() > _FALSE_BOXES:
            return None
        low = rng.uniform(0, 0.5, 2)
        box = np.concatenate([low, low + rng.uniform(0.3, 0.5, 2)]) * np.tile([width, height], 2)
    size = np.tile(box[2:] - box[:2], 2)
    box = np.rint(box + rng.normal(0, _BOX_JITTER, 4) * size)
    box = np.clip(box, 0, [width, height, width, height])
    return box if (box[2:] - box[:2] >= 16).all() else None


def _reference_view(image: np.ndarray) -> View:
    thumbnail = resize_short_side(image, _THUMBNAIL_SHORT_SIDE_PX)
    return View(*sift.extract(image), thumbnail, image.shape[1], image.shape[0])


def _chain(rng: np.random.Generator) -> list[str]:
    """One to four edit families; half of the chains hold one drawn uniformly, so that rare families are
    learned as well."""
    count = int(rng.integers(1, 5))
    rare = [str(rng.choice(list(families.FAMILIES)))] if rng.random() < 0.5 else []
    return families.draw(count, rng, rare)


def _similar(
    query: View, generator: CandidateGenerator, views: Mapping[str, View]
) -> dict[str, None]:
    """Ids of the references that a search could confuse with the query."""
    voted = generator.candidates(query)["reference_id"][:_CANDIDATES]
    frames = np.stack([view.dihedral_views[0] for view in views.values()])
    similar = abs(frames @ query.dihedral_views.T).max(axis=1).argmax()
    return dict.fromkeys([*voted, str(generator.ids[similar])])


def _aligned(query: View, reference: View) -> list[np.ndarray]:
    """The pair as the classifier is given it: one array, or none if the pair is not refined."""
    given: list[np.ndarray] = []

    def collect(planes: np.ndarray) -> float:
        given.append(planes)
        return 0.0

    score_pair(query, reference, classifier=collect)
    return given


def training_split(photographs: pd.DataFrame, held_out: int) -> np.ndarray:
    """(n,) bool of photographs (image_id, group; blank group: none): those to train on. The last `held_out`
    ungrouped ones by id and the last third of the groups by name are left for evaluation and calibration."""
    groups = sorted(set(photographs["group"]) - {""})
    ungrouped = photographs["group"] == ""
    singles = sorted(photographs.loc[ungrouped, "image_id"])
    kept = set(singles[: max(1, len(singles) - held_out)])
    known = set(groups[: len(groups) - len(groups) // 3])
    return np.where(ungrouped, photographs["image_id"].isin(kept), photographs["group"].isin(known))


@store.produces("training_pairs", formerly=["imgfp.training.judged_pairs.judged_round"])
def training_round(
    split: Split, seed: int, *, scenes: int, references: int, negatives: int, **settings: Any
) -> ShardResult:
    """`aligned_pairs` of files, as a shard of work. Query ids begin with the seed.

    scenes: number of pairs drawn from `split.same_scene`, with replacement, as each is edited differently;
    references, negatives: number of files of each kind to draw in addition to theirs; settings: of
    `aligned_pairs`.
    """
    rng = np.random.default_rng(seed)
    known = split.same_scene
    pairs = [known[i] for i in rng.integers(len(known), size=scenes)] if known else []
    used = {"references": [r for _, r in pairs], "negatives": [n for n, _ in pairs]}
    files = []
    for name, count in (("references", references), ("negatives", negatives)):
        paths = getattr(split, name)
        drawn = rng.permutation(np.array(list(paths), dtype=object))[:count]
        files.append(FileReader({i: paths[i] for i in dict.fromkeys([*drawn, *used[name]])}))
    table = aligned_pairs(*files, same_scene=pairs, seed=seed, **settings)
    return ShardResult(table.assign(query_id=f"{seed}-" + table["query_id"]))


def planes_of(pairs: pd.DataFrame) -> np.ndarray:
    """(n,3,SIDE_PX,SIDE_PX) uint8 of the column `aligned`."""
    flat = np.frombuffer(b"".join(pairs["aligned"]), np.uint8)
    return flat.reshape(-1, 3, SIDE_PX, SIDE_PX)
