# SPDX-License-Identifier: AGPL-3.0-or-later
"""The inspection notebook in a real browser: opened, run, moved, clicked, typed into."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

from imgfp import store
from imgfp.results import Results
from imgfp.results.replay import Replay
from imgfp.runner import params
from imgfp.store import decisions

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "10_inspect_and_review.ipynb"
OFF = ("gpu", "quic", "background-networking", "component-update", "sync")
ARGS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in OFF)]
PATIENCE = 120_000  # milliseconds; a busy machine is slow, not broken

pytestmark = pytest.mark.browser
sync_playwright = pytest.importorskip(
    "playwright.sync_api", reason="browser tests need the dev extra"
).sync_playwright


@pytest.fixture(scope="module")
def chromium():
    """A browser of this module alone: while playwright is open an event loop runs in this thread, in
    which other tests could start none of their own."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


@pytest.fixture
def page(chromium):
    context = chromium.new_context(viewport={"width": 1300, "height": 1000})
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


@pytest.fixture
def workplace(finished_run, tmp_path):
    """A folder with a copy of the run and the notebook, whose parameters point to it."""
    return prepare(finished_run, tmp_path)


@pytest.fixture
def hostile_workplace(hostile_run, tmp_path):
    return prepare(hostile_run, tmp_path)


def prepare(run: Path, folder: Path) -> Path:
    root = Path(shutil.copytree(run.parent, folder / "work"))
    (root / "params").mkdir()
    (root / "params/mine.yaml").write_text("seed: 0  # of every random choice\n")
    path = root / "run/params.yaml"
    path.write_text(path.read_text().replace(str(run.parent), str(root)))
    store.seal(path)
    notebook = nbformat.read(ROOT / "notebooks" / NOTEBOOK, 4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source += f"\nlibrary_dir, run_dir, reviewer = {str(root / 'library')!r}, {str(root / 'run')!r}, 'Ada'"
    nbformat.write(notebook, root / NOTEBOOK)
    return root


@contextmanager
def served(root: Path, private: Path, command: list[str]):
    """A Jupyter server of its own settings on a free port; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "IMGFP_HEADLESS": ""}
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
        environment[f"JUPYTER_{name}"] = str(private / name)
    environment["IPYTHONDIR"] = str(private / "ipython")
    settings = private / "settings/@jupyterlab/apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(private / "settings")
    environment["JUPYTERLAB_WORKSPACES_DIR"] = str(private / "workspaces")
    with open(private / "server.log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, f"--port={port}"],
            cwd=root,
            env=environment,
            stdout=log,
            stderr=log,
        )
        address = f"http://127.0.0.1:{port}"
        try:
            wait_for(address, server, private / "server.log")
            yield address
        finally:
            server.terminate()
            server.wait(30)


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 90
    while time.monotonic() < until:
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(f"{address}/api/status?token=t", timeout=5)
            return
        except urllib.error.HTTPError:
            return  # it answers, if only to say no
        except OSError:
            time.sleep(0.3)
    raise AssertionError("the server did not start: " + log.read_text()[-2000:])


def run_all(page, address: str) -> None:
    page.goto(f"{address}/lab/tree/{NOTEBOOK}?reset&token=t")
    page.wait_for_selector(".jp-Notebook")
    idle = "() => /\\| Idle/.test(document.querySelector('#jp-main-statusbar')?.innerText || '')"
    page.wait_for_function(idle, timeout=PATIENCE)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    done = "() => [...document.querySelectorAll('.jp-OutputArea-output')].some(e => e.innerText.includes('pairs decided'))"
    page.wait_for_function(done, timeout=PATIENCE)


def push(page, name: str, key: str, times: int = 1) -> None:
    """Press a key on the handle of the slider with this description."""
    row = page.locator(".widget-hslider", has=page.get_by_text(name, exact=True)).first
    row.scroll_into_view_if_needed()
    row.locator(".noUi-handle").focus()
    for _ in range(times):
        page.keyboard.press(key)


def drag(page, by_px: int, chart: int = 1) -> None:
    """Drag the line of a chart sideways with the mouse: 0, of the branches, or 1, of the final score."""
    line = page.locator(".imgfp-line .noUi-handle").nth(chart)
    line.scroll_into_view_if_needed()
    box = line.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by_px, y, steps=8)
    page.mouse.up()


def figures(page) -> list[str]:
    """Copies that any branch proposes and micro-AP under the settings that are shown, as the page has them."""
    rows = [
        page.get_by_role("row").filter(has_text=name).first.inner_text().split("\t")
        for name in ("copies proposed by any", "micro-AP")
    ]
    return [row[2].strip() for row in rows]


def previewed(workplace: Path) -> list[str]:
    """The same under the settings of the profile; that a run with them measures these is tested in test_replay."""
    replay = Replay(Results(workplace / "run", workplace / "library"))
    values = params.read_profile(workplace / "params/mine.yaml")
    known = {name: value for name, value in values.items() if hasattr(replay.settings, name)}
    now = replay.preview(dataclasses.replace(replay.settings, **known)).figures
    return [f"{now.proposed['union']:,}", f"{now.micro_ap:.4f}"]


def picture(page, place: str) -> str:
    """A hash of the SVG text that holds `place`, to see it change."""
    return page.evaluate(
        "s => [...document.querySelectorAll(s)].map(e => e.outerHTML).join('')", place
    )


def changes(page, place: str, before: str) -> None:
    page.wait_for_function(
        "([s, b]) => [...document.querySelectorAll(s)].map(e => e.outerHTML).join('') !== b",
        arg=[place, before],
        timeout=PATIENCE,
    )


def photograph(page, name: str) -> None:
    """Keep a picture of the page where a person asked for one."""
    folder = os.environ.get("IMGFP_SCREENSHOTS")
    if folder:
        page.screenshot(path=f"{folder}/{name}.png")


LAB = ["jupyterlab", "--no-browser", "--ip=127.0.0.1", "--allow-root", "--ServerApp.root_dir=."]
LAB += ["--IdentityProvider.token=t", "--KernelManager.transport_encryption=auto"]


def test_every_browser_answers_in_jupyterlab(page, workplace, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    with served(workplace, private, LAB) as address:
        run_all(page, address)
        # Crops: a lower threshold takes a second box.
        page.get_by_placeholder("query id …").first.fill("q-turned")
        page.keyboard.press("Enter")
        page.get_by_text("none: only the whole query is searched").nth(1).wait_for()
        photograph(page, "crops")
        push(page, "local_min_confidence", "ArrowLeft", 5)
        page.get_by_text("none: only the whole query is searched").nth(1).wait_for(state="detached")
        page.get_by_text("2 of 8 queries, 1 more and 0 fewer").wait_for()
        photograph(page, "crops-moved")
        # Matches: a stricter ratio leaves fewer lines.
        lines = page.locator("svg g.m")
        page.get_by_placeholder("query or reference id …").fill("q-pasted")
        page.keyboard.press("Enter")
        page.get_by_text("pasted centre").first.wait_for()
        before = lines.count()
        push(page, "ratio (squared)", "ArrowRight", 12)
        page.wait_for_function(
            "n => document.querySelectorAll('svg g.m').length < n", arg=before, timeout=PATIENCE
        )
        photograph(page, "matches")
        page.get_by_role("button", name="flicker").click()
        page.locator("svg animate").wait_for(state="attached")
        page.get_by_role("button", name="difference").click()
        page.locator("svg animate").wait_for(state="detached")
        photograph(page, "overlay")
        # Branches: drag the least votes, see recall and micro-AP change, find them in what is written.
        page.get_by_text("A run with these settings gives these figures.").wait_for()
        page.get_by_role("button", name="global", exact=True).first.click()
        page.get_by_label("global_min_similarity").fill("1")
        page.get_by_label("global_min_similarity").press("Enter")
        page.get_by_text(re.compile("^global_min_similarity: 1")).wait_for()
        page.get_by_role("button", name="local", exact=True).first.click()
        page.get_by_label("local_min_votes").wait_for()
        before = figures(page)
        drag(page, 250, chart=0)
        page.get_by_text(re.compile("^local_min_votes: [1-9]")).wait_for()
        photograph(page, "branches")
        page.get_by_role("button", name="write to profile").first.click()
        page.get_by_text(re.compile("mine.yaml: local_min_votes set to")).wait_for()
        after = figures(page)  # the kernel answers in order, so every move of the line is in them
        assert all(one != other for one, other in zip(before, after, strict=True))
        assert after == previewed(workplace)
        # Thresholds: drag the line, type one, see the count change, open a pair, write it down.
        box = page.get_by_label("threshold", exact=True)
        before = float(box.input_value())
        drag(page, -120)
        page.wait_for_function(
            "([e, b]) => parseFloat(e.value) < b / 2", arg=[box.element_handle(), before]
        )
        drag(page, 60)
        photograph(page, "dragged")
        page.get_by_role("button", name="inspect", exact=True).nth(6).click()
        page.get_by_placeholder("query or reference id …").nth(1).wait_for()
        box.fill("5")
        box.press("Enter")
        page.get_by_text("score_threshold: 5").wait_for()
        photograph(page, "thresholds")
        page.get_by_role("button", name="write to profile").nth(1).click()
        page.get_by_text("mine.yaml: score_threshold set to").wait_for()
        assert "score_threshold: 5" in (workplace / "params/mine.yaml").read_text()
        # Review: one click, two letters, one letter deleted.
        page.get_by_role("button", name="copy (c)").click()
        letters = page.get_by_label("keys")
        letters.press_sequentially("us", delay=600)
        page.get_by_text("same scene: ").wait_for()
        letters.press("Backspace")
        page.get_by_text("undone: ").wait_for()
        photograph(page, "review")
        # A restarted kernel goes on after the last decision, and can take it back.
        page.get_by_role("menuitem", name="Kernel", exact=True).click()
        page.get_by_role("menuitem", name="Restart Kernel and Run All Cells…").click()
        page.locator(".jp-Dialog button.jp-mod-accept").click()
        page.get_by_text("4 lines in").wait_for()
        page.get_by_role("button", name="undo (z)").click()
        page.get_by_text("undone: ").wait_for()
    log = decisions.read(workplace / "run/decisions.jsonl")
    assert log["decision"].tolist() == ["copy", "unrelated", "same_scene", "undo", "undo"]
    assert decisions.consensus(log)["decision"].tolist() == ["copy"]
    assert set(log["reviewer"]) == {"Ada"}


def test_hostile_names_are_text_in_the_page_that_voila_serves(page, hostile_workplace, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    command = ["voila", NOTEBOOK, "--no-browser", "--strip_sources=True", "--Voila.ip=127.0.0.1"]
    with served(hostile_workplace, private, command) as address:
        page.goto(address)
        page.get_by_text("pairs decided").wait_for()
        page.get_by_role("button", name="copy (c)").wait_for()
        photograph(page, "voila")
        assert page.title() != "owned"
        assert page.locator("img[onerror]").count() == 0
        body = page.locator("body").inner_text()
        assert "<img src=x" in body and "\\u202egpj.live" in body and "\u202e" not in body
        before = picture(page, ".widget-html-content svg")
        page.get_by_role("button", name="▶").nth(1).click()
        changes(page, ".widget-html-content svg", before)
        assert page.title() != "owned"
        # A second person opens the same page: both decide, and nobody's word is lost.
        other = page.context.new_page()
        other.goto(address)
        other.get_by_role("button", name="copy (c)").wait_for()
        other.get_by_label("reviewer").fill("Bob")
        other.get_by_label("reviewer").press("Tab")
        for person, word in ((other, "unrelated (u)"), (page, "copy (c)"), (other, "skip (k)")):
            person.get_by_role("button", name=word).click()
            person.get_by_text(re.compile(f"^{word[:-4]}: ")).wait_for()
    log = decisions.read(hostile_workplace / "run/decisions.jsonl")
    assert log["reviewer"].tolist() == ["Bob", "Ada", "Bob"]
    assert len(set(log["query_id"] + log["reference_id"])) == 2
    assert decisions.consensus(log)["conflicting"].sum() == 1
