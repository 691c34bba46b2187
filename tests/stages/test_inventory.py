# SPDX-License-Identifier: AGPL-3.0-or-later
"""Shards of images keep their place while folders grow, change and shrink."""

from __future__ import annotations

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from imgfp import stages, store
from imgfp.datatypes import file_of
from imgfp.decoding import Limits
from imgfp.images import encode_jpeg, read_bytes, sampled_digest
from imgfp.search import index
from imgfp.stages import inventory
from imgfp.stages.features import stored_features
from imgfp.stages.index import index_inputs, open_index
from imgfp.store import Library, Run, snapshots


def fill(folder, names, photograph, shift=0):
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        part = photograph[number + shift : number + shift + 100, :150]
        (folder / f"{name}.jpg").write_bytes(encode_jpeg(part))


def paint(folder, names, rng):
    """Pictures that are full of keypoints."""
    folder.mkdir(exist_ok=True)
    for name in names:
        blobs = cv2.resize(rng.integers(0, 256, (20, 30, 3), np.uint8), (300, 200))
        (folder / f"{name}.jpg").write_bytes(encode_jpeg(blobs))


def listed(collection, source, address, most_lost_share=0.5, **limits):
    settings = {"shard_images": 4, "thumbnail_short_side_px": 64, "limits": Limits(**limits)}
    settings["most_lost_share"] = most_lost_share
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
    assert (report.computed, report.reused) == (1, 12), "only the changed file may be looked at"

    (folder / "p09.jpg").unlink()
    (folder / "p08.jpg").unlink()
    (folder / "note.txt").unlink()
    report = listed(root, folder, address)
    assert (report.computed, report.reused, report.rejects) == (0, 10, [])
    assert len(inventory.read_images(root)) == 10 and inventory.gather_rejects(root).empty

    thumbnails = inventory.thumbnails(root, ["z_new", "a_new", "z_new"])
    assert [t.shape for t in thumbnails] == [(64, 96, 3)] * 3
    assert (thumbnails[0] == thumbnails[2]).all() and (thumbnails[0] != thumbnails[1]).any()
    with pytest.raises(KeyError, match="unknown"):
        inventory.thumbnails(root, ["unknown"])


def test_what_a_limit_refused_is_read_once_the_limit_is_raised(tmp_path, photograph, address):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    fill(folder, ["a", "b"], photograph)
    (folder / "large.jpg").write_bytes(encode_jpeg(photograph))
    report = listed(root, folder, address, max_megapixels=0.02)
    assert "more than the limit of 20,000" in report.rejects[0][1] and len(report.rejects) == 1
    assert listed(root, folder, address, max_megapixels=0.02).computed == 0
    report = listed(root, folder, address, max_megapixels=1)
    assert (report.computed, report.reused, report.rejects) == (1, 2, [])
    assert inventory.limits_of(root) == Limits(max_megapixels=1)
    assert inventory.gather_rejects(root).empty
    assert listed(root, folder, address, max_megapixels=1).computed == 0


def test_another_trial_is_made_when_it_is_asked_for(tmp_path, photograph, address, monkeypatch):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    fill(folder, ["a"], photograph)
    Image.new("RGB", (3000, 3000)).save(folder / "large.png")
    (folder / "never.jpg").write_bytes(b"no picture")
    tight = {"max_decode_memory_mb": 20}
    reasons = [reason for _, reason in listed(root, folder, address, **tight).rejects]
    assert "needs more than 20 MB to decode" in reasons and len(reasons) == 2
    assert listed(root, folder, address, **tight).computed == 0
    monkeypatch.setenv(store.RETRY, "1")
    report = listed(root, folder, address, **tight)
    assert (report.computed, report.reused, len(report.rejects)) == (1, 2, 2)
    monkeypatch.delenv(store.RETRY)
    monkeypatch.setattr(inventory, "__version__", "99")
    assert listed(root, folder, address, **tight).computed == 1, "the next version tries again"


def test_a_sample_holds_no_image_twice_and_none_that_has_gone(tmp_path, photograph, address):
    fill(tmp_path / "in", "abcdefghij", photograph)
    library = Library(tmp_path / "lib")
    listed(library, tmp_path / "in", address)
    (tmp_path / "in/c.jpg").unlink()
    listed(library, tmp_path / "in", address)
    every = inventory.sample_images(library, 100)
    assert sorted(every["image_id"]) == [*"abdefghij"]
    few = inventory.sample_images(library, 4, ["image_id", "path"])["image_id"].tolist()
    assert len(set(few)) == 4


def test_second_folder_extends_a_library(tmp_path, photograph, address):
    one, two, root = tmp_path / "one", tmp_path / "two", Library(tmp_path / "lib")
    fill(one, ["a", "b"], photograph)
    fill(two, ["c"], photograph)
    listed(root, one, address)
    listed(root, two, address)
    assert sorted(inventory.read_images(root)["image_id"]) == ["a", "b", "c"]
    assert listed(root, "", address).computed == 0
    fill(two, ["a"], photograph, shift=50)
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


@pytest.mark.parametrize(
    ("ids", "said"),
    [(["x", "x"], r"a\.jpg and .*b\.jpg share the id 'x'"), (["x", "x#0"], "'x#0' of .*b.jpg")],
)
def test_a_manifest_cannot_give_two_images_one_id(tmp_path, ids, said):
    manifest = tmp_path / "m.csv"
    pd.DataFrame({"image_id": ids, "path": ["a.jpg", "b.jpg"]}).to_csv(manifest, index=False)
    with pytest.raises(ValueError, match=said):
        inventory.list_files(manifest)


def test_ids_of_files_never_collide():
    expected = {
        "IMG_1.jpg": "IMG_1", "IMG_1.xmp": "IMG_1.xmp", "IMG_1.CR2": "IMG_1.CR2",  # sidecars
        "IMG_2.jpg": "IMG_2", "IMG_2.jpg.xmp": "IMG_2.jpg.xmp",
        "x.JPG": "x", "X.jpg": "X",
        "two.jpg": "two.jpg", "two.png": "two.png", "two.jpg.png": "two.jpg.png",
        "bare": "bare", "bare.jpg": "bare.jpg",
        "a.jpg": "a", "a#0.jpg": "a#0.jpg", "a@mirror.jpg": "a@mirror.jpg", "a#1": "./a#1",
        "a@2x.jpg": "a@2x", "sub/a#3.jpg": "sub/a#3",
        "b#0.jpg": "b#0", "b#0@mirror.jpg": "b#0@mirror.jpg",
        ".git/": ".git/", ".hidden.jpg": ".hidden", "f.v2.png": "f.v2",
        "d//e.jpg": "d//e.jpg", "d/e.jpg": "d/e.jpg",  # objects of a bucket
    }  # fmt: skip
    assert dict(zip(expected, inventory.image_ids(list(expected)), strict=True)) == expected


@pytest.mark.parametrize(
    "name",
    ["a/b.jpg", "a.b/c.d.jpg", "a//b.jpg", "./a.jpg", "a/./b.jpg", ".a.jpg", "a/.b", "a.", "a"],
)
def test_an_id_has_no_extension(name):
    assert inventory.image_ids([name]) == [PurePosixPath(name).with_suffix("").as_posix()]


def test_every_entry_of_a_folder_has_one_row(tmp_path, photograph, address):
    folder = tmp_path / "in"
    names = ["a", "A", ".dot", os.fsdecode(b"caf\xe9"), os.fsdecode(b"th\xe9"), r"th\xe9"]
    fill(folder, names, photograph)
    (folder / "a.xmp").write_text("a sidecar")
    (folder / ".cache").mkdir()
    (folder / "link").symlink_to(tmp_path)
    report = listed(Library(tmp_path / "lib"), folder, address)
    assert (report.computed, report.reused) == (9, 0)
    reasons = {path.removeprefix(f"{folder}/"): reason for path, reason in report.rejects}
    told = ["a.xmp", ".cache/", "link/", r"th\xe9.jpg (not UTF-8)"]
    assert sorted(reasons) == sorted(told)
    assert "rename it if its name is not UTF-8" in reasons[told[3]]
    images = inventory.read_images(Library(tmp_path / "lib"), ["image_id", "path", "sha256"])
    assert sorted(images["image_id"]) == [".dot", "A", "a", r"caf\xe9", r"th\xe9"]
    for path, digest in zip(images["path"], images["sha256"], strict=True):
        assert hashlib.sha256(read_bytes(path)).hexdigest() == digest
    plain = images.loc[images["image_id"] == r"th\xe9", "sha256"].item()
    assert plain == hashlib.sha256((folder / r"th\xe9.jpg").read_bytes()).hexdigest()
    assert listed(Library(tmp_path / "lib"), folder, address).computed == 0


def extracted(collection, address):
    return stages.extract_local_features(collection, cluster=address, short_side_px=0).computed


def test_a_shard_without_live_images_stays_and_comes_back(tmp_path, rng, address):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    paint(folder, [f"p{i}" for i in range(8)], rng)
    listed(root, folder, address)
    assert extracted(root, address) == 8
    away = tmp_path / "away"
    away.mkdir()
    for i in range(4, 8):
        os.rename(folder / f"p{i}.jpg", away / f"p{i}.jpg")
    listed(root, folder, address)
    assert len(inventory.read_images(root)) == 4 and extracted(root, address) == 0
    for path in away.iterdir():
        os.rename(path, folder / path.name)
    assert listed(root, folder, address).computed == 0 and extracted(root, address) == 0
    assert len(inventory.read_images(root)) == 8


def test_an_image_is_its_bytes(tmp_path, rng, address):
    """Dates, paths and sources only save reading."""
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    paint(folder, [f"p{i}" for i in range(6)], rng)
    (folder / "p0.xmp").write_text("not a picture")
    listed(root, folder, address)
    assert extracted(root, address) == 6
    state = store.describe(root.catalogue)["sha256"]

    for path in folder.iterdir():
        os.utime(path, (1, 1))
    assert listed(root, folder, address).computed == 1, "only the refused file is tried again"
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    assert listed(root, copy, address).computed == 1
    moved = copy.rename(tmp_path / "moved")
    assert listed(root, moved, address).computed == 1
    assert store.describe(root.catalogue)["sha256"] == state, "later stages have nothing to do"
    images = inventory.read_images(root)
    assert images["path"].tolist() == [str(moved / f"p{i}.jpg") for i in range(6)]
    assert inventory.gather_rejects(root)["path"].tolist() == [str(moved / "p0.xmp")]
    assert next(iter(inventory.ShardImages(root, "shard-00000")))["path"] == str(moved / "p0.jpg")
    assert extracted(root, address) == 0
    assert listed(root, moved, address).computed == 0, "what was recognised is not read again"

    settings = {"shard_images": 4, "cluster": address}
    again = stages.list_images(root, str(moved), thumbnail_short_side_px=32, **settings)
    assert again.computed == 7, "a shard is made again from where its files are now"
    assert len(inventory.read_images(root)) == 6

    other = folder.rename(tmp_path / "other")
    moved.rename(folder)
    before = (folder / "p1.jpg").stat()
    data = bytearray((folder / "p1.jpg").read_bytes())
    data[-3000:-100] = data[-3000:-100][::-1]
    (folder / "p1.jpg").write_bytes(data)
    os.utime(folder / "p1.jpg", ns=(before.st_atime_ns, before.st_mtime_ns))
    shutil.copyfile(other / "p2.jpg", folder / "p3.jpg")
    listed(root, folder, address, most_lost_share=0)
    digests = inventory.read_images(root).set_index("image_id")["sha256"]
    assert digests["p3"] == digests["p2"], "moved with a changed picture"
    assert digests.get("p1", "") != images.set_index("image_id")["sha256"]["p1"]


def test_other_bytes_of_the_same_size_and_date_are_found(tmp_path, rng, address):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    folder.mkdir()
    for name in ("a", "b"):
        pixels = rng.integers(0, 256, (200, 300, 3), np.uint8)
        (folder / f"{name}.bmp").write_bytes(cv2.imencode(".bmp", pixels)[1].tobytes())
        os.utime(folder / f"{name}.bmp", (1, 1))
    listed(root, folder, address)
    shutil.copy2(folder / "b.bmp", folder / "a.bmp")
    assert listed(root, folder, address).computed == 1
    assert inventory.read_images(root)["sha256"].nunique() == 1


def test_of_many_files_that_look_unchanged_some_are_compared(
    tmp_path, photograph, address, monkeypatch, capsys
):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    fill(folder, [f"p{i}" for i in range(6)], photograph)
    listed(root, folder, address)
    compared = []

    def digest(path):
        compared.append(path)
        return sampled_digest(path)

    monkeypatch.setattr(inventory, "COMPARED_FILES", 3)
    monkeypatch.setattr(inventory, "sampled_digest", digest)
    assert listed(root, folder, address).computed == 0
    assert len(compared) == 3
    assert "drawn with seed" in capsys.readouterr().out
    for path in folder.iterdir():
        before = path.stat()
        path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    _, new = inventory.survey(root, str(folder), most_lost_share=1)
    assert len(new) == 6, "where one has changed, all are compared"


def test_rows_of_shards_are_read_once(tmp_path, photograph, address, monkeypatch):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    fill(folder, [f"p{i}" for i in range(9)], photograph)
    listed(root, folder, address)
    inputs = []
    for path in store.shards(root.images, ".parquet"):
        rows = store.load(path)
        inputs.append([*(rows["image_id"] + rows["sha256"])])
    tasks = inventory.image_tasks(root, root.local_features, ".h5", {"p0"})
    assert [[*task.inputs] for task in tasks] == [inputs[0][1:], *inputs[1:]]

    read = []

    def reading(path, made=inventory._read_rows):
        read.append(path.name)
        return made(path)

    monkeypatch.setattr(inventory, "_read_rows", reading)
    (folder / "a.jpg").write_bytes(encode_jpeg(photograph[50:150]))
    assert listed(root, folder, address).computed == 1
    assert {*read} == {"shard-00003.parquet"}
    read.clear()
    assert listed(root, folder, address).computed == 0
    assert not read
    root.rows.write_bytes(b"damaged")
    assert listed(root, folder, address).computed == 0
    assert len({*read}) == 4
    assert len(store.load(root.rows)) == 10


def test_nothing_is_forgotten_where_a_folder_lost_too_much(tmp_path, photograph, address):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    fill(folder, [f"p{i}" for i in range(6)], photograph)
    listed(root, folder, address)

    def state():
        files = [path for path in root.root.rglob("*") if path.is_file() and path.name[0] != "."]
        return {path: path.read_bytes() for path in files}

    before = state()
    away = folder.rename(tmp_path / "unmounted")
    fill(folder, ["stray"], photograph, shift=50)
    with pytest.raises(ValueError, match=r"lacks 6 of 6 references .* nothing was changed") as said:
        listed(root, folder, address)
    assert "\n" not in str(said.value) and state() == before
    shutil.rmtree(folder)
    part = tmp_path / "part"
    part.mkdir()
    shutil.copy2(away / "p1.jpg", part)
    with pytest.raises(ValueError, match="lacks 5 of 6 references"):
        listed(root, part, address)
    assert state() == before, "moved, and lost on the way"
    listed(root, part, address, most_lost_share=1)
    assert inventory.read_images(root)["image_id"].tolist() == ["p1"]
    assert listed(root, away, address).computed == 0, "what was left out comes back"


def test_a_run_holds_the_queries_of_one_folder(tmp_path, photograph, address):
    one, two, run = tmp_path / "one", tmp_path / "two", Run(tmp_path / "run")
    fill(one, ["a", "b"], photograph)
    fill(two, ["c"], photograph)
    listed(run, one, address)
    with pytest.raises(ValueError, match=f"holds the queries of {one}; name another run_dir"):
        inventory.survey(run, str(two))
    one.rename(tmp_path / "moved")
    assert listed(run, tmp_path / "moved", address).computed == 0


def test_what_goes_and_comes_back_costs_nothing(tmp_path, rng, address):
    """One removed or changed reference must not make its whole shard be extracted again."""
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    paint(folder, [f"p{i}" for i in range(8)], rng)
    listed(root, folder, address)
    extract = {"cluster": address, "short_side_px": 0}
    assert stages.extract_local_features(root, **extract).computed == 8
    build = {"factory": "Flat", "seed": 0, "part_images": 100, "cluster": address}
    stages.build_index(root, "local", **build)
    whole = open_index(root, "local").index

    away = tmp_path / "p2.jpg"
    os.rename(folder / "p2.jpg", away)
    inputs = index_inputs(root, "local")
    listed(root, folder, address)
    stages.build_index(root, "local", **build)
    assert index_inputs(root, "local") != inputs, "candidates must be searched again"
    paint(folder, ["p5"], rng)
    assert listed(root, folder, address).computed == 1
    assert stages.extract_local_features(root, **extract).computed == 1
    catalogue = store.open_catalogue(root)
    assert len(catalogue) == 7 and catalogue.rows_of(["p2"]).tolist() == [-1]
    assert store.shard_and_row(catalogue.places_of(["p5"]))[0].tolist() == [2]
    stages.build_index(root, "local", **build)
    opened = open_index(root, "local")
    lookup = stored_features(root)
    _, ids = index.search(opened.index, lookup.of("p5")[1], 3)
    found = opened.owners.image_ids(np.unique(index.places_of(ids)))
    assert "p2" not in found and "p5" in found
    removed = store.load(root.index("local").removed)["id"]
    assert len(opened.index) - len(removed) == sum(
        len(lookup.of(name)[0]) for name in inventory.read_images(root)["image_id"]
    )

    os.rename(away, folder / "p2.jpg")
    assert listed(root, folder, address).computed == 0
    assert stages.extract_local_features(root, **extract).computed == 0
    stages.build_index(root, "local", **build)
    assert len(store.load(root.index("local").removed)) < len(removed)
    assert len(open_index(root, "local").index) > len(whole)


def test_what_was_computed_without_an_image_is_not_taken_for_it(tmp_path, rng, address):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    paint(folder, ["a", "b", "c"], rng)
    listed(root, folder, address)
    away = tmp_path / "b.jpg"
    os.rename(folder / "b.jpg", away)
    listed(root, folder, address)
    extract = {"cluster": address, "short_side_px": 0}
    stages.extract_local_features(root, **extract)
    assert "b" not in stored_features(root)
    os.rename(away, folder / "b.jpg")
    assert listed(root, folder, address).computed == 1
    assert stages.extract_local_features(root, **extract).computed == 1
    assert len(stored_features(root).of("b")[0])


def test_a_listing_that_is_killed_leaves_the_former_state(
    tmp_path, photograph, address, monkeypatch
):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    fill(folder, ["a", "b", "c", "d"], photograph)
    listed(root, folder, address)
    before = inventory.read_images(root)["image_id"].tolist()
    for name in "abcd":
        (folder / f"{name}.jpg").unlink()
    fill(folder, ["e"], photograph)
    monkeypatch.setattr(inventory, "save_state", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        listed(root, folder, address, most_lost_share=1)
    assert set(before) <= set(inventory.read_images(root)["image_id"])
    monkeypatch.undo()
    assert listed(root, folder, address, most_lost_share=1).computed == 0
    assert inventory.read_images(root)["image_id"].tolist() == ["e"]


def test_a_library_without_a_catalogue_is_read_all_the_same(tmp_path, photograph, address):
    """Libraries of the versions before have none."""
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    fill(folder, ["a", "b"], photograph)
    (folder / "broken.jpg").write_bytes(b"")
    listed(root, folder, address)
    written = store.open_catalogue(root)
    store.remove(root.catalogue)
    built = store.open_catalogue(root)
    assert built is not written and len(built) == 2
    for name in ("a", "b"):
        for ask in (built.places_of, built.sizes_of, built.digests_of):
            assert np.array_equal(ask([name]), getattr(written, ask.__name__)([name]))
    assert listed(root, folder, address).computed == 0 and root.catalogue.exists()


def test_rejects_of_both_sides_are_saved_once(tmp_path, photograph, address):
    run, library = Run(tmp_path / "run"), Library(tmp_path / "lib")
    fill(tmp_path / "in", ["a"], photograph)
    (tmp_path / "in" / "broken.jpg").write_bytes(b"")
    for collection in (run, library):
        listed(collection, tmp_path / "in", address)
    rejects = inventory.save_rejects(run, library)
    assert rejects["path"].tolist() == [str(tmp_path / "in" / "broken.jpg")]
    pd.testing.assert_frame_equal(pd.read_csv(run.rejects_csv), rejects)


def test_a_run_finishes_with_the_snapshot_that_it_began_with(tmp_path, rng, address):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    first, second = Run(tmp_path / "first"), Run(tmp_path / "second")
    build = {"factory": "Flat", "seed": 0, "part_images": 100, "cluster": address}
    paint(folder, [f"p{i}" for i in range(6)], rng)
    listed(root, folder, address)
    begun = store.begin(first, root)
    assert begun.snapshot == 1 == store.begin(second, root).snapshot, "nothing has changed"
    extracted(begun, address)
    stages.build_index(begun, "local", **build)

    def found(library):
        opened, keypoints = open_index(library, "local"), stored_features(library).of("p1")[1]
        _, ids = index.search(opened.index, keypoints, 400)
        return {*opened.owners.image_ids(np.unique(index.places_of(ids[ids >= 0])))}

    held = {f"p{i}" for i in range(6)}
    assert found(begun) == held
    paint(folder, [f"q{i}" for i in range(6)], rng)
    (folder / "p2.jpg").unlink()
    listed(root, folder, address)
    now = store.begin(second, root)
    assert now.snapshot == 2 and store.open_sides(root.root, first.root) == (begun, first)
    assert extracted(now, address) == 6 and extracted(begun, address) == 0
    assert {*inventory.read_images(begun)["image_id"]} == held
    assert store.open_catalogue(begun).places_of(["p2"]).size == 1
    assert [*inventory.masked_ids(now, "shard-00000")] == ["p2"]
    for builder in (now, begun):
        stages.build_index(builder, "local", **build)
        assert found(begun) == held, "neither what came nor what went later"
        assert found(now) == held - {"p2"} | {f"q{i}" for i in range(6)}
    assert index_inputs(begun, "local") != index_inputs(now, "local")

    for number in range(snapshots.KEPT):
        os.utime(folder / "p0.jpg", (number, number))
        listed(root, folder, address)
        store.take_snapshot(root)
    with pytest.raises(store.SnapshotGone, match=r"snapshot 1 of .* not kept any more"):
        store.open_sides(root.root, first.root)


def test_two_listings_of_one_library_queue(tmp_path, photograph, address):
    one, two, root = tmp_path / "one", tmp_path / "two", Library(tmp_path / "lib")
    fill(one, ["a", "b"], photograph)
    fill(two, ["c"], photograph, shift=50)
    with ThreadPoolExecutor() as threads:
        with store.lock(root.root):
            second = threads.submit(listed, root, two, address)
            assert listed(root, one, address).computed == 2
        assert second.result().computed == 1
    assert sorted(inventory.read_images(root)["image_id"]) == ["a", "b", "c"]


def pages(path, rng, count):
    """A document in which each page shows something else."""
    shown = rng.integers(0, 256, (count, 20, 30, 3), np.uint8)
    first, *others = [Image.fromarray(cv2.resize(one, (300, 200))) for one in shown]
    first.save(path, save_all=True, append_images=others)


def test_frames_live_and_move_with_their_file(tmp_path, photograph, rng, address):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    fill(folder, ["a", "z"], photograph)
    pages(folder / "doc.tif", rng, 6)
    frames = ["doc#frame=4", "doc#frame=6"]
    assert str(listed(root, folder, address, max_frames=3)) == "3 computed, 0 reused, 0 refused"
    images = inventory.read_images(root).set_index("image_id")
    assert images.index.tolist() == ["a", "doc", "z", *frames]
    assert images.loc["doc", "notes"] == "frame 1 of 6, 3 of 6 frames searched"
    assert images.loc[frames, "notes"].tolist() == ["frame 4 of 6", "frame 6 of 6"]
    assert images["sha256"].is_unique and inventory.file_ids(root) == ["a", "doc", "z"]
    assert store.open_catalogue(root).count_files() == 3
    records = images.reset_index()[["image_id", "path"]].to_dict("records")
    shown = {record["image_id"]: image for record, image in inventory.decoded(records, [])}
    assert len({image.tobytes() for image in shown.values()}) == 5

    moved = folder.rename(tmp_path / "moved")
    assert listed(root, moved, address, max_frames=3).computed == 0
    assert inventory.resolved_paths(root, frames) == [str(moved / "doc.tif")] * 2
    away = (moved / "doc.tif").rename(tmp_path / "doc.tif")
    listed(root, moved, address, max_frames=3)
    assert inventory.read_images(root)["image_id"].tolist() == ["a", "z"]
    away.rename(moved / "doc.tif")
    assert listed(root, moved, address, max_frames=3).computed == 0
    assert len(inventory.read_images(root)) == 5

    settings = {"shard_images": 4, "thumbnail_short_side_px": 32, "limits": Limits(max_frames=3)}
    assert stages.list_images(root, str(moved), **settings, cluster=address).computed == 3
    assert len(inventory.read_images(root)) == 5


def test_another_number_of_frames_is_read_anew(tmp_path, photograph, rng, address):
    folder, root = tmp_path / "in", Library(tmp_path / "lib")
    fill(folder, ["a"], photograph)
    pages(folder / "doc.tif", rng, 6)
    for number, count in enumerate((1, 3, 2, 1)):
        report = listed(root, folder, address, max_frames=count)
        assert report.computed == (2 if number == 0 else 1), "only the document may be read again"
        assert len(inventory.read_images(root)) == 1 + count
        assert listed(root, folder, address, max_frames=count).computed == 0


def test_no_file_has_the_id_of_a_frame():
    names = ["b.gif", "b#frame=3", "b#frame=3.jpg", "c#frame=2.png", "d#frame=2#0.png"]
    names.append("b#frame=3@mirror.jpg")
    ids = inventory.image_ids(names)
    assert ids[0] == "b" and ids[3] == "c#frame=2.png" and len({*ids}) == len(names)
    taken = {"b#frame=3", "b#frame=3#0", "b#frame=3@mirror", "c#frame=2", "d#frame=2#0"}
    assert not taken & {*ids} and all(file_of(one) == one for one in ids)
