import io
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from imgfp import viz
from imgfp.images import decode_image, encode_jpeg
from imgfp.viz import svg
from imgfp.viz.pictures import overlay, spread

NASTY = "a$b_{x\n</svg><script>alert(1)</script>\u202e"
EMPTY = np.empty((0, 2))


def pixels(drawn: Figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(viz.to_png(drawn))).convert("RGB"))


def tables():
    groups = {"group": ["flip"], "positives": [3], "recall": [0.5], "proposed": [0.7]}
    return pd.DataFrame(groups), pd.DataFrame(groups).head(0)


def calls(photograph):
    """Every drawing: with something to draw, then with nothing."""
    some, none = tables()
    boxes = np.array([[10, 10, 200, 200], [5, 5, 50, 60]])
    points, ends = np.array([[100.0, 90, 20, 1.2]]), np.array([[30.0, 40], [300, 200]])
    thirds = np.array([0.2, 0.5, 0.9])
    pair = (photograph, photograph)
    return {
        "image": (viz.draw_image, (photograph, NASTY), (photograph,)),
        "sheet": (viz.draw_contact_sheet, ([photograph] * 3, [NASTY] * 3, 2), ([],)),
        "boxes": (viz.draw_boxes, (photograph, boxes, [NASTY] * 2, [0]), (photograph, EMPTY)),
        "keypoints": (
            viz.draw_keypoints,
            (photograph, points, NASTY),
            (photograph, np.empty((0, 4))),
        ),
        "matches": (viz.draw_matches, (*pair, ends, ends, [True, False]), (*pair, EMPTY, EMPTY)),
        "outline": (viz.draw_outline, (ends,), (EMPTY,)),
        "overlay": (viz.draw_overlay, pair, pair),
        "scores": (viz.draw_score_histogram, (thirds, thirds / 2, 0.4), ([],)),
        "curve": (viz.draw_precision_recall, (thirds, thirds, [(NASTY, 0.5, 0.5)]), ([], [])),
        "bars": (viz.draw_bars, ([NASTY, "b"], [1.0, np.nan]), ([], [])),
        "votes": (viz.draw_votes, ([NASTY, "b"], [4, 2], 0, 3), ([], [], None, 3)),
        "reliability": (viz.draw_reliability, (thirds, thirds, [1, 2, 3]), ([], [], [])),
        "breakdown": (viz.draw_breakdown, (some.replace("flip", NASTY),), (none,)),
        "losses": (viz.draw_curve, ({NASTY: thirds},), ({},)),
    }


@pytest.mark.parametrize("name", calls(np.zeros((4, 4, 3), np.uint8)))
@pytest.mark.parametrize("filled", [False, True])
def test_draws_on_the_axes_given_and_returns_it(photograph, name, filled):
    import matplotlib.pyplot as plt

    draw, some, none = calls(photograph)[name]
    image_before = photograph.copy()
    drawn, ax = viz.figure(3, 2)
    assert draw(ax, *(some if filled else none)) is ax
    assert pixels(drawn).std() > 0 or name == "outline"
    assert np.array_equal(photograph, image_before), "the picture was painted on"
    assert not plt.get_fignums(), "a figure was left with pyplot"


def test_figure_shows_itself_and_its_axes_are_squeezed():
    drawn, _ = viz.figure(2, 1)
    assert drawn._repr_png_()[:4] == b"\x89PNG"
    assert viz.figure(2, 1, rows=2, columns=3)[1].shape == (2, 3)
    assert viz.figure(2, 1, columns=3)[1].shape == (3,)


@pytest.mark.parametrize(
    ("text", "limit", "shown"),
    [
        ("", 5, ""),
        ("plain", 5, "plain"),
        ("one/two/three", 7, "one…ree"),
        ("a\nb\tc", 0, "a\\nb\\tc"),
        ("\u202egpj", 0, "\\u202egpj"),
        ("\u2028", 0, "\\u2028"),
        ("café ж 日本", 0, "café ж 日本"),
    ],
)
def test_labels_are_one_visible_line(text, limit, shown):
    assert viz.label(text, limit) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (143.25, "143.2"), (2.3e-7, "2.3e-07"), (1.0, "1"), (1 - 3.7e-6, "0.99999630")],
)
def test_scores_near_one_are_told_from_one(value, shown):
    assert viz.number(value) == shown


@pytest.mark.parametrize(
    ("scale", "scores", "threshold", "place", "named"),
    [
        ("odds", [1e-6, 0.5, 1 - 1e-6, 0.0, 1.0], 0.99, np.log(99), "0.5"),
        ("log", [0, 3, 40, 2500], 99, 2.0, "1,000"),
    ],
)
def test_a_threshold_stands_where_the_scale_says(scale, scores, threshold, place, named):
    _, ax = viz.figure(4, 3)
    viz.draw_score_histogram(ax, scores, [1.0], threshold, scale=scale)
    line = next(line for line in ax.lines if str(line.get_label()).startswith("threshold"))
    assert line.get_xdata()[0] == pytest.approx(place) and str(threshold) in line.get_label()
    assert named in [text.get_text() for text in ax.get_xticklabels()]


@pytest.mark.parametrize("name", viz.SCALES)
def test_scales_are_read_back(name):
    scores = np.array([0.001, 0.5, 0.999])
    assert np.allclose(viz.SCALES[name].score(viz.SCALES[name].place(scores)), scores)


def test_only_the_surest_boxes_are_drawn_and_all_chosen_ones(photograph):
    _, ax = viz.figure(4, 3)
    boxes = np.tile([10.0, 10, 90, 90], (9, 1))
    viz.draw_boxes(ax, photograph, boxes, [str(row) for row in range(9)], chosen=[7], others=2)
    assert sorted(text.get_text() for text in ax.texts) == ["0", "1", "7"]


def test_a_notebook_shows_a_figure_without_empty_space(photograph):
    drawn, ax = viz.figure(6, 6)
    viz.draw_contact_sheet(ax, [photograph] * 4, columns=4)
    shown = decode_image(drawn._repr_png_(), "shown")[0]
    assert shown.shape[0] < 0.4 * shown.shape[1]


def test_boxes_on_a_thumbnail_count_in_the_original(photograph):
    small = photograph[::4, ::4]
    for picture, size in ((photograph, None), (small, (640, 427))):
        drawn, ax = viz.figure(4, 3)
        viz.draw_boxes(ax, picture, [[320, 0, 640, 427]], chosen=[0], size=size)
        drawn.canvas.draw()
        patch = ax.patches[0].get_window_extent()
        assert patch.x0 == pytest.approx((ax.bbox.x0 + ax.bbox.x1) / 2, abs=3)


def test_match_lines_end_where_the_matches_are(photograph):
    _, ax = viz.figure(6, 3)
    xy = np.array([[0.0, 0.0], [640, 427]])
    viz.draw_matches(ax, photograph, photograph[:, :320], xy, xy * [0.5, 1], [True, True])
    lines = [c.get_segments() for c in ax.collections if isinstance(c, LineCollection)]
    ends = next(segments for segments in lines if len(segments))
    assert len(ends) == 2
    first, last = ends
    assert first[0] == pytest.approx([0, 0]) and last[0] == pytest.approx([640 / 427, 1])
    assert last[1][0] - first[1][0] == pytest.approx(320 / 427)


def test_spread_keeps_the_ends_and_the_limit():
    assert spread(np.arange(3), 5).tolist() == [0, 1, 2]
    kept = spread(np.arange(100), 10)
    assert len(kept) == 10 and kept[0] == 0 and kept[-1] == 99


def test_overlay_is_the_reference_the_query_or_white_where_they_agree(photograph, other_photograph):
    assert np.array_equal(overlay(other_photograph, photograph, blend=0), photograph)
    assert np.array_equal(overlay(other_photograph, photograph, blend=1), other_photograph)
    same = overlay(photograph, photograph, difference=True)
    assert (same == 255).all()
    half = np.zeros(photograph.shape[:2], bool)
    half[:, :320] = True
    outside = overlay(other_photograph, photograph, half, difference=True)[:, 320:]
    assert outside.std() > 0 and not (outside == 255).all()
    with pytest.raises(ValueError, match="differ in size"):
        overlay(photograph[:10], photograph)


def drawings(photograph):
    jpeg, size = encode_jpeg(photograph[::4, ::4]), (640, 427)
    xy, box = np.array([[1.0, 2], [600, 400]]), np.array([[0.0, 0, 9, 9]])
    inliers = np.array([True, False])
    sides = (jpeg, jpeg, size, size)
    drawn, ax = viz.figure(3, 2)
    ax.plot([0, 1], [0, 1])
    chart = svg.Chart.of(drawn, ax)
    return {
        "outlined": svg.outlined(jpeg, size, xy, NASTY),
        "boxes": svg.boxes(jpeg, size, box, [NASTY], {0: NASTY}, [0.5]),
        "matches": svg.matches(*sides, xy, xy, inliers, [NASTY] * 2, query_outline=xy),
        "no matches": svg.matches(*sides, EMPTY, EMPTY, np.empty(0, bool)),
        "layers": svg.layers(jpeg, jpeg, size, 0.5),
        "flicker": svg.layers(jpeg, jpeg, size, 1, flicker=True),
        "dots": svg.dots(jpeg, size, xy, ["#000", "#fff"], [NASTY] * 2),
        "cut": svg.cut(jpeg, size, box[0], 90),
        "chart": chart.marked(dot=(0.5, 0.5)),
    }


@pytest.mark.parametrize("name", drawings(np.zeros((40, 60, 3), np.uint8)))
def test_svg_is_well_formed_and_names_in_it_are_text(photograph, name):
    text = drawings(photograph)[name]
    root = ET.fromstring(f"<div>{text}</div>")
    assert len(root) == 1
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert "script" not in tags and "image" in tags
    assert "\u202e" not in text and "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_one_match_can_be_picked(photograph):
    jpeg, size = encode_jpeg(photograph[::4, ::4]), (640, 427)
    xy, inliers = np.ones((5, 2)), np.array([True, False, True, False, True])
    given = (jpeg, jpeg, size, size, xy, xy, inliers)
    assert svg.matches(*given).count("<line") == 5
    assert svg.matches(*given, outliers=False).count("<line") == 3
    assert svg.matches(*given, highlight=1).count("<line") == 1


def test_a_mark_on_a_chart_lies_where_the_axis_says():
    drawn, ax = viz.figure(4, 3)
    ax.set(xlim=(0, 10), ylim=(0, 1))
    chart = svg.Chart.of(drawn, ax)
    x0, y0, x1, y1 = chart.frame
    dot = ET.fromstring(chart.marked(dot=(5, 0.25))).find("{http://www.w3.org/2000/svg}circle")
    assert float(dot.get("cx")) == pytest.approx((x0 + x1) / 2, abs=0.1)
    assert float(dot.get("cy")) == pytest.approx(y1 - (y1 - y0) / 4, abs=0.1)
    assert 0 < x0 < x1 < chart.size[0]
