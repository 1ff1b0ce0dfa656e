"""LLaDA2.0 and LLaDA2.1: recorded logits and decodes of the public code, the Hub's names, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from demask_hf.models.llada2.configuration_llada2 import LLaDA2MoeConfig
from demask_hf.models.llada2.modeling_llada2 import LLaDA2MoeModelLM


MASK = 11
PROMPTS = torch.tensor([[0, 0, 0, 5, 6, 7], [4, 8, 9, 10, 3, 12]])
ATTENTION = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])


def build(**fields):
    settings = {
        "vocab_size": 24,
        "hidden_size": 32,
        "intermediate_size": 48,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 4,
        "topk_group": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "mask_token_id": MASK,
        "block_size": 4,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    return LLaDA2MoeModelLM(LLaDA2MoeConfig(**{**settings, **fields})).eval()


@pytest.fixture(scope="module")
def llada2():
    return build()


def decode(model, prompts=PROMPTS, attention_mask=ATTENTION, **arguments):
    settings = {"max_new_tokens": 9, "stop_at_eos": False, "return_dict_in_generate": True, **arguments}
    return model.generate(prompts, attention_mask, **settings)


@pytest.mark.parametrize("rule", [{"strategy": "quota", "steps_per_block": 2}, {"strategy": "t2m", "rule": "t2t"}])
def test_a_row_of_a_batch_is_the_row_alone(llada2, rule):
    together = decode(llada2, **rule)
    for row, (prompt, mask) in enumerate(zip(PROMPTS, ATTENTION, strict=True)):
        alone = decode(llada2, prompt[mask.bool()][None], None, **rule)
        length = alone.sequences.shape[1]
        assert together.sequences[row, -length:].tolist() == alone.sequences[0].tolist()
        assert together.num_forward_passes[row] == alone.num_forward_passes[0]


def test_the_exact_cache_changes_nothing(llada2):
    plain, cached = (decode(llada2, strategy="sequential", block_cache=kind) for kind in ("none", "exact"))
    assert plain.sequences.tolist() == cached.sequences.tolist()
    assert plain.unmask_step.tolist() == cached.unmask_step.tolist()


def test_editing_stays_in_the_block(llada2):
    settings = {"rule": "t2t", "confidence_threshold": 0.1, "editing_threshold": 0.1, "output_history": True}
    output = decode(llada2, PROMPTS[1:], None, strategy="t2m", **settings)
    assert output.num_remasked.item() > 0
    history = torch.stack(output.history)[:, 0]
    changed = [(after != before).nonzero().flatten() // 4 for before, after in zip(history, history[1:], strict=False)]
    blocks = [set(columns.tolist()) for columns in changed if len(columns)]
    assert all(len(block) == 1 for block in blocks)
    # A finished block is not changed any more, and each is looked at again at least once.
    order = [min(block) for block in blocks]
    assert order == sorted(order)
    assert len(changed) > len(blocks)


@pytest.mark.parametrize("trust_remote_code", [None, False, True])
def test_a_checkpoint_has_the_names_of_the_hub_and_loads_again(llada2, tmp_path, trust_remote_code):
    llada2.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {
        "model.word_embeddings.weight",
        "model.layers.0.attention.query_key_value.weight",
        "model.layers.0.attention.dense.weight",
        "model.layers.0.attention.query_layernorm.weight",
        "model.layers.0.attention.key_layernorm.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.1.mlp.experts.7.down_proj.weight",
        "model.layers.1.mlp.gate.expert_bias",
        "model.layers.1.mlp.shared_experts.up_proj.weight",
        "lm_head.weight",
    } < names
    assert not any("embed_tokens" in name or "gate_up_proj" in name or "q_proj" in name for name in names)
    published = json.loads((tmp_path / "config.json").read_text())
    assert (published["num_experts"], published["num_shared_experts"]) == (8, 1)
    published |= {"auto_map": {"AutoModel": "modeling_llada2_moe.LLaDA2MoeModelLM"}, "score_function": "sigmoid"}
    (tmp_path / "config.json").write_text(json.dumps(published))
    assert type(AutoConfig.from_pretrained(tmp_path, trust_remote_code=trust_remote_code)) is LLaDA2MoeConfig
    for auto in (AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM):
        loaded = auto.from_pretrained(tmp_path, trust_remote_code=trust_remote_code)
        assert type(loaded) is LLaDA2MoeModelLM
        assert torch.equal(loaded.eval()(PROMPTS[1:]).logits, llada2(PROMPTS[1:]).logits)


def test_an_adapter_takes_part(llada2):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(build(), LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    with torch.no_grad():
        assert not torch.allclose(model(PROMPTS[1:]).logits, llada2(PROMPTS[1:]).logits)
    assert not (decode(model, strategy="threshold").sequences[:, 6:] == MASK).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"score_function": "softmax"},
            "`score_function` must be 'sigmoid' in the config of a LLaDA2 checkpoint, got",
        ),
        ({"use_sliding_window": True}, "`use_sliding_window` must be False in the config of a LLaDA2 checkpoint"),
        ({"architectures": ["X"]}, r"`architectures` must be \['LLaDA2MoeModelLM'\] in a config with"),
        ({"block_size": 0}, "`block_size` must be an integer of at least 1, got 0"),
    ],
)
def test_another_architecture_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LLaDA2MoeConfig(**fields)


def load(siblings, **fields):
    ids = {"eos_token_id": 508, "mask_token_id": 511}
    return AutoModel.from_pretrained(siblings / "checkpoints" / "llada2-moe", **ids, **fields).eval()


def test_recorded_logits_are_reproduced(siblings, tmp_path):
    model, recorded = load(siblings), load_file(siblings / "llada2-moe_logits.safetensors")
    with torch.no_grad():
        # Without a mask the public code attends to all positions.
        whole = model(recorded["nomask.input_ids"], torch.zeros(2, 1, 20, 20), output_hidden_states=True)
        torch.testing.assert_close(whole.logits, recorded["nomask.logits"], atol=1e-5, rtol=0)
        torch.testing.assert_close(whole.hidden_states[-1], recorded["nomask.hidden"], atol=1e-5, rtol=0)
        is_real = recorded["padded.attention_mask"].bool()
        mask = torch.zeros(3, 1, 18, 18).masked_fill(~is_real[:, None, None], torch.finfo(torch.float32).min)
        positions = recorded["padded.position_ids"]
        padded = model(recorded["padded.input_ids"], mask, positions, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(padded[is_real], recorded["padded.hidden"][is_real], atol=1e-5, rtol=0)
        for number in range(5):
            block = {name: recorded[f"block{number}.{name}"] for name in ("input_ids", "hidden", "logits_every8")}
            model.config.block_size = int(recorded[f"block{number}.prompt_block_window"][1])
            found = model(block["input_ids"], output_hidden_states=True)
            torch.testing.assert_close(found.hidden_states[-1], block["hidden"], atol=1e-5, rtol=0)
            torch.testing.assert_close(found.logits[..., ::8], block["logits_every8"], atol=2e-5, rtol=0)
    model.save_pretrained(tmp_path)
    saved, published = (
        load_file(folder / "model.safetensors") for folder in (tmp_path, siblings / "checkpoints" / "llada2-moe")
    )
    assert saved.keys() == published.keys()
    assert all(torch.equal(saved[name], published[name]) for name in saved)


@pytest.mark.parametrize(("version", "expected"), [("llada2.0 generate", 42), ("llada2.1 generate (editing)", 30)])
def test_recorded_decodes_are_reproduced(version, expected, siblings, recorded_groups, decode_recorded):
    model, num_cases = load(siblings), 0
    for cases in recorded_groups("llada2-moe"):
        settings = cases[0]["settings"]
        size, length = settings["block_length"], settings["gen_length"]
        if cases[0]["alg"] != version:
            continue
        rule = {"strategy": "t2m", "rule": "t2t", "max_review_steps": settings.get("max_post_steps", 16)}
        if "steps" in settings:
            # At most one step for each new token.
            rule = {"strategy": "quota", "steps_per_block": min(settings["steps"], length)}
        else:
            rule |= {"editing_threshold": settings["editing_threshold"], "max_remasks": 10_000}
        rule["confidence_threshold"] = settings["threshold"]
        for case, found, steps in decode_recorded(model, cases, size, length + size, 511, **rule):
            prompt, sequence, filled = len(case["prompt"][0]), case["sequences"][0], case["unmask_step"][0]
            # What follows an end is cut there.
            assert found[: len(sequence)] == sequence
            assert steps[: len(filled)] == filled
            # The last block is filled as a whole, and then cut.
            end = -(-(prompt + length) // size) * size
            if "eosX" not in case["id"]:
                assert min(steps[end - prompt :][:size]) == case["nfe"]
            num_cases += 1
    assert num_cases == expected
