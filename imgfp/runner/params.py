"""Parameter files: one flat YAML a profile, checked against what the notebooks declare."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_BYTES = 64 * 1024
#: Keys of a profile that speak to the runner, not to a notebook.
RUNNER_KEYS = ("stages",)
#: Parameters whose values, or the items of whose lists, are one of a few words.
CHOICES = {
    "descriptor_variants": ("plain", "mirrored", "contrast_reversed"),
    "vote_rule": ("seed", "robust"),
    "global_described": ("all", "sure"),
    "candidates_scored": ("all", "accepted"),
    "fusion": ("calibrated", "sum"),
}


class ParameterError(ValueError):
    """A parameter file that cannot be used; the message says which line or key, and what is meant."""


@dataclass(frozen=True)
class Declared:
    """A parameter as its notebook declares it: type name, default as source text, meaning."""

    name: str
    type: str
    default: str
    help: str


def read_profile(path: Path) -> dict[str, Any]:
    """The keys and values of a flat YAML file. Raises ParameterError, FileNotFoundError.

    YAML 1.2: `1e-3` is a number, `yes` and `no` are text, a key given twice is an error.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"parameter file {path} {what}")
    if path.stat().st_size > MAX_BYTES:
        raise ParameterError(f"{path} is larger than {MAX_BYTES:,} bytes; is it a parameter file?")
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text("utf-8")) or {}
    except (MarkedYAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ParameterError(f"{path}{where}: {' '.join(str(problem).split())}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ParameterError(f"{path} must be lines of `name: value`")
    nested = [key for key, value in values.items() if isinstance(value, dict)]
    if nested:
        raise ParameterError(f"{path}: '{nested[0]}' holds a mapping; parameter files are flat")
    return values


def write_value(path: Path, name: str, value: Any) -> None:
    """Set one key of a parameter file, leaving its comments and its order as they are."""
    import io

    from ruamel.yaml import YAML

    from imgfp import store

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    values = yaml.load(path.read_text("utf-8"))
    values[name] = value
    out = io.StringIO()
    yaml.dump(values, out)
    store.write_bytes(path, out.getvalue().encode())


def declared_by(notebook: Path) -> dict[str, Declared]:
    """The parameters that a notebook declares in its cell tagged `parameters`."""
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    found = papermill.inspect_notebook(str(notebook))
    return {
        name: Declared(name, entry["inferred_type_name"], entry["default"], entry["help"])
        for name, entry in found.items()
    }


def override(assignments: list[str], known: dict[str, Declared]) -> dict[str, Any]:
    """Parse `key=value` words of a command line, each by the type that its notebook declares."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    values = {}
    for word in assignments:
        name, equals, text = word.partition("=")
        if not equals:
            raise ParameterError(f"{word!r} is not of the form name=value")
        is_text = (name in known and known[name].type == "str") or name in RUNNER_KEYS
        try:
            values[name] = text if is_text else YAML(typ="safe", pure=True).load(text)
        except (YAMLError, RecursionError):
            raise ParameterError(f"{word!r}: the value is not YAML") from None
    return values


def check(values: dict[str, Any], known: dict[str, Declared]) -> dict[str, Any]:
    """Values with whole numbers widened where a float is declared.

    Raises ParameterError for a name that no notebook declares, naming the nearest one, and for a
    value of another type than declared or that is none of its choices.
    """
    checked = {}
    for name, value in values.items():
        if name in RUNNER_KEYS:
            checked[name] = str(value)
            continue
        if name not in known:
            hint = _nearest(name, [*known, *RUNNER_KEYS])
            raise ParameterError(f"no notebook knows the parameter '{name}'{hint}")
        wanted = known[name].type
        if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not _fits(value, wanted):
            raise ParameterError(
                f"parameter '{name}' must be {wanted}, got {value!r} ({type(value).__name__})"
            )
        if name in CHOICES:
            check_choice(name, value)
        checked[name] = value
    return checked


def check_choice(name: str, value: str | list[str]) -> None:
    """Raises ParameterError, naming the nearest, for a value that is not among the CHOICES."""
    choices = CHOICES[name]
    for word in [value] if isinstance(value, str) else value:
        if word not in choices:
            said = f"expected {' or '.join(choices)}, got {word!r}{_nearest(word, choices)}"
            raise ParameterError(f"parameter '{name}': {said}")


def _nearest(word: str, words: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _fits(value: Any, wanted: str) -> bool:
    inner = re.fullmatch(r"list\[(\w+)\]", wanted)
    if inner:
        return isinstance(value, list) and all(_fits(item, inner[1]) for item in value)
    kind = {"str": str, "int": int, "float": float, "bool": bool, "list": list}[wanted]
    return type(value) is kind
