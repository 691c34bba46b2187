# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whatever byte of a library or a run changes, `imgfp verify` names the file, and `--repair` takes it away."""

from __future__ import annotations

import json
import os
import shutil

import pandas as pd
import pytest
from small_run import made_with

from imgfp import store
from imgfp.__main__ import main
from imgfp.store import Run, StoreError, decisions, fetched


@pytest.fixture
def run(tmp_path) -> Run:
    """A run folder with one file of each kind, and a file of its user."""
    run = Run(tmp_path / "run")
    store.save(run.evidence / "shard-00000.parquet", pd.DataFrame({"x": [1, 2]}), made_with())
    store.save(run.root / "index/local/index.json", {"parts": [1]}, made_with())
    store.save(run.root / "index/local/part-00000-00001.faiss", b"x" * 50, made_with())
    store.write_sheet(run.predictions_csv, pd.DataFrame({"query_id": ["a"]}))
    for path in (run.status_json, run.metrics_json, run.report_html, run.notebooks / "01_a.ipynb"):
        store.write_sealed(path, b'{"stages": {}}')
    (run.root / "notes.json").write_text("the user's own")
    return run


def test_any_changed_or_lost_byte_of_any_file_is_found_and_repaired(run, tmp_path, rng, capsys):
    assert main(["verify", str(run.root)]) == 0 and "ok " in capsys.readouterr().out
    files = [p for p in sorted(run.root.rglob("*")) if p.is_file() and ".lock" not in p.name]
    files = [p for p in files if p.name != "notes.json"]
    assert len(files) == 3 * 2 + 5 * 2
    for path in files:
        whole = path.read_bytes()
        for damage in ("cut", "gone", "doubled", *range(8)):
            bits, at = bytearray(whole), int(rng.integers(len(whole)))
            bits[at] ^= 1 << (damage if isinstance(damage, int) else 0)
            copy = tmp_path / "copy"
            shutil.copytree(run.root, copy)
            damaged = copy / path.relative_to(run.root)
            if damage == "gone":
                damaged.unlink()
            else:
                named = {"cut": whole[:at], "doubled": whole * 2}
                damaged.write_bytes(named.get(damage, bytes(bits)))
            (found,) = store.find_damage(copy)
            assert path.name.strip(".").startswith(found.path.name), (path, damage)
            store.repair(copy, [found])
            assert (copy / "notes.json").exists()
            left = store.find_damage(copy)
            # An artefact that has lost its sidecar might be somebody else's; the next run writes over it.
            assert not left or (damage == "gone" and not left[0].ours), (path, damage)
            shutil.rmtree(copy)


def test_all_damage_is_named_at_once_though_size_and_date_do_not_tell(run, capsys):
    artefacts = [run.evidence / "shard-00000.parquet", run.root / "index/local/index.json"]
    for path in [*artefacts, run.metrics_json]:
        status = path.stat()
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (run.root / ".left.parquet.17.tmp").write_bytes(b"x")
    assert main(["verify", str(run.root)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3 and all("damaged" in line for line in said)
    assert main(["verify", str(run.root), "--repair"]) == 1
    assert main(["verify", str(run.root)]) == 0
    assert not any(path.exists() for path in [*artefacts, run.metrics_json])
    assert not (run.root / ".left.parquet.17.tmp").exists()
    assert main(["verify", str(run.root / "gone")]) == 2
    assert "name a library" in capsys.readouterr().err


def test_a_copy_without_dates_is_given_them(run):
    path = run.evidence / "shard-00000.parquet"
    os.utime(path, ns=(5, 7))
    assert not store.find_damage(run.root)
    assert store.describe(path)["mtime_ns"] == 7


def test_a_sidecar_of_version_0_1_is_read_and_sealed_by_a_repair(run):
    path = run.evidence / "shard-00000.parquet"
    sidecar = path.with_name(path.name + ".json")
    described = json.loads(sidecar.read_bytes())
    described.pop("seal")
    sidecar.write_text(json.dumps(described))
    assert len(store.load(path)) == 2
    store.repair(run.root, store.find_damage(run.root))
    assert "seal" in store.describe(path) and not store.find_damage(run.root)


def test_the_log_of_decisions_and_the_mark_of_a_copy_are_checked(run):
    decisions.append(run.decisions_jsonl, "q", "r", "copy", reviewer="Ada")
    fetched.write_marker(run.root, "memory://a", whole=True)
    assert not store.find_damage(run.root)
    log, marker = run.decisions_jsonl, fetched.marker_of(run.root)
    for path in (log, marker):
        path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    found = store.find_damage(run.root)
    assert [damage.path for damage in found] == [marker, log]
    assert "line 1" in found[1].reason
    with pytest.raises(StoreError, match=r"\.fetched\.json is damaged"):
        store.refuse_fetched(run.evidence)
    store.repair(run.root, found)
    assert store.read_marker(run.root) is None
    assert log.exists()  # what people decided is not deleted


@pytest.mark.parametrize("left", [b"", b"{", b'{"stages": {"01_im', b"[]", b"\xff\xfe"])
def test_a_cut_json_file_is_one_line_with_its_name(run, left):
    for sealed in (True, False):
        run.status_json.write_bytes(left)
        if not sealed:
            store.files.seal_of(run.status_json).unlink()
        with pytest.raises(StoreError, match=r"status\.json is damaged.*verify") as caught:
            store.read_json(run.status_json)
        assert "\n" not in str(caught.value)


def test_a_file_that_is_replaced_while_it_is_read_is_not_called_damaged(run, monkeypatch):
    seals = iter(["0" * 64, store.files.read_seal(run.status_json)])
    monkeypatch.setattr(store.files, "read_seal", lambda path: next(seals, "1" * 64))
    with pytest.raises(StoreError):
        store.read_sealed(run.status_json)
    seals = iter(["0" * 64, "1" * 64, store.sha256_of(run.status_json)])
    assert store.read_sealed(run.status_json)


def test_the_seal_is_one_that_other_tools_check(run):
    text = store.files.seal_of(run.predictions_csv).read_text()
    assert text == f"{store.sha256_of(run.predictions_csv)}  predictions.csv\n"
