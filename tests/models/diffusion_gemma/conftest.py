"""A DiffusionGemma with random weights, canvases of 8 tokens."""

import copy
import importlib.util

import pytest
import torch


if importlib.util.find_spec("transformers.models.diffusion_gemma") is None:
    pytest.skip("this transformers has no DiffusionGemma", allow_module_level=True)

TEXT = {
    **{"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "head_dim": 16},
    **{
        "global_head_dim": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_experts": 4,
        "top_k_experts": 2,
    },
    **{"moe_intermediate_size": 16, "sliding_window": 8, "max_position_embeddings": 256, "initializer_range": 0.4},
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2},
}
VISION = {
    **{"model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8},
}


def build(**text):
    from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

    tokens = {"image_token_id": 60, "boi_token_id": 59, "eoi_token_id": 58}
    config = DiffusionGemmaConfig(text_config={**TEXT, **text}, vision_config=VISION, canvas_length=8, **tokens)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiffusionGemmaForBlockDiffusion(config).eval()
    # Random weights predict almost uniformly; now rows become certain after different numbers of steps.
    model.lm_head.weight.data.mul_(40)
    model.generation_config.update(pad_token_id=0, eos_token_id=[1, 7], max_denoising_steps=6)
    return model


@pytest.fixture(scope="session")
def theirs():
    return build()


@pytest.fixture(scope="session")
def _ours(theirs):
    from demask_hf import attach

    return attach(copy.deepcopy(theirs))


@pytest.fixture
def ours(_ours):
    yield _ours
    _ours.set_demask_head(None)
