# SPDX-License-Identifier: AGPL-3.0-or-later
"""Measure the pipeline tuner on a run of many pairs: how long it takes to open, and to follow one move.

    .venv/bin/python docs/measure_tuner.py [PAIRS]

The run is made here: ids are numbers, and each row of evidence is that of a pair of a small run of real photographs, drawn
with a seed. Prints medians in seconds of processor time and of the clock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import small_run  # noqa: E402

from imgfp import store  # noqa: E402
from imgfp.crops.rule import crop_table  # noqa: E402
from imgfp.datatypes import Boxes, table  # noqa: E402
from imgfp.results import Results  # noqa: E402
from imgfp.runner.record import Record  # noqa: E402
from imgfp.runner.schema import Parameters  # noqa: E402
from imgfp.widgets import PipelineTuner  # noqa: E402

#: Candidates that a branch keeps of a view, and pairs of a query: two branches that have one pair in common, and a third for half of the queries.
KEPT, PAIRS_OF_QUERY = 10, 24


def build(root: Path, pairs: int, rng: np.random.Generator) -> Results:
    """A run of about so many verified pairs in `root`, with truth for three queries of four."""
    small = Results(small_run.build(root / "small", hostile=False, rule="calibrated"))
    count = max(1, pairs // PAIRS_OF_QUERY)
    queries = np.array([f"q{number:06d}" for number in range(count)], object)
    references = np.array([f"r{number:06d}" for number in range(3 * count)], object)
    run, library = root / "run", root / "library"
    for folder, ids, template in ((run, queries, small.run), (library, references, small.library)):
        rows = store.load(store.shards(template.images, ".parquet")[0])
        small_run._save(folder / "images/shard-00000.parquet", _repeated(rows, ids))
    views = {
        "local": queries,
        "global": queries,
        "crop": np.array([f"{q}#0" for q in queries[::2]], object),
    }
    shown = np.stack([rng.choice(len(references), 2 * KEPT, replace=False) for _ in queries])
    candidates = []
    for branch, named in views.items():
        own = shown[:, KEPT - 1 : -1] if branch == "global" else shown[:, :KEPT]
        candidates.append(
            _candidates(branch, named, references[own[:: 1 + (branch == "crop")]], rng)
        )
        small_run._save(run / f"candidates/{branch}/shard-00000.parquet", candidates[-1])
    proposed = pd.concat(candidates).drop_duplicates(["view_id", "reference_id"])
    small_run._save(run / "evidence/shard-00000.parquet", _evidence(small, proposed, rng))
    _boxes(run, queries[::2], rng)
    truth = table(
        "truth",
        query_id=queries,
        reference_id=np.where(np.arange(count) % 4 < 3, references[shown[:, 0]], ""),
    )
    store.write_sheet(run / "truth.csv", truth)
    values = {name: entry.default for name, entry in Parameters.model_fields.items()}
    values |= {
        "run_dir": str(run),
        "library_dir": str(library),
        "truth": "",
        "descriptor_model": "imgfp",
    }
    Record(values).write(run / "params.yaml")
    results = Results(run)
    store.write_sheet(run / "predictions.csv", results.fused())
    return Results(run)


def _repeated(rows: pd.DataFrame, ids: np.ndarray) -> pd.DataFrame:
    """Rows of images again and again, each with an id and content of its own."""
    drawn = rows.iloc[np.arange(len(ids)) % len(rows)].reset_index(drop=True)
    return table("images", drawn.assign(image_id=ids, sha256=ids))


def _candidates(
    branch: str, views: np.ndarray, references: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    """The candidates of one view after another, best first; the first reference has most votes in three views of four."""
    score = -np.sort(-rng.random(references.shape), axis=1)
    if branch != "global":
        score = np.ceil(12 * score)
        score[:, 0] *= np.where(rng.random(len(score)) < 0.75, 30, 1)
    view = np.repeat(views, KEPT)
    return table(
        "candidates",
        query_id=[name.partition("#")[0] for name in view],
        view_id=view,
        reference_id=references.ravel(),
        group_id=references.ravel(),
        branch=branch,
        rank=np.tile(np.arange(KEPT), len(views)),
        score=score.ravel(),
        mean_squared_distance=rng.uniform(2000, 12_000, score.size),
        mirrored=False,
        accepted=np.tile(np.arange(KEPT) == 0, len(views)),
    )


def _evidence(small: Results, pairs: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Evidence of copies for the first candidate of a query, of others for the rest."""
    known = small.evidence.merge(
        small.truth.assign(is_copy=True), "left", ["query_id", "reference_id"]
    )
    is_copy = known["is_copy"].notna().to_numpy()
    drawn = np.where(
        pairs["rank"] == 0,
        rng.choice(np.flatnonzero(is_copy), len(pairs)),
        rng.choice(np.flatnonzero(~is_copy), len(pairs)),
    )
    names = ["query_id", "view_id", "reference_id"]
    rows = small.evidence.iloc[drawn].reset_index(drop=True)
    return rows.assign(**{name: pairs[name].to_numpy() for name in names}, identical=False)


def _boxes(run: Path, queries: np.ndarray, rng: np.random.Generator) -> None:
    rules = {
        "local_min_confidence": 0.1,
        "global_min_confidence": 0.82,
        "max_area": 0.85,
        "max_aspect": 4.0,
        "max_crops": 3,
    }
    confidence = rng.uniform(0.1, 1, len(queries))
    found = [(name, 10, 10, 150, 120, sure) for name, sure in zip(queries, confidence, strict=True)]
    columns = [*table("detections").columns]
    small_run._save(
        run / "crops/detections/shard-00000.parquet",
        table("detections", pd.DataFrame(found, columns=columns)),
    )
    crops = [
        crop_table(name, Boxes([box], [sure]), 300, 200, **rules) for name, *box, sure in found
    ]
    small_run._save(run / "crops/crops.parquet", pd.concat(crops, ignore_index=True), **rules)


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock and of this processor."""
    clock, processor = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - clock, time.process_time() - processor


def main(pairs: int) -> None:
    with TemporaryDirectory() as folder:
        run = build(Path(folder), pairs, np.random.default_rng(0)).run
        opened: list[PipelineTuner] = []
        opening = [timed(lambda: opened.append(PipelineTuner(Results(run)))) for _ in range(3)]
        tuner = opened[-1]
        moves = {}
        for source, value in (("local", 3), ("crop", 5), ("global", 0.4), ("boxes", 0.5)):
            tuner.source.value = source
            own = tuner.value.value
            moves[f"move of {source}"] = [
                timed(lambda to=to: setattr(tuner.value, "value", to)) for to in (value, own) * 3
            ]
        print(
            f"{len(tuner._replay._evidence) - 1:,} verified pairs, {len(tuner._replay._candidates):,} candidates"
        )
        for name, each in {"opening": opening, **moves}.items():
            clock, processor = np.median(each, axis=0)
            print(f"{name:<16} {clock:6.2f} s, of processor time {processor:6.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 50_000)
