from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from imgfp.descriptors.base import l2_normalise
from imgfp.descriptors.checkpoints import Preprocessing, pack_copynet, unpack_copynet
from imgfp.descriptors.networks import CopyNet
from imgfp.descriptors.registry import load_model
from imgfp.edits import families
from imgfp.training.descriptor import evaluation, whitening
from imgfp.training.descriptor.augmentation import (
    OFTEN,
    TURNS,
    Curriculum,
    Steps,
    batch_rows,
    draw_chain,
    draw_edits,
    epoch_order,
    step_loader,
)
from imgfp.training.descriptor.data import groups_of, load_readable, read_check
from imgfp.training.descriptor.trainer import (
    Memory,
    Settings,
    Trainer,
    contrastive_loss,
    embed,
    learning_rate,
    spreading_loss,
    to_tensor,
    train,
)
from imgfp.training.descriptor.validation import (
    Validation,
    make_validation,
    micro_ap,
    similarities,
    worst_misses,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def photographs():
    """Sixteen pictures of coarse random blocks, (48..63,64,3) uint8."""
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (4, 4, 3), np.uint8) for _ in range(16)]
    return [np.repeat(np.repeat(s, 12 + i % 4, 0), 16, 1) for i, s in enumerate(small)]


GROUPS = ["", "a", "", "b", "a", "", "b", *[""] * 9]
EASY = Curriculum(batch_images=4, start_px=32, end_px=64, ramp_steps=10)


# Views


def test_members_of_a_group_stay_together_and_nobody_is_lost():
    for seed in range(5):
        order = list(epoch_order(GROUPS, np.random.default_rng(seed)))
        assert sorted(order) == list(range(16))
        assert abs(order.index(1) - order.index(4)) == abs(order.index(3) - order.index(6)) == 1


def test_an_epoch_shows_every_photograph_once():
    rows = np.concatenate([batch_rows(GROUPS, step, EASY) for step in range(4)])
    assert sorted(rows) == list(range(16))
    again = np.concatenate([batch_rows(GROUPS, step, EASY) for step in range(4, 8)])
    assert sorted(again) == list(range(16)) and (again != rows).any()


def test_few_photographs_make_a_smaller_batch():
    assert sorted(batch_rows(["", ""], 3, EASY)) == [0, 1]


def test_edits_get_harder_and_views_larger():
    assert EASY.side_px(0) == 32 and EASY.side_px(10) == EASY.side_px(999) == 64
    assert EASY.strength(0) < EASY.strength(5) < EASY.strength(10) == 1
    assert (EASY.max_ops(0), EASY.max_ops(10)) == (1, 3)


def test_turns_are_left_to_query_views():
    rng = np.random.default_rng(0)
    drawn = [op for _ in range(200) for op in draw_edits(4, 1.0, rng)]
    assert not {name for name, _ in drawn} & set(TURNS)
    assert max(degree for name, degree in drawn if name == "rotate") <= 0.25
    assert {name for _ in range(200) for name, _ in draw_edits(4, 1.0, rng, turns=True)} & set(
        TURNS
    )


def test_a_chain_often_holds_what_is_hard_and_strongly():
    rng = np.random.default_rng(0)
    chains = [dict(draw_chain(1, 1.0, rng)) for _ in range(1500)]
    assert {n for c in chains for n in c}.isdisjoint(TURNS)
    for share, names in OFTEN:
        met = np.mean([not c.keys().isdisjoint(names) for c in chains])
        assert share - 0.04 < met < share + 0.16
    drawn = [c["sketch"] for c in chains if "sketch" in c]
    assert 0.6 < np.mean(drawn) < 0.72  # half of them would be at 0.5 without preference
    assert max(d for c in chains for d in c.values()) <= 1


def test_a_step_is_the_same_whoever_makes_it(photographs):
    steps = Steps(photographs, GROUPS, EASY)
    rows, views = steps[3]
    assert views.shape == (8, 48, 48, 3) and views.dtype == np.uint8
    for workers in (0, 1):
        made_rows, made = next(step_loader(steps, 3, 5, workers))
        np.testing.assert_array_equal(made_rows, rows)
        np.testing.assert_array_equal(made, views)
    assert (steps[4][1][:, :32, :32] != views[:, :32, :32]).any()


def test_a_worker_starts_after_opencv_has_used_its_threads(photographs):
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 5)
    rows, _ = next(step_loader(Steps(photographs, GROUPS, EASY), 0, 1, workers=1))
    assert len(rows) == 4


def test_nothing_of_the_same_group_is_pasted_beside(photographs):
    steps = Steps(photographs[:2], ["a", "a"], EASY)
    stranger = steps._stranger(0, np.random.default_rng(0))
    assert (stranger == 128).all()


def test_damaged_files_are_left_out_by_name(tmp_path, photographs):
    from PIL import Image

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


# Losses


def vectors_of(*rows):
    return torch.nn.functional.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_the_loss_is_small_where_the_two_views_agree():
    labels = torch.tensor([0, 1, 0, 1])
    good = contrastive_loss(vectors_of([1, 0], [0, 1], [1, 0], [0, 1]), labels, None, 0.1)
    bad = contrastive_loss(vectors_of([1, 0], [0, 1], [0, 1], [1, 0]), labels, None, 0.1)
    assert good < 0.01 < 5 < bad


def test_the_loss_is_the_cross_entropy_of_the_definition():
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    memory = Memory(4, 8, "cpu")
    memory.push(torch.nn.functional.normalize(torch.randn(3, 8), dim=1), torch.tensor([7, 8, 9]))
    logits = torch.cat([vectors @ vectors.T, vectors @ memory.vectors[:3].T], 1) / 0.05
    logits[range(6), range(6)] = -1e9
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([3, 4, 5, 0, 1, 2]))
    got = contrastive_loss(vectors, torch.arange(3).repeat(2), memory, 0.05)
    assert got.item() == pytest.approx(expected.item(), rel=1e-4)


def test_memory_forgets_the_oldest_and_hides_the_present():
    memory = Memory(3, 1, "cpu")
    assert len(memory.strangers(torch.tensor([0]))[1]) == 0
    memory.push(torch.ones(2, 1), torch.tensor([1, 2]))
    memory.push(torch.ones(2, 1), torch.tensor([3, 4]))
    assert sorted(memory.strangers(torch.tensor([0]))[1].tolist()) == [2, 3, 4]
    assert sorted(memory.strangers(torch.tensor([3]))[1].tolist()) == [2, 4]


def test_spreading_wants_neighbours_apart_but_lets_the_views_of_one_photograph_be():
    labels = torch.tensor([0, 1, 0, 1])
    near = spreading_loss(vectors_of([1, 0], [1, 0.1], [1, 0], [1, 0.1]), labels)
    far = spreading_loss(vectors_of([1, 0], [-1, 0], [1, 0], [-1, 0]), labels)
    assert near > 1 > 0 > far
    assert torch.isfinite(spreading_loss(vectors_of([1, 0], [1, 0]), torch.tensor([0, 1])))


def test_the_rate_rises_stays_and_falls():
    settings = Settings(steps=100, warmup_steps=10, cooldown_share=0.3, learning_rate=1.0)
    rates = [learning_rate(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == rates[70] == pytest.approx(1)
    assert np.all(np.diff(rates[70:]) < 0) and rates[100] == 0


# Validation


def test_a_perfect_descriptor_scores_one_and_a_blind_one_nearly_nothing(photographs):
    validation = make_validation(photographs[:8], photographs[8:], side_px=16)
    assert validation.references.shape == (12, 16, 16, 3)
    assert list(validation.answers) == [0, 1, 2, 3, -1, -1, -1, -1]
    perfect = np.concatenate([np.eye(12)[:4], np.zeros((4, 12))]).astype(np.float32)
    known = {8: perfect, 12: np.eye(12, dtype=np.float32)}
    assert micro_ap(validation, lambda images: known[len(images)]) == 1
    blind = micro_ap(validation, lambda images: np.ones((len(images), 2), np.float32))
    assert blind < 0.2


def test_validation_meets_every_family(photographs, monkeypatch):
    met = set()
    real = families.apply
    monkeypatch.setattr(
        families,
        "apply",
        lambda image, ops, *rest: met.update(dict(ops)) or real(image, ops, *rest),
    )
    make_validation(photographs * 3, side_px=16)
    assert met == families.FAMILIES.keys() - set(TURNS)


def test_similarities_part_the_true_from_the_nearest_other():
    blank = np.zeros((1, 1, 1, 3), np.uint8)
    validation = Validation(np.repeat(blank, 2, 0), np.repeat(blank, 2, 0), np.array([0, -1]))
    answers = iter([np.array([[1.0, 0], [0, 1]]), np.array([[0.8, 0], [0.3, 0.9]])])
    positives, others = similarities(validation, lambda images: next(answers))
    np.testing.assert_allclose(positives, [0.8])
    np.testing.assert_allclose(others, [0.3, 0.9])


def test_worst_misses_show_what_was_taken_instead(photographs):
    validation = make_validation(photographs[:4], side_px=16)
    known = {4: np.array([[0, 1], [0, 1], [0.5, 0], [0, 0.9]]), 2: np.eye(2)}
    missed, taken = worst_misses(validation, lambda images: known[len(images)], 5)
    assert len(missed) == 1 and len(taken) == 2
    np.testing.assert_array_equal(missed[0][1], validation.references[0])
    np.testing.assert_array_equal(missed[0][2], validation.references[1])
    np.testing.assert_array_equal(taken[0][0], validation.queries[3])


# Training

SMALL = Settings(
    backbone="test_resnet",
    dim=16,
    steps=6,
    warmup_steps=2,
    memory=16,
    learning_rate=0.01,
    bf16=False,
)


def run(photographs, folder, settings=SMALL, **how):
    validation = make_validation(photographs[:4], side_px=32)
    steps = Steps(photographs, GROUPS, EASY)
    return train(steps, validation, settings, folder / "c.safetensors", workers=0, **how)


def weights(network):
    return torch.cat([v.flatten().float() for v in network.state_dict().values()])


def test_training_is_deterministic_and_goes_on_where_it_was(photographs, tmp_path):
    seen = []
    whole, history = run(photographs, tmp_path / "whole", report=seen.append)
    assert list(history.step) == [6] and len(seen) == 1
    assert {"loss", "contrast", "spread", "rate", "micro_ap"} <= set(history)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # stopped before anything was saved: all is made again
        run(photographs, tmp_path / "parts", report=stop)
    run(photographs, tmp_path / "parts", replace(SMALL, steps=3, cooldown_share=0.0))
    resumed, history = run(photographs, tmp_path / "parts")
    assert list(history.step) == [3, 6]
    straight, _ = run(photographs, tmp_path / "again")
    assert torch.equal(weights(straight), weights(whole))
    again, _ = run(photographs, tmp_path / "whole")  # finished: nothing is left to do
    assert torch.equal(weights(again), weights(whole))
    assert resumed is not whole


def test_a_checkpoint_of_other_settings_is_refused(photographs, tmp_path):
    run(photographs, tmp_path, replace(SMALL, steps=1))
    with pytest.raises(ValueError, match=r"other settings.*'temperature': \(0\.05, 0\.1\)"):
        run(photographs, tmp_path, replace(SMALL, temperature=0.1))


def test_a_training_begins_from_given_weights(photographs, tmp_path):
    torch.manual_seed(5)
    start = CopyNet("test_resnet", 16)
    given, _ = run(photographs, tmp_path, replace(SMALL, steps=0), start=start)
    assert torch.equal(weights(given), weights(start))
    once, _ = run(photographs, tmp_path, replace(SMALL, steps=1), start=start)
    again, _ = run(photographs, tmp_path, replace(SMALL, steps=1), start=CopyNet("test_resnet", 16))
    assert torch.equal(weights(once), weights(again))  # the checkpoint counts, not the start
    assert not torch.equal(weights(once), weights(start))
    with pytest.raises(ValueError, match=r"weights are of .*'dim': 8"):
        run(photographs, tmp_path / "new", start=CopyNet("test_resnet", 8))


def test_training_teaches(photographs, tmp_path):
    trainer = Trainer(replace(SMALL, warmup_steps=1, learning_rate=0.003, cooldown_share=0.0), 0)
    rows, views = Steps(photographs, GROUPS, EASY)[0]
    losses = [trainer.update(torch.as_tensor(rows), views)["contrast"] for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]
    path = tmp_path / "w.safetensors"
    path.write_bytes(pack_copynet(trainer.model, Preprocessing(64, interpolation="area")))
    assert load_model("imgfp", str(path)).embed(photographs).shape == (16, 16)
    network, setting = unpack_copynet(path)
    assert network.shape == trainer.model.shape and setting.side_px == 64


def test_tensors_are_normalised_as_the_packed_model_does():
    views = np.full((1, 2, 2, 3), 255, np.uint8)
    np.testing.assert_allclose(
        to_tensor(views, "cpu")[0, :, 0, 0], (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225], rtol=1e-5
    )  # fmt: skip


# The last layer


def test_whitening_ignores_what_edits_change():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(200, 2)).astype(np.float32)
    noise = 5 * rng.normal(size=(2, 200, 2)).astype(np.float32)
    calm, hard = (np.concatenate([signal, part], axis=1) for part in noise)
    weight, bias = whitening.learn_whitening(calm, hard, 2)
    assert weight.shape == (2, 4) and bias.shape == (2,)
    assert np.abs(weight[:, :2]).min(axis=1).max() > 5 * np.abs(weight[:, 2:]).max()
    np.testing.assert_allclose((calm @ weight.T + bias).mean(axis=0), 0, atol=0.5)
    with pytest.raises(ValueError, match="200 photographs and 4 features cannot make 5 numbers"):
        whitening.learn_whitening(calm, hard, 5)


@pytest.mark.parametrize("rows", [5, 60])
def test_main_directions_are_those_of_most_variance(rows):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, 8)) * [9, 1, 5, 1, 1, 1, 1, 1] + 3
    mean, directions = whitening.principal(features, 3)
    expected = np.linalg.svd(features - features.mean(axis=0))[2][:3]
    np.testing.assert_allclose(mean, features.mean(axis=0))
    np.testing.assert_allclose(np.abs((expected * directions.T).sum(axis=1)), 1, atol=1e-6)


def test_whitening_a_network_brings_the_views_of_a_photograph_together(photographs):
    torch.manual_seed(0)
    network = CopyNet("test_resnet", dim=8)
    calm, hard = whitening.view_pairs(photographs, 16, 32)
    assert calm.shape == hard.shape == (16, 32, 32, 3)

    def margin():
        first, second = (l2_normalise(embed(network, views, "cpu")) for views in (calm, hard))
        scores = first @ second.T
        return np.diag(scores).mean() - scores[~np.eye(16, dtype=bool)].mean()

    before = margin()
    whitening.whiten(network, calm, hard, components=12, refine_steps=20)
    assert margin() > before + 0.1


# The descriptor alone

TRUTH = pd.DataFrame({"query_id": ["q1", "q2", "q3"], "reference_id": ["r1", "r2", ""]})


def test_predictions_take_the_best_view_and_normalise():
    known = np.eye(3, dtype=np.float32)
    queries = {
        "q1": np.array([[0, 0.6, 0.8], [1, 0, 0]], np.float32),
        "q2": l2_normalise(np.array([[0.1, 1, 0], [0.1, 0, 0.2]])),
    }
    found = evaluation.predict(queries, (["r1", "r2", "r3"], known), top_k=1)
    assert list(found.reference_id) == ["r1", "r2"]
    assert found.score.iloc[0] == 1
    background = np.array([[1.0, 0, 0]], np.float32)
    less = evaluation.predict(queries, (["r1", "r2", "r3"], known), 1, 1, background)
    assert list(less.reference_id) == ["r3", "r2"]


def test_views_of_a_query_are_picked_by_name():
    vectors = np.arange(8).reshape(4, 2)
    kept = evaluation.by_query(["a", "b"], vectors, ["whole", "mirror"], ["mirror"])
    np.testing.assert_array_equal(kept["b"], [[6, 7]])


def test_groups_and_their_figures():
    meta = pd.DataFrame({"query_id": ["q1", "q2", "q3"], "ops": ["blur+crop", "blur", "crop"]})
    groups = evaluation.edit_groups(meta, TRUTH)
    assert groups["blur"] == ["q1", "q2"] and groups["crop"] == ["q1"]
    assert groups["1 edits"] == ["q2"] and groups["all"] == ["q1", "q2"]
    right = pd.DataFrame(
        {"query_id": ["q1", "q2", "q3"], "reference_id": ["r1", "r9", "r1"], "score": [3, 2, 1.0]}
    )
    table = evaluation.compare({"mine": right}, TRUTH, groups).set_index("group")
    assert table.loc["crop", "mine uAP"] == 1 and table.loc["blur", "mine uAP"] == 0.5
    assert table.loc["all", "mine R1"] == 0.5 and table.loc["crop", "positives"] == 1


def test_recall_by_family_and_strength(photographs):
    named = {f"p{i}": image for i, image in enumerate(photographs[:5])}
    names, pictures = evaluation.made_queries(named, {"weak": 0.1, "strong": 0.9}, ["blur", "grey"])
    assert len(names) == len(pictures) == 20
    assert names[1] == ("p0", "blur", "strong")
    table = evaluation.recall_by_family(
        names, {"ours": [name for name, *_ in names], "none": ["x"] * 20}
    )
    assert list(table.columns) == ["ours weak", "ours strong", "none weak", "none strong"]
    assert (table.loc["grey"].to_numpy() == [1, 1, 0, 0]).all()
    grid = {"grid": load_model("gist-grid")}
    made = evaluation.by_family(grid, photographs[:2], photographs[2:], {"weak": 0.0})
    assert made.loc["jpeg", "grid weak"] == 1
    assert evaluation.by_family(grid, [], photographs, {"weak": 0.0}).empty


def test_a_check_is_judged_with_and_without_views(tmp_path, photographs):
    from PIL import Image

    for name, image in {
        "refs/r1": photographs[0],
        "refs/r2": photographs[1],
        "refs/r3": photographs[2],
        "queries/q1": photographs[0][:, ::-1],
        "queries/q2": photographs[9],
    }.items():
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    (tmp_path / "t.csv").write_text("query_id,reference_id\nq1,r1\nq2,\n")
    where = [str(tmp_path / name) for name in ("queries", "refs", "t.csv")]
    check = read_check(*where)
    assert list(check.references) == ["r1", "r2", "r3"] and set(check.meta.ops) == {""}
    tables = evaluation.evaluate("grid", load_model("gist-grid"), check, ["mirror"], neighbours=1)
    assert set(tables) == {"grid", "grid normalised", "grid views", "grid views normalised"}
    figures = evaluation.compare_all(tables, check.truth)
    assert figures.loc["grid views", "micro_ap"] == 1
    assert tables["grid views"].score.max() > 0.99 > tables["grid"].score.max()
    (tmp_path / "t.csv").write_text("query_id,reference_id\nq9,r1\n")
    with pytest.raises(ValueError, match="have no file, first 'q9'"):
        read_check(*where)


def test_turned_queries_stand_apart():
    meta = pd.DataFrame({"query_id": ["q1", "q2", "q3"], "ops": ["hflip+crop", "crop", ""]})
    groups = evaluation.edit_groups(meta, TRUTH)
    assert groups["mirrored or turned"] == groups["hflip"] == ["q1"]
    assert groups["neither mirrored nor turned"] == ["q2"]
    assert list(groups)[-1] == "mirrored or turned"


@pytest.mark.parametrize("name", ["phash", "pdq"])
def test_hashes_serve_as_descriptors(name, photograph, other_photograph):
    pytest.importorskip({"phash": "imagehash", "pdq": "pdqhash"}[name])
    model = load_model(name)
    darker = (photograph * 0.8).astype(np.uint8)
    vectors = model.embed([photograph, darker, other_photograph])
    assert vectors.shape == (3, model.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    assert vectors[0] @ vectors[1] > 0.8 > vectors[0] @ vectors[2]
    assert model.embed([]).shape == (0, 256)
