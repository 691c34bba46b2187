"""Pairs with known labels, made from a user's own references, for `fusion.fit`.

    evidence = calibration_pairs(references, outsiders, seed=0)
    labels = evidence.groupby(["query_id", "reference_id"], as_index=False)["label"].max()
    model = fusion.fit(evidence, labels, seed=0)

Every query is made by seeded edits from a reference (its pair is a copy) or from an outsider (it has
no copy). It is then searched and verified as a run does it, whole and cut to a box, so the evidence
has the distribution of a run: never fit on the truth that a run is evaluated on. Give the descriptor
of the runs as `model`, or the fitted score will not look at the global branch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from imgfp import sift, store
from imgfp.descriptors.base import Model
from imgfp.descriptors.registry import load_model
from imgfp.descriptors.views import VIEWS, query_views
from imgfp.edits import families
from imgfp.edits.record import Edited
from imgfp.images import cut_box, read_image, resize_short_side
from imgfp.runner.cluster import ShardResult
from imgfp.search import index, voting
from imgfp.search.normalisation import normalise_scores
from imgfp.stages.search import DESCRIPTOR_VARIANTS
from imgfp.verify.classifier import load_classifier
from imgfp.verify.evidence import Classifier, score_query
from imgfp.verify.view import View

#: How far each side of a true box is moved, as a share of the box: detectors are not exact.
_BOX_JITTER = 0.02
#: Share of queries without a pasted picture that get a box all the same, as detectors do.
_FALSE_BOXES = 0.15
#: References that a branch proposes a query, and neighbours that a keypoint is compared with.
_CANDIDATES, _NEIGHBOURS = 10, 11


def calibration_pairs(
    references: Mapping[str, np.ndarray],
    outsiders: Mapping[str, np.ndarray],
    *,
    copies: int = 600,
    others: int = 300,
    same_scene: Sequence[tuple[str, str]] = (),
    candidates: int = 3,
    strength: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
    sift_settings: Mapping[str, Any] | None = None,
    thumbnail_short_side_px: int = 192,
    model: Model | None = None,
    classifier: Classifier | None = None,
    views: Sequence[str] = VIEWS,
    normalise_neighbours: int = 10,
) -> pd.DataFrame:
    """Evidence of labelled pairs: query_id, reference_id, branch, score, mean_squared_distance, label,
    ops, then `evidence.COLUMNS`.

    references, outsiders: image id -> (H,W,3) uint8 RGB; any mapping that reads on demand will do.
    copies: queries made from references; others: made from outsiders. same_scene: (outsider id,
    reference id) of different photographs of one thing, each made into a query of its own beside
    `others`: the pairs that are hardest to tell from copies. candidates: false references a query
    and branch, by most votes of keypoints, beside the one whose whole frame looks most alike.
    strength: range of the edits'. model, views, normalise_neighbours: of the global branch, as in a
    run; judge: of `score_query`. score (votes, or similarity) and mean_squared_distance are as in the
    candidates of a run, NaN where the branch did not propose the pair. label (bool): it is a copy.
    """
    rng = np.random.default_rng(seed)
    settings = dict(sift_settings or {})
    ids = list(references)
    sides = {i: view_of(references[i], settings, thumbnail_short_side_px) for i in ids}
    proposer = CandidateGenerator(ids, list(sides.values()), seed)
    described = model.embed(references[i] for i in ids) if model else None
    sources = [("copy", ids[i], ids[i]) for i in rng.integers(len(ids), size=copies)]
    names = list(outsiders)
    sources += [("other", names[i], "") for i in rng.integers(len(names), size=others)]
    sources += [("scene", outsider, reference) for outsider, reference in same_scene]
    tables = []
    for number, (kind, source, partner) in enumerate(sources):
        own = np.random.default_rng([seed, number])
        picture = references[source] if kind == "copy" else outsiders[source]
        hosts = [outsiders[names[i]] for i in own.integers(len(names), size=4)]
        edited = families.apply(picture, None, own, hosts, strength)
        seen = list(simulated_views(edited, settings, own))
        similar = pd.DataFrame(columns=["score", "mean_squared_distance", "place"], dtype=float)
        if model is not None:
            parts = [_part(edited.image, side.box) for _, side in seen]
            shown = model.embed(view for part in parts for view in query_views(part, views))
            similar = _most_similar(shown @ described.T, ids, normalise_neighbours)
            similar["place"] //= len(views)
        for place, (branch, query) in enumerate(seen):
            votes = proposer.votes(query)
            proposed = [*votes.index[:candidates], proposer.most_alike(query)]
            alike = similar[similar["place"] == place].drop(columns="place")
            proposed += [i for i in similar.index[:candidates] if i in alike.index]
            wanted = dict.fromkeys([partner] * (partner != "") + proposed)
            table = score_query(
                query, {name: sides[name] for name in wanted}, classifier=classifier
            )
            table.insert(0, "query_id", f"{kind}{number:05d}")
            table["label"] = (table["reference_id"] == partner) & (kind == "copy")
            table["ops"] = "+".join(name for name, _ in edited.ops)
            said = {branch: votes, "global": alike}
            for name, by_reference in said.items():
                rows = table.assign(branch=name).join(by_reference, on="reference_id")
                tables.append(rows if name == branch else rows.dropna(subset=["score"]))
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class Split:
    """Files by id that play the references and the outsiders, and the (outsider, reference) pairs that
    show one thing in two photographs."""

    references: dict[str, str]
    outsiders: dict[str, str]
    same_scene: list[tuple[str, str]]


def split_photographs(photographs: pd.DataFrame, references: int, seed: int = 0) -> Split:
    """Divide photographs (image_id, path, group; blank group: none) for calibration.

    Of every group half are references and half outsiders. The other references are the last by id,
    which the training notebooks hold out: a model must not be calibrated on what it has learnt.
    """
    rng = np.random.default_rng(seed)
    inside, outside, same_scene = [], [], []
    for _, rows in photographs[photographs["group"] != ""].groupby("group", sort=True):
        ids = rng.permutation(rows["image_id"].to_numpy(object))
        half = max(1, len(ids) // 2)
        inside += list(ids[:half])
        outside += list(ids[half:])
        same_scene += [(one, other) for one in ids[half:] for other in ids[:half]]
    single = sorted(photographs.loc[photographs["group"] == "", "image_id"])
    wanted = min(max(references - len(inside), 0), len(single) * 2 // 3)
    cut = len(single) - wanted
    paths = photographs.set_index("image_id")["path"]
    return Split(
        paths[inside + single[cut:]].to_dict(), paths[outside + single[:cut]].to_dict(), same_scene
    )


@store.produces("calibration_pairs", formerly=["imgfp.training.calibration.calibration_round"])
def calibration_round(
    split: Split,
    seed: int,
    *,
    scenes: int,
    outsiders: int,
    descriptor_model: str,
    descriptor_weights: str,
    pair_classifier: str,
    weights_hash: str,
    **settings: Any,
) -> ShardResult:
    """`calibration_pairs` of files, as a shard of work. Query ids begin with the seed.

    scenes: how many pairs of `split.same_scene` to ask about; outsiders: from how many files the
    others and the hosts of pastes are drawn; settings: of `calibration_pairs`; `weights_hash` tells one
    state of the descriptor's and the judge's weights from another in the fingerprint.
    """
    rng = np.random.default_rng(seed)
    asked = [split.same_scene[i] for i in rng.permutation(len(split.same_scene))[:scenes]]
    names = rng.permutation(np.array(list(split.outsiders), dtype=object))[:outsiders]
    kept = dict.fromkeys([*names, *(outsider for outsider, _ in asked)])
    table = calibration_pairs(
        FileReader(split.references),
        FileReader({name: split.outsiders[name] for name in kept}),
        same_scene=asked,
        seed=seed,
        model=load_model(descriptor_model, descriptor_weights),
        classifier=load_classifier(pair_classifier),
        **settings,
    )
    return ShardResult(table.assign(query_id=f"{seed}-" + table["query_id"]))


class FileReader(Mapping):
    """Pictures by id, read when asked for."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = paths

    def __getitem__(self, image_id: str) -> np.ndarray:
        return read_image(self._paths[image_id])

    def __iter__(self):
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def view_of(
    image: np.ndarray, sift_settings: Mapping[str, Any], thumbnail_short_side_px: int
) -> View:
    """A whole picture (H,W,3) uint8 RGB, ready for `evidence.score_pair`."""
    keypoints, descriptors = sift.extract(image, **sift_settings)
    thumbnail = resize_short_side(image, thumbnail_short_side_px)
    return View(keypoints, descriptors, thumbnail, image.shape[1], image.shape[0])


def simulated_views(edited: Edited, settings: Mapping[str, Any], rng: np.random.Generator):
    """The query whole ("local"), and its part in a box ("crop") if a detector might give one."""
    image = edited.image
    keypoints, descriptors = sift.extract(image, **settings)
    height, width = image.shape[:2]
    yield "local", View(keypoints, descriptors, image, width, height)
    box = _box(edited, rng)
    if box is None:
        return
    keypoints, descriptors = sift.extract(cut_box(image, box), **settings)
    keypoints[:, :2] += box[:2]
    yield "crop", View(keypoints, descriptors, image, width, height, box)


def _box(edited: Edited, rng: np.random.Generator) -> np.ndarray | None:
    """The box of the pasted source, jittered; at times a false one; whole pixels xyxy, or None."""
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


def _part(image: np.ndarray, box: np.ndarray | None) -> np.ndarray:
    return image if box is None else cut_box(image, box)


def _most_similar(cosine: np.ndarray, ids: list[str], neighbours: int) -> pd.DataFrame:
    """The most similar references, best first, to a query whose views have `cosine` (v,n) to all:
    normalised and joined as `search.search_global` does; `place`: the view that says so."""
    ranked = -np.sort(-cosine, axis=1)[:, 1 : 1 + neighbours]
    means = ranked.mean(axis=1) if ranked.size else np.zeros(len(cosine))
    scores = normalise_scores(cosine, means)
    view = scores.argmax(axis=0)
    score = scores.max(axis=0)
    order = np.argsort(-score, kind="stable")[:_CANDIDATES]
    return pd.DataFrame(
        {
            "score": score[order],
            "mean_squared_distance": 2 - 2 * cosine[view[order], order],
            "place": view[order],
        },
        index=[ids[row] for row in order],
    )


class CandidateGenerator:
    """References that share most keypoints with a query, or look most alike as whole frames."""

    def __init__(self, ids: list[str], sides: list[View], seed: int) -> None:
        self.ids = np.array(ids, dtype=object)
        counts = [len(side.keypoints) for side in sides]
        self.offsets = np.concatenate([[0], np.cumsum(counts)])
        descriptors = np.concatenate([side.descriptors for side in sides])
        factory = index.plan(len(descriptors), "local")
        size = min(index.training_size(factory) or 1, len(descriptors))
        sample = np.random.default_rng(seed).choice(len(descriptors), size, replace=False)
        self.index = index.train(factory, descriptors[np.sort(sample)], seed)
        index.add(self.index, descriptors, 0)
        self.frames = np.stack([side.dihedral_views[0] for side in sides])

    def votes(self, query: View) -> pd.DataFrame:
        """Votes (score) and mean squared distance by reference, most votes first, as in a run."""
        tables = [pd.DataFrame({"reference_row": [], "votes": [], "mean_squared_distance": []})]
        for read in DESCRIPTOR_VARIANTS.values() if len(query.descriptors) else []:
            distances, hits = index.search(self.index, read(query.descriptors), _NEIGHBOURS)
            rows = index.rows_of_ids(hits, self.offsets)
            cells = voting.cells(query.keypoints)
            tables.append(voting.vote(rows, distances, ratio=1.5, hit_ids=hits, cells=cells))
        found = pd.concat(tables).sort_values("votes", ascending=False, kind="stable")
        found = found.drop_duplicates("reference_row").head(_CANDIDATES)
        return pd.DataFrame(
            found[["votes", "mean_squared_distance"]].to_numpy(float),
            index=self.ids[found["reference_row"].to_numpy(int)],
            columns=["score", "mean_squared_distance"],
        )

    def most_alike(self, query: View) -> str:
        return str(self.ids[abs(self.frames @ query.dihedral_views.T).max(axis=1).argmax()])
