# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files are decoded in a process of their own: its end, and its limits, are reasons and no accidents."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgfp import confinement, decoding, images
from imgfp.decoding import Limits
from imgfp.images import ImageError


def hostile_handler():
    """A decoder that crashes, is busy, waits, writes or is killed, as the bytes of a file say."""

    def hostile(data, **limits):
        if data.startswith(b"crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        # It may change the date of a file, nothing else.
        if data.startswith(b"kill once") and os.stat(data[9:]).st_mtime:
            os.utime(data[9:], (0, 0))
            os.kill(os.getpid(), signal.SIGKILL)
        while data.startswith(b"busy"):
            pass
        if data.startswith(b"write"):
            os.truncate(data[5:], 0)
        if data.startswith(b"sleep"):
            time.sleep(60)
        return images.decode_image(data, **limits)

    decoding.decode_image = hostile
    return decoding.handler()


@pytest.fixture
def hostile(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setattr(decoding, "_HANDLER", "test_decoding:hostile_handler")
    forget()
    yield
    forget()


def forget() -> None:
    """The next file gets a new process."""
    decoding._own.__dict__.clear()


def pid() -> int:
    return decoding._own.child._process._process.pid


@pytest.fixture
def file(tmp_path, photograph):
    def write(data: bytes | str, name: str = "picture.jpg"):
        path = tmp_path / name
        if isinstance(data, str):
            out = io.BytesIO()
            Image.fromarray(photograph).save(out, data)
            data = out.getvalue()
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pixels_and_facts_are_those_of_the_decoder(file, kind):
    path = file(kind)
    picture = decoding.read_picture(path)
    pixels, facts = images.decode_image(path.read_bytes())
    assert np.array_equal(picture.pixels, pixels) and picture.facts == facts
    picture.pixels[:] = 0  # the caller's own, not what the next file is decoded into
    assert np.array_equal(decoding.read_image(path), pixels)


def test_one_process_decodes_many_files(file, monkeypatch):
    path = file("JPEG")
    decoding.read_image(path)
    first = pid()
    with pytest.raises(ImageError, match="not an image"):
        decoding.read_image(file(b"no picture", "other.jpg"))
    decoding.read_image(path)
    assert pid() == first
    monkeypatch.setattr(decoding, "RECYCLED_AFTER", 2)
    decoding.read_image(path)
    assert pid() != first


@pytest.mark.usefixtures("hostile")
def test_a_file_that_crashes_its_decoder_is_refused_and_the_next_is_read(file):
    with pytest.raises(ImageError, match="ended the process that decodes it, 2 times: SIGSEGV"):
        decoding.read_image(file(b"crash"))
    assert decoding.read_image(file("PNG")).ndim == 3


@pytest.mark.usefixtures("hostile")
def test_a_process_killed_from_outside_condemns_no_file(file, tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    data = b"kill once" + os.fsencode(mark)
    # Shorter than a picture, so what is said of it after the death is what is said of any such file.
    with pytest.raises(ImageError, match="not an image"):
        decoding.read_image(file(data))
    assert mark.stat().st_mtime == 0


def test_a_process_that_dies_between_two_files_is_replaced(file):
    path = file("JPEG")
    pixels = decoding.read_image(path)
    os.kill(pid(), signal.SIGKILL)
    assert np.array_equal(decoding.read_image(path), pixels)


@pytest.mark.usefixtures("hostile")
def test_processor_time_is_bounded(file):
    began = time.monotonic()
    with pytest.raises(ImageError, match=r"took more than 0\.5 s of processor time") as caught:
        decoding.read_image(file(b"busy"), Limits(max_decode_seconds=0.5))
    assert time.monotonic() - began < 20 and decoding.may_pass_later(caught.value.reason)


@pytest.mark.usefixtures("hostile")
def test_a_decoder_that_waits_for_ever_is_not_waited_for(file, monkeypatch):
    monkeypatch.setattr(confinement, "_WAIT", 2)
    monkeypatch.setattr(decoding, "_START_S", 1000)
    with pytest.raises(ImageError, match="had no answer in 1 s"):
        decoding.read_image(file(b"sleep"), Limits(max_decode_seconds=0.5))


def test_memory_is_bounded(file):
    out = io.BytesIO()
    Image.new("RGBA", (6000, 6000), (9, 9, 9, 100)).save(out, "PNG")
    path = file(out.getvalue(), "large.png")
    with pytest.raises(ImageError, match="needs more than 100 MB to decode"):
        decoding.read_image(path, Limits(max_decode_memory_mb=100))
    assert decoding.read_image(path).shape == (6000, 6000, 3)


@pytest.mark.usefixtures("hostile")
@pytest.mark.skipif(not confinement.landlock_abi(), reason="this kernel has no Landlock")
def test_a_decoder_changes_no_file(file, tmp_path):
    target = tmp_path / "victim"
    target.write_bytes(b"untouched")
    with pytest.raises(ImageError, match=r"cannot be decoded: .*Permission denied"):
        decoding.read_image(file(b"write" + os.fsencode(target)))
    assert target.read_bytes() == b"untouched"


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_file_mb": 0.001}, "more than the limit of 1,049"),
        ({"max_megapixels": 0.01}, "pixels"),
    ],
)
def test_limits_of_bytes_and_pixels_are_the_users(file, limits, said):
    path = file("PNG")
    with pytest.raises(ImageError, match=said) as caught:
        decoding.read_image(path, Limits(**limits))
    assert decoding.may_pass_later(caught.value.reason)
    decoding.read_image(path)


def test_a_limit_below_zero_is_refused():
    with pytest.raises(ValueError, match="max_file_mb: expected more than 0, got -1"):
        Limits(max_file_mb=-1)


def test_each_thread_has_its_own_process(file):
    path, pids = file("JPEG"), []

    def read() -> None:
        decoding.read_image(path)
        pids.append(pid())

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 2


def test_no_process_stays_when_its_parent_is_killed(file):
    script = (
        "import sys, time\nfrom imgfp import decoding\ndecoding.read_image(sys.argv[1])\n"
        "print(decoding._own.child._process._process.pid, flush=True)\ntime.sleep(60)"
    )
    path = str(file("JPEG"))
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _runs(child):
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ------------------------------------------------------------------------------- files made to cost


def many_segments(photograph) -> bytes:
    """A JPEG with a million small Exif segments."""
    out = io.BytesIO()
    Image.fromarray(photograph[:64, :64]).save(out, "JPEG")
    data = out.getvalue()
    return data[:2] + (b"\xff\xe1" + struct.pack(">H", 8) + b"Exif\0\0") * 1_000_000 + data[2:]


def many_pages(photograph) -> bytes:
    """A TIFF of 50,000 pages that share their pixels."""
    page = 8 * 8
    entries = [(256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 8), (278, 8), (279, page)]
    size = 2 + 12 * len(entries) + 4
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    first = 8 + page
    pages = b"".join(
        directory + struct.pack("<I", first + (n + 1) * size if n < 49_999 else 0)
        for n in range(50_000)
    )
    return b"II*\0" + struct.pack("<I", first) + bytes(range(page)) + pages


def flat(kind: str, side: int, **options):
    def make(_photograph) -> bytes:
        out = io.BytesIO()
        Image.new("RGBA", (side, side), (1, 2, 3, 4)).save(out, kind, **options)
        return out.getvalue()

    return make


@pytest.mark.parametrize(
    "make",
    [
        many_segments,
        many_pages,
        flat("WEBP", 7000, lossless=True, method=0),
        flat("AVIF", 7000, speed=10),
        flat("PNG", 7000, compress_level=1),
    ],
    ids=["JPEG segments", "TIFF pages", "WebP", "AVIF", "PNG"],
)
def test_a_file_made_to_cost_is_bounded_in_time_and_memory(make, photograph, file):
    path = file(make(photograph), "costly")
    script = (
        "import resource, sys\nfrom imgfp import decoding\nfrom imgfp.images import ImageError\n"
        "try:\n    print(decoding.read_image(sys.argv[1]).shape)\n"
        "except ImageError as error:\n    print(error)\n"
        "decoding._own.child.close()\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1000)"
    )
    said = subprocess.check_output([sys.executable, "-c", script, str(path)], text=True)
    seconds, megabytes = map(float, said.splitlines()[-1].split())
    assert seconds < 5.5 and megabytes < 1000, said


def moving(kind: str, count: int, size: int = 64) -> bytes:
    """An animation in which each frame shows something else."""
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    frames = [Image.fromarray(one).resize((size, size)) for one in shown]
    out = io.BytesIO()
    frames[0].save(out, kind, save_all=True, append_images=frames[1:])
    return out.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_frames_are_spread_and_each_can_be_read_again(file, kind):
    path = file(moving(kind, 10))
    first, *others = decoding.read_frames(path, Limits(max_frames=4))
    assert first[0] == 0 and first[1].facts.frames == "10"
    assert [number for number, _ in others] == [4, 7, 10]
    assert len({picture.pixels.tobytes() for _, picture in (first, *others)}) == 4
    for number, picture in others:
        assert picture.facts.frame == number and picture.sha256 == first[1].sha256
        assert np.array_equal(decoding.read_image(path, frame=number), picture.pixels)
    assert len([*decoding.read_frames(path, Limits())]) == 1


def test_frames_that_show_nothing_else_are_left_out(file, photograph):
    changed = photograph.copy()
    changed[:40, :40] = 255
    pages = [photograph, changed, photograph // 2, np.zeros_like(photograph), photograph[::-1]]
    out = io.BytesIO()
    first, *others = map(Image.fromarray, pages)
    first.save(out, "TIFF", save_all=True, append_images=others)
    frames = decoding.read_frames(file(out.getvalue()), Limits(max_frames=5))
    assert [number for number, _ in frames] == [0, 5]


def test_frames_of_a_long_file_cost_no_more_than_one_file_may(file, monkeypatch):
    path = file(moving("GIF", 300))
    monkeypatch.setattr(images, "REACHED_PIXELS", 100 * 64 * 64)
    assert [n for n, _ in decoding.read_frames(path, Limits(max_frames=4))] == [0, 34, 67, 100]
    spent = []
    monkeypatch.setattr(
        decoding._Child, "decode", lambda child, data, path, left, frame: busy(spent, left, frame)
    )
    frames = [n for n, _ in decoding.read_frames(path, Limits(max_frames=50, max_decode_seconds=4))]
    assert len(frames) == len(spent) == 3


def busy(spent: list[float], left: decoding._Time, frame: int):
    """A frame that takes one and a half seconds."""
    spent.append(left.seconds)
    left.seconds -= 1.5
    pixels = np.random.default_rng(frame).integers(0, 256, (64, 64, 3), np.uint8)
    return pixels, images.Facts(
        "GIF", 64, 64, ("frames=300",) if not frame else (f"frame={frame}",)
    )
