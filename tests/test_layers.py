"""The house rules that a reader relies on: who may import whom, and calls that are banned."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "imgfp"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: A module may import from its own layer and from those above it in this list. Every module that is
#: not named is an operation on arrays and records.
OPERATIONS = {"operations"}
LAYERS = [
    {"datatypes"},
    {"images"},
    OPERATIONS,
    {"corpus", "store", "formats", "cluster", "params", "decisions"},
    {"stages"},
    {"training"},
    {"viz"},
    {"results", "report"},
    {"widgets"},
    {"run", "doctor", "__main__", "__init__"},
]
#: Each heavy library lives in these rooms only.
ROOMS = {
    "torch": {"architectures", "networks", "own_detectors", "training", "doctor"},
    "timm": {"architectures", "networks", "training"},
    "torchvision": {"training", "doctor"},
    "ultralytics": {"own_detectors", "training"},
    "onnxruntime": {"onnx_session", "training"},
    "faiss": {"index", "doctor"},
    "ipywidgets": {"widgets"},
    "papermill": {"run", "params"},
    "distributed": {"cluster"},
    "h5py": {"store", "formats"},
}
BANNED = {
    r"\bcv2\.im(read|write|decode)\b": "read through imgfp.images",
    r"\bpickle\b|\bjoblib\b": "no pickle",
    r"(?<![\w.])(eval|exec)\(": "no eval",
    r"os\.system|shell=True": "no shell",
    r"allow_pickle=True": "no pickle",
    r"(?<!torch\.)\bImage\.open\(": "read through imgfp.images",
    r"\.tofile\(|np\.memmap": "write through imgfp.store",
    r"mp\.Pool|multiprocessing\.Pool": "hangs when a worker dies",
}
ALLOWED = {
    ("images", r"(?<!torch\.)\bImage\.open\("),
    ("tones", r"\bcv2\.im(read|write|decode)\b"),  # bytes made a line before
    ("stages", r"\bcv2\.im(read|write|decode)\b"),  # the bare loop of the benchmark
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    found = [number for number, names in enumerate(LAYERS) if name in names]
    return found[0] if found else LAYERS.index(OPERATIONS)


def imports(path: Path) -> list[tuple[str, bool]]:
    """(dotted name, at module level) of every import."""
    tree = ast.parse(path.read_text("utf-8"))
    top = set(ast.walk(tree)) if not tree.body else {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(name.name, id(node) in top) for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name, id(node) in top) for name in names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    mine = layer(room(path))
    for name, _ in imports(path):
        parts = name.split(".")
        if parts[0] == "imgfp" and len(parts) > 1 and parts[1] != "__version__":
            assert layer(parts[1]) <= mine, f"{path.name} imports {name}, which lies above it"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_stay_in_their_rooms(path):
    for name, _ in imports(path):
        rooms = ROOMS.get(name.split(".")[0])
        assert rooms is None or room(path) in rooms, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_banned_calls(path):
    text = path.read_text("utf-8")
    code = "\n".join(ast.unparse(node) for node in ast.parse(text).body if not _is_text(node))
    for pattern, why in BANNED.items():
        if (room(path), pattern) not in ALLOWED:
            hit = re.search(pattern, code)
            assert not hit, f"{path.name}: {hit.group() if hit else ''}: {why}"


@pytest.mark.parametrize(
    "name", ["imgfp.evaluation", "imgfp.datatypes", "imgfp.crops", "imgfp.run"]
)
def test_import_is_light(name):
    import subprocess
    import sys

    heavy = ["torch", "timm", "ultralytics", "faiss", "onnxruntime", "papermill", "ipywidgets"]
    code = f"import sys, {name}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
