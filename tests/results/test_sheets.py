import numpy as np
import pandas as pd

from imgfp.results import Results, sheets


def test_each_pair_gives_two_thumbnails_and_two_titles(finished_run):
    results = Results(finished_run)
    pairs = results.pairs.head(2)
    images = sheets.pair_thumbnails(results.run, results.library, pairs)
    query_id, reference_id, score = pairs.loc[0, ["query_id", "reference_id", "score"]]
    assert len(images) == 4
    assert np.array_equal(images[0], results.thumbnail("query", query_id))
    assert np.array_equal(images[1], results.thumbnail("reference", reference_id))
    titles = sheets.pair_titles(pairs, "matches")
    assert titles[:2] == [f"{query_id}  {score:.4g} matches", reference_id]


def test_the_highest_and_the_lowest_scores_are_drawn_once(finished_run, monkeypatch):
    results, drawn = Results(finished_run), []
    monkeypatch.setattr(sheets, "draw_pairs", lambda *given: drawn.append(given[2]))
    pairs = results.pairs.head(5)
    for count in (2, 4):
        sheets.draw_best_and_worst(results.run, results.library, pairs, count=count)
    assert [table["score"].tolist() for table in drawn] == [
        pairs["score"].tolist()[:2] + pairs["score"].tolist()[-2:],
        pairs["score"].tolist(),
    ]


def test_pairs_are_drawn_with_their_titles(finished_run):
    results = Results(finished_run)
    fig = sheets.draw_pairs(results.run, results.library, results.pairs.head(4))
    (ax,) = fig.axes
    assert len(ax.images) == len(ax.texts) == 8


def test_changes_show_both_scores():
    columns = ["query_id", "reference_id", "score_before", "score_after"]
    pairs = pd.DataFrame([("q", "r", np.nan, 0.5), ("p", "s", 0.25, 1.0)], columns=columns)
    assert sheets.change_titles(pairs) == ["q  none to 0.5", "r", "p  0.25 to 1", "s"]
