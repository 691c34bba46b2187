# SPDX-License-Identifier: AGPL-3.0-or-later
"""Objects by URL: names are data, secrets are refused, failures of the network are tried again."""

from __future__ import annotations

import importlib.util
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from imgfp import decoding, images, urls
from imgfp.images import ImageError, encode_jpeg
from imgfp.urls import UrlError


@pytest.fixture
def memory():
    """An empty store in the memory of this process."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


class Unreliable(MemoryFileSystem):
    """A store whose next calls fail."""

    protocol = "unreliable"
    failures: list[Exception] = []  # noqa: RUF012
    read_bytes = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("unreliable://", "memory://"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        if self.failures:
            raise self.failures.pop()
        data = super().cat_file(path, start=start, end=end, **kwargs)
        Unreliable.read_bytes += len(data)
        return data


@pytest.fixture
def unreliable(memory, monkeypatch):
    fsspec.register_implementation("unreliable", Unreliable, clobber=True)
    monkeypatch.setattr(urls, "WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(Unreliable, "failures", [])
    monkeypatch.setattr(Unreliable, "read_bytes", 0)
    memory.pipe_file("/a", b"content")
    return Unreliable


def test_what_is_a_url():
    for text in ("s3://bucket/a.jpg", "gs://b", "file:///a", "memory://a"):
        assert urls.is_url(text)
    for text in ("a/b.jpg", "/a://b", "C://x", "", "s3:/b", os.path.join("data", "x://y")):
        assert not urls.is_url(text)


SECRETS = (
    "s3://AKIAKEY:hunter2@bucket/a.jpg",
    "s3://AKIAKEY:hun/ter2@bucket/a.jpg",
    "https://user:hunter2@host/a.jpg",
    "sftp://user:123hunter2@host/a.jpg",
    "s3://AKIAKEY:p@hunter2@bucket/a.jpg",
    "s3://AKIAKEY:\nhunter2@bucket/a.jpg",
    "https://hunter2@host/a.jpg",
    "https://host/a.jpg?hunter2",
    "https://host/a.jpg?X-Amz-Signature=hunter2",
    "s3://bucket/a.jpg?x=1&X-Amz-Signature=hunter2",
    "abfs://box@account.net/a.jpg?sv=1&sig=hunter2",
)


@pytest.mark.parametrize("url", SECRETS)
def test_a_url_with_a_secret_is_refused_and_the_secret_not_told(url):
    for refuse in (lambda: urls.check(url), lambda: images.read_bytes(url)):
        with pytest.raises(
            ValueError, match=r"holds a .*give credentials by the environment"
        ) as told:
            refuse()
        text = str(told.value) + urls.shown(url)
        assert "hunter2" not in text and "ter2" not in text and "\n" not in text


def test_names_that_look_like_secrets_are_none():
    for url in (
        "memory://a/b?id=5&design=x.jpg",
        "memory://a@b:c/x.jpg",
        "file:///a:b@c.jpg",
        "file:///@/c.jpg",
        "file:///q?.jpg",
    ):
        urls.check(url)
        assert urls.shown(url) == url


def test_errors_of_other_libraries_are_told_without_secrets():
    quoted = "cannot connect to http://key:hunter2@host:1/bucket?X-Amz-Signature=hunter2 now"
    error = UrlError("s3://b", quoted)
    assert "hunter2" not in str(error) and str(error).endswith("http://***@host:1/bucket now")


def test_a_message_is_one_line_whatever_the_name(memory):
    with pytest.raises(ImageError) as told:
        images.read_bytes("memory://a\n\x1b[31m.jpg")
    assert str(told.value).startswith(r"memory://a\x0a\x1b[31m.jpg: there is no such object")


def test_a_protocol_that_nothing_reads_is_named_with_its_package():
    with pytest.raises(UrlError, match=r"nonesuch://x: nonesuch:// cannot be used"):
        urls.check("nonesuch://x")
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(UrlError, match=r"Install s3fs"):
            urls.check("s3://bucket/x")
    with pytest.raises(UrlError, match=r"is not absolute; write file:///"):
        urls.check("file://data/x")


def test_names_are_read_as_they_were_listed(memory):
    names = [
        "a b.jpg",
        "a%2Fb.jpg",
        "ü/x#1.jpg",
        "q?x=1.jpg",
        "s/../t.jpg",
        "c:file:",
        "n\new.jpg",
    ]
    for number, name in enumerate(names):
        memory.pipe_file(f"/pics/{name}", bytes([number + 1]))
    memory.pipe_file("/pics/.hidden/x.jpg", b"no")
    memory.pipe_file("/picsnot/x.jpg", b"no")
    found = urls.find("memory://pics/")
    # A part `..` starts with a dot, so such a folder is not entered, like any other of them.
    assert {o.name for o in found} == {*names, ".hidden/", "s/../"} - {"s/../t.jpg"}
    for listed in (o for o in found if not o.name.endswith("/")):
        assert urls.read(listed.url, 10) == bytes([names.index(listed.name) + 1])
        assert listed.size_bytes == 1
        assert urls.states([listed.url]) == [(1, listed.mark)]


def test_a_changed_object_has_another_mark(memory):
    memory.pipe_file("/pics/a", b"one")
    [before] = urls.find("memory://pics")
    assert urls.find("memory://pics") == [before]
    memory.pipe_file("/pics/a", b"two")
    [after] = urls.find("memory://pics")
    assert before.mark != after.mark and before.size_bytes == after.size_bytes


@pytest.mark.parametrize("name", ["ETag", "mtime", "LastModified", "Last-Modified", "created"])
def test_marks_come_from_what_a_store_tells(name):
    one, two = (urls._mark({"name": "a", "size": 1, name: value}) for value in ("x", "y"))
    assert one != two and 0 < one < 2**63
    assert urls._mark({"name": "a", "size": 1}) == 0


def test_files_of_a_folder_follow_the_rules_of_folders(tmp_path):
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/a.jpg").write_bytes(b"12")
    (tmp_path / "in/link").symlink_to(tmp_path / "in/sub")
    (tmp_path / "in/b.jpg").symlink_to(tmp_path / "in/sub/a.jpg")
    (tmp_path / "in/.c.jpg").touch()
    (tmp_path / "in/sub/.d").mkdir()
    (tmp_path / "in/sub/.d/e.jpg").touch()
    os.mkfifo(tmp_path / "in/pipe")
    found = urls.find(f"file://{tmp_path}/in")
    assert [o.name for o in found] == sorted(images.list_folder(tmp_path / "in"))
    with pytest.raises(ImageError, match="is not a regular file"):
        images.read_bytes(f"file://{tmp_path}/in/pipe")
    assert images.read_bytes(f"file://{tmp_path}/in/b.jpg") == b"12"


def test_what_is_not_there_is_told(memory):
    memory.pipe_file("/pics/a.jpg", b"")
    with pytest.raises(urls.MissingUrl, match=r"^memory://gone: there is no such object, folder"):
        urls.find("memory://gone")
    with pytest.raises(UrlError, match="is a file; give a folder"):
        urls.find("memory://pics/a.jpg")
    with pytest.raises(ImageError, match=r"^memory://pics/a.jpg: is empty$"):
        images.read_bytes("memory://pics/a.jpg")
    with pytest.raises(ImageError, match="is not a regular file"):
        images.read_bytes("memory://pics")
    assert urls.states(["memory://gone/x", "memory://pics/a.jpg"])[0] == (0, 0)


def test_the_limit_is_asked_for_first(unreliable):
    with pytest.raises(ImageError, match=r"unreliable://a: has more bytes than the limit of 6"):
        images.read_bytes("unreliable://a", 6)
    assert unreliable.read_bytes == 0
    assert images.read_bytes("unreliable://a", 7) == b"content"


def test_failures_of_the_network_are_tried_again(unreliable):
    unreliable.failures[:] = [TimeoutError("slow"), ConnectionResetError("gone")]
    assert images.read_bytes("unreliable://a") == b"content"
    unreliable.failures[:] = [ConnectionResetError("gone")] * 9
    with pytest.raises(ImageError, match=r"cannot be reached: ConnectionResetError: gone"):
        images.read_bytes("unreliable://a")
    assert len(unreliable.failures) == 6
    unreliable.failures[:] = [PermissionError("Forbidden")] * 9
    with pytest.raises(ImageError, match=r"access is refused: Forbidden; check the credentials"):
        images.read_bytes("unreliable://a")
    assert len(unreliable.failures) == 8, "a refusal does not change by itself"


def test_a_storage_out_of_reach_is_no_list_of_missing_files(unreliable, monkeypatch):
    def down(self, path, **kwargs):
        raise ConnectionRefusedError("down")

    monkeypatch.setattr(unreliable, "info", down)
    with pytest.raises(UrlError, match="cannot be reached: ConnectionRefusedError: down"):
        urls.states(["unreliable://a"] * 40)


def test_large_objects_come_in_pieces(unreliable, monkeypatch):
    monkeypatch.setattr(urls, "PIECE_BYTES", 3)
    unreliable.failures[:] = [TimeoutError()]
    assert list(urls.pieces("unreliable://a", 7)) == [b"con", b"ten", b"t"]


def test_objects_are_written_and_removed(memory, tmp_path):
    (tmp_path / "x").write_bytes(b"file")
    urls.write("memory://new/folder/x", tmp_path / "x")
    urls.write("memory://new/folder/y", b"bytes")
    urls.write(f"file://{tmp_path}/new/folder/y", b"bytes")
    assert (
        memory.cat_file("/new/folder/x") == b"file" and memory.cat_file("/new/folder/y") == b"bytes"
    )
    assert (tmp_path / "new/folder/y").read_bytes() == b"bytes"
    urls.remove("memory://new/folder/x")
    urls.remove("memory://new/folder/x")
    assert not memory.exists("/new/folder/x")


def test_local_paths_never_reach_fsspec(tmp_path, photograph, monkeypatch):
    monkeypatch.setattr(urls, "_open", lambda url: pytest.fail("asked fsspec"))
    (tmp_path / "a.jpg").write_bytes(encode_jpeg(photograph))
    assert decoding.read_image(str(tmp_path / "a.jpg")).shape == photograph.shape
    states = images.file_states([tmp_path / "a.jpg", tmp_path / "gone"])
    status = (tmp_path / "a.jpg").stat()
    assert states.tolist() == [[status.st_size, status.st_mtime_ns], [0, 0]]


@pytest.fixture
def web():
    """Address of a web server that ignores ranges, and the bytes that it has sent."""
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp, which is not installed")
    sent = [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            status = {"/a.jpg": 200, "/huge.jpg": 200, "/secret.jpg": 403}.get(self.path, 404)
            size = {"/a.jpg": 7, "/huge.jpg": 2**28}.get(self.path, 0)
            self.send_response(status)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            try:
                for start in range(0, size if self.command == "GET" else 0, 2**20):
                    sent[0] += self.wfile.write(b"x" * min(2**20, size - start))
            except OSError:
                self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()


def test_a_web_server_is_read_within_the_limit(web):
    address, sent = web
    assert images.read_bytes(f"{address}/a.jpg") == b"x" * 7
    assert urls.states([f"{address}/a.jpg", f"{address}/gone.jpg"]) == [(7, 0), (0, 0)]
    with pytest.raises(ImageError, match="more bytes than the limit of 1,048,576"):
        images.read_bytes(f"{address}/huge.jpg", 2**20)
    assert sent[0] < 2**26, "the rest of the file was read"
    with pytest.raises(ImageError, match="there is no such object"):
        images.read_bytes(f"{address}/gone.jpg")
    with pytest.raises(ImageError, match=r"403"):
        images.read_bytes(f"{address}/secret.jpg")
    with pytest.raises(UrlError, match=r"does not list folders; name the files in a manifest"):
        urls.find(f"{address}/")


def test_a_web_server_is_not_written_to():
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp, which is not installed")
    with pytest.raises(UrlError, match="a web server is not written to"):
        urls.check_bucket("http://127.0.0.1/x")
