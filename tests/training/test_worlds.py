# SPDX-License-Identifier: AGPL-3.0-or-later
"""Worlds with known truth, and what a cut is worth on a world that no fit has seen."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from imgfp.images import encode_jpeg
from imgfp.training import worlds
from imgfp.training.worlds import LOOK_ALIKES, World, burst_neighbour, leave_one_out, worth
from imgfp.verify.evidence import COLUMNS


@pytest.fixture(scope="module")
def photographs(photograph, other_photograph, tmp_path_factory) -> pd.DataFrame:
    """64 small parts of two photographs, the last 24 of them in groups of four."""
    folder, rows = tmp_path_factory.mktemp("photographs"), []
    for number in range(64):
        image = (photograph, other_photograph)[number % 2]
        y, x = 40 * (number // 2 % 8), 60 * (number // 16)
        path = folder / f"P{number:02d}.jpg"
        path.write_bytes(encode_jpeg(image[y : y + 90, x : x + 120]))
        group = f"g{(number - 40) // 4:02d}" if number >= 40 else ""
        rows.append((path.stem, str(path), group))
    return pd.DataFrame(rows, columns=["image_id", "path", "group"])


def digests(folder) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.*"))
    }


def test_a_world_is_written_with_its_truth_and_repeats(photographs, tmp_path, monkeypatch):
    small = World(
        copies=8, others=2, scenes=2, bursts=2, forms=2, repeated=3, strength=(0.0, 0.2), unseen=True
    )  # fmt: skip
    monkeypatch.setattr(worlds, "WORLDS", {"small": small, "other": World(1, 1, scenes=1)})
    meta = worlds.write(tmp_path / "a", "small", photographs, held_out=20, references=15)
    kinds = meta["kind"].value_counts().to_dict()
    assert kinds == {"copy": 10, "other": 2, "scene": 2, "burst": 2, "form": 2}
    references = {path.stem for path in (tmp_path / "a/references").iterdir()}
    queries = {path.stem for path in (tmp_path / "a/queries").iterdir()}
    truth = pd.read_csv(tmp_path / "a/truth.csv", dtype=str, keep_default_na=False)
    assert set(truth["query_id"]) == queries == set(meta["query_id"])
    of = truth.groupby("query_id")["reference_id"].agg(set)
    copies = meta.loc[meta["kind"] == "copy", "query_id"]
    assert all(of[query] <= references for query in copies)
    assert all(of[query] == {""} for query in queries - set(copies))
    assert (
        {4} < {len(of[query]) for query in copies} | {1} == {1, 4}
    )  # one and its three repetitions
    alike = meta[meta["kind"].isin(LOOK_ALIKES)]
    assert set(alike["hard_negative_of"]) <= references
    assert len([name for name in references if name.startswith("form")]) == 5  # of four and of one
    ops = meta["ops"].str.split("+")
    assert all(set(names) & set(worlds.UNSEEN) for names in ops)
    worlds.write(tmp_path / "b", "small", photographs, held_out=20, references=15)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_photographs_of_a_folder_keep_their_order_and_groups(photographs, tmp_path):
    listed = photographs.assign(path=photographs["image_id"] + ".jpg")
    listed[["path", "group"]].to_csv(tmp_path / "groups.csv", index=False)
    folder = str(Path(photographs["path"][0]).parent)
    found = worlds.photographs_in(folder, str(tmp_path / "groups.csv"))
    assert found["path"].tolist() == photographs["path"].tolist()
    assert found["group"].tolist() == photographs["group"].tolist()
    assert found["image_id"].is_monotonic_increasing and found["image_id"].is_unique


def test_worlds_share_no_picture_that_a_query_shows_and_use_none_that_was_trained_on(
    photographs, monkeypatch
):
    two = {"one": World(1, 1, scenes=1), "two": World(1, 1, scenes=1), "three": World(1, 1)}
    monkeypatch.setattr(worlds, "WORLDS", two)
    seen: set[str] = set()
    trained = set(photographs["image_id"][worlds.training_split(photographs, 20)])
    for name in two:
        sources = worlds.sources_of(name, photographs, held_out=20, references=10)
        own = {*sources.shown, *sources.outside}
        assert own.isdisjoint(seen | trained) and set(sources.filling) <= trained
        assert len(sources.shown) + len(sources.filling) == 10
        assert set(sources.shown).isdisjoint(sources.outside)
        groups = photographs.set_index("image_id")["group"]
        assert all(groups[a] == groups[b] != "" for a, b in sources.same_scene)
        assert bool(sources.same_scene) == bool(two[name].scenes)
        assert all(a in sources.outside and b in sources.shown for a, b in sources.same_scene)
        seen |= own


def test_a_neighbour_in_a_burst_is_alike_but_no_homography_makes_it_the_same(photograph):
    image = photograph[:240, :320]
    frame = burst_neighbour(image, np.random.default_rng(3))
    assert frame.shape == image.shape and frame.dtype == np.uint8
    assert (frame == burst_neighbour(image, np.random.default_rng(3))).all()
    grey, other = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (image, frame))
    flow = cv2.calcOpticalFlowFarneback(grey, other, None, 0.5, 4, 25, 3, 7, 1.5, 0)
    y, x = np.mgrid[20:220:10, 20:300:10]
    points = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
    to = points + flow[y, x].reshape(-1, 2)
    homography, _ = cv2.findHomography(points, to, cv2.RANSAC, 1.5)
    error = np.linalg.norm(cv2.perspectiveTransform(points[None], homography)[0] - to, axis=1)
    assert np.corrcoef(grey.ravel(), other.ravel())[0, 1] > 0.5
    assert (error > 1.5).mean() > 0.1  # parallax is left


def evidence(world: str, kinds: list[str], classifier: np.ndarray) -> pd.DataFrame:
    """One pair per query whose pair classifier tells `classifier` (n,) and whose other evidence is all alike."""
    count = len(kinds)
    ids = [f"{world}{n}" for n in range(count)]
    rows = pd.DataFrame({"query_id": ids, "reference_id": "R", "world": world, "kind": kinds})
    rows["label"] = rows["kind"] == "copy"
    rows["branch"], rows["score"], rows["mean_squared_distance"] = "local", 9.0, np.nan
    for name, kind in COLUMNS.items():
        rows[name] = {"str": "", "bool": False}.get(kind, 0.0)
    return rows.assign(copy_probability=classifier)


def test_a_cut_is_chosen_on_the_other_worlds_and_measured_on_its_own():
    rng = np.random.default_rng(0)
    kinds = 40 * ["copy"] + 40 * ["scene"]
    chance = np.clip(np.repeat([0.9, 0.1], 40) + rng.normal(0, 0.03, 80), 0.01, 0.99)
    fooled = chance.copy()
    fooled[40:50] = 0.95  # ten photographs of known scenes that look like copies
    pairs = pd.concat(
        [evidence("a", kinds, chance), evidence("b", kinds, chance), evidence("c", kinds, fooled)],
        ignore_index=True,
    )
    table = leave_one_out(pairs, 0.99)
    assert list(table.index) == ["a", "b", "c"] and (table["look_alikes"] == 40).all()
    # Fitted on the two easy worlds, the cut lets the ten through; fitted with them it does not.
    assert table.loc["c", "reported"] == 10 and table.loc["c", "recall"] == 1
    assert table.loc["c", "precision"] == 0.8
    assert table.loc["c", "precision_low"] < 0.75 < 0.85 < table.loc["c", "precision_high"]
    assert (
        table.loc["a", "reported"] == 0
        and table.loc["a", "threshold"] > table.loc["c", "threshold"]
    )


def test_worth_counts_queries_once_and_only_look_alikes():
    scored = pd.DataFrame(
        [("q0", 0.95, True, "copy"), ("q0", 0.85, True, "copy"), ("q0", 0.82, False, "copy"),
         ("q1", 0.9, False, "burst"), ("q1", 0.8, False, "burst"), ("q2", 0.9, False, "other"),
         ("q3", 0.7, True, "copy"), ("q4", 0.1, False, "form")],
        columns=["query_id", "score", "label", "kind"],
    )  # fmt: skip
    found = worth(scored, 0.8)
    assert found["precision"] == pytest.approx(2 / 6) and found["recall"] == 0.5
    assert (found["look_alikes"], found["reported"]) == (2, 1)
    assert np.isnan(worth(scored, 0.99)["precision"])


def test_runs_are_labelled_with_and_without_kinds():
    truth = pd.DataFrame({"query_id": ["a", "a", "b"], "reference_id": ["R", "S", ""]})
    proposals = pd.DataFrame(
        {"query_id": ["a", "a", "b", "unlisted"], "reference_id": ["S", "T", "R", "R"]}
    )
    plain = worlds.labelled("w", proposals, truth, None)
    assert plain["query_id"].tolist() == ["w: a", "w: a", "w: b"]
    assert plain["label"].tolist() == [True, False, False]
    assert plain["kind"].tolist() == ["copy", "copy", "other"]
    meta = pd.DataFrame(
        {"query_id": ["a", "b"], "kind": ["copy", "burst"], "ops": ["blur", "crop"]}
    )
    told = worlds.labelled("w", proposals, truth, meta)
    assert told["kind"].tolist() == ["copy", "copy", "burst"] and told["ops"].iloc[-1] == "crop"
    assert (told["world"] == "w").all()
