"""The page: what is in it, and what hostile texts do to it."""

import html
import json
import re
from types import SimpleNamespace

import pytest
import torch

from demask_hf.watching import live_page, page_of, write_page


HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "\u2028{{script}}",
]


@pytest.fixture
def hostile(scripted):
    """Return a trace whose every text is hostile."""
    model = scripted([{5: 0.9}, {6: 0.8}], prompt_length=1)
    speller = SimpleNamespace(decode=lambda tokens, **kwargs: "".join(HOSTILE[token % 3] for token in tokens))
    output = model.generate(
        torch.tensor([[9]]),
        max_new_tokens=2,
        strategy="sequential",
        trace=True,
        tokenizer=speller,
        return_dict_in_generate=True,
    )
    trace = output.trace.to_dict()
    trace["generation"]["title"] = HOSTILE[0]
    return trace


@pytest.fixture
def pair_trace(scripted):
    """Return the trace of two positions."""
    model = scripted([{5: 0.9}, {6: 0.8}], prompt_length=1)
    settings = {"max_new_tokens": 2, "strategy": "sequential", "trace": True, "return_dict_in_generate": True}
    return model.generate(torch.tensor([[9]]), **settings).trace


def test_the_page_loads_nothing(pair_trace):
    page = page_of([pair_trace.to_dict()])
    # The name of SVG is no address that is loaded.
    page = page.replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?:|@import|url\(|<link|<img|\bsrc=|fetch\(|XMLHttpRequest|WebSocket", page) == []
    assert "default-src 'none'" in page
    assert "{{" not in page


def test_the_page_of_a_server_talks_to_it_alone(pair_trace):
    page = live_page().replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"https?:|@import|url\(|<link|<img|\bsrc=|XMLHttpRequest|WebSocket", page) == []
    assert "default-src 'none'" in page
    assert "connect-src 'self'; " in page
    assert "connect-src" not in page_of([pair_trace.to_dict()])
    assert "{{" not in page


def test_texts_are_escaped_in_the_page(hostile):
    page = page_of([hostile])
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert "\u2028" not in page
    data = re.search(r'<script type="application/json" id="traces">(.*?)</script>', page)[1]
    assert json.loads(data) == [hostile]
    # A mark in a text stays as it is.
    assert page.count("{{script}}") == data.count("{{script}}") > 0


def test_a_notebook_gets_the_page_in_a_frame_of_its_own(pair_trace):
    frame = pair_trace._repr_html_()
    assert frame.startswith("<iframe")
    assert 'sandbox="allow-scripts allow-downloads"' in frame
    page = re.search(r'srcdoc="([^"]*)"', frame)[1]
    assert html.unescape(page) == page_of([pair_trace.to_dict()])


def test_the_page_is_written_as_a_file(pair_trace, tmp_path):
    pair_trace.to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page_of([pair_trace.to_dict()])
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_a_page_needs_a_trace(tmp_path):
    with pytest.raises(ValueError, match="`traces` must hold at least one trace, got none."):
        write_page([], tmp_path / "page.html")


def test_halves_of_surrogate_pairs_can_be_written(hostile, tmp_path):
    hostile["prompt"]["text"] = "\ud800"
    write_page([hostile], tmp_path / "page.html")
    assert "\\ud800" in (tmp_path / "page.html").read_text(encoding="utf-8")
