"""The benchmark on a pretrained masked language model: what it does without the wheel, and with it."""

import importlib.util
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest


def _has_wheel():
    try:
        return bool(metadata.version("rxnmapper"))
    except metadata.PackageNotFoundError:
        return False


needs_wheel = pytest.mark.skipif(
    not _has_wheel(), reason="needs the wheel with the model: pip install --no-deps rxnmapper==0.4.3"
)


@pytest.fixture(scope="module")
def benchmark():
    file = Path(__file__).parents[1] / "benchmarks" / "reactions.py"
    spec = importlib.util.spec_from_file_location("reactions_benchmark", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def loaded(benchmark, tmp_path_factory):
    return benchmark.load_model(tmp_path_factory.mktemp("reactions") / "albert")


def test_reactions_are_many_and_their_rings_close(benchmark):
    texts = benchmark.reactions(seed=0)
    assert len(texts) == len(set(texts)) >= 600
    assert texts == benchmark.reactions(seed=0) != benchmark.reactions(seed=1)
    for text in texts:
        left, right = text.split(">>")
        for part in (*left.split("."), right):
            # Digits inside brackets are charges.
            plain = "".join(piece.split("]")[-1] for piece in part.split("["))
            assert all(plain.count(digit) % 2 == 0 for digit in "12"), part
            assert part.count("(") == part.count(")"), part


def test_a_missing_wheel_is_named(benchmark, monkeypatch, tmp_path):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(benchmark.metadata, "files", missing)
    with pytest.raises(ModuleNotFoundError, match=r"rxnmapper is missing: pip install --no-deps rxnmapper==0\.4\.3"):
        benchmark.load_model(tmp_path / "albert")


@needs_wheel
def test_tokens_are_atoms_and_masks_stay_within_bounds(benchmark, loaded):
    _, tokenizer = loaded
    tokens = tokenizer.tokenize("CC[O-]~[Na+].BrCC>>CCOCC")
    assert tokens == ["C", "C", "[O-]", "~", "[Na+]", ".", "Br", "C", "C", ">>", "C", "C", "O", "C", "C"]
    batch = benchmark.masked_batches(tokenizer, benchmark.reactions(0)[:32] + benchmark.FROM_WHEEL, seed=0)[0]
    is_masked = batch["sequences"] == tokenizer.mask_token_id
    special = [tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id]
    may_be_masked = ~torch.isin(batch["truth"], torch.tensor(special))
    assert not (is_masked & ~may_be_masked).any()
    shares = is_masked.sum(-1) / may_be_masked.sum(-1)
    assert shares.min() >= 0.15
    assert shares.max() <= 0.6 + 1 / may_be_masked.sum(-1).min()
    assert tokenizer.unk_token_id not in batch["truth"]


@needs_wheel
def test_the_model_knows_reactions(benchmark, loaded):
    """Far above chance over 591 tokens: the weights are read right."""
    model, tokenizer = loaded
    texts = sorted(benchmark.reactions(seed=0), key=len)[:8]
    outcome = benchmark.decode(model, benchmark.masked_batches(tokenizer, texts, seed=0), {"name": "threshold"})
    assert outcome["accuracy"].shape == (8,)
    assert outcome["accuracy"].mean() > 0.6


@needs_wheel
def test_gathered_rows_equal_the_full_forward(benchmark, loaded):
    model, tokenizer = loaded
    sequences = benchmark.masked_batches(tokenizer, ["CCC[O-]~[Na+].BrCC>>CCOCCC"], seed=0)[0]["sequences"]
    is_masked = sequences == tokenizer.mask_token_id
    prediction = Backbone.of(model).predict(PredictionRequest(sequences, is_masked, None))
    words = [token for token in range(591) if token not in tokenizer.all_special_ids]
    words.append(tokenizer.mask_token_id)
    expected = model(sequences).logits[is_masked]
    torch.testing.assert_close(prediction.logits[:, words], expected[:, words], atol=1e-4, rtol=1e-4)


@needs_wheel
def test_filled_reactions_keep_what_was_visible(benchmark, loaded):
    model, tokenizer = loaded
    batch = benchmark.masked_batches(tokenizer, ["CC(C)S.Fc1cccnc1F>>CC(C)Sc1ncccc1F"], seed=1)[0]
    filled = model.generate(batch["sequences"], batch["attention_mask"], max_new_tokens=0)
    is_given = batch["sequences"] != tokenizer.mask_token_id
    assert torch.equal(filled[is_given], batch["truth"][is_given])
    assert not torch.isin(filled[~is_given], torch.tensor(tokenizer.all_special_ids)).any()


def test_the_report_compares_with_one_token_per_forward(benchmark):
    accuracy = np.array([1.0, 0.5, 1.0, 0.5])
    outcomes = {
        "sequential, confidence": {"accuracy": accuracy, "num_forward_passes": np.array([8, 8, 8, 8])},
        "threshold 0.9": {"accuracy": accuracy - 0.25, "num_forward_passes": np.array([2, 2, 2, 2])},
    }
    rows = benchmark.report(outcomes)
    assert rows[0]["difference"] == 0
    assert rows[1]["difference"] == rows[1]["lower"] == rows[1]["upper"] == -0.25
    assert rows[1]["speed_up"] == 4
    assert [row["all_right"] for row in rows] == [0.5, 0]
    assert rows[1]["num_states"] == 4
