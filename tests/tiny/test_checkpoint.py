"""The shipped small checkpoint: it loads, and does what it is shipped for."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import demask_hf
from demask_hf.evaluation import Outcome, evaluate
from demask_hf.tasks import FAMILIES
from demask_hf.tiny.tokenizer import build_tokenizer


pytestmark = pytest.mark.skipif(
    not Path(demask_hf.TINY_DREAM, "model.safetensors").is_file()
    or not Path(demask_hf.TINY_DEMASK, "model.safetensors").is_file(),
    reason="needs the shipped checkpoint, which `make tiny` writes",
)
# Parity is shipped as the case in which pairwise dependencies must fail.
LEARNED = [name for name in FAMILIES if name != "parity"]


@pytest.fixture(scope="module")
def model():
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    model.load_demask_head(demask_hf.TINY_DEMASK)
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)


def test_it_is_a_small_dream_with_its_head(model):
    assert isinstance(model, demask_hf.DreamModel)
    assert isinstance(model.demask_head, demask_hf.DemaskHead)
    assert isinstance(AutoModel.from_pretrained(demask_hf.TINY_DEMASK), demask_hf.DemaskHead)
    folders = [Path(demask_hf.TINY_DREAM), Path(demask_hf.TINY_DEMASK)]
    assert sum(file.stat().st_size for folder in folders for file in folder.rglob("*")) < 16_000_000
    assert all((folder / "README.md").is_file() for folder in folders)


def test_its_tokenizer_is_the_one_that_is_built(tokenizer):
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    text = "pairs: =07, =18 -> 3+4, 9+9"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_learned_family_is_mostly_right_with_far_fewer_forward_passes(model, tokenizer):
    examples = [example for name in LEARNED for example in FAMILIES[name].distinct("test", 8)]
    sequential = Outcome.of_records(evaluate(model, tokenizer, examples, "sequential", order="entropy"))
    demask = Outcome.of_records(evaluate(model, tokenizer, examples, "demask"))
    # The measured shares are far above; a sample of 56 prompts is not a benchmark.
    assert sequential.accuracy >= 0.9
    assert demask.accuracy >= 0.85
    assert demask.mean_forward_passes < sequential.mean_forward_passes / 3


def test_half_precision_gives_readable_answers(tokenizer):
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM, dtype=torch.bfloat16)
    model.load_demask_head(demask_hf.TINY_DEMASK, dtype=torch.bfloat16)
    examples = FAMILIES["lists"].distinct("test", 8)
    assert Outcome.of_records(evaluate(model, tokenizer, examples, "demask")).accuracy >= 0.5
