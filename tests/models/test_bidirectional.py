"""What the two native bodies share: caches under either name."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

from demask_hf import DreamConfig, DreamModel, LLaDAConfig, LLaDAModelLM


SIZES = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
SIZES |= {"mask_token_id": 1, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2}
CLASSES = {"dream": (DreamModel, DreamConfig), "llada": (LLaDAModelLM, LLaDAConfig)}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [0, 0, 12, 13, 14, 15, 16]])
# The name that transformers drops in 5.40 is passed on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")

both = pytest.mark.parametrize("kind", sorted(CLASSES))


def build(kind, **fields):
    torch.manual_seed(0)
    model, config = CLASSES[kind]
    return model(config(**SIZES, **fields)).eval()


@both
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["cache", "past_key_values"])
@pytest.mark.parametrize("is_padded", [False, True])
def test_a_standard_cache_is_attended(kind, attention, name, is_padded):
    """Tokens after those of the cache see these and each other, as with a mask that says so."""
    model = build(kind, attn_implementation=attention)
    ids, seen = (IDS, torch.ones_like(IDS)) if is_padded else (IDS[:1], None)
    if is_padded:
        seen[1, :2] = 0
    cache = DynamicCache(config=model.config)
    start = model(ids[:, :4], attention_mask=None if seen is None else seen[:, :4], **{name: cache}).logits
    end = model(ids[:, 4:], attention_mask=seen, **{name: cache}).logits
    assert cache.get_seq_length() == 7
    mask = torch.zeros(len(ids), 1, 7, 7)
    mask[:, :, :4, 4:] = torch.finfo(torch.float32).min
    positions = torch.arange(7).expand(len(ids), -1)
    if is_padded:
        mask[1, :, :, :2] = torch.finfo(torch.float32).min
        positions = (seen.cumsum(dim=-1) - 1).clamp(min=0)
    expected = model(ids, attention_mask=mask, position_ids=positions).logits
    real = slice(2 if is_padded else 0, 4)
    torch.testing.assert_close(start[:, real], expected[:, real], atol=1e-5, rtol=0)
    torch.testing.assert_close(end, expected[:, 4:], atol=1e-5, rtol=0)


@both
def test_a_cache_has_one_name(kind):
    with pytest.raises(ValueError, match=r"`cache` must be None where `past_key_values`, its older name, is given"):
        build(kind).model(IDS, cache=DynamicCache(), past_key_values=DynamicCache())


@both
def test_a_cache_without_a_fixed_length_is_needed(kind):
    model = build(kind)
    message = r"`cache` must be a cache without a fixed length, such as `DynamicCache`, got a "
    with pytest.raises(ValueError, match=message + "StaticCache"):
        model(IDS, past_key_values=StaticCache(config=model.config, max_cache_len=16))
    with pytest.raises(ValueError, match=message + "str"):
        model.model(IDS, cache="prefix")


@both
def test_gradient_checkpointing_in_train_mode_takes_no_cache(kind):
    model = build(kind).train()
    model.gradient_checkpointing_enable()
    message = r"`cache` must be None in train mode with gradient checkpointing, got a {}: call `model\.eval\(\)` first"
    with pytest.raises(ValueError, match=message.format("DynamicCache")):
        model(IDS, past_key_values=DynamicCache())
    settings = {"strategy": "sequential", "max_new_tokens": 4, "stop_at_eos": False}
    with pytest.raises(ValueError, match=message.format("BlockCache")):
        model.generate(IDS, block_cache="prefix", **settings)
    assert model.eval().generate(IDS, block_cache="prefix", **settings).shape == (2, 11)
