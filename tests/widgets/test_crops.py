# SPDX-License-Identifier: AGPL-3.0-or-later
import pytest
from small_run import made_with

from imgfp import store, widgets
from imgfp.results import Results
from imgfp.widgets import crops


def test_counts_are_those_of_the_sliders(results):
    browser = widgets.CropBrowser(results)
    assert "1 of 8 queries" in browser.counts.value
    browser.local.value = 0.4
    assert "2 of 8 queries, 1 more and 0 fewer" in browser.counts.value
    assert "local_min_confidence: 0.4" in browser.lines.value
    browser.pager.filter.value = "changed by the sliders"
    assert browser.pager.key == "q-turned"
    browser.local.value = 0.5
    assert browser.pager.key is None
    browser.local.value = 0.4
    assert browser.pager.key == "q-turned"
    before, now = browser.cuts.value.split("Crops with these sliders")
    assert "only the whole query" in before and "local" in now and "<svg" in now
    browser.pager.filter.value = "without a box"
    assert browser.pager.key not in (None, "q-turned", "q-pasted")
    browser.pager.filter.value = "all queries"
    browser.pager.jump.value = "pasted"
    assert browser.pager.key == "q-pasted" and "0.83" in browser.picture.value
    browser.pager.jump.value = "nowhere"
    assert browser.pager.key == "q-pasted"


def test_a_box_that_both_operating_points_take_has_both_labels(results):
    browser = widgets.CropBrowser(results)
    browser.pager.go("q-pasted")
    assert "local + global" in browser.picture.value
    assert "local + global" in browser.listed.value and "not taken" in browser.listed.value
    browser.single.value = 0.9
    assert "local + global" not in browser.picture.value
    assert browser.cuts.value.count("local + global") == 1, "the crops of the run must stay"


@pytest.mark.parametrize(("threshold", "borderline"), [(0.5, True), (0.6, False)])
def test_queries_near_a_threshold_are_borderline(results, threshold, borderline):
    browser = widgets.CropBrowser(results)
    browser.local.value = browser.single.value = threshold
    browser.pager.filter.value = "borderline"
    assert (browser.pager.key == "q-turned") is borderline


def test_the_sliders_start_at_the_rules_of_the_run(own_run):
    path = own_run.run.crops_parquet
    rules = own_run.crop_rules | {"local_min_confidence": 0.2, "max_aspect": 10, "max_crops": 2}
    store.save(path, store.load(path), made_with(**rules))
    browser = widgets.CropBrowser(Results(own_run.run, own_run.library))
    assert browser.settings["local_min_confidence"] == 0.2
    assert "3 in 2 of 8 queries" in browser.counts.value and "more" not in browser.counts.value
    browser.local.value = 0.6
    assert "1 in 1 of 8 queries, 0 more and 2 fewer" in browser.counts.value
    browser.pager.filter.value = "changed by the sliders"
    assert browser.pager._keys == ["q-pasted", "q-turned"]


def test_a_slider_neither_reads_the_image_nor_computes_the_boxes_again(results, calls_of):
    browser = widgets.CropBrowser(results)
    shapes, images = calls_of(crops, "box_facts"), calls_of(crops.svg, "small_jpeg")
    counts = browser.counts.value
    browser.local.value = 0.3
    assert browser.counts.value != counts
    assert not shapes and not images
