# SPDX-License-Identifier: AGPL-3.0-or-later
import pytest

from imgfp.viz.document import Document, wrapped


@pytest.mark.parametrize(
    "text", ["a few words of text " * 9, "W" * 200, "i" * 400, "", " two  blanks "]
)
def test_lines_are_as_wide_as_they_may_be_and_lose_nothing(text):
    lines = wrapped(text, 150, 8)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert len(lines) == 1 or all(len(line) >= 2 for line in lines[:-1])
    narrow, wide = (max(map(len, wrapped(one * 300, 150, 8))) for one in "Wi")
    assert narrow < 25 < 50 < wide, "lines are measured, not counted"


def test_words_are_kept_whole_where_they_fit():
    assert wrapped("one two three", 30, 8) == ["one", "two", "three"]


def test_a_glyph_that_is_missing_is_an_escape():
    assert wrapped("a\u4e2d\nb", 500, 8) == ["a\\u4e2d\\nb"]


def test_what_does_not_fit_begins_a_new_page_and_a_long_row_is_one_piece():
    paper = Document("title")
    paper.table(("name", "value"), [(f"row {n}", "x " * 40) for n in range(120)], (0.5, 0.5))
    pdf = paper.to_pdf()
    assert pdf.count(b"/Type /Page ") == len(paper._pages) > 2
    for page in paper._pages:
        heights = [text.get_position()[1] for text in page.texts]
        assert min(heights) > 0.04 and max(heights) < 1
