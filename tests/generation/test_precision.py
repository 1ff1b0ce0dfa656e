"""Backbones in other number formats than their head."""

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import demask_hf
from demask_hf.strategies import make_strategy, strategy_names


PROMPT = "sort: DACBE FGAHJ TRNPM KLBCA -> "
ANSWER = "ABCDE AFGHJ MNPRT ABCKL"


def answer(model, **arguments):
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    sequences = model.generate(**inputs, strategy="demask", max_new_tokens=32, **arguments)
    return tokenizer.decode(sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("arguments", [{}, {"block_cache": "dual", "block_length": 8}], ids=["exact", "dual"])
@pytest.mark.parametrize("head_dtype", [torch.float32, torch.bfloat16])
def test_a_half_precision_backbone_works_with_a_head_of_any_precision(head_dtype, arguments):
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM, dtype=torch.bfloat16)
    head = model.load_demask_head(demask_hf.TINY_DEMASK, dtype=head_dtype)
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert head.dtype == head_dtype
    assert answer(model, **arguments) == ANSWER


@pytest.mark.parametrize("strategy", strategy_names())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_whatever_a_strategy_reads_is_in_single_precision(make_dream, make_head, seeing, dtype, strategy):
    model = make_dream()
    model.set_demask_head(make_head(model).to(dtype))
    model.to(dtype)
    rule = seeing(make_strategy(strategy))
    model.generate(torch.tensor([[3, 4]]), strategy=rule, max_new_tokens=6, top_p=0.9, temperature=0.5)
    assert rule.steps
    for step in rule.steps:
        read = [step.score("confidence"), *step.known_scores.values(), step.probabilities]
        read += [step.attentions, step.context_confidence]
        assert {tensor.dtype for tensor in read if tensor is not None} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_head_in_half_precision_returns_single_precision(make_dream, make_head, dtype):
    head = make_head(make_dream()).to(dtype)
    output = head(torch.randn(2, 3, 32), torch.arange(3).expand(2, 3), certainty=torch.rand(2, 3, 2))
    assert output.logits.dtype == output.dependencies.dtype == torch.float32
    # More than half precision can tell apart: the product of queries and keys is computed in single precision, too.
    assert not torch.equal(output.logits.to(dtype).float(), output.logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_quantised_backbone_works_with_its_head(dtype):
    quantization = pytest.importorskip("torchao.quantization", reason="needs torchao")
    from transformers import TorchAoConfig

    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM, dtype=dtype, quantization_config=config)
    model.load_demask_head(demask_hf.TINY_DEMASK)
    weight = model.model.layers[0].mlp.up_proj.weight
    assert type(weight).__name__ == "Int8Tensor"
    assert answer(model) == ANSWER
    assert answer(model, block_cache="dual", block_length=8) == ANSWER
