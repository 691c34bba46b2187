# SPDX-License-Identifier: AGPL-3.0-or-later
"""Review in Label Studio: a task per pair goes out, the decisions of its annotators come back.

Formats: https://labelstud.io/guide/task_format. The pictures are inside the tasks (data URIs), so that a server needs
no access to the files of this machine. What a pair's score suggests is not chosen beforehand: an annotator who only
confirms would decide nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from imgfp import store, viz
from imgfp.exchange.answers import Answer, Decided, Shown, answers, jpeg_of
from imgfp.results import Results
from imgfp.store import decisions
from imgfp.store.formats import FormatError

#: Decision -> the key that chooses it, as in the review queue.
HOTKEYS = {"copy": "c", "same_scene": "s", "shared_overlay": "o", "unrelated": "u", "skip": "k"}
#: Tasks in one file, and the longer side of their pictures in pixels: a file stays below the 250 MB that Label Studio takes.
TASKS_PER_FILE, LONG_SIDE_PX = 500, 640
_SHARED = '<Label value="shared" background="#d55e00"/>'
CONFIG = f"""<View>
  <Header value="$title"/>
  <View style="display: flex; gap: 1em">
    <View style="width: 50%"><Header value="$query" size="5"/><Image name="query" value="$query_image"/></View>
    <View style="width: 50%"><Header value="$reference" size="5"/><Image name="reference" value="$reference_image"/></View>
  </View>
  <Choices name="decision" toName="query" choice="single" showInline="true" required="true">
{"".join(f'    <Choice value="{word.replace("_", " ")}" hotkey="{key}"/>{chr(10)}' for word, key in HOTKEYS.items())}  </Choices>
  <TextArea name="reason" toName="query" placeholder="reason, optional" maxSubmissions="1"/>
  <PolygonLabels name="query_region" toName="query">{_SHARED}</PolygonLabels>
  <PolygonLabels name="reference_region" toName="reference">{_SHARED}</PolygonLabels>
</View>
"""
_WORDS = {word.replace("_", " "): word for word in decisions.DECISIONS}


def write(results: Results, folder: Path) -> list[Path]:
    """Write `labelling.xml`, the configuration of a project, and `tasks-000.json` and more: a task per pair of
    `answers`, with the shared regions as a prediction, and the decision of the last reviewer as an annotation."""
    tasks = [_task(results, answer) for answer in answers(results)]
    files = [folder / "labelling.xml"]
    store.write_bytes(files[0], CONFIG.encode())
    for number, first in enumerate(range(0, len(tasks), TASKS_PER_FILE)):
        files.append(folder / f"tasks-{number:03d}.json")
        part = tasks[first : first + TASKS_PER_FILE]
        store.write_bytes(files[-1], json.dumps(part, allow_nan=False).encode())
    return files


def _task(results: Results, answer: Answer) -> dict[str, Any]:
    said = "reported" if answer.reported else "not reported"
    words = [f"score {viz.score(answer.score)}, {said}", answer.relation, answer.transform]
    data = {
        "title": "; ".join(word for word in words if word),
        "query": f"query: {viz.label(answer.query.image_id, 60)}",
        "reference": f"reference: {viz.label(answer.reference.image_id, 60)}",
        "query_id": answer.query_id,
        "reference_id": answer.reference_id,
        "score": answer.score,
        "run": results.run.name,
        "query_image": _data_uri(jpeg_of(results, "query", answer.query.image_id, LONG_SIDE_PX)),
        "reference_image": _data_uri(
            jpeg_of(results, "reference", answer.reference.image_id, LONG_SIDE_PX)
        ),
    }
    regions = [_polygon("query", answer.query), _polygon("reference", answer.reference)]
    shown = regions if answer.located else []
    prediction = {"model_version": "imgfp", "score": answer.score, "result": shown}
    task = {"data": data, "predictions": [prediction]}
    return task | ({"annotations": [_annotation(answer, answer.decided)]} if answer.decided else {})


def _data_uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _polygon(name: str, shown: Shown) -> dict[str, Any]:
    """A region as Label Studio has it: in per cent of the sides. name: of the image."""
    return {
        "id": f"{name}-region",
        "from_name": f"{name}_region",
        "to_name": name,
        "type": "polygonlabels",
        "original_width": shown.size[0],
        "original_height": shown.size[1],
        "image_rotation": 0,
        "value": {
            "points": np.round(100 * shown.relative, 4).tolist(),
            "closed": True,
            "polygonlabels": ["shared"],
        },
    }


def _annotation(answer: Answer, decided: Decided) -> dict[str, Any]:
    """The decision in force. The id of its choice tells that it came from here, see `import_decisions`."""
    mark = _mark(decided.time, decided.reviewer, answer.query_id, answer.reference_id)
    choice = {"choices": [decided.decision.replace("_", " ")]}
    result = [_of_query(mark, "decision", "choices", choice)]
    if decided.reason:
        text = {"text": [decided.reason]}
        result.append(_of_query(f"{mark}-reason", "reason", "textarea", text))
    return {"result": result}


def _of_query(number: str, name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": number, "from_name": name, "to_name": "query", "type": kind, "value": value}


def _mark(*entry: str) -> str:
    return f"imgfp-{store.hash_of(entry)[:16]}"


@dataclass(frozen=True, order=True)
class _Said:
    """One decision in an export: the values of `decisions.COLUMNS`; mark: id of the choice."""

    time: datetime
    reviewer: str
    query_id: str
    reference_id: str
    decision: str
    reason: str
    mark: str


def import_decisions(results: Results, path: Path) -> tuple[int, int]:
    """Add the decisions of a JSON export of Label Studio to the log of a run, in the order of their times.

    Returns how many were added, and how many the log holds already: those that `write` has sent out and nobody has
    changed, and those of an export that was read before. The reviewer is the annotator, the time that of the annotation;
    a task that was skipped is a `skip`. Raises FormatError, before anything is added, for a file that is something else,
    and for a pair that the run has not scored.
    """
    log = decisions.read(results.decisions_path)
    entries = list(log[decisions.COLUMNS[:5]].itertuples(index=False, name=None))
    sent = {_mark(*entry[:4]): entry[4] for entry in entries}
    known = set(entries)
    pairs = set(zip(results.pairs["query_id"], results.pairs["reference_id"], strict=True))
    said = sorted(_read(path, pairs))
    added = 0
    for one in said:
        time = decisions.written(one.time)
        entry = (time, one.reviewer, one.query_id, one.reference_id, one.decision)
        if entry in known or sent.get(one.mark) == one.decision:
            continue
        decisions.append(
            results.decisions_path,
            one.query_id,
            one.reference_id,
            one.decision,
            reviewer=one.reviewer,
            reason=one.reason,
            time=one.time,
        )
        known.add(entry)
        added += 1
    return added, len(said) - added


def _read(path: Path, pairs: set[tuple[str, str]]) -> Iterator[_Said]:
    """The decisions of an export; pairs: those that are known. Raises FormatError."""
    for number, task in enumerate(_tasks(path), 1):
        try:
            data = task["data"]
            pair = str(data["query_id"]), str(data["reference_id"])
            if pair not in pairs:
                raise ValueError(f"the run has no pair {pair}; was it exported from another run?")
            for annotation in task.get("annotations", ()):
                yield _said(pair, annotation)
        except (KeyError, TypeError, AttributeError, IndexError):
            wrong = "not as `imgfp export --as label-studio` wrote it; export the project as JSON"
            raise FormatError(path, None, f"task {number} is {wrong}") from None
        except (ValueError, OverflowError) as error:
            raise FormatError(path, None, f"task {number}: {error}") from None


def _tasks(path: Path) -> list[Any]:
    try:
        tasks = json.loads(path.read_bytes())
    except OSError as error:
        raise FormatError(path, None, f"cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise FormatError(path, error.lineno, f"not JSON: {error.msg}") from None
    except (ValueError, RecursionError):
        raise FormatError(path, None, "not JSON") from None
    if not isinstance(tasks, list):
        raise FormatError(path, None, "expected a list of tasks; export the project as JSON")
    return tasks


def _said(pair: tuple[str, str], annotation: dict[str, Any]) -> _Said:
    """The decision of one annotation. Raises ValueError for one that holds none, and as a dictionary does."""
    time = datetime.fromisoformat(annotation.get("updated_at") or annotation["created_at"])
    who = annotation["completed_by"]
    named = who if isinstance(who, dict) else {"id": who}
    reviewer = named.get("email") or f"Label Studio user {named['id']}"
    parts = {part["from_name"]: part for part in annotation["result"]}
    if annotation.get("was_cancelled"):
        word, mark = "skip", ""
    elif "decision" in parts:
        word, *more = parts["decision"]["value"]["choices"]
        if more:
            raise ValueError(f"expected one decision, got {[word, *more]}")
        mark = str(parts["decision"].get("id", ""))
    else:
        raise ValueError("an annotation has no decision; open the task, choose one, export again")
    decision = _WORDS.get(word)
    if decision is None:
        raise ValueError(f"expected one of {[*_WORDS]}, got {word!r}")
    reason = parts["reason"]["value"]["text"] if "reason" in parts else ""
    reason = " ".join(map(str, reason)) if isinstance(reason, list) else str(reason)
    utc = time if time.tzinfo else time.replace(tzinfo=UTC)
    return _Said(utc.astimezone(UTC), str(reviewer), *pair, decision, reason, mark)
