# SPDX-License-Identifier: AGPL-3.0-or-later
"""Draw docs/pictures/architecture.svg and write the list of modules in docs/architecture.md.

    .venv/bin/python docs/make_architecture.py

Both come from the package itself: its imports, and the first sentence of each module's docstring. Rows are the LAYERS of tests/test_layers.py, the lowest layer at the bottom. An arrow points to a
package that is imported. Arrows implied by a chain of others are left out (transitive reduction).
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterable
from itertools import accumulate, pairwise
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from test_layers import LAYERS, NAMES, ORDER, own_imports  # noqa: E402

PICTURE = ROOT / "docs/pictures/architecture.svg"
PAGE = ROOT / "docs/architecture.md"
#: The list of modules on the page stands between these two marks.
TREE = re.compile(
    r"(?<=<!-- tree: written by docs/make_architecture.py -->\n).*(?=<!-- /tree -->)", re.S
)
#: What each package is for, in two short lines.
ROLES = {
    "urls": ("objects by fsspec URL", ""),
    "confinement": ("processes that can", "write no file"),
    "datatypes": ("records, table schemas", ""),
    "text": ("names and numbers", "as people read them"),
    "images": ("decoding of bytes,", "resizing, folders"),
    "decoding": ("untrusted files, in a", "process of its own"),
    "geometry": ("points and areas under", "a homography"),
    "inference": ("shipped weights,", "ONNX sessions"),
    "sift": ("keypoints, RootSIFT,", "mirrored variants"),
    "scoring": ("fusion, metrics,", "thresholds, errors"),
    "edits": ("seeded edits with", "exact geometry"),
    "crops": ("detect images pasted", "inside a query"),
    "descriptors": ("one vector per image:", "networks, hashes"),
    "search": ("Faiss index, voting,", "normalisation"),
    "verify": ("homography, block NCC,", "pair classifier"),
    "store": ("artefacts written whole,", "fingerprints, locks"),
    "viz": ("figures, match lines,", "SVG"),
    "runner": ("parameters, notebooks,", "Dask"),
    "demo": ("demo corpus with", "known truth"),
    "stages": ("what notebooks 01-08", "do to one shard"),
    "training": ("training, calibration", "(notebooks 20-23)"),
    "results": ("a finished run,", "read and explained"),
    "benchmarks": ("speed, estimators,", "capacity"),
    "report": ("pages, case files", ""),
    "exchange": ("a run in the files", "of other systems"),
    "widgets": ("browsers in notebook 10", ""),
    "lookup": ("pictures looked up", "in one process"),
    "app": ("runs and libraries", "as an application"),
    "__main__": ("the command line", ""),
}
FORMER_NAMES = {"evaluation"}
WIDTH, BOX_W, BOX_H, LANE, GAP, PITCH, MARGIN = 1000, 176, 64, 14, 24, 108, 22
#: Of the boxes of a row and of the arrows that leave them.
COLOURS = (
    ("#e8eef7", "#5f7fae"),
    ("#e3f0ee", "#3f8f86"),
    ("#eef3e2", "#7c9a3c"),
    ("#f8f0dd", "#b98a2c"),
    ("#f9e8df", "#c0693c"),
    ("#f5e4ea", "#b25577"),
    ("#ebe6f5", "#7b65b3"),
)
FONT = "font-family=\"'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif\""

Node = str | tuple[str, str, int]  # a package, or the place where an arrow crosses a row


def package_imports() -> dict[str, set[str]]:
    """Packages that each package imports, without arrows implied by a chain of others."""
    graph: dict[str, set[str]] = {name: set() for name in ROLES}
    for name, path in NAMES.items():
        package = name.split(".")[0]
        if package and package not in FORMER_NAMES:
            graph[package] |= {other.split(".")[0] for other in own_imports(path)} - {package}

    def below(name: str) -> set[str]:
        return graph[name].union(*(below(other) for other in graph[name]))

    reachable = {name: below(name) for name in graph}
    return {
        name: {one for one in others if not any(one in reachable[two] for two in others)}
        for name, others in graph.items()
    }


def draw() -> str:
    """The SVG as text; the same imports give the same bytes."""
    rows = [sorted(names - FORMER_NAMES) for names in LAYERS if names - FORMER_NAMES]
    row_of = {name: number for number, names in enumerate(rows) for name in names}
    chains = [
        [name, *((name, other, r) for r in range(row_of[name] - 1, row_of[other], -1)), other]
        for name, others in sorted(package_imports().items())
        for other in sorted(others)
    ]
    x = place([list(names) for names in rows], chains, row_of)
    y = {name: MARGIN + PITCH * (len(rows) - 1 - row) for name, row in row_of.items()}
    height = 2 * MARGIN + PITCH * (len(rows) - 1) + BOX_H
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        f' height="{height}" {FONT}>',
        "<title>Packages of imgfp and their imports</title>",
        "<defs>",
        *(
            f'<marker id="tip{number}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
            f' markerHeight="7" orient="auto"><path d="M0 0.6L8 4L0 7.4z" fill="{line}"/></marker>'
            for number, (_, line) in enumerate(COLOURS)
        ),
        "</defs>",
        f'<rect width="{WIDTH}" height="{height}" rx="14" fill="#ffffff"/>',
    ]
    for row in range(len(rows)):
        top = MARGIN + PITCH * (len(rows) - 1 - row) - 9
        parts.append(
            f'<rect x="10" y="{top}" width="{WIDTH - 20}" height="{BOX_H + 18}" rx="10"'
            ' fill="#f6f7f9"/>'
        )
    for chain in chains:
        parts.append(arrow(chain, chains, x, y, row_of[str(chain[0])] % len(COLOURS)))
    for name, row in row_of.items():
        parts.append(box(name, x[name], y[name], COLOURS[row % len(COLOURS)][0]))
    return "\n".join([*parts, "</svg>"]) + "\n"


def place(
    rows: list[list[Node]], chains: list[list[Node]], row_of: dict[str, int]
) -> dict[Node, float]:
    """Centre x of every node: few crossings first, then straight arrows.

    rows: packages of each layer, the lowest first; arrows that cross a row get a lane in it.
    """
    for chain in chains:
        for node in chain:
            if isinstance(node, tuple):
                rows[node[2]].append(node)
    near: dict[Node, list[Node]] = {node: [] for row in rows for node in row}
    for chain in chains:
        for upper, lower in pairwise(chain):
            near[upper].append(lower)
            near[lower].append(upper)
    x = {node: at for row in rows for node, at in spread(row, [WIDTH / 2] * len(row)).items()}
    best, fewest = x, float("inf")
    for sweep in range(90):
        for row in rows if sweep % 2 else rows[::-1]:
            wanted = {node: mean_neighbour(node, near[node], x) for node in row}
            if sweep < 30:
                row.sort(key=lambda node: (wanted[node], str(node)))
            x |= spread(row, [wanted[node] for node in row])
        length = sum(abs(x[a] - x[b]) for a in near for b in near[a])
        cost = crossings(chains, x, row_of) + length / 1e6
        if cost < fewest:
            best, fewest = dict(x), cost
    return best


def mean_neighbour(node: Node, near: list[Node], x: dict[Node, float]) -> float:
    """Mean x of the neighbours; those that are lanes count more, so that long arrows are straight."""
    weights = [pull(node) * pull(other) for other in near]
    total = sum(w * x[other] for w, other in zip(weights, near, strict=True))
    return total / sum(weights) if near else WIDTH / 2


def pull(node: Node) -> int:
    return 4 if isinstance(node, tuple) else 1


def spread(row: list[Node], wanted: list[float]) -> dict[Node, float]:
    """The x nearest to `wanted` (weighted least squares) that keep the order of a row and its gaps."""
    half = [(LANE if isinstance(node, tuple) else BOX_W + GAP) / 2 for node in row]
    start = [0.0, *accumulate(a + b for a, b in pairwise(half))]
    blocks: list[list[float]] = []  # pool adjacent violators: [weighted sum, weight, nodes]
    for node, target, offset in zip(row, wanted, start, strict=True):
        weight = pull(node)
        blocks.append([weight * (target - offset), weight, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    bases = [total / weight for total, weight, nodes in blocks for _ in range(int(nodes))]
    low, high = MARGIN + half[0], WIDTH - MARGIN - half[-1] - start[-1]
    return {
        node: min(max(base, low), high) + offset
        for node, base, offset in zip(row, bases, start, strict=True)
    }


def crossings(chains: list[list[Node]], x: dict[Node, float], row_of: dict[str, int]) -> int:
    """Pairs of arrow segments between the same two rows that cross."""
    steps: dict[int, list[tuple[float, float]]] = {}
    for chain in chains:
        top = row_of[str(chain[0])]
        for number, (upper, lower) in enumerate(pairwise(chain)):
            steps.setdefault(top - number, []).append((x[upper], x[lower]))
    return sum(
        (a - c) * (b - d) < 0
        for pairs in steps.values()
        for i, (a, b) in enumerate(pairs)
        for c, d in pairs[:i]
    )


def arrow(
    chain: list[Node],
    chains: list[list[Node]],
    x: dict[Node, float],
    y: dict[str, float],
    colour: int,
) -> str:
    """A smooth path from the bottom of the importing box to the top of the imported one."""
    first, last = str(chain[0]), str(chain[-1])
    leaving = sorted({x[c[1]] for c in chains if c[0] == first})
    coming = sorted({x[c[-2]] for c in chains if c[-1] == last})
    start = x[first] + port(leaving.index(x[chain[1]]), len(leaving))
    end = x[last] + port(coming.index(x[chain[-2]]), len(coming))
    at, height = y[first] + BOX_H, y[first]
    path, now = f"M{start:.1f} {at:.1f}", start
    for node in chain[1:-1]:
        height += PITCH
        bend = (height - 9 - at) / 2
        path += f"C{now:.1f} {at + bend:.1f} {x[node]:.1f} {height - 9 - bend:.1f}"
        path += f" {x[node]:.1f} {height - 9:.1f}V{height + BOX_H + 9:.1f}"
        now, at = x[node], height + BOX_H + 9
    bend = (y[last] - at) / 2
    path += f"C{now:.1f} {at + bend:.1f} {end:.1f} {y[last] - bend:.1f} {end:.1f} {y[last] - 2:.1f}"
    return (
        f'<path d="{path}" fill="none" stroke="{COLOURS[colour][1]}" stroke-width="1.5"'
        f' marker-end="url(#tip{colour})"><title>{first} imports {last}</title></path>'
    )


def port(place: int, count: int) -> float:
    """Offset from the middle of a box's side, px."""
    return (place - (count - 1) / 2) * min(26.0, (BOX_W - 40) / count)


def box(name: str, x: float, y: float, colour: str) -> str:
    """One package: its name and what it is for."""
    lines: Iterable[str] = filter(None, ROLES[name])
    texts = [
        f'<text x="{x:.1f}" y="{y + 40 + 15 * number}" font-size="12" fill="#3d4650"'
        f' text-anchor="middle">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    shape = (
        f'<rect x="{x - BOX_W / 2:.1f}" y="{y}" width="{BOX_W}" height="{BOX_H}" rx="8"'
        f' fill="{colour}" stroke="#b7c0ca"/>'
    )
    title = (
        f'<text x="{x:.1f}" y="{y + 22}" font-size="15" font-weight="700" fill="#1d252d"'
        f' text-anchor="middle">{escape(name)}</text>'
    )
    return "\n".join([shape, title, *texts])


def tree() -> str:
    """Every package and module with one line, lowest layer first, as a fenced block."""
    lines = ["imgfp/"]
    for names in LAYERS:
        for name in sorted(names):
            lines += branch(name, 1)
    return "\n".join(["```", *lines, "```"]) + "\n"


def branch(name: str, depth: int) -> list[str]:
    """The lines of one module, or of one package and everything inside."""
    path, inside = NAMES[name], ORDER.get(name, [])
    label = "  " * depth + name.split(".")[-1] + ("/" if inside else ".py")
    said = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n\n")[0]
    first = (
        re.split(r"(?<=[.?])\s", " ".join(said.split()))[0] or " ".join(ROLES.get(name, ())).strip()
    )
    wrapped = textwrap.wrap(first, 84) or [""]
    lines = [f"{label:<28}{wrapped[0]}".rstrip(), *(" " * 28 + line for line in wrapped[1:])]
    for module in inside:
        lines += branch(f"{name}.{module}", depth + 1)
    return lines


def page() -> str:
    """The text of docs/architecture.md with the list of modules as it is now."""
    return TREE.sub(lambda _: tree(), PAGE.read_text("utf-8"))


if __name__ == "__main__":
    PICTURE.write_text(draw(), "utf-8")
    PAGE.write_text(page(), "utf-8")
