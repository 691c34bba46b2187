# SPDX-License-Identifier: AGPL-3.0-or-later
"""Parameter files: one flat YAML per profile, checked against the schema and the notebooks."""

from __future__ import annotations

import ast
import difflib
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgfp import urls
from imgfp.inference import (
    EXTRAS,
    check_installed,
    check_model_file,
    device_number,
    torch_gpus,
)

MAX_BYTES = 256 * 1024
#: Keys of a profile that speak to the runner, not to a notebook.
RUNNER_KEYS = ("stages",)
#: Key of the `params.yaml` of a run that is no parameter, see `runner.record`.
RECORDED = "recorded"
#: Former names, still accepted with a warning: former -> present.
RENAMED = {
    "descriptor_device": "device",
    "pair_judge": "pair_classifier",
    "local_readings": "descriptor_variants",
    "judge_scenes": "scorer_scenes",
    "judge_photographs": "scorer_photographs",
    "outsiders": "negatives",
    "doubles": "synthetic",
}
#: Former parameters, and what takes their place.
REMOVED = {
    "trust_pt": "convert the .pt file once: imgfp convert own.pt own.onnx, and give own.onnx"
}
#: Parameters that are a file of weights themselves, and what `imgfp convert` makes for them.
TARGETS = {
    "pair_classifier": ".onnx",
    "init_weights": ".safetensors",
    "start_weights": ".safetensors",
}
#: Former words of a parameter's value, by its present name.
RENAMED_WORDS = {"descriptor_variants": {"inverted": "contrast_reversed"}}
#: Parameters that name a file which a stage reads, and those that name a folder or a manifest file.
FILES = (
    "truth", "fusion_model", "pair_classifier", "descriptor_weights", "descriptor_file", "background",
    "groups_csv", "check_boxes", "check_truth", "check_meta", "init_weights", "start_weights",
    "query_list", "local_crop_list", "local_candidates_file", "crop_candidates_file",
    "global_candidates_file", "local_scores_file", "crop_scores_file", "global_scores_file", "predictions_file",
)  # fmt: skip
FOLDERS = (
    "reference_dir", "query_dir", "photo_dir", "check_dir", "check_references", "other_run_dir",
    "before_run", "after_run", "tuned_run",
)  # fmt: skip
#: Folders that a stage reads and that no stage before it has listed: what they hold counts with the parameter.
FOLDERS_READ = (
    "local_crops_dir", "global_crops_dir", "local_features_file", "reference_features_file", "crop_features_file",
)  # fmt: skip
#: Parameters that may be a URL.
URLS = ("reference_dir", "query_dir", "library_dir")
#: Parameters that name a file or folder, those that a stage makes included. `crop_detector` may be a word instead.
PATHS = (
    *FILES, *FOLDERS, "library_dir", "run_dir", "demo_dir", "export_dir", "export_path", "save_dir", "written_profile",
    "wider_dir", "decisions_log", "crop_detector",
)  # fmt: skip


class ParameterError(ValueError):
    """A parameter file that cannot be used; the message names the line or key and the remedy."""


@dataclass(frozen=True)
class Declared:
    """A parameter as its notebook declares it: type name, default as source text, meaning."""

    name: str
    type: str
    default: str
    help: str

    @property
    def value(self) -> Any:
        """The default."""
        return ast.literal_eval(self.default)


def read_profile(path: Path) -> dict[str, Any]:
    """The keys and values of a flat YAML file, former names translated; of the `params.yaml` of a run without its record.
    Raises ParameterError, FileNotFoundError."""
    values = load(path)
    values.pop(RECORDED, None)
    return renamed(values)


def load(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file that is flat but for RECORDED. Raises ParameterError, FileNotFoundError.

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
    nested = [key for key, value in values.items() if isinstance(value, dict) and key != RECORDED]
    if nested:
        raise ParameterError(f"{path}: '{nested[0]}' holds a mapping; parameter files are flat")
    return values


def absolute(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with the paths of PATHS made absolute, so that they name the same files from every working folder."""
    from imgfp.crops.detectors import DETECTORS
    from imgfp.store import project_path

    def path(name: str, value: Any) -> Any:
        if value in ("", *DETECTORS) or not isinstance(value, str) or urls.is_url(value):
            return value
        parts = value.split(os.pathsep) if name == "descriptor_weights" else [value]
        return os.pathsep.join(str(project_path(part)) for part in parts)

    return {name: path(name, value) if name in PATHS else value for name, value in values.items()}


def portable(values: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """`absolute` values with paths that count from a folder, so that they are the same where all was moved together."""
    return {
        name: os.path.relpath(value, root)
        if name in PATHS and isinstance(value, str) and os.path.isabs(value)
        else value
        for name, value in values.items()
    }


def write_values(path: Path, values: Mapping[str, Any]) -> None:
    """Set keys of a parameter file, leaving its comments and its order as they are; new ones get their meaning as a
    comment. A file that is not there is made."""
    import io

    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    from imgfp import store
    from imgfp.runner import schema

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    written = (yaml.load(path.read_text("utf-8")) if path.is_file() else None) or CommentedMap()
    for name, value in values.items():
        is_new = name not in written
        written[name] = value
        if is_new and name in schema.Parameters.model_fields:
            written.yaml_add_eol_comment(schema.comment(name), name, column=0)
    out = io.StringIO()
    yaml.dump(written, out)
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

    values: dict[str, Any] = {}
    for word in assignments:
        name, equals, text = word.partition("=")
        if not equals:
            raise ParameterError(f"{word!r} is not of the form name=value")
        declared = known.get(RENAMED.get(name, name))
        is_text = (declared is not None and declared.type == "str") or name in RUNNER_KEYS
        try:
            values[name] = text if is_text else YAML(typ="safe", pure=True).load(text)
        except (YAMLError, RecursionError):
            raise ParameterError(f"{word!r}: the value is not YAML") from None
    return renamed(values)


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Values under the present names of their parameters; each former name or word warns on stderr.

    Raises ParameterError where a parameter is given under both names.
    """
    present: dict[str, Any] = {}
    for given, value in values.items():
        name = RENAMED.get(given, given)
        if name in present or (name != given and name in values):
            raise ParameterError(f"'{given}' is the former name of '{name}'; give one of them")
        words = RENAMED_WORDS.get(name, {})
        if isinstance(value, list):
            old = [word for word in value if isinstance(word, str) and word in words]
            value = [words.get(word, word) if isinstance(word, str) else word for word in value]
        else:
            old = []
        if name != given:
            print(f"imgfp: parameter '{given}' is now '{name}'", file=sys.stderr)
        for word in old:
            print(f"imgfp: {name}: '{word}' is now '{words[word]}'", file=sys.stderr)
        present[name] = value
    return present


def check(values: dict[str, Any], known: dict[str, Declared]) -> dict[str, Any]:
    """Values with whole numbers widened where a float is declared.

    known: what the notebooks declare. Raises ParameterError for a name that no notebook declares, naming
    the nearest one; for a value of another type than declared; and for one outside the range or the
    choices of the schema.
    """
    from imgfp.runner import schema

    checked = {}
    for name, value in values.items():
        if name in RUNNER_KEYS:
            checked[name] = str(value)
            continue
        if name not in known:
            hint = (
                f"; {REMOVED[name]}" if name in REMOVED else nearest(name, [*known, *RUNNER_KEYS])
            )
            raise ParameterError(f"no notebook knows the parameter '{name}'{hint}")
        wanted = known[name].type
        if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not _fits(value, wanted):
            raise ParameterError(
                f"parameter '{name}' must be {wanted}, got {value!r} ({type(value).__name__})"
            )
        # A notebook of the user's own may declare parameters that the schema does not know.
        if name in schema.Parameters.model_fields:
            _check_range(name, value)
        checked[name] = value
    return checked


def check_choice(name: str, value: str | list[str]) -> None:
    """Raises ParameterError, naming the nearest, for a word that the schema does not allow."""
    _check_range(name, value)


def _check_range(name: str, value: Any) -> None:
    from pydantic import ValidationError

    from imgfp.runner import schema

    words = schema.choices(name)
    for word in value if isinstance(value, list) else [value]:
        if words and word not in words:
            hint = nearest(word, words) if isinstance(word, str) else ""
            raise ParameterError(
                f"parameter '{name}': expected {schema.allowed(name)}, got {word!r}{hint}"
            )
    try:
        schema.Parameters.model_validate({name: value})
    except ValidationError as error:
        allowed = schema.allowed(name)
        # A list is refused for its length, or for one of its items.
        reason = allowed if error.errors()[0]["type"] in _RANGES else error.errors()[0]["msg"]
        raise ParameterError(f"parameter '{name}': expected {reason}, got {value!r}") from None


_RANGES = {
    "greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number",
    "string_pattern_mismatch",
}  # fmt: skip


def check_files(values: dict[str, Any], *, made: Sequence[str] = ()) -> None:
    """What the values name is there: files, folders, URLs, a detector and a model with their packages,
    devices.

    values: checked values of a profile; made: parameters whose file or folder an earlier stage of the
    same run makes. Raises FileNotFoundError or ParameterError in one line, StoreError for a file that imgfp wrote
    and that has changed.
    """
    from imgfp.store import check_seal, project_path

    for name in (*FILES, *FOLDERS, *FOLDERS_READ, "library_dir", "run_dir"):
        value = values.get(name)
        if not value or name in made:
            continue
        if urls.is_url(value):
            _check_url(name, value)
            continue
        if name in ("library_dir", "run_dir"):
            continue  # made where they are not there
        # Only weights may be several files.
        for part in value.split(os.pathsep) if name == "descriptor_weights" else [value]:
            path = project_path(part)
            if not (path.exists() if name not in FILES else path.is_file()):
                what = "file" if name in FILES else "folder or file"
                raise FileNotFoundError(f"{name}: there is no {what} {part}; check the path")
            if path.is_file():
                check_seal(path)
    _check_listed(values)
    _check_models(values)
    if values.get("device", "auto").startswith("cuda"):
        _check_cuda(values["device"])


def _check_listed(values: dict[str, Any]) -> None:
    """Files that take the place of a stage fit each other. Raises ParameterError."""
    scores = [f"{branch}_scores_file" for branch in ("local", "crop", "global")]
    given = [name for name in scores if values.get(name)]
    if given and values.get("fusion", "sum") != "sum":
        raise ParameterError(
            f"{given[0]}: it holds match counts alone, which give no probability; set fusion: sum"
        )
    if values.get("query_list") and not values.get("query_dir"):
        raise ParameterError("query_list: it names images of query_dir, which is blank")
    if values.get("local_crop_list") and not values.get("local_crops_dir"):
        raise ParameterError("local_crop_list: it names no boxes; give local_crops_dir, too")


def _check_url(name: str, url: str) -> None:
    try:
        urls.check(url)
        if name in URLS and name != "library_dir":
            urls.check_source(url)
    except urls.MissingUrl as error:
        raise FileNotFoundError(f"{name}: {error}; check the URL") from None
    except urls.UrlError as error:
        raise ParameterError(f"{name}: {error}") from None
    if name not in URLS:
        raise ParameterError(
            f"{name}: {urls.shown(url)} is a URL; give a local or shared folder or file"
        )


def check_extras(needed: dict[str, str]) -> None:
    """The extras that notebooks need (notebook -> extra) are installed. Raises ParameterError."""
    for notebook, extra in needed.items():
        try:
            for module in EXTRAS[extra]:
                check_installed(module, extra, f"notebook {notebook}")
        except ModuleNotFoundError as error:
            raise ParameterError(str(error)) from None


def _check_models(values: dict[str, Any]) -> None:
    from imgfp.crops.detectors import DETECTORS, check_detector
    from imgfp.descriptors.registry import check_model, resolved
    from imgfp.scoring.fusion import load_model
    from imgfp.store import check_seal, located

    name = "crop_detector"
    try:
        for name in ("crop_detector", "global_crop_detector"):
            if not values.get(name):
                continue
            detector = located(values[name], DETECTORS)
            check_detector(detector)
            if os.path.isfile(detector):
                check_seal(Path(detector))
        name = "descriptor_model"
        if name in values:
            weights = located(values.get("descriptor_weights", ""))
            check_model(values[name], weights)
        for name, ending in TARGETS.items():
            if values.get(name):
                check_model_file(Path(located(values[name])), ending)
        name = "fusion_model"
        if values.get(name) and values.get("fusion") != "sum":
            known = resolved(
                values.get("descriptor_model", ""), values.get("descriptor_weights", "")
            )
            load_model(located(values[name]), "" if values.get("descriptor_file") else known[0])
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
        raise ParameterError(f"{name}: {error}") from None


def _check_cuda(device: str) -> None:
    from imgfp.search.gpu import gpus

    by_torch, by_faiss = torch_gpus(), gpus()
    if device_number(device) >= max(by_torch, by_faiss):
        raise ParameterError(
            f"device: {device} is not there; torch sees {by_torch} CUDA devices, Faiss {by_faiss}; "
            "take auto or cpu, or see `imgfp doctor`"
        )


def nearest(word: str, words: Sequence[Any]) -> str:
    """`; did you mean '...'?` with the word that is most like the given one, or "" where none is."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _fits(value: Any, wanted: str) -> bool:
    inner = re.fullmatch(r"list\[(\w+)\]", wanted)
    if inner:
        return isinstance(value, list) and all(_fits(item, inner[1]) for item in value)
    kind = {"str": str, "int": int, "float": float, "bool": bool, "list": list}[wanted]
    return type(value) is kind
