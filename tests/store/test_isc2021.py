# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from imgfp import sift
from imgfp.store import isc2021 as texts
from imgfp.store.formats import FormatError

#: Ids that are data: separators of other formats, quotes, other scripts, an expression.
HOSTILE = ["a_b_1", 'quo"te', "semi;colon", "bär/ü", "__import__('os')", "<img onerror=x>"]


# ------------------------------------------------------------------------------ keypoint text


def test_no_keypoints(tmp_path):
    path = tmp_path / "none.txt"
    texts.write_keypoints(path, "q", np.empty((0, 4)), np.empty((0, 128), np.uint8), 1.0)
    image_id, keypoints, histograms = texts.read_keypoints(path, 1.0)
    assert path.read_bytes() == b"" and image_id == ""
    assert keypoints.shape == (0, 4) and histograms.shape == (0, 128)


@pytest.mark.parametrize("scale", [1.0, 300 / 608])
def test_keypoints_of_the_2021_system_round_trip(isc2021, tmp_path, scale):
    source = isc2021 / "Q24789.sift.txt"
    image_id, keypoints, histograms = texts.read_keypoints(source, scale)
    assert image_id == "Q24789" and keypoints.shape == (661, 4)
    texts.write_keypoints(tmp_path / "again.txt", image_id, keypoints, histograms, scale)
    assert (tmp_path / "again.txt").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("scale", [1.0, 300 / 608])
def test_a_small_file_in_the_layout_of_2021_round_trips(tmp_path, scale):
    """Sibling of the test above, on lines written out here."""
    numbers = [list(range(128)), [255 - i for i in range(128)], [7] * 128]
    places = ["3.1348_65.589_1.76567_-1.09404", "431.038_8.26344_12.5_0", "1.25_299.5_2_3.14159"]
    lines = [
        f"Q_1_{i}_{place}||{','.join(map(str, row))}"
        for i, (place, row) in enumerate(zip(places, numbers, strict=True))
    ]
    source = tmp_path / "source.txt"
    source.write_bytes(("\n".join(lines) + "\n").encode())
    image_id, keypoints, histograms = texts.read_keypoints(source, scale)
    assert image_id == "Q_1" and keypoints.shape == (3, 4)
    expected = [(3.1348 + 0.5) / scale - 0.5, (65.589 + 0.5) / scale - 0.5, 2 * 1.76567 / scale]
    assert keypoints[0] == pytest.approx([*expected, -1.09404], rel=1e-6)
    # Of each cell the first orientation stays, the other seven are reversed.
    assert histograms[0, :16].tolist() == [0, 7, 6, 5, 4, 3, 2, 1, 8, 15, 14, 13, 12, 11, 10, 9]
    texts.write_keypoints(tmp_path / "again.txt", image_id, keypoints, histograms, scale)
    assert (tmp_path / "again.txt").read_bytes() == source.read_bytes()


def test_features_survive_the_text(photograph, tmp_path):
    keypoints, histograms = sift.extract(photograph)
    scale = sift.frame_scale(640, 427, 300)
    texts.write_keypoints(tmp_path / "p.txt", "my_photo_1", keypoints, histograms, scale)
    image_id, again, same = texts.read_keypoints(tmp_path / "p.txt", scale)
    assert image_id == "my_photo_1"
    assert np.allclose(again, keypoints, rtol=1e-5, atol=0.01)
    assert np.array_equal(same, histograms)


LINE = "q_0_1_2_3_0.5||" + ",".join(["7"] * 128)


@pytest.mark.parametrize(
    ("text", "place", "wrong"),
    [
        (LINE + "\n" + LINE.replace("||", "|"), "line 2", "expected <id>"),
        (LINE.replace("_2_", "_"), "line 1", "expected <id>"),
        (LINE.removeprefix("q"), "line 1", "expected <id>"),
        ("\n", "line 1", "expected <id>"),
        (LINE.replace("_3_", "_0_"), "line 1", "scale above 0, got '0'"),
        (LINE.replace("_2_", "_nan_"), "line 1", "'nan'"),
        (LINE.replace("_2_", "_x_"), "line 1", "'x'"),
        (LINE[:-2], "line 1", "127 values"),
        (LINE[:-1] + "256", "line 1", "up to 256"),
        (LINE[:-1] + "1+1", "line 1", "'1+1'"),
        (LINE + "\n" + LINE.replace("q_", "r_"), "line 2", "'r'"),
        (LINE + "\n\n" + LINE, "line 2", "expected <id>"),
        (LINE.replace("7,7", "7, 7"), "line 1", "' 7'"),
        (LINE.replace("7,7", "7,1000", 1), "line 1", "'1000'"),
        (LINE + "\n" + LINE[:-2] + "\n" + LINE + ",7", "line 2", "127 values"),
        ("x" * 70_000, "line 1", "longer"),
    ],
)
def test_bad_keypoint_lines_are_named(tmp_path, text, place, wrong):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(FormatError) as error:
        texts.read_keypoints(path, 1.0)
    assert str(path) in str(error.value) and place in str(error.value)
    assert wrong in str(error.value)


def test_a_keypoint_text_is_read_fast(tmp_path, rng):
    """Far more than half of the 50 MB/s of a quiet core that docs/isc2021.md promises; a loop over lines reads 7."""
    keypoints = rng.uniform(1, 400, (2000, 4))
    texts.write_keypoints(
        tmp_path / "q.txt", "q", keypoints, rng.integers(0, 256, (2000, 128), np.uint8), 1.0
    )
    seconds = []
    for _ in range(5):
        begun = time.process_time()
        texts.read_keypoints(tmp_path / "q.txt", 1.0)
        seconds.append(time.process_time() - begun)
    assert (tmp_path / "q.txt").stat().st_size / min(seconds) > 20e6


# -------------------------------------------------------------------------------- pairs, scores


@pytest.mark.parametrize(
    ("data", "read", "write", "row"),
    [
        (b"Q1.jpg,R2.jpg\nQ3.jpg,R4.png\n", "pairs", "pairs", ["Q1.jpg", "R2.jpg"]),
        (b"Q1,R2\nQ3,R4\n", "pairs", "pairs", ["Q1", "R2"]),
        (
            b"Q1.jpg,R2.jpg,score:12\nQ3.jpg,R2.jpg,score:0\n",
            "scores",
            "pair_scores",
            ["Q1.jpg", "R2.jpg", 12],
        ),
        (
            b"Q05429\tR317994\t392\nQ02398\tR810530\t543\nQ05429\tR1\t0.25\n",
            "scores",
            "scores",
            ["Q05429", "R317994", 392],
        ),
    ],
)
def test_what_the_2021_system_wrote_is_written_again_byte_for_byte(
    tmp_path, data, read, write, row
):
    (tmp_path / "given.txt").write_bytes(data)
    rows = getattr(texts, f"read_{read}")(tmp_path / "given.txt")
    assert rows.iloc[0].tolist()[: len(row)] == row
    getattr(texts, f"write_{write}")(tmp_path / "again.txt", rows)
    assert (tmp_path / "again.txt").read_bytes() == data


def test_final_results_of_the_2021_system_round_trip(isc2021, tmp_path):
    source = isc2021 / "final_result_demo.txt"
    scores = texts.read_scores(source)
    assert len(scores) == 58_109
    texts.write_scores(tmp_path / "again.txt", scores)
    assert (tmp_path / "again.txt").read_bytes() == source.read_bytes()


def test_pairs_and_scores_of_any_ids(tmp_path):
    frame = pd.DataFrame(
        {"query_id": HOSTILE, "reference_id": HOSTILE[::-1], "score": [3, 0.1, 1e-9, 5.5, -2, 1e20]}
    )
    path = tmp_path / "pairs.txt"
    texts.write_scores(path, frame)
    assert texts.read_scores(path).equals(frame.astype(texts.read_scores(path).dtypes))
    path.write_text("a\tb\r\nc\td\r\n")
    assert texts.read_pairs(path)["reference_id"].tolist() == ["b", "d"]
    path.write_text("")
    assert texts.read_pairs(path).empty and texts.read_scores(path).empty


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\na,b,1\n", "line 2: expected 2 values"),
        ("a\tb\na,b\n", "line 2: expected 2 values between tabs"),
        ("a.jpg,b.jpg\na,b\n", "line 2: expected .* query names with an extension"),
        ("a,b,score:1\na,b,1\n", "line 2: expected .* score: before"),
        ("a,b\n\nc,d\n", "line 2: expected query,reference"),
        ("a b\n", "line 1: expected query,reference .*got 'a b'"),
        ("a,b,c,d\n", "line 1: expected query,reference"),
        ("query_id,reference_id\na,b\n", "line 1: expected a pair, got the header"),
        ("a,b,inf\n", "line 1: the score 'inf'"),
        ("a,b,1_0\n", "line 1: the score '1_0'"),
        ("a,b,score:many\n", "line 1: the score 'many'"),
        ("a,\n", "line 1: expected query,reference"),
        ("a,b\n\udcff,c\n", "line 2: not UTF-8"),
    ],
)
def test_bad_pairs_are_named(tmp_path, text, said):
    path = tmp_path / "pairs.txt"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(FormatError, match=said) as error:
        texts.read_pairs(path)
    assert str(path) in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_first_id(tmp_path):
    path = tmp_path / "file.txt"
    for text, read in (
        ("Q1,R1\r\n", lambda: texts.read_pairs(path)["query_id"][0]),
        ("Q1\n", lambda: texts.read_list(path)[0]),
        (LINE.replace("q", "Q1", 1), lambda: texts.read_keypoints(path, 1.0)[0]),
    ):
        path.write_text(text, encoding="utf-8-sig")
        assert read() == "Q1"


def test_what_a_line_cannot_hold_is_not_written(tmp_path):
    for write, name in (
        (texts.write_pairs, "a,b"),
        (texts.write_pair_scores, "a\nb"),
        (texts.write_scores, "a\tb"),
    ):
        frame = pd.DataFrame({"query_id": [name], "reference_id": ["c"], "score": [1.0]})
        with pytest.raises(FormatError, match="cannot hold the id"):
            write(tmp_path / "pairs.txt", frame)
    (tmp_path / "pairs.txt").write_text("a,b\n")
    with pytest.raises(FormatError, match="a pair alone"):
        texts.read_scores(tmp_path / "pairs.txt")


# ---------------------------------------------------------------------------------------- lists


def test_lists_round_trip_and_bad_lines_are_named(tmp_path):
    path = tmp_path / "list.txt"
    texts.write_list(path, ["Q1.jpg", "a b.png"])
    assert path.read_bytes() == b"Q1.jpg\na b.png\n"
    assert texts.read_list(path) == ["Q1.jpg", "a b.png"]
    path.write_bytes(b"Q1.jpg 0.512345\na b.png 1.000000\n")
    crops = texts.read_crop_list(path)
    assert crops == {"Q1.jpg": 0.512345, "a b.png": 1.0}
    texts.write_crop_list(tmp_path / "again.txt", crops)
    assert (tmp_path / "again.txt").read_bytes() == path.read_bytes()
    for text, said in (
        ("Q1.jpg 0.5\nQ2.jpg\n", "line 2: expected a name and a confidence"),
        ("Q1.jpg 0.5\nQ1.jpg 0.6\n", "line 2: expected each name once"),
        ("Q1.jpg 55\n", "line 1: expected a confidence of 0..1"),
        ("Q1.jpg high\n", "line 1: the confidence 'high'"),
    ):
        path.write_text(text)
        with pytest.raises(FormatError, match=said):
            texts.read_crop_list(path)
    path.write_text("Q1.jpg\n\n")
    with pytest.raises(FormatError, match="line 2: expected the name of an image"):
        texts.read_list(path)
