# SPDX-License-Identifier: AGPL-3.0-or-later
"""Artefacts are whole or absent, current or made again, and damage is never read as data."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from small_run import made_with

from imgfp import store
from imgfp.datatypes import Descriptors, LocalFeatures
from imgfp.store import StoreError

HOSTILE = [
    '<img src=x onerror="1">',
    "a,b",
    'quote"d',
    "line\nbreak",
    "\u202eevil",
    "=1+1",
    "é/ü",
    "a\rb",
    "\r\n",
    "\tt",
    "-1",
    "@x",
    "+y",
    "'=1",
    "''quoted",
    "$x$",
]


def features(rng, ids=("a", "b", "c"), counts=(3, 0, 5)) -> LocalFeatures:
    total = sum(counts)
    return LocalFeatures(
        np.array(ids, object),
        np.cumsum([0, *counts]),
        rng.random((total, 4), np.float32),
        rng.integers(0, 256, (total, 128)).astype(np.uint8),
    )


def saved(path, record, **settings):
    return store.save(path, record, made_with(**settings))


def test_empty_records_round_trip(tmp_path):
    empty = LocalFeatures.concatenate([])
    saved(tmp_path / "e.h5", empty)
    assert len(store.load(tmp_path / "e.h5")) == 0
    saved(tmp_path / "e.parquet", pd.DataFrame({"a": pd.Series(dtype="str")}))
    assert store.load(tmp_path / "e.parquet").empty


def test_records_round_trip(tmp_path, rng):
    record = features(rng)
    saved(tmp_path / "f.h5", record)
    back = store.load(tmp_path / "f.h5")
    for name in ("image_ids", "offsets", "keypoints", "descriptors"):
        np.testing.assert_array_equal(getattr(back, name), getattr(record, name))
    vectors = rng.standard_normal((4, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    saved(tmp_path / "d.h5", Descriptors(np.array(list("wxyz"), object), vectors))
    np.testing.assert_array_equal(store.load(tmp_path / "d.h5").vectors, vectors)


def test_the_bytes_do_not_depend_on_garbage_collection(tmp_path, rng, monkeypatch):
    """A handle of a dataset that is freed late, as in a cycle of references, moved its chunks in the file."""
    record = features(rng)
    saved(tmp_path / "f.h5", record)
    kept, create = [], h5py.File.create_dataset
    monkeypatch.setattr(
        h5py.File, "create_dataset", lambda *a, **k: kept.append(create(*a, **k)) or kept[-1]
    )
    saved(tmp_path / "late.h5", record)
    assert len(kept) == 4
    assert (tmp_path / "late.h5").read_bytes() == (tmp_path / "f.h5").read_bytes()


def test_hostile_ids_survive_every_format(tmp_path, rng):
    record = features(rng, HOSTILE, [1] * len(HOSTILE))
    saved(tmp_path / "f.h5", record)
    assert list(store.load(tmp_path / "f.h5").image_ids) == HOSTILE
    frame = pd.DataFrame({"image_id": HOSTILE})
    saved(tmp_path / "t.parquet", frame)
    assert store.load(tmp_path / "t.parquet")["image_id"].tolist() == HOSTILE
    store.write_sheet(tmp_path / "t.csv", frame)
    assert store.read_sheet(tmp_path / "t.csv")["image_id"].tolist() == HOSTILE


def test_lookup_reads_single_images(tmp_path, rng):
    one, two = features(rng), features(rng, ("d", "e"), (2, 4))
    saved(tmp_path / "shard-00000.h5", one)
    saved(tmp_path / "shard-00001.h5", two)
    lookup = store.FeatureLookup(tmp_path)
    assert all(name in lookup for name in "abcde") and "x" not in lookup
    np.testing.assert_array_equal(lookup.of("e")[1], two.of("e")[1])
    assert lookup.of("b")[0].shape == (0, 4)


def test_a_lookup_opens_only_the_shards_that_it_is_asked_for(tmp_path, rng):
    """A library of a million images has more shards than a process may have files open."""
    names = [f"shard-{number:05d}" for number in range(80)]
    for name in names:
        saved(tmp_path / f"{name}.h5", features(rng, (name,), (3,)))
    (tmp_path / f"{names[7]}.h5").write_bytes(b"damaged")
    lookup = store.FeatureLookup(tmp_path, lambda image_id: image_id)
    before = len(os.listdir("/proc/self/fd"))
    for name in [*names[8:], *names[8:]]:
        assert lookup.of(name)[0].shape == (3, 4)
    assert len(os.listdir("/proc/self/fd")) - before <= 32
    assert "shard-99999" not in lookup
    with pytest.raises(StoreError, match="shard-00007"):
        lookup.of(names[7])


@pytest.mark.parametrize("suffix", [".h5", ".parquet", ".json", ".faiss", ".arrow"])
def test_damage_is_found(tmp_path, rng, suffix):
    record = {
        ".h5": features(rng),
        ".parquet": pd.DataFrame({"x": np.arange(1000)}),
        ".json": {"x": list(range(100))},
        ".faiss": rng.bytes(2000),
        ".arrow": pd.DataFrame({"x": np.arange(1000)}),
    }[suffix]
    path = tmp_path / f"r{suffix}"
    saved(path, record)
    whole = path.read_bytes()
    for number in range(40):
        damaged = bytearray(whole)
        place = int(rng.integers(len(whole)))
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged) if number % 2 else whole[:place])
        os.utime(path, ns=(number, number + 1))
        with pytest.raises(StoreError, match=r"r\."):
            store.load(path)


def test_without_sidecar_there_is_no_artefact(tmp_path, rng):
    path = tmp_path / "shard-00000.h5"
    saved(path, features(rng))
    (tmp_path / "shard-00000.h5.json").unlink()
    assert store.shards(tmp_path, ".h5") == []
    with pytest.raises(StoreError, match="missing or unfinished"):
        store.load(path)


def test_current_only_with_the_same_fingerprint(tmp_path):
    path = tmp_path / "x.json"
    store.save(path, [1], made_with("i", a=1))
    assert store.is_current(path, made_with("i", a=1))
    for changed in (
        made_with("i", a=2),
        made_with("j", a=1),
        store.origin(_other, {"a": 1}, ["i"]),
    ):
        assert not store.is_current(path, changed)
    assert store.what_differs(path, made_with("i", a=2)) == "a 1 -> 2"
    path.write_bytes(b"")
    assert not store.is_current(path, made_with("i", a=1))


@store.produces("other")
def _other() -> None:
    pass


def test_a_redo_makes_each_artefact_again_once(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    saved(path, [1])
    monkeypatch.setenv(store.REDO, "1")
    assert not store.is_current(path, made_with())
    assert store.is_current(path, made_with())


def test_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.files.os, "fsync", full)
    with pytest.raises(StoreError, match="no space left to write"):
        store.write_bytes(tmp_path / "x.bin", b"123")
    assert list(tmp_path.iterdir()) == []


def test_file_that_reads_back_wrong_is_never_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(store.files, "sha256_of", lambda path: "0" * 64)
    with pytest.raises(StoreError, match="did not read back"):
        store.write_bytes(tmp_path / "x.bin", b"123")
    assert list(tmp_path.iterdir()) == []


def test_killed_writer_leaves_whole_or_nothing(tmp_path, rng):
    code = (
        "import sys, numpy as np, pandas as pd; from pathlib import Path; from imgfp import store\n"
        "sys.path.insert(0, sys.argv[2]); from small_run import made_with\n"
        "print('ready', flush=True)\n"
        "for n in range(10**6): store.save(Path(sys.argv[1]) / f'shard-{n % 3:05d}.parquet',"
        " pd.DataFrame({'x': np.arange(50_000)}), made_with(n=n))"
    )
    tests = str(Path(__file__).resolve().parents[1])
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), tests], stdout=subprocess.PIPE
        )
        child.stdout.readline()
        time.sleep(float(rng.uniform(0.05, 0.4)))
        child.send_signal(signal.SIGKILL)
        child.wait()
        for path in store.shards(tmp_path, ".parquet"):
            assert len(store.load(path)) == 50_000


def test_a_second_writer_waits_for_the_first_and_names_it(tmp_path, capsys):
    done = []

    def second():
        with store.lock(tmp_path) as waited:
            done.append(waited)

    with store.lock(tmp_path) as waited, store.lock(tmp_path) as again:
        assert not waited and not again, "the holder may take it again"
        thread = threading.Thread(target=second)
        thread.start()
        while "waiting" not in (said := capsys.readouterr().out):
            time.sleep(0.01)
        assert f"in use by process {os.getpid()} on" in said and not done
        assert store.is_locked(tmp_path)
    thread.join(10)
    assert done == [True] and not store.is_locked(tmp_path)


def test_what_killed_writers_left_is_deleted_by_the_next_writer(tmp_path):
    left = tmp_path / "index/.part-0.faiss.4711.tmp"
    others = [tmp_path / "index" / name for name in (".part-0.faiss.json", ".user.tmp", "a.1.tmp")]
    left.parent.mkdir()
    for path in (left, *others):
        path.touch()
    with store.lock(tmp_path):
        assert not left.exists() and all(path.exists() for path in others)
        left.touch()  # by a worker of the one who holds the folder
        with store.lock(tmp_path):
            assert left.exists()


def test_link_to_another_file_is_refused(tmp_path, rng):
    import h5py

    path = tmp_path / "shard-00000.h5"
    saved(path, features(rng))
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = np.zeros(3)
    with h5py.File(path, "a") as file:
        del file["keypoints"]
        file["keypoints"] = h5py.ExternalLink("other.h5", "x")
    with pytest.raises(StoreError, match="points outside"):
        store.artefacts.open_h5(path)


def test_evidence_of_version_0_1_is_read_under_the_present_names(tmp_path):
    import json

    path = tmp_path / "shard-00000.parquet"
    store.save(
        path, pd.DataFrame({"agreement": [0.5], "model": ["upright"], "h00": [1.0]}), made_with()
    )
    sidecar = path.with_name(path.name + ".json")
    described = json.loads(sidecar.read_text()) | {"maker": "imgfp.stages.pairs.score_pairs"}
    described.pop("seal")  # which that version did not have
    sidecar.write_text(json.dumps(described))
    table = store.load(path)
    assert list(table) == ["ncc_inlier_ratio", "model", "h00"]
    assert table["model"].tolist() == ["axis_aligned"]
    assert store.load(path, ["ncc_inlier_ratio"])["ncc_inlier_ratio"].tolist() == [0.5]


def test_a_sample_is_drawn_from_a_few_shards(tmp_path):
    for number in range(40):
        frame = pd.DataFrame({"n": np.arange(10)})
        saved(tmp_path / f"{store.shard_name(number)}.parquet", frame)
    few = store.draw_shards(store.shards(tmp_path, ".parquet"), 10)
    assert len(few) == 16 and few == store.draw_shards(
        store.shards(tmp_path, ".parquet"), 10
    ) == sorted(few)
    assert few != store.draw_shards(store.shards(tmp_path, ".parquet"), 10, seed=1)
    assert len(store.draw_shards(store.shards(tmp_path, ".parquet"), 205)) == 21
    assert len(store.draw_shards(store.shards(tmp_path, ".parquet"), 1000)) == 40


def test_a_sealed_file_goes_with_its_seal(tmp_path):
    store.write_sealed(tmp_path / "truth.csv", b"query_id,reference_id\n")
    assert len([*tmp_path.iterdir()]) == 2
    store.remove(tmp_path / "truth.csv")
    assert [*tmp_path.iterdir()] == []
