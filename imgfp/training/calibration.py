# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pairs with known labels, made from a user's own photographs, for `fusion.fit`.

    evidence = calibration_pairs(references, negatives, load_pipeline(**settings), seed=0)
    labels = evidence.groupby(["query_id", "reference_id"], as_index=False)["label"].max()
    model = fusion.fit(evidence, labels, seed=0)

Every query is made by seeded edits from a reference (its pair is a copy) or from a negative (a photograph
that is no reference). It then passes the steps of notebooks 02 to 08 with the settings of a run: crops,
keypoints, candidates of the three branches, evidence. So the evidence is distributed as in that run, and the
fitted score is a probability for it. Never fit on the truth that a run is evaluated on.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np
import pandas as pd

from imgfp import sift, store
from imgfp.crops.detectors import DETECTORS, Detector, KnownBoxes, load_detector
from imgfp.crops.rule import CORNERS, crop_table
from imgfp.datatypes import table
from imgfp.decoding import read_image
from imgfp.demo.painting.flat import FLAT
from imgfp.descriptors.base import Model
from imgfp.descriptors.registry import load_model
from imgfp.descriptors.views import CROP_VIEWS, QUERY_VIEWS, query_views
from imgfp.edits import families
from imgfp.images import cut_box, decode_image, encode_jpeg, resize_short_side
from imgfp.inference import check_device
from imgfp.runner.cluster import ShardResult
from imgfp.runner.schema import Parameters
from imgfp.scoring import fusion
from imgfp.scoring.thresholds import threshold_for_precision
from imgfp.search import index, propose
from imgfp.store import formats, located, project_path
from imgfp.verify.classifier import PairClassifier, load_classifier
from imgfp.verify.evidence import score_query
from imgfp.verify.view import View

#: The defaults of notebooks 03 and 04: `rule.crop_table`, `propose.from_keypoints`.
CROP_RULES: dict[str, Any] = {
    "local_min_confidence": 0.10,
    "global_min_confidence": 0.82,
    "max_area": 0.85,
    "max_aspect": 4.0,
    "max_crops": 3,
}
VOTE_RULES: dict[str, Any] = {
    "nprobe": 0,
    "neighbours": 11,
    "variants": ["plain", "mirrored", "contrast_reversed"],
    "candidates": 10,
    "rule": "robust",
    "ratio": 1.5,
    "min_hits": 3,
    "min_hits_single": 5,
    "max_mean_squared_distance": 8000.0,
}
#: The defaults of notebook 07: `propose.from_vectors`.
SIMILARITY_RULES: dict[str, Any] = {"nprobe": 0, "candidates": 10, "normalise_neighbours": 10}
#: The defaults of notebook 08: `propose.within_limits`.
LIMITS: dict[str, Any] = {
    name: Parameters.model_fields[name].default
    for name in signature(propose.within_limits).parameters
    if name in Parameters.model_fields
}


@dataclass(frozen=True)
class Pipeline:
    """The models and settings of notebooks 02 to 08: everything that the evidence of a pair depends on.

    crop_rules: of `rule.crop_table`; sift: of `sift.extract`; vote_rules: of `propose.from_keypoints`;
    similarity_rules: of `propose.from_vectors`, without its background; local_index, global_index: Faiss
    factory strings or "auto"; views, crop_views: of a described query and crop; described: "all" describes
    the query and its crops, "sure" the global crop in place of the query; limits: of `propose.within_limits`, which
    candidates are verified; match_ratio: of `score_query`.
    """

    detector: Detector
    model: Model
    classifier: PairClassifier | None = None
    crop_rules: Mapping[str, Any] = field(default_factory=lambda: CROP_RULES)
    sift: Mapping[str, Any] = field(default_factory=lambda: {"short_side_px": 300})
    vote_rules: Mapping[str, Any] = field(default_factory=lambda: VOTE_RULES)
    similarity_rules: Mapping[str, Any] = field(default_factory=lambda: SIMILARITY_RULES)
    local_index: str = "auto"
    global_index: str = "auto"
    views: Sequence[str] = QUERY_VIEWS
    crop_views: Sequence[str] = CROP_VIEWS
    described: str = "all"
    background: np.ndarray | None = None
    limits: Mapping[str, Any] = field(default_factory=lambda: LIMITS)
    match_ratio: float = 1.8
    thumbnail_short_side_px: int = 192
    batch_size: int = 32

    @property
    def weights_hash(self) -> str:
        """Of all models, for fingerprints."""
        hashes = [self.detector.weights_hash, self.model.weights_hash]
        return " ".join([*hashes, self.classifier.weights_hash] if self.classifier else hashes)

    @property
    def devices(self) -> list[str]:
        """Where the detector and the descriptor model run, each "cpu" or "cuda", for fingerprints."""
        return [self.detector.device, self.model.device]

    def view(self, image: np.ndarray, box: np.ndarray | None = None) -> View:
        """One side of a pair, from an image (H,W,3) uint8 RGB, or the part of it in a box xyxy."""
        if box is None:
            features = sift.extract(image, **self.sift)
        else:
            features = sift.extract_from_box(image, box, **self.sift)
        small = encode_jpeg(resize_short_side(image, self.thumbnail_short_side_px))
        return View(
            *features,
            decode_image(small)[0],
            image.shape[1],
            image.shape[0],
            box=box,
            frame_short_side_px=self.sift["short_side_px"],
        )

    def crops_of(self, query_id: str, image: np.ndarray) -> pd.DataFrame:
        """The `crops` rows of one query."""
        boxes = self.detector.detect([image], [query_id])[0]
        return crop_table(query_id, boxes, image.shape[1], image.shape[0], **self.crop_rules)


def load_pipeline(
    *,
    crop_detector: str,
    descriptor_model: str,
    descriptor_weights: str,
    device: str,
    background: str,
    pair_classifier: str,
    **settings: Any,
) -> Pipeline:
    """A `Pipeline` from the parameters of notebooks 04, 06, 07 and 08 that name a model or file, with their
    meaning there; settings: the other fields. Raises what `load_detector` and `load_model` raise, and
    ValueError for a table of known boxes, which has none for a simulated query."""
    detector = load_detector(located(crop_detector, DETECTORS), device=device)
    if isinstance(detector, KnownBoxes):
        raise ValueError(
            f"{crop_detector}: known boxes exist for the queries of a run, not for those that "
            "calibration makes; give the detector that found them"
        )
    model = load_model(descriptor_model, located(descriptor_weights), device)
    vectors = None
    if background:
        formats.check_descriptor(project_path(background), model.identity)
        vectors = formats.read_descriptors(project_path(background))[1].vectors
    classifier = load_classifier(located(pair_classifier))
    return Pipeline(detector, model, classifier, background=vectors, **settings)


class CandidateGenerator:
    """Views of references, indexed by their keypoints and searched as in notebooks 03 and 05."""

    def __init__(
        self, views: Mapping[str, View], rules: Mapping[str, Any], factory: str, seed: int
    ) -> None:
        self.ids = np.array(list(views), dtype=object)
        counts = [len(view.keypoints) for view in views.values()]
        descriptors = np.concatenate([view.descriptors for view in views.values()])
        ids = index.ids_of(np.arange(len(counts)), np.array(counts))
        self._index = index.build(descriptors, "local", factory, seed, ids)
        self._rules = rules

    def candidates(self, view: View) -> pd.DataFrame:
        """The table of `propose.from_keypoints` with reference_id in place of reference_row."""
        found = propose.from_keypoints(self._index, view.keypoints, view.descriptors, **self._rules)
        found.insert(0, "reference_id", self.ids[found.pop("reference_row")])
        return found


class ReferenceSet:
    """References in memory, searched by keypoints and vectors."""

    def __init__(self, references: Mapping[str, np.ndarray], pipeline: Pipeline, seed: int) -> None:
        self.ids = np.array(list(references), dtype=object)
        self.views = {i: pipeline.view(references[i]) for i in references}
        self._pipeline = pipeline
        self._local = CandidateGenerator(
            self.views, pipeline.vote_rules, pipeline.local_index, seed
        )
        images = (references[i] for i in references)
        vectors = pipeline.model.embed(images, pipeline.batch_size)
        self._global = index.build(vectors, "global", pipeline.global_index, seed)

    def evidence(self, query_id: str, image: np.ndarray) -> pd.DataFrame:
        """The evidence of one query (H,W,3) uint8 RGB as notebooks 02 to 08 collect it of a query that is not
        certain: one row per view, reference and branch that proposes it, with query_id, view_id, reference_id,
        branch, rank, score, mean_squared_distance, accepted, then `evidence.COLUMNS`, which a pair that was not
        verified lacks."""
        crops = self._pipeline.crops_of(query_id, image)
        boxes: dict[str, np.ndarray | None] = {query_id: None}
        boxes |= dict(zip(crops["crop_id"], crops[CORNERS].to_numpy(np.float64), strict=True))
        views = {view_id: self._pipeline.view(image, box) for view_id, box in boxes.items()}
        found = [self._by_keypoints(query_id, views), self._by_vectors(image, crops, boxes)]
        candidates = table("candidates", pd.concat(found).assign(query_id=query_id))
        good = propose.within_limits(
            candidates, np.zeros(len(candidates), bool), **self._pipeline.limits
        )
        tables = []
        for view_id, view in views.items():
            of_view = (candidates["view_id"] == view_id).to_numpy()
            rows, verified = candidates[of_view], candidates[of_view & good]
            if rows.empty:
                continue
            among = {i: self.views[i] for i in sorted(set(verified["reference_id"]))}
            scored = score_query(
                view,
                among,
                ratio=self._pipeline.match_ratio,
                classifier=self._pipeline.classifier,
            )
            tables.append(rows.drop(columns="mirrored").merge(scored, "left", "reference_id"))
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def _by_keypoints(self, query_id: str, views: Mapping[str, View]) -> pd.DataFrame:
        tables = []
        for view_id, view in views.items():
            found = self._local.candidates(view)
            branch = "local" if view_id == query_id else "crop"
            tables.append(found.assign(view_id=view_id, branch=branch, rank=np.arange(len(found))))
        return pd.concat(tables, ignore_index=True)

    def _by_vectors(
        self, image: np.ndarray, crops: pd.DataFrame, boxes: Mapping[str, np.ndarray | None]
    ) -> pd.DataFrame:
        pipeline = self._pipeline
        described = list(boxes)
        if pipeline.described == "sure":
            described = list(crops.loc[crops["is_global"], "crop_id"]) or described[:1]
        parts = [(boxes[view_id], pipeline.crop_views) for view_id in described]
        names = [views if box is not None else pipeline.views for box, views in parts]
        every_view = (
            view
            for (box, _), views in zip(parts, names, strict=True)
            for view in query_views(image if box is None else cut_box(image, box), views)
        )
        vectors = pipeline.model.embed(every_view, pipeline.batch_size)
        found = propose.from_vectors(
            self._global,
            vectors,
            np.zeros(len(vectors), np.int64),
            background=pipeline.background,
            **pipeline.similarity_rules,
        )
        view_ids = np.repeat(np.array(described, object), [len(views) for views in names])
        return found.assign(
            view_id=view_ids[found["vector_row"]],
            reference_id=self.ids[found["reference_row"]],
            branch="global",
            mirrored=False,
            accepted=found["rank"] == 0,
        ).drop(columns=["query_id", "vector_row", "reference_row"])


def calibration_pairs(
    references: Mapping[str, np.ndarray],
    negatives: Mapping[str, np.ndarray],
    pipeline: Pipeline,
    *,
    copies: int = 600,
    others: int = 300,
    same_scene: Sequence[tuple[str, str]] = (),
    drawings: int = 0,
    strength: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
) -> pd.DataFrame:
    """Evidence of labelled pairs: the table of `ReferenceSet.evidence`, with label (bool: the pair is a copy),
    kind of the query ("copy", "other", "scene", "form") and ops (its edits, joined by "+").

    references, negatives: image id -> (H,W,3) uint8 RGB; any mapping that reads on demand will do.
    copies: queries made from references; others: queries made from negatives. same_scene: (negative id,
    reference id) of different photographs of one scene; one more query is made from each negative, as these
    are the hardest to distinguish from copies. drawings: templates of flat graphics (slides, receipts, logos, ...), see
    `draw_templates`: one query is made from a reference of each, one from a drawing with other contents that is no
    reference. strength: range of the strength of the edits. A pair is in the table if a branch proposes it, as in
    a run.
    """
    rng = np.random.default_rng(seed)
    ids, names = list(references), list(negatives)
    drawn, not_drawn = draw_templates(drawings, seed)
    references = ChainMap(drawn, references)  # type: ignore[arg-type]
    negatives = ChainMap(not_drawn, negatives)  # type: ignore[arg-type]
    searched = ReferenceSet(references, pipeline, seed)
    sources = [("copy", ids[i], ids[i]) for i in rng.integers(len(ids), size=copies)]
    sources += [("other", names[i], "") for i in rng.integers(len(names), size=others)]
    sources += [("scene", negative, reference) for negative, reference in same_scene]
    sources += [("copy", name, name) for name in list(drawn)[:drawings]]
    sources += [("form", name, "") for name in not_drawn]
    tables = []
    for number, (kind, source, partner) in enumerate(sources):
        own = np.random.default_rng([seed, number])
        image = references[source] if kind == "copy" else negatives[source]
        hosts = [negatives[names[i]] for i in own.integers(len(names), size=4)]
        edited = families.apply(image, None, own, hosts, strength)
        evidence = searched.evidence(f"{kind}{number:05d}", edited.image)
        if len(evidence):
            evidence["label"] = (evidence["reference_id"] == partner) & (kind == "copy")
            evidence["kind"] = kind
            evidence["ops"] = "+".join(name for name, _ in edited.ops)
            tables.append(evidence)
    return pd.concat(tables, ignore_index=True)


def draw_templates(count: int, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Flat graphics of `count` templates: references and negatives, each by id, (H,W,3) uint8 RGB.

    First one reference of each template, then for every other template a second one with other contents; the
    negatives have other contents again. Drawings of one template are no copies of each other.
    """
    references = {
        f"drawing{number:04d}": draw_template([seed], number, 0) for number in range(count)
    }
    references |= {
        f"drawing{number:04d}b": draw_template([seed], number, 1) for number in range(0, count, 2)
    }
    return references, {
        f"drawing{number:04d}c": draw_template([seed], number, 2) for number in range(count)
    }


def draw_template(seeds: Sequence[int], number: int, contents: int) -> np.ndarray:
    """One of the templates of some seeds with one of its contents, (H,W,3) uint8 RGB of 240 to 399 px per side; the kinds of
    FLAT alternate."""
    template = np.random.default_rng([*seeds, number])
    height, width = (int(side) for side in template.integers(240, 400, size=2))
    own = np.random.default_rng([*seeds, number, contents])
    return FLAT[list(FLAT)[number % len(FLAT)]](height, width, template, own)


def above_without(
    pairs: pd.DataFrame, labels: pd.DataFrame, precision: float, seed: int
) -> pd.DataFrame:
    """What a threshold is worth on a kind of negative that the fit has not seen.

    pairs: of `calibration_pairs`; labels: query_id, reference_id, label. One row per kind of negative, fitted and cut
    (highest recall at the precision) on half of the other queries: kind, queries, threshold, above (queries of that
    kind with a pair at it or above), recall (of the copies of the other half).
    """
    kinds = pairs.drop_duplicates("query_id").set_index("query_id")["kind"]
    chosen = np.random.default_rng(seed).random(len(kinds)) < 0.5
    rows = []
    for kind in sorted(set(kinds) - {"copy"}):
        seen = pairs["query_id"].isin(kinds.index[chosen & (kinds != kind)])
        model = fusion.fit(pairs[seen], labels, seed=seed)
        scored = fusion.calibrated(pairs, model).merge(labels, on=["query_id", "reference_id"])
        own = scored["query_id"].map(kinds)
        fitted = scored["query_id"].isin(kinds.index[chosen])
        part = scored[fitted & (own != kind)]
        card = threshold_for_precision(part["score"], part["label"], precision, rounds=1)
        best = scored[own == kind].groupby("query_id")["score"].max()
        at = np.inf if card.threshold is None else card.threshold
        copies = scored.loc[~fitted & scored["label"], "score"]
        rows.append(
            (kind, len(best), card.threshold, int((best >= at).sum()), (copies >= at).mean())
        )
    return pd.DataFrame(rows, columns=["kind", "queries", "threshold", "above", "recall"])


@dataclass(frozen=True)
class Split:
    """Files by id of references and negatives, and the (negative, reference) pairs that show one scene in
    two photographs."""

    references: dict[str, str]
    negatives: dict[str, str]
    same_scene: list[tuple[str, str]]


def split_photographs(photographs: pd.DataFrame, references: int, seed: int = 0) -> Split:
    """Divide photographs (image_id, path, group; blank group: none) for calibration.

    Half of every group are references and half negatives. The other references are the last by id, which the
    training notebooks hold out: a score must not be calibrated on what a model was trained on.
    """
    rng = np.random.default_rng(seed)
    inside: list[str] = []
    outside: list[str] = []
    same_scene: list[tuple[str, str]] = []
    for _, rows in photographs[photographs["group"] != ""].groupby("group", sort=True):
        ids = rng.permutation(rows["image_id"].to_numpy(object))
        half = max(1, len(ids) // 2)
        inside += list(ids[:half])
        outside += list(ids[half:])
        same_scene += [(one, other) for one in ids[half:] for other in ids[:half]]
    single = sorted(photographs.loc[photographs["group"] == "", "image_id"])
    wanted = min(max(references - len(inside), 0), len(single) * 2 // 3)
    cut = len(single) - wanted
    paths = dict(zip(photographs["image_id"], photographs["path"], strict=True))
    return Split(
        {i: paths[i] for i in inside + single[cut:]},
        {i: paths[i] for i in outside + single[:cut]},
        same_scene,
    )


@store.produces("calibration_pairs", formerly=["imgfp.training.calibration.calibration_round"])
def calibration_round(
    split: Split,
    seed: int,
    device: str,
    *,
    scenes: int,
    negatives: int,
    pipeline: Mapping[str, Any],
    devices: Sequence[str],
    weights_hash: str,
    **settings: Any,
) -> ShardResult:
    """`calibration_pairs` of files, as a shard of work. Query ids begin with the seed.

    scenes: number of pairs drawn from `split.same_scene`; negatives: number of files that the others and the
    hosts of pastes are drawn from; pipeline: of `load_pipeline`, with the device; settings: of
    `calibration_pairs`; `weights_hash` and `devices` of the pipeline distinguish its models and where they run
    in the fingerprint. Raises ValueError where they run elsewhere here.
    """
    loaded = load_pipeline(**pipeline, device=device)
    for taken, wanted in zip(loaded.devices, devices, strict=True):
        check_device(taken, wanted)
    rng = np.random.default_rng(seed)
    pairs = [split.same_scene[i] for i in rng.permutation(len(split.same_scene))[:scenes]]
    names = rng.permutation(np.array(list(split.negatives), dtype=object))[:negatives]
    kept = dict.fromkeys([*names, *(negative for negative, _ in pairs)])
    evidence = calibration_pairs(
        FileReader(split.references),
        FileReader({name: split.negatives[name] for name in kept}),
        loaded,
        same_scene=pairs,
        seed=seed,
        **settings,
    )
    return ShardResult(evidence.assign(query_id=f"{seed}-" + evidence["query_id"]))


class FileReader(Mapping[str, np.ndarray]):
    """Images by id, read on access."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = paths

    def __getitem__(self, image_id: str) -> np.ndarray:
        return read_image(self._paths[image_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)
