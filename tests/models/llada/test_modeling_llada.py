import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention, silu
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import rename_source_key

import demask_hf
from demask_hf import LLaDAConfig, LLaDAModelLM
from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest


AUTO_CLASSES = [AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM]
ATTENTION = ["sdpa", "eager"]
PAD, MASK, EOS = 0, 1, 2
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def build(seed=0, **overrides):
    """Build a random LLaDA of two layers from the names in the Hub's configs."""
    settings = {"vocab_size": 40, "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden_size": 48}
    settings |= {"rope_theta": 1000.0, "init_std": 0.2, "max_sequence_length": 128}
    settings |= {"mask_token_id": MASK, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": EOS, **overrides}
    torch.manual_seed(seed)
    return LLaDAModelLM(LLaDAConfig(**settings)).eval()


@pytest.fixture(scope="module")
def llada():
    return build()


@pytest.fixture(scope="session")
def hub_llada():
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / "llada-config"
    if not folder.is_dir():
        pytest.skip("needs the Hub's LLaDA files in ../shared/data/llada-config, beside the repository")
    return folder


def _hub_names(num_layers):
    parts = ["attn_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_norm", "ff_proj", "up_proj", "ff_out"]
    names = {f"model.transformer.{name}.weight" for name in ("wte", "ln_f", "ff_out")}
    return names | {f"model.transformer.blocks.{n}.{part}.weight" for n in range(num_layers) for part in parts}


def _renamed(model, names):
    renamings = get_model_conversion_mapping(model, add_legacy=False)
    return [rename_source_key(name, renamings, [])[0] for name in names]


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return LLaDAModelLM(LLaDAConfig())


def test_every_name_of_the_hub_checkpoint_has_its_tensor(full_size):
    names = _hub_names(32)
    renamed = _renamed(full_size, sorted(names))
    assert len(names) == len(set(renamed)) == 291
    assert set(renamed) == set(full_size.state_dict())


def test_names_of_the_hub_index_are_covered(full_size, hub_llada):
    content = json.loads((hub_llada / "model.safetensors.index.json").read_text())
    renamed = _renamed(full_size, content["weight_map"])
    assert len(renamed) == len(set(renamed))
    assert set(renamed) == set(full_size.state_dict())
    assert full_size.num_parameters() * 2 == content["metadata"]["total_size"]


def test_own_names_are_left_as_they_are(llada):
    names = sorted(llada.state_dict())
    assert _renamed(llada, names) == names


def test_defaults_are_those_of_the_hub_config(hub_llada):
    hub = json.loads((hub_llada / "config.json").read_text())
    ours = LLaDAConfig()
    pairs = {"d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads"}
    pairs |= {"n_kv_heads": "num_key_value_heads", "mlp_hidden_size": "intermediate_size"}
    pairs |= {"max_sequence_length": "max_position_embeddings", "embedding_size": "vocab_size"}
    pairs |= {"weight_tying": "tie_word_embeddings", "activation_type": "hidden_act"}
    pairs |= {name: name for name in ("rms_norm_eps", "mask_token_id", "eos_token_id", "pad_token_id", "model_type")}
    assert {theirs: getattr(ours, name) for theirs, name in pairs.items()} == {name: hub[name] for name in pairs}
    assert ours.rope_parameters["rope_theta"] == hub["rope_theta"]


@pytest.mark.parametrize("trust_remote_code", [None, False, True])
def test_hub_config_loads_without_its_remote_code(hub_llada, trust_remote_code, tmp_path):
    config = AutoConfig.from_pretrained(hub_llada, trust_remote_code=trust_remote_code)
    assert type(config) is LLaDAConfig
    assert (config.hidden_size, config.num_hidden_layers, config.head_dim) == (4096, 32, 128)
    assert config.rope_parameters["rope_theta"] == 5e5
    assert config.is_causal is False
    config.save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"d_model": 64, "n_heads": 4}, {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16}),
        ({"n_heads": 8, "n_kv_heads": None}, {"num_key_value_heads": 8}),
        ({"n_heads": 8, "n_kv_heads": None, "multi_query_attention": True}, {"num_key_value_heads": 1}),
        ({"d_model": 64, "mlp_ratio": 4}, {"intermediate_size": 256}),
        ({"d_model": 64, "mlp_ratio": 4, "mlp_hidden_size": 80}, {"intermediate_size": 80}),
        ({"vocab_size": 90, "embedding_size": 128}, {"vocab_size": 128}),
        ({"vocab_size": 90, "embedding_size": None}, {"vocab_size": 90}),
    ],
)
def test_names_of_hub_configs_are_read(given, expected):
    config = LLaDAConfig(**given)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alibi", True),
        ("include_qkv_bias", True),
        ("block_type", "sequential"),
        ("rope", False),
        ("scale_logits", True),
    ],
)
def test_architectures_no_checkpoint_has_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be .* in the config of a LLaDA checkpoint, got {value!r}\."):
        LLaDAConfig(**{name: value})


def _rotated(states, positions, theta):
    """Rotate the two halves of each head against each other, by an angle that grows with the position."""
    half = states.shape[-1] // 2
    angles = positions[:, None] / theta ** (torch.arange(half) / half)
    first, second = states[..., :half], states[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _rms(states, weight):
    return weight * states / (states.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt()


def _plain_logits(tensors, ids, num_heads, num_kv_heads, theta):
    """Compute LLaDA's logits for one row from tensors under the Hub's names, with nothing of transformers."""
    states = tensors["model.transformer.wte.weight"][ids]
    num_layers = len({name.split(".")[3] for name in tensors if ".blocks." in name})
    positions = torch.arange(len(ids)).float()
    for layer in range(num_layers):
        weight = {
            part: tensors[f"model.transformer.blocks.{layer}.{part}.weight"]
            for part in (
                "attn_norm",
                "q_proj",
                "k_proj",
                "v_proj",
                "attn_out",
                "ff_norm",
                "ff_proj",
                "up_proj",
                "ff_out",
            )
        }
        normed = _rms(states, weight["attn_norm"])
        query, key, value = (
            (normed @ weight[f"{part}_proj"].T).view(len(ids), heads, -1).transpose(0, 1)
            for part, heads in (("q", num_heads), ("k", num_kv_heads), ("v", num_kv_heads))
        )
        query, key = (_rotated(tensor, positions, theta) for tensor in (query, key))
        key, value = (tensor.repeat_interleave(num_heads // num_kv_heads, dim=0) for tensor in (key, value))
        mixed = scaled_dot_product_attention(query[None], key[None], value[None])[0]
        states = states + mixed.transpose(0, 1).reshape(len(ids), -1) @ weight["attn_out"].T
        normed = _rms(states, weight["ff_norm"])
        gate, up = normed @ weight["ff_proj"].T, normed @ weight["up_proj"].T
        states = states + (silu(gate) * up) @ weight["ff_out"].T
    return _rms(states, tensors["model.transformer.ln_f.weight"]) @ tensors["model.transformer.ff_out.weight"].T


@pytest.mark.parametrize("attention", ATTENTION)
def test_a_checkpoint_under_the_hub_names_computes_what_the_architecture_says(tmp_path, attention):
    from safetensors.torch import load_file, save_file

    config = json.dumps(
        {
            "model_type": "llada",
            "architectures": ["LLaDAModelLM"],
            "d_model": 32,
            "n_layers": 3,
            "n_heads": 4,
            "n_kv_heads": 2,
            "mlp_hidden_size": 48,
            "rope_theta": 1000.0,
            "vocab_size": 40,
            "embedding_size": 40,
            "mask_token_id": MASK,
            "rms_norm_eps": 1e-5,
            "weight_tying": False,
            "eos_token_id": EOS,
            "pad_token_id": EOS,
            "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
        }
    )
    (tmp_path / "config.json").write_text(config)
    generator = torch.Generator().manual_seed(0)
    sizes = {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "attn_out": (32, 32), "attn_norm": (32,)}
    sizes |= {"ff_norm": (32,), "ff_proj": (48, 32), "up_proj": (48, 32), "wte": (40, 32), "ln_f": (32,)}
    tensors = {}
    for name in _hub_names(3):
        part = name.split(".")[-2]
        size = sizes.get(part, (32, 48) if "blocks" in name else (40, 32))
        tensors[name] = 0.3 * torch.randn(size, generator=generator) + (1.0 if len(size) == 1 else 0.0)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    model = AutoModel.from_pretrained(tmp_path, attn_implementation=attention, trust_remote_code=True)
    assert type(model) is LLaDAModelLM
    expected = _plain_logits(tensors, IDS[0], 4, 2, 1000.0)
    torch.testing.assert_close(model(IDS).logits[0], expected, atol=1e-4, rtol=1e-4)
    model.save_pretrained(tmp_path / "again")
    saved = load_file(tmp_path / "again" / "model.safetensors")
    assert saved.keys() == tensors.keys()
    assert all(torch.equal(saved[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("attention_mask", [None, torch.ones(1, 6, dtype=torch.long)], ids=["no-mask", "ones"])
def test_last_token_changes_the_first_logits(attention, attention_mask):
    model = build(attn_implementation=attention)
    assert model.config._attn_implementation == attention
    changed = IDS.clone()
    changed[0, -1] = 11
    before, after = (model(ids, attention_mask=attention_mask).logits[0, 0] for ids in (IDS, changed))
    assert (before - after).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ATTENTION)
def test_left_padded_rows_equal_rows_alone(attention):
    model = build(attn_implementation=attention)
    rows = [[5, 6, 7], [8, 9, 10, 11, 12, 13]]
    padded = torch.tensor([[0] * (6 - len(row)) + row for row in rows])
    attention_mask = torch.tensor([[0] * (6 - len(row)) + [1] * len(row) for row in rows])
    together = model(padded, attention_mask=attention_mask).logits
    for index, row in enumerate(rows):
        alone = model(torch.tensor([row])).logits[0]
        torch.testing.assert_close(together[index, -len(row) :], alone, atol=1e-4, rtol=0)


def test_logits_are_not_shifted(llada):
    sequences = torch.tensor([[5, MASK, 7, MASK]])
    prediction = Backbone.of(llada).predict(PredictionRequest(sequences, sequences == MASK, None))
    torch.testing.assert_close(prediction.logits, llada(sequences).logits[0, [1, 3]], atol=1e-5, rtol=1e-5)


def test_loss_reads_the_output_at_the_position_itself(llada):
    labels = torch.full_like(IDS, -100)
    labels[0, 3], labels[0, 5] = 8, 10
    output = llada(IDS, labels=labels)
    log_probabilities = output.logits[0].log_softmax(dim=-1)
    torch.testing.assert_close(output.loss, -(log_probabilities[3, 8] + log_probabilities[5, 10]) / 2)


@pytest.mark.parametrize("auto_class", AUTO_CLASSES, ids=lambda auto_class: auto_class.__name__)
def test_a_saved_checkpoint_loads_again_in_one_line(llada, tmp_path, auto_class):
    llada.save_pretrained(tmp_path)
    loaded = auto_class.from_pretrained(tmp_path)
    assert type(loaded) is LLaDAModelLM
    assert torch.equal(loaded(IDS).logits, llada(IDS).logits)


def test_answers_are_decoded_in_blocks_of_32_by_default(llada):
    settings = {"strategy": "sequential", "stop_at_eos": False, "return_dict_in_generate": True}
    steps = llada.generate(IDS, max_new_tokens=64, **settings).unmask_step[0, 6:]
    assert steps[:32].max() < steps[32:].min()
    by_hand = llada.generate(IDS, max_new_tokens=64, block_length=32, **settings)
    assert torch.equal(by_hand.unmask_step[0, 6:], steps)


def test_sequential_decoding_is_that_of_the_public_script(llada):
    """LLaDA's "low_confidence", one step per token: in each block in turn the most certain position is written."""
    expected = torch.cat([IDS, torch.full((1, 64), MASK)], dim=1)
    for block in (slice(6, 38), slice(38, 70)):
        for _ in range(32):
            logits = llada(expected).logits[0, block]
            certainty = logits.softmax(dim=-1).max(dim=-1).values.masked_fill(expected[0, block] != MASK, -1.0)
            best = certainty.argmax()
            logits[:, MASK] = float("-inf")
            expected[0, block.start + best] = logits[best].argmax()
    decoded = llada.generate(IDS, max_new_tokens=64, strategy="sequential", stop_at_eos=False)
    assert torch.equal(decoded, expected)


@pytest.mark.parametrize(("num_new", "block_length"), [(48, None), (64, 64)])
def test_the_default_block_gives_way(llada, num_new, block_length):
    """An answer that 32 does not divide is one block, and a given length comes first."""
    settings = {"strategy": "sequential", "stop_at_eos": False, "return_dict_in_generate": True}
    output = llada.generate(IDS, max_new_tokens=num_new, block_length=block_length, **settings)
    whole = llada.generate(IDS, max_new_tokens=num_new, block_length=num_new, **settings)
    assert torch.equal(output.unmask_step, whole.unmask_step)
    steps = output.unmask_step[0, 6:]
    assert steps[:32].max() > steps[32:].min()


@pytest.mark.parametrize("strategy", sorted(set(demask_hf.strategy_names()) - {"demask", "edit"}))
def test_every_strategy_decodes_padded_rows_like_rows_alone(llada, strategy):
    rows = [[5, 6, 7], [8, 9, 10, 11, 12]]
    padded = torch.tensor([[0] * (5 - len(row)) + row for row in rows])
    attention_mask = torch.tensor([[0] * (5 - len(row)) + [1] * len(row) for row in rows])
    together = llada.generate(padded, attention_mask, strategy=strategy, max_new_tokens=8, stop_at_eos=False)
    assert not (together[:, 5:] == MASK).any()
    for index, row in enumerate(rows):
        alone = llada.generate(torch.tensor([row]), strategy=strategy, max_new_tokens=8, stop_at_eos=False)
        assert torch.equal(together[index, 5:], alone[0, len(row) :])
