# SPDX-License-Identifier: AGPL-3.0-or-later
"""The documents: links lead somewhere, names exist, and what is drawn from the code is up to date."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

import imgfp
from imgfp.__main__ import _parse
from imgfp.runner.schema import Parameters

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "imgfp/weights").glob("*.md"),
    ]
)
PRESENT = [page for page in PAGES if page.name != "CHANGELOG.md"]

every_page = pytest.mark.parametrize("document", PAGES, ids=lambda p: p.name)
every_present_page = pytest.mark.parametrize("document", PRESENT, ids=lambda p: p.name)


def exists(dotted: str) -> bool:
    """True for a module of the package, or a name at the top of one."""
    parts = dotted.split(".")
    for end in (len(parts), len(parts) - 1):
        path = ROOT.joinpath(*parts[:end])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return end == len(parts) or parts[-1] in names(file)
    return False


def names(file: Path) -> set[str]:
    """What a module defines or imports at its top."""
    found: set[str] = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


@every_page
def test_links_and_pictures_exist(document):
    for target in re.findall(r"\]\(([^)#\s]+)\)", document.read_text("utf-8")):
        assert re.match(r"[a-z]+:", target) or (document.parent / target).exists(), target


@every_present_page
def test_modules_and_functions_exist(document):
    for dotted in re.findall(r"`(imgfp(?:\.\w+)+)`", document.read_text("utf-8")):
        assert exists(dotted), dotted


@every_present_page
def test_files_exist(document):
    folders = (
        "imgfp|notebooks|params|tests|docs|crops|edits|search|verify|scoring|store|stages|runner"
    )
    pattern = rf"(?<![\w./])((?:{folders})/[\w/*]+\.(?:py|ipynb|yaml|md))"
    for path in re.findall(pattern, document.read_text("utf-8")):
        roots = ROOT, ROOT / "imgfp", document.parent
        assert any(file for root in roots for file in root.glob(path)), path


def commands(text: str) -> list[list[str]]:
    """The words of every `imgfp` command on a page, in a block or within a line."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [*lines, *re.findall(r"`([^`\n]+)`", text)]
    parts = [part.strip() for line in found for part in line.split("#")[0].split("&&")]
    # Without an argument it is a mention, as `imgfp run` or `imgfp convert --trust`.
    known = re.compile(r"(?:\.venv/bin/)?imgfp ([a-z-]+ [^-].*)")
    return [shlex.split(match[1]) for part in parts if (match := known.fullmatch(part))]


@every_present_page
def test_commands_are_known(document, capsys):
    for words in commands(document.read_text("utf-8")):
        try:
            options = _parse(words)
        except SystemExit:
            pytest.fail(f"imgfp {shlex.join(words)}: {capsys.readouterr().err}")
        for given in getattr(options, "assignments", []):
            assert given.partition("=")[0] in Parameters.model_fields, given
        profile = getattr(options, "profile", None)
        if profile is not None and str(profile).startswith("params/"):
            assert (ROOT / profile).is_file(), profile


def test_the_changelog_names_modules_that_exist():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8").split("### Modules")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(imgfp[^|]*)\|([^|;]*)", text, re.M)
    assert len(rows) > 40
    for _, now in rows:
        for dotted in re.findall(r"`(imgfp(?:\.\w+)+)`", now):
            assert exists(dotted), dotted


def test_every_notebook_is_in_the_readme():
    text = (ROOT / "README.md").read_text("utf-8")
    stems = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(re.findall(r"`(\d\d_\w+)`", text)) == stems


def test_one_version_everywhere():
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert cited and newest and cited[1] == newest[1] == imgfp.__version__


def test_the_drawn_parts_are_up_to_date():
    spec = importlib.util.spec_from_file_location("drawn", ROOT / "docs/make_architecture.py")
    drawn = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawn)
    again = "run docs/make_architecture.py again"
    assert drawn.draw() == drawn.PICTURE.read_text("utf-8"), again
    assert drawn.page() == drawn.PAGE.read_text("utf-8"), again
