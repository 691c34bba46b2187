# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the stages of a run that has begun are expected to take, so that it can tell the time that is left."""

from __future__ import annotations

from imgfp import store
from imgfp.benchmarks import planning
from imgfp.runner.machine import this_machine
from imgfp.store import Library, Run

#: Notebook -> the rows of `RunPlan.stages` that it computes.
_ROWS = {
    "01": ("images",),
    "02": ("local features",),
    "03": ("local index", "local search", "first pairs"),
    "04": ("crops",),
    "05": ("crop search",),
    "06": ("global descriptors",),
    "07": ("global index", "global search"),
    "08": ("further pairs",),
}
#: Processor time of a reference and of a query where no plan is stored, s: `--plan` of 3,000 photographs and 1,150
#: queries with the default profile, on one core. How fast a machine is shows in its first stages.
_USUAL = {
    "01": (0.0027, 0.0038),
    "02": (0.0163, 0.0213),
    "03": (0.0078, 0.0849),
    "04": (0.0, 0.0252),
    "05": (0.0, 0.0292),
    "06": (0.0150, 0.0558),
    "07": (0.0, 0.0002),
    "08": (0.0, 0.1357),
}
#: Start of a kernel with its imports, and what notebook 09 takes for its figures, s.
_START_S, _LAST_S = 5.0, 8.0


def known_references(library: Library) -> int:
    """References that a library has finished already; 0 where its list is damaged, and will be made again."""
    if not (library.catalogue.exists() and library.index("global").manifest.exists()):
        return 0
    try:
        return store.open_catalogue(library).count_files()
    except store.StoreError:
        return 0


def expected_s(run: Run, library: Library, known: int) -> dict[str, float]:
    """Number of a notebook -> seconds that it is expected to take, by the plan of the library or as usual; of 01 to 09,
    and none before 01 has listed the images. known: references that were finished before this run."""
    if not (run.images.is_dir() and library.images.is_dir()):
        return {}
    queries = store.open_catalogue(run).count_files()
    references = max(0, store.open_catalogue(library).count_files() - known)
    cores = this_machine(library.root).cores
    expected = {
        number: _START_S + (references * of_reference + queries * of_query) / cores
        for number, (of_reference, of_query) in _prices(library).items()
    }
    return expected | {"09": _START_S + _LAST_S}


def _prices(library: Library) -> dict[str, tuple[float, float]]:
    """Number of a notebook -> processor time of one reference and one query, s."""
    if not library.plan_json.exists():
        return _USUAL
    try:
        times = planning.read_plan(library).stages().set_index("stage")
    except store.StoreError:  # of another version
        return _USUAL
    sums = {
        number: times.loc[[*rows], ["reference_s", "query_s"]].sum()
        for number, rows in _ROWS.items()
    }
    return {
        number: (float(row["reference_s"]), float(row["query_s"])) for number, row in sums.items()
    }
