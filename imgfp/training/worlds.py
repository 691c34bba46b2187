# SPDX-License-Identifier: AGPL-3.0-or-later
"""Worlds: small archives and queries with known truth that differ in what they show, how it was edited and how many copies
there are. A score that is fitted on some of them is measured on the others.

    python -m imgfp.training.worlds /my/photographs data/worlds --groups groups.csv    # folders and truth, a run each

    pairs = pd.concat([labelled(name, run.proposals, run.truth, run.meta) for name, run in runs.items()])
    leave_one_out(pairs, 0.99)                                                         # one row per world

What queries show are photographs that no model was trained on. Every world has photographs, and scenes, of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from imgfp import store
from imgfp.edits.families import FAMILIES, draw
from imgfp.edits.record import Edited, start
from imgfp.edits.unseen import UNSEEN
from imgfp.images import encode_jpeg, walk_images
from imgfp.scoring import fusion
from imgfp.scoring.metrics import are_in, true_pairs
from imgfp.scoring.thresholds import threshold_for_precision, wilson
from imgfp.training.calibration import FileReader, draw_template
from imgfp.training.descriptor.data import groups_of
from imgfp.training.pairs.dataset import training_split

#: Kinds of queries that show something of a reference and are no copy of it: another photograph of its scene, a
#: neighbour in its burst, its form with other contents.
LOOK_ALIKES = ("scene", "burst", "form")
#: Drawings of one template in a library that has several.
_FILLINGS = 4
#: Photographs of a world that are no reference, for queries of nothing known and to paste on, as a share.
_OUTSIDE = 0.25
_PAIR = ["query_id", "reference_id"]


@dataclass(frozen=True)
class World:
    """How many queries of each kind there are, and what they are made of.

    copies: of references; others: of photographs that are none; scenes: of other photographs of a reference's scene;
    bursts: of simulated neighbours of a reference in its burst; forms: templates of flat graphics, of each of which one
    query is a copy and one has other contents; every other template has four references. repeated: every fifth photograph
    is in the library this many times more, as its bytes or saved again. strength: range of the edits; unseen: one
    edit of each query is of `imgfp.edits.unseen`.
    """

    copies: int
    others: int
    scenes: int = 0
    bursts: int = 0
    forms: int = 0
    repeated: int = 0
    strength: tuple[float, float] = (0.0, 1.0)
    unseen: bool = False


WORLDS: dict[str, World] = {
    "scenes": World(copies=50, others=15, scenes=55),
    "light_edits": World(copies=45, others=15, scenes=40, bursts=20, strength=(0.0, 0.35)),
    "unseen_edits": World(copies=50, others=20, scenes=40, bursts=20, unseen=True),
    "bursts": World(copies=45, others=15, bursts=60),
    "few_copies": World(copies=12, others=70, bursts=38),
    "forms": World(copies=20, others=10, forms=45),
    "crowded": World(copies=60, others=20, bursts=40, repeated=12),
}


@dataclass(frozen=True)
class Sources:
    """Photographs of a world by id: those in the library that queries may show, those that only fill it, those outside, and
    (outside, shown) pairs of two photographs of one scene."""

    shown: Mapping[str, np.ndarray]
    filling: Mapping[str, np.ndarray]
    outside: Mapping[str, np.ndarray]
    same_scene: Sequence[tuple[str, str]]


def sources_of(
    name: str, photographs: pd.DataFrame, held_out: int = 900, references: int = 250
) -> Sources:
    """The photographs of one of `WORLDS`, read when they are asked for.

    photographs: image_id, path, group (blank: none). held_out: see `training_split`, whose held-out photographs and groups
    are divided among the worlds: groups that are neighbours by name, which often are of one kind, stay together.
    references: size of the library, filled up with photographs that models were trained on and no query shows.
    """
    place, count = list(WORLDS).index(name), len(WORLDS)
    trained = training_split(photographs, held_out)
    kept = photographs[~trained]
    singles = sorted(kept.loc[kept["group"] == "", "image_id"])[place::count]
    cut = round(len(singles) * (1 - _OUTSIDE))
    shown, outside, same_scene = singles[:cut], singles[cut:], []
    with_scenes = [each for each, world in WORLDS.items() if world.scenes]
    if name in with_scenes:
        groups = kept[kept["group"] != ""].groupby("group")["image_id"].agg(sorted)
        blocks = np.array_split(np.arange(len(groups)), len(with_scenes))
        for ids in groups.iloc[blocks[with_scenes.index(name)]]:
            half = len(ids) // 2
            shown, outside = shown + ids[:half], outside + ids[half:]
            same_scene += [(other, ids[n % half]) for n, other in enumerate(ids[half:])]
    filling = sorted(photographs.loc[trained & (photographs["group"] == ""), "image_id"])
    filling = filling[place::count][: max(references - len(shown), 0)]
    paths = dict(zip(photographs["image_id"], photographs["path"], strict=True))
    shown_files, filling_files, outside_files = (
        FileReader({i: paths[i] for i in part}) for part in (shown, filling, outside)
    )
    return Sources(shown_files, filling_files, outside_files, same_scene)


def write(
    folder: str | Path, name: str, photographs: pd.DataFrame, seed: int = 0, **sizes: int
) -> pd.DataFrame:
    """Write one of `WORLDS` into a folder: references/, queries/, truth.csv (query_id, reference_id: a row per true pair,
    blank for none) and meta.csv, which is returned: query_id, kind ("copy", "other" or one of LOOK_ALIKES),
    hard_negative_of (the reference that a look-alike resembles), ops (edits joined by "+").

    photographs, sizes: see `sources_of`. Every random choice depends on the seed and the name.
    """
    root, world = Path(folder), WORLDS[name]
    sources, own = sources_of(name, photographs, **sizes), [seed, list(WORLDS).index(name)]
    showing: dict[str, list[str]] = {}
    for image_id, picture, jpeg in _library(world, sources, own):
        store.write_bytes(root / f"references/{image_id}.jpg", jpeg)
        showing.setdefault(picture, []).append(image_id)
    truth, rows = [], []
    names = list(sources.outside)
    for number, (kind, image, like) in enumerate(_queries(world, sources, own)):
        rng = np.random.default_rng([*own, 1, number])
        hosts = [sources.outside[names[i]] for i in rng.integers(len(names), size=4)]
        edited = _edited(image, world, hosts, rng)
        query_id = f"{kind}{number:04d}"
        store.write_bytes(root / f"queries/{query_id}.jpg", encode_jpeg(edited.image))
        truth += [(query_id, one) for one in (showing[like] if kind == "copy" else [""])]
        ops = "+".join(op for op, _ in edited.ops)
        rows.append((query_id, kind, like if kind in LOOK_ALIKES else "", ops))
    meta = pd.DataFrame(rows, columns=["query_id", "kind", "hard_negative_of", "ops"])
    store.write_sheet(root / "truth.csv", pd.DataFrame(truth, columns=_PAIR))
    store.write_sheet(root / "meta.csv", meta)
    return meta


def _library(world: World, sources: Sources, own: list[int]) -> Iterator[tuple[str, str, bytes]]:
    """Id of each reference, that of the picture that it shows, and its file."""
    for image_id, image in sources.filling.items():
        yield image_id, image_id, encode_jpeg(image)
    for number, (image_id, image) in enumerate(sources.shown.items()):
        plain = encode_jpeg(image)
        yield image_id, image_id, plain
        if world.bursts and number % 2:
            frame = burst_neighbour(image, np.random.default_rng([*own, 2, number]))
            yield f"{image_id}-next", f"{image_id}-next", encode_jpeg(frame)
        if number % 5 == 0:
            for again in range(world.repeated):
                saved = encode_jpeg(image, 40 + 4 * again) if again % 2 else plain
                yield f"{image_id}-{again}", image_id, saved
    for number in range(world.forms):
        for contents in range(_FILLINGS if number % 2 == 0 else 1):
            form = _form(number, contents)
            yield form, form, encode_jpeg(draw_template(own, number, contents))


def _form(number: int, contents: int) -> str:
    return f"form{number:03d}-{contents}"


def _queries(
    world: World, sources: Sources, own: list[int]
) -> Iterator[tuple[str, np.ndarray, str]]:
    """Kind and unedited image of each query, and the picture of a reference that it shows or looks like."""
    rng = np.random.default_rng([*own, 3])
    shown = rng.permutation(list(sources.shown)).tolist()
    scenes = {shown_id for _, shown_id in sources.same_scene}
    singles = [image_id for image_id in shown if image_id not in scenes]
    others = set(sources.outside) - {other for other, _ in sources.same_scene}
    for image_id in islice(cycle(shown), world.copies):
        yield "copy", sources.shown[image_id], image_id
    for image_id in islice(cycle(rng.permutation(sorted(others)).tolist()), world.others):
        yield "other", sources.outside[image_id], ""
    for place in islice(cycle(rng.permutation(len(sources.same_scene))), world.scenes):
        other, image_id = sources.same_scene[place]
        yield "scene", sources.outside[other], image_id
    for number, image_id in enumerate(islice(cycle(singles), world.bursts)):
        frame = burst_neighbour(sources.shown[image_id], np.random.default_rng([*own, 4, number]))
        yield "burst", frame, image_id
    for number in range(world.forms):
        yield "copy", draw_template(own, number, 0), _form(number, 0)
        yield "form", draw_template(own, number, _FILLINGS), _form(number, 0)


def _edited(
    image: np.ndarray, world: World, hosts: Sequence[np.ndarray], rng: np.random.Generator
) -> Edited:
    """One to four edits, drawn again, up to 20 times, while too little of the image is visible."""
    every = FAMILIES | UNSEEN
    for _ in range(20):
        names = draw(int(rng.integers(1, 5)), rng)
        if world.unseen:
            names[rng.integers(len(names))] = str(rng.choice(list(UNSEEN)))
        names.sort(key=lambda name: rng.uniform(*every[name].span))
        edited = start(image)
        for name in names:
            edited = every[name](edited, float(rng.uniform(*world.strength)), rng, hosts)
        if edited.is_visible:
            break
    return edited


def burst_neighbour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The next frame of a burst, (h,w,3) uint8 RGB both: two subjects, each 4 to 20 % of the image, have moved by 2 to 6 % of
    the longer side and uncover what is behind them; the camera has moved a little; exposure and noise differ."""
    height, width = image.shape[:2]
    far, frame = max(height, width), image
    for _ in range(2):
        subject = _subject(image, rng)
        spread = cv2.dilate(subject, np.ones((5, 5), np.uint8))
        behind = cv2.inpaint(frame, spread, 3, cv2.INPAINT_TELEA)
        step = far * rng.uniform(0.02, 0.06) * _heading(rng)
        move = np.array([[1, 0, step[0]], [0, 1, step[1]]])
        mask, moved = (cv2.warpAffine(each, move, (width, height)) for each in (subject, frame))
        cover = cv2.GaussianBlur(mask, (0, 0), 0.7)[..., None] / 255
        frame = (behind * (1 - cover) + moved * cover).astype(np.uint8)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    taken = corners + rng.normal(0, 0.006 * far, (4, 2)).astype(np.float32)
    camera = cv2.getPerspectiveTransform(taken, corners)
    frame = cv2.warpPerspective(frame, camera, (width, height), borderMode=cv2.BORDER_REFLECT)
    noise = rng.normal(0, rng.uniform(1, 4), frame.shape)
    return np.clip(frame * rng.uniform(0.92, 1.08) + noise, 0, 255).astype(np.uint8)


def _subject(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(h,w) uint8, 255 where pixels are near to a random place and have its colour: 4 to 20 % of the image."""
    height, width = image.shape[:2]
    lab = cv2.cvtColor(cv2.GaussianBlur(image, (0, 0), 2), cv2.COLOR_RGB2LAB).astype(np.float32)
    x, y = (rng.uniform(0.2, 0.8, 2) * (width, height)).astype(int)
    down, right = np.arange(height)[:, None] - y, np.arange(width)[None] - x
    away = np.hypot(down, right) / max(height, width)
    unlike = np.linalg.norm(lab - lab[y, x], axis=2) / 60 + 2.5 * away
    region = (unlike < np.quantile(unlike, rng.uniform(0.04, 0.2))).astype(np.uint8) * 255
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    return cv2.morphologyEx(region, cv2.MORPH_CLOSE, disc)


def _heading(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def labelled(
    world: str, proposals: pd.DataFrame, truth: pd.DataFrame, meta: pd.DataFrame | None
) -> pd.DataFrame:
    """The evidence of a run on a world, of the queries in the truth, with world, label (bool: the pair is a copy), kind and
    ops of the query. Query ids begin with the world.

    proposals, truth, meta: of `imgfp.results.Results`; a query whose kind no meta tells is a "copy" or "other".
    """
    copies = true_pairs(truth)
    told = truth[["query_id"]].drop_duplicates()
    if meta is not None:
        told = told.merge(meta, "left", "query_id")
    told = told.reindex(columns=["query_id", "kind", "ops"], fill_value="").fillna("")
    is_copy = np.where(told["query_id"].isin(copies["query_id"]), "copy", "other")
    told["kind"] = told["kind"].where(told["kind"] != "", is_copy)
    pairs = proposals.merge(told, on="query_id").assign(world=world)
    pairs["label"] = are_in(pairs, copies)
    return pairs.assign(query_id=f"{world}: " + pairs["query_id"])


def scored_by(model: fusion.Model, pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs of `labelled` with the score of a model: query_id, reference_id, score, best first, world, kind, label."""
    known = pairs[[*_PAIR, "world", "kind", "label"]].drop_duplicates(_PAIR)
    return fusion.calibrated(pairs, model).merge(known, on=_PAIR)


def worth(scored: pd.DataFrame, threshold: float) -> dict[str, float]:
    """What a threshold is worth on scored pairs: query_id, score, label, kind.

    Returns the threshold; the precision of the pairs at it or above, with its 95 % interval (Wilson 1927); the recall, the
    share of the queries that are copies with a true pair there; the number of look_alikes (queries of LOOK_ALIKES), and how
    many of them are reported (have a pair there).
    """
    above = scored[scored["score"] >= threshold]
    share = pd.Series([above["label"].mean()])
    low, high = wilson(share, pd.Series([len(above)]))
    every, reported = (each.drop_duplicates("query_id")["kind"] for each in (scored, above))
    found = above.loc[above["label"], "query_id"].nunique()
    return {
        "threshold": threshold,
        "precision": share[0],
        "precision_low": low[0],
        "precision_high": high[0],
        "recall": found / max(int(every.eq("copy").sum()), 1),
        "look_alikes": int(every.isin(LOOK_ALIKES).sum()),
        "reported": int(reported.isin(LOOK_ALIKES).sum()),
    }


def leave_one_out(pairs: pd.DataFrame, precision: float, seed: int = 0) -> pd.DataFrame:
    """What a score is worth on a world that it was not fitted on: `worth`, one row per world.

    pairs: of `labelled`, of two worlds or more. The score is fitted, and its threshold (highest recall at the precision)
    chosen, on the other worlds.
    """
    rows = {}
    for world in pairs["world"].unique():
        rest, own = pairs[pairs["world"] != world], pairs[pairs["world"] == world]
        model = fusion.fit(rest, rest[[*_PAIR, "label"]].drop_duplicates(_PAIR), seed)
        known = scored_by(model, rest)
        card = threshold_for_precision(
            known["score"].to_numpy(), known["label"].to_numpy(bool), precision, rounds=1
        )
        cut = np.inf if card.threshold is None else card.threshold
        rows[world] = worth(scored_by(model, own), cut)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("world")


def photographs_in(folder: str, groups_csv: str = "") -> pd.DataFrame:
    """image_id (the place among the names, in order), path and group of each image below a folder. groups_csv: see
    `groups_of`, which says what is raised."""
    root = store.project_path(folder)
    files = sorted(walk_images(root))
    ids = [f"P{place:06d}" for place in range(len(files))]
    groups = groups_of(files, root, groups_csv)
    return pd.DataFrame({"image_id": ids, "path": [str(f) for f in files], "group": groups})


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", help="folder, thousands of different ones")
    parser.add_argument("folder", type=Path, help="of the worlds")
    parser.add_argument("--groups", default="", help="CSV path,group: photographs of one scene")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    photographs = photographs_in(arguments.photographs, arguments.groups)
    for name in WORLDS:
        meta = write(arguments.folder / name, name, photographs, arguments.seed)
        print(f"{name}: {meta['kind'].value_counts().to_dict()}")


if __name__ == "__main__":
    main()
