# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import pytest

pytest.importorskip("faiss")

from imgfp import store
from imgfp.benchmarks import estimators, speed
from imgfp.images import encode_jpeg
from imgfp.stages import verification

SETTINGS = {
    "short_side_px": 300,
    "first_octave": 0,
    "octave_layers": 7,
    "contrast_threshold": 0.0137,
    "edge_threshold": 10.0,
    "max_keypoints": 0,
    "min_keypoints": 10,
}


@pytest.fixture
def records(photograph, other_photograph, tmp_path):
    made = []
    for number in range(4):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(encode_jpeg((photograph, other_photograph)[number % 2][number:]))
        made.append({"image_id": str(number), "path": str(path)})
    return made


@pytest.mark.parametrize("first_octave", [-1, 0])
def test_bare_loop_does_the_same_work(records, first_octave):
    """Within what the two decoders' greys and the removal of repetitions make."""
    settings = SETTINGS | {"first_octave": first_octave}
    bare = speed.bare_loop(records, **settings)
    ours = speed.our_loop(records, **settings)
    assert ours > 1000 and abs(bare / ours - 1) < 0.05


def test_race_covers_every_picture_once(records):
    seen = {"a": [], "b": []}

    def runner(name):
        def run(rows, **_):
            seen[name] += [row["image_id"] for row in rows]
            return len(rows) + sum(range(100_000)) * 0

        return run

    table = speed.race({name: runner(name) for name in seen}, records, 2)
    assert table["name"].tolist() == ["a", "b"] and table["keypoints"].tolist() == [1, 1]
    for ids in seen.values():
        assert sorted(ids[2:]) == ["0", "1", "2", "3"]  # after two of warming up


def test_the_rate_of_pairs(finished_run):
    run, library = store.Run(finished_run), store.Library(finished_run.parent / "library")
    settings = verification.scoring_settings(library, 1.8)
    count, milliseconds = speed.pair_rate(run, library, 3, **settings)
    assert count == 3 and milliseconds > 0


def test_estimators_are_judged_by_pixels(finished_run):
    run, library = store.Run(finished_run), store.Library(finished_run.parent / "library")
    candidates = store.load_tables(run.candidates("local")).query("rank == 0")
    table = estimators.compare_estimators(run, library, candidates).set_index("estimator")
    assert (table["pairs"] == len(candidates)).all() and len(table) >= 3
    ours = table.loc["imgfp: votes, then MAGSAC++"]
    assert ours["confirmed"] > 0.5 and ours["inliers"] >= 8 and ours["milliseconds"] > 0
    wrong = candidates.assign(reference_id=candidates["reference_id"].to_numpy()[::-1])
    wrong = wrong[wrong["reference_id"].to_numpy() != candidates["reference_id"].to_numpy()]
    assert estimators.compare_estimators(run, library, wrong)["confirmed"].max() < 0.5
