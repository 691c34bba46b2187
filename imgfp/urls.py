# SPDX-License-Identifier: AGPL-3.0-or-later
"""Objects named by an fsspec URL, as `s3://bucket/folder/a.jpg`: listed, read and written.

Names are data: nothing in one is decoded, joined or chained (`::`), so that an object is read under the
very name it was listed by. URLs go into tables, logs and messages; one that carries a password or a
signature is refused, since the environment and the configuration of fsspec can hold them. Failures of the
network are tried again a few times. Every failure becomes one `UrlError`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

#: Waits before the second and the third try.
WAITS_S = (0.5, 2.0)
#: Requests at the same time, where many small ones are made.
REQUESTS = 16
#: Bytes of one request of a large object, and of one retry.
PIECE_BYTES = 16 * 2**20

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://")
#: Protocols that read files of this machine.
LOCAL = ("file", "local", "asynclocal")
_WEB = ("http", "https")
#: `name:password@`, where the password may hold a slash or `@`; neither a port nor an ARN. On the web the
#: name alone may be a token.
_PASSWORD = re.compile(
    r"^([a-z][a-z0-9+.-]+://)"
    r"(?:(?!arn:)[^/@:]*:(?!\d+(?:/|$)).*@|(?:(?<=http://)|(?<=https://))[^/]*@)",
    re.DOTALL,
)
_SIGNATURE = re.compile(
    r"\?(?:.*&)?(?:x-amz-|x-goog-|sig(?:nature)?=|awsaccesskeyid=|\w*token=)", re.I
)
#: What tells that the content has changed, and what tells when it was written.
_CONTENT_MARKS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "checksum", "crc32c")
_TIME_MARKS = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created")

#: How the reasons begin that may not hold at the next run, though the object is the same.
_UNREACHED, _REFUSED, _NO_CREDENTIALS = "cannot be reached", "access is refused", "no credentials"

#: Errors that another try does not cure.
_FINAL = (
    FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError,
    ValueError, TypeError, AttributeError, NotImplementedError, ImportError,
)  # fmt: skip

T = TypeVar("T")


class UrlError(ValueError):
    """A URL that cannot be used. `reason` is one line without the URL."""

    def __init__(self, url: str, reason: str) -> None:
        self.reason = " ".join(_without_secrets(reason).split())[:300]
        super().__init__(f"{shown(url)}: {self.reason}")


class MissingUrl(UrlError):
    """A URL under which there is nothing."""


@dataclass(frozen=True)
class Listed:
    """An object below a folder: its name there, its URL, its size in bytes and its change mark."""

    name: str
    url: str
    size_bytes: int
    mark: int


def is_url(text: str | os.PathLike) -> TypeGuard[str]:
    """True for a text that begins with a protocol and `://`; a Path never does."""
    return isinstance(text, str) and _URL.match(text) is not None


def is_local(url: str) -> bool:
    """True for a URL of a file of this machine."""
    return url.startswith(tuple(f"{protocol}://" for protocol in LOCAL))


def shown(url: str) -> str:
    """A URL as safe text of one line: without password and signature, undecodable bytes and control
    characters escaped."""
    text = _PASSWORD.sub(r"\1***@", url)
    if text.startswith(_WEB):
        text = text.partition("?")[0]
    elif signed := _SIGNATURE.search(text):
        text = text[: signed.start()]
    text = os.fsencode(text).decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def is_temporary(reason: str) -> bool:
    """True for the `reason` of a UrlError that tells of the network or of rights, not of the object."""
    return reason.startswith((_UNREACHED, _REFUSED, _NO_CREDENTIALS))


def check(url: str) -> None:
    """Raise UrlError for a URL with credentials in it, or of a protocol that nothing here reads."""
    _open(url)


def is_file(url: str) -> bool:
    """True for an object, False for a folder. Raises UrlError when there is neither."""
    fs, name = _open(url)
    return _calling(url, lambda: _info(fs, name))["type"] != "directory"


def check_source(url: str) -> None:
    """Raise UrlError for a URL that is neither a folder which can be listed nor a manifest."""
    if not is_file(url):
        _refuse_web(url)
    elif not url.lower().endswith(".csv"):
        raise UrlError(url, "is a file; give a folder, or a manifest (CSV: image_id,path)")


def find(url: str) -> list[Listed]:
    """Every object below a folder, by name, and, with a slash at the end of the name, every folder that is not
    entered: one whose name begins with a dot, a link, or one that cannot be listed (`obstacle` tells why).

    Raises UrlError where there is no such folder, or it cannot be listed.
    """
    fs, root = _open(url)
    _refuse_web(url)
    if is_file(url):
        raise UrlError(url, "is a file; give a folder, or a manifest (CSV: image_id,path)")

    fs.invalidate_cache()  # a listing of this process may be older than the objects
    try:
        listed, unlisted = _listed(fs, root)
    except Exception as error:
        raise _error(url, error) from None
    finally:
        fs.invalidate_cache()
    base, above = url.rstrip("/"), root.rstrip("/") + "/"
    found, closed = [], {f"{full.removeprefix(above)}/" for full in unlisted}
    for full, info in sorted(listed.items()):
        name = full.removeprefix(above)
        if name == full or not name or name.endswith("/"):
            continue  # what stands for the folder itself in a store that has none
        if hidden := re.match(r"(?:.*?/)??\.[^/]*/", name, re.DOTALL):
            closed.add(hidden[0])
        elif info.get("islink") and fs.isdir(full):
            closed.add(f"{name}/")
        else:
            size, mark = int(info.get("size") or 0), _mark(info)
            found.append(Listed(name, f"{base}/{name}", size, mark))
    found += [Listed(name, f"{base}/{name}", 0, 0) for name in closed]
    return sorted(found, key=attrgetter("name"))


def obstacle(url: str) -> str:
    """Why a folder cannot be listed; blank for a link to one."""
    fs, name = _open(url)
    try:
        if _info(fs, name).get("islink"):
            return ""
        fs.ls(name)
    except Exception as error:
        return _error(url, error).reason
    return f"{_UNREACHED}: it could not be listed when its source was; run again"


def states(urls: Iterable[str]) -> list[tuple[int, int]]:
    """Size in bytes and change mark of each object; (0, 0) for one that is not there or is forbidden.

    Raises UrlError where the storage itself cannot be reached.
    """

    def state(url: str) -> tuple[int, int]:
        fs, name = _open(url)
        try:
            info = _trying(lambda: _info(fs, name))
        except Exception as error:
            if isinstance(error, (FileNotFoundError, PermissionError)) or hasattr(error, "status"):
                return 0, 0
            raise _error(url, error) from None
        return int(info.get("size") or 0), _mark(info)

    return in_parallel(state, urls)


def in_parallel(call: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """`call` of each item, `REQUESTS` at a time; the first error ends it."""
    with ThreadPoolExecutor(REQUESTS) as threads:
        try:
            return list(threads.map(call, items))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def read(url: str, limit_bytes: int) -> bytes:
    """The bytes of an object of at most `limit_bytes`; of a larger one nothing beyond them is asked for.
    Raises UrlError."""
    fs, name = _open(url)

    def whole() -> bytes:
        # The answer of a web server to a question about size or range need not hold.
        size = None if url.startswith(_WEB) else _size(fs, name)
        if size is None:
            with _open_stream(fs, name) as stream:
                data = b"".join(_stream(stream, limit_bytes + 1))
        else:
            refuse_size(size)
            data = fs.cat_file(name, start=0, end=size) if size else b""
            if len(data) != size:
                raise OSError(f"ended after {len(data):,} of {size:,} bytes")
        refuse_size(len(data))
        return data

    def refuse_size(size: int) -> None:
        if size > limit_bytes:
            raise UrlError(url, f"has more bytes than the limit of {limit_bytes:,}")

    return _calling(url, whole)


def pieces(url: str, size_bytes: int) -> Iterator[bytes]:
    """The first `size_bytes` of a large object, piece by piece. Raises UrlError."""
    fs, name = _open(url)
    if url.startswith(_WEB):
        try:
            with _open_stream(fs, name) as stream:
                yield from _stream(stream, size_bytes)
        except Exception as error:
            raise _error(url, error) from None
        return
    for start in range(0, size_bytes, PIECE_BYTES):
        end = min(start + PIECE_BYTES, size_bytes)
        yield _calling(url, partial(fs.cat_file, name, start=start, end=end))


def check_bucket(url: str) -> None:
    """Raise UrlError where nothing can be written, or the bucket of a URL is not there: writing might
    make one."""
    fs, name = _open(url)
    if url.startswith(_WEB):
        raise UrlError(url, "a web server is not written to; give the URL of the storage")
    bucket = name.split("/")[0]
    if bucket and not _calling(url, lambda: fs.exists(bucket)):
        raise UrlError(url, f"there is no bucket {bucket}, or no access to it; make it first")


def write(url: str, source: Path | bytes) -> None:
    """Write a file or bytes as an object, replacing one that is there. Raises UrlError."""
    fs, name = _open(url)
    size = len(source) if isinstance(source, bytes) else source.stat().st_size

    def put() -> None:
        fs.makedirs(name.rpartition("/")[0], exist_ok=True)
        if isinstance(source, bytes):
            fs.pipe_file(name, source)
        else:
            fs.put_file(str(source), name)
        fs.invalidate_cache()
        if (written := _size(fs, name)) != size:
            raise OSError(f"{written} of {size} bytes arrived")

    _calling(url, put)


def remove(url: str) -> None:
    """Delete an object, if it is there. Raises UrlError."""
    fs, name = _open(url)
    try:
        _trying(lambda: fs.rm_file(name))
    except FileNotFoundError:
        pass
    except Exception as error:
        raise _error(url, error) from None


# --------------------------------------------------------------------------------- internals


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL and its name there. Raises UrlError."""
    found = _URL.match(url)
    if not found:
        raise UrlError(url, "is not a URL")
    protocol = found[1]
    query = "?" in url if protocol in _WEB else _SIGNATURE.search(url)
    if _PASSWORD.match(url) or query:
        what = "a query" if query else "a password"
        raise UrlError(
            url,
            f"holds {what}, which would be stored with every picture; give credentials by the environment "
            "or the configuration of fsspec",
        )
    if protocol in LOCAL and not url.startswith("/", found.end()):
        raise UrlError(url, f"is not absolute; write {protocol}:///folder")
    import fsspec

    try:
        cls = fsspec.get_filesystem_class(protocol)
        options = cls._get_kwargs_from_urls(url)
        return fsspec.filesystem(protocol, **options), cls._strip_protocol(url)
    except ImportError as error:
        remedy = "pip install 'imgfp[remote]' has http, gs and s3"
        raise UrlError(url, f"{protocol}:// needs a package: {error}; {remedy}") from None
    except Exception as error:
        text = str(error) or type(error).__name__
        raise UrlError(url, f"{protocol}:// cannot be used: {text}") from None


def _listed(fs: Any, root: str) -> tuple[dict[str, dict], list[str]]:
    """Every object below a folder by its full name, and the folders that are not entered: those whose name begins with
    a dot, and those that cannot be listed, which fsspec's own walk leaves out without a word."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    if type(fs).find is not AbstractFileSystem.find or (
        isinstance(fs, AsyncFileSystem) and type(fs)._find is not AsyncFileSystem._find
    ):
        return _trying(lambda: fs.find(root, detail=True)), []  # it lists all folders at once
    found: dict[str, dict] = {}
    closed, folders = [], [root]
    for folder in folders:
        try:
            entries = _trying(partial(fs.ls, folder, detail=True))
        except Exception:
            if folder == folders[0]:
                raise
            closed.append(folder)
            continue
        for info in entries:
            name = info["name"].rstrip("/")
            if info["type"] != "directory":
                found[info["name"]] = info
            elif name.rpartition("/")[2].startswith("."):
                closed.append(name)
            elif name != folder.rstrip("/"):
                folders.append(name)
    return found, closed


def _refuse_web(url: str) -> None:
    if url.startswith(_WEB):
        remedy = "name the files in a manifest (CSV: image_id,path)"
        raise UrlError(url, f"a web server does not list folders; {remedy}")


def _calling(url: str, call: Callable[[], T]) -> T:
    try:
        return _trying(call)
    # The clients of the stores raise types of their own libraries.
    except Exception as error:
        raise _error(url, error) from None


def _trying(call: Callable[[], T]) -> T:
    for wait_s in WAITS_S:
        try:
            return call()
        except Exception as error:
            status = getattr(error, "status", 0)  # of a web server
            refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
            if isinstance(error, _FINAL) or refused:
                raise
            time.sleep(wait_s)
    return call()


def _info(fs: Any, name: str) -> dict:
    return _with_cause(fs, partial(fs.info, name))


def _open_stream(fs: Any, name: str) -> Any:
    return _with_cause(fs, partial(fs.open, name, "rb", block_size=0))


def _with_cause(fs: Any, call: Callable[[], T]) -> T:
    try:
        return call()
    except FileNotFoundError as error:
        # The web client calls every failure so.
        if "http" in fs.protocol and error.__cause__:
            raise error.__cause__ from None
        raise


def _size(fs: Any, name: str) -> int | None:
    info = _info(fs, name)
    if info["type"] != "file":
        raise IsADirectoryError("is not a regular file")
    return info.get("size")


def _stream(stream: Any, limit_bytes: int) -> Iterator[bytes]:
    while limit_bytes > 0 and (piece := stream.read(min(limit_bytes, PIECE_BYTES))):
        limit_bytes -= len(piece)
        yield piece


def _mark(info: dict) -> int:
    """A number that changes with the object: the hash of a checksum, else its time in nanoseconds, else
    0."""
    content = {name: str(info[name]) for name in _CONTENT_MARKS if info.get(name)}
    if content:
        return _number(content)
    value = next((info[name] for name in _TIME_MARKS if info.get(name)), 0)
    if isinstance(value, datetime):
        value = value.timestamp()
    return int(value * 1e9) if isinstance(value, (int, float)) else _number(str(value))


def _number(value: Any) -> int:
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # of int64


def _error(url: str, error: Exception) -> UrlError:
    """An error of a client library as one of ours."""
    if isinstance(error, UrlError):
        return error
    if isinstance(error, FileNotFoundError) or getattr(error, "status", 0) == 404:
        return MissingUrl(url, "there is no such object, folder or bucket")
    text = str(error) or type(error).__name__
    if "credentials" in type(error).__name__.lower():
        remedy = "give them by the environment or the configuration of fsspec"
        return UrlError(url, f"{_NO_CREDENTIALS}: {text}; {remedy}")
    if isinstance(error, PermissionError) or getattr(error, "status", 0) in (401, 403):
        return UrlError(url, f"{_REFUSED}: {text}; check the credentials")
    if isinstance(error, IsADirectoryError):
        return UrlError(url, "is not a regular file")
    return UrlError(url, f"{_UNREACHED}: {type(error).__name__}: {text}")


def _without_secrets(text: str) -> str:
    """Text of another library, which may quote URLs of its own."""
    text = re.sub(r"([a-z][a-z0-9+.-]*://)[^\s/]*@", r"\1***@", text)
    return re.sub(r"(://[^\s?\"']*)\?[^\s\"']*", r"\1", text)
