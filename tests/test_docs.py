"""The documents are true: their links lead somewhere, their code runs, their names and messages exist."""

import ast
import contextlib
import io
import re
from pathlib import Path

import pytest
import yaml
from transformers import AutoModel, AutoTokenizer, NoRepeatNGramLogitsProcessor, TextStreamer

import demask_hf


ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], key=str)
PROMPT = "shuffle: JFP BDCP FCG DL MRH TFC -> "

needs_checkpoint = pytest.mark.skipif(
    not Path(demask_hf.TINY_DREAM, "config.json").exists() or not Path(demask_hf.TINY_DEMASK, "config.json").exists(),
    reason="needs the shipped checkpoint, which `make tiny` writes",
)
every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def _prose(document: Path) -> str:
    """Return a document without its blocks of code."""
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def _blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)


def _anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as renderers of Markdown make them."""
    headings = re.findall(r"^#+ (.*)$", _prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_document
def test_relative_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{document.name} links to {target}"
        if anchor:
            assert anchor in _anchors(linked), f"{document.name} links to {target}"


@every_document
def test_lines_are_short(document):
    lines = _prose(document).splitlines()
    assert [line for line in lines if len(line) > 130 and not line.startswith(("|", "!["))] == []


@every_document
def test_blocks_of_python_parse(document):
    for block in _blocks(document, "python"):
        ast.parse(block)


@needs_checkpoint
def test_the_first_block_of_the_readme_prints_what_it_says():
    code = next(block for block in _blocks("README.md", "python") if "TINY_DREAM" in block)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == _blocks("README.md", "text")[0]


def test_the_table_of_the_method_names_what_exists():
    for line in (ROOT / "docs" / "method.md").read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            continue
        # [file](link): `name`, `name`; [file](link): `name`
        for link, names in re.findall(r"\]\(([^)]+\.py)\): ((?:`[^`]+`(?:, )?)+)", line):
            tree = ast.parse((ROOT / "docs" / link).read_text(encoding="utf-8"))
            defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            for name in re.findall(r"`([^`]+)`", names):
                assert set(name.split(".")) <= defined, f"{link} has no {name}"


def test_the_table_of_strategies_has_every_strategy_with_every_field():
    rows = re.findall(
        r"^\| `(\w+)` \|.*\| (.*) \|$", (ROOT / "docs" / "strategies.md").read_text(), flags=re.MULTILINE
    )
    fields = {name: cell for name, cell in rows if name in demask_hf.strategy_names()}
    assert sorted(fields) == demask_hf.strategy_names()
    for name, cell in fields.items():
        assert set(demask_hf.strategy_fields(name)) <= set(re.findall(r"`(\w+)`", cell))


def _refusals():
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    two = tokenizer([PROMPT] * 2, return_tensors="pt")
    padded = tokenizer([PROMPT, "sort: DACBE -> "], padding=True, padding_side="right", return_tensors="pt")
    yield lambda: model.generate(**inputs, strategy="demask")
    yield lambda: model.generate(**padded)
    yield lambda: model.generate(**inputs, do_sample=True, temperature=0)
    yield lambda: model.generate(**inputs, steps=128)
    yield lambda: model.generate(**inputs, gen_length=256)
    yield lambda: model.generate(**inputs, num_beams=4)
    yield lambda: model.generate(**inputs, logits_processor=[NoRepeatNGramLogitsProcessor(2)])
    yield lambda: model.generate_batch([[5]])
    yield lambda: model.generate(**inputs, strategy="dawn", block_cache="dual")
    yield lambda: model.generate(**inputs, strategy="dapd", compile=True)
    yield lambda: model.generate(**two, streamer=TextStreamer(tokenizer))


@needs_checkpoint
def test_messages_of_the_faq_are_those_that_are_raised():
    quoted = " ".join(" ".join(_blocks("docs/faq.md", "text")).split())
    for refused in _refusals():
        with pytest.raises((ValueError, NotImplementedError), match="must|cannot") as error:
            refused()
        assert f"{error.typename}: {error.value}" in quoted


def test_the_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = citation["preferred-citation"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert paper["url"] in (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert paper["title"] in (ROOT / "README.md").read_text(encoding="utf-8")
