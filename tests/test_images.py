# SPDX-License-Identifier: AGPL-3.0-or-later
"""Safe decoding, resizing, cutting, listing of folders."""

from __future__ import annotations

import base64
import io
import os

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from imgfp import decoding, images
from imgfp.images import ImageError


def encoded(array: np.ndarray, kind: str, **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, **options)
    return out.getvalue()


#: A HEIC of 32 x 24 pixels, red at the top left and green at the bottom right, stored on its side, with both its own
#: mark of that and one in EXIF, as telephones write it. Made by pillow-heif.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAbNtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAADRpbG9jAAAAAERAAAIAAQAAAAAB1wABAAAAAAAAAHQAAgAAAAACSwABAAAAAAAAACQAAAA4aWluZgAAAAAA"
    "AgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA8mlwcnAAAADS"
    "aXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAp"
    "QgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABRpc3BlAAAAAAAAAEAA"
    "AABAAAAAKGNsYXAAAAAYAAAAAQAAACAAAAAB////2AAAAAL////gAAAAAgAAABBwaXhpAAAAAAMICAgAAAAJaXJvdAMA"
    "AAAYaXBtYQAAAAAAAAABAAEFgQIEg4UAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAKBtZGF0AAAAcCgBrwnIaqse"
    "I5lTv/Jn7wALO9+Im0PMDXpfI3JxZd98Yyjpd/+zfV0vpLr/twHbSefpes8GX/kEX6b2dLumo/H9A6KpOTn0vqqyVWip"
    "YttJVtCO/e889Bh+lynHcD/o8c1qfnZU0kRspdSQytk1GfgAAAAGRXhpZgAATU0AKgAAAAgAAQESAAMAAAABAAYAAAAA"
    "AAA="
)


@pytest.mark.parametrize("kind", [kind for kind in images.FORMATS if kind != "HEIF"])
def test_every_format_gives_upright_rgb(photograph, kind):
    image, facts = images.decode_image(encoded(photograph, kind))
    assert image.shape == photograph.shape and image.dtype == np.uint8
    assert facts.format == kind
    assert np.abs(image.astype(int) - photograph).mean() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_undone(orientation, kind):
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:20, :20] = (255, 0, 0)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    stored.save(out, kind, exif=exif)
    image, _ = images.decode_image(out.getvalue())
    assert image.shape == (40, 60, 3)
    assert image[5:15, 5:15, 0].mean() > 200 and image[30:, 40:].mean() < 40


def test_a_heic_is_turned_once(tmp_path):
    (file := tmp_path / "IMG_1.HEIC").write_bytes(HEIC)
    picture = decoding.read_picture(file)
    assert picture.facts == images.Facts("HEIF", 32, 24, ())
    corners = picture.pixels[2, 2], picture.pixels[-3, -3], picture.pixels[2, -3]
    assert np.abs(np.subtract(corners, [(230, 30, 30), (30, 200, 60), (0, 0, 40)])).max() < 12


def test_a_heic_is_bounded_by_its_header_and_refused_when_cut(tmp_path):
    with pytest.raises(ImageError, match="32 x 24 pixels, more than the limit of 700"):
        images.decode_image(HEIC, max_pixels=700)
    for length in (200, 400, len(HEIC) - 1):
        with pytest.raises(ImageError, match="is HEIC or HEIF, but damaged"):
            images.decode_image(HEIC[:length])


def test_16_bit_is_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 256 * 16).reshape(16, 256).astype(np.uint16)
    image, facts = images.decode_image(encoded(ramp, "PNG"))
    assert image[0, 0, 0] == 0 and image[-1, -1, 0] == 255
    assert abs(int(image[8, 0, 0]) - 127) <= 1
    assert "more than 8 bit" in facts.notes


@pytest.mark.parametrize(
    ("scale", "kind", "options"),
    [
        (lambda v: v * 1023, np.uint16, {}),
        (lambda v: v * 4095, np.uint16, {}),
        (lambda v: v * 65535, np.uint16, {}),
        (lambda v: v * (2**23 - 1), np.int32, {}),
        (lambda v: v * (2**31 - 1), np.int32, {}),
        (lambda v: v * 65535 - 32768, np.int32, {}),
        (lambda v: v, np.float32, {}),
        (lambda v: v * 2 - 1, np.float32, {}),
        (lambda v: v * 255, np.float32, {}),
        (lambda v: v * 65535, np.float32, {}),
        (lambda v: v * 1.08 - 0.04, np.float32, {}),  # overshot
        (lambda v: v * 300 - 100, np.float32, {340: -100.0, 341: 200.0}),  # declared
        (lambda v: np.where(v > 0.9995, 60000, v * 4095), np.uint16, {}),  # hot pixels
    ],
)
def test_values_of_any_depth_are_scaled_by_their_range(photograph, scale, kind, options):
    grey = photograph.mean(axis=2)
    ramp = np.linspace(0, 1, 4096).reshape(16, 256)
    expected = np.vstack([np.resize(grey, (240, 256)) / 255, ramp])
    out, tags = io.BytesIO(), TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in options.items():
        tags.tagtype[tag] = 11
        tags[tag] = value
    Image.fromarray(scale(expected).astype(kind)).save(out, "TIFF", tiffinfo=tags)
    image, facts = images.decode_image(out.getvalue())
    assert np.abs(image[:, :, 1] - 255 * expected).max() < 12
    assert facts.notes == ("more than 8 bit",)


def test_values_that_are_no_numbers_are_black_or_white():
    values = np.linspace(0, 1, 256 * 16, dtype=np.float32).reshape(16, 256)
    values[0, 10:13] = np.nan, np.inf, -np.inf
    image, _ = images.decode_image(encoded(values, "TIFF"))
    assert image[0, 10:13, 0].tolist() == [0, 255, 0] and image[8, 0, 0] in (127, 128)
    with pytest.raises(ImageError, match="no finite values"):
        images.decode_image(encoded(np.full_like(values, np.nan), "TIFF"))


@pytest.mark.parametrize(
    ("ink", "ground"), [(0, 128), (255, 128), (128, 0), (140, 0), (110, 255), (90, 128)]
)
def test_transparent_ink_is_laid_on_a_ground_that_shows_it(ink, ground):
    layer = np.zeros((40, 40, 4), np.uint8)
    layer[10:20, 10:20] = ink, ink, ink, 255
    image, _ = images.decode_image(encoded(layer, "PNG"))
    assert (image[30:] == ground).all() and (image[12:18, 12:18] == ink).all()


def test_a_transparent_image_is_composited_on_grey():
    layer = np.full((20, 20, 4), 255, np.uint8)
    layer[:10, :, 3] = 0
    image, facts = images.decode_image(encoded(layer, "PNG"))
    assert (image[:10] == 128).all() and (image[10:] == 255).all()
    assert "transparent" in facts.notes


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"just text", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "not an image"),
        (b"\0\0\0\x18ftypheic" + bytes(99), "is HEIC or HEIF, but damaged"),
        (b"\xff\x0a" + bytes(99), "is JPEG XL, which is not decoded; convert it"),
        (encoded(np.zeros((4, 300, 3), np.uint8), "PNG"), "too small"),
        (encoded(np.zeros((8, 900, 3), np.uint8), "PNG"), "thinner than"),
    ],
)
def test_other_data_are_refused_with_a_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        images.decode_image(data)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_a_sound_file_is_decoded_as_pillow_does(photograph, mode):
    """Nothing that is done for damaged files may change the pixels of sound ones, blank ends included."""
    framed = np.pad(photograph[:90, :120], ((0, 40), (0, 0), (0, 0)))
    kind = "TIFF" if mode == "CMYK" else "PNG"
    out = io.BytesIO()
    Image.fromarray(framed).convert(mode).save(out, kind)
    image, facts = images.decode_image(out.getvalue())
    expected = Image.open(io.BytesIO(out.getvalue())).convert("RGB")
    assert np.array_equal(image, np.asarray(expected)) and facts.notes == ()


def alike(image: np.ndarray, photograph: np.ndarray) -> bool:
    rows = photograph[: len(image)].astype(int)
    return image.shape[1] == rows.shape[1] and np.abs(image - rows).mean() < 12


@pytest.mark.parametrize(
    ("kind", "options", "lost_bytes"),
    [
        *[
            ("JPEG", {"progressive": progressive}, lost)
            for progressive in (0, 1)
            for lost in (1, 9)
        ],
        ("PNG", {"compress_level": 1}, 100),
        ("GIF", {}, 10),
        ("WEBP", {}, 1),
        ("WEBP", {}, 1000),
        ("BMP", {}, 10),
        ("TIFF", {}, 10),
    ],
)
def test_a_file_without_its_last_bytes_is_decoded(photograph, kind, options, lost_bytes):
    image, facts = images.decode_image(encoded(photograph, kind, **options)[:-lost_bytes])
    assert facts.notes[0] == images.DAMAGED and (facts.width, facts.height) == image.shape[1::-1]
    assert len(image) > 420 and alike(image, photograph)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_is_missing_at_the_end_is_cut_off(photograph, kind):
    """Grey or black rows would be searched for otherwise."""
    data = encoded(photograph, kind)
    image, facts = images.decode_image(data[: len(data) // 2])
    assert facts.notes == (images.DAMAGED,)
    assert 150 < len(image) < 350 and alike(image[:-24], photograph)
    with pytest.raises(ImageError, match="cannot be decoded"):
        images.decode_image(data[:300])


def test_a_cut_file_is_upright_and_one_after_it_is_strict(photograph):
    exif = Image.Exif()
    exif[0x0112] = 6
    image, facts = images.decode_image(encoded(photograph, "JPEG", exif=exif)[:-9])
    assert facts.notes == (images.DAMAGED, "turned by EXIF")
    assert alike(np.rot90(image), photograph)
    assert images.ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_leading_bytes_of_something_else_are_skipped(photograph, kind):
    data = encoded(photograph, kind)
    image, facts = images.decode_image(b"HTTP/1.1 200 OK\r\n\r\n" + data)
    assert facts.notes == (images.DAMAGED,)
    assert np.array_equal(image, images.decode_image(data)[0])
    with pytest.raises(ImageError, match="not an image"):
        images.decode_image(b" " * images.MAX_LEADING_BYTES + data)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG"])
def test_the_first_page_that_can_be_decoded_is_taken(photograph, kind):
    pages = [np.zeros((4, 4, 3), np.uint8), photograph]  # the first is too small
    if kind != "TIFF":
        pages = [photograph, photograph[::-1]]
    out = io.BytesIO()
    first, second = map(Image.fromarray, pages)
    first.save(out, kind, save_all=True, append_images=[second])
    image, facts = images.decode_image(out.getvalue())
    assert alike(image, photograph)
    assert facts.notes == (images.DAMAGED if kind == "TIFF" else "frames=2",)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_a_blank_frame_hides_no_picture(photograph, kind):
    blank = Image.fromarray(np.full_like(photograph, 255))
    pages = [blank, Image.fromarray(photograph), blank]
    for number, notes in ((2, ("frames=3", "frame=2")), (1, ("frames=2",))):
        out = io.BytesIO()
        others = pages[1:] if number == 2 else [Image.fromarray(np.zeros_like(photograph))]
        blank.save(out, kind, save_all=True, append_images=others)
        image, facts = images.decode_image(out.getvalue())
        assert facts.notes == notes
        assert alike(image, photograph if number == 2 else np.asarray(blank))


def test_too_many_pixels_are_refused_before_decoding():
    data = encoded(np.zeros((8000, 8000), np.uint8), "PNG")
    with pytest.raises(ImageError, match="8000 x 8000"):
        images.decode_image(data)


def test_special_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name, reason in [("pipe.jpg", "regular"), ("empty.jpg", "empty"), ("gone.jpg", "No such")]:
        with pytest.raises(ImageError, match=reason):
            decoding.read_image(tmp_path / name)


def test_a_collection_of_bad_files_raises_image_errors_only(shared):
    folder = shared / "bad_images"
    if not folder.is_dir():
        pytest.skip("the collection of bad images (../shared/bad_images) is not here")
    tried = 0
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            tried += 1
            try:
                image = decoding.read_image(path)
                assert image.ndim == 3 and image.dtype == np.uint8
            except ImageError as error:
                assert error.reason and "\n" not in str(error)
    assert tried > 40


def test_mutated_files_raise_image_errors_only(photograph, rng):
    """Sibling of the test above, on generated files."""
    data = encoded(photograph[:120, :160], "JPEG"), encoded(photograph[:60, :80], "PNG")
    decoded = refused = 0
    for number in range(300):
        damaged = bytearray(data[number % 2])
        for place in rng.integers(0, len(damaged), 5):
            damaged[place] = rng.integers(256)
        try:
            image, _ = images.decode_image(bytes(damaged))
            assert image.ndim == 3 and image.dtype == np.uint8
            decoded += 1
        except ImageError as error:
            assert 0 < len(error.reason) <= 200
            refused += 1
    assert decoded > 20 and refused > 20


def test_resize_only_shrinks(photograph):
    small = images.resize_short_side(photograph, 100)
    assert small.shape == (100, 150, 3)
    assert images.resize_short_side(small, 300) is small
    assert images.resize_short_side(small, 0) is small


def test_cut_box_clips_and_refuses_nothing_left(photograph):
    assert images.cut_box(photograph, np.array([-5, 10, 20.4, 30])).shape == (20, 20, 3)
    with pytest.raises(ValueError, match="empty"):
        images.cut_box(photograph, np.array([700, 10, 900, 30]))


def test_a_listing_names_every_entry(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    (folder / "sub/.cache").mkdir(parents=True)
    (folder / "private").mkdir()
    for name in ("a.jpg", "sub/A b.v2.png", ".hidden.jpg", "sub/.cache/b.jpg", "private/c.jpg"):
        (folder / name).write_bytes(b"x")
    (folder / "sub/link").symlink_to(folder)
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)  # root may list every folder
    names = images.list_folder(folder)
    files, closed = (
        [".hidden.jpg", "a.jpg", "sub/A b.v2.png"],
        ["private/", "sub/.cache/", "sub/link/"],
    )
    assert sorted(names) == sorted(files + closed)
    for name, reason in zip(closed, ["may not be listed", "with a dot", "a link"], strict=True):
        with pytest.raises(ImageError, match=reason):
            images.read_bytes(os.path.join(folder, name))
    assert list(images.walk_images(folder)) == [folder / "a.jpg", folder / "sub/A b.v2.png"]
    with pytest.raises(PermissionError, match="private cannot be listed"):
        images.list_folder(folder / "private")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list(images.walk_images(folder / "gone"))
