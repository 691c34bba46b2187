"""Is this installation sound? Each check prints one line, and what to do where it fails."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

#: Wheels that install into one folder: two of a group overwrite each other silently.
RIVALS = (
    (
        "opencv-python",
        "opencv-python-headless",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    ),
    ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs"),
)
#: Python, torch and Faiss together; below this a run of the demo may be killed.
MIN_FREE_GIB = 2


def checks() -> list[tuple[bool, str, str]]:
    """Rows of (sound, what was looked at, what to do otherwise)."""
    rows = [
        (
            sys.version_info[:2] == (3, 11),
            f"Python {sys.version.split()[0]}",
            "make a Python 3.11 environment: make setup",
        )
    ]
    for group in RIVALS:
        there = _builds(group)
        rows.append(
            (
                len(there) <= 1,  # whether it loads is looked at below
                f"no two of {group[0].split('-')[0]}: {', '.join(there) or 'not from a wheel'}",
                f"uninstall all of {', '.join(group)}, then run make setup",
            )
        )
    rows += [_opencv(), _pillow(), _faiss(), _torch(), _memory(), _weights()]
    return rows


def report() -> int:
    """Print every check; returns 0 when all are sound, else 1."""
    rows = checks()
    for sound, what, remedy in rows:
        print(f"{'ok  ' if sound else 'BAD '} {what}" + ("" if sound else f"\n     -> {remedy}"))
    return 0 if all(sound for sound, _, _ in rows) else 1


def _builds(group: tuple[str, ...]) -> list[str]:
    """Which of these wheels are installed; what conda brought counts as one, under whatever names."""
    wheels, from_conda = [], []
    for name in group:
        try:
            installer = importlib.metadata.distribution(name).read_text("INSTALLER") or ""
        except importlib.metadata.PackageNotFoundError:
            continue
        # conda-forge's OpenCV answers to two names; its installer file says conda or cmake.
        (from_conda if installer.strip() in ("conda", "cmake") else wheels).append(name)
    return wheels + ([f"conda's {' and '.join(from_conda)}"] if from_conda else [])


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
    except ImportError as error:
        return False, f"Faiss does not load: {error}", "pip install faiss-cpu"
    return True, f"Faiss {faiss.__version__}, {faiss.get_num_gpus()} GPUs", ""


def _torch() -> tuple[bool, str, str]:
    try:
        import torch
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:
        return False, f"torch does not load: {error}", "make setup (one build of both packages)"
    gpu = "a GPU" if torch.cuda.is_available() else "no GPU"
    return True, f"torch {torch.__version__}, torchvision {torchvision.__version__}, {gpu}", ""


def _memory() -> tuple[bool, str, str]:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    return (
        min(free, disk) >= MIN_FREE_GIB,
        f"{os.cpu_count()} cores, {free:.1f} GiB of memory and {disk:.1f} GiB of disk free",
        f"free at least {MIN_FREE_GIB} GiB of each",
    )


def _weights() -> tuple[bool, str, str]:
    from imgfp.inference import SHIPPED

    folder = SHIPPED
    names = [
        "crop_detector.onnx",
        "box_scorer.onnx",
        "descriptor.safetensors",
        "fusion.json",
        "pair_classifier.onnx",
    ]
    missing = [name for name in names if not (folder / name).is_file()]
    return (
        not missing,
        f"shipped weights{': missing ' if missing else ''}{', '.join(missing)}",
        ("reinstall imgfp, or name other models in the parameter file"),
    )
