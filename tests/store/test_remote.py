# SPDX-License-Identifier: AGPL-3.0-or-later
"""A library goes to a URL and comes back whole, or not at all."""

from __future__ import annotations

import json
import shutil

import fsspec
import numpy as np
import pandas as pd
import pytest
from small_run import made_with

from imgfp import store, urls
from imgfp.__main__ import main
from imgfp.store import StoreError, fetched

URL = "memory://shelf/mine"


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture
def library(tmp_path, memory, monkeypatch):
    """A small library in a project."""
    (tmp_path / "params").mkdir()
    monkeypatch.chdir(tmp_path)
    library = store.Library("library/mine")
    table = pd.DataFrame({"x": [1, 2]})
    for number in range(3):
        store.save(library.images / f"shard-{number:05d}.parquet", table, made_with(str(number)))
    folder = library.index("local")
    store.save(folder.part(0, 2), bytes(range(256)) * 100, made_with("part"))
    store.save(folder.manifest, {"parts": ["part-00000-00002.faiss"]}, made_with("manifest"))
    return library


def content(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_a_library_comes_back_byte_for_byte(library, memory):
    done = store.publish(library, URL)
    assert (done.copied, done.kept, done.removed) == (5, 0, 0)
    assert {name.removeprefix("/shelf/mine/") for name in memory.store} == {
        *content(library.root),
        "published.json",
    }
    came = store.fetch(URL)
    assert (came.copied, came.bytes, came.kept) == (5, done.bytes, 0)
    opened = store.Library(URL)
    assert opened.root == library.root.parent / "fetched" / opened.name
    assert opened.name.startswith("mine-") and store.Library(URL + "/") == opened
    assert content(opened.root) == content(library.root)
    assert len(store.load(opened.images / "shard-00001.parquet")) == 2


def test_what_is_there_is_not_copied_again(library, memory, monkeypatch):
    store.publish(library, URL)
    store.fetch(URL)
    written = []
    monkeypatch.setattr(urls, "write", lambda url, source: written.append(url))
    assert str(store.publish(library, URL)).startswith("0 artefacts copied (0.0 MB), 5 unchanged")
    assert not written
    monkeypatch.undo()
    monkeypatch.chdir(library.root.parents[1])
    pieces = []
    whole = urls.pieces
    monkeypatch.setattr(urls, "pieces", lambda url, n: pieces.append(url) or whole(url, n))
    store.save(library.images / "shard-00001.parquet", pd.DataFrame({"x": [9]}), made_with("9"))
    store.remove(library.images / "shard-00002.parquet")
    done = store.publish(library, URL)
    assert (done.copied, done.kept, done.removed) == (1, 3, 1)
    came = store.fetch(URL)
    assert (came.copied, came.kept, came.removed) == (1, 3, 1)
    assert pieces == [f"{URL}/images/shard-00001.parquet"]
    assert content(store.Library(URL).root) == content(library.root)


def test_an_ended_publication_is_none_and_goes_on(library, memory, monkeypatch):
    write, written = urls.write, []

    def failing(url, source):
        if len(written) == 5:
            raise urls.UrlError(url, "cannot be reached")
        written.append(url)
        write(url, source)

    monkeypatch.setattr(urls, "write", failing)
    monkeypatch.setattr(urls, "REQUESTS", 1)
    with pytest.raises(urls.UrlError, match="cannot be reached"):
        store.publish(library, URL)
    assert [url + ".json" for url in written[::2]][:2] == written[1::2], "sidecars come last"
    with pytest.raises(
        StoreError, match="holds no published library, or it is being published now"
    ):
        store.fetch(URL)
    monkeypatch.setattr(
        urls, "write", lambda url, source: written.append(url) or write(url, source)
    )
    del written[:]
    done = store.publish(library, URL)
    assert (done.copied, done.kept) == (3, 2)
    assert written[-1] == f"{URL}/published.json"
    store.fetch(URL)


def test_a_change_while_publishing_is_seen(library, memory):
    store.publish(library, URL)
    name = "/shelf/mine/index/local/part-00000-00002.faiss"
    memory.pipe_file(name, memory.cat_file(name)[::-1])
    with pytest.raises(
        StoreError, match=r"part-00000-00002\.faiss is not what published\.json says"
    ):
        store.fetch(URL)
    folder = fetched.library_folder(URL) / "index/local"
    assert not (folder / "part-00000-00002.faiss").exists()
    assert not [*folder.glob("*.faiss.json")]
    with pytest.raises(StoreError, match=rf"library {URL} is not fetched; run: imgfp fetch {URL}"):
        store.Library(URL)


def test_a_fetch_that_was_ended_goes_on(library, memory, monkeypatch):
    store.publish(library, URL)
    whole = urls.pieces

    def ending(url, size):
        yield next(whole(url, size))[:10]
        raise KeyboardInterrupt

    monkeypatch.setattr(urls, "REQUESTS", 1)
    done = []
    monkeypatch.setattr(
        urls,
        "pieces",
        lambda url, n: whole(url, n) if done.append(url) or len(done) < 3 else ending(url, n),
    )
    with pytest.raises(KeyboardInterrupt):
        store.fetch(URL, library.root.parent / "copy")
    monkeypatch.setattr(urls, "pieces", whole)
    with pytest.raises(StoreError, match="is read only"):
        store.save(library.root.parent / "copy/images/x.parquet", pd.DataFrame(), made_with())
    came = store.fetch(URL, library.root.parent / "copy")
    assert (came.copied, came.kept) == (3, 2)
    assert content(library.root.parent / "copy") == content(library.root)
    assert not [*(library.root.parent / "copy").rglob("*.tmp")]


def test_a_fetched_library_is_read_only_and_a_copy_of_ones_own_is_not(library, memory):
    store.publish(library, URL)
    store.fetch(URL)
    opened, before = store.Library(URL), content(store.Library(URL).root)
    path = opened.index("local").root / "part-00000-00002.faiss"
    for write in (lambda: store.save(path, b"x", made_with()), lambda: store.remove(path)):
        with pytest.raises(StoreError, match=rf"{URL} is read only.*imgfp fetch {URL} DIR"):
            write()
    assert content(opened.root) == before
    own = library.root.parent / "own"
    store.fetch(URL, own)
    store.save(own / "images/shard-00003.parquet", pd.DataFrame({"x": [1]}), made_with())
    with pytest.raises(StoreError, match="own is not empty; take another folder"):
        store.fetch(URL, own)


@pytest.mark.parametrize(
    "name",
    [
        "../../x.json",
        "/tmp/x.json",
        "a/../../../x.h5",
        ".ssh/x.json",
        "a/.x.h5",
        "a\\x.h5",
        "x.py",
        "a/x.h5\n",
    ],
)
def test_names_that_would_leave_the_folder_are_refused(library, memory, name):
    store.publish(library, URL)
    said = json.loads(memory.cat_file("/shelf/mine/published.json"))
    entry = next(iter(said["artefacts"].values()))
    said["artefacts"][name] = entry
    memory.pipe_file("/shelf/mine/published.json", json.dumps(said).encode())
    with pytest.raises(StoreError, match=r"published\.json is not a list of imgfp") as told:
        store.fetch(URL)
    assert "\n" not in str(told.value)
    assert not fetched.library_folder(URL).exists()


@pytest.mark.parametrize(
    "broken",
    [
        b"no json",
        b"[]",
        b'{"library": "x", "artefacts": {"a.h5": {"bytes": -1, "sha256": "", "sidecar_sha256": ""}}}',
        b'{"library": "x", "artefacts": {"a.h5": 1}}',
    ],
)
def test_a_list_of_another_kind_is_refused(library, memory, broken):
    memory.pipe_file("/shelf/mine/published.json", broken)
    with pytest.raises(StoreError, match="is not a list of imgfp"):
        store.fetch(URL)


def test_a_damaged_or_another_library_is_not_published(library, memory):
    store.publish(library, URL)
    other = store.Library("library/other")
    shutil.copytree(library.root, other.root)
    with pytest.raises(StoreError, match="holds the library 'mine', this is 'other'"):
        store.publish(other, URL)
    (library.index("local").part(0, 2)).write_bytes(b"damaged")
    before = dict(memory.store)
    with pytest.raises(StoreError, match="is damaged"):
        store.publish(library, URL)
    assert memory.store == before


def test_a_full_disk_is_told_before_the_fetch(library, memory, monkeypatch):
    store.publish(library, URL)
    usage = shutil.disk_usage(library.root)._replace(free=5)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match="MB to fetch and 0 MB free"):
        store.fetch(URL)


def test_the_place_of_a_url_is_a_plain_name(library):
    for url in ("s3://b/..", "s3://b/a b%2F", "s3://b/" + "x" * 300, "memory://"):
        folder = fetched.library_folder(url)
        assert folder.parent == library.root.parent / "fetched"
        assert len(folder.name) < 60 and not folder.name.startswith(".")
    assert fetched.library_folder("s3://a/x") != fetched.library_folder("s3://b/x")


def test_runs_stay_on_local_folders(library):
    with pytest.raises(StoreError, match=r"s3://b/run is a URL; give a local or shared folder"):
        store.Run("s3://b/run")


def test_the_commands(library, memory, capsys, tmp_path):
    assert main(["publish", "library/mine", URL]) == 0
    told = capsys.readouterr().out
    assert told.startswith("5 artefacts copied (") and told.endswith(f" 0 removed: {URL}\n")
    assert main(["fetch", URL]) == 0 and main(["fetch", URL, "library/copy"]) == 0
    assert "5 artefacts copied" in capsys.readouterr().out
    assert content(tmp_path / "library/copy") == content(library.root)
    assert main(["publish", "library/gone", URL]) == 2
    assert (
        capsys.readouterr().err
        == "imgfp: library/gone does not exist; name the folder of a library\n"
    )
    assert not (tmp_path / "library/gone").exists()
    assert main(["fetch", "s3://key:secret1@b/x"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "secret1" not in said


def test_bytes_of_a_large_artefact_are_never_held_whole(library, memory, monkeypatch):
    monkeypatch.setattr(urls, "PIECE_BYTES", 1000)
    data = np.random.default_rng(0).bytes(100_500)
    store.save(library.index("local").part(3, 3), data, made_with())
    store.publish(library, URL)
    largest = []
    whole = urls.pieces
    monkeypatch.setattr(
        urls, "pieces", lambda url, n: (largest.append(len(p)) or p for p in whole(url, n))
    )
    store.fetch(URL)
    assert max(largest) == 1000
    assert (store.Library(URL).index("local").part(3, 3)).read_bytes() == data
