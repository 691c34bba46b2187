# SPDX-License-Identifier: AGPL-3.0-or-later
"""Parameter files: YAML 1.2, flat, checked, with the nearest right name."""

from __future__ import annotations

import os
import sys

import pytest

from imgfp import store
from imgfp.runner import params
from imgfp.runner.params import Declared, ParameterError
from imgfp.runner.schema import Parameters
from imgfp.scoring import fusion
from imgfp.stages import search, verification

KNOWN = {
    "match_ratio": Declared("match_ratio", "float", "1.8", ""),
    "max_crops": Declared("max_crops", "int", "1", ""),
    "truth": Declared("truth", "str", '""', ""),
    "views": Declared("views", "list[str]", "[]", ""),
    "mirrored": Declared("mirrored", "bool", "True", ""),
}


def written(tmp_path, text: str):
    path = tmp_path / "p.yaml"
    path.write_text(text, "utf-8")
    return path


def test_empty_file_is_no_parameters(tmp_path):
    assert params.read_profile(written(tmp_path, "# nothing\n")) == {}


def test_numbers_are_yaml_1_2(tmp_path):
    text = "a: 1e-3\nb: 5E-1\nc: 1e6\nd: 010\ne: 12:30\nf: no\n"
    values = params.read_profile(written(tmp_path, text))
    assert values == {"a": 1e-3, "b": 0.5, "c": 1e6, "d": 10, "e": "12:30", "f": "no"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2\n", "line 2.*duplicate"),
        ("a: {b: 1}\n", "flat"),
        ("- a\n", "name: value"),
        ("a: [1\n", "line"),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine"),
        ("a: " + "x" * 300_000, "larger than"),
    ],
)
def test_bad_files_say_where(tmp_path, text, says):
    with pytest.raises(ParameterError, match=says):
        params.read_profile(written(tmp_path, text))


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ParameterError, match="'match_ration'; did you mean 'match_ratio'"):
        params.check({"match_ration": 2.0}, KNOWN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("match_ratio", "1.8"),
        ("match_ratio", True),
        ("max_crops", 1.5),
        ("max_crops", True),
        ("truth", None),
        ("views", "whole"),
        ("views", [1]),
        ("mirrored", 1),
    ],
)
def test_wrong_types_are_refused(name, value):
    with pytest.raises(ParameterError, match=f"'{name}' must be"):
        params.check({name: value}, KNOWN)


def test_whole_number_serves_as_float():
    assert params.check({"match_ratio": 2}, KNOWN) == {"match_ratio": 2.0}


def test_command_line_values_follow_the_declared_type():
    values = params.override(
        ["truth=007", "max_crops=3", "match_ratio=1e-1", "views=[a, b]"], KNOWN
    )
    assert values == {"truth": "007", "max_crops": 3, "match_ratio": 0.1, "views": ["a", "b"]}
    with pytest.raises(ParameterError, match="name=value"):
        params.override(["oops"], KNOWN)


def test_a_value_that_is_no_choice_is_refused_with_the_nearest(tmp_path):
    fusion = Declared("fusion", "str", '"calibrated"', "")
    run, library = store.Run(tmp_path), store.Library(tmp_path)
    with pytest.raises(
        ParameterError, match="'fusion': expected calibrated or sum, got 'calibrat'"
    ):
        params.check({"fusion": "calibrat"}, {"fusion": fusion})
    said = "'candidates_scored': expected all or accepted, got 'acepted'; did you mean 'accepted'"
    with pytest.raises(ParameterError, match=said):
        verification.verify_pairs(run, library, candidates_scored="acepted")
    settings = {"nprobe": 1, "neighbours": 1, "candidates": 1, "ratio": 1.0}
    for name, mistake in (("rule", "robsut"), ("variants", ["plian"])):
        right = {"rule": "seed", "variants": ["plain"]}
        with pytest.raises(ParameterError, match=r"did you mean '(robust|plain)'"):
            search.votes_of(run.local_features, library, "q", **settings, **right | {name: mistake})


def test_values_are_written_beside_comments_and_new_ones_get_their_meaning(tmp_path):
    path = written(tmp_path, "# page\nmatch_ratio: 1.8  # squared\nmax_crops: 1\n")
    params.write_values(path, {"match_ratio": 1.5, "seed": 2})
    kept = "# page\nmatch_ratio: 1.5  # squared\nmax_crops: 1\n"
    assert path.read_text() == f"{kept}seed: 2 # of every random choice\n"
    params.write_values(tmp_path / "new.yaml", {"max_crops": 2})
    assert params.read_profile(tmp_path / "new.yaml") == {"max_crops": 2}


def test_former_names_and_words_are_translated_with_a_warning(tmp_path, capsys):
    path = written(tmp_path, "local_readings: [plain, inverted]\npair_judge: mine.onnx\n")
    assert params.read_profile(path) == {
        "descriptor_variants": ["plain", "contrast_reversed"],
        "pair_classifier": "mine.onnx",
    }
    said = capsys.readouterr().err
    assert "'pair_judge' is now 'pair_classifier'" in said
    assert "descriptor_variants: 'inverted' is now 'contrast_reversed'" in said
    with pytest.raises(ParameterError, match="'pair_judge' is the former name of"):
        params.read_profile(written(tmp_path, "pair_judge: a\npair_classifier: b\n"))
    known = {"pair_classifier": Declared("pair_classifier", "str", '""', "")}
    assert params.override(["pair_judge=007"], known) == {"pair_classifier": "007"}


def test_no_name_is_both_former_and_present():
    assert not set(params.RENAMED) & set(Parameters.model_fields)
    assert set(params.RENAMED.values()) <= set(Parameters.model_fields)
    named = {*params.FILES, *params.FOLDERS}
    assert named <= set(Parameters.model_fields)


def test_files_and_folders_are_there_before_anything_starts(tmp_path):
    params.check_files({"truth": "", "crop_detector": "classical", "reference_dir": str(tmp_path)})
    for name, what in (("truth", "file"), ("query_dir", "folder or file")):
        with pytest.raises(FileNotFoundError, match=f"{name}: there is no {what} .*absent"):
            params.check_files({name: str(tmp_path / "absent")})
    params.check_files({"truth": str(tmp_path / "absent")}, made=["truth"])
    with pytest.raises(FileNotFoundError, match="truth: there is no file"):
        params.check_files({"truth": str(tmp_path)})


def test_a_detector_is_a_name_a_folder_or_a_file_that_can_be_loaded(tmp_path, monkeypatch):
    folder = tmp_path / "detector"
    folder.mkdir()
    with pytest.raises(ParameterError, match=r"^crop_detector: .*lacks crop_detector\.onnx"):
        params.check_files({"crop_detector": str(folder)})
    for name in ("crop_detector.onnx", "box_scorer.onnx"):
        (folder / name).touch()
    params.check_files({"crop_detector": str(folder)})
    with pytest.raises(ParameterError, match=r"^crop_detector: .*absent\.onnx does not exist"):
        params.check_files({"crop_detector": str(tmp_path / "absent.onnx")})
    (tmp_path / "own.pt").touch()
    with pytest.raises(ParameterError, match=r"^crop_detector: .*can run code.*imgfp convert"):
        params.check_files({"crop_detector": str(tmp_path / "own.pt")})
    (tmp_path / "own.safetensors").touch()
    monkeypatch.setitem(sys.modules, "ultralytics", None)  # as if it were not installed
    with pytest.raises(ParameterError, match=r"^crop_detector: .*pip install 'imgfp\[train\]'"):
        params.check_files({"crop_detector": str(tmp_path / "own.safetensors")})


@pytest.mark.parametrize("name", ["fusion_model", "descriptor_weights", "crop_detector"])
def test_a_damaged_model_that_imgfp_wrote_is_refused(tmp_path, name):
    path = tmp_path / "own.onnx"
    content = fusion.to_json(fusion.load_model()).encode() if name == "fusion_model" else b"weights"
    store.write_sealed(path, content)
    params.check_files({name: str(path)})
    path.write_bytes(content[:-1] + b"y")
    with pytest.raises(
        store.StoreError, match=r"own\.onnx is not as it was written; make it again"
    ):
        params.check_files({name: str(path)})


@pytest.mark.parametrize("name", ["pair_classifier", "init_weights", "start_weights"])
def test_a_file_that_can_run_code_is_refused_before_anything_starts(tmp_path, name):
    (tmp_path / "own.pt").touch()
    with pytest.raises(ParameterError, match=rf"^{name}: .*own\.pt: .*can run code.*imgfp convert"):
        params.check_files({name: str(tmp_path / "own.pt")})


def test_a_parameter_that_was_removed_is_told_with_what_takes_its_place():
    with pytest.raises(
        ParameterError, match=r"'trust_pt'; convert the \.pt file once: imgfp convert"
    ):
        params.check({"trust_pt": True}, {})


def test_relative_paths_count_from_the_project_root(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    (tmp_path / "own.onnx").touch()
    params.check_files({"crop_detector": "own.onnx", "pair_classifier": "own.onnx"})
    assert store.located("own.onnx") == str(tmp_path / "own.onnx")
    assert (store.located(""), store.located("none", ("none",))) == ("", "none")


def test_a_descriptor_model_has_its_weights_and_packages(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    both = [tmp_path / "backbone.safetensors", tmp_path / "head.safetensors"]
    for path in both:
        path.touch()
    weights = {"descriptor_model": "esvit-swin-b"}
    params.check_files(weights | {"descriptor_weights": os.pathsep.join(map(str, both))})
    with pytest.raises(FileNotFoundError, match=r"descriptor_weights: there is no file .*absent"):
        params.check_files(weights | {"descriptor_weights": f"{both[0]}{os.pathsep}absent"})
    with pytest.raises(ParameterError, match=r"^descriptor_model: .*needs a weights file"):
        params.check_files(weights)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ParameterError, match=r"needs timm.*pip install 'imgfp\[torch\]'"):
        params.check_files({"descriptor_model": "resnet50"})
    params.check_files({"descriptor_model": "imgfp"})
    params.check_files({"descriptor_model": "gist-grid"})


def test_a_fusion_model_of_another_descriptor_is_refused_before_anything_starts(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(fusion.to_json(fusion.load_model()))  # fitted with "imgfp"
    values = {"fusion_model": str(path), "descriptor_model": "gist-grid"}
    with pytest.raises(ParameterError, match=r"^fusion_model: .*vectors of imgfp .* of gist-grid"):
        params.check_files(values)
    for fits in ({"descriptor_model": "imgfp"}, {"fusion": "sum"}):
        params.check_files(values | fits)


def test_an_extra_that_a_notebook_needs_is_named(monkeypatch):
    monkeypatch.setitem(params.EXTRAS, "train", ("a_module_that_is_nowhere",))
    said = r"notebook 20_train needs a_module_that_is_nowhere.*pip install 'imgfp\[train\]'"
    with pytest.raises(ParameterError, match=said):
        params.check_extras({"20_train": "train"})


@pytest.mark.parametrize(("by_torch", "by_faiss"), [(0, 0), (1, 0), (0, 2)])
def test_a_device_that_no_library_sees_is_refused(monkeypatch, by_torch, by_faiss):
    monkeypatch.setattr(params, "torch_gpus", lambda: by_torch)
    monkeypatch.setattr("imgfp.search.gpu.gpus", lambda: by_faiss)
    for device in ("auto", "cpu"):
        params.check_files({"device": device})
    seen = max(by_torch, by_faiss)
    for number in range(seen):
        params.check_files({"device": f"cuda:{number}"})
    told = (
        f"device: cuda:{seen} is not there; torch sees {by_torch} CUDA devices, Faiss {by_faiss};"
    )
    with pytest.raises(ParameterError, match=told):
        params.check_files({"device": f"cuda:{seen}"})


def test_the_former_name_of_the_device_is_taken_with_a_warning(capsys):
    assert params.renamed({"descriptor_device": "cuda"}) == {"device": "cuda"}
    assert "'descriptor_device' is now 'device'" in capsys.readouterr().err


def test_urls_are_checked_before_the_first_stage(tmp_path):
    (tmp_path / "a.csv").write_text("image_id,path\n")
    (tmp_path / "a.jpg").touch()
    for name in ("reference_dir", "query_dir"):
        params.check_files({name: f"file://{tmp_path}"})
        params.check_files({name: f"file://{tmp_path}/a.csv"})
        with pytest.raises(
            FileNotFoundError, match=rf"^{name}: file://.*gone: there is no .*the URL$"
        ):
            params.check_files({name: f"file://{tmp_path}/gone"})
        with pytest.raises(
            ParameterError, match=rf"^{name}: file://.*a.jpg: is a file; give a folder"
        ):
            params.check_files({name: f"file://{tmp_path}/a.jpg"})
    params.check_files({"library_dir": "memory://shelf/not-yet-asked-for"})
    for name in ("reference_dir", "library_dir", "run_dir", "truth"):
        with pytest.raises(ParameterError, match=rf"^{name}: .*holds a password") as told:
            params.check_files({name: "s3://key:hunter2@bucket/x"})
        assert "hunter2" not in str(told.value)
    for name in ("run_dir", "photo_dir", "truth"):
        with pytest.raises(ParameterError, match=rf"^{name}: memory://x is a URL; give a local or"):
            params.check_files({name: "memory://x"})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"crop_scores_file": "here.txt", "fusion": "calibrated"}, "set fusion: sum"),
        ({"local_crop_list": "here.txt"}, "give local_crops_dir, too"),
        ({"query_list": "here.txt", "query_dir": ""}, "images of query_dir"),
    ],
)
def test_files_in_place_of_stages_fit_each_other(tmp_path, monkeypatch, values, said):
    (tmp_path / "here.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match=said):
        params.check_files(values)
