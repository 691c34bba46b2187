"""Shards of images keep their place while folders grow, change and shrink."""

from __future__ import annotations

import os

import pandas as pd
import pytest
from small_run import made_with

from imgfp import stages, store
from imgfp.images import encode_jpeg
from imgfp.stages import inventory
from imgfp.store import Library, Run


def fill(folder, names, photograph, shift=0):
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        part = photograph[number + shift : number + shift + 100, :150]
        (folder / f"{name}.jpg").write_bytes(encode_jpeg(part))


def listed(collection, source, address):
    settings = {"shard_images": 4, "thumbnail_short_side_px": 64}
    return stages.list_images(collection, str(source), **settings, cluster=address)


def test_life_of_a_folder(tmp_path, photograph, address):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    fill(folder, [f"p{i:02d}" for i in range(10)], photograph)
    (folder / "note.txt").write_text("not a picture")
    assert str(listed(root, folder, address)) == "11 computed, 0 reused, 1 refused"
    images = inventory.read_images(root)
    assert len(images) == 10 and images["shard"].nunique() == 3
    assert inventory.gather_rejects(root)["path"].tolist() == [str(folder / "note.txt")]

    fill(folder, ["a_new", "z_new"], photograph, shift=50)
    report = listed(root, folder, address)
    assert (report.computed, report.reused) == (2, 11), "only the new files may be looked at"

    fill(folder, ["p00"], photograph, shift=99)
    report = listed(root, folder, address)
    assert report.computed == 4, "only the shard of the changed file may be looked at"

    (folder / "p09.jpg").unlink()
    (folder / "p08.jpg").unlink()
    listed(root, folder, address)
    assert len(inventory.read_images(root)) == 10

    thumbnails = inventory.thumbnails(root, ["z_new", "a_new", "z_new"])
    assert [t.shape for t in thumbnails] == [(64, 96, 3)] * 3
    assert (thumbnails[0] == thumbnails[2]).all() and (thumbnails[0] != thumbnails[1]).any()
    with pytest.raises(KeyError, match="unknown"):
        inventory.thumbnails(root, ["unknown"])


def test_second_folder_extends_a_library(tmp_path, photograph, address):
    one, two, root = tmp_path / "one", tmp_path / "two", Library(tmp_path / "lib")
    fill(one, ["a", "b"], photograph)
    fill(two, ["c"], photograph)
    listed(root, one, address)
    listed(root, two, address)
    assert sorted(inventory.read_images(root)["image_id"]) == ["a", "b", "c"]
    assert listed(root, "", address).computed == 0
    fill(two, ["a"], photograph)
    with pytest.raises(ValueError, match="id 'a' comes from"):
        listed(root, two, address)


def test_manifest_names_the_ids(tmp_path, photograph, address):
    fill(tmp_path / "in", ["a", "b"], photograph)
    manifest = tmp_path / "m.csv"
    pd.DataFrame({"image_id": ["x/1", "y,2"], "path": ["in/a.jpg", "in/b.jpg"]}).to_csv(
        manifest, index=False
    )
    listed(Library(tmp_path / "lib"), manifest, address)
    assert inventory.read_images(Library(tmp_path / "lib"))["image_id"].tolist() == ["x/1", "y,2"]


def test_folders_that_cannot_serve_say_why(tmp_path, photograph, address):
    with pytest.raises(FileNotFoundError, match="does not exist; check the path"):
        listed(Library(tmp_path / "lib"), tmp_path / "gone", address)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no files"):
        listed(Library(tmp_path / "lib"), tmp_path / "empty", address)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.jpg").write_bytes(b"no")
    with pytest.raises(ValueError, match="no readable picture"):
        listed(Library(tmp_path / "lib"), tmp_path / "bad", address)
    with pytest.raises(ValueError, match="no images yet"):
        listed(Library(tmp_path / "other"), "", address)
    with pytest.raises(ValueError, match="shard_images: expected 1 or more, got 0"):
        stages.list_images(
            Library(tmp_path / "lib"),
            str(tmp_path / "bad"),
            shard_images=0,
            thumbnail_short_side_px=64,
        )


def test_a_name_that_is_not_utf8_is_refused_with_the_remedy(tmp_path, photograph, address):
    fill(tmp_path / "in", ["good", os.fsdecode(b"caf\xe9")], photograph)
    [(path, reason)] = listed(Library(tmp_path / "lib"), tmp_path / "in", address).rejects
    assert path.endswith("caf\\xe9.jpg") and "rename it if its name is not UTF-8" in reason


def test_removed_shard_takes_its_features_along(tmp_path, photograph, address):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    fill(folder, [f"p{i}" for i in range(8)], photograph)
    listed(root, folder, address)
    derived = root.local_features / "shard-00001.parquet"
    store.save(derived, pd.DataFrame({"x": [1]}), made_with())
    for i in range(4, 8):
        (folder / f"p{i}.jpg").unlink()
    listed(root, folder, address)
    assert not derived.exists()
    assert len(inventory.read_images(root)) == 4


def test_rejects_of_both_sides_are_saved_once(tmp_path, photograph, address):
    run, library = Run(tmp_path / "run"), Library(tmp_path / "lib")
    fill(tmp_path / "in", ["a"], photograph)
    (tmp_path / "in" / "broken.jpg").write_bytes(b"")
    for collection in (run, library):
        listed(collection, tmp_path / "in", address)
    rejects = inventory.save_rejects(run, library)
    assert rejects["path"].tolist() == [str(tmp_path / "in" / "broken.jpg")]
    pd.testing.assert_frame_equal(pd.read_csv(run.rejects_csv), rejects)
