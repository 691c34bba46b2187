"""Reading of photographs and their groups."""

from __future__ import annotations

import pytest
from PIL import Image

from imgfp.training.descriptor.data import groups_of, load_readable


def test_damaged_files_are_left_out_by_name(tmp_path, photographs):
    Image.fromarray(photographs[0]).save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    images, rows, rejects = load_readable([tmp_path / "bad.jpg", tmp_path / "good.png"], 24)
    assert rows == [1] and min(images[0].shape[:2]) == 24
    assert "bad.jpg" in rejects[0]


def test_groups_come_from_a_table_of_relative_paths(tmp_path):
    files = [tmp_path / "a" / "1.jpg", tmp_path / "2.jpg"]
    assert groups_of(files, tmp_path) == ["", ""]
    (tmp_path / "g.csv").write_text("path,group\na/1.jpg,g7\n")
    assert groups_of(files, tmp_path, str(tmp_path / "g.csv")) == ["g7", ""]
    with pytest.raises(ValueError, match="lists none of the files"):
        groups_of(files[1:], tmp_path, str(tmp_path / "g.csv"))
    (tmp_path / "g.csv").write_text("file,group\n1.jpg,g7\n")
    with pytest.raises(ValueError, match="needs the columns path and group"):
        groups_of(files, tmp_path, str(tmp_path / "g.csv"))
