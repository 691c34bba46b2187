# SPDX-License-Identifier: AGPL-3.0-or-later
"""References that show the same picture vote and answer as one."""

from __future__ import annotations

import itertools
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import skimage.data

from imgfp import stages, store
from imgfp.datatypes import table
from imgfp.stages.groups import _near_places, groups_of, name_copies
from imgfp.stages.search import read_candidates
from imgfp.stages.verification import read_evidence

SIZES = {"shard_images": 3, "thumbnail_short_side_px": 160}
VOTE = {
    "nprobe": 1, "neighbours": 3, "variants": ["plain"], "candidates": 3, "rule": "robust", "ratio": 1.5, "min_hits": 3,
    "min_hits_single": 5, "max_mean_squared_distance": 8000.0,
}  # fmt: skip


def pictures() -> dict[str, np.ndarray]:
    """Copies of one picture in several encodings among others; `captioned` shows another text and is no copy."""
    cat, coffee = (
        np.ascontiguousarray(image[..., ::-1])
        for image in (skimage.data.chelsea(), skimage.data.coffee())
    )
    captioned = cat.copy()
    cv2.rectangle(captioned, (20, 20), (200, 70), (255, 255, 255), -1)
    cv2.putText(captioned, "FOR SALE", (30, 58), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (0, 0, 0), 3)
    return {
        "a-cat": cat,
        "b-coffee": coffee,
        "c-cat-small": cv2.resize(cat, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA),
        "d-cat-bright": np.clip(cat * 1.1 + 12, 0, 255).astype(np.uint8),
        "e-cat-captioned": captioned,
        "f-flat": np.full((64, 64, 3), 90, np.uint8),
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("groups")
    for side in ("references", "queries"):
        (root / side).mkdir()
    for name, image in pictures().items():
        cv2.imwrite(str(root / "references" / f"{name}.png"), image)
    for name, copy in (("a-cat", "g-cat-again"), ("f-flat", "h-flat-again")):
        shutil.copy(root / f"references/{name}.png", root / f"references/{copy}.png")
    cropped = pictures()["a-cat"][40:260, 60:400]
    cv2.imwrite(str(root / "queries/cropped.jpg"), cropped, [cv2.IMWRITE_JPEG_QUALITY, 70])
    return root


@pytest.fixture
def sides(folders, tmp_path, address):
    run, library = store.Run(tmp_path / "run"), store.Library(tmp_path / "library")
    shutil.copytree(folders, tmp_path / "pictures")
    for side, collection in (("references", library), ("queries", run)):
        stages.list_images(collection, str(tmp_path / "pictures" / side), **SIZES, cluster=address)
        stages.extract_local_features(collection, cluster=address)
    stages.build_index(library, "local", factory="Flat", seed=0, part_images=4, cluster=address)
    return run, library


def test_copies_are_grouped_and_answer_as_one(sides, address):
    run, library = sides
    report = stages.group_copies(library, cluster=address)
    groups = store.open_groups(library)
    assert groups.members.to_numpy().tolist() == [
        ["a-cat", "a-cat", ""],
        ["c-cat-small", "a-cat", "same picture"],
        ["d-cat-bright", "a-cat", "same picture"],
        ["f-flat", "f-flat", ""],
        ["g-cat-again", "a-cat", "identical"],
        ["h-flat-again", "f-flat", "identical"],
    ]
    assert (report.groups, report.references, report.identical) == (2, 6, 2)
    stages.local_search(run, library, **VOTE, cluster=address)
    found = read_candidates(run)
    copies = found[found["group_id"] == "a-cat"]
    assert len(copies) == 1 and copies["rank"].tolist() == [0]
    # Of three neighbours four copies would leave no vote by the ratio test.
    assert copies["score"].iloc[0] > 40
    assert "e-cat-captioned" in found["reference_id"].tolist(), "another picture, by itself"
    others = groups.others(copies["reference_id"].iloc[0])
    named = name_copies(copies[["query_id", "reference_id"]].assign(score=1.0), run, library)
    assert len(others) == 3 and all(
        f'"{other}"' in named["other_copies"].iloc[0] for other in others
    )


def test_groups_follow_what_is_added_and_removed(sides, address, tmp_path):
    library, folder = sides[1], tmp_path / "pictures/references"

    def group_again() -> store.Groups:
        stages.list_images(library, str(folder), **SIZES, cluster=address)
        stages.extract_local_features(library, cluster=address)
        stages.build_index(library, "local", factory="Flat", seed=0, part_images=4, cluster=address)
        stages.group_copies(library, cluster=address)
        return store.open_groups(library)

    stages.group_copies(library, cluster=address)
    before = {path: path.stat().st_mtime_ns for path in library.links.glob("shard-*.parquet")}
    image = cv2.resize(pictures()["b-coffee"], None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "z-coffee.png"), image)
    assert group_again().others("z-coffee") == ["b-coffee"]
    assert len(before) == 3 and all(path.stat().st_mtime_ns == was for path, was in before.items())
    # The copy that the others are linked to, and the second file of its bytes.
    (folder / "a-cat.png").unlink()
    (folder / "g-cat-again.png").unlink()
    groups = group_again()
    assert groups.others("c-cat-small") == ["d-cat-bright"]
    assert groups.others("z-coffee") == ["b-coffee"] and groups.others("a-cat") == []


def test_a_picture_like_a_copy_of_the_first_is_not_in_its_group(sides, monkeypatch):
    """A chain in which each is a copy of the one before, and none of the one before that."""
    _, library = sides
    monkeypatch.setattr("imgfp.stages.groups._Comparison.are_copies", lambda *_: False)
    chain = ["b-coffee", "c-cat-small", "d-cat-bright", "e-cat-captioned"]
    rows = [(later, first, "same picture") for first, later in itertools.pairwise(chain)]
    columns = ["image_id", "other_id", "relation"]
    links = table("links", pd.DataFrame(rows, columns=columns).assign(image_part="", other_part=""))
    groups = groups_of(library, links).groupby("group_id")["image_id"].agg(list).to_dict()
    assert groups.pop("a-cat") == ["a-cat", "g-cat-again"]
    assert groups.pop("f-flat") == ["f-flat", "h-flat-again"]
    assert groups == {"b-coffee": chain[:2], "d-cat-bright": chain[2:]}


def receipt(number: int) -> np.ndarray:
    """Receipts of one shop: a head that all share, and items of their own."""
    page = np.full((400, 300, 3), 245, np.uint8)
    for row, text in enumerate(("MERIDIAN", "Fresh bread & pies", "12 Harbour Street")):
        cv2.putText(page, text, (20, 40 + 30 * row), 4, 0.8, (20, 20, 20), 1, cv2.LINE_AA)
    words = np.random.default_rng(number).permutation(
        ["planet", "copper", "silver", "harbour", "lemon", "quartz"]
    )
    for row, word in enumerate(words):
        text = f"{number + row} {word} {7 * number + 3 * row}.{10 + 9 * row}"
        cv2.putText(page, text, (20, 150 + 40 * row), 0, 0.7, (30, 30, 30), 1, cv2.LINE_AA)
    return page


def test_what_references_share_is_marked_and_looked_at(tmp_path, address):
    folder, queries = tmp_path / "references", tmp_path / "queries"
    for side in (folder, queries):
        side.mkdir()
    for name, number in (("a", 1), ("b", 2), ("c", 3)):
        cv2.imwrite(str(folder / f"{name}.png"), receipt(number))
    cv2.imwrite(str(folder / "d-cat.png"), pictures()["a-cat"])
    cv2.imwrite(str(queries / "unknown.png"), receipt(9))
    cv2.imwrite(str(queries / "again.jpg"), receipt(4))
    run, library = store.Run(tmp_path / "run"), store.Library(tmp_path / "library")

    def mark() -> store.Shared:
        stages.list_images(library, str(folder), **SIZES, cluster=address)
        stages.extract_local_features(library, cluster=address)
        stages.build_index(library, "local", factory="Flat", seed=0, part_images=4, cluster=address)
        assert stages.group_copies(library, cluster=address).groups == 0
        return store.open_shared(library)

    shared = mark()
    assert shared.rows[["image_id", "references"]].to_numpy().tolist() == [
        ["a", 2],
        ["b", 2],
        ["c", 2],
    ]
    part, _ = shared.of("b")
    assert part[:9].sum() > 20 and part[11:].mean() < 0.2 and shared.of("d-cat") is None

    (folder / "b.png").unlink()
    (folder / "c.png").unlink()
    assert len(mark()) == 0
    cv2.imwrite(str(folder / "e.png"), receipt(4))
    assert mark().rows["image_id"].tolist() == ["a", "e"]

    stages.list_images(run, str(queries), **SIZES, cluster=address)
    stages.extract_local_features(run, cluster=address)
    stages.local_search(run, library, **VOTE, cluster=address)
    stages.verify_first(run, library, certain_score=0.9, cluster=address)
    evidence = read_evidence(run).set_index(["query_id", "reference_id"])
    copy, other = evidence.loc[("again", "e")], evidence.loc[("unknown", "e")]
    assert other["shared_by"] == 1 and other["shared_inliers"] > 0.7 * other["inliers"]
    assert copy["differing_blocks"] == 0 < copy["unshared_unchanged"]
    assert other["unshared_differing"] > other["unshared_unchanged"]


def test_of_a_form_that_many_share_two_references_are_compared():
    """None of 200 is near to many keypoints, though each keypoint has ten of them near."""
    rng = np.random.default_rng(0)
    places = np.stack([rng.choice(200, 10, replace=False) for _ in range(48)])
    counts = np.bincount(places[places < 100], minlength=100)
    near = _near_places(places, 100)
    assert len(near) == 2 and counts[near[0]] == counts.max() >= counts[near[1]]
    assert _near_places(places[:, :5], 100) == [], "chance resemblances"
    copies = np.where(np.arange(10) == 0, 7, places)
    assert _near_places(copies, 100) == [7]
