"""Shards of images keep their place while folders grow, change and shrink."""

from __future__ import annotations

import os

import pandas as pd
import pytest

from imgfp import store
from imgfp.images import encode_jpeg
from imgfp.runner import cluster
from imgfp.stages import inventory


@pytest.fixture(scope="module")
def address():
    with cluster.processes(1) as started:
        yield started


def fill(folder, names, photograph, shift=0):
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        part = photograph[number + shift : number + shift + 100, :150]
        (folder / f"{name}.jpg").write_bytes(encode_jpeg(part))


def sync(root, source, address):
    return inventory.sync(
        root, str(source), shard_images=4, thumbnail_short_side_px=64, cluster=address
    )


def test_life_of_a_folder(tmp_path, photograph, address):
    folder, root = tmp_path / "in", tmp_path / "lib"
    fill(folder, [f"p{i:02d}" for i in range(10)], photograph)
    (folder / "note.txt").write_text("not a picture")
    assert str(sync(root, folder, address)) == "11 computed, 0 reused, 1 refused"
    images = inventory.read_images(root)
    assert len(images) == 10 and images["shard"].nunique() == 3
    assert inventory.gather_rejects(root)["path"].tolist() == [str(folder / "note.txt")]

    fill(folder, ["a_new", "z_new"], photograph, shift=50)
    report = sync(root, folder, address)
    assert (report.computed, report.reused) == (2, 11), "only the new files may be looked at"

    fill(folder, ["p00"], photograph, shift=99)
    report = sync(root, folder, address)
    assert report.computed == 4, "only the shard of the changed file may be looked at"

    (folder / "p09.jpg").unlink()
    (folder / "p08.jpg").unlink()
    sync(root, folder, address)
    assert len(inventory.read_images(root)) == 10

    thumbnails = inventory.thumbnails(root, ["z_new", "a_new"])
    assert [t.shape for t in thumbnails] == [(64, 96, 3)] * 2


def test_second_folder_extends_a_library(tmp_path, photograph, address):
    one, two, root = tmp_path / "one", tmp_path / "two", tmp_path / "lib"
    fill(one, ["a", "b"], photograph)
    fill(two, ["c"], photograph)
    sync(root, one, address)
    sync(root, two, address)
    assert sorted(inventory.read_images(root)["image_id"]) == ["a", "b", "c"]
    assert sync(root, "", address).computed == 0
    fill(two, ["a"], photograph)
    with pytest.raises(ValueError, match="id 'a' comes from"):
        sync(root, two, address)


def test_manifest_names_the_ids(tmp_path, photograph, address):
    fill(tmp_path / "in", ["a", "b"], photograph)
    manifest = tmp_path / "m.csv"
    pd.DataFrame({"image_id": ["x/1", "y,2"], "path": ["in/a.jpg", "in/b.jpg"]}).to_csv(
        manifest, index=False
    )
    sync(tmp_path / "lib", manifest, address)
    assert inventory.read_images(tmp_path / "lib")["image_id"].tolist() == ["x/1", "y,2"]


def test_folders_that_cannot_serve_say_why(tmp_path, photograph, address):
    with pytest.raises(FileNotFoundError, match="does not exist; check the path"):
        sync(tmp_path / "lib", tmp_path / "gone", address)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no files"):
        sync(tmp_path / "lib", tmp_path / "empty", address)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.jpg").write_bytes(b"no")
    with pytest.raises(ValueError, match="no readable picture"):
        sync(tmp_path / "lib", tmp_path / "bad", address)
    with pytest.raises(ValueError, match="no images yet"):
        sync(tmp_path / "other", "", address)
    with pytest.raises(ValueError, match="shard_images: expected 1 or more, got 0"):
        inventory.sync(
            tmp_path / "lib", str(tmp_path / "bad"), shard_images=0, thumbnail_short_side_px=64
        )


def test_a_name_that_is_not_utf8_is_refused_with_the_remedy(tmp_path, photograph, address):
    fill(tmp_path / "in", ["good", os.fsdecode(b"caf\xe9")], photograph)
    [(path, reason)] = sync(tmp_path / "lib", tmp_path / "in", address).rejects
    assert path.endswith("caf\\xe9.jpg") and "rename it if its name is not UTF-8" in reason


def test_removed_shard_takes_its_features_along(tmp_path, photograph, address):
    folder, root = tmp_path / "in", tmp_path / "lib"
    fill(folder, [f"p{i}" for i in range(8)], photograph)
    sync(root, folder, address)
    derived = root / "local_features" / "shard-00001.parquet"
    store.save(derived, pd.DataFrame({"x": [1]}), maker="t", settings={})
    for i in range(4, 8):
        (folder / f"p{i}.jpg").unlink()
    sync(root, folder, address)
    assert not derived.exists()
    assert len(inventory.read_images(root)) == 4
