# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tables of a run: predictions, overlaps, boxes and decisions, as CSV for spreadsheets or as Parquet."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa

from imgfp import store
from imgfp.crops.rule import CORNERS
from imgfp.exchange import vectors
from imgfp.exchange.answers import answers
from imgfp.results import Results
from imgfp.stages.inventory import resolved_paths
from imgfp.store import decisions
from imgfp.store.arrays import write_parquet


def tables(results: Results) -> dict[str, pd.DataFrame]:
    """Name -> table. `predictions`: every scored pair, best first, with the paths of both files; `overlaps`: the regions
    that the pairs of `answers` share, polygons of x, y in pixels; `boxes`: what the crop detector found, xyxy in pixels,
    and which it cut out (crop_id, "" for none); `decisions`: those in force."""
    pairs = results.pairs.drop(columns="rank")
    pairs["query_path"] = _paths(results, "query_id", pairs)
    pairs["reference_path"] = _paths(results, "reference_id", pairs)
    found = [
        {
            "query_id": answer.query_id,
            "reference_id": answer.reference_id,
            "score": answer.score,
            "reported": answer.reported,
            "transform": answer.transform,
            "located": answer.located,
            "query_image": answer.query.image_id,
            "query_region": answer.query.region.round(1).tolist(),
            "reference_image": answer.reference.image_id,
            "reference_region": answer.reference.region.round(1).tolist(),
        }
        for answer in answers(results)
    ]
    boxes = results.detections.rename(columns={"image_id": "query_image"})
    crops = results.crops.rename(columns={"query_id": "query_image"})
    keys = ["query_image", *CORNERS]
    boxes = boxes.merge(crops[[*keys, "crop_id", "local_rank", "is_global"]], "left", keys)
    boxes = boxes.fillna({"crop_id": "", "local_rank": -1, "is_global": False})
    boxes = boxes.astype({"local_rank": "int32", "is_global": "bool"})
    return {
        "predictions": pairs,
        "overlaps": pd.DataFrame(found),
        "boxes": boxes,
        "decisions": decisions.consensus(decisions.read(results.decisions_path)),
    }


def _paths(results: Results, column: str, pairs: pd.DataFrame) -> pd.Series:
    collection = results.run if column == "query_id" else results.library
    ids = pairs[column].unique().tolist()
    return pairs[column].map(dict(zip(ids, resolved_paths(collection, ids), strict=True)))


def write_csv(results: Results, folder: Path) -> list[Path]:
    """Write `tables` as CSV, cells that a spreadsheet would run as a formula defused; regions are JSON."""
    written = []
    for name, table in tables(results).items():
        written.append(folder / f"{name}.csv")
        for column in [column for column in table if str(column).endswith("_region")]:
            table[column] = table[column].map(json.dumps)
        store.write_sheet(written[-1], table)
    return written


def write_tables(results: Results, folder: Path) -> list[Path]:
    """Write `tables` as Parquet, and the vectors of both sides, see `vectors.write_tables`."""
    written = []
    for name, table in tables(results).items():
        written.append(folder / f"{name}.parquet")
        write_parquet(written[-1], [pa.Table.from_pandas(table, preserve_index=False)])
    return [*written, *vectors.write_tables(results, folder)]
