# SPDX-License-Identifier: AGPL-3.0-or-later
"""Queries of the robustness lab: a user's own photographs, edited by one family at a time at several strengths.

    design = Design(families=["blur", "mirror+paste"], strengths=[0.3, 0.6, 0.9])
    meta = make(store.Lab(folder), "data/photographs", design)

Every random choice depends on the seed, the family and the number of the copy alone: a copy has the same source and the
same choices at every strength, and another family or strength changes no other query.
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from imgfp import store
from imgfp.decoding import read_image
from imgfp.edits import record
from imgfp.edits.families import FAMILIES, draw
from imgfp.edits.unseen import UNSEEN
from imgfp.images import ImageError, encode_jpeg
from imgfp.runner.cluster import ShardResult, Task, map_shards
from imgfp.runner.params import ParameterError
from imgfp.stages.inventory import list_files

#: Every family that a query can be made by.
EDITS = FAMILIES | UNSEEN
#: Of these, families that bend the image: no homography tells where its pixels are.
BENDING = ("lens", "wave", "swirl", "retarget")
#: What stands in the place of a family for a query that has no reference.
UNRELATED = "unrelated"
#: Photographs that the queries of one family are pasted on, blended with and covered by.
_HOSTS = 12
_JPEG_QUALITY = 95
_COLUMNS = ["query_id", "reference_id", "family", "strength", "ops", "strengths", "homography"]


@dataclass(frozen=True)
class Design:
    """Which queries are made.

    families: names of EDITS, several joined by "+" for a chain; strengths: each 0..1; copies: queries per family and
    strength, each of another photograph; further: edits of other families beside each, drawn at random and put into a
    realistic order; unrelated: queries without a reference; held_out: photographs that these are made of, and that others are
    pasted on, none of them a reference; short_side_px: photographs are shrunk to it first. Raises ParameterError, with the
    nearest right name, for an unknown family.
    """

    families: Sequence[str] = tuple(EDITS)
    strengths: Sequence[float] = (0.25, 0.5, 0.75, 1.0)
    copies: int = 6
    further: int = 0
    unrelated: int = 150
    held_out: int = 60
    short_side_px: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (part for family in self.families for part in family.split("+")):
            if name not in EDITS:
                near = difflib.get_close_matches(name, EDITS, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else f": one of {', '.join(EDITS)}"
                raise ParameterError(f"there is no family of edits '{name}'{hint}")


def make(lab: store.Lab, photo_dir: str, design: Design, **where: Any) -> pd.DataFrame:
    """Write the queries of a lab, their truth and geometry, and the manifest of its references.

    photo_dir: a folder or manifest of photographs; where: cluster and workers, see `map_shards`. What is made already is
    kept. Returns one row per query: query_id, reference_id ("" for none), family (UNRELATED for these), strength, ops and
    strengths (of each edit, joined by "+"), homography ((3,3), reference pixel -> query pixel, as centres; None for BENDING
    edits). Raises ValueError for too few photographs.
    """
    files = list_files(photo_dir)
    held_out, others = _split(files, design)
    every, points = list(dict.fromkeys(design.families)), sorted(set(design.strengths))
    settings = {
        "strengths": points,
        "further": design.further,
        "short_side_px": design.short_side_px,
        "seed": design.seed,
    }
    tasks = [
        _task(lab, number, family, [family], others, held_out, design.copies * len(points))
        for number, family in enumerate(every)
    ]
    if design.unrelated:
        tasks.append(_task(lab, len(tasks), UNRELATED, every, held_out, held_out, design.unrelated))
    report = map_shards(
        make_queries, tasks, settings, title="edits", unit="query", lock_dir=lab.root, output_dir=lab.made, **where
    )  # fmt: skip
    for path, reason in sorted(set(report.rejects)):
        print(f"not edited: {path}: {reason}")
    meta = pd.concat([_write_files(lab, store.load(task.path)) for task in tasks])
    for stale in set(lab.queries.iterdir()) - {lab.queries / f"{q}.jpg" for q in meta["query_id"]}:
        stale.unlink()
    references = files[~files["image_id"].isin(held_out["image_id"])]
    store.write_sheet(lab.references_csv, references[["image_id", "path"]])
    store.write_sheet(lab.truth_csv, meta[["query_id", "reference_id"]])
    store.write_sheet(lab.meta_csv, meta)
    return read_meta(lab)


def read_meta(lab: store.Lab) -> pd.DataFrame:
    """The table of `make`. Raises StoreError where the lab has none."""
    meta = store.read_sheet(lab.meta_csv)
    matrices = [
        np.array(text.split(), float).reshape(3, 3) if text else None for text in meta["homography"]
    ]
    return meta.assign(
        strength=meta["strength"].astype(float),
        homography=pd.Series(matrices, index=meta.index, dtype=object),
    )


def _split(files: pd.DataFrame, design: Design) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Photographs that are held out, and all others, each in a random order."""
    entered = files[~files["path"].str.endswith("/")]
    held_out = min(design.held_out, len(entered) // 3)
    if not held_out:
        raise ValueError(
            f"{files['source'].iloc[0]} holds {len(entered)} files; a lab needs at least 3: one is held out"
        )
    order = np.random.default_rng([design.seed, zlib.crc32(b"held out")]).permutation(len(entered))
    return entered.iloc[order[:held_out]], entered.iloc[order[held_out:]]


def _task(
    lab: store.Lab,
    number: int,
    family: str,
    families: list[str],
    sources: pd.DataFrame,
    hosts: pd.DataFrame,
    items: int,
) -> Task:
    """The queries of one family as a shard. Only the files that it may read are its inputs."""
    order = np.random.default_rng(zlib.crc32(family.encode()))
    few = sources.iloc[order.permutation(len(sources))[: 2 * items + 20]]
    behind = hosts.iloc[order.permutation(len(hosts))[:_HOSTS]]
    marks = [*few.itertuples(index=False), *behind.itertuples(index=False)]
    return Task(
        lab.made / f"shard-{number:05d}.parquet",
        [family, str(items), *families, *(f"{m.path} {m.file_bytes} {m.mtime_ns}" for m in marks)],
        {
            "family": family,
            "families": families,
            "queries": items,
            "sources": list(zip(few["image_id"], few["path"], strict=True)),
            "hosts": list(zip(behind["image_id"], behind["path"], strict=True)),
        },
        items,
    )


@store.produces("edited_queries")
def make_queries(
    family: str,
    families: Sequence[str],
    queries: int,
    sources: Sequence[tuple[str, str]],
    hosts: Sequence[tuple[str, str]],
    *,
    strengths: Sequence[float],
    further: int,
    short_side_px: int,
    seed: int,
) -> ShardResult:
    """Queries of one family, or UNRELATED ones by any of `families`, as a shard of work: the columns of `make`, homography as
    text, and jpeg (bytes of the file).

    sources, hosts: id and path; sources are taken in turn, those that cannot be decoded are refused and the next one taken.
    """
    rejects: list[tuple[str, str]] = []
    of_sources = _readable(sources, short_side_px, rejects)
    others = list(_readable(hosts, short_side_px, rejects))
    if family != UNRELATED:
        count = max(1, queries // len(strengths))
        wanted = [(n, family, strength) for n in range(count) for strength in strengths]
    else:
        drawn = np.random.default_rng([seed, zlib.crc32(family.encode())])
        every = [(one, strength) for one in families for strength in strengths]
        places = drawn.integers(len(every), size=queries).tolist()
        wanted = [(n, *every[place]) for n, place in enumerate(places)]
    known: list[tuple[str, record.Edited]] = []
    rows = []
    for number, of, strength in wanted:
        while len(known) <= number and (following := next(of_sources, None)):
            known.append(following)
        if not known:
            raise ValueError(f"none of {len(sources)} photographs can be decoded: {rejects[0]}")
        source_id, source = known[number % len(known)]
        own = [seed, zlib.crc32(family.encode()), number]
        names = chain(of, further, np.random.default_rng([*own, 1]))
        behind = [other.image for other_id, other in others if other_id != source_id]
        edited = edit(source, names, strength, np.random.default_rng(own), behind)
        bent = not set(names).isdisjoint(BENDING)
        matrix = "" if bent else " ".join(f"{v:.9g}" for v in edited.homography.ravel())
        rows.append(
            {
                "query_id": f"{family}-{strength:.3g}-{number:03d}",
                "reference_id": "" if family == UNRELATED else source_id,
                "family": family,
                "strength": float(strength),
                "ops": "+".join(names),
                "strengths": "+".join(f"{degree:.3g}" for _, degree in edited.ops),
                "homography": matrix,
                "jpeg": encode_jpeg(edited.image, _JPEG_QUALITY),
            }
        )
    return ShardResult(pd.DataFrame(rows, columns=[*_COLUMNS, "jpeg"]), rejects)


def chain(family: str, further: int, rng: np.random.Generator) -> list[str]:
    """The edits of a query: those of a family as they are, or with so many further ones in a realistic order."""
    own = family.split("+")
    if not further:
        return own
    known = [name for name in own if name in FAMILIES]
    names = draw(len(known) + further, rng, known) + [name for name in own if name not in FAMILIES]
    places = [rng.uniform(*EDITS[name].span) for name in names]
    return [names[i] for i in np.argsort(places)]


def edit(
    source: record.Edited,
    names: Sequence[str],
    strength: float,
    rng: np.random.Generator,
    others: Sequence[np.ndarray] = (),
) -> record.Edited:
    """The edits of these names of EDITS, one after another, all of one strength; again, up to 20 times, while too little of the
    image is visible. others: images (H,W,3) uint8 RGB to paste on or to add."""
    for _ in range(20):
        edited = source
        for name in names:
            edited = EDITS[name](edited, strength, rng, others)
        if edited.is_visible:
            break
    return edited


def _readable(
    files: Sequence[tuple[str, str]], short_side_px: int, rejects: list[tuple[str, str]]
) -> Iterator[tuple[str, record.Edited]]:
    """Id and pixels of each file that can be decoded, shrunk, with the homography from the original; the others are added to
    `rejects`."""
    for image_id, path in files:
        try:
            image = read_image(path)
        except ImageError as error:
            rejects.append((path, error.reason))
            continue
        height, width = image.shape[:2]
        scale = min(1.0, short_side_px / min(height, width))
        yield (
            image_id,
            record.resize(record.start(image), round(width * scale), round(height * scale)),
        )


def _write_files(lab: store.Lab, queries: pd.DataFrame) -> pd.DataFrame:
    """The queries of a shard as files, those that are there with the same bytes left alone; returns the other columns."""
    for query_id, jpeg in queries[["query_id", "jpeg"]].itertuples(index=False):
        path = lab.queries / f"{query_id}.jpg"
        if not path.exists() or path.read_bytes() != jpeg:
            store.write_bytes(path, jpeg)
    return queries.drop(columns="jpeg")


def settings_of(
    lab: store.Lab, library_dir: str, lines: Sequence[str], **given: object
) -> list[str]:
    """What a run of this lab is given in the place of its profile's own values, as words of a command line.

    lines: as "certain_score: 1"; given: of all others by name. Raises ParameterError for a line of another form, and for a
    folder of the lab.
    """
    own: dict[str, object] = {
        "stages": "01-09",
        "reference_dir": lab.references_csv,
        "query_dir": lab.queries,
        "truth": lab.truth_csv,
        "library_dir": library_dir,
        "run_dir": lab.run.root,
    }
    own |= {n: str(v).lower() if isinstance(v, bool) else v for n, v in given.items()}
    words = [f"{name}={value}" for name, value in own.items()]
    for line in lines:
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or name in own:
            raise ParameterError(
                f"measured_settings: {line!r} is not a 'name: value', or one that the lab itself sets"
            )
        words.append(f"{name}={value}")
    return words
