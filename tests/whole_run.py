# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebooks 01 to 09 in the process of a test: all cells but the examples, without kernels, so that a run over a
few pictures takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask
import pandas as pd

from imgfp import store
from imgfp.runner.notebooks import EXAMPLE
from imgfp.store import formats

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def execute(
    folder: Path, references: Path, queries: Path, cluster: str, **values: Any
) -> store.Run:
    """The run `folder/run` of these queries against `folder/library`, made of these references.

    cluster: as of the fixture `in_process`; values: parameters of the notebooks that are not the defaults.
    """
    values = {
        "reference_dir": str(references),
        "query_dir": str(queries),
        "library_dir": str(folder / "library"),
        "run_dir": str(folder / "run"),
        "cluster": cluster,
        "insecure_cluster": True,
        "truth": "",
        "bootstrap_rounds": 0,
        **values,
    }
    # A cluster of the same test may ask for encryption meanwhile.
    with dask.config.set({"distributed.comm.require-encryption": False}):
        for path in sorted(NOTEBOOKS.glob("0[1-9]_*.ipynb")):
            run_cells(path, values)
    return store.Run(folder / "run")


def run_cells(notebook: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The names that the cells of a notebook leave behind, with these values of its parameters."""
    names: dict[str, Any] = {"display": lambda *shown: None}
    for cell in json.loads(notebook.read_bytes())["cells"]:
        tags = cell["metadata"].get("tags", ())
        if cell["cell_type"] != "code" or EXAMPLE in tags:
            continue
        exec(compile("".join(cell["source"]), notebook.stem, "exec"), names)  # noqa: S102
        if "parameters" in tags:
            names |= {name: value for name, value in values.items() if name in names}
    return names


def answers(run: store.Run) -> dict[str, pd.Series]:
    """Query -> the scores of its references, best first, by id; queries without pairs are missing."""
    predictions = formats.read_predictions(run.predictions_csv)
    return {
        str(query): rows.set_index("reference_id")["score"]
        for query, rows in predictions.groupby("query_id", sort=False)
    }
