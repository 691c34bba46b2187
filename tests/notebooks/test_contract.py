# SPDX-License-Identifier: AGPL-3.0-or-later
"""The contract of the numbered notebooks: they wire, they never define, and they are committed clean."""

from __future__ import annotations

import ast
import importlib.util
import re
import statistics
from pathlib import Path

import nbformat
import pytest

from imgfp.results.files import LIMITS
from imgfp.runner import params
from imgfp.runner.notebooks import EXAMPLE

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TYPES = {"str", "int", "float", "bool", "list", "list[str]", "list[int]", "list[float]"}


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def parameters_cell(path: Path):
    found = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    assert len(found) == 1, f"{path.name} needs exactly one cell tagged 'parameters'"
    return found[0]


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


@every_notebook
def test_committed_clean(path):
    for cell in code_cells(path):
        assert not cell.outputs and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}
    assert set(nbformat.read(path, 4).metadata) <= {"kernelspec", "language_info", "imgfp"}


@every_notebook
def test_opens_with_title_promise_and_card(path):
    cells = nbformat.read(path, 4).cells
    assert cells[0].cell_type == "markdown"
    assert re.match(rf"# {path.stem[:2]} .+\n\n\*.+\*", cells[0].source, re.S)
    for row in ("| reads |", "| writes |", "| uses |", "| takes |"):
        assert row in cells[1].source, f"the card lacks {row}"


@every_notebook
def test_cells_are_short_and_define_nothing(path):
    cells = code_cells(path)
    lengths = []
    for cell in cells:
        tree = ast.parse(cell.source)
        lines = [line for line in cell.source.split("\n") if line.strip()]
        if "parameters" not in cell.metadata.get("tags", []):
            lengths.append(len(lines))
            assert len(lines) <= 15, f"a cell of {len(lines)} lines: {lines[0]}"
        for node in ast.walk(tree):
            assert not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)), lines[0]
    assert 8 <= len(cells) <= 24 and statistics.median(lengths) <= 6
    prose = sum(c.cell_type == "markdown" for c in nbformat.read(path, 4).cells)
    assert prose >= len(cells) / 3, "more prose, please"


@every_notebook
def test_examples_make_nothing_that_the_run_needs(path):
    """A batch goes on when a cell with this tag fails."""
    for cell in code_cells(path):
        if EXAMPLE in cell.metadata.get("tags", []):
            assert not re.search(
                r"\bstages\.|\bstore\.(write|save)|\bformats\.write|assert ", cell.source
            )


@every_notebook
def test_the_card_names_modules_that_exist(path):
    card = nbformat.read(path, 4).cells[1].source
    uses = next(line for line in card.split("\n") if line.startswith("| uses |"))
    modules = re.findall(r"`(imgfp[\w.]*)`", uses)
    assert modules and all(importlib.util.find_spec(name) for name in modules), uses


@pytest.mark.parametrize(
    "path", [p for p in NOTEBOOKS if "01" <= p.stem[:2] <= "09"], ids=lambda p: p.stem
)
def test_a_stage_is_one_call_and_knows_no_path(path):
    lengths = [len(cell.source.split("\n")) for cell in code_cells(path)]
    assert statistics.median(lengths) <= 5
    code = "\n".join(cell.source for cell in code_cells(path))
    assert not re.search(r"\b(Task|map_shards|\w+_tasks|maker)\b", code)
    assert not re.search(r"\b(run|library) / ", code), "ask store.Run or store.Library for the path"


@every_notebook
def test_no_paths_of_a_machine(path):
    for cell in code_cells(path):
        assert not re.search(r"[\"'](/[a-z]+){2,}", cell.source)


@every_notebook
def test_parameters_are_typed_literals_with_meaning(path):
    for line in parameters_cell(path).source.split("\n"):
        assert re.match(r"\w+: \S.* = .+  # [^=]+$", line), line
    for node in ast.parse(parameters_cell(path).source).body:
        assert isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) in TYPES
        default = ast.literal_eval(node.value)
        wanted = ast.unparse(node.annotation).split("[")[0]
        assert type(default).__name__ == wanted, f"{ast.unparse(node)} has another type"


@every_notebook
def test_papermill_sees_every_parameter(path):
    written = {node.target.id for node in ast.parse(parameters_cell(path).source).body}
    assert set(params.declared_by(path)) == written


@every_notebook
def test_every_parameter_is_used(path):
    """With the stage key, which holds the value of every parameter, none is without effect."""
    declared = parameters_cell(path)
    used = {
        node.id
        for cell in code_cells(path)
        if cell.source != declared.source
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    idle = set(params.declared_by(path)) - used
    assert not idle, f"declared and never used: {sorted(idle)}"


def test_one_parameter_has_one_type_and_one_meaning():
    seen: dict[str, tuple[str, str]] = {}
    for path in NOTEBOOKS:
        for name, declared in params.declared_by(path).items():
            before = seen.setdefault(name, (declared.type, path.name))
            assert before[0] == declared.type, f"{name}: {before} and {path.name}"


def test_what_is_merged_is_what_was_verified():
    """A sum counts what the limits of notebook 08 let through, also where papermill runs 09 without a record of the run."""
    verify, merge = (path for path in NOTEBOOKS if path.stem[:2] in ("08", "09"))
    limits = [
        line for line in parameters_cell(verify).source.split("\n") if line.startswith(LIMITS)
    ]
    assert len(limits) == len(LIMITS)
    assert set(limits) <= set(parameters_cell(merge).source.split("\n"))


@every_notebook
def test_writes_are_declared(path):
    if path.stem[:2] <= "09":
        writes = nbformat.read(path, 4).metadata.get("imgfp", {}).get("writes", [])
        assert writes and all(re.match(r"(run|library|project):", w) for w in writes)
