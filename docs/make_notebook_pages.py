# SPDX-License-Identifier: AGPL-3.0-or-later
"""Write the executed notebooks of the demo run as pages of docs/notebooks, with their pictures.

    .venv/bin/python docs/make_notebook_pages.py [run folder]

`make docs` builds the site of the documentation from them. Of a widget, which needs a kernel, its sentence remains.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs/notebooks"
WIDEST_PX = 1000
#: A line that a progress bar has left behind.
PROGRESS = re.compile(r"^.*\d%\|.*\n?", re.MULTILINE)


def main(run_dir: str = "runs/demo") -> None:
    """Write every page and its pictures into docs/notebooks."""
    shutil.rmtree(PAGES, ignore_errors=True)
    executed = sorted((Path(run_dir) / "notebooks").glob("[0-9]*.ipynb"))
    for path in executed:
        write(path, PAGES)
    print(f"{len(executed)} pages, {sum(f.stat().st_size for f in PAGES.iterdir()) / 1e6:.1f} MB")


def write(path: Path, folder: Path) -> Path:
    """Write the page of an executed notebook, and its pictures beside it, into `folder`."""
    exporter = MarkdownExporter()
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    text, resources = exporter.from_notebook_node(
        without_noise(nbformat.read(path, as_version=4)),
        resources={"unique_key": path.stem, "output_files_dir": ""},
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in resources["outputs"].items():
        small = Path(name).with_suffix(".webp").name
        (folder / small).write_bytes(shrunk(data))
        text = text.replace(name, small)
    # What pandas writes for a browser: its style is dropped by code hosts, its indices are noise.
    text = re.sub(r"<style scoped>.*?</style>\n?", "", text, flags=re.DOTALL)
    page = folder / f"{path.stem}.md"
    page.write_text(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", "utf-8")
    return page


#: Kinds of output that a page can show, best first.
SHOWN = ["image/png", "image/jpeg", "text/html", "text/markdown", "text/plain"]


def without_noise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without progress bars, widgets and the parameters that the runner has injected."""
    kept = []
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_noise(output)]
            for output in cell.outputs:
                if output.output_type == "stream":
                    output.text = PROGRESS.sub("", output.text)
                elif data := output.get("data"):
                    best = next(kind for kind in (*SHOWN, *data) if kind in data)
                    output.data = {best: data[best]}
        kept.append(cell)
    notebook.cells = kept
    return notebook


def is_noise(output: nbformat.NotebookNode) -> bool:
    """Whether an output tells a reader nothing: it is a progress bar or the stub of a widget."""
    if output.output_type == "stream":
        return output.name == "stderr"
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def shrunk(data: bytes) -> bytes:
    """A picture as WebP, at most WIDEST_PX wide."""
    with Image.open(io.BytesIO(data)) as image:
        picture = image.convert("RGB")
    picture.thumbnail((WIDEST_PX, 10 * WIDEST_PX))
    file = io.BytesIO()
    picture.save(file, "webp", quality=80, method=6)
    return file.getvalue()


if __name__ == "__main__":
    main(*sys.argv[1:])
