"""Backbones in other number formats than their head."""

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import demask_hf


PROMPT = "sort: DACBE FGAHJ TRNPM KLBCA -> "
ANSWER = "ABCDE AFGHJ MNPRT ABCKL"


def answer(model, **arguments):
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    sequences = model.generate(**inputs, strategy="demask", max_new_tokens=32, **arguments)
    return tokenizer.decode(sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("arguments", [{}, {"cache": "dual", "block_length": 8}], ids=["exact", "dual"])
@pytest.mark.parametrize("head_dtype", [torch.float32, torch.bfloat16])
def test_a_half_precision_backbone_works_with_a_head_of_any_precision(head_dtype, arguments):
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM, dtype=torch.bfloat16)
    head = model.load_demask_head(demask_hf.TINY_DEMASK, dtype=head_dtype)
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert head.dtype == head_dtype
    assert answer(model, **arguments) == ANSWER


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
    assert answer(model, cache="dual", block_length=8) == ANSWER
