import json
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest
import small_run

from imgfp import report, store
from imgfp.datatypes import table
from imgfp.results import Results
from imgfp.store import decisions


class Page(HTMLParser):
    """The tags, outside addresses and visible words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "action", "data") and not value.startswith("data:image/"):
                self.addresses.append(value)
            if name.startswith("on"):
                self.handlers.append(name)

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def copy_probability(finished_run):
    return report.build(Results(finished_run), rounds=20)


def test_a_run_without_pairs_has_a_report(tmp_path):
    run = small_run.build(tmp_path, with_truth=False)
    store.write_csv(run / "predictions.csv", table("predictions"))
    words = Page(report.build(Results(run))).words
    assert "8 queries were compared with 6 references" in words


def test_the_page_is_one_file_that_asks_for_nothing(copy_probability):
    page = Page(copy_probability)
    assert not page.addresses and "script" not in page.tags and "link" not in page.tags
    assert "default-src 'none'" in copy_probability
    assert "url(" not in copy_probability and "@import" not in copy_probability
    assert len(copy_probability) < 1_000_000


def test_figures_of_the_run_are_on_the_page(copy_probability):
    results_words = Page(copy_probability).words
    for said in ("0.833", "Where to put the threshold", "95 % interval", "01 images", "is empty"):
        assert said in results_words


def test_the_precision_asked_for_is_the_one_that_is_named(finished_run):
    words = Page(report.build(Results(finished_run), target_precision=0.975, rounds=0)).words
    assert "when 97.5 % of the reported pairs are right" in words and "9 of 10" not in words
    assert words.count("97.5 %") == 3  # two tiles and the card


def test_without_a_threshold_nothing_is_reported(finished_run, tmp_path):
    root = shutil.copytree(finished_run.parent, tmp_path / "copy")
    metrics = json.loads((root / "run/metrics.json").read_text())
    never = metrics | {"threshold_at_p90": None, "recall_at_p90": None}
    (root / "run/metrics.json").write_text(json.dumps(never))
    words = Page(report.build(Results(root / "run", root / "library"), rounds=0)).words
    assert "nothing is called a copy" in words
    assert "False alarm" not in words and "dashed line" not in words and "Missed" in words


def test_every_loss_is_sorted_and_shown(copy_probability):
    words = Page(copy_probability).words
    assert "No branch proposed the true reference" in words and "q-negative" in words
    assert "Proposed, but scored under the threshold" in words


def test_a_loss_names_the_other_reference(finished_run):
    results = Results(finished_run, score_threshold=1.0)
    pairs = results.predictions
    pairs.loc[(pairs["query_id"] == "q-pasted") & (pairs["reference_id"] == "china"), "score"] = 0.5
    lost = results.losses.set_index("cause")["other_reference_id"]
    words = Page(report.build(results, rounds=0)).words
    assert lost["beaten_by_another"] == "coffee" and "beaten by coffee" in words
    assert lost["wrong_reference_of_a_copy"] == "china" and "made from china" in words


def test_a_map_in_words_stands_below_its_pair(copy_probability):
    assert "mirrored" in Page(copy_probability).words
    assert copy_probability.count("<polygon") >= 10


def test_references_reported_together_are_shown_side_by_side(hostile_run):
    html = report.build(Results(hostile_run, score_threshold=1.0), rounds=0)
    shown = html[html.index("References that may be the same") :]
    shown = shown[: shown.index("</section>")]
    assert shown.count("<title>reference ") == 12 and "<title>query" not in shown
    assert "together for 2 queries" in shown and "together for one query" in shown
    assert "<script" not in shown


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ("too_few", "no map between the pictures: fewer than three matches agree on one map"),
        ("shared_by_many", "not believed: the matches lie in text, a logo or a texture"),
    ],
)
def test_a_refusal_is_said_in_words(refused, said):
    assert report.evidence_in_words(pd.Series({"refused": refused})).startswith(said)


def test_hostile_ids_are_text(hostile_run):
    html = report.build(Results(hostile_run), rounds=20)
    page = Page(html)
    assert "script" not in page.tags and not page.handlers and not page.addresses
    assert "<img src=x" not in html and "<img src=x" in page.words
    assert "{{7*7}}" in page.words and "two\\nlines" in page.words
    assert "\u202e" not in html and "\\u202e" in page.words


def test_a_run_without_truth_shows_the_best_pairs_and_those_to_review(tmp_path):
    run = small_run.build(tmp_path, with_truth=False, keep_originals=False)
    with open(run / "params.yaml", "a") as file:
        file.write("score_threshold: 60\n")
    words = Page(report.build(Results(run))).words
    assert "Best matches" in words and "Around the threshold" in words
    assert "Likely copies" in words and "Missed" not in words


def test_edits_are_broken_down_where_they_are_known(finished_run, tmp_path):
    root = shutil.copytree(finished_run.parent, tmp_path / "copy")
    truth = Results(finished_run).truth
    truth.assign(ops="mirror+crop").to_csv(root / "meta.csv", index=False)
    profile = root / "run/params.yaml"
    profile.write_text(profile.read_text().replace(str(finished_run.parent), str(root)))
    assert "Edits that are hardest" in report.build(Results(root / "run"), rounds=20)


def test_edits_are_broken_down_by_strength_where_it_is_known(finished_run, tmp_path):
    root = shutil.copytree(finished_run.parent, tmp_path / "copy")
    truth = Results(finished_run).truth
    strengths = [
        "0.1+0.9" if reference == "china" else "0.5+0.9" for reference in truth.reference_id
    ]
    meta = truth.assign(ops="mirror+<b>crop", strengths=strengths)
    meta.to_csv(root / "meta.csv", index=False)
    truth_file = str(root / "truth.csv")
    words = Page(report.build(Results(root / "run", root / "library", truth=truth_file))).words
    assert "editweakmediumstrong" in words
    assert "mirror50% of 250% of 4–" in words and "<b>crop––50% of 6" in words


def test_probabilities_are_judged_as_such(calibrated_run):
    words = Page(report.build(Results(calibrated_run), rounds=20)).words
    assert "Brier score" in words and "too few to tell whether the scores have drifted" in words


def test_a_reviewed_pair_says_so(finished_run, tmp_path):
    root = shutil.copytree(finished_run.parent, tmp_path / "copy")
    results = Results(root / "run", root / "library")
    ids = results.pairs.loc[0, ["query_id", "reference_id"]]
    decisions.append(results.decisions_path, *ids, "same_scene", reviewer="Ada")
    assert "reviewed: same scene" in Page(report.build(results, rounds=0)).words


def test_only_the_named_settings_are_shown(copy_probability):
    assert re.search(r"local_min_confidence</td><td><bdi>0.5<", copy_probability)
