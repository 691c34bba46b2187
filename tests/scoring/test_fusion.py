# SPDX-License-Identifier: AGPL-3.0-or-later
"""The sum of the 2021 system, the calibrated score, its model file, and contributions of features."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from imgfp.descriptors.registry import load_model
from imgfp.scoring import fusion
from imgfp.verify.evidence import COLUMNS

ZEROS = {"bool": False, "str": "", "float32": 0.0, "int32": 0, "int64": 0, "float64": np.nan}
COPY = {
    "matches": 80,
    "inliers": 80,
    "guided_inliers": 80,
    "exact_inliers": 70,
    "ncc_fine": 0.7,
    "distinct_inliers": 80.0,
    "inlier_ratio": 0.9,
    "consistency": 0.95,
    "reprojection_error_px": 0.4,
    "angle_error_deg": 1.0,
    "ncc_inlier_ratio": 0.95,
    "ncc_chance": 0.1,
    "ncc_best_rectangle": 0.95,
    "ncc_stable": 0.9,
    "ncc_inlier_blocks": 100,
    "ncc_p80": 0.98,
    "copy_probability": 0.95,
}
SCENE = COPY | {
    "inliers": 20,
    "guided_inliers": 20,
    "ncc_fine": 0.1,
    "exact_inliers": 4,
    "distinct_inliers": 20.0,
    "consistency": 0.3,
    "reprojection_error_px": 2.0,
    "angle_error_deg": 9.0,
    "ncc_inlier_ratio": 0.35,
    "ncc_stable": 0.3,
    "ncc_inlier_blocks": 25,
    "copy_probability": 0.05,
}


def evidence(*rows: tuple) -> pd.DataFrame:
    """Rows of query, reference, branch, branch score, and the columns that differ from their default."""
    nothing = {name: ZEROS[kind] for name, kind in COLUMNS.items()} | {
        "reprojection_error_px": np.nan
    }
    keys = ["query_id", "reference_id", "branch", "score"]
    nothing["mean_squared_distance"] = 1.0
    return pd.DataFrame(
        [dict(zip(keys, row[:4], strict=True)) | nothing | row[4] for row in rows],
        columns=[*keys, "mean_squared_distance", *COLUMNS],
    )


@pytest.fixture(scope="module")
def cases() -> tuple[pd.DataFrame, pd.DataFrame]:
    """120 queries: a third copies, a third another photograph of the same scene, a third neither; each
    with an unrelated second candidate."""
    rng = np.random.default_rng(0)
    rows, labels = [], []
    for number in range(120):
        kind = [COPY, SCENE, {}][number % 3]
        noisy = {name: type(value)(value * rng.uniform(0.5, 1.05)) for name, value in kind.items()}
        rows.append((f"q{number:03d}", "R", "local", 9.0, noisy))
        rows.append((f"q{number:03d}", "N", "local", 3.0, {"inliers": int(rng.integers(4))}))
        labels += [(f"q{number:03d}", "R", kind is COPY), (f"q{number:03d}", "N", False)]
    return evidence(*rows), pd.DataFrame(labels, columns=["query_id", "reference_id", "label"])


def test_the_probability_of_the_classifier_becomes_a_share_of_its_log_odds():
    probabilities = [0.0, 0.001, 0.5, 0.9, 1.0]
    rows = [
        (f"q{i}", "R", "local", 1.0, COPY | {"copy_probability": value})
        for i, value in enumerate(probabilities)
    ]
    shares = fusion.features(evidence(*rows))["copy_probability"].to_numpy()
    assert shares[[0, 2, 4]].tolist() == [0, 0.5, 1]
    assert shares[3] == pytest.approx(0.5 + np.log(9) / 12) and 0 <= shares[1] < 0.01
    refused = fusion.features(
        evidence(("q", "R", "local", 1.0, COPY | {"copy_probability": 0.9, "refused": "folded"}))
    )
    assert refused["copy_probability"].tolist() == [0]


@pytest.fixture(scope="module")
def model(cases) -> fusion.Model:
    return fusion.fit(*cases, seed=0, made_from="a test")


# ---------------------------------------------------------------------------------- the sum


def test_sum_of_no_evidence():
    table = fusion.seed_sum(evidence())
    assert len(table) == 0 and list(table) == ["query_id", "reference_id", "score"]


def test_sum_adds_the_branches_of_a_pair():
    table = fusion.seed_sum(
        evidence(
            ("a", "A", "local", 1, {"matches": 5}),
            ("a", "A", "crop", 1, {"matches": 7}),
            ("a", "A", "global", 0.9, {"matches": 5}),
            ("a", "B", "local", 1, {"matches": 16}),
            ("b", "A", "local", 1, {"matches": 0}),
            ("b", "C", "global", 0.9, {"matches": np.nan}),
        )
    )
    rows = table.to_numpy().tolist()
    assert rows == [["a", "A", 17.0], ["a", "B", 16.0], ["b", "A", 0.0]]


def test_merge_knows_its_rules(cases, model):
    pd.testing.assert_frame_equal(fusion.merge(cases[0], "sum"), fusion.seed_sum(cases[0]))
    pd.testing.assert_frame_equal(
        fusion.merge(cases[0], "calibrated", model), fusion.calibrated(cases[0], model)
    )
    with pytest.raises(ValueError, match="'mean'"):
        fusion.merge(cases[0], "mean")


# ---------------------------------------------------------------------------------- calibrated


def test_calibrated_of_no_evidence(model):
    assert len(fusion.calibrated(evidence(), model)) == 0
    assert len(fusion.contributions(evidence(), model)) == 0


def test_copies_score_above_scenes_above_nothing(cases, model):
    table, labels = cases
    scores = fusion.calibrated(table, model)
    assert scores["score"].between(0, 1).all() and not scores.duplicated(fusion._PAIR).any()
    joined = scores.merge(labels, on=["query_id", "reference_id"])
    assert joined.loc[joined["label"], "score"].min() > joined.loc[~joined["label"], "score"].max()
    one = fusion.calibrated(
        evidence(
            ("q", "copy", "local", 1, COPY),
            ("p", "scene", "local", 1, SCENE),
            ("r", "none", "local", 1, {}),
        ),
        model,
    )
    assert one["reference_id"].tolist() == ["copy", "scene", "none"]


def test_a_view_that_shows_nothing_does_no_harm(model):
    alone = evidence(("q", "R", "crop", 5, COPY))
    both = evidence(("q", "R", "local", 1, {}), ("q", "R", "crop", 5, COPY))
    scores = [fusion.calibrated(table, model)["score"].item() for table in (alone, both)]
    assert scores[0] == pytest.approx(scores[1])


def test_refused_evidence_counts_for_nothing(model):
    refused = evidence(("q", "R", "local", 1, COPY | {"refused": "shared_by_many"}))
    nothing = evidence(("q", "R", "local", 1, {}))
    assert fusion.calibrated(refused, model)["score"].item() == pytest.approx(
        fusion.calibrated(nothing, model)["score"].item()
    )


def test_votes_that_pixels_do_not_confirm_count_against_a_pair():
    table = fusion.features(
        evidence(
            ("a", "A", "local", 200, COPY | {"ncc_stable": 1.0}),
            ("b", "A", "local", 200, SCENE | {"ncc_stable": 0.25}),
            ("c", "A", "global", 0.9, SCENE | {"ncc_stable": 0.25}),
        )
    ).set_index("query_id")
    assert table["confirmation"].tolist() == pytest.approx([1, 0.25, 1])


def test_tilt_and_shear_count_only_where_blocks_are_consistent_with_the_homography():
    flat = {"tilt_deg": 0.0, "shear_deg": 0.0, "perspective": 0.0}
    refined = COPY | flat | {"model_consistency": 1.0, "aligned_blocks": 400}
    table = fusion.features(
        evidence(
            ("consistent", "A", "local", 9, refined),
            ("tilted", "A", "local", 9, refined | {"tilt_deg": 5.0, "shear_deg": 5.0}),
            ("half consistent", "A", "local", 9, refined | {"model_consistency": 0.5}),
            ("one edge", "A", "local", 9, refined | {"aligned_blocks": 4}),
            ("not refined", "A", "local", 9, COPY | flat),
        )
    ).set_index("query_id")[["uprightness", "rigidity"]]
    assert table.loc["consistent"].min() > 0.9 and table.loc["tilted"].max() < 0.01
    assert table.loc["half consistent"].max() < 0.5 and table.loc["one edge"].max() < 0.2
    assert table.loc["not refined"].max() == 0


def test_displaced_blocks_count_against_a_pair_if_enough_are_localisable():
    table = fusion.features(
        evidence(
            ("still", "A", "local", 9, COPY | {"localisable_blocks": 95, "displaced_blocks": 0}),
            ("depth", "A", "local", 9, COPY | {"localisable_blocks": 95, "displaced_blocks": 50}),
            ("few", "A", "local", 9, COPY | {"localisable_blocks": 1, "displaced_blocks": 1}),
        )
    ).set_index("query_id")["undisplaced"]
    assert table[["still", "depth", "few"]].tolist() == pytest.approx([1, 0.5, 5 / 6])


def test_margin_is_to_the_best_other_reference():
    rows = [("q", name, "local", 1, COPY | {"ncc_inlier_ratio": share}) for name, share in
            (("A", 0.9), ("B", 0.6), ("C", 0.9))]  # fmt: skip
    table = fusion.features(evidence(*rows, ("p", "A", "local", 1, COPY)))
    found = table.set_index(["query_id", "reference_id"])["margin"]
    assert found["q", "A"] == pytest.approx(0) and found["q", "C"] == pytest.approx(0)
    assert found["q", "B"] < 0 < found["p", "A"]


def test_references_compete_for_the_same_pixels_only():
    """A lies in eight cells of the query, B in eight others, C in four of A's; D in too few of its own."""
    cells = {"A": 0xFF, "B": 0xFF00, "C": 0x0F, "D": 0x70000}
    strong, weak = COPY | {"ncc_inlier_ratio": 0.9}, COPY | {"ncc_inlier_ratio": 0.5}
    found = {}
    for names in ("A", "AB", "AC", "AD"):
        rows = [
            (
                "q",
                name,
                "local",
                1,
                (strong if name in "AB" else weak) | {"explained_cells": cells[name]},
            )
            for name in names
        ]
        table = fusion.features(evidence(*rows)).set_index("reference_id")
        found[names] = table["margin"].to_dict()
    alone = found["A"]["A"]
    beside = alone - fusion.BY_CHANCE
    assert found["AB"]["A"] == pytest.approx(beside) and found["AB"]["B"] == pytest.approx(beside)
    assert beside > found["AC"]["A"] > 0 and found["AD"]["A"] == pytest.approx(beside)
    assert found["AC"]["C"] < 0 and found["AD"]["D"] == pytest.approx(found["AC"]["C"])


def test_likeness_is_measured_from_the_last_candidate():
    """Cosines of 0.2, 0.6 and 0.9; only the lead over the last candidate counts."""
    by_cosine = {"A": 0.9, "B": 0.6, "C": 0.2}
    rows = [
        ("q", name, "global", 0.0, {"mean_squared_distance": 2 - 2 * cosine})
        for name, cosine in by_cosine.items()
    ]
    table = fusion.features(evidence(*rows, ("q", "D", "local", 1, {}))).set_index("reference_id")
    assert table["likeness"].to_dict() == pytest.approx({"A": 7 / 8, "B": 1 / 2, "C": 0, "D": 0})


def test_votes_of_both_keypoint_searches_count_and_similarity_does_not():
    table = fusion.features(
        evidence(
            ("q", "A", "local", 2, {}),
            ("q", "A", "crop", 20, {}),
            ("q", "A", "global", 0.9, {}),
            ("q", "B", "global", 0.9, {}),
            ("q", "C", "local", 1e6, {}),
        )
    ).set_index("reference_id")
    votes = table["votes"].to_dict()
    assert votes == pytest.approx({"A": np.log(21) / np.log(201), "B": 0, "C": 1})


def test_a_branch_that_tells_copies_apart_is_used(cases):
    table, labels = cases
    rng = np.random.default_rng(1)
    truth = labels.set_index(["query_id", "reference_id"])["label"]
    index = pd.MultiIndex.from_frame(table[["query_id", "reference_id"]])
    distance = rng.uniform(0.8, 1.2, len(table)) - 0.4 * truth.reindex(index).to_numpy()
    model = fusion.fit(table.assign(branch="global", mean_squared_distance=distance), labels)
    assert model.weights["likeness"] > 0


def test_contributions_sum_to_the_log_odds(cases, model):
    parts = fusion.contributions(cases[0], model)
    parts = parts[parts["score"] != fusion.MOST_IN_DOUBT]  # but of pairs that are held back
    odds = np.log(parts["score"] / (1 - parts["score"]))
    total = parts[[*model.weights, "base"]].sum(axis=1)
    assert total.to_numpy() == pytest.approx(odds.to_numpy(), abs=1e-9)


def test_no_feature_counts_against_a_pair(model):
    assert min(model.weights.values()) >= 0 and set(model.weights) <= set(fusion.FEATURES)


def test_fitting_repeats_and_needs_both_classes(cases, model):
    assert fusion.fit(*cases, seed=0, made_from="a test") == model
    assert model.origin["copies"] == 40 and model.origin["made_from"] == "a test"
    assert len(model.scores) == 101
    with pytest.raises(ValueError, match="0 of 240 labelled pairs are copies"):
        fusion.fit(cases[0], cases[1].assign(label=False))


# ---------------------------------------------------------------------------------- model files


def test_a_model_survives_its_file(tmp_path, model):
    path = tmp_path / "mine.json"
    path.write_text(fusion.to_json(model))
    assert fusion.load_model(str(path)) == model


def test_expected_copies_move_the_odds_of_all_pairs_by_those_of_the_prior(cases, model):
    fitted = dataclasses.replace(model, origin={"copies": 300, "queries": 400})
    rows = cases[0].assign(ncc_stable=1.0)  # no pair is held back
    before = fusion.calibrated(rows, fusion.with_expected_copies(fitted, 0))
    after = fusion.calibrated(rows, fusion.with_expected_copies(fitted, 0.2))
    odds = [table["score"] / (1 - table["score"]) for table in (before, after)]
    # From three copies per other query to one per four.
    assert (odds[0] / odds[1]).to_numpy() == pytest.approx(12)
    same = fusion.with_expected_copies(fitted, 0.75)
    assert fusion.calibrated(rows, same)["score"].to_numpy() == pytest.approx(before["score"])
    moved = fusion.with_expected_copies(fitted, 0.2).scores
    assert moved[50] < model.scores[50] and len(moved) == len(model.scores)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:50],
        lambda text: "[]",
        lambda text: text.replace("imgfp fusion 1", "imgfp fusion 9"),
        lambda text: text.replace('"margin"', '"magic"'),
        lambda text: json.dumps(json.loads(text) | {"intercept": float("nan")}),
        lambda text: json.dumps(json.loads(text) | {"intercept": "0"}),
        lambda text: json.dumps(json.loads(text) | {"extra": 1}),
    ],
)
def test_an_invalid_model_file_is_refused_by_name(tmp_path, model, change):
    path = tmp_path / "odd.json"
    path.write_text(change(fusion.to_json(model)))
    with pytest.raises(ValueError, match=r"odd\.json"):
        fusion.load_model(str(path))


def test_a_file_with_former_names_of_features_is_the_same_model(cases, model):
    former = {today: name for name, today in fusion.RENAMED_FEATURES.items()}
    assert set(former) <= set(fusion.FEATURES)
    every = dict.fromkeys(fusion.FEATURES, 0.5)
    full = fusion.Model(every, -3.0, every, model.scores, {})
    data = json.loads(fusion.to_json(full))
    for field in ("weights", "neutral"):
        data[field] = {former.get(name, name): value for name, value in data[field].items()}
    assert {"agreement", "steadiness", "unmoved", "judged"} <= set(data["weights"])
    assert fusion.from_json(json.dumps(data)) == full
    pd.testing.assert_frame_equal(
        fusion.calibrated(cases[0], fusion.from_json(json.dumps(data))),
        fusion.calibrated(cases[0], full),
    )


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.json"):
        fusion.load_model(str(tmp_path / "nowhere.json"))


def test_a_model_knows_the_vectors_of_one_descriptor(tmp_path, model):
    path = tmp_path / "own.json"
    fitted = dataclasses.replace(model, origin={"descriptor": "gist-grid 0123"})
    path.write_text(fusion.to_json(fitted))
    for same in ("", "gist-grid", "gist-grid 0123"):
        assert fusion.load_model(str(path), same) == fitted and not fusion.misfit(fitted, same)
    for other in ("gist-grid 4567", "imgfp", "imgfp 0123"):
        said = rf"own\.json': .*vectors of gist-grid 0123, and .* of {other}: calibrate again"
        with pytest.raises(ValueError, match=said):
            fusion.load_model(str(path), other)
    path.write_text(fusion.to_json(model))  # as older versions wrote some
    assert "does not name" in fusion.misfit(fusion.load_model(str(path), "imgfp"), "imgfp")


def test_the_shipped_model_knows_the_shipped_descriptor():
    shipped = fusion.load_model("", "imgfp")
    assert not fusion.misfit(shipped, load_model("imgfp").identity)
    assert not fusion.misfit(shipped, "sscd-student 240436cc531e")
    assert "calibrate again" in fusion.misfit(shipped, "sscd-student 0123456789ab")
    assert "vectors of imgfp" in fusion.misfit(fusion.load_model("", "phash"), "phash")


def test_the_shipped_model_ranks_copies_first():
    table = evidence(
        ("q", "copy", "local", 1, COPY | {"copy_probability": 0.99}),
        ("p", "scene", "local", 1, SCENE),
    )
    scores = fusion.merge(table, "calibrated")
    assert scores["reference_id"].tolist() == ["copy", "scene"]
    assert scores["score"].iloc[0] > 0.9 > 0.5 > scores["score"].iloc[1]


FLAT = COPY | {"exact_inliers": 0, "localisable_blocks": 0, "copy_probability": 0.99}


@pytest.mark.parametrize(
    ("views", "capped"),
    [
        ([FLAT | {"colour_difference": 60.0}], True),
        (
            [
                FLAT | {"colour_difference": 60.0},
                {"refused": "folded", "colour_difference": np.nan},
            ],
            True,
        ),
        ([FLAT | {"colour_difference": 3.0}], False),
        ([FLAT | {"colour_difference": np.nan}], False),
        ([FLAT | {"colour_difference": 60.0, "exact_inliers": 1}], False),
        ([FLAT | {"colour_difference": 60.0}, COPY | {"colour_difference": np.nan}], False),
    ],
)
def test_without_structure_the_classifier_alone_gives_no_high_score(views, capped):
    rows = evidence(*[("q", "R", "local", 9.0, view) for view in views])
    model = fusion.load_model()
    (score,) = fusion.calibrated(rows, model)["score"]
    (free,) = fusion.calibrated(rows.drop(columns="colour_difference"), model)["score"]
    assert free > 0.5 and score == (fusion.MOST_IN_DOUBT if capped else free)
    assert fusion.contributions(rows, model)["score"].tolist() == [score]


BURST = COPY | {
    "copy_probability": 0.4,
    "ncc_stable": 0.7,
    "ncc_inlier_ratio": 0.7,
    "displaced_blocks": 3,
}


@pytest.mark.parametrize(
    ("views", "capped"),
    [
        ([BURST], True),
        ([BURST, {"refused": "folded"}, BURST | {"copy_probability": 0.0}], True),
        ([BURST | {"copy_probability": 0.55}], False),
        ([BURST | {"ncc_stable": 0.95}], False),
        (
            [BURST | {"displaced_blocks": 0}],
            False,
        ),  # blur and stripes move the best place of few blocks
        ([BURST | {"displaced_blocks": 0, "ncc_stable": 0.55, "ncc_inlier_ratio": 0.9}], True),
        ([BURST, COPY], False),  # the box of a pasted copy tells more than the whole query
        ([BURST | {"copy_probability": 0.0}], False),  # without a classifier
    ],
)
def test_two_witnesses_of_another_photograph_hold_a_pair_back(views, capped):
    rows = evidence(*[("q", "R", "local", 9.0, view) for view in views])
    model = fusion.load_model()
    table = fusion.features(rows)
    (free,) = fusion._probability(fusion._logit(table, model))
    (score,) = fusion.calibrated(rows, model)["score"]
    assert score == (min(free, fusion.MOST_IN_DOUBT) if capped else free)
    assert free > 0.5 or rows["copy_probability"].max() == 0
    same = rows.assign(identical=[True] + [False] * (len(rows) - 1))
    assert fusion.calibrated(same, model)["score"].tolist() == [1.0]


def test_a_form_with_other_content_is_held_back(pairs_of_a_form):
    """Only where several references share the form, and only where the content differs."""
    model = fusion.load_model()
    other = fusion.have_other_content(pairs_of_a_form)
    assert other.tolist() == [False, True, False, False]
    score = fusion.calibrated(pairs_of_a_form, model).set_index("reference_id")["score"]
    assert score["other"] <= fusion.MOST_IN_DOUBT < score["copy"]
    alone = pairs_of_a_form.assign(distinct_inliers=pairs_of_a_form["inliers"])
    assert not fusion.have_other_content(alone).any()


REWRITTEN = {"drawn": 1.0, "rewritten_blocks": 40.0, "unchanged_blocks": 600.0}


@pytest.mark.parametrize(
    ("change", "held"),
    [
        ({"shared_inliers": 60.0, "unshared_differing": 25.0, "unshared_unchanged": 5.0}, True),
        ({"shared_inliers": 20.0, "unshared_differing": 25.0, "unshared_unchanged": 5.0}, False),
        ({"shared_inliers": 60.0, "unshared_differing": 9.0, "unshared_unchanged": 1.0}, False),
        # A sticker over what others share: 150 blocks differ, few of them outside. Stripes over everything.
        ({"shared_inliers": 60.0, "unshared_differing": 25.0, "unshared_unchanged": 200.0}, False),
        ({"shared_inliers": 60.0, "unshared_differing": 120.0, "unshared_unchanged": 80.0}, False),
        (
            {"shared_inliers": 60.0, "unshared_differing": 120.0, "unshared_unchanged": 80.0}
            | {"drawn": 1.0, "rewritten_blocks": 20.0, "unchanged_blocks": 500.0},
            True,
        ),
        (REWRITTEN, True),
        (REWRITTEN | {"drawn": 0.0}, False),
        (REWRITTEN | {"exact_inliers": 50.0}, False),
        (REWRITTEN | {"rewritten_blocks": 10.0, "unchanged_blocks": 100.0}, False),
        (REWRITTEN | {"compared_blocks": 0.0}, False),
    ],
)
def test_a_form_is_known_by_its_marks_or_by_what_is_rewritten(pairs_of_a_form, change, held):
    alone = pairs_of_a_form[pairs_of_a_form["query_id"] == "alone"].assign(**change)
    assert fusion.have_other_content(alone).tolist() == [held]
    # Another view of the same pair in which nothing differs.
    agreeing = alone.assign(differing_blocks=0.0, unshared_differing=0.0, rewritten_blocks=0.0)
    both = pd.concat([alone, agreeing.assign(compared_blocks=500.0)], ignore_index=True)
    assert not fusion.have_other_content(both).any()


def test_inliers_in_shared_parts_count_little(pairs_of_a_form):
    alone = pairs_of_a_form[pairs_of_a_form["query_id"] == "alone"]
    marked = alone.assign(shared_inliers=90, shared_by=9)
    before, after = (fusion.features(rows)["inliers"].item() for rows in (alone, marked))
    # Ten outside, and 90 of which each counts a tenth.
    assert before == pytest.approx(np.log1p(100) / np.log(201))
    assert after == pytest.approx(np.log1p(2 * 19) / np.log(201))
    old = alone.drop(columns=["shared_inliers", "shared_by", "rewritten_blocks"])
    assert fusion.features(old)["inliers"].item() == before, "of an older version"


@pytest.fixture
def pairs_of_a_form() -> pd.DataFrame:
    """A query with a copy, the same form with other content, one that was not compared; and another query."""
    rows = pd.DataFrame(
        {
            "query_id": ["q", "q", "q", "alone"],
            "reference_id": ["copy", "other", "unseen", "edited"],
            "branch": "local",
            "score": 60.0,
            "mean_squared_distance": 100.0,
            **dict.fromkeys(COLUMNS, 0.0),
        }
    )
    strong = {
        "inliers": 100, "guided_inliers": 100, "exact_inliers": 90, "distinct_inliers": [50.0, 40, 40, 100],
        "inlier_ratio": 0.9, "consistency": 0.9, "ncc_inlier_ratio": 0.9, "ncc_stable": 0.95, "ncc_fine": 0.9,
        "ncc_inlier_blocks": 90, "aligned_blocks": 90, "localisable_blocks": 90, "copy_probability": 0.98,
        "query_area": 1.0, "reference_area": 1.0, "model_consistency": 0.9, "ncc_edges": 0.9, "ncc_p80": 0.95,
        "compared_blocks": [1000, 1000, 0, 1000], "differing_blocks": [0, 150, 0, 150], "identical": False,
        "refused": "", "colour_difference": np.nan,
    }  # fmt: skip
    return rows.assign(**strong)
