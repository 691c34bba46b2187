# SPDX-License-Identifier: AGPL-3.0-or-later
"""Notebooks and profiles: those of the user's project before the shipped ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import imgfp
from imgfp.__main__ import main
from imgfp.runner import project


def test_init_lays_out_what_ships_and_overwrites_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine"]) == 0
    for name, pattern in (("notebooks", "*.ipynb"), ("params", "*.yaml")):
        laid_out = {path.name: path.read_bytes() for path in (tmp_path / "mine" / name).iterdir()}
        shipped = {path.name: path.read_bytes() for path in project.shipped(name).glob(pattern)}
        assert laid_out == shipped and laid_out
    changed = tmp_path / "mine/params/mine.yaml"
    changed.write_text("seed: 1\n")
    capsys.readouterr()
    assert main(["init", "mine"]) == 2
    assert "is there already" in capsys.readouterr().err and changed.read_text() == "seed: 1\n"


def test_the_projects_own_notebooks_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project.notebooks() == project.shipped("notebooks")
    project.init(tmp_path)
    (tmp_path / "params/deep").mkdir()
    monkeypatch.chdir(tmp_path / "params/deep")
    assert project.notebooks() == tmp_path / "notebooks"


def test_a_shipped_profile_is_known_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = project.shipped("params") / "demo.yaml"
    assert project.profile(Path("demo")) == project.profile(Path("params/demo.yaml")) == shipped
    assert project.profile(Path("elsewhere/demo.yaml")) == Path("elsewhere/demo.yaml")
    Path("demo").write_text("seed: 1\n")
    assert project.profile(Path("demo")) == Path("demo")


def test_the_projects_own_profile_comes_before_the_shipped_one(tmp_path, monkeypatch):
    project.init(tmp_path)
    own = tmp_path / "params/mine.yaml"
    for folder in (tmp_path, tmp_path / "notebooks"):
        (folder / "mine").mkdir()  # a folder of that name is no profile
        monkeypatch.chdir(folder)
        assert project.profile(Path("mine")) == own
        assert project.profile(Path("params/mine.yaml")).resolve() == own


def test_a_run_says_which_profile_it_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [f"reference_dir={tmp_path}", f"query_dir={tmp_path}", "--status"]
    assert main(["run", "mine", *words]) == 0
    said = capsys.readouterr().out.splitlines()[0].split()
    assert said == ["parameters", str(project.shipped("params") / "mine.yaml")]


def test_a_profile_that_is_nowhere_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "absent.yaml"]) == 2
    assert capsys.readouterr().err == "imgfp: parameter file absent.yaml does not exist\n"


def test_version_and_help_need_nothing_heavy(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"imgfp {imgfp.__version__}\n"
    code = (
        "import sys; from imgfp.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'numpy', 'pandas', 'cv2', 'pydantic', 'papermill'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.rstrip().endswith("[]")
