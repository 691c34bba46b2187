# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import fsspec
import h5py
import numpy as np
import pandas as pd
import pytest

from imgfp.datatypes import Descriptors, table
from imgfp.store import formats, isc2021
from imgfp.store.formats import FormatError

#: Ids that are data: separators of other formats, quotes, other scripts, an expression.
HOSTILE = ["a_b_1", 'quo"te', "com,ma", "bär/ü", "__import__('os')", "<img onerror=x>"]


def descriptors(ids, rng, width=8):
    vectors = rng.normal(size=(len(ids), width))
    return Descriptors(ids, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


# ------------------------------------------------------------------------------------------ CSV


@pytest.mark.parametrize("name", ["ground_truth_dev1.csv", "ground_truth_dev2.csv"])
def test_truth_of_the_challenge_round_trips(isc2021, tmp_path, name):
    source = isc2021 / name
    truth = formats.read_truth(source)
    assert len(truth) == 25_000 and (truth["reference_id"] == "").any()
    formats.write_truth(tmp_path / name, truth)
    assert (tmp_path / name).read_bytes() == source.read_bytes()


def test_a_small_truth_in_the_layout_of_the_challenge_round_trips(tmp_path):
    """Sibling of the test above, on lines written out here."""
    source = tmp_path / "truth.csv"
    source.write_bytes(b"query_id,reference_id\nQ25000,R352148\nQ25001,\nQ25002,R000001\n")
    truth = formats.read_truth(source)
    assert truth["reference_id"].tolist() == ["R352148", "", "R000001"]
    formats.write_truth(tmp_path / "again.csv", truth)
    assert (tmp_path / "again.csv").read_bytes() == source.read_bytes()


def test_predictions_with_hostile_ids_round_trip(tmp_path):
    ids = [*HOSTILE, "line\nbreak", "NA", "007"]
    frame = pd.DataFrame({"query_id": ids, "reference_id": ids[::-1], "score": np.arange(9) / 7})
    path = tmp_path / "p.csv"
    formats.write_predictions(path, frame)
    again = formats.read_predictions(path)
    assert again["query_id"].tolist() == ids and again["reference_id"].tolist() == ids[::-1]
    assert again["score"].tolist() == frame["score"].tolist()


def test_columns_are_found_by_name(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffedits,reference_id,query_id\r\nblur,r1,q1\r\n\r\ncrop,,q2\r\n".encode())
    truth = formats.read_truth(path)
    assert truth.to_numpy().tolist() == [["q1", "r1"], ["q2", ""]]
    path.write_text("query_id,reference_id\n")
    assert formats.read_truth(path).empty


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"", r"lacks \['query_id', 'reference_id', 'score'\]"),
        (b"query_id,score\n", r"line 1.*reference_id"),
        (b"query_id,reference_id,score\na,b,1\na,b\n", "line 3: expected 3 values, got 2"),
        (b"query_id,reference_id,score\na,b,high\n", "line 2: score 'high'"),
        (b"query_id,reference_id,score\na,\xff,1\n", "UTF-8"),
        (b'query_id,reference_id,score\na,"b,1\n', "line 2"),
    ],
)
def test_bad_csv_is_named(tmp_path, data, wrong):
    path = tmp_path / "p.csv"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=wrong):
        formats.read_predictions(path)


def test_manifest_paths_count_from_its_folder(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("image_id,path\na,one.jpg\nb,../two.jpg\nc,/three.jpg\n")
    manifest = formats.read_manifest(path)
    expected = [tmp_path / "one.jpg", tmp_path.parent / "two.jpg", "/three.jpg"]
    assert manifest["path"].tolist() == [str(p) for p in expected]
    path.write_text("image_id,path\na,\n")
    with pytest.raises(FormatError, match="line 2"):
        formats.read_manifest(path)


def test_missing_files_are_named(tmp_path):
    for read in (formats.read_manifest, isc2021.read_pairs, formats.read_descriptors):
        with pytest.raises(FormatError, match=r"nowhere: .*[Nn]o such file"):
            read(tmp_path / "nowhere")


# ----------------------------------------------------------------------------------------- HDF5


def test_descriptors_round_trip(tmp_path, rng):
    path = tmp_path / "d.h5"
    sides = descriptors(HOSTILE, rng), descriptors(["r"], rng)
    formats.write_descriptors(path, [sides[0]], [sides[1]])
    for side, again in zip(sides, formats.read_descriptors(path), strict=True):
        assert again.image_ids.tolist() == side.image_ids.tolist()
        assert np.array_equal(again.vectors, side.vectors)
    formats.write_descriptors(path, iter([sides[1], sides[0]]), [sides[1]])  # in parts
    again, _ = formats.read_descriptors(path)
    assert again.image_ids.tolist() == ["r", *HOSTILE]
    assert np.array_equal(again.vectors, np.concatenate([sides[1].vectors, sides[0].vectors]))
    with pytest.raises(FormatError, match="no 'query' descriptors"):
        formats.write_descriptors(path, [], [sides[1]])
    assert len(formats.read_descriptors(path)[0]) == len(HOSTILE) + 1, "the former file is gone"
    nobody = Descriptors([], np.empty((0, 8)))
    formats.write_descriptors(path, [nobody], [sides[1]])
    assert len(formats.read_descriptors(path)[0]) == 0


def test_a_file_tells_whose_vectors_it_holds(tmp_path, rng):
    path = tmp_path / "d.h5"
    both = [descriptors(["q"], rng)], [descriptors(["r"], rng)]
    formats.write_descriptors(path, *both)
    assert formats.descriptor_of(path) == ""
    formats.check_descriptor(path, "imgfp 0123")  # it does not tell
    formats.write_descriptors(path, *both, "sscd-student 4567")
    assert formats.descriptor_of(path) == "sscd-student 4567"
    formats.check_descriptor(path, "sscd-student")
    with pytest.raises(FormatError, match=r"d\.h5: .* of sscd-student 4567, expected .* of imgfp"):
        formats.check_descriptor(path, "imgfp 0123")


def test_foreign_vectors_are_normalised(tmp_path):
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        for side in ("query", "reference"):
            file[side] = np.float64([[3, 4], [0, 2]])
            file[f"{side}_ids"] = np.array([b"a", b"b"])  # fixed width, as the challenge wrote
    query, _ = formats.read_descriptors(path)
    assert query.image_ids.tolist() == ["a", "b"]
    assert np.allclose(query.vectors, [[0.6, 0.8], [0, 1]])


def spoil(file, kind, folder):
    del file["query"]
    if kind == "link":
        file["query"] = h5py.ExternalLink(str(folder / "other.h5"), "query")
    elif kind == "soft link":
        file["query"] = h5py.SoftLink("/reference")
    elif kind == "external":
        file.create_dataset("query", (6, 8), "f4", external=[(str(folder / "other.h5"), 0, 192)])
    elif kind == "virtual":
        layout = h5py.VirtualLayout((6, 8), "f4")
        layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "query", (6, 8))
        file.create_virtual_dataset("query", layout)
    elif kind == "huge":
        file.create_dataset("query", (10**9, 8), "f4", chunks=(1000, 8))
    elif kind == "group":
        file.create_group("query")
    elif kind == "zero":
        file["query"] = np.zeros((6, 8), np.float32)
    elif kind == "nan":
        file["query"] = np.full((6, 8), np.nan, np.float32)
    elif kind == "rows":
        file["query"] = np.ones((5, 8), np.float32)
    elif kind == "text":
        file["query"] = np.full((6, 8), b"x")


@pytest.mark.parametrize(
    "kind",
    [
        "link",
        "soft link",
        "external",
        "virtual",
        "huge",
        "group",
        "zero",
        "nan",
        "rows",
        "text",
        "",
    ],
)
def test_hostile_descriptor_files_are_refused(tmp_path, rng, kind):
    path = tmp_path / "d.h5"
    formats.write_descriptors(
        tmp_path / "other.h5", [descriptors(HOSTILE, rng)], [descriptors("r", rng)]
    )
    formats.write_descriptors(path, [descriptors(HOSTILE, rng)], [descriptors("r", rng)])
    with h5py.File(path, "a") as file:
        spoil(file, kind, tmp_path)
    with pytest.raises(FormatError, match=r"d\.h5: 'query'"):
        formats.read_descriptors(path)


def test_no_hdf5_is_refused(tmp_path):
    path = tmp_path / "d.h5"
    path.write_bytes(b"not this")
    with pytest.raises(FormatError, match="not a readable HDF5"):
        formats.read_descriptors(path)


def test_a_manifest_may_name_urls(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("image_id,path\na,memory://b/x 1?.jpg\nb,sub/../x.jpg\n")
    assert formats.read_manifest(path)["path"].tolist() == [
        "memory://b/x 1?.jpg",
        str(tmp_path / "x.jpg"),
    ]
    remote = fsspec.filesystem("memory")
    remote.pipe_file("/lists/m.csv", b"image_id,path\na,memory://b/x.jpg\nb,sub/y.jpg\n")
    found = formats.read_manifest("memory://lists/m.csv")
    assert found["path"].tolist() == ["memory://b/x.jpg", "memory://lists/sub/y.jpg"]
    with pytest.raises(ValueError, match=r"^memory://lists/gone.csv: there is no such object"):
        formats.read_manifest("memory://lists/gone.csv")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("/etc/hostname", "must lie below the manifest's folder, or be a URL"),
        ("../x.jpg", "must lie below the manifest's folder, or be a URL"),
        ("a/../../x.jpg", "must lie below the manifest's folder, or be a URL"),
        ("file:///etc/hostname", "cannot name files of this machine"),
        ("local:///etc/hostname", "cannot name files of this machine"),
        ("https://host/x.jpg?token=hunter2", "holds a query"),
        ("s3://key:hunter2@b/x.jpg", "holds a password"),
        ("nonesuch://b/x.jpg", "cannot be used"),
    ],
)
def test_a_manifest_at_a_url_names_nothing_of_this_machine(row, said):
    manifest = f"image_id,path\na,x.jpg\nb,{row}\n".encode()
    fsspec.filesystem("memory").pipe_file("/lists/bad.csv", manifest)
    with pytest.raises(FormatError, match=rf"^memory://lists/bad.csv, line 3: .*{said}") as told:
        formats.read_manifest("memory://lists/bad.csv")
    assert "hunter2" not in str(told.value) and "\n" not in str(told.value)


def test_ids_that_a_spreadsheet_would_run_are_defused_and_come_back(tmp_path):
    ids = ["=1+1", "+a", "-a", "@a", "\ta", "\ra", "a\rb", "a\nb", "\r\n", "'=a", "''-a", "'a", "a"]
    frame = pd.DataFrame({"query_id": ids, "reference_id": ids[::-1], "score": -0.5})
    formats.write_predictions(tmp_path / "p.csv", frame)
    pd.testing.assert_frame_equal(
        formats.read_predictions(tmp_path / "p.csv"), table("predictions", frame)
    )
    cells = pd.read_csv(tmp_path / "p.csv", dtype=str, keep_default_na=False, lineterminator="\n")
    assert not cells["query_id"].str.match(r"[=+\-@\t\r\n]").any()
    assert (cells["score"] == "-0.5").all() and cells["query_id"][11] == "'a"
