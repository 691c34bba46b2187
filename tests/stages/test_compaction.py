# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is masked leaves the disk, and nothing else changes, even where a compaction is killed."""

from __future__ import annotations

import os
import shutil

import cv2
import numpy as np
import pytest

pytest.importorskip("faiss")

from imgfp import stages, store
from imgfp.__main__ import main
from imgfp.images import encode_jpeg
from imgfp.search import index
from imgfp.stages import inventory
from imgfp.stages.compaction import compact
from imgfp.stages.features import stored_features
from imgfp.stages.index import open_index
from imgfp.store import Library, Run, artefacts

EXTRACT = {"short_side_px": 0}
DESCRIBE = {"model": "gist-grid", "weights": "", "device": "cpu", "batch_size": 8}


def brought_up(library, folder, address) -> int:
    """What the stages 01, 02, 03, 06 and 07 do for a library; returns the images that were computed."""
    settings = {"shard_images": 4, "thumbnail_short_side_px": 64, "most_lost_share": 1}
    computed = stages.list_images(library, str(folder), **settings, cluster=address).computed
    computed += stages.extract_local_features(library, cluster=address, **EXTRACT).computed
    computed += stages.describe_references(library, cluster=address, **DESCRIBE).computed
    for kind in ("local", "global"):
        build = {"factory": "Flat", "seed": 0, "part_images": 100, "cluster": address}
        stages.build_index(library, kind, **build)
    return computed


def answers(library) -> dict:
    """Distances and references that each live image finds in both indexes."""
    found = {}
    lookup = stored_features(library)
    descriptors = {
        name: vector
        for part in stages.descriptors.descriptors_by_shard(library)
        for name, vector in zip(part.image_ids, part.vectors, strict=True)
    }
    catalogue = store.open_catalogue(library)
    for name in sorted(catalogue.ids_at(np.arange(len(catalogue)))):
        asked = {"local": lookup.of(name)[1][:20], "global": descriptors[name][None]}
        for kind, vectors in asked.items():
            opened = open_index(library, kind)
            distances, ids = index.search(opened.index, vectors, 5)
            named = opened.owners.image_ids(index.places_of(ids.ravel())).reshape(ids.shape)
            # Of equal distances, any may be the last.
            nearer = distances < distances[:, -1:]
            found[name, kind] = (
                distances.tolist(),
                {*zip(distances[nearer], named[nearer], strict=True)},
            )
    return found


@pytest.fixture(scope="module")
def masked(tmp_path_factory, address):
    """A library with a shard of which an image has gone, and one without live images; its folder, and its answers."""
    root = tmp_path_factory.mktemp("compaction")
    folder, library = root / "in", Library(root / "lib")
    folder.mkdir()
    rng = np.random.default_rng(5)
    for i in range(12):
        blobs = cv2.resize(rng.integers(0, 256, (12, 18, 3), np.uint8), (180, 120))
        (folder / f"p{i}.jpg").write_bytes(encode_jpeg(blobs))
    (folder / "p0.txt").write_text("not a picture")
    brought_up(library, folder, address)
    store.begin(Run(root / "run"), library)
    for name in ("p1", "p5", "p6", "p7", "p8"):
        (folder / f"{name}.jpg").unlink()
    os.rename(folder / "p10.jpg", folder / "p10.jpeg")
    brought_up(library, folder, address)
    return library, folder, answers(library)


@pytest.fixture
def library(masked, tmp_path):
    return Library(shutil.copytree(masked[0].root, tmp_path / "lib"))


def test_what_is_masked_leaves_the_disk_and_nothing_else_changes(library, masked, address):
    _, folder, before = masked
    run = Run(library.root / "run")
    store.begin(run, library)
    planned = compact(library, dry_run=True)
    assert planned.bytes_after == planned.bytes_before and answers(library) == before
    done = compact(library, cluster=address)
    assert (done.images, done.copied, done.deleted) == (5, 1, 1)
    assert (planned.images, planned.copied, planned.deleted) == (5, 1, 1)
    assert done.bytes_after < done.bytes_before and "5 images" in str(done)
    assert answers(library) == before
    rows = inventory.image_rows(library)
    assert rows["live"].all() and len(rows) == 8
    for kind in ("local", "global"):
        assert not len(store.load(library.index(kind).removed))
        assert len(open_index(library, kind).index) == sum(
            part["vectors"] for part in store.load(library.index(kind).manifest)["shards"]
        )
    with pytest.raises(store.SnapshotGone, match="run it from notebook 01"):
        store.open_sides(library.root, run.root)

    files = {p: p.stat().st_mtime_ns for p in library.root.rglob("*") if p.suffix != ".json"}
    assert brought_up(library, folder, address) == 0, "nothing is computed again"
    assert all(path.stat().st_mtime_ns == ns for path, ns in files.items() if path.suffix != "")
    assert [path for path, _ in inventory.gather_rejects(library).itertuples(index=False)] == [
        str(folder / "p0.txt")
    ]
    again = compact(library, cluster=address)
    assert (again.images, again.copied, again.deleted) == (0, 0, 0)
    assert not store.find_damage(library.root)


def test_command(library, tmp_path, capsys):
    assert main(["compact", str(library.root), "--dry-run"]) == 0
    assert "5 images that have gone or changed, 1 shards copied" in capsys.readouterr().out
    assert main(["compact", str(tmp_path / "nothing")]) == 2
    assert "holds no images; run notebook 01 first" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


class Killed(BaseException):
    """No handler of errors stops it, as none stops a signal."""


def test_a_killed_compaction_loses_nothing(masked, tmp_path, address, monkeypatch):
    """Killed at a write or a deletion, it leaves a library that answers as before, or one of which a file was just
    being replaced; the stages of a run then compute nothing, and another compaction goes on."""
    original, folder, before = masked
    left = 0

    def counted(function):
        def called(*arguments, **keywords):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return function(*arguments, **keywords)

        return called

    def killed_after(steps, library) -> bool:
        nonlocal left
        left = steps
        with monkeypatch.context() as patch:
            patch.setattr(artefacts, "write_bytes", counted(artefacts.write_bytes))
            patch.setattr(store, "remove", counted(store.remove))
            patch.setattr(shutil, "rmtree", counted(shutil.rmtree))
            try:
                compact(library, cluster=address)
            except Killed:
                return True
        return False

    whole = Library(shutil.copytree(original.root, tmp_path / "whole"))
    assert not killed_after(1000, whole)
    steps = 1000 - left
    for step in range(0, steps, int(os.environ.get("IMGFP_TEST_EVERY", "17"))):
        library = Library(shutil.copytree(original.root, tmp_path / f"lib{step}"))
        assert killed_after(step, library)
        try:
            assert answers(library) == before, step
        except store.StoreError as error:
            assert "missing or unfinished" in str(error), step
        assert brought_up(library, folder, address) == 0, step
        assert answers(library) == before, step
        compact(library, cluster=address)
        assert answers(library) == before, step
        assert inventory.image_rows(library)["live"].all(), step
