# SPDX-License-Identifier: AGPL-3.0-or-later
"""The app in a real browser: each tab used by mouse, keys, drop and paste, and measured for accessibility."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from imgfp.store import decisions

pytestmark = pytest.mark.browser
sync_playwright = pytest.importorskip(
    "playwright.sync_api", reason="browser tests need the dev extra"
).sync_playwright
TABS = ("look", "answers", "pair", "review", "duplicates", "tune", "report")
TOKEN = "the token of these tests"
PATIENCE = 30_000  # milliseconds; a busy machine is slow, not broken


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def project(whole_batch, lay_out) -> Path:
    return lay_out(whole_batch)


@pytest.fixture(scope="module")
def home(served) -> str:
    return f"http://127.0.0.1:{served}"


@pytest.fixture
def visitor(chromium, home):
    """Opens a page as somebody who has the token: `visitor(path, **options of the browser's context)`."""
    contexts = []

    def visit(path: str, **options):
        options = {"viewport": {"width": 1300, "height": 800}} | options
        context = chromium.new_context(**options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.asked = []  # what the page asks for anywhere
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(f"{home}/?token={TOKEN}")
        page.goto(home + path)
        return page

    yield visit
    for context in contexts:
        context.close()


def photograph(page, name: str) -> None:
    """Keep a picture of the page where a person asked for one."""
    if folder := os.environ.get("IMGFP_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/app-{name}.png")


def give(page, kind: str, files: list[tuple[str, bytes]]) -> None:
    """Drop files on the page, or paste them."""
    encoded = [(name, base64.b64encode(data).decode()) for name, data in files]
    page.evaluate(
        """([kind, files]) => {
          const data = new DataTransfer();
          for (const [name, text] of files) {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            data.items.add(new File([bytes], name));
          }
          const options = { bubbles: true, cancelable: true };
          const event = kind === "drop"
            ? new DragEvent("drop", { ...options, dataTransfer: data })
            : new ClipboardEvent("paste", { ...options, clipboardData: data });
          document.querySelector("main").dispatchEvent(event);
        }""",
        [kind, encoded],
    )


def test_pictures_are_dropped_and_pasted_and_answered(visitor, whole_batch, home, project):
    page = visitor("/look?of=library/mine")
    crop, stranger = ((whole_batch / f"queries/{n}.jpg").read_bytes() for n in ("crop", "stranger"))
    give(
        page, "drop", [("mine <b>.jpg", crop), ("other.jpg", stranger), ("text.jpg", b"no picture")]
    )
    page.get_by_text("copy of 1 reference").wait_for()
    assert page.get_by_role("alert").inner_text().startswith("text.jpg was not searched: ")
    assert page.get_by_role("article", name="Query mine <b>").locator(".reported").count() == 1
    assert page.get_by_role("article", name="Query other").locator(".reported").count() == 0
    photograph(page, "looked")
    page.get_by_role("link", name=re.compile("Reference china")).first.click()
    page.get_by_role(
        "img", name=re.compile("^Query mine <b> .* and reference china with")
    ).wait_for()
    page.keyboard.press("c")
    page.get_by_text("copy (Ada)").wait_for()
    log = decisions.read(project / "library/mine/decisions.jsonl")
    assert log[["reference_id", "decision"]].values.tolist() == [["china", "copy"]]
    # A second visitor pastes one, and finds the first one's answers in the menu: one process serves both.
    other = visitor("/look?of=library/mine")
    give(other, "paste", [("image.png", crop)])
    other.get_by_role("article", name="Query image").wait_for()
    assert other.get_by_text("copy (Ada)").count() == 0, (
        "the decision was on a file of another name"
    )
    names = other.get_by_label("Open").locator("option").all_inner_texts()
    assert names.count("look 1") == names.count("look 2") == 1
    # What is too large is refused before it is sent.
    other.evaluate("document.querySelector('.drop').dataset.limitMb = 0.001")
    give(other, "drop", [("huge.tif", crop)])
    other.get_by_text("huge.tif has 0 MB; at most 0.001 MB a picture").wait_for()
    assert all(
        url.startswith(home) for url in page.asked + other.asked if not url.startswith("data:")
    )


def test_a_query_of_a_run_is_pressed_and_looked_up(visitor):
    page = visitor("/look?of=runs/mine")
    page.get_by_role("button", name="look up the query crop").click()
    page.get_by_role(
        "img", name=re.compile("Matches of the query crop .* the reference china")
    ).wait_for()
    assert page.get_by_text("copy of 1 reference").count() == 1
    assert page.get_by_role("button", name="look up the query mirrored").count() == 1, (
        "offered again"
    )
    photograph(page, "example")


def test_answers_are_filtered_and_decided_in_bulk(visitor, project):
    page = visitor("/answers?of=runs/mine")
    page.get_by_text("3 of 3 queries").wait_for()
    page.get_by_label("Verdict").select_option("copy")
    page.get_by_text("2 of 3 queries, 2 pairs").wait_for()
    assert "verdict=copy" in page.url, "an address to come back to"
    photograph(page, "answers")
    page.get_by_label("all on this page").check()
    page.get_by_text("2 selected").wait_for()
    page.keyboard.press("c")
    page.get_by_text("copy (Ada)").nth(1).wait_for()
    log = project / "runs/mine/decisions.jsonl"
    assert decisions.read(log)["decision"].tolist() == ["copy", "copy"]
    page.keyboard.press("z")
    page.get_by_text("copy (Ada)").first.wait_for(state="detached")
    assert not len(decisions.consensus(decisions.read(log))), "one press takes both back"
    log.unlink()


def test_a_pair_is_inspected_and_decided_by_keys(visitor, project):
    page = visitor("/pair?of=runs/mine&query=crop&reference=china")
    lines = page.locator("svg g.m")
    before = lines.count()
    page.get_by_label("Ratio (squared)").fill("2.5")
    page.get_by_label("Ratio (squared)").press("Tab")
    page.wait_for_function("n => document.querySelectorAll('svg g.m').length < n", arg=before)
    page.get_by_label("Overlay").and_(page.locator("select")).select_option("flicker")
    page.locator("#overlay animate").wait_for(state="attached")
    page.locator("main").focus()
    page.keyboard.press("+")
    assert page.locator("figure").first.bounding_box()["width"] > 1400
    page.keyboard.press("s")
    page.get_by_text("same scene (Ada)").wait_for()
    page.keyboard.press("z")
    page.get_by_text("same scene (Ada)").wait_for(state="detached")
    place = page.get_by_text(re.compile("^pair [0-9]+ of")).inner_text()
    number = int(place.split()[1])
    page.keyboard.press("ArrowRight")
    page.get_by_text(f"pair {number + 1} of").wait_for()
    assert page.get_by_label("Ratio (squared)").input_value() == "1.15", "not that of the last pair"
    (project / "runs/mine/decisions.jsonl").unlink()


def test_review_fits_a_laptop_and_clears_the_queue(visitor, project):
    page = visitor("/review?of=runs/mine")
    seen = [*page.locator(".both svg").all(), page.locator(".score").first]
    seen += [page.get_by_role("button", name=word) for word in ("copy c", "unrelated u", "undo z")]
    for one in seen:
        box = one.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 800
    photograph(page, "review")
    page.get_by_text("2 of 2 reported pairs").wait_for()
    page.get_by_label("Reviewer").fill("Bob")
    page.locator("main").focus()
    page.keyboard.press("c")
    page.get_by_text("1 of 2 reported pairs").wait_for()
    assert page.get_by_label("Reviewer").input_value() == "Bob", "remembered"
    # Another reviewer disagrees: the pair comes back to both, with who said what.
    log = project / "runs/mine/decisions.jsonl"
    query, reference = decisions.read(log)[["query_id", "reference_id"]].iloc[0]
    other = visitor(f"/review?of=runs/mine&query={query}")
    assert other.get_by_label("Reviewer").input_value() == "Ada"
    other.get_by_label(f"select {reference}").check()
    other.keyboard.press("u")
    other.get_by_text("unrelated (Ada)").wait_for()
    page.reload()
    page.get_by_text("reviewers disagree on 1").wait_for()
    page.get_by_role("link", name="conflicts").click()
    page.get_by_text("1 of 3 queries, 1 pairs").wait_for()
    assert page.locator(".said").all_inner_texts() == ["copy (Bob)", "unrelated (Ada)"]
    log.unlink()


def test_duplicates_are_opened_as_pairs_and_saved(visitor):
    page = visitor("/duplicates?of=runs/self")
    page.get_by_text("6 pictures in 2 groups are copies of each other").wait_for()
    assert page.get_by_role("img", name="Picture").count() == 6
    photograph(page, "duplicates")
    page.get_by_label("Order").select_option("weakest link first")
    page.wait_for_url("**order=weakest")
    with page.expect_download() as saved:
        page.get_by_role("link", name="all groups as CSV").click()
    assert saved.value.suggested_filename == "duplicates.csv"
    page.get_by_role("link", name="Picture part").click()
    page.get_by_role("img", name="Query part and reference whole with their matches").wait_for()


def test_settings_are_tried_and_written(visitor, project):
    page = visitor("/tune?of=runs/mine")
    line = page.get_by_role("slider", name="score_threshold")
    line.focus()
    for _ in range(3):
        line.press("PageUp")
    value = page.get_by_label("score_threshold", exact=False).and_(page.locator("#score_threshold"))
    assert line.get_attribute("aria-valuetext") == value.input_value() != "0"
    page.get_by_text(re.compile("^score_threshold: 0")).wait_for()
    photograph(page, "tune")
    page.get_by_role("button", name="write them there").click()
    page.get_by_text("mine.yaml: score_threshold set to").wait_for()
    assert f"score_threshold: {value.input_value()}" in (project / "params/mine.yaml").read_text()
    page.get_by_role("link", name="Report").click()
    page.frame_locator("iframe").get_by_text("Copy report").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(visitor, home, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visitor("/answers?of=runs/mine", color_scheme=scheme)
    # The colours are all that differs in the dark.
    rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
    pages = {tab: f"/{tab}?of=runs/mine" for tab in TABS} | {"groups": "/duplicates?of=runs/self"}
    for tab, path in pages.items():
        page.goto(home + path)
        found = axe.run(page, options={"iframes": False} | rules).response["violations"]
        told = [(one["id"], one["nodes"][0]["html"][:90]) for one in found]
        assert not told, f"{tab}: {json.dumps(told)}"
        if scheme == "light":
            page.set_viewport_size({"width": 420, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= 420, tab
            photograph(page, f"{tab}-420")
            page.set_viewport_size({"width": 1300, "height": 800})
