"""What a model shows when it is run: attention that is causal from token to token, or from block to block."""

import pytest
import torch
import transformers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

import demask_hf
from demask_hf.models.probing import BLOCKWISE_TYPES, causal_block_length, is_causal


SIZES = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "intermediate_size": 48, "pad_token_id": 0}


class BlockwiseLlama(LlamaForCausalLM):
    """A Llama whose positions attend to their block and to earlier ones; with length 0 to all."""

    def __init__(self, config):
        super().__init__(config)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **kwargs):
        length = input_ids.shape[1]
        blocks = torch.arange(length) // (self.config.block or length)
        is_seen = blocks[:, None] >= blocks
        if self.config.window:
            is_seen &= (torch.arange(length)[:, None] - torch.arange(length)).abs() <= self.config.window
        return super().forward(input_ids, attention_mask=is_seen[None, None], use_cache=False)


def build(block=0, window=0, dtype=torch.float32, initializer_range=0.2, **fields):
    torch.manual_seed(0)
    config = LlamaConfig(**{**SIZES, "initializer_range": initializer_range, **fields})
    config.block, config.window = block, window
    return BlockwiseLlama(config).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [4, 8, 16, 32, 64])
def test_attention_from_block_to_block_is_refused(length, dtype):
    message = (
        r"`model` must attend in both directions, got BlockwiseLlama: its attention is causal between blocks of "
        rf"{length} tokens, which only native models and `block_alignment` of"
    )
    with pytest.raises(ValueError, match=message):
        demask_hf.attach(build(length, dtype=dtype), mask_token_id=1)


@pytest.mark.parametrize("max_positions", [16, 48, 70, 100])
def test_short_models_are_probed_as_far_as_they_go(max_positions):
    model = build(8, max_position_embeddings=max_positions)
    lengths = []
    model.register_forward_hook(
        lambda module, args, kwargs, output: lengths.append(output.logits.shape[1]), with_kwargs=True
    )
    found = causal_block_length(model)
    assert found == (8 if max_positions > 16 else None)
    assert max(lengths) <= max_positions - 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [0, 2, 3, 4, 7, 8, 16, 40])
@pytest.mark.parametrize("initializer_range", [0.02, 0.2, 0.6])
def test_other_attention_is_taken(window, dtype, initializer_range):
    model = build(window=window, dtype=dtype, initializer_range=initializer_range)
    assert not is_causal(model)
    assert causal_block_length(model) is None
    assert demask_hf.attach(model, mask_token_id=1) is model


@pytest.mark.parametrize("name", ["Bert", "Roberta", "DebertaV2", "FNet", "MPNet", "NomicBert", "Esm"])
@pytest.mark.parametrize("max_positions", [24, 160])
def test_encoders_of_transformers_show_no_blocks(name, max_positions):
    if not hasattr(transformers, f"{name}ForMaskedLM"):
        pytest.skip("not in this version of transformers")
    sizes = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
    extra = {"mask_token_id": 1} if name == "Esm" else {}
    config = getattr(transformers, f"{name}Config")(**sizes, **extra, max_position_embeddings=max_positions)
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForMaskedLM")(config).eval()
    assert causal_block_length(model) is None


class PooledConfig(PreTrainedConfig):
    model_type = "pooled"
    vocab_size: int = 40
    hidden_size: int = 16


class PooledForMaskedLM(PreTrainedModel):
    """Every position sees the mean of all, which one token of a long text moves by little."""

    config_class = PooledConfig

    def __init__(self, config):
        super().__init__(config)
        self.embedding, self.output = nn.Embedding(40, 16), nn.Linear(16, 40)
        self.post_init()

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids):
        states = self.embedding(input_ids)
        return MaskedLMOutput(logits=self.output(torch.tanh(states + states.mean(dim=1, keepdim=True))))


def test_a_model_that_sees_the_mean_is_taken():
    torch.manual_seed(0)
    demask_hf.attach(PooledForMaskedLM(PooledConfig()).eval(), mask_token_id=1)


@pytest.mark.parametrize("model_type", sorted(BLOCKWISE_TYPES))
def test_published_models_that_need_blocks_are_refused_by_their_type(model_type):
    """Their own `generate` makes the mask; without one they attend in both directions."""
    model = build()
    model.config.model_type = model_type
    with pytest.raises(ValueError, match=rf"causal between blocks of {BLOCKWISE_TYPES[model_type]} tokens"):
        demask_hf.attach(model, mask_token_id=1)
