# SPDX-License-Identifier: AGPL-3.0-or-later
"""The whole pipeline through papermill on a small demo corpus: figures, reuse, kills, bad input."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import golden
import numpy as np
import pandas as pd
import pytest

from imgfp import store
from imgfp.scoring import relations
from imgfp.stages.inventory import read_images

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.pipeline


def words(folder: Path, run: str = "run", library: str = "library", *more: str) -> list[str]:
    """The command of a small demo run. The first run uses all cores; the others are compared with it, so
    that the number of workers must not matter."""
    corpus = folder / "corpus"
    return [
        sys.executable,
        "-m",
        "imgfp",
        "run",
        str(ROOT / "params" / "demo.yaml"),
        f"demo_dir={corpus}",
        f"reference_dir={corpus}/references",
        f"query_dir={corpus}/queries",
        f"truth={corpus}/truth.csv",
        f"run_dir={folder / run}",
        f"library_dir={folder / library}",
        "demo_painted=24",
        "demo_positives=24",
        "demo_negatives=8",
        "shard_images=12",
        "bootstrap_rounds=20",
        "descriptor_model=imgfp",  # the same figures with and without the extra sscd
        f"workers={0 if run == 'run' else 1}",
        *more,
    ]


def execute(*command: str) -> subprocess.CompletedProcess:
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a finished small demo run."""
    folder = tmp_path_factory.mktemp("pipeline")
    out = execute(*words(folder)).stdout
    assert "micro-AP" in out and "report.html" in out
    return folder


def test_figures_and_artefacts(finished):
    metrics = json.loads((finished / "run/metrics.json").read_text())
    assert metrics["positives"] == 24 and metrics["queries"] == 32
    golden.check(finished / "run", "demo")
    predictions = pd.read_csv(finished / "run/predictions.csv")
    columns = ["query_id", "reference_id", "score", "other_copies", *relations.COLUMNS]
    assert [*predictions] == columns and set(predictions["relation"]) <= set(relations.RELATIONS)
    copies = predictions["relation"].isin(relations.COPIES)
    assert (copies == predictions["score"].ge(0.5)).all()
    assert predictions["relation_probability"].between(0, 1).all()
    assert predictions["score"].is_monotonic_decreasing
    report = (finished / "run/report.html").read_text()
    assert len(report) < 5e6 and "http://" not in report.replace("http://www.w3.org", "")
    assert pd.read_csv(finished / "run/rejects.csv").empty
    lost = pd.read_csv(finished / "run/errors.csv")
    missed = 24 - round(24 * (metrics["recall_at_p90"] or 0))
    assert (lost["kind"] == "missed").sum() == missed and lost["cause"].notna().all()
    copies = sorted(p.stem for p in (finished / "run/notebooks").glob("*.ipynb"))
    assert copies[0] == "00_demo_corpus" and copies[-1] == "09_merge_and_evaluate"
    assert all(p.stat().st_size < 10e6 for p in (finished / "run/notebooks").glob("*.ipynb"))
    stages = json.loads((finished / "run/status.json").read_text())["stages"]
    assert not any("examples_left_out" in entry for entry in stages.values())


def test_every_executed_notebook_becomes_a_page_with_its_pictures(finished, tmp_path):
    path = ROOT / "docs/make_notebook_pages.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    for executed in sorted((finished / "run/notebooks").glob("*.ipynb")):
        text = pages.write(executed, tmp_path).read_text()
        assert text.startswith("# " + executed.stem[:2]) and "Parameters" not in text.splitlines()
        shown = re.findall(r"!\[\w+\]\((\S+)\)", text)
        assert shown and all((tmp_path / name).is_file() for name in shown), executed.stem
        assert not re.search(r"\d%\|", text), "a progress bar"
        committed = ROOT / f"docs/notebooks/{executed.stem}.md"
        assert committed.exists(), f"docs/make_notebook_pages.py has not written {committed.name}"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3e6


def test_again_nothing_is_computed(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.glob("**/shard-*") if p.is_file()}
    out = execute(*words(finished)).stdout
    assert out.count("up to date") == 9  # all but 01, which looks into the folders
    assert before == {p: p.stat().st_mtime_ns for p in finished.glob("**/shard-*") if p.is_file()}


def test_without_crops_nothing_of_them_is_left(finished):
    run = store.Run(finished / "run")
    assert store.shards(run.candidates("crop"), ".parquet")
    again = store.Run(finished / "no_crops")
    shutil.copytree(run, again)
    execute(*words(finished, "no_crops", "library", "crop_detector=none", "stages=02-05"))
    assert not store.shards(again.crop_features, ".h5")
    assert not store.shards(again.candidates("crop"), ".parquet")


def test_matching_threshold_recomputes_no_feature(finished):
    run, again = store.Run(finished / "run"), store.Run(finished / "other_ratio")
    shutil.copytree(run, again)
    kept = ("library", "other_ratio/local_features", "other_ratio/candidates/local")
    files = [p for folder in kept for p in finished.glob(f"{folder}/**/*") if p.is_file()]
    before = {p: p.stat().st_mtime_ns for p in files if not p.name.startswith(".")}
    assert len(before) > 20
    execute(*words(finished, "other_ratio", "library", "match_ratio=2.0", "stages=03-09"))
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert not store.load(store.shards(again.evidence, ".parquet")[0]).equals(
        store.load(store.shards(run.evidence, ".parquet")[0])
    )


def test_a_library_without_keypoints_and_unreadable_queries_get_an_answer(tmp_path):
    for side in ("references", "queries"):
        (tmp_path / side).mkdir()
    cv2.imwrite(str(tmp_path / "references/black.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "queries/notes.jpg").write_text("no picture")
    given = [
        "stages=01-09",
        "truth=",
        f"reference_dir={tmp_path}/references",
        f"query_dir={tmp_path}/queries",
    ]
    out = execute(*words(tmp_path, "run", "library", *given)).stdout
    assert "nothing to show in cells" in out
    assert pd.read_csv(tmp_path / "run/predictions.csv").empty
    assert "notes.jpg" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize("fraction", [0.3, 0.75])
def test_killed_run_goes_on_to_the_same_bytes(finished, fraction):
    stages = json.loads((finished / "run/status.json").read_text())["stages"]
    total = sum(entry["seconds"] for name, entry in stages.items() if name > "01")
    for name in ("killed", "killed_library"):
        shutil.rmtree(finished / name, ignore_errors=True)
    command = words(finished, "killed", "killed_library", "stages=01-09")
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    time.sleep(max(8.0, fraction * total))
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    execute(*command)
    same = (finished / "killed/predictions.csv").read_bytes()
    assert same == (finished / "run/predictions.csv").read_bytes()


def test_bad_input_is_rejected_and_new_references_only_cost_themselves(finished, photograph):
    from imgfp.images import DAMAGED, encode_jpeg

    corpus, mixed, library = (finished / name for name in ("corpus", "mixed", "mixed_library"))
    shutil.copytree(finished / "library", library)
    shutil.copytree(corpus / "queries", mixed / "queries")
    (mixed / "references").mkdir()
    for number in range(3):
        part = photograph[40 * number : 40 * number + 200, :300]
        (mixed / "references" / f"new{number}.jpg").write_bytes(encode_jpeg(part))
    whole = next((corpus / "queries").iterdir()).read_bytes()
    (mixed / "queries" / "cut.jpg").write_bytes(whole[: len(whole) // 3])
    (mixed / "queries" / "000 first.jpg").write_bytes(b"")
    (mixed / "queries" / "text.png").write_text("not a picture")
    hostile = 'a "b",<i>$x$'
    (mixed / "queries" / f"{hostile}.jpg").write_bytes(whole)
    before = {p: p.stat().st_mtime_ns for p in library.glob("local_features/*.h5")}
    execute(
        *words(finished, "run_mixed", "mixed_library", "stages=01-09"),
        f"reference_dir={mixed}/references",
        f"query_dir={mixed}/queries",
    )
    rejects = pd.read_csv(finished / "run_mixed/rejects.csv")
    assert sorted(Path(p).name for p in rejects["path"]) == ["000 first.jpg", "text.png"]
    assert rejects["reason"].str.len().min() > 5
    queries = read_images(store.Run(finished / "run_mixed")).set_index("image_id")
    assert hostile in queries.index and DAMAGED in queries.loc["cut", "notes"]
    report = (finished / "run_mixed/report.html").read_text()
    assert "<i>$x$" not in report and "queries, decoded in part: 1" in report
    after = {p: p.stat().st_mtime_ns for p in library.glob("local_features/*.h5")}
    assert {p: after.get(p) for p in before} == before and len(after) == len(before) + 1
    predictions = pd.read_csv(finished / "run_mixed/predictions.csv")
    assert (predictions["query_id"] == hostile).any()  # found among the references of both folders


def test_a_reference_that_goes_is_found_no_more_and_costs_the_others_nothing(finished):
    folder = finished / "gone"
    shutil.copytree(finished / "corpus", folder / "corpus")
    command = words(folder, "run", "library", "stages=01-03,08-09", "truth=")
    execute(*command)
    predictions = (folder / "run/predictions.csv").read_bytes()
    best = pd.read_csv(folder / "run/predictions.csv")["reference_id"][0]
    (there,) = (folder / "corpus/references").glob(f"{best}.*")
    shards = [*folder.glob("library/images/*.h5"), *folder.glob("library/local_features/*.h5")]
    before = {path: path.stat().st_mtime_ns for path in shards}
    there.rename(folder / there.name)
    out = execute(*command).stdout
    assert "02_local_features" in out and out.count("up to date") == 0
    left = pd.read_csv(folder / "run/predictions.csv")
    assert best not in set(left["reference_id"]) and len(left) > 20
    (folder / there.name).rename(there)
    execute(*command)
    assert (folder / "run/predictions.csv").read_bytes() == predictions
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["query_dir=/nowhere/at/all"], "query_dir: there is no folder or file /nowhere/at/all"),
        (["match_ration=2"], "did you mean 'match_ratio'"),
    ],
)
def test_mistakes_are_one_clear_line(finished, more, says):
    command = [*words(finished, "other", "library", "stages=01-09"), *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (1, 2)
    assert says in done.stderr and "Traceback" not in done.stderr


def test_damaged_artefact_is_made_again(finished):
    path = store.shards(store.Run(finished / "run").local_features, ".h5")[0]
    whole, made = path.read_bytes(), store.load(path)
    path.write_bytes(whole[:-100])
    execute(*words(finished))
    again = store.load(path)
    assert store.describe(path)["rejects"] == []
    assert list(again.image_ids) == list(made.image_ids)
    np.testing.assert_array_equal(again.offsets, made.offsets)
    np.testing.assert_array_equal(again.keypoints, made.keypoints)
    np.testing.assert_array_equal(again.descriptors, made.descriptors)
    assert path.read_bytes() == whole
