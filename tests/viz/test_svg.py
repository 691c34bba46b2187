import xml.etree.ElementTree as ET

import numpy as np
import pytest

from imgfp import viz
from imgfp.images import encode_jpeg
from imgfp.viz import svg

EMPTY = np.empty((0, 2))


def drawings(photograph: np.ndarray, name: str) -> dict[str, str]:
    """Every SVG drawing, with `name` wherever a text is shown."""
    jpeg, size = encode_jpeg(photograph[::4, ::4]), (640, 427)
    xy, box = np.array([[1.0, 2], [600, 400]]), np.array([[0.0, 0, 9, 9]])
    inliers = np.array([True, False])
    sides = (jpeg, jpeg, size, size)
    fig, ax = viz.figure(3, 2)
    ax.plot([0, 1], [0, 1])
    chart = svg.Chart.of(fig, ax)
    return {
        "outlined": svg.outlined(jpeg, size, xy, name),
        "picture": svg.picture(jpeg, size),
        "boxes": svg.boxes(jpeg, size, box, [name], {0: name}, [0.5]),
        "matches": svg.matches(*sides, xy, xy, inliers, [name] * 2, query_outline=xy),
        "no matches": svg.matches(*sides, EMPTY, EMPTY, np.empty(0, bool)),
        "layers": svg.layers(jpeg, jpeg, size, 0.5),
        "flicker": svg.layers(jpeg, jpeg, size, 1, flicker=True),
        "dots": svg.dots(jpeg, size, xy, ["#000", "#fff"], [name] * 2),
        "cut": svg.cut(jpeg, size, box[0], 90),
        "chart": chart.marked(dot=(0.5, 0.5)),
    }


@pytest.mark.parametrize("drawing", drawings(np.zeros((40, 60, 3), np.uint8), ""))
def test_svg_is_well_formed_and_names_in_it_are_text(photograph, hostile_name, drawing):
    text = drawings(photograph, hostile_name)[drawing]
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


def test_a_mark_on_a_chart_lies_at_its_data_coordinates():
    fig, ax = viz.figure(4, 3)
    ax.set(xlim=(0, 10), ylim=(0, 1))
    chart = svg.Chart.of(fig, ax)
    x0, y0, x1, y1 = chart.frame
    dot = ET.fromstring(chart.marked(dot=(5, 0.25))).find("{http://www.w3.org/2000/svg}circle")
    assert float(dot.get("cx")) == pytest.approx((x0 + x1) / 2, abs=0.1)
    assert float(dot.get("cy")) == pytest.approx(y1 - (y1 - y0) / 4, abs=0.1)
    assert 0 < x0 < x1 < chart.size[0]
