# SPDX-License-Identifier: AGPL-3.0-or-later
"""environment.yml and pyproject.toml name what imgfp imports, with the same lower bounds."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]

#: Distribution of an import whose name differs by more than an underscore.
DISTRIBUTIONS = {
    "IPython": "ipython",
    "PIL": "pillow",
    "cv2": "opencv-contrib-python-headless",
    "faiss": "faiss-cpu",
    "ruamel": "ruamel.yaml",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
#: Name at conda-forge where it is another one.
CONDA = {
    "jupyter-client": "jupyter_client",
    "jupyter-core": "jupyter_core",
    "jupyter-server": "jupyter_server",
    "opencv-contrib-python-headless": "opencv",
    "torch": "pytorch",
}
#: Needed without an import, and why.
NOT_IMPORTED = {
    "aiohttp": "fsspec's client of http(s)://",
    "cryptography": "distributed makes a certificate with it",
    "gcsfs": "fsspec's client of gs://",
    "ipykernel": "the kernel that notebooks run in",
    "s3fs": "fsspec's client of s3://",
    "scikit-image": "its photographs are part of the demo corpus",
    "voila": "shows a notebook as a page in JupyterLab, and for the pictures of the documents",
}
#: What the conda environment holds besides the package's dependencies, and why.
CONDA_ONLY = {
    "pip": "installs imgfp itself and what conda-forge lacks",
    "pytest": "runs the tests",
    "pytest-playwright": "browser tests",
    "pytest-timeout": "the timeout in pyproject.toml",
    "pytest-xdist": "tests in parallel",
}


def imports_of(folder: Path) -> set[str]:
    """Top-level names of third-party packages that the Python files below `folder` import, by a
    statement or by `imgfp.inference.require`."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "require":
                found |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names - {"imgfp"}


def bounds_of(requirements: list[str]) -> dict[str, str]:
    """Name -> version bounds without spaces ("" for none) of requirement strings."""
    matches = [re.fullmatch(r"([\w.-]+)(?:\[\w+\])?\s*([<>=!~].*)?", line) for line in requirements]
    return {match[1].lower(): (match[2] or "").replace(" ", "") for match in matches}


def disagreements(environment: str, pyproject: str, imports: set[str]) -> list[str]:
    """One line for each way in which the two files and the imports do not fit together."""
    entries = YAML(typ="safe").load(environment)["dependencies"]
    nested = [line for entry in entries if isinstance(entry, dict) for line in entry["pip"]]
    conda = bounds_of([entry for entry in entries if isinstance(entry, str)] + nested)
    project = tomllib.loads(pyproject)["project"]
    extras = {k: v for k, v in project["optional-dependencies"].items() if k != "gpu"}
    development = bounds_of(extras.pop("dev"))
    wheels = bounds_of(sum(extras.values(), project["dependencies"]))
    wheels.pop("imgfp")  # an extra that includes another

    used = {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in imports}
    problems = [f"imported, not in pyproject.toml: {name}" for name in used - wheels.keys()]
    problems += [
        f"in pyproject.toml, not imported: {name}"
        for name in wheels.keys() - used - {*NOT_IMPORTED}
    ]
    problems += [f"imported, so no exception: {name}" for name in used & NOT_IMPORTED.keys()]
    wanted = {CONDA.get(name, name): bound for name, bound in wheels.items()}
    wanted |= {name: development.get(name, "") for name in CONDA_ONLY}
    wanted["python"] = project["requires-python"]
    for name in sorted(wanted.keys() | conda.keys()):
        if wanted.get(name) != conda.get(name):
            problems.append(f"{name}: {wanted.get(name)!r} wanted, {conda.get(name)!r} in conda's")
    return problems


@pytest.fixture(scope="module")
def files() -> tuple[str, str, set[str]]:
    """The two files and the imports, as `disagreements` takes them."""
    texts = [(ROOT / name).read_text() for name in ("environment.yml", "pyproject.toml")]
    return *texts, imports_of(ROOT / "imgfp")


def test_both_files_agree_with_the_imports(files):
    assert disagreements(*files) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("  - timm\n", "", "timm: '' wanted, None in conda's"),
        ("  - pip:\n", "  - seaborn\n  - pip:\n", "seaborn: None wanted, '' in conda's"),
        ("numpy >=2\n", "numpy >=1\n", "numpy: '>=2' wanted, '>=1' in conda's"),
        ("faiss-cpu >=1.15", "faiss-cpu", "faiss-cpu: '>=1.15' wanted, '' in conda's"),
        ("<3.15", "<3.12", "python: '>=3.11,<3.15' wanted, '>=3.11,<3.12' in conda's"),
    ],
)
def test_a_mistake_in_the_conda_file_is_named(files, old, new, problem):
    environment, pyproject, imports = files
    assert old in environment
    assert disagreements(environment.replace(old, new), pyproject, imports) == [problem]


def test_an_import_that_no_file_names_is_found(files, tmp_path):
    (tmp_path / "module.py").write_text("def plot():\n    from seaborn.objects import Plot\n")
    (tmp_path / "other.py").write_text('altair = require("altair", "peers", "charts")\n')
    environment, pyproject, imports = files
    problems = disagreements(environment, pyproject, imports | imports_of(tmp_path))
    assert sorted(problems) == [
        "imported, not in pyproject.toml: altair",
        "imported, not in pyproject.toml: seaborn",
    ]


def test_a_dependency_that_nothing_imports_is_found(files):
    environment, pyproject, imports = files
    problems = disagreements(environment, pyproject, imports - {"scipy"})
    assert problems == ["in pyproject.toml, not imported: scipy"]
