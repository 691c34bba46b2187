# SPDX-License-Identifier: AGPL-3.0-or-later
"""`imgfp run PROFILE --plan` on a small folder, once, and what reads the plan."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import small_run

pytest.importorskip("faiss")

from imgfp import store
from imgfp.__main__ import main
from imgfp.benchmarks import forecast, planning, sample
from imgfp.datatypes import LocalFeatures
from imgfp.images import encode_jpeg
from imgfp.runner.machine import Machine, this_machine
from imgfp.runner.schema import Parameters
from imgfp.search import index
from imgfp.search.plan import plan_index


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("plan")
    for side in ("references", "queries"):
        (root / side).mkdir()
        for name, image in small_run.photographs().items():
            shown = image if side == "references" else image[20:, 30:]
            (root / side / f"{name}.jpg").write_bytes(encode_jpeg(np.ascontiguousarray(shown)))
    (root / "references/broken.jpg").write_bytes(b"no picture")
    return root


def words(folders):
    return [
        "run", "mine", f"reference_dir={folders}/references", f"query_dir={folders}/queries",
        f"library_dir={folders}/library", f"run_dir={folders}/run", "--plan",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def planned(folders):
    """The plan that the command has stored, and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(words(folders)) == 0
    return planning.read_plan(store.Library(folders / "library")), printed.getvalue()


def test_the_plan_is_all_that_is_written(planned, folders):
    written = {path.name for path in (folders / "library").rglob("*")}
    assert {name for name in written if not name.startswith(".lock")} == {
        "plan.json",
        "plan.json.json",
    }
    assert not (folders / "run").exists()
    assert store.find_damage(folders / "library") == []


def test_the_sample_is_measured(planned):
    made, _ = planned
    costs = made.costs
    assert (made.references, made.queries, costs.images, costs.queries) == (7, 6, 7, 6)
    assert costs.keypoints > 100 and costs.query_keypoints > 100
    for name in ("inspect_s", "extract_s", "describe_s", "query_describe_s", "crops_s", "pair_s"):
        assert 1e-5 < getattr(costs, name) < 10, name
    assert costs.query_vectors >= 6 and costs.vector_width in (
        256,
        512,
    )  # by the descriptor that is there
    assert costs.copies == 6 and 0.5 <= costs.recall_planned <= 1
    codec = costs.local.codecs["SQ8_direct"]
    assert 0.1 < codec.code_ns < 1000 and costs.local.uneven >= 1
    product = costs.local.codecs[index.PRODUCT_CODEC]
    assert product.train_s > codec.train_s and product.encode_us > codec.encode_us
    assert product.code_ns < codec.code_ns, "codes are compared 32 at a time"


def test_the_plan_is_printed(planned):
    made, printed = planned
    assert "7 of" in printed and "Flat: exact" in printed and "plan.json" in printed
    stages = made.stages()
    for stage in stages["stage"]:
        assert f"\n{stage}" in printed
    assert stages["hours"].iloc[:-1].sum() == pytest.approx(stages["hours"].iloc[-1])


def test_a_stored_plan_is_not_measured_again(planned, folders, monkeypatch):
    monkeypatch.setattr(sample, "measure", None)
    assert planning.stored_or_made({}, store.Library(folders / "library")) == planned[0]


def test_a_plan_of_another_version_is_one_line(planned, tmp_path):
    library = store.Library(tmp_path)
    store.save(library.plan_json, {"references": 7}, small_run.made_with())
    with pytest.raises(store.StoreError, match="--plan again"):
        planning.read_plan(library)


@pytest.mark.parametrize(
    ("memory", "disk", "said"),
    [
        (
            0.9,
            100,
            r"local index Flat of [\d,]+ vectors needs .* of memory on one machine, .* free",
        ),
        (
            100,
            1e9,
            "7 references and 900 queries need 1.0 GB of memory with 2 processes, 0.0 GB are",
        ),
        (1e9, 1.9, r"local index Flat of [\d,]+ vectors writes .* while it is built, .* free"),
        (1e9, 2.1, r"7 references and 900 queries need 0\.\d GB of disk, 0\.\d GB are free"),
        (1e9, 1e9, "^$"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_with_the_sizes(planned, memory, disk, said):
    """memory, disk: in sizes of the local index."""
    made = planned[0]
    size = made.indexes.of(7, made.costs)[0].bytes
    machine = Machine(2, int(memory * size), int(disk * size))
    refusal = replace(made, machine=machine, queries=900).refusal()
    assert re.search(said, refusal) and "\n" not in refusal


def test_the_command_fails_where_the_run_does_not_fit(planned, folders, monkeypatch, capsys):
    monkeypatch.setattr(sample, "measure", lambda *a, **k: planned[0].costs)
    monkeypatch.setattr(planning, "this_machine", lambda folder: Machine(2, 10**5, 10**15))
    assert main(words(folders)) == 2
    said = capsys.readouterr()
    assert "a reference" in said.out and said.err.count("\n") == 1 and "free" in said.err


@pytest.mark.parametrize("side", ["reference", "query"])
def test_a_folder_without_a_picture_is_one_line(folders, tmp_path, capsys, side):
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    assert main([*words(folders), f"{side}_dir={tmp_path}", f"library_dir={tmp_path}/lib"]) == 2
    said = capsys.readouterr().err.strip().split("\n")[-1]
    assert said.startswith("imgfp: none of 1 sampled") and "x.jpg" in said


def test_the_same_sample_twice(planned, folders):
    """Counts and recall are the same; only times differ."""
    library = store.Library(folders / "library")
    values = {"reference_dir": f"{folders}/references", "query_dir": f"{folders}/queries"}
    again = planning.plan_run(values, library).costs
    counted = ("keypoints", "query_keypoints", "query_vectors", "crops", "recall_exact")
    assert [getattr(again, name) for name in counted] == [
        getattr(planned[0].costs, name) for name in counted
    ]
    assert json.loads(library.plan_json.read_text())["references"] == 7


def test_references_without_keypoints_are_no_obstacle(rng):
    image = np.full((64, 64, 3), 128, np.uint8)
    rows = {"width": [64], "height": [64], "thumbnail": [encode_jpeg(image)], "path": ["a.jpg"]}
    none = LocalFeatures.from_images(
        ["a"], [(np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8))]
    )
    copies = sample._Copies(Parameters(), pd.DataFrame(rows), none, rng)
    found = copies.measure(plan_index(0, "local", 128))
    assert found["copies"] == found["recall_exact"] == found["recall_planned"] == 0
    assert found["vote_s"] == 0 and found["pair_s"] < 0.01
    assert sample._stock(none.descriptors, rng).shape == (8192, 128)


def test_what_stages_are_expected_to_take_counts_new_references_and_queries(finished_run):
    run, library = store.Run(finished_run), store.Library(finished_run.parent / "library")
    assert forecast.expected_s(store.Run(finished_run / "none"), library, 0) == {}
    assert forecast.known_references(library) == 0  # it has no index
    new, known = (forecast.expected_s(run, library, number) for number in (0, 6))
    assert sorted(new) == [f"{number:02d}" for number in range(1, 10)]
    cores = this_machine(library.root).cores
    assert new["02"] - known["02"] == pytest.approx(6 * 0.0163 / cores)
    assert new["08"] == known["08"] == pytest.approx(5 + 8 * 0.1357 / cores)
