# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures at a URL give what the same pictures in a folder give; so does a fetched library."""

from __future__ import annotations

import fsspec
import numpy as np
import pandas as pd
import pytest
from distributed import LocalCluster
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from imgfp import stages, store, urls
from imgfp.images import encode_jpeg
from imgfp.stages import inventory
from imgfp.store import FeatureLookup, Library

LISTED = {"shard_images": 4, "thumbnail_short_side_px": 64}
FEATURES = {"short_side_px": 200}


@pytest.fixture
def folder(tmp_path, photograph):
    """Pictures of which one is below another folder and one is none; a name that is a place in a URL."""
    folder = tmp_path / "in"
    for number, name in enumerate(["a", "b%2Fc", "sub/d e", "sub/é#1", "q?x=1"]):
        path = folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(photograph[10 * number :][:150, :200]))
    (folder / "note.txt").write_text("no picture")
    return folder


def listed(collection, source, **where):
    report = stages.list_images(collection, source, **LISTED, **where)
    stages.extract_local_features(collection, **FEATURES, **where)
    return report


def same(one, two):
    """Assert that two collections hold the same pictures with the same features."""
    facts = ["image_id", "sha256", "format", "width", "height", "notes", "file_bytes"]
    tables = [inventory.read_images(c, [*facts, "thumbnail"]) for c in (one, two)]
    pd.testing.assert_frame_equal(*tables)
    lookups = [FeatureLookup(c.local_features) for c in (one, two)]
    for image_id in tables[0]["image_id"]:
        for ours, theirs in zip(*(lookup.of(image_id) for lookup in lookups), strict=True):
            assert len(ours) and np.array_equal(ours, theirs)


def test_a_url_gives_what_the_folder_gives(tmp_path, folder, address):
    by_path, by_url = Library(tmp_path / "path"), Library(tmp_path / "url")
    assert str(listed(by_path, str(folder), cluster=address)).startswith("6 computed")
    report = listed(by_url, f"file://{folder}/", cluster=address)
    assert report.computed == 6
    [(path, reason)] = report.rejects
    assert path == f"file://{folder}/note.txt" and "is not an image" in reason
    same(by_path, by_url)
    assert inventory.read_images(by_url, ["source"])["source"].unique() == [f"file://{folder}"]
    assert listed(by_url, f"file://{folder}", cluster=address).computed == 0

    (folder / "a.jpg").write_bytes((folder / "b%2Fc.jpg").read_bytes())
    (folder / "sub/d e.jpg").unlink()
    assert listed(by_url, f"file://{folder}", cluster=address).computed == 1
    assert "sub/d e" not in inventory.read_images(by_url, ["image_id"])["image_id"].tolist()


def test_a_manifest_names_urls_and_files(tmp_path, folder, address):
    rows = {
        "x": f"file://{folder}/a.jpg",
        "y": "in/sub/d e.jpg",
        "gone": f"file://{folder}/gone.jpg",
    }
    manifest = tmp_path / "m.csv"
    pd.DataFrame(rows.items(), columns=["image_id", "path"]).to_csv(manifest, index=False)
    report = listed(Library(tmp_path / "lib"), str(manifest), cluster=address)
    assert report.rejects == [(rows["gone"], "there is no such object, folder or bucket")]
    images = inventory.read_images(Library(tmp_path / "lib"), ["image_id", "path"])
    assert images["path"].tolist() == [rows["x"], str(folder / "sub/d e.jpg")]

    moved = folder / "m.csv"
    moved.write_text("image_id,path\nx,a.jpg\n")
    listed(Library(tmp_path / "other"), f"file://{moved}", cluster=address)
    images = inventory.read_images(Library(tmp_path / "other"), ["image_id", "path"])
    assert images["path"].tolist() == [f"file://{folder}/a.jpg"]


def test_sources_that_cannot_serve_say_why(tmp_path, address):
    for source, said in (
        (f"file://{tmp_path}/gone", "there is no such object, folder or bucket"),
        (f"file://{tmp_path}", "holds no files"),
        ("s3://key:hunter2@bucket", r"s3://\*\*\*@bucket: holds a password"),
        ("nonesuch://x", "nonesuch:// cannot be used"),
    ):
        with pytest.raises(ValueError, match=said):
            listed(Library(tmp_path / "lib"), source, cluster=address)
    assert not (tmp_path / "lib").exists()


def test_a_fetched_library_serves_and_is_not_extended(tmp_path, folder, address, monkeypatch):
    (tmp_path / "params").mkdir()
    monkeypatch.chdir(tmp_path)
    made, source, url = Library("library/made"), f"file://{folder}", f"file://{tmp_path}/shelf"
    listed(made, source, cluster=address)
    settings = {"factory": "Flat", "seed": 0, "part_images": 1000}
    stages.build_index(made, "local", **settings, cluster=address)
    store.publish(made, url)
    store.fetch(url)

    fetched = Library(url)
    same(made, fetched)
    for reference_dir in ("", source):
        assert listed(fetched, reference_dir, cluster=address).computed == 0
    index = stages.build_index(fetched, "local", **settings, cluster=address)
    assert index.vectors == stages.build_index(made, "local", **settings, cluster=address).vectors

    for change in (
        lambda: stages.extract_local_features(fetched, short_side_px=90, cluster=address),
        lambda: stages.build_index(fetched, "local", **settings | {"seed": 1}, cluster=address),
        lambda: (folder / "a.jpg").unlink() or listed(fetched, source, cluster=address),
    ):
        with pytest.raises(store.StoreError, match=f"library {url} is read only, and its .* DIR$"):
            change()
    same(made, fetched)


class Failing(MemoryFileSystem):
    """A store that raises for some names."""

    protocol = "failing"
    errors: dict[str, Exception] = {}  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("failing://", "memory://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        if path in self.errors:
            raise self.errors[path]
        return super().cat_file(path, start=start, end=end, **kwargs)


@pytest.fixture
def failing(monkeypatch, photograph):
    """Three pictures in `failing://pics`, for workers in this process."""
    fsspec.register_implementation("failing", Failing, clobber=True)
    monkeypatch.setattr(urls, "WAITS_S", ())
    monkeypatch.setattr(Failing, "errors", {})
    pictures = fsspec.filesystem("memory")
    pictures.store.clear()
    for number, name in enumerate("abc"):
        picture = photograph[10 * number :][:150, :200]
        pictures.pipe_file(f"/pics/{name}.jpg", encode_jpeg(picture))
    yield Failing
    pictures.store.clear()


@pytest.fixture
def here():
    """Address of a worker in this process."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), PermissionError("token expired")])
def test_what_could_not_be_reached_is_asked_for_again(tmp_path, failing, here, error):
    library, source = Library(tmp_path / "lib"), "failing://pics"
    failing.errors["/pics/b.jpg"] = error
    [(path, reason)] = listed(library, source, cluster=here).rejects
    assert path == f"{source}/b.jpg" and str(error) in reason
    assert inventory.read_images(library)["image_id"].tolist() == ["a", "c"]

    del failing.errors["/pics/b.jpg"]
    failing.errors["/pics/c.jpg"] = error
    again = stages.list_images(library, source, **LISTED, cluster=here)
    assert (again.computed, again.reused, again.rejects) == (1, 2, [])
    refused = stages.extract_local_features(library, short_side_px=100, cluster=here)
    assert [path for path, _ in refused.rejects] == [f"{source}/c.jpg"]

    del failing.errors["/pics/c.jpg"]
    assert stages.list_images(library, source, **LISTED, cluster=here).computed == 1
    mended = stages.extract_local_features(library, short_side_px=100, cluster=here)
    assert mended.computed == 1
    lookup = FeatureLookup(library.local_features)
    assert all(len(lookup.of(image_id)[0]) for image_id in "abc")
    assert sorted(inventory.read_images(library)["image_id"]) == ["a", "b", "c"]
    assert inventory.gather_rejects(library).empty
    assert stages.list_images(library, source, **LISTED, cluster=here).computed == 0


class Guarded(LocalFileSystem):
    """A file system with a folder that it does not list."""

    protocol = "guarded"
    error: Exception | None = None

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("guarded://"))

    def ls(self, path, detail=False, **options):
        if path.endswith("/sub") and self.error:
            raise self.error
        return super().ls(path, detail, **options)


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), PermissionError("no right")])
def test_a_folder_that_cannot_be_listed_is_refused_by_name(
    tmp_path, folder, here, monkeypatch, error
):
    fsspec.register_implementation("guarded", Guarded, clobber=True)
    monkeypatch.setattr(urls, "WAITS_S", ())
    monkeypatch.setattr(Guarded, "error", error)
    library, source = Library(tmp_path / "lib"), f"guarded://{folder}"
    rejects = dict(stages.list_images(library, source, **LISTED, cluster=here).rejects)
    assert rejects.keys() == {f"{source}/sub/", f"{source}/note.txt"}
    assert str(error) in rejects[f"{source}/sub/"]
    assert len(inventory.read_images(library)) == 3
    monkeypatch.setattr(Guarded, "error", None)
    stages.list_images(library, source, **LISTED, cluster=here)
    assert len(inventory.read_images(library)) == 5
    assert inventory.gather_rejects(library)["path"].tolist() == [f"{source}/note.txt"]


def test_what_an_object_is_to_blame_for_is_not_asked_for_again(tmp_path, failing, here):
    fsspec.filesystem("memory").pipe_file("/pics/b.jpg", b"no picture")
    library = Library(tmp_path / "lib")
    first = stages.list_images(library, "failing://pics", **LISTED, cluster=here)
    again = stages.list_images(library, "failing://pics", **LISTED, cluster=here)
    assert (first.computed, again.computed) == (3, 0)
    assert first.rejects == again.rejects != []


def test_pictures_and_library_in_an_s3_bucket(tmp_path, folder, monkeypatch):
    pytest.importorskip("s3fs", reason="s3:// needs s3fs, which is not installed")
    server = pytest.importorskip("moto.server", reason="moto, a local S3, is not installed")
    storage = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    storage.start()
    host, port = storage.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "params").mkdir()
    monkeypatch.chdir(tmp_path)
    try:
        with pytest.raises(ValueError, match=r"^s3://nowhere/pics: there is no such object"):
            listed(Library("library/s3"), "s3://nowhere/pics")
        bucket = fsspec.filesystem("s3")
        bucket.mkdir("bucket")
        for path in folder.rglob("*"):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                bucket.pipe_file(f"bucket/pics/{name}", path.read_bytes())
        bucket.pipe_file("bucket/pics/sub//twice.jpg", (folder / "a.jpg").read_bytes())
        (folder / "sub/twice.jpg").write_bytes((folder / "a.jpg").read_bytes())
        listed(Library("library/path"), str(folder), workers=1)
        made = Library("library/s3")
        report = listed(made, "s3://bucket/pics", workers=1)
        assert [path for path, _ in report.rejects] == ["s3://bucket/pics/note.txt"]
        same(Library("library/path"), made)
        assert listed(made, "s3://bucket/pics", workers=1).computed == 0

        swapped = (folder / "a.jpg").read_bytes()[:-2] + b"\0\0"
        bucket.pipe_file("bucket/pics/a.jpg", swapped)
        assert listed(made, "s3://bucket/pics", workers=1).computed == 1

        with pytest.raises(store.StoreError, match="holds no published library"):
            store.fetch("s3://bucket/shelf/made")
        with pytest.raises(ValueError, match="there is no bucket nowhere"):
            store.publish(made, "s3://nowhere/made")
        assert not bucket.exists("nowhere")
        store.publish(made, "s3://bucket/shelf/made")
        assert store.publish(made, "s3://bucket/shelf/made").copied == 0
        store.fetch("s3://bucket/shelf/made")
        same(made, Library("s3://bucket/shelf/made"))
    finally:
        storage.stop()
