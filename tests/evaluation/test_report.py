"""The report shows every text as it is, whatever a setting, a task or a model is called."""

from html.parser import HTMLParser

import pytest


pytest.importorskip("matplotlib")

from PIL import Image

from demask_hf.evaluation.report import write_report


HOSTILE = (
    "</td><script>alert(1)</script><img src=x onerror=alert(1)> \"'> & $\\frac{ ${x} \ud800 \0 {{7*7}} <!-- <![CDATA["
)
# What a file can hold of it.
SHOWN = HOSTILE.replace("\ud800", "?")


class _Reader(HTMLParser):
    """Collects tags with their attributes, and the text of headings, cells and facts."""

    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def handle_comment(self, data):
        raise AssertionError(data)


def _row(label, family, is_chosen=True, is_matched=True):
    order = {"average_finalization_parallelism": 1.0, "left_to_right": 0.5}
    return {
        "label": label,
        "row": label,
        "reference": label,
        "is_chosen": is_chosen,
        "is_matched": is_matched,
        "is_reference": False,
        "accuracy": 0.5,
        "accuracy_sd": None,
        "difference": {"mean": 0.0, "lower": 0.0, "upper": 0.0},
        "p_value": 1.0,
        "mean_forward_passes": 2.0,
        "mean_row_forwards": 2.0,
        "mean_probe_passes": 0.0,
        "aup": 50.0,
        "whole_length_forward_passes": None,
        "speed_up": {"value": 1.0, "lower": 1.0, "upper": 1.0},
        "tokens_per_forward": 1.0,
        **order,
        "diversity": None,
        "tokens_per_second": 1.0,
        "families": {family: {"accuracy": 0.5, "mean_forward_passes": 2.0, "difference": None}},
        "order": {"right": order, "wrong": order},
    }


def _page(tmp_path, text):
    Image.new("RGB", (1, 1)).save(tmp_path / "x.png")
    rows = [_row(text, text), _row(text, text, is_chosen=False, is_matched=False)]
    write_report(tmp_path / "report.html", text, rows, {text: text}, {text: tmp_path / "x.png"})
    reader = _Reader()
    reader.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    return reader


def test_every_text_is_shown_and_none_is_markup(tmp_path):
    plain, hostile = _page(tmp_path, "plain"), _page(tmp_path, HOSTILE)
    assert [(tag, sorted(attributes)) for tag, attributes in hostile.tags] == [
        (tag, sorted(attributes)) for tag, attributes in plain.tags
    ]
    (image,) = [attributes for tag, attributes in hostile.tags if tag == "img"]
    assert image["alt"] == SHOWN
    assert hostile.texts.count(SHOWN) == plain.texts.count("plain") > 8


def test_nothing_in_the_report_typesets_formulas(tmp_path):
    _page(tmp_path, "costs $x$")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "costs $x$" in page
    assert "<script" not in page
