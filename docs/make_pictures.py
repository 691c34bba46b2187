# SPDX-License-Identifier: AGPL-3.0-or-later
"""Draw the pictures of README.md and docs/tour.md from the demo run.

    .venv/bin/python docs/make_pictures.py [run folder]

Figures always; the page and the live browsers too where Chromium and the dev extra are installed.
"""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from imgfp import viz
from imgfp.crops.rule import choose_box
from imgfp.results import Results, compare, homography_of
from imgfp.scoring import errors
from imgfp.scoring.metrics import precision_recall_curve

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs/pictures"
PAGE = "page.ipynb"  # in the run folder, below the project root, so that relative paths hold
#: Photographs of the demo corpus that are pleasant to look at.
SHOWN = (
    "astronaut",
    "bus",
    "chelsea",
    "china",
    "coffee",
    "flower",
    "hopper",
    "motorcycle",
    "rocket",
)
CHROMIUM_OFF = ("gpu", "quic", "background-networking", "component-update", "sync")


def main(run_dir: str = "runs/demo") -> None:
    """Write every picture into docs/pictures."""
    results = Results(run_dir)
    PICTURES.mkdir(exist_ok=True)
    pair = typical_copy(results)
    keep("match", draw_match(results, pair))
    keep("overlay", draw_overlay(results, pair))
    keep("crops", draw_crops(results))
    keep("scores", draw_scores(results))
    keep("edits", draw_edits(results))
    if shutil.which("chromium"):
        photograph_browsers(results, pair["query_id"])
        photograph_app(results)


def typical_copy(results: Results) -> pd.Series:
    """The evidence of a detected copy that changed much and is still recognisable: of a photograph in
    SHOWN, covering 15 to 60 % of the query, with the most inliers below 200."""
    pairs = results.pairs[results.pairs["is_true"].fillna(False).astype(bool)]
    pairs = pairs[["query_id", "reference_id"]]
    best = [results.best_evidence(*ids) for ids in pairs.itertuples(index=False)]
    table = pd.DataFrame(best)
    table["shown"] = table["reference_id"].isin(SHOWN) & table["query_area"].between(0.15, 0.6)
    table["clear"] = table["inliers"].where(table["inliers"] < 200, 0)
    return table.sort_values(["shown", "clear"]).iloc[-1]


def pictures_of(results: Results, pair: pd.Series):
    """Both ids, both images, both original sizes."""
    sides = {"query": pair["query_id"], "reference": pair["reference_id"]}
    images = [results.picture(side, i) for side, i in sides.items()]
    return list(sides.values()), images, [results.size(side, i) for side, i in sides.items()]


def draw_match(results: Results, pair: pd.Series) -> Figure:
    """Query and reference, joined by their matches."""
    ids, images, sizes = pictures_of(results, pair)
    found = compare.pair_matcher(results, *ids).matches(mirrored=bool(pair["mirrored"]))
    given = {"query_size": sizes[0], "reference_size": sizes[1], "limit": 90}
    drawn, ax = viz.figure(9, 3.6)
    ends = found.query_xy, found.reference_xy
    titles = (f"query {ids[0]}", f"reference {ids[1]}: {pair['transform']}")
    viz.draw_matches(ax, *images, *ends, found.verification.inliers, titles=titles, **given)
    return drawn


def draw_overlay(results: Results, pair: pd.Series) -> Figure:
    """The query warped onto its reference, blended and as a difference."""
    _, images, sizes = pictures_of(results, pair)
    aligned = compare.warp_query(*images, *sizes, homography_of(pair))
    drawn, axes = viz.figure(10, 2.7, columns=4)
    viz.draw_image(axes[0], aligned[1], "reference")
    viz.draw_image(axes[1], aligned[0], "query, warped onto it")
    viz.draw_overlay(axes[2], *aligned).set_title("both", loc="left", fontsize=9)
    viz.draw_overlay(axes[3], *aligned, difference=True).set_title(
        "difference", loc="left", fontsize=9
    )
    return drawn


def draw_crops(results: Results) -> Figure:
    """Three queries with a pasted image, and the boxes detected in them."""
    meta = results.meta
    pasted = meta.loc[meta["ops"].str.contains("paste|screenshot", regex=True), "query_id"]
    best = results.crops.drop_duplicates("query_id")
    best = best[best["query_id"].isin(pasted)].nlargest(3, "confidence")
    point = results.crop_rules["local_min_confidence"]
    limits = {name: results.crop_rules[name] for name in ("max_area", "max_aspect", "max_crops")}
    drawn, axes = viz.figure(10, 2.9, columns=3)
    for ax, query_id in zip(axes, best["query_id"], strict=False):
        boxes, size = results.boxes_of(query_id), results.size("query", query_id)
        taken = choose_box(boxes, *size, min_confidence=point, **limits)[1]
        words = [f"{confidence:.2f}" for confidence in boxes.confidence]
        shown = results.picture("query", query_id)
        viz.draw_boxes(ax, shown, boxes.xyxy, words, taken, query_id, size, others=2)
    return drawn


def draw_scores(results: Results) -> Figure:
    """Scores of copies and others; precision over recall."""
    pairs = results.pairs[results.pairs["is_true"].notna()]
    right = pairs["is_true"].astype(bool)
    drawn, (left, curve) = viz.figure(10, 3, columns=2)
    scores = pairs.loc[right, "score"], pairs.loc[~right, "score"]
    more = {"title": "Scores of all pairs", "scale": results.score_scale}
    viz.draw_score_histogram(left, *scores, results.threshold, **more)
    points = precision_recall_curve(results.predictions, results.truth)
    viz.draw_precision_recall(
        curve, points["precision"], points["recall"], title="Precision and recall"
    )
    return drawn


def draw_edits(results: Results) -> Figure:
    """Which edits are hard."""
    groups = errors.edit_groups(results.meta)
    table = errors.breakdown(
        results.predictions, results.truth, groups, results.threshold, results.candidates
    )
    drawn, ax = viz.figure(7, 1.1 + 0.2 * len(table))
    viz.draw_breakdown(ax, table, title="Copies found, by edit")
    return drawn


def keep(name: str, drawn: Figure | bytes) -> None:
    """A figure or PNG as a small JPEG."""
    data = drawn if isinstance(drawn, bytes) else viz.to_png(drawn, dpi=130, tight=True)
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.save(PICTURES / f"{name}.jpg", quality=85, optimize=True)
    print(f"docs/pictures/{name}.jpg {picture.width} x {picture.height}")


def photograph_browsers(results: Results, query_id: str) -> None:
    """Screenshots of the report and of the live browsers of notebook 10 at a query, through Voila."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return
    off = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in CHROMIUM_OFF)]
    with sync_playwright() as tools:
        chromium = tools.chromium.launch(executable_path=shutil.which("chromium"), args=off)
        page = chromium.new_page(viewport={"width": 1240, "height": 1500})
        page.goto(results.run.report_html.as_uri())
        keep("report", page.screenshot())
        server, address = serve(results)
        try:
            page.goto(address, timeout=180_000)
            page.get_by_role("button", name="copy (c)").wait_for(timeout=180_000)
            names = ("crop_browser", "match_inspector", "threshold_tuner", "vote_view", "review")
            browsers = page.locator(".jp-OutputArea-output > .widget-vbox")
            for box in page.get_by_placeholder("id …").all():
                box.fill(query_id)
                box.press("Enter")
                page.wait_for_timeout(3000)
            for number, name in enumerate(names):
                browser = browsers.nth(number)
                browser.scroll_into_view_if_needed()
                keep(name, browser.screenshot())
        finally:
            server.terminate()
            server.wait(30)
            (results.run.root / PAGE).unlink()
        chromium.close()


def photograph_app(results: Results) -> None:
    """Screenshots of three tabs of the app."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "imgfp", "app", str(results.run.root)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    address = next(word for word in str(server.stdout.readline()).split() if "token=" in word)
    try:
        with sync_playwright() as tools:
            chromium = tools.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = chromium.new_page(viewport={"width": 1300, "height": 800})
            for tab, words in {"answers": "?verdict=copy&sort=copies", "review": ""}.items():
                page.goto(address)
                page.goto(f"{address.partition('/?')[0]}/{tab}{words}", wait_until="networkidle")
                keep(f"app_{tab}", page.screenshot())
            page.set_viewport_size({"width": 1300, "height": 900})
            page.goto(f"{address.partition('/?')[0]}/look")
            page.locator(".examples button").nth(1).click()
            page.locator(".reported").first.wait_for()
            page.wait_for_load_state("networkidle")
            keep("app_look", page.screenshot())
            chromium.close()
    finally:
        server.terminate()
        server.wait(30)


def serve(results: Results) -> tuple[subprocess.Popen, str]:
    """Voila on a copy of notebook 10 that shows this run; the process and its address."""
    notebook = nbformat.read(ROOT / "notebooks/10_inspect_and_review.ipynb", 4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += (
        f"\nlibrary_dir, run_dir = {str(results.library.root)!r}, {str(results.run.root)!r}"
    )
    nbformat.write(notebook, results.run.root / PAGE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "voila", str(results.run.root / PAGE), "--no-browser"]
    options = ["--strip_sources=True", f"--port={port}", "--Voila.ip=127.0.0.1"]
    server = subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(200):
        try:
            urllib.request.urlopen(f"{address}/voila/static/none", timeout=5)
        except urllib.error.HTTPError:
            break
        except OSError:
            time.sleep(0.3)
    return server, address


if __name__ == "__main__":
    main(*sys.argv[1:2])
