# SPDX-License-Identifier: AGPL-3.0-or-later
"""Tasks of Label Studio and the decisions that come back, in the form in which its version 1.23 exports them."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from imgfp.__main__ import main
from imgfp.exchange import export
from imgfp.exchange.label_studio import HOTKEYS, import_decisions
from imgfp.results import Results
from imgfp.store import decisions
from imgfp.store.formats import FormatError
from imgfp.widgets.review import LABELS


@pytest.fixture(scope="module")
def results(hostile_run, tmp_path_factory) -> Results:
    """The hostile run with a decision log of its own, which has one decision."""
    log = tmp_path_factory.mktemp("reviewed") / "decisions.jsonl"
    results = Results(hostile_run, decisions_log=str(log))
    pair = results.pairs[["query_id", "reference_id"]].iloc[0]
    decisions.append(results.decisions_path, *pair, "same_scene", reviewer="ann", reason="light")
    return results


@pytest.fixture(scope="module")
def exported(results, tmp_path_factory) -> list[Path]:
    return export(results, "label-studio", tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def tasks(exported) -> list[dict]:
    return json.loads(exported[1].read_text("utf-8"))


def _annotated(task: dict, choice: str, time: str, number: str = "MD8f486WOG") -> dict:
    """A task as Label Studio exports it after its user 1 has chosen."""
    chosen = {"id": number, "from_name": "decision", "to_name": "query", "type": "choices"}
    regions = [part | {"origin": "prediction"} for part in task["predictions"][0]["result"]]
    annotation = {
        "completed_by": 1,
        "result": [*regions, chosen | {"value": {"choices": [choice]}, "origin": "manual"}],
        "was_cancelled": False,
        "created_at": "2026-01-01T00:00:00.000001Z",
        "updated_at": time,
    }
    return task | {"annotations": [annotation], "predictions": [7], "drafts": []}


def test_a_task_shows_both_pictures_with_the_shared_region_and_suggests_no_decision(tasks, results):
    by_query = {task["data"]["query_id"]: task for task in tasks}
    assert len(tasks) >= results.pairs["query_id"].nunique()
    pasted = by_query["q-pasted"]
    data = pasted["data"]["query_image"].removeprefix("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (480, 360)
    parts = {part["from_name"]: part for part in pasted["predictions"][0]["result"]}
    assert set(parts) == {"query_region", "reference_region"}
    points = parts["query_region"]["value"]["points"]
    assert min(points) == pytest.approx([100 * 100 / 480, 100 * 60 / 360], abs=0.5)
    assert sum("annotations" in task for task in tasks) == 1
    assert {decision: key for decision, (_, key) in LABELS.items()} == HOTKEYS


def test_label_studio_accepts_the_tasks(exported, tasks):
    sdk = pytest.importorskip("label_studio_sdk.label_interface")
    labels = sdk.LabelInterface(exported[0].read_text("utf-8"))
    labels.validate()
    for task in tasks:
        assert labels.validate_task({"data": task["data"]})
        assert all(labels.validate_prediction(part) for part in task["predictions"])
        assert all(labels.validate_annotation(part) for part in task.get("annotations", ()))


def test_decisions_come_back_once_with_annotator_and_time(results, tasks, tmp_path):
    (sent,) = (task for task in tasks if "annotations" in task)
    returned = _annotated(
        sent, "same scene", "2026-03-01T12:00:00Z", sent["annotations"][0]["result"][0]["id"]
    )
    late = _annotated(tasks[1], "shared overlay", "2026-03-02T10:00:00.500000+02:00")
    late["annotations"][0]["completed_by"] = {"id": 3, "email": "eve@example.org"}
    early = _annotated(tasks[2], "copy", "2026-03-01T10:00:00Z")
    early["annotations"][0]["result"].append(
        {"from_name": "reason", "type": "textarea", "value": {"text": ["the same", "shadow"]}}
    )
    skipped = _annotated(tasks[3], "copy", "2026-03-03T10:00:00Z")
    skipped["annotations"][0] |= {"was_cancelled": True, "result": []}
    path = tmp_path / "export.json"
    path.write_text(json.dumps([returned, late, skipped, early, tasks[4] | {"annotations": []}]))
    before = decisions.read(results.decisions_path)
    assert import_decisions(results, path) == (3, 1)
    assert import_decisions(results, path) == (0, 4)
    log = decisions.read(results.decisions_path)
    assert log.head(len(before)).equals(before)
    new = log.iloc[len(before) :].to_dict("records")
    said = [(row["time"], row["reviewer"], row["decision"], row["reason"]) for row in new]
    assert said == [
        ("2026-03-01T10:00:00.000+00:00", "Label Studio user 1", "copy", "the same shadow"),
        ("2026-03-02T08:00:00.500+00:00", "eve@example.org", "shared_overlay", ""),
        ("2026-03-03T10:00:00.000+00:00", "Label Studio user 1", "skip", ""),
    ]
    assert [row["query_id"] for row in new] == [
        task["data"]["query_id"] for task in (tasks[2], tasks[1], tasks[3])
    ]
    changed = _annotated(
        sent, "unrelated", "2026-03-04T12:00:00Z", sent["annotations"][0]["result"][0]["id"]
    )
    path.write_text(json.dumps([changed]))
    assert import_decisions(results, path) == (1, 0)
    assert decisions.consensus(decisions.read(results.decisions_path))["conflicting"].any()


def test_the_commands(finished_run, tmp_path, capsys):
    shutil.copytree(finished_run.parent, tmp_path / "copy")
    run, out, export_json = str(tmp_path / "copy/run"), tmp_path / "out", tmp_path / "export.json"
    assert main(["export", run, "--as", "label-studio", str(out)]) == 0
    tasks = json.loads((out / "tasks-000.json").read_text("utf-8"))
    export_json.write_text(json.dumps([_annotated(tasks[0], "copy", "2026-03-01T12:00:00Z")]))
    assert main(["import-decisions", run, str(export_json)]) == 0
    assert "decisions.jsonl: 1; there already: 0" in capsys.readouterr().out
    export_json.write_text("nothing")
    assert main(["import-decisions", run, str(export_json)]) == 2
    assert "export.json, line 1: not JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-2], r"export.json, line 1: not JSON"),
        (lambda text: '{"decision": "copy"}', r"expected a list of tasks"),
        (lambda text: '[{"decision": "copy", "annotator": 1}]', r"task 1 is not as"),
        (lambda text: text.replace('["copy"]', '["="]'), r"task 2: expected one of .*got '='"),
        (lambda text: text.replace('["copy"]', '["copy", "skip"]'), r"task 2: .*one decision"),
        (lambda text: text.replace('"decision"', '"other"'), r"task 1: an annotation has no decision"),
        (lambda text: text.replace("2026-03-02T", "next week"), r"task 2: Invalid isoformat"),
        (lambda text: text.replace('"q-pasted"', '"q-unknown"'), r"the run has no pair"),
    ],
)  # fmt: skip
def test_an_export_that_cannot_be_read_adds_nothing(results, tasks, tmp_path, change, message):
    pasted = next(task for task in tasks if task["data"]["query_id"] == "q-pasted")
    first = _annotated(pasted, "unrelated", "2026-03-01T10:00:00Z")
    text = json.dumps([first, _annotated(tasks[1], "copy", "2026-03-02T10:00:00Z")])
    (tmp_path / "export.json").write_text(change(text))
    before = results.decisions_path.read_bytes()
    with pytest.raises(FormatError, match=message):
        import_decisions(results, tmp_path / "export.json")
    assert results.decisions_path.read_bytes() == before
