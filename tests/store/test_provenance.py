# SPDX-License-Identifier: AGPL-3.0-or-later
"""An artefact knows the code that made it: an edit makes it stale, a move or a rename does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import made_with

import imgfp
from imgfp import store
from imgfp.stages.features import extract_features
from imgfp.stages.inventory import inspect_files
from imgfp.store import provenance

#: Computes one shard of local features of one picture through the product's own map, and says how many
#: pictures were computed.
SHARD = """
import sys
from pathlib import Path
from imgfp.runner import cluster
from imgfp.stages.features import extract_features
if __name__ == "__main__":
    task = cluster.Task(
        Path(sys.argv[1]) / "shard-00000.h5", ("x",),
        {"images": [{"image_id": "x", "path": sys.argv[2]}]}, 1,
    )
    print(cluster.map_shards(extract_features, [task], {"short_side_px": 64}, workers=1).computed)
"""


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the package that a test may edit."""
    source = Path(imgfp.__file__).parent
    skipped = shutil.ignore_patterns("__pycache__", "weights", "painting")
    shutil.copytree(source, tmp_path / "copy/imgfp", ignore=skipped)
    return tmp_path / "copy/imgfp"


def run(package: Path, code: str, *words: str) -> str:
    (package.parent / "script.py").write_text(code)
    place = os.environ | {"PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, str(package.parent / "script.py"), *words],
        env=place, cwd=package.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("\n")[-1]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path.name} no longer holds {old!r}"
    path.write_text(text.replace(old, new))


def test_an_edited_constant_computes_a_shard_again_and_a_renamed_module_reuses_it(
    package, tmp_path, photograph
):
    from PIL import Image

    Image.fromarray(photograph).save(tmp_path / "x.png")
    words = str(tmp_path / "library"), str(tmp_path / "x.png")
    assert run(package, SHARD, *words) == "1"
    assert run(package, SHARD, *words) == "0"
    # The module gets another name, and all who import it follow.
    (package / "sift.py").rename(package / "rootsift.py")
    for path in package.rglob("*.py"):
        text = path.read_text().replace("imgfp.sift", "imgfp.rootsift")
        text = text.replace("from imgfp import sift", "from imgfp import rootsift")
        path.write_text(text.replace("sift.", "rootsift."))
    assert run(package, SHARD, *words) == "0"
    edit(package / "rootsift.py", "255", "254")
    assert run(package, SHARD, *words) == "1"


HASH = """
from imgfp.stages.verification import score_pairs
from imgfp.store.provenance import code_hash
print(code_hash(score_pairs))
"""


def test_what_changes_the_code_and_what_does_not(package):
    before = run(package, HASH)
    correlation = package / "verify/correlation.py"
    text = correlation.read_text()
    for same in (
        text + "\n\ndef unused() -> int:\n    return 1\n",
        text.replace('"""', '"""Other words. ', 1),
        "# a comment\n" + text,
        text.replace(" -> np.ndarray:", " -> object:"),
    ):
        assert same != text
        correlation.write_text(same)
        assert run(package, HASH) == before
    correlation.write_text(text)
    edit(correlation, "NCC_INLIER = 0.7", "NCC_INLIER = 0.95")
    assert run(package, HASH) != before
    correlation.write_text(text)
    edit(package / "store/artefacts.py", "ROW_GROUP = 32", "ROW_GROUP = 64")
    edit(package / "runner/cluster.py", "60s", "90s")
    assert run(package, HASH) == before


def test_code_counts_through_modules_handed_on_and_methods(package):
    (package / "handed.py").write_text(
        "from imgfp import geometry\n\n\ndef other():\n    return 1\n\n\n"
        "class Thing:\n    def work(self):\n        return ask(geometry)\n\n\n"
        "def ask(module):\n    return module.project\n\n\ndef top():\n    return Thing().work()\n"
    )
    code = "from imgfp.handed import top\nfrom imgfp.store.provenance import code_hash\nprint(code_hash(top))"
    before = run(package, code)
    edit(package / "geometry.py", "projected[:, 2:]", "projected[:, 2:] + 1")
    changed = run(package, code)
    assert changed != before
    edit(package / "handed.py", "return 1", "return 2")
    assert run(package, code) == changed, "a definition that nobody reaches"


def test_an_artefact_of_version_0_1_is_as_good_as_the_code_of_then(tmp_path, monkeypatch):
    """0.1.0 kept the name of the function and no code hash; files by it stay valid after the move."""
    path = tmp_path / "x.json"
    store.save(path, [1], made_with("i", a=1))
    sidecar = path.with_name("x.json.json")
    described = json.loads(sidecar.read_text())
    for name in ("kind", "code", "seal"):
        del described[name]
    sidecar.write_text(json.dumps(described | {"maker": "test", "version": 1}))
    wanted = made_with("i", a=1)
    assert store.what_differs(path, wanted) == "the code that makes it has changed"
    equal = tmp_path / "equal.json"
    equal.write_text(json.dumps({"test": {"now": wanted.code, "equal": ["0.1.0"]}}))
    monkeypatch.setattr(provenance, "_EQUAL_CODE", equal)
    provenance._equal_code.cache_clear()
    assert store.is_current(path, wanted)
    assert not store.is_current(path, made_with("i", a=2))
    equal.write_text(json.dumps({"test": {"now": "edited since", "equal": ["0.1.0"]}}))
    provenance._equal_code.cache_clear()
    assert not store.is_current(path, wanted)
    provenance._equal_code.cache_clear()


def test_equal_code_is_of_the_present_code():
    """Fails after every change of code that a library's artefacts are made by, so that somebody decides.

    Results changed: remove the kind from equal_code.json, its artefacts will be made again. Not one byte
    changed: put the hash of now into "now" and the former one among "equal".
    """
    from imgfp.stages import descriptors

    makers = (inspect_files, extract_features, descriptors.describe)
    present = {maker.kind.name: provenance.code_hash(maker) for maker in makers}
    listed = json.loads(provenance._EQUAL_CODE.read_text())
    assert {kind: entry["now"] for kind, entry in listed.items()} == {
        kind: present[kind] for kind in listed
    }


def test_a_function_without_a_kind_is_refused():
    with pytest.raises(TypeError, match="makes no kind of artefact"):
        store.origin(test_a_function_without_a_kind_is_refused, {})
