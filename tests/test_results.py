"""The tables of the documentation are those of the stored records."""

import importlib
import re
from pathlib import Path

import pytest


pytest.importorskip("scipy")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("write_results")


def test_every_table_is_computed_again_from_the_records(script, capsys):
    assert script.main(["--check"]) == 0, capsys.readouterr().out


def test_every_archive_has_a_table_and_every_page_one(script):
    named = {
        page: set(re.findall(r"<!-- table \w+ of ([\w.]+) -->", (ROOT / page).read_text())) for page in script.PAGES
    }
    archives = {file.name.removesuffix(".json.xz") for file in (ROOT / "docs" / "results" / "records").glob("*.xz")}
    assert archives
    # A table of a part of a study names it behind a dot.
    names = set().union(*named.values())
    assert archives <= names | {name.rpartition(".")[0] for name in names}
    assert all(named.values())


def test_an_edited_number_is_found(script, monkeypatch, tmp_path, capsys):
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    start = page.index("<!-- table settings of temperature_0 -->")
    edited = page[:start] + page[start:].replace("99.", "98.", 1)
    (tmp_path / "page.md").write_text(edited, encoding="utf-8")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "PAGES", ("page.md",))
    assert script.main(["--check"]) == 1
    assert "page.md: differs from its records" in capsys.readouterr().out
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == edited
    assert script.main([]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page


def test_an_unknown_table_is_named(script):
    with pytest.raises(ValueError, match="a table must be one of settings, .*, got 'prices'"):
        script.written("<!-- table prices of bread -->\n\n\n\n<!-- end -->")
