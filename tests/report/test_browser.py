# SPDX-License-Identifier: AGPL-3.0-or-later
"""The report in a real browser, with and without scripts."""

from __future__ import annotations

import shutil

import pytest

from imgfp import report
from imgfp.report import answers
from imgfp.results import Results

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(finished_run, tmp_path_factory) -> str:
    """Of a report with pages of two queries, several of which have several references."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(answers, "PER_PAGE", 2)
        path.write_text(report.build(Results(finished_run, score_threshold=1.0), rounds=0))
    return path.as_uri()


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.skip("no chromium here")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def test_answers_are_searched_ordered_and_paged(chromium, address):
    page = chromium.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: said.append(request.url))
    page.goto(address)
    shown = page.locator(".query:visible")
    counts = page.locator("#said")
    assert counts.text_content().startswith("1 to 2 of ") and shown.count() == 2
    first = shown.first.text_content()
    page.click("#later")
    assert shown.first.text_content() != first and not page.is_disabled("#earlier")
    page.fill("#find", "PASTED china")
    assert shown.count() == 1 and "q-pasted" in shown.first.text_content()
    assert counts.text_content().startswith("1 to 1 of 1 queries, ")
    page.fill("#find", "no such name")
    assert counts.text_content() == "0 queries, 0 pairs"
    page.fill("#find", "")
    page.select_option("#order", "name")
    assert page.locator(".query:visible > div > bdi").first.text_content() == "q-cropped"
    page.select_option("#order", "least")
    scores = [float(one.get_attribute("data-score")) for one in shown.all()]
    assert scores == sorted(scores)
    assert said == [address]  # nothing is asked for, no policy is violated
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_without_scripts_on_a_telephone(chromium, address, scheme):
    context = chromium.new_context(
        java_script_enabled=False, color_scheme=scheme, viewport={"width": 420, "height": 800}
    )
    page = context.new_page()
    page.goto(address)
    shown = page.locator(".query:visible")
    assert shown.count() == 2 and not page.locator("#find").is_visible()
    page.locator("#answers summary").nth(1).click()
    assert shown.count() == 4
    wide = [part.bounding_box() for part in page.locator("main > *").all() if part.is_visible()]
    assert max(box["x"] + box["width"] for box in wide) <= 420
    context.close()
