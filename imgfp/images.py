# SPDX-License-Identifier: AGPL-3.0-or-later
"""Decoding of image bytes to upright RGB, resizing, cutting, and listing of folders.

A path may be an fsspec URL, see `urls`. Bytes are read with a size limit and decoded by Pillow under an allow-list
of formats and a pixel limit; each opened image is loaded exactly once (a second `load()` of a damaged file can
succeed silently). Every failure becomes one `ImageError`. Files of others are decoded by `decoding`, in a process of
its own.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import re
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pi_heif
from PIL import Image, ImageFile, ImageOps

from imgfp import urls

if TYPE_CHECKING:  # pandas would take 80 MB of each process that decodes
    import pandas as pd

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "HEIF")
#: Note of an image that is not whole.
DAMAGED = "damaged file, decoded in part"
#: Frames or pages tried where the first is blank or cannot be decoded, and bytes before the start of a JPEG or PNG that
#: are skipped.
FRAMES_TRIED, MAX_LEADING_BYTES = 8, 4096
#: Formats whose frames are decoded without those before them; of others, the pixels decoded to reach a frame.
_SEPARATE_FRAMES, REACHED_PIXELS = ("TIFF", "HEIF"), 50_000_000
#: Side in pixels at which frames are compared, and the correlation from which two show the same.
_COMPARED_PX, _SAME_FRAME = 64, 0.95
MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000
#: Values of a channel, of 256, that a frame has fewer than between its darkest and its lightest to be blank.
BLANK_LEVELS = 8
MAX_ASPECT = 100
MIN_SIDE_PX = 8
#: Blocks that tell whether a file of unchanged size and date holds other bytes.
SAMPLED_BLOCKS = 4
BLOCK_BYTES = 4096
#: Each page of a TIFF is found by reading the one before it.
MAX_COUNTED_PAGES = 1000
#: Background of transparent images, which hides neither dark nor light drawings, and how near to it, of 256 levels, ink
#: is hidden by it.
MID_GREY, HIDDEN_WITHIN = 128, 32
#: Values of which white is found; share of them that may lie beyond it; how far floats may overshoot it, as resizing
#: makes them, times white.
SAMPLED_VALUES, BEYOND_WHITE, OVERSHOOT = 1 << 20, 0.001, 1.1

_MAGIC = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_DECODING = RLock()

# One thread: each more would take address space, which is limited, and no processor time less.
pi_heif.register_heif_opener(decode_threads=1)

# The limits above are checked before any pixel is decoded, so Pillow's own warning is redundant.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class ImageError(ValueError):
    """A file that cannot be used as an image. `reason` is one line without the file's name."""

    def __init__(self, name: str | os.PathLike, reason: str) -> None:
        self.reason = " ".join(reason.split())[:200]
        super().__init__(f"{printable(name)}: {self.reason}")


@dataclass(frozen=True)
class Facts:
    """Facts of a decoded file: format, upright size in pixels, and notes among `frames=12`,
    `frame=2` (where it is not the first), `more than 8 bit`, `transparent`, `turned by EXIF`, and `DAMAGED`, which is the first."""

    format: str
    width: int
    height: int
    notes: tuple[str, ...]

    @property
    def frames(self) -> str:
        """How many frames or pages the file has, in words; blank where it has one, or they were not counted."""
        return self._told("frames=") or ""

    @property
    def frame(self) -> int:
        """Which of them this is, from 1."""
        return int(self._told("frame=") or 1)

    def _told(self, name: str) -> str | None:
        return next((note.removeprefix(name) for note in self.notes if note.startswith(name)), None)


def printable(name: str | os.PathLike) -> str:
    """A path as valid Unicode text, undecodable bytes escaped, for terminals, tables and pages."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def restored(text: str) -> str:
    """The path that `printable` has made this text of, if no valid path reads like it."""
    return re.sub(r"\\x([89a-f][0-9a-f])", lambda byte: os.fsdecode(bytes.fromhex(byte[1])), text)


def read_bytes(path: str | os.PathLike, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a regular file, or of an object by URL. Raises ImageError, also for more than `max_bytes`;
    never blocks on a pipe."""
    if (name := os.fspath(path)).endswith("/"):
        raise ImageError(path, _why_closed(name.rstrip("/")))
    if urls.is_url(path):
        return _object_bytes(path, max_bytes)
    try:
        handle = _open(name)
    except OSError as error:
        escaped = error.errno == errno.ENOENT and "\\x" in name
        remedy = "; rename it if its name is not UTF-8" if escaped else ""
        raise ImageError(path, f"cannot be opened: {error.strerror}{remedy}") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, "is not a regular file")
        if status.st_size == 0:
            raise ImageError(path, "is empty")
        if status.st_size > max_bytes:
            raise ImageError(
                path, f"has {status.st_size:,} bytes, more than the limit of {max_bytes:,}"
            )
        with os.fdopen(os.dup(handle), "rb") as file:
            return file.read(max_bytes)
    except OSError as error:
        raise ImageError(path, f"cannot be read: {error.strerror}") from None
    finally:
        os.close(handle)


def _open(path: str) -> int:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError:
        if (unescaped := restored(path)) == path:
            raise
        return os.open(unescaped, flags)


def _why_closed(folder: str) -> str:
    if os.path.basename(folder).startswith("."):
        kind = "is a folder whose name begins with a dot, which is not entered"
    elif urls.is_url(folder) and (reason := urls.obstacle(folder)):
        return reason
    elif not urls.is_url(folder) and not os.path.islink(folder):
        return "is a folder that may not be listed; change its permissions"
    else:
        kind = "is a link to a folder, which is not entered"
    return f"{kind}; to search it, name it as a folder of its own"


def file_digest(path: str) -> str:
    """SHA-256 of a regular file; blank where it cannot be read."""
    try:
        with _open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def sampled_digest(path: str) -> str:
    """SHA-256 of a few blocks of a regular file, at offsets that its size decides; blank where it cannot be read.
    It finds other bytes under the same size and date without reading them all."""
    digest = hashlib.sha256()
    try:
        with _open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            # One block at random in each part, so that no change of a whole region is missed.
            offsets = random.Random(size)
            part = max(size // SAMPLED_BLOCKS, BLOCK_BYTES)
            for start in range(0, size, part):
                at = start + offsets.randrange(part - BLOCK_BYTES + 1)
                digest.update(os.pread(file.fileno(), BLOCK_BYTES, at))
    except OSError:
        return ""
    return digest.hexdigest()


def _open_regular(path: str) -> io.FileIO:
    handle = _open(path)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("is not a regular file")
    return io.FileIO(handle)


def _object_bytes(url: str, max_bytes: int) -> bytes:
    try:
        data = urls.read(url, max_bytes)
    except urls.UrlError as error:
        raise ImageError(urls.shown(url), error.reason) from None
    if not data:
        raise ImageError(url, "is empty")
    return data


def decode_image(
    data: bytes,
    name: str | os.PathLike = "image",
    *,
    max_pixels: int = MAX_PIXELS,
    frame: int = 0,
) -> tuple[np.ndarray, Facts]:
    """Decode an image file's bytes to (H,W,3) uint8 RGB, upright, with its facts: the first frame, or the
    first that is not blank. frame: number of another one, from 1.

    Of a file for which that fails, what can be decoded is returned, with the note `DAMAGED`: the rows before
    the damage, the image after leading bytes of something else, or the next frame or page, if none was asked for. Transparent images
    are laid on the ground that shows them; values of more than 8 bits are scaled, see `_black_and_white`. name: for messages. Raises ImageError,
    caused by MemoryError where memory is short.
    """
    # `_lenient` holds for the whole process, so nothing else is decoded meanwhile.
    with _DECODING:
        if frame:
            return _decode_frame(data, name, max_pixels, frame - 1, False, f"frame={frame}")
        try:
            image, facts = _decode_frame(data, name, max_pixels)
        except ImageError as error:
            if isinstance(error.__cause__, MemoryError):
                raise
            salvaged = _salvage(data, name, max_pixels)
            if salvaged is None:
                raise error from None
            return salvaged
        if facts.frames and _is_blank(image):
            for frame in range(1, FRAMES_TRIED):
                with suppress(ImageError):
                    notes = facts.notes[0], f"frame={frame + 1}"
                    later = _decode_frame(data, name, max_pixels, frame, False, *notes)
                    if not _is_blank(later[0]):
                        return later
        return image, facts


def further_frames(facts: Facts, max_frames: int) -> list[int]:
    """Numbers of the frames or pages, from 1, that are looked at beside the one with these facts of `decode_image`: up
    to `max_frames` - 1, evenly spread over those that can be reached, and the last."""
    count = int((facts.frames or "1").split()[-1])
    if facts.format not in _SEPARATE_FRAMES:
        count = min(count, REACHED_PIXELS // (facts.width * facts.height))
    spread = np.linspace(facts.frame, count, max_frames).round().astype(int)
    return [number for number in np.unique(spread).tolist() if number > facts.frame]


def frame_print(image: np.ndarray) -> np.ndarray | None:
    """What two frames are compared by: (n,) float32, of norm 1; None for a blank one."""
    if _is_blank(image):
        return None
    small = cv2.resize(image, (_COMPARED_PX, _COMPARED_PX), interpolation=cv2.INTER_AREA)
    grey = small.mean(axis=2, dtype=np.float32).reshape(-1)
    grey -= grey.mean()
    return grey / max(float(np.linalg.norm(grey)), 1e-6)


def show_the_same(frame: np.ndarray, other: np.ndarray | None) -> bool:
    """Whether two frames, by their `frame_print`, differ in brightness or little else."""
    return other is not None and bool(frame @ other >= _SAME_FRAME)


def _is_blank(image: np.ndarray) -> bool:
    return bool(np.ptp(image, axis=(0, 1)).max() < BLANK_LEVELS)


def _salvage(
    data: bytes, name: str | os.PathLike, max_pixels: int
) -> tuple[np.ndarray, Facts] | None:
    later = _MAGIC.search(data, 1, MAX_LEADING_BYTES)
    starts = [0, later.start()] if later else [0]
    for start, frame, lenient in product(starts, range(FRAMES_TRIED), (False, True)):
        with suppress(ImageError):
            return _decode_frame(data[start:], name, max_pixels, frame, lenient, DAMAGED)
    return None


def _decode_frame(
    data: bytes,
    name: str | os.PathLike,
    max_pixels: int,
    frame: int = 0,
    lenient: bool = False,
    *notes: str,
) -> tuple[np.ndarray, Facts]:
    try:
        with _lenient(data) if lenient else nullcontext(data) as whole:
            return _decode(whole, name, max_pixels, frame, lenient, list(notes))
    except ImageError:
        raise
    except Image.UnidentifiedImageError:
        raise ImageError(name, _unidentified(data)) from None
    except Image.DecompressionBombError:
        raise ImageError(
            name, f"declares far more than the limit of {max_pixels:,} pixels"
        ) from None
    except MemoryError as error:
        raise ImageError(name, "needs more memory than is available") from error
    # Pillow's plug-ins raise many unrelated types on damaged bytes; OSError is only the most common.
    except Exception as error:
        raise ImageError(name, f"cannot be decoded: {type(error).__name__}: {error}") from None


def _decode(
    data: bytes,
    name: str | os.PathLike,
    max_pixels: int,
    frame: int,
    lenient: bool,
    notes: list[str],
) -> tuple[np.ndarray, Facts]:
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    if frame:
        image.seek(frame)
    _check_size(*image.size, name, max_pixels)
    # Counting the frames of a damaged file may fail where one of them is sound.
    frames = "" if notes else _frames(image)
    if frames:
        notes.append(f"frames={frames}")
    kind = image.format or "?"
    image.load()
    _check_size(*image.size, name, max_pixels)  # a HEIF may hold another size than it declares
    if image.getexif().get(0x0112, 1) != 1:
        notes.append("turned by EXIF")
    if lenient:
        image = _without_blank_end(image)
        _check_size(*image.size, name, max_pixels)
    ImageOps.exif_transpose(image, in_place=True)  # which, unlike its result, is not a copy
    rgb = _to_rgb(image, notes, name)
    return rgb, Facts(kind, rgb.shape[1], rgb.shape[0], tuple(notes))


def _check_size(width: int, height: int, name: str | os.PathLike, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            name, f"has {width} x {height} pixels, more than the limit of {max_pixels:,}"
        )
    if min(width, height) < MIN_SIDE_PX:
        raise ImageError(
            name, f"has {width} x {height} pixels, a side under {MIN_SIDE_PX} is too small"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(name, f"has {width} x {height} pixels, thinner than {MAX_ASPECT}:1")


@contextmanager
def _lenient(data: bytes) -> Iterator[bytes]:
    """Pillow decodes up to the damage meanwhile. Gives the bytes, of a WebP as many as its header tells,
    since a shorter one is not even begun."""
    if data[:4] == b"RIFF":
        size = int.from_bytes(data[4:8], "little") + 8
        data = data.ljust(min(size, MAX_FILE_BYTES), b"\0")
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        yield data
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def _without_blank_end(image: Image.Image) -> Image.Image:
    """An image without the rows of one colour that decoders give for what is missing at the end."""
    rows = np.asarray(image)
    differ = (rows != rows[-1, 0]).reshape(len(rows), -1).any(axis=1)
    kept = int(np.flatnonzero(differ).max(initial=-1)) + 1
    return image.crop((0, 0, image.width, kept))


def _unidentified(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "is HEIC or HEIF, but damaged or of an unknown kind; convert it to JPEG or PNG"
    if data.startswith(_JPEG_XL):
        return "is JPEG XL, which is not decoded; convert it to JPEG or PNG"
    return f"is not an image of a known format ({', '.join(FORMATS)})"


def _frames(image: Image.Image) -> str:
    """How many frames or pages an image has; blank for a single one, and for the previews of an MPO."""
    if not getattr(image, "is_animated", False) or image.format == "MPO":
        return ""
    if image.format == "TIFF":
        # Not by `n_frames`, which reads all pages.
        with suppress(EOFError):
            for page in range(1, MAX_COUNTED_PAGES + 1):
                image.seek(page)
            page += 1
        image.seek(0)
        return str(page) if page <= MAX_COUNTED_PAGES else f"more than {MAX_COUNTED_PAGES}"
    return str(getattr(image, "n_frames", 1))


def _to_rgb(image: Image.Image, notes: list[str], name: str | os.PathLike) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        notes.append("more than 8 bit")
        return np.repeat(_to_grey(image, name)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        if np.asarray(layer.getchannel("A")).min() < 255:
            notes.append("transparent")
            return _composited(layer)
        image = layer
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _to_grey(image: Image.Image, name: str | os.PathLike) -> np.ndarray:
    """An image of integers or floats (H,W) uint8: black to white as `_black_and_white` says, NaN as black."""
    values = np.asarray(image)
    sample = values.reshape(-1)
    if len(sample) > SAMPLED_VALUES:  # not every n-th, which may be a few columns
        sample = sample[np.random.default_rng(0).integers(0, len(sample), SAMPLED_VALUES)]
    sample = sample[np.isfinite(sample)].astype(np.float64)
    if not len(sample):
        raise ImageError(name, "contains no finite values")
    black, white = _black_and_white(sample, values.dtype.kind == "f", getattr(image, "tag_v2", {}))
    grey = np.empty(values.shape, np.uint8)
    for row, of_row in zip(
        grey, values, strict=True
    ):  # floats of all would take eight times the memory
        scaled = (of_row.astype(np.float64) - black) * (255 / (white - black))
        row[:] = np.nan_to_num(scaled).clip(0, 255).round()
    return grey


def _black_and_white(
    sample: np.ndarray, floats: bool, tags: Mapping[int, Any]
) -> tuple[float, float]:
    """The values that are shown as black and as white, of finite values of an image.

    A TIFF may declare them (SMinSampleValue and SMaxSampleValue), or fewer bits than the 16 that they are stored in.
    Otherwise white is the least of 255, 511, 1023, ... (for floats, of 1, 255, ...) that hardly any value exceeds,
    and black 0, or -white where there are negative values.
    """
    low, high = np.quantile(sample, [BEYOND_WHITE, 1 - BEYOND_WHITE])
    declared = [np.ravel(tags.get(tag, np.nan))[0] for tag in (340, 341)]
    if declared[0] <= low <= high <= declared[1] and -np.inf < declared[0] < declared[1] < np.inf:
        return float(declared[0]), float(declared[1])
    bits = np.ravel(tags.get(258, 16))[0]
    slack = OVERSHOOT if floats else 1.0
    bound = max(high, -low) / slack
    if floats and bound <= 1:
        white = 1.0
    elif 8 < bits < 16:
        white = 2.0**bits - 1
    else:
        white = 2.0 ** max(8, int(bound).bit_length()) - 1
    return (-white if low < white * (1 - slack) else 0.0), white


def _composited(layer: Image.Image) -> np.ndarray:
    """An RGBA image (H,W,3) on the ground that shows it, some rows at a time: a whole background would double
    the memory."""
    width, height = layer.size
    ground = _ground(layer)
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(1, (1 << 20) // width)
    for top in range(0, height, rows):
        strip = layer.crop((0, top, width, min(top + rows, height)))
        behind = Image.new("RGBA", strip.size, (ground, ground, ground, 255))
        rgb[top : top + rows] = np.asarray(Image.alpha_composite(behind, strip).convert("RGB"))
    return rgb


def _ground(layer: Image.Image) -> int:
    """Mid grey, or, where that hides more than half of the ink, the one of black and white that is farther from it."""
    ink = np.array(layer.convert("L").histogram(layer.getchannel("A")))
    hidden = ink[MID_GREY - HIDDEN_WITHIN : MID_GREY + HIDDEN_WITHIN + 1].sum()
    if 2 * hidden <= ink.sum():
        return MID_GREY
    return 0 if np.average(np.arange(256), weights=ink) >= MID_GREY else 255


def resize_short_side(image: np.ndarray, short_side_px: int) -> np.ndarray:
    """Shrink so that the shorter side is `short_side_px`; a smaller image, or 0, is returned as it is."""
    height, width = image.shape[:2]
    if not short_side_px or min(height, width) <= short_side_px:
        return image
    scale = short_side_px / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def cut_box(image: np.ndarray, xyxy: np.ndarray) -> np.ndarray:
    """The part of an image inside a box (x0, y0, x1, y1), pixels, exclusive ends, clipped to the image.

    Raises ValueError when nothing is left.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = np.clip(np.round(xyxy), 0, [width, height, width, height]).astype(int)
    if x1 <= x0 or y1 <= y0:
        raise ValueError(
            f"box {np.asarray(xyxy).tolist()} is empty in an image of {width} x {height} pixels"
        )
    return image[y0:y1, x0:x1]


def encode_jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    """Encode (H,W,3) uint8 RGB as JPEG."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=quality)
    return out.getvalue()


def encode_webp(image: np.ndarray, quality: int = 45) -> bytes:
    """Encode (H,W,3) uint8 RGB as WebP: two thirds of the bytes of a JPEG, for small pictures."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "WEBP", quality=quality, method=6)
    return out.getvalue()


def encode_png(image: np.ndarray) -> bytes:
    """Encode (H,W,3) uint8 RGB as PNG, without loss."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG", compress_level=1)
    return out.getvalue()


def list_folder(folder: Path) -> list[str]:
    """The name below a folder of every file, and, with a slash at the end, of every folder that is not
    entered: links, names that begin with a dot, and what may not be listed. In a stable order.

    Whether a file is an image is decided by its content later, never by its name. Raises
    FileNotFoundError, NotADirectoryError, and PermissionError for the folder itself.
    """
    if not folder.exists():
        raise FileNotFoundError(f"folder {printable(folder)} does not exist; check the path")
    if not folder.is_dir():
        raise NotADirectoryError(f"{printable(folder)} is a file; give a folder of images")
    top, names = os.path.join(folder, ""), []

    def name_it(error: OSError) -> None:
        if not (name := os.path.join(error.filename, "")[len(top) :]):
            said = f"folder {printable(folder)} cannot be listed: {error.strerror}"
            raise PermissionError(said) from None
        names.append(name)

    for root, folders, files in os.walk(folder, onerror=name_it):
        base = os.path.join(root, "")
        closed = {f for f in folders if f.startswith(".") or os.path.islink(base + f)}
        folders[:] = sorted(set(folders) - closed)
        names += [base[len(top) :] + name for name in sorted([*files, *(f + "/" for f in closed)])]
    return names


def walk_images(folder: Path) -> Iterator[Path]:
    """The files of `list_folder`, except names that begin with a dot. Raises what it raises."""
    paths = (folder / name for name in list_folder(folder) if not name.endswith("/"))
    return (path for path in paths if not path.name.startswith("."))


def file_states(paths: Sequence[str | Path] | pd.Series) -> np.ndarray:
    """Size in bytes and change mark (n,2) int64 of each file or URL: nanoseconds of its last change, or for a URL
    what `urls.states` gives. (0, 0) for one that is gone or forbidden, which its reader reports. Raises UrlError
    where a storage cannot be reached."""
    states, remote = np.zeros((len(paths), 2), np.int64), {}
    for at, path in enumerate(paths):
        if urls.is_url(path):
            remote[at] = path
        else:
            states[at] = _file_state(path)
    if remote:
        states[[*remote]] = urls.states([*remote.values()])
    return states


def _file_state(path: str | Path) -> tuple[int, int]:
    if os.fspath(path).endswith("/"):
        return 0, 0
    try:
        try:
            status = os.stat(path)
        except PermissionError:
            return 0, 0
        except OSError:
            status = os.lstat(path)  # a link to nothing
        return status.st_size, status.st_mtime_ns
    except OSError:
        return 0, 0
