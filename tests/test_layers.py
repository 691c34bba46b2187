# SPDX-License-Identifier: AGPL-3.0-or-later
"""Rules that a reader relies on: which package may import which, where heavy libraries live, banned calls."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "imgfp"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: A package may import itself and packages of the lines above its own; packages of one line do not
#: know each other.
LAYERS = [
    {"urls", "confinement"},
    {"datatypes", "images", "geometry", "inference", "text"},
    {"decoding", "sift", "scoring", "edits"},
    {"evaluation"},  # former name of scoring.metrics
    {"crops", "descriptors", "search", "verify"},
    {"store", "viz"},
    {"runner", "demo"},
    {"stages", "training"},
    {"results", "benchmarks"},
    {"report", "exchange"},
    {"widgets"},
    {"lookup"},
    {"app"},
    {"__main__"},
]
#: Modules of a package (or of a package inside one), each may import those before it.
ORDER = {
    "app": ["sources", "answers", "views", "tuning", "duplicates", "shell", "pages", "server"],
    "benchmarks": [
        "speed",
        "capacity",
        "sample",
        "planning",
        "forecast",
        "estimators",
        "index_scale",
        "million",
        "keypoint_budget",
        "distractors",
        "collages",
        "relations",
        "edited_queries",
    ],
    "crops": [
        "boxes",
        "edges",
        "box_features",
        "ultralytics_models",
        "rule",
        "locate",
        "detectors",
    ],
    "demo": ["painting", "corpus"],
    "demo.painting": ["ingredients", "nature", "made", "printed", "flat"],
    "descriptors": [
        "base",
        "gist",
        "hashes",
        "onnx_models",
        "networks",
        "checkpoints",
        "registry",
        "views",
    ],
    "edits": [
        "drawing",
        "record",
        "geometric",
        "photometric",
        "compositing",
        "overlays",
        "families",
        "unseen",
    ],
    "report": [
        "figures",
        "evidence",
        "pairs",
        "parts",
        "answers",
        "tables",
        "page",
        "duplicates",
        "case_tables",
        "case",
        "robustness",
    ],
    "exchange": ["isc2021", "answers", "vectors", "tables", "coco", "fiftyone", "label_studio"],
    "results": [
        "files",
        "explain",
        "unfinished",
        "compare",
        "duplicates",
        "sheets",
        "summary",
        "previews",
        "tables",
        "replay",
        "sweep",
        "robustness",
    ],
    "runner": [
        "schema",
        "params",
        "project",
        "machine",
        "progress",
        "cluster",
        "doctor",
        "record",
        "notebooks",
        "serving",
    ],
    "scoring": ["metrics", "truth", "thresholds", "errors", "fusion", "relations"],
    "search": ["gpu", "blocks", "index", "plan", "voting", "normalisation", "propose"],
    "stages": [
        "certain",
        "inventory",
        "crops",
        "features",
        "descriptors",
        "identical",
        "index",
        "compaction",
        "search",
        "listed",
        "truth",
        "verification",
        "groups",
    ],
    "store": [
        "files",
        "arrays",
        "fetched",
        "layout",
        "locks",
        "provenance",
        "artefacts",
        "decisions",
        "integrity",
        "snapshots",
        "remote",
        "catalogue",
        "features",
        "groups",
        "formats",
        "isc2021",
    ],
    "training": [
        "onnx_export",
        "convert",
        "checkpoints",
        "crops",
        "descriptor",
        "calibration",
        "pairs",
        "worlds",
    ],
    "training.crops": ["network", "scene_edits", "scenes", "box_scorer", "detector", "evaluation"],
    "training.descriptor": [
        "data",
        "augmentation",
        "validation",
        "evaluation",
        "trainer",
        "whitening",
    ],
    "training.pairs": ["hard_negatives", "dataset", "classifier"],
    "verify": [
        "correlation",
        "matching",
        "differences",
        "view",
        "estimation",
        "refinement",
        "hypotheses",
        "classifier",
        "describe",
        "evidence",
    ],
    "viz": ["base", "bands", "charts", "pictures", "svg", "document"],
    "widgets": [
        "base",
        "crops",
        "votes",
        "inspector",
        "points",
        "parts",
        "thresholds",
        "tuner",
        "review",
    ],
}
#: Each heavy library is imported by these modules and packages only.
HEAVY = {
    "torch": {
        "descriptors.checkpoints",
        "descriptors.networks",
        "crops.ultralytics_models",
        "training",
        "runner.doctor",
    },
    "timm": {"descriptors.checkpoints", "descriptors.networks", "training"},
    "torchvision": {"training", "runner.doctor"},
    "ultralytics": {"crops.ultralytics_models", "training"},
    "onnxruntime": {"inference", "training", "runner.doctor"},
    "faiss": {"search.index", "search.gpu", "runner.doctor"},
    "ipywidgets": {"widgets"},
    "papermill": {"runner.notebooks", "runner.params"},
    "distributed": {"runner.cluster"},
    "h5py": {"store"},
}
BANNED = {
    r"\bcv2\.im(read|write|decode)\b": "read through imgfp.images",
    r"\bpickle\b|\bjoblib\b": "no pickle",
    r"(?<![\w.])(eval|exec)\(": "no eval",
    r"os\.system|shell=True": "no shell",
    r"allow_pickle=True": "no pickle",
    r"(?<!torch\.)\bImage\.open\(": "read through imgfp.images",
    r"\.tofile\(|np\.memmap": "write through imgfp.store",
    r"\bcv2\.magnitude\(": "rounds by where its operands lie in memory",
    r"mp\.Pool|multiprocessing\.Pool": "hangs when a worker dies",
}
ALLOWED = {
    ("images", r"(?<!torch\.)\bImage\.open\("),
    ("edits.photometric", r"\bcv2\.im(read|write|decode)\b"),  # bytes encoded one line before
    ("benchmarks.speed", r"\bcv2\.im(read|write|decode)\b"),  # the bare loop of the benchmark
}


def dotted(path: Path) -> str:
    """Name of a module inside the package, blank for the package itself."""
    return (
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        .removesuffix("__init__")
        .strip(".")
    )


NAMES = {dotted(path): path for path in MODULES}


def imports(path: Path) -> list[str]:
    """Dotted name of every import, also inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: import by full name, not relative"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def own_imports(path: Path) -> set[str]:
    """Modules of the package that a module imports, without the package itself."""
    parts = [name.split(".")[1:] for name in imports(path) if name.startswith("imgfp.")]
    found = set()
    for part in parts:
        while part and ".".join(part) not in NAMES:
            part = part[:-1]
        found.add(".".join(part))
    return found - {"", dotted(path)}


def layer(name: str) -> int:
    found = [number for number, names in enumerate(LAYERS) if name.split(".")[0] in names]
    assert found, f"{name} stands in no layer: give its package a line of LAYERS"
    return found[0]


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_packages_import_only_those_above_them(name):
    for other in own_imports(NAMES[name]):
        if other.split(".")[0] != name.split(".")[0]:
            assert layer(other) < layer(name), f"{name} imports {other}, which is not above it"


@pytest.mark.parametrize("package", ORDER)
def test_modules_of_a_package_have_an_order(package):
    order, here = ORDER[package], f"{package}."
    held = {name[len(here) :].split(".")[0] for name in NAMES if name.startswith(here)}
    assert held == set(order), "name every module of the package in ORDER, and no other"
    for place, module in enumerate(order):
        below = [
            name for name in NAMES if name == here + module or name.startswith(here + module + ".")
        ]
        for name in below:
            inside = [
                x[len(here) :].split(".")[0] for x in own_imports(NAMES[name]) if x.startswith(here)
            ]
            late = set(inside) - set(order[: place + 1])
            assert not late, f"{name} imports {late}, which come after it"


def test_every_package_has_an_order():
    packages = {dotted(path) for path in MODULES if path.name == "__init__.py"} - {""}
    assert packages == set(ORDER)


def test_no_circle_anywhere():
    graph = {name: own_imports(path) for name, path in NAMES.items() if name}
    # A package's face imports its modules; a module that imports the face would be a circle.
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_every_file_names_its_licence():
    line = "# SPDX-License-Identifier: AGPL-3.0-or-later\n"
    for folder in (PACKAGE, PACKAGE.parent / "tests", PACKAGE.parent / "docs"):
        for path in folder.rglob("*.py"):
            text = path.read_text("utf-8")
            assert not text.strip() or text.startswith(line), path


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_heavy_libraries_stay_in_their_modules(name):
    for other in imports(NAMES[name]):
        allowed = HEAVY.get(other.split(".")[0])
        if allowed is not None:
            assert any(name == one or name.startswith(f"{one}.") for one in allowed), other


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_banned_calls(name):
    text = NAMES[name].read_text("utf-8")
    code = "\n".join(ast.unparse(node) for node in ast.parse(text).body if not _is_text(node))
    for pattern, why in BANNED.items():
        if (name, pattern) not in ALLOWED:
            hit = re.search(pattern, code)
            assert not hit, f"{name}: {hit.group() if hit else ''}: {why}"


@pytest.mark.parametrize(
    "name",
    ["imgfp.scoring.metrics", "imgfp.datatypes", "imgfp.crops.detectors", "imgfp.runner.notebooks"],
)
def test_import_is_light(name):
    heavy = ["torch", "timm", "ultralytics", "faiss", "onnxruntime", "papermill", "ipywidgets"]
    code = f"import sys, {name}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
