# SPDX-License-Identifier: AGPL-3.0-or-later
import numpy as np
import pandas as pd
import pytest
from small_run import MARKUP

from imgfp import report, store
from imgfp.__main__ import main
from imgfp.results import Results
from imgfp.results.duplicates import Duplicates, find_duplicates, is_self_search
from imgfp.runner import project
from imgfp.store import Library, Run


@pytest.fixture(scope="module")
def results(self_search) -> Results:
    return Results(self_search)


@pytest.fixture(scope="module")
def found(results) -> Duplicates:
    return find_duplicates(results)


def test_each_pair_stands_once_and_no_picture_matches_itself(found):
    pairs = [frozenset(pair) for pair in found.links[["image_id", "other_id"]].to_numpy().tolist()]
    assert len(pairs) == len(set(pairs)) == 5 and all(len(pair) == 2 for pair in pairs)
    assert frozenset(("alone", "whole")) not in pairs, "below the threshold"


def test_groups_are_joined_by_verified_pairs_the_largest_first(found):
    groups = found.members.groupby("group")["image_id"].agg(set).to_dict()
    assert groups == {1: {"whole", "again", "part", MARKUP}, 2: {"red", "rose"}}
    assert found.links["group"].tolist() == [1, 1, 1, 1, 2]
    assert len(found) == 2 and str(found).startswith("6 pictures in 2 groups are copies")


def test_the_direction_is_that_of_the_pair_whichever_was_the_query(found):
    links = found.links.set_index(["image_id", "other_id"])
    assert links.loc[("part", "whole"), ["relation", "score"]].tolist() == ["part of", 0.95]
    assert links.loc[("again", "part"), "relation"] == "contains"
    assert links.loc[("again", "whole"), ["relation", "score"]].tolist() == ["identical file", 1.0]
    compared = links[["query_id", "reference_id"]]
    assert compared.loc[("part", "whole")].tolist() == ["part", "whole"], "the better of the two"
    assert compared.loc[(MARKUP, "part")].tolist() == ["part", MARKUP]


def test_every_member_is_linked_to_one_before_it_and_the_weakest_link_is_marked(found):
    rows = found.members[found.members["group"] == 1].set_index("image_id")
    assert rows.index[0] == "again" and rows.loc["again", "linked_to"] == ""
    assert rows.loc["whole", ["linked_to", "relation"]].tolist() == ["again", "identical file"]
    # By the better of its two links, in the direction from the part to the whole.
    assert rows.loc["part", ["linked_to", "relation", "score"]].tolist() == [
        "whole",
        "part of",
        0.95,
    ]
    assert rows.loc[MARKUP, "linked_to"] == "part" and rows.loc[MARKUP, "score"] == 0.6
    assert rows.index[rows["weakest"]].tolist() == [MARKUP]
    before = found.members.groupby("group")["image_id"].agg(list)
    for row in found.members.itertuples():
        members = before[row.group]
        assert not row.linked_to or members.index(row.linked_to) < members.index(row.image_id)


def test_copies_that_the_library_knows_join_without_a_score(results, monkeypatch):
    members = {
        "image_id": ["alone", "red"],
        "group_id": ["alone"] * 2,
        "relation": ["", "same picture"],
    }
    groups = store.Groups(pd.DataFrame(members), results.references)
    monkeypatch.setattr(Results, "groups", groups)
    row = find_duplicates(results).members.set_index("image_id").loc["red"]
    assert row["group"] == 2 and row["relation"] == "same picture" and np.isnan(row["score"])


def test_the_page_shows_groups_and_escapes_names(results, found):
    page = report.build_duplicates(results, found)
    assert page.count("<figure") == 6 and page.count('class="first"') == 2
    assert "linked to whole: part of it (0.950)" in page
    assert "part, score 0.6" in page[page.index("Weakest link") :][:120]
    assert "<img" not in page and "&lt;img src=x" in page


def test_a_search_of_another_folder_is_refused(calibrated_run):
    other = Results(calibrated_run)
    assert not is_self_search(other)
    with pytest.raises(store.StoreError, match="has not searched a folder in itself"):
        find_duplicates(other)


@pytest.mark.parametrize("what", ["does not exist", "is no folder", "holds no files"])
def test_what_is_no_folder_of_pictures_is_one_line(tmp_path, monkeypatch, capsys, what):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "place"
    if what != "does not exist":
        place.write_bytes(b"GIF") if what == "is no folder" else place.mkdir()
    assert main(["duplicates", str(place)]) == 2
    assert capsys.readouterr().err == f"imgfp: place {what}; name a folder of pictures\n"


def test_the_command_runs_the_profile_and_tells_the_groups(results, tmp_path, monkeypatch, capsys):
    plans = []
    monkeypatch.setattr("imgfp.runner.notebooks.execute", lambda plan, **_: plans.append(plan))
    folder = str(results.run.root.parent / "originals")
    places = ["--run", str(results.run.root), "--library", str(results.library.root)]
    csv = tmp_path / "groups.csv"
    assert main(["duplicates", folder, *places, "--csv", str(csv)]) == 0
    values = plans[0].values
    assert values["reference_dir"] == values["query_dir"] == folder
    assert values["certain_score"] == 1.0 and not values["truth"]
    assert "6 pictures in 2 groups are copies of each other" in capsys.readouterr().out
    assert store.read_sheet(csv)["image_id"].tolist()[-2:] == ["rose", "red"]


def test_two_folders_have_two_libraries(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "picture.jpg").write_bytes(b"x")
    (profile, one), (_, other) = (project.self_search(str(tmp_path / name)) for name in "ab")
    assert profile.name == "duplicates" and not {*one} & {*other}


def test_nothing_found_is_said(results, monkeypatch):
    monkeypatch.setattr(Results, "threshold", 2.0)
    monkeypatch.setattr("imgfp.results.duplicates.identical_pairs", _none)
    nothing = find_duplicates(results)
    assert len(nothing) == 0 and nothing.members.columns[0] == "group"
    assert str(nothing) == "No picture of this folder is a copy of another"


def _none(run: Run, library: Library) -> pd.DataFrame:
    return pd.DataFrame({"query_id": [], "reference_id": []}, dtype="str")
