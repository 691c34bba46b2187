# SPDX-License-Identifier: AGPL-3.0-or-later
"""The schema of parameters against notebooks, profiles and code."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from imgfp.__main__ import main
from imgfp.descriptors.views import VIEWS
from imgfp.runner import notebooks, params, project, schema
from imgfp.search.propose import DESCRIPTOR_VARIANTS

NOTEBOOKS = sorted(project.shipped("notebooks").glob("[0-9][0-9]_*.ipynb"))
PROFILES = sorted(project.shipped("params").glob("*.yaml"))
FIELDS = schema.Parameters.model_fields
DECLARED = {path.stem[:2]: params.declared_by(path) for path in NOTEBOOKS}


@pytest.mark.parametrize("number", DECLARED)
def test_cells_agree_with_the_schema(number):
    """Name, type, default and comment; no two notebooks mean different things by one name."""
    for name, cell in DECLARED[number].items():
        assert name in FIELDS, f"{name}: add it to runner/schema.py"
        default = ast.literal_eval(cell.default)
        wanted = schema.PER_NOTEBOOK.get(number, {}).get(name, FIELDS[name].default)
        assert default == wanted and type(default) is type(wanted), name
        assert params.check({name: default}, {name: cell}) == {name: default}
        assert cell.help == schema.comment(name), "the comment is that of the schema"


def test_the_schema_has_no_parameter_that_no_notebook_declares():
    declared = {name for cells in DECLARED.values() for name in cells}
    assert declared == set(FIELDS)
    for number, values in schema.PER_NOTEBOOK.items():
        assert set(values) <= set(DECLARED[number]), number
        assert all(value != FIELDS[name].default for name, value in values.items()), number


@pytest.mark.parametrize("name", FIELDS)
def test_every_parameter_has_a_meaning_and_numbers_have_bounds(name):
    field = FIELDS[name]
    assert field.description
    if type(field.default) in (int, float) and not schema.choices(name):
        assert re.search(r"(from|above) \S+ to \S+", schema.allowed(name)), name


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_profiles_hold_known_parameters_with_legal_values_and_comments(path):
    known = {name: cell for cells in DECLARED.values() for name, cell in cells.items()}
    values = params.check(params.read_profile(path), known)
    assert set(YAML(typ="safe", pure=True).load(path.read_text("utf-8"))) == set(values), (
        "former names"
    )
    for line in path.read_text("utf-8").splitlines():
        name = re.match(r"(\w+):", line)
        if name and name[1] in FIELDS:
            assert " # " in line or name[1] in _PLAIN, f"{path.name}: {name[1]} has no comment"
            _check_words(name[1], line.partition(" # ")[2])


#: Lines of a profile that need no comment.
_PLAIN = {"seed", "run_dir", "library_dir", "reference_dir", "query_dir", "truth"}


def _check_words(name: str, comment: str) -> None:
    """A comment that lists words as `a, b or c` lists words that the parameter may be."""
    listed = re.match(r"((?:[\w-]+, )*[\w-]+,? or [\w-]+)(?:[;:]|$)", comment)
    if listed and schema.choices(name):
        words = re.split(r",? or |, ", listed[1])
        assert set(words) <= set(schema.choices(name)), f"{name}: {comment}"


def test_choices_are_those_of_the_code():
    assert schema.choices("global_views") == schema.choices("global_crop_views") == VIEWS
    assert set(schema.choices("descriptor_variants")) == set(DESCRIPTOR_VARIANTS)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("local_nprobe=-3", "expected from 0 to 1,000,000 lists, got -3"),
        ("match_ratio=-1.0", "expected from 1 to 100 (ratio of squared distances), got -1.0"),
        ("local_min_confidence=7.5", "expected from 0 to 1, got 7.5"),
        ("local_candidates=0", "expected from 1 to 10,000 references, got 0"),
        ("target_precision=9.0", "expected above 0 to 1, got 9.0"),
        ("match_ratio=.nan", "got nan"),
        ("descriptor_variants=[]", "got []"),
        ("benchmark_nprobes=[4, 0]", "got [4, 0]"),
        ("sift_first_octave=-2", "expected -1 or 0, got -2"),
        ("cluster=host:8786", "expected local or tls://host:8786, got 'host:8786'"),
        ("cluster=tcp://host:8786", "set insecure_cluster: true"),
        ("vote_rule=robst", "did you mean 'robust'?"),
        ("lokal_nprobe=4", "did you mean 'local_nprobe'?"),
    ],
)
def test_a_value_out_of_range_is_one_line_on_the_command_line(given, says, tmp_path, capsys):
    assert (
        main(
            ["run", "mine", f"reference_dir={tmp_path}", f"query_dir={tmp_path}", given, "--status"]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and given.partition("=")[0] in said and says in said


#: Parameters that only say where or by whom work is done.
NO_RESULT = {"cluster", "insecure_cluster", "workers", "device"}
#: Parameters that count only where another has a certain value.
ONLY_WITH = {
    "vote_min_hits": ("candidates_scored", "accepted"),
    "vote_min_hits_single": ("candidates_scored", "accepted"),
    "vote_max_mean_squared_distance": ("candidates_scored", "accepted"),
    "vote_ratio": ("vote_rule", "robust"),
    "fusion_model": ("fusion", "calibrated"),
}


def used_by(notebook: Path) -> set[str]:
    """Names that the cells read which make the result, not those that show an example."""
    names = set()
    for cell in json.loads(notebook.read_bytes())["cells"]:
        if cell["cell_type"] == "code" and not {"parameters", notebooks.EXAMPLE} & {
            *cell["metadata"].get("tags", ())
        }:
            nodes = ast.walk(ast.parse("".join(cell["source"])))
            names |= {node.id for node in nodes if isinstance(node, ast.Name)}
    return names


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_value_of_a_profile_reaches_a_stage_that_it_changes(path):
    values = params.read_profile(path)
    stages = notebooks._numbers(values.get("stages", notebooks.DEFAULT_STAGES), list(DECLARED))
    for name in values.keys() - NO_RESULT - {"stages", "run_dir", "library_dir"}:
        declaring = [stage for stage in NOTEBOOKS if stage.stem[:2] in stages]
        declaring = [stage for stage in declaring if name in DECLARED[stage.stem[:2]]]
        assert any(name in used_by(stage) for stage in declaring), name
        if name in ONLY_WITH:
            other, value = ONLY_WITH[name]
            assert values.get(other, FIELDS[other].default) == value, (
                f"{name} needs {other}: {value}"
            )
