"""The report shows every text as it is, whatever a setting, a task or a model is called."""

from html.parser import HTMLParser

import pytest


pytest.importorskip("matplotlib")

import torch
from PIL import Image

from demask_hf.evaluation.report import verdict_of, write_report


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
    facts = {text: text, "sizes": {text: 3}}
    write_report(tmp_path / "report.html", text, rows, facts, {text: tmp_path / "x.png"})
    reader = _Reader()
    reader.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    return reader


def test_every_text_is_shown_and_none_is_markup(tmp_path):
    plain, hostile = _page(tmp_path, "plain"), _page(tmp_path, HOSTILE)
    assert [(tag, sorted(attributes)) for tag, attributes in hostile.tags] == [
        (tag, sorted(attributes)) for tag, attributes in plain.tags
    ]
    assert sum(f"{SHOWN} 3" == each for each in hostile.texts) == 1
    (image,) = [attributes for tag, attributes in hostile.tags if tag == "img"]
    assert image["alt"] == SHOWN
    assert hostile.texts.count(SHOWN) == plain.texts.count("plain") > 8


def test_nothing_in_the_report_typesets_formulas(tmp_path):
    _page(tmp_path, "costs $x$")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "costs $x$" in page
    assert "<script" not in page


def _written(tmp_path, rows, examples=()):
    write_report(tmp_path / "report.html", "Compared", rows, {"prompts": {"test": 3}, "head": None}, {}, examples)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_verdicts_are_told_apart_and_nothing_is_not_a_number(tmp_path):
    rows = [_row(name, "pairs", is_matched=False) for name in ("base", "good", "open", "bad")]
    rows[0]["is_reference"] = True
    rows[1]["is_matched"] = True
    rows[2]["difference"] = {"mean": -0.01, "lower": -0.03, "upper": 0.01}
    rows[3]["difference"] = {"mean": -0.05, "lower": -0.07, "upper": -0.03}
    unknown = {"average_finalization_parallelism": float("nan"), "left_to_right": float("nan")}
    rows[3]["order"] = {"right": {**unknown, "average_finalization_parallelism": 2.0}, "wrong": unknown}
    assert [verdict_of(row) for row in rows] == ["reference", "yes", "not shown", "worse"]
    page = _written(tmp_path, rows)
    for name in ("reference", "kept", "unsure", "worse"):
        assert page.count(f"<tr class={name}>") == 4
        assert f"tr.{name}" in page or name == "kept"
    assert "-5.00 (-7.00 to -3.00)" in page
    assert "<td>2.00, -</td><td>-</td>" in page
    assert "nan" not in page
    assert "{" not in page[page.index("<body>") :]
    assert "<dt>prompts</dt><dd>test 3</dd>" in page


def test_the_page_fits_the_screen_and_shows_examples_with_the_viewer(tmp_path, browser, scripted):
    model = scripted([{5: 0.9}, {6: 0.8}], prompt_length=1)
    settings = {"max_new_tokens": 2, "strategy": "sequential", "trace": True, "return_dict_in_generate": True}
    trace = model.generate(torch.tensor([[9]]), **settings).trace.to_dict()
    rows = [_row(f"demask:rule=token,dependency_bound=0.0{number}", "pairs") for number in range(8)]
    _written(tmp_path, rows, [trace])
    address = (tmp_path / "report.html").as_uri()
    for width, scheme, paper in ((1280, "light", "rgb(255, 255, 255)"), (400, "dark", "rgb(23, 24, 27)")):
        browser.open(address, width=width, scheme=scheme)
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("getComputedStyle(document.body).backgroundColor") == paper
        fits = "{const e = document.querySelector('.wide'); e.scrollWidth <= e.clientWidth}"
        assert browser.run(fits) is (width == 1280)
        # The frame has no access to the page, nor the page to the frame.
        assert browser.run("document.querySelector('iframe').contentDocument") is None
        assert browser.picture().startswith(b"\x89PNG")
        assert browser.errors == []
        assert {url.split(":")[0] for url in browser.requests} <= {"file", "about", "data"}
