"""A2D: the stock classes with a full mask, recorded logits and decodes of the public code, and what is refused."""

import functools
import json

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

import demask_hf
from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.generation.blocks import BlockLayout
from demask_hf.models.a2d.configuration_a2d import A2DLlamaConfig, A2DQwen2Config, A2DQwen3Config
from demask_hf.models.a2d.modeling_a2d import A2DLlamaLMHeadModel, A2DQwen2LMHeadModel, A2DQwen3LMHeadModel
from demask_hf.training.prompts import TokenizedPrompt
from demask_hf.training.states import CollectionSettings, MeasuredStates


MASK = 11
FAMILIES = {
    "qwen3": (A2DQwen3Config, A2DQwen3LMHeadModel, Qwen3ForCausalLM),
    "qwen2": (A2DQwen2Config, A2DQwen2LMHeadModel, Qwen2ForCausalLM),
    "llama": (A2DLlamaConfig, A2DLlamaLMHeadModel, LlamaForCausalLM),
}
every_family = pytest.mark.parametrize("family", FAMILIES)
IDS = torch.tensor([[3, 4, MASK, 5, MASK, MASK], [6, MASK, 7, 8, 9, MASK]])


def build(family, **fields):
    config_class, model_class, _ = FAMILIES[family]
    settings = {
        "vocab_size": 24,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 2,
        "mask_token_id": MASK,
        "initializer_range": 0.3,
        "tie_word_embeddings": False,
    }
    if family == "qwen3":
        settings["head_dim"] = 8
    torch.manual_seed(0)
    return model_class(config_class(**{**settings, **fields})).eval()


@every_family
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_those_of_the_stock_class_with_a_full_mask(family, tied):
    model = build(family, tie_word_embeddings=tied)
    stock = FAMILIES[family][2](
        FAMILIES[family][2].config_class(**{**model.config.to_dict(), "is_causal": True})
    ).eval()
    stock.load_state_dict(model.state_dict())
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, stock(IDS, attention_mask=mask).logits)
        assert not torch.allclose(model(IDS).logits, stock(IDS).logits, atol=1e-2)


@every_family
@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_has_the_names_of_the_stock_class_and_loads_again(family, tied, tmp_path):
    model = build(family, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert ("lm_head.weight" in names) != tied
    assert "model.layers.1.self_attn.q_proj.weight" in names
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["model_type"], saved["architectures"]) == (f"a2d-{family}", [type(model).__name__])
    for auto in (AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is type(model)
        assert torch.equal(loaded.eval()(IDS).logits, model(IDS).logits)


@every_family
def test_a_head_and_a_cache_belong_to_it(family):
    model = build(family)
    head = demask_hf.DemaskConfig(
        backbone_hidden_size=32, backbone_model_type=f"a2d-{family}", logits_shift=0, width=16, num_attention_heads=2
    )
    model.set_demask_head(demask_hf.DemaskHead(head).eval())
    for settings in ({}, {"block_cache": "dual", "block_length": 4}):
        answer = model.generate(IDS[:, :2], strategy="demask", max_new_tokens=8, **settings)
        assert answer.shape == (2, 10)
        assert not (answer == MASK).any()


@every_family
def test_a_look_alike_is_refused(family):
    config_class = FAMILIES[family][0]
    with pytest.raises(ValueError, match=r"`architectures` must be \['A2D.*LMHeadModel'\] in a config with"):
        config_class(architectures=["X"])
    with pytest.raises(ValueError, match=r"`num_experts` must not be set in the config of a A2D.*, got 8"):
        config_class(num_experts=8)


def test_a_model_of_block_diffusion_is_known_by_its_name_or_its_block_size(tmp_path):
    folder = tmp_path / "Qwen3-0.6B-diffusion-bd3lm-v0.1"
    model = build("qwen3")
    model.save_pretrained(folder)
    assert AutoModel.from_pretrained(folder).config.block_size == 32
    assert AutoModel.from_pretrained(folder, block_size=4).config.block_size == 4
    model.save_pretrained(tmp_path / "other")
    assert AutoModel.from_pretrained(tmp_path / "other").config.block_size is None
    loaded = AutoModel.from_pretrained(tmp_path / "other", block_size=4)
    loaded.save_pretrained(tmp_path / "again")
    assert AutoModel.from_pretrained(tmp_path / "again").config.block_size == 4


@every_family
def test_block_diffusion_sees_earlier_blocks_only(family):
    model, prompt = build(family, block_size=4), IDS[:, :3]
    settings = {"strategy": "threshold", "return_dict_in_generate": True, "stop_at_eos": False}
    prompt = torch.where(prompt == MASK, 13, prompt)
    whole = model.generate(prompt, max_new_tokens=8, **settings)
    # What comes later changes nothing.
    first = model.generate(prompt, max_new_tokens=4, **settings)
    assert whole.sequences[:, :7].tolist() == first.sequences.tolist()
    # Blocks end with the prompt: a row with padding is the row alone, with and without kept keys and values.
    padded, mask = torch.tensor([[0, 0, 3], [5, 6, 7]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
    for cache in ("none", "exact"):
        together = model.generate(padded, mask, max_new_tokens=8, block_cache=cache, **settings)
        alone = model.generate(padded[:1, 2:], max_new_tokens=8, block_cache=cache, **settings)
        assert together.sequences[0, 2:].tolist() == alone.sequences[0].tolist()
        assert together.unmask_step[0, 2:].tolist() == alone.unmask_step[0].tolist()
    # A head learns from states of one block, too.
    prompts = [TokenizedPrompt((3, 4, 5)[: 1 + row % 3], (6, 7, 8, 9, 10, 12)) for row in range(3)]
    states = MeasuredStates(model, prompts, CollectionSettings(num_states=6, answer_length=9, estimator="argmax"))
    for example in states.__getitems__(range(6)):
        answer = example.positions - len(prompts[example.record].prompt)
        assert len(set((answer // 4).tolist())) == 1


@pytest.mark.parametrize(("token", "is_mask"), [("<|mask|>", False), ("<|MASK|>", False), ("[M]", True)])
def test_the_mask_token_is_that_of_the_tokenizer(token, is_mask, tmp_path):
    build("qwen3", mask_token_id=None).save_pretrained(tmp_path)
    vocabulary = {"<pad>": 0, "<unk>": 1, "<eos>": 2, **{f"w{i}": i for i in range(3, 24) if i != MASK}, token: MASK}
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"mask_token": token} if is_mask else {"extra_special_tokens": [token]}
    PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", **special
    ).save_pretrained(tmp_path)
    model, tokenizer = demask_hf.load_model(str(tmp_path), device="cpu")
    assert model.config.mask_token_id == MASK
    assert model.generate(**tokenizer("w3 w4", return_tensors="pt"), max_new_tokens=4).shape == (1, 6)
    with pytest.raises(ValueError, match="`mask_token_id` must be known to decode by unmasking, got None"):
        AutoModel.from_pretrained(tmp_path).generate(IDS, max_new_tokens=4)


@every_family
def test_recorded_logits_are_reproduced(family, siblings):
    model = AutoModel.from_pretrained(siblings / "checkpoints" / f"a2d-{family}").eval()
    recorded = load_file(siblings / f"a2d-{family}_logits.safetensors")
    with torch.no_grad():
        output = model(recorded["nomask.input_ids"].long(), output_hidden_states=True)
        padded = model(
            recorded["padded.input_ids"].long(),
            attention_mask=recorded["padded.attention_mask"].long(),
            position_ids=recorded["padded.position_ids"].long(),
        )
    assert torch.equal(output.logits, recorded["nomask.logits"])
    assert torch.equal(output.hidden_states[-1], recorded["nomask.hidden"])
    is_real = recorded["padded.attention_mask"].bool()
    assert torch.equal(padded.logits[..., ::8][is_real], recorded["padded.logits_every8"][is_real])


@every_family
def test_recorded_decodes_are_reproduced(family, siblings, reproduces_mdlm):
    model = AutoModel.from_pretrained(siblings / "checkpoints" / f"a2d-{family}").eval()
    assert reproduces_mdlm(model, json.loads((siblings / f"a2d-{family}_decode.json").read_text())) == 27


@every_family
def test_recorded_decodes_of_block_diffusion_are_reproduced(family, siblings):
    recorded = json.loads((siblings / f"a2d-{family}_decode.json").read_text())
    groups = {}
    for case in recorded["cases"]:
        if "bd3lm" in case["id"]:
            groups.setdefault((case["settings"]["steps"], case["settings"]["block_size"]), []).append(case)
    assert sum(map(len, groups.values())) == {"qwen3": 27, "qwen2": 21, "llama": 21}[family]
    for (steps, size), cases in groups.items():
        model = AutoModel.from_pretrained(siblings / "checkpoints" / f"a2d-{family}", block_size=size).eval()
        prompts = [prompt for case in cases for prompt in case["prompt"]]
        width, length = max(map(len, prompts)), 24
        # The public sampler gives each block the same number of steps.
        num_blocks = -(-length // size)
        output = model.generate(
            torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts]),
            torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
            strategy="schedule",
            algorithm="maskgit_plus",
            plan="mdlm",
            max_denoising_steps=-(-steps // num_blocks) * num_blocks,
            max_new_tokens=length,
            stop_at_eos=False,
            mask_token_id=recorded["mask_token_id"],
            return_dict_in_generate=True,
        )
        answers, counts = iter(output.sequences[:, -length:].tolist()), iter(output.num_forward_passes.tolist())
        for case in cases:
            for start, sequence in zip(case["gen_start"], case["sequences"], strict=True):
                # It stops after the block in which each row has an end.
                answer, count = sequence[start:], next(counts)
                assert next(answers)[: len(answer)] == answer
                # It counts a forward for each block that only fills the cache.
                assert len(answer) < length or count == case["nfe"] - num_blocks


@every_family
def test_recorded_logits_of_block_diffusion_are_reproduced(family, siblings):
    recorded = load_file(siblings / f"a2d-{family}_logits.safetensors")
    ids, mask = recorded["block8.input_ids"].long(), recorded["block8.attention_mask"]
    # What attends to anything is no padding.
    is_real = mask.any(dim=-1)[:, 0]
    model = AutoModel.from_pretrained(siblings / "checkpoints" / f"a2d-{family}", block_size=8).eval()
    with torch.no_grad():
        output = model(
            ids, attention_mask=mask, position_ids=recorded["block8.position_ids"].long(), output_hidden_states=True
        )
    # Rounding depends on the kernels of a CPU.
    close = functools.partial(torch.testing.assert_close, atol=2e-5, rtol=1e-5)
    close(output.logits[..., ::8][is_real], recorded["block8.logits_every8"][is_real])
    close(output.hidden_states[-1][is_real], recorded["block8.hidden"][is_real])
    # The blocks that the loop gives to the model are the same; the answer begins at a multiple of 8 columns.
    backbone = Backbone.of(model, 511)
    layout = BlockLayout.of_model(backbone, 16, is_real.long())
    found = backbone.predict(PredictionRequest(ids, is_real, is_real.long(), blocks=layout.blocks))
    close(found.logits[:, ::8], recorded["block8.logits_every8"][is_real])
