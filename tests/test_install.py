# SPDX-License-Identifier: AGPL-3.0-or-later
"""The built package, installed with its core dependencies into another Python than this one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.install

#: Tests that run against the installed package: what a run does with the compiled dependencies and the shipped
#: weights. The rest, Python without libraries of its own, is left to the first Python.
SELECTED = (
    "descriptors",
    "runner/test_params.py",
    "runner/test_schema.py",
    "search",
    *(f"stages/test_{name}.py" for name in ("descriptors", "features", "search")),
    "store/test_artefacts.py",
    "store/test_formats.py",
    "store/test_provenance.py::test_equal_code_is_of_the_present_code",
    "verify/test_evidence.py",
    "test_geometry.py",
    "test_images.py",
    "test_inference.py",
    "test_sift.py",
)
QUICK = ("-m", "not pipeline and not browser and not slow and not install")


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed; its whole output is in the failure."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    return done.stdout


def version_of(python: Path) -> tuple[int, int]:
    """(major, minor) of an interpreter; (0, 0) if it does not run."""
    command = [python, "-c", "import sys; print(*sys.version_info[:2])"]
    done = subprocess.run(command, capture_output=True, text=True)
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else (0, 0)


def other_python() -> Path | None:
    """The supported interpreter furthest from the running version, on PATH or of pyenv."""
    here = sys.version_info[:2]
    found = {}
    for minor in range(11, 15):
        name = f"python3.{minor}"
        places = Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/{name}")
        for python in (shutil.which(name), *sorted(places)):
            if python and (3, minor) != here and version_of(python) == (3, minor):
                found[minor] = Path(python)
    return found[max(found, key=lambda minor: abs(minor - here[1]))] if found else None


@pytest.fixture(scope="module")
def uv() -> str:
    places = [ROOT / ".uv/bin", Path(sys.executable).parent, os.environ["PATH"]]
    found = shutil.which("uv", path=os.pathsep.join(map(str, places)))
    return found or pytest.skip("uv is not here: make setup brings it")


@pytest.fixture(scope="module")
def built(uv, tmp_path_factory) -> tuple[Path, Path]:
    """The sdist of this tree, and the wheel that is built from that sdist."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    words = ["--no-build-isolation", "--python", sys.executable, "--out-dir", folder]
    run(uv, "build", "--quiet", *words, ROOT, cwd=folder)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory) -> Path:
    """The tree of the sdist without the package: what is imported there is what is installed."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built[0]) as archive:
        archive.extractall(folder, filter="data")
    tree = next(folder.iterdir())
    shutil.rmtree(tree / "imgfp")
    return tree


@pytest.fixture(scope="module")
def scripts(uv, built, tmp_path_factory) -> Path:
    """The bin folder of an environment of another Python with the wheel, in the lock's versions."""
    python = other_python()
    if python is None:
        pytest.skip("no second Python of 3.11 to 3.14 on PATH or of pyenv")
    folder = tmp_path_factory.mktemp("elsewhere")
    run(uv, "venv", "--quiet", "--python", python, "env", cwd=folder)
    words = [
        "--quiet",
        "--compile-bytecode",
        "--python",
        "env/bin/python",
        "-c",
        ROOT / "requirements.lock",
    ]
    run(uv, "pip", "install", *words, built[1], "pytest", "pytest-timeout", cwd=folder)
    return folder / "env/bin"


@pytest.fixture
def make(tmp_path):
    """Runs make with interpreters of these versions alone on PATH, and with an uv that only has these; gives what it
    prints and the Python that the environment is made with."""
    make = shutil.which("make") or pytest.skip("make is not here")
    (tmp_path / "bin").mkdir()

    def script(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run_make(on_path: dict[str, str], by_uv: str, *words: str) -> tuple[str, str]:
        for name, version in on_path.items():
            said = f"import sys; sys.version_info = ({version}); exec(sys.argv[1])"
            script(tmp_path / "bin" / name, f'exec {sys.executable} -c "{said}" "$2"')
        asked = tmp_path / "asked"
        script(tmp_path / "uv", f'echo "$4" > {asked}; case "$4" in {by_uv}) ;; *) exit 2;; esac')
        target = tmp_path / "venv/bin/python"
        given = [f"VENV={tmp_path / 'venv'}", f"UV={tmp_path / 'uv'}", *words, target]
        here = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}
        done = subprocess.run([make, "-s", *given], cwd=ROOT, env=here, capture_output=True)
        return done.stdout.decode(), asked.read_text().strip() if not done.returncode else ""

    return run_make


def test_make_prefers_a_python_with_all_packages(make, tmp_path):
    folder = tmp_path / "bin"
    assert make({"python3.12": "3, 12", "python3.11": "3, 11", "python3": "3, 11"}, "*")[1] == (
        f"{folder}/python3.12"
    )
    (folder / "python3.12").write_text("#!/bin/sh\nexit 127\n")  # a shim without its version
    assert make({}, "*") == ("", "3.13")
    of_pyenv = {f"../.pyenv/versions/3.{n}.1/bin/python": f"3, {n}" for n in (12, 13)}
    assert make({"python3": "3, 11", **of_pyenv}, "*")[1].endswith("versions/3.13.1/bin/python")
    shutil.rmtree(tmp_path / ".pyenv")
    said, taken = make({}, "3.11")  # 3.13 cannot be downloaded
    assert taken == "3.11" and "without the descriptor sscd-student" in said
    assert make({}, "3.11", "PYTHON=3.14")[1] == "", "what is named is taken or nothing"


def test_wheel_holds_what_a_run_needs(built):
    with zipfile.ZipFile(built[1]) as wheel:
        held = set(wheel.namelist())
    for name in ("notebooks", "params"):
        files = [path for path in (ROOT / name).iterdir() if path.is_file()]
        expected = {f"imgfp/shipped/{name}/{path.name}" for path in files}
        assert expected == {path for path in held if path.startswith(f"imgfp/shipped/{name}/")}
        assert expected
    package = [path for path in (ROOT / "imgfp").rglob("*") if path.is_file()]
    package = {str(p.relative_to(ROOT)) for p in package if "__pycache__" not in p.parts}
    assert package == {path for path in held if re.match("imgfp/(?!shipped/)", path)}
    suffixes = {Path(path).suffix for path in package}
    assert {".onnx", ".safetensors", ".json", ".j2"} <= suffixes and "imgfp/py.typed" in package


def test_sdist_gives_the_wheel_that_the_tree_gives(uv, built, tmp_path):
    words = ["--no-build-isolation", "--python", sys.executable, "--out-dir", tmp_path]
    run(uv, "build", "--quiet", "--wheel", *words, ROOT, cwd=tmp_path)
    assert next(tmp_path.glob("*.whl")).read_bytes() == built[1].read_bytes()


def test_commands_work_away_from_the_repository(scripts, tmp_path):
    installed = run(scripts / "python", "-c", "import imgfp; print(imgfp.__file__)", cwd=tmp_path)
    assert Path(installed.strip()).is_relative_to(scripts.parent)
    assert "init" in run(scripts / "imgfp", "--help", cwd=tmp_path)
    assert "BAD" not in run(scripts / "imgfp", "doctor", cwd=tmp_path)
    run(scripts / "imgfp", "init", "mine", cwd=tmp_path)
    for name, pattern in (("notebooks", "*.ipynb"), ("params", "*.yaml")):
        laid = {path.name: path.read_bytes() for path in (tmp_path / "mine" / name).glob(pattern)}
        assert laid == {path.name: path.read_bytes() for path in (ROOT / name).glob(pattern)}


def test_quick_tests_pass_on_the_other_python_without_torch(scripts, unpacked):
    output = run(
        *(scripts / "python", "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore"),
        *QUICK,
        *("-o", "addopts=", "--strict-markers", "--import-mode=importlib", "-rs"),
        *(Path("tests") / name for name in SELECTED),
        cwd=unpacked,
    )
    assert " passed" in output and "No module named 'torch'" in output
