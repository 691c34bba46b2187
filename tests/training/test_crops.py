"""Training the crop detector: made pictures, evaluation, the loop, the export."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from imgfp.datatypes import Boxes
from imgfp.training.crops import evaluation, scene_edits, scenes
from imgfp.training.crops.scenes import KINDS, WITHOUT_PASTE, Photographs, make_scene


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Small photographs that ship with dependencies."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    from imgfp.images import resize_short_side

    pictures = [load_sample_image("china.jpg"), load_sample_image("flower.jpg"), data.astronaut()]
    return [resize_short_side(np.array(picture), 120) for picture in pictures]


# --------------------------------------------------------------------------------- made pictures


def test_no_photographs_is_an_error():
    with pytest.raises(ValueError, match="no photographs"):
        Photographs([])


def test_a_scene_depends_on_seed_and_number_only(photographs):
    first = make_scene(photographs, 3, 5)
    make_scene(photographs, 3, 6)
    again = make_scene(photographs, 3, 5)
    assert (first.image == again.image).all()
    assert (first.boxes == again.boxes).all()
    assert make_scene(photographs, 4, 5).image.tobytes() != first.image.tobytes()


def test_a_third_of_the_scenes_hold_no_paste():
    assert sum(KINDS[kind] for kind in WITHOUT_PASTE) == pytest.approx(1 / 3, abs=0.01)
    assert sum(KINDS.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", list(KINDS))
def test_boxes_of_each_kind_lie_inside_and_have_an_area(kind, photographs, monkeypatch):
    monkeypatch.setattr(scenes, "KINDS", {kind: 1.0})
    made = [make_scene(photographs, 0, number) for number in range(12)]
    for scene in made:
        height, width = scene.image.shape[:2]
        assert scene.image.dtype == np.uint8
        assert (scene.boxes >= 0).all()
        assert (scene.boxes[:, 2:] > scene.boxes[:, :2]).all()
        assert (scene.boxes[:, 2:] <= [width, height]).all()
    counts = [len(scene.boxes) for scene in made]
    if kind in WITHOUT_PASTE:
        assert max(counts) == 0
    else:  # a paste thinner than 8 % of the picture is not worth a box
        assert np.mean(np.array(counts) > 0) > 0.7


@pytest.mark.parametrize("kind", ["paste", "collage", "screenshot", "meme", "bordered"])
def test_boxes_are_exact(kind, monkeypatch):
    """White pastes on dark grey hosts: the white pixels are the boxes, whatever turned them."""
    monkeypatch.setattr(scenes, "KINDS", {kind: 1.0})
    monkeypatch.setattr(scene_edits, "edit", lambda image, rng: image)
    monkeypatch.setattr(scene_edits, "over_everything", lambda image, rng: image)
    marked = np.full((90, 120, 3), (255, 0, 255), np.uint8)
    host = np.full((90, 120, 3), 60, np.uint8)
    monkeypatch.setattr(scenes, "_host", lambda draw, rng: host.copy())
    for number in range(6):
        scene = make_scene([marked], 1, number)
        seen = (np.abs(scene.image.astype(int) - (255, 0, 255)).max(2) < 40).astype(float)
        truth = np.zeros_like(seen)
        for x0, y0, x1, y1 in scene.boxes.round().astype(int):
            truth[y0:y1, x0:x1] = 1
        # Rounded corners and words cover a little of the paste; nothing lies outside the boxes.
        assert seen[truth == 1].mean() > 0.85
        assert seen[truth == 0].sum() <= 0.01 * truth.sum()


# ------------------------------------------------------------------------------------- evaluation


def seen(*rows: tuple) -> Boxes:
    array = np.array(rows, float).reshape(-1, 5)
    return Boxes(array[:, :4], array[:, 4])


TRUTH = np.array([[0.0, 0, 10, 10]])


def test_measures_of_nothing_are_nan():
    table = evaluation.measure([np.empty((0, 4))], [np.empty((0, 4))], ["none"])
    assert np.isnan(table.recall_70["all"])
    assert np.isnan(table.precision["all"])
    assert table.false_per_100["all"] == 0


def test_measure_by_hand():
    chosen = [np.array([[0.0, 0, 10, 8]]), np.empty((0, 4)), np.array([[5.0, 5, 9, 9]])]
    truths = [TRUTH, TRUTH, np.empty((0, 4))]
    table = evaluation.measure(chosen, truths, ["a", "a", "b"])
    assert table.loc["a", ["recall_70", "recall_90", "mean_iou"]].tolist() == pytest.approx(
        [0.5, 0, 0.4]
    )
    assert table.precision[["a", "b", "all"]].tolist() == pytest.approx([1, 0, 0.5])
    assert table.false_per_100["b"] == 100


def test_the_other_half_of_a_collage_is_no_error_and_no_gain():
    other = np.array([[10.0, 0, 20, 10]])
    table = evaluation.measure([other], [TRUTH], ["collage"], also_right=[other])
    assert table.precision["all"] == 1
    assert table.recall_70["all"] == 0


def test_a_second_box_on_the_same_truth_is_false():
    detections = [seen((0, 0, 10, 10, 0.9), (0, 0, 10, 9, 0.8)), seen((5, 5, 9, 9, 0.85))]
    curve = evaluation.precision_recall(detections, [TRUTH, np.empty((0, 4))])
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 1 / 3])
    assert curve.recall.tolist() == [1, 1, 1]
    assert evaluation.average_precision(curve) == 1


def test_average_precision_without_detections_is_zero():
    curve = evaluation.precision_recall([seen()], [TRUTH])
    assert evaluation.average_precision(curve) == 0


def test_sweep_and_pick_point():
    detections = [seen((0, 0, 10, 10, 0.9)), seen((5, 5, 9, 9, 0.4))]
    sizes, truths = [(20, 20)] * 2, [TRUTH, np.empty((0, 4))]
    swept = evaluation.sweep(detections, sizes, truths, [0.1, 0.5, 0.95])
    assert swept.recall_70.tolist() == [1, 1, 0]
    assert swept.false_per_100.tolist() == [100, 0, 0]
    assert swept.boxes_per_image.tolist() == [1, 0.5, 0]
    pick = evaluation.pick_point
    assert pick(swept.iloc[:2], min_precision=0.9, max_false_per_100=5) == 0.5
    assert pick(swept.iloc[:2], min_precision=0.4, max_false_per_100=100) == 0.1
    assert pick(swept, max_boxes_per_image=0.7) == 0.5
    assert pick(swept.iloc[:1], min_precision=0.9, max_false_per_100=5) == 0.1


def test_worst_and_surest():
    far = np.array([[50.0, 50, 60, 60]])
    nothing = np.empty((0, 4))
    worst = evaluation.worst_scenes([TRUTH, nothing, far, nothing], [TRUTH, TRUTH, TRUTH, nothing])
    assert worst.tolist() == [1, 2, 0]
    detections = [seen((0, 0, 9, 9, 0.3)), seen((0, 0, 9, 9, 0.8)), seen(), seen((0, 0, 9, 9, 0.9))]
    assert evaluation.surest_false(detections, [nothing] * 3 + [TRUTH]).tolist() == [1, 0]


def test_known_queries_and_the_other_half_of_a_collage():
    meta = pd.DataFrame(
        [
            ("a", "crop+overlay", 0.1, 0.2, 0.5, 0.6),
            ("b", "collage+text", 0, 0, 0.4, 1),
            ("c", "collage", 0, 0.7, 1, 1),
            ("d", "meme+blur", *[None] * 4),
            ("e", "overlay+meme", *[None] * 4),  # its box was not written down
            ("f", None, *[None] * 4),
        ],
        columns=["query_id", "ops", "x0", "y0", "x1", "y1"],
    )
    known = evaluation.known_queries(meta)
    assert dict(zip(known.query_id, known.kind, strict=True)) == {
        "a": "paste", "b": "collage", "c": "collage", "d": "bars", "f": "whole"
    }  # fmt: skip
    truths, others = evaluation.known_boxes(known, [(200, 100)] * 5)
    assert truths[0].tolist() == [[20, 20, 100, 60]]
    assert [len(truth) for truth in truths] == [1, 1, 1, 0, 0]
    assert others[0].shape == (0, 4)
    assert others[1].tolist() == [[80, 0, 200, 100]]
    assert others[2].ravel() == pytest.approx([0, 0, 200, 70])


def test_compare_names_detector_point_and_kind():
    found = {"ours": [seen((0, 0, 10, 10, 0.9)), seen()], "theirs": [seen(), seen()]}
    points = {name: {"local": {"min_confidence": 0.5}} for name in found}
    table = evaluation.compare(found, points, [(20, 20)] * 2, [TRUTH, TRUTH], ["a", "b"])
    assert len(table) == 2 * 3
    both = table[table.kind == "all"].set_index("detector").recall_70
    assert both.to_dict() == {"ours": 0.5, "theirs": 0.0}


# --------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def recipe():
    from imgfp.training.crops.detector import Recipe

    return Recipe(steps=3, batch_size=2, image_size=96, final_image_size=64, width=0.0625, seed=1)


def run(photographs, folder, recipe, **options):
    from imgfp.training.crops.detector import train

    return list(train(photographs, folder, recipe, workers=0, report_steps=1, **options))


@pytest.fixture(scope="module")
def trained(photographs, recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(photographs, folder, recipe)


def test_history_and_importing_ultralytics_leaves_pillow_alone(trained):
    import PIL.Image

    _, history = trained
    assert [row["step"] for row in history] == [1, 2, 3]
    assert all(np.isfinite(row["box_loss"] + row["cls_loss"] + row["dfl_loss"]) for row in history)
    assert PIL.Image.open.__module__ == "PIL.Image"


def test_a_stopped_training_goes_on_to_the_same_weights(trained, photographs, recipe, tmp_path):
    from safetensors.numpy import load_file

    from imgfp.training.crops import detector

    steps = detector.train(photographs, tmp_path, recipe, workers=0, report_steps=1)
    next(steps)
    steps.close()
    again = run(photographs, tmp_path, recipe)
    assert [row["step"] for row in again] == [2, 3]
    ours, theirs = (load_file(path / "weights.safetensors") for path in (trained[0], tmp_path))
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_a_finished_training_gives_nothing_more(trained, photographs, recipe):
    assert run(photographs, trained[0], recipe) == []


def test_other_settings_are_refused_but_more_steps_are_not(trained, photographs, recipe, tmp_path):
    import shutil

    shutil.copytree(trained[0], tmp_path / "copy")
    other = dataclasses.replace(recipe, learning_rate=0.5)
    with pytest.raises(ValueError, match=r"learning_rate: 0\.002 there, 0\.5 asked"):
        run(photographs, tmp_path / "copy", other)
    longer = dataclasses.replace(recipe, steps=4)
    assert [row["step"] for row in run(photographs, tmp_path / "copy", longer)] == [4]


def test_starting_from_weights_and_refusing_others(trained, photographs, recipe, tmp_path):
    weights = trained[0] / "weights.safetensors"
    one = dataclasses.replace(recipe, steps=1)
    fresh = run(photographs, tmp_path / "fresh", one)
    warm = run(photographs, tmp_path / "warm", one, init_weights=weights)
    assert fresh[0]["box_loss"] != warm[0]["box_loss"]
    wider = dataclasses.replace(one, width=0.125)
    with pytest.raises(ValueError, match=r"weights.safetensors: its tensors do not fit"):
        run(photographs, tmp_path / "wider", wider, init_weights=weights)
    with pytest.raises(ValueError, match=r"mine.pt: expected a .safetensors"):
        run(photographs, tmp_path / "pt", one, init_weights="mine.pt")


def test_learning_rate_rises_stays_and_falls(recipe):
    long = dataclasses.replace(recipe, steps=1000, warmup_steps=100, decay_share=0.3)
    rates = [long.rate(step) for step in (0, 99, 400, 699, 850, 999)]
    top = long.learning_rate
    assert rates[1:4] == pytest.approx([top] * 3)
    assert rates[0] < 0.02 * top
    assert rates[4] == pytest.approx(top / 2)
    assert rates[5] <= 0.01 * top
    assert {long.size(step) for step in range(700)} == {64, 96, 128}
    assert long.size(700) == 64


def test_onnx_gives_what_the_network_gives(trained, recipe, photographs, tmp_path):
    pytest.importorskip("onnx")
    from imgfp.crops.detectors import OnnxDetector
    from imgfp.training.crops.detector import export_onnx, predict
    from imgfp.training.crops.network import build_network, load_weights

    network = build_network(recipe.width).eval()
    load_weights(network, trained[0] / "weights.safetensors")
    export_onnx(network, tmp_path / "small.onnx", 96)
    from_onnx = OnnxDetector(tmp_path / "small.onnx", floor=1e-6).detect(photographs)
    from_torch = predict(network, photographs, 96, floor=1e-6)
    for ours, theirs in zip(from_onnx, from_torch, strict=True):
        assert len(ours) == len(theirs) > 0
        assert ours.xyxy == pytest.approx(theirs.xyxy, abs=0.1)
        assert ours.confidence == pytest.approx(theirs.confidence, abs=1e-4)


# --------------------------------------------------------------------------------- the second look


def test_judge_learns_signs_and_leaves_as_onnx(photographs, tmp_path):
    from imgfp.crops.box_features import N_FEATURES
    from imgfp.crops.detectors import EdgeDetector
    from imgfp.inference import onnx_session
    from imgfp.training.crops.box_scorer import collect, export_box_scorer, fit_box_scorer

    signs, cover = collect(photographs, EdgeDetector(), scenes=12, untouched=0, seed=0)
    more, none = collect(photographs, EdgeDetector(), scenes=12, untouched=2, seed=0)
    assert (more[: len(signs)] == signs).all()
    assert len(more) > len(signs) and (none[len(signs) :] == 0).all()
    assert signs.shape == (len(cover), N_FEATURES)
    assert np.isfinite(signs).all()
    assert 0 <= cover.min() < 0.5 < cover.max() <= 1
    judge, losses = fit_box_scorer(signs, cover, epochs=8)
    assert losses[-1] < losses[0]
    assert fit_box_scorer(signs, cover, epochs=8)[1] == losses
    pytest.importorskip("onnx")
    export_box_scorer(judge, tmp_path / "judge.onnx")
    session = onnx_session(tmp_path / "judge.onnx")
    confidence = session.run(None, {"signs": signs})[0]
    assert confidence.shape == (len(signs),)
    assert session.run(None, {"signs": signs[:0]})[0].shape == (0,)
    assert np.mean(confidence[cover > 0.5]) > np.mean(confidence[cover == 0])
