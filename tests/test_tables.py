import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demask_hf.tables import Column, html_lines, markdown_lines, text_lines


COLUMNS = (
    Column("setting", "label", is_text=True),
    Column("right", "accuracy", ".1%"),
    Column("forward passes per prompt", lambda row: 2 * row["half"], ".2f"),
)
ROWS = [
    {"label": "demask", "accuracy": 1.0, "half": 1.5},
    {"label": "dawn:edge_threshold=0.05,num_layers=6", "accuracy": None, "half": math.nan},
]


def test_text_is_aligned_and_numbers_stand_to_the_right():
    assert text_lines(COLUMNS, ROWS) == [
        "setting                                 right  forward passes per prompt",
        "demask                                 100.0%                       3.00",
        "dawn:edge_threshold=0.05,num_layers=6       -                          -",
    ]


def test_titles_are_wrapped_before_cells():
    assert text_lines(COLUMNS, ROWS, max_width=60) == [
        "                                               forward",
        "                                                passes",
        "                                                   per",
        "setting                                 right   prompt",
        "demask                                 100.0%     3.00",
        "dawn:edge_threshold=0.05,num_layers=6       -        -",
    ]


def test_a_wrapped_cell_goes_on_below_with_an_indent():
    assert text_lines(COLUMNS, ROWS, max_width=45)[-2:] == [
        "dawn:edge_threshold=0.05,          -        -",
        "  num_layers=6",
    ]


def test_without_a_limit_nothing_is_wrapped():
    lines = text_lines([Column("text", "text", is_text=True)], [{"text": "word " * 50}], max_width=math.inf)
    assert len(lines) == 2


def test_columns_without_room_follow_below():
    columns = [Column("rule", "rule", is_text=True), *(Column(name, name, ".2f") for name in ("passes", "tokens"))]
    rows = [{"rule": "demask", "passes": 3, "tokens": 8.25}]
    both = ["rule    passes", "demask    3.00", "", "rule    tokens", "demask    8.25"]
    assert text_lines(columns, rows, 16) == both
    # Less than the first column and one more cannot be.
    assert len(text_lines(columns, rows, 3)) == len(both)


def test_a_table_is_as_wide_as_the_terminal(monkeypatch):
    texts = [{"text": "word " * 50}]
    for width in ("60", "90"):
        monkeypatch.setenv("COLUMNS", width)
        lines = text_lines([Column("text", "text", is_text=True)], texts)
        assert int(width) - 5 <= max(map(len, lines)) <= int(width)


def test_a_title_may_have_two_lines():
    columns = [Column("family", "family", is_text=True), Column("demask\nright", "right", ".0%")]
    rows = [{"family": "pairs", "right": 1}]
    assert text_lines(columns, rows) == ["        demask", "family   right", "pairs     100%"]
    assert markdown_lines(columns, rows)[0] == "| family | demask right |"
    assert "<th>demask right</th>" in html_lines(columns, rows)[0]


def test_a_line_break_in_a_cell_is_visible():
    columns = [Column("text", "text", is_text=True)]
    assert text_lines(columns, [{"text": "a\nb"}])[1] == r"a\nb"
    assert markdown_lines(columns, [{"text": "a\nb|c"}])[2] == r"| a b\|c |"


@given(st.lists(st.from_regex(r"[ab]{1,8}([,: ][ab]{1,8}){0,9}", fullmatch=True), max_size=4), st.integers(12, 80))
def test_text_fits_and_loses_nothing(texts, width):
    lines = text_lines([Column("t", "text", is_text=True)], [{"text": text} for text in texts], width)
    assert max(map(len, lines)) <= width
    assert "".join(lines).replace(" ", "") == "t" + "".join(texts).replace(" ", "")


def test_markdown_says_how_columns_are_aligned():
    assert markdown_lines(COLUMNS, ROWS) == [
        "| setting | right | forward passes per prompt |",
        "| --- | ---: | ---: |",
        "| demask | 100.0% | 3.00 |",
        "| dawn:edge_threshold=0.05,num_layers=6 | - | - |",
    ]


def test_html_is_escaped_and_rows_have_classes():
    columns = [Column("<setting>", "label")]
    lines = html_lines(
        columns, [{"label": "a<b"}, {"label": "c"}], lambda row: "worse" if row["label"] == "c" else None
    )
    assert lines == [
        "<table><thead><tr><th>&lt;setting&gt;</th></tr></thead><tbody>",
        "<tr><td>a&lt;b</td></tr>",
        "<tr class=worse><td>c</td></tr>",
        "</tbody></table>",
    ]


@pytest.mark.parametrize("write", [text_lines, markdown_lines])
def test_a_table_without_rows_has_its_titles(write):
    assert "setting" in write(COLUMNS, [])[0]
