"""Checkpoints of the families of Dream and LLaDA: which are decoded, and what is refused.

A config is the published one with smaller sizes where it lies beside the repository, and otherwise what public code
shows of it; each test names its source.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from demask_hf import DreamConfig, DreamModel, LLaDAConfig, LLaDAModelLM


PROMPT = torch.tensor([[5, 6, 7]])
SIZES = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "mask_token_id": 1, "initializer_range": 0.3}
TOKENS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2}
# The test of DiffuCoder in Diffulex.
DIFFUCODER = {
    "architectures": ["DreamModel"],
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
    "model_type": "Dream",
}
# The script by which LLaDA's config is converted for LLaDA-V, as public copies have it.
LLADA_V_TEXT = {
    "architectures": ["LLaDAModelLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_llada.LLaDAModelLM", "AutoModel": "modeling_llada.LLaDAModelLM"},
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "max_position_embeddings": 16384,
    "model_type": "llada",
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": False,
}
REFUSED = r"has model type `{}` but Transformers does not recognize this architecture"


def write(folder, fields, model):
    """Write the weights of a small model with another config."""
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")


def dream():
    torch.manual_seed(0)
    return DreamModel(DreamConfig(**SIZES, **TOKENS))


def decodes(folder, expected):
    model = AutoModel.from_pretrained(folder).eval()
    sequences = model.generate(PROMPT, strategy="threshold", max_new_tokens=6, stop_at_eos=False)
    return type(model) is expected and sequences.shape == (1, 9) and not (sequences == 1).any()


def test_the_published_config_of_dream_is_decoded(hub_dream, tmp_path):
    fields = json.loads((hub_dream / "config.json").read_text())
    write(tmp_path, {**fields, **SIZES, **TOKENS, "max_window_layers": 2}, dream())
    assert decodes(tmp_path, DreamModel)


def test_diffucoder_is_decoded(tmp_path):
    write(tmp_path, {**DIFFUCODER, **SIZES, **TOKENS, "max_position_embeddings": 64}, dream())
    assert decodes(tmp_path, DreamModel)


def test_dreamon_is_refused(tmp_path):
    """`DreamOnConfig` in xlm-core names the token that becomes two masks; the one that vanishes is that of the end."""
    write(tmp_path, {"model_type": "Dream", **SIZES, **TOKENS, "expand_token_id": 23}, dream())
    message = "`expand_token_id` must be None in the config of a DreamModel, got 23: DreamOn lengthens and shortens"
    for call in (AutoConfig.from_pretrained, AutoModel.from_pretrained, DreamModel.from_pretrained):
        with pytest.raises(ValueError, match=message):
            call(tmp_path)


def test_dream_reasoner_is_refused(tmp_path):
    """Blocks of 32, norms of queries and keys, no shift: the test of Dream-Reasoner in Diffulex."""
    fields = {"architectures": ["DreamForCausalLM"], "model_type": "Dream", "block_size": 32, **SIZES, **TOKENS}
    write(tmp_path, fields, dream())
    with pytest.raises(ValueError, match=r"`architectures` must be \['DreamModel'\] in a config with `model_type`"):
        AutoModel.from_pretrained(tmp_path)


def test_of_dream_vl_only_the_text_side_is_decoded(tmp_path):
    """The script that converts Dream-VL registers the type "dream-vl" and has these names beside those of Dream."""
    write(tmp_path, {"model_type": "dream-vl", **SIZES, **TOKENS}, dream())
    with pytest.raises(ValueError, match=REFUSED.format("dream-vl")):
        AutoModel.from_pretrained(tmp_path)
    fields = {"model_type": "Dream", **SIZES, **TOKENS}
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    text = load_file(tmp_path / "model.safetensors")
    images = {name: torch.zeros(4) for name in ("visual.blocks.0.norm1.weight", "projector.linear_1.weight")}
    save_file({**text, **images}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"has 2 tensors \(projector.linear_1.weight, visual.* without a place in"):
        AutoModel.from_pretrained(tmp_path)
    save_file(text, tmp_path / "model.safetensors", {"format": "pt"})
    assert decodes(tmp_path, DreamModel)


def test_of_llada_v_only_the_text_side_is_decoded(tmp_path):
    """LLaDA-V's classes have the type "llava_llada"; its text side has the names of Llama, which load here, too."""
    torch.manual_seed(0)
    model = LLaDAModelLM(LLaDAConfig(**SIZES, **TOKENS))
    write(tmp_path, {"model_type": "llava_llada", **SIZES, **TOKENS}, model)
    with pytest.raises(ValueError, match=REFUSED.format("llava_llada")):
        AutoModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`mm_vision_tower` must not be set in the config of a LLaDAModelLM"):
        LLaDAConfig(**SIZES, mm_vision_tower="google/siglip2-so400m-patch14-384")
    fields = {**LLADA_V_TEXT, **SIZES, **TOKENS}
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    assert decodes(tmp_path, LLaDAModelLM)
