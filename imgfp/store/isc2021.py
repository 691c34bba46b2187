# SPDX-License-Identifier: AGPL-3.0-or-later
"""The text files of the 2021 system: keypoints, pairs, scores, lists of images and of crops.

Nothing in them is evaluated, and no line is skipped: what is not understood becomes a FormatError that names file, line,
what was expected and what was found. What is read is written again byte for byte.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa

from imgfp import sift, store
from imgfp.store.formats import FormatError, number, opened, refuse_breaks

#: A keypoint line takes about 400 bytes, a path at most 4,096.
MAX_LINE_BYTES = 1 << 16
#: The end of the name of a picture.
PICTURE = re.compile(r"\.(jpe?g|png|gif|webp|bmp|tiff?|avif|jp2|hei[cf])\Z", re.IGNORECASE)

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]{1,2})?", re.IGNORECASE)
_KEYPOINT_LINE = "<id>_<i>_<x>_<y>_<scale>_<angle>||<128 numbers>"
#: A header, which these files do not have.
_HEADER = ["query_id", "reference_id"]
#: What separates a score of `match_score` from the name before it: a comma and this word.
SCORE_WORD = "score:"


def name_of(image_id: str, path: str) -> str:
    """The file name by which the texts know an image: its id, with the extension of its file (or URL) where it has none."""
    ending = PurePosixPath(path).suffix
    return image_id if image_id.endswith(ending) else image_id + ending


def pixels_of(xyxy: np.ndarray | None, width: int, height: int) -> tuple[int, int, int, int]:
    """The corners of a box in whole pixels of an image, as `images.cut_box` cuts; None: of the whole image."""
    if xyxy is None:
        return 0, 0, width, height
    x0, y0, x1, y1 = np.clip(np.round(xyxy), 0, [width, height] * 2).astype(int).tolist()
    return x0, y0, x1, y1


# ------------------------------------------------------------------------------- keypoints


def read_keypoints(path: Path, frame_scale: float) -> tuple[str, np.ndarray, np.ndarray]:
    """One image's keypoint text: its id, keypoints (n,4) float32, descriptors (n,128) uint8.

    A line is `<id>_<number>_<x>_<y>_<scale>_<angle>||<128 comma-separated bytes>`, the id may hold
    underscores. The file holds x, y in a downscaled frame and does not say how far: `frame_scale` is
    frame pixels per picture pixel (`sift.frame_scale`), 1 keeps the frame's. Keypoints come back as in
    `sift.extract`, except that angles stay as they are in the file (they differ by whole turns);
    descriptors in the layout of `sift.extract`. An empty file gives the id "". Raises FormatError.
    """
    with opened(path) as file:
        data = file.read().removeprefix(BOM_UTF8)
    if not data:
        return "", np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    data = data.removesuffix(b"\n")
    try:
        lines = [line.partition(b"||") for line in data.split(b"\n")]
        fields = [head.rsplit(b"_", 5) for head, _, _ in lines]
        (image_id,) = {one[0].decode() for one in fields}
        texts = pa.array([text for one in fields for text in one[1:]], pa.binary())
        numbers = texts.cast(pa.string()).cast(pa.float64()).to_numpy().reshape(len(lines), 5)
        histograms = _histograms([tail for _, _, tail in lines])
        if data.count(b"|") != 2 * len(lines) or not np.isfinite(numbers).all():
            raise ValueError
        if not image_id or not (numbers[:, 3] > 0).all():
            raise ValueError
    except ValueError:  # also of several ids, of text that is not UTF-8, and of arrow
        _refuse_keypoints(path)
    keypoints = numbers[:, 1:].copy()
    keypoints[:, :2] = (keypoints[:, :2] + 0.5) / frame_scale - 0.5
    keypoints[:, 2] *= sift.SIZE_PER_SCALE / frame_scale
    return image_id, keypoints.astype(np.float32), sift.from_seed_layout(histograms)


def _histograms(tails: Sequence[bytes]) -> np.ndarray:
    """The 128 comma-separated numbers of each text, (n,128) uint8, all at once. Raises ValueError where there are others."""
    data = np.frombuffer(b"\n".join([*tails, b""]), np.uint8)
    digits = data - np.uint8(ord("0"))  # what is no digit becomes 10 or more
    is_digit = digits < 10
    ends = np.flatnonzero((data == ord(",")) | (data == ord("\n")))
    if len(ends) != 128 * len(tails) or (data[ends[127::128]] != ord("\n")).any():
        raise ValueError
    long = is_digit[3:] & is_digit[2:-1] & is_digit[1:-2] & is_digit[:-3]
    if long.any() or is_digit.sum() + len(ends) != len(data) or not is_digit[ends - 1].all():
        raise ValueError
    # Of every byte the number of up to three digits that ends before it.
    digits *= is_digit
    values = np.zeros(len(data), np.uint16)
    values[1:] = digits[:-1]
    values[2:] += digits[:-2] * np.uint16(10)
    values[3:] += digits[:-3] * np.uint16(100) * is_digit[1:-2]
    values = values[ends]
    if values.max() > 255:
        raise ValueError
    return values.astype(np.uint8).reshape(-1, 128)


def _refuse_keypoints(path: Path) -> NoReturn:
    """Raise FormatError for the first line that is not what `read_keypoints` expects."""
    image_id = ""
    for line, text in _lines(path):
        head, bars, tail = text.partition("||")
        fields = head.rsplit("_", 5)
        if not bars or len(fields) != 6 or not fields[0]:
            raise FormatError(path, line, f"expected {_KEYPOINT_LINE}, got {text[:80]!r}")
        for value, what in zip(fields[1:], ("number", "x", "y", "scale", "angle"), strict=True):
            if not _NUMBER.fullmatch(value):
                raise FormatError(
                    path, line, f"the keypoint's {what} {value[:40]!r} is not a number"
                )
        if float(fields[4]) <= 0:
            raise FormatError(path, line, f"expected a scale above 0, got {fields[4][:40]!r}")
        if line > 1 and fields[0] != image_id:
            wrong = f"expected the id {image_id!r} of the lines before, got {fields[0]!r}"
            raise FormatError(path, line, f"{wrong}; split the file, one image per file")
        image_id = fields[0]
        values = tail.split(",")
        wrong_ones = [one for one in values if not re.fullmatch(r"[0-9]{1,3}", one)]
        if wrong_ones:
            wrong = f"expected whole numbers of 0..255, got {wrong_ones[0][:40]!r}"
            raise FormatError(path, line, wrong)
        if len(values) != 128 or max(map(int, values)) > 255:
            wrong = f"got {len(values)} values up to {max(map(int, values))}"
            raise FormatError(path, line, f"expected 128 values of 0..255, {wrong}")
    raise FormatError(path, None, f"expected lines {_KEYPOINT_LINE}")


def write_keypoints(
    path: Path, image_id: str, keypoints: np.ndarray, descriptors: np.ndarray, frame_scale: float
) -> None:
    """Write one image's features as keypoint text; arguments as `read_keypoints` gives them.

    Six significant digits, as the 2021 system wrote: a file read with frame_scale 1 is written byte for byte.
    """
    refuse_breaks(path, [image_id], "\n\r|")
    rows = np.array(keypoints, np.float64)
    rows[:, :2] = (rows[:, :2] + 0.5) * frame_scale - 0.5
    rows[:, 2] *= frame_scale / sift.SIZE_PER_SCALE
    lines = [
        f"{image_id}_{i}_{x:.6g}_{y:.6g}_{scale:.6g}_{angle:.6g}||{','.join(map(str, numbers))}\n"
        for i, ((x, y, scale, angle), numbers) in enumerate(
            zip(rows.tolist(), sift.to_seed_layout(descriptors).tolist(), strict=True)
        )
    ]
    store.write_bytes(path, "".join(lines).encode())


# --------------------------------------------------------------------------- pairs and scores


def read_pairs(path: Path) -> pd.DataFrame:
    """Pairs, `query,reference` or `query,reference,score`: query_id, reference_id, score (NaN without), a row per line.

    Commas or tabs; ids or names of files, as they stand there; a score may be written `score:12`, as `match_score`
    does. All lines are of the kind of the first. Raises FormatError.
    """
    rows: list[tuple[str, str, float]] = []
    first: tuple[bool, ...] = ()
    for line, text in _lines(path):
        fields = text.split("\t" if "\t" in text else ",")
        if len(fields) not in (2, 3) or not all(fields):
            wrong = f"expected query,reference or query,reference,score, got {text[:80]!r}"
            raise FormatError(path, line, f"{wrong}; tabs will do for commas")
        if line == 1 and fields[:2] == _HEADER:
            wrong = f"expected a pair, got the header {text[:80]!r}"
            raise FormatError(path, line, f"{wrong}; remove it, or add the column score")
        score = fields[2] if len(fields) == 3 else ""
        extensions = (PICTURE.search(name) is not None for name in fields[:2])
        kind = ("\t" in text, bool(score), *extensions, score.startswith(SCORE_WORD))
        first = first or kind
        if kind != first:
            wrong = f"expected {_in_words(first)} as in line 1, got {text[:80]!r}"
            raise FormatError(path, line, wrong)
        score = score.removeprefix(SCORE_WORD)
        value = number(score, path, line, "the score") if kind[1] else float("nan")
        rows.append((fields[0], fields[1], value))
    frame = pd.DataFrame(rows, columns=["query_id", "reference_id", "score"])
    return frame.astype({"query_id": "str", "reference_id": "str", "score": "float64"})


def _in_words(kind: tuple[bool, ...]) -> str:
    """How a line of pairs is written."""
    tabs, scored, *extensions, word = kind
    names = [
        f"{side} {'names with' if extension else 'ids without'} an extension"
        for side, extension in zip(("query", "reference"), extensions, strict=True)
    ]
    separated = f"{2 + scored} values between {'tabs' if tabs else 'commas'}"
    return f"{separated}, {' and '.join(names)}" + (f", {SCORE_WORD} before the score" * word)


def read_scores(path: Path) -> pd.DataFrame:
    """`read_pairs` of a file in which every pair has a score. Raises FormatError."""
    pairs = read_pairs(path)
    if pairs["score"].isna().any():
        raise FormatError(path, 1, "expected query, reference and score, got a pair alone")
    return pairs


def write_pairs(path: Path, pairs: pd.DataFrame) -> None:
    """Write the columns query_id, reference_id, in order, as the searches of the 2021 system: `query,reference`."""
    _write_separated(path, pairs, ["query_id", "reference_id"], ",")


def write_pair_scores(path: Path, scores: pd.DataFrame) -> None:
    """Write query_id, reference_id, score, in order, as its `match_score`: `query,reference,score:12`."""
    texts = [SCORE_WORD + text for text in _as_texts(scores["score"])]
    _write_separated(path, scores.assign(score=texts), ["query_id", "reference_id", "score"], ",")


def write_scores(path: Path, predictions: pd.DataFrame) -> None:
    """Write a `predictions` table, in order, as its final result: `query<TAB>reference<TAB>score`."""
    texts = _as_texts(predictions["score"])
    frame = predictions.assign(score=texts)
    _write_separated(path, frame, ["query_id", "reference_id", "score"], "\t")


def _as_texts(scores: pd.Series) -> list[str]:
    """Whole numbers without a decimal point, others in as many digits as give the same number again."""
    return [f"{score:.17g}" if score % 1 else f"{score:.0f}" for score in scores]


def _write_separated(path: Path, frame: pd.DataFrame, columns: list[str], separator: str) -> None:
    for name in columns[:2]:
        refuse_breaks(path, frame[name], f"{separator}\t\n\r")
    rows = frame[columns].itertuples(index=False, name=None)
    store.write_bytes(path, "".join(separator.join(row) + "\n" for row in rows).encode())


# ------------------------------------------------------------------------------------ lists


def read_list(path: Path) -> list[str]:
    """Names of images, one per line. Raises FormatError for a blank line and for a name that stands there twice."""
    seen: dict[str, int] = {}
    for line, text in _lines(path):
        _refuse_name(path, line, text, seen)
    return list(seen)


def write_list(path: Path, names: list[str]) -> None:
    """Write names of images, one per line."""
    refuse_breaks(path, names, "\n\r")
    store.write_bytes(path, "".join(f"{name}\n" for name in names).encode())


def read_crop_list(path: Path) -> dict[str, float]:
    """Names of images that a crop was cut from, each with the confidence 0..1 of its box: `name confidence` per line.
    Raises FormatError."""
    confidences: dict[str, float] = {}
    seen: dict[str, int] = {}
    for line, text in _lines(path):
        name, blank, confidence = text.rpartition(" ")
        if not blank:
            raise FormatError(path, line, f"expected a name and a confidence, got {text[:80]!r}")
        _refuse_name(path, line, name, seen)
        confidences[name] = number(confidence, path, line, "the confidence")
        if not 0 <= confidences[name] <= 1:
            raise FormatError(path, line, f"expected a confidence of 0..1, got {confidence!r}")
    return confidences


def write_crop_list(path: Path, confidences: dict[str, float]) -> None:
    """Write what `read_crop_list` reads, confidences with six decimals."""
    refuse_breaks(path, confidences, "\n\r")
    lines = [f"{name} {confidence:f}\n" for name, confidence in confidences.items()]
    store.write_bytes(path, "".join(lines).encode())


def _refuse_name(path: Path, line: int, name: str, seen: dict[str, int]) -> None:
    """Note the line of a name; raise FormatError where it is blank or known."""
    if not name.strip():
        raise FormatError(path, line, "expected the name of an image, got a blank line")
    if name in seen:
        raise FormatError(path, line, f"expected each name once, got {name!r} of line {seen[name]}")
    seen[name] = line


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers and texts without their line ends and a byte order mark; only a line feed ends a line."""
    with opened(path) as file:
        for line, data in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
            if len(data) == MAX_LINE_BYTES:
                raise FormatError(path, line, f"longer than {MAX_LINE_BYTES} bytes; is it text?")
            try:
                text = data.decode("utf-8-sig" if line == 1 else "utf-8")
                yield line, text.removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError:
                raise FormatError(path, line, "not UTF-8 text") from None
