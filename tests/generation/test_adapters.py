"""PEFT methods: those that change the model take part in `generate`, the others are refused."""

import pytest
import torch


peft = pytest.importorskip("peft", reason="needs peft")

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])
SETTINGS = {"strategy": "sequential", "max_new_tokens": 8, "stop_at_eos": False}
TARGETS = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
# Methods that put their modules into the model, with settings under which a new adapter changes it.
INSIDE = {
    "lora": peft.LoraConfig(**TARGETS, init_lora_weights=False),
    "dora": peft.LoraConfig(**TARGETS, init_lora_weights=False, use_dora=True),
    "ia3": peft.IA3Config(**TARGETS, feedforward_modules=["down_proj"], init_ia3_weights=False),
    "loha": peft.LoHaConfig(**TARGETS, init_weights=False),
    "lokr": peft.LoKrConfig(**TARGETS, init_weights=False),
    "oft": peft.OFTConfig(**TARGETS, r=2, oft_block_size=0, init_weights=False),
    "vera": peft.VeraConfig(**TARGETS, r=8, init_weights=False),
    "layer norms": peft.LNTuningConfig(target_modules=["input_layernorm"]),
}
TASKS = [None, "CAUSAL_LM", "FEATURE_EXTRACTION"]


def wrapped(model, config, **fields):
    config = type(config)(**{**config.to_dict(), **fields})
    torch.manual_seed(0)
    model = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("name", sorted(INSIDE))
@pytest.mark.parametrize("task", TASKS)
def test_methods_inside_of_the_model_take_part(make_dream, name, task):
    model = wrapped(make_dream(), INSIDE[name], task_type=task)
    written = model.generate(input_ids=IDS, **SETTINGS)
    assert not torch.equal(written, make_dream().generate(IDS, **SETTINGS))
    # The last token written is the one that the adapted model finds likeliest.
    output = model.generate(input_ids=IDS, return_dict_in_generate=True, **SETTINGS)
    row, column = 0, int(output.unmask_step[0].argmax())
    before = output.sequences.clone()
    before[row, column] = 1
    logits = model.get_base_model()(before).logits[row, column - 1]
    logits[1] = float("-inf")
    assert logits.argmax() == output.sequences[row, column]


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (peft.PromptTuningConfig(num_virtual_tokens=3), "CAUSAL_LM"),
        (peft.PrefixTuningConfig(num_virtual_tokens=3), "CAUSAL_LM"),
        (peft.PromptEncoderConfig(num_virtual_tokens=3), "CAUSAL_LM"),
        (peft.PromptTuningConfig(num_virtual_tokens=3), "FEATURE_EXTRACTION"),
        (peft.PrefixTuningConfig(num_virtual_tokens=3), "FEATURE_EXTRACTION"),
    ],
)
def test_virtual_tokens_are_refused(make_dream, config, task):
    model = wrapped(make_dream(), config, task_type=task)
    name = "[A-Z_]*" if task == "CAUSAL_LM" else "a method of prompt learning"
    message = rf"`generate` must be called with adapters inside of the model, got {name}: decoding by unmasking leaves"
    with pytest.raises(ValueError, match=message):
        model.generate(input_ids=IDS, **SETTINGS)
    # The model itself is as it was.
    assert torch.equal(model.get_base_model().generate(IDS, **SETTINGS), make_dream().generate(IDS, **SETTINGS))


@pytest.mark.parametrize("task", ["CAUSAL_LM", "FEATURE_EXTRACTION"])
def test_forwards_of_wrappers_go_through(make_dream, task):
    for config in (peft.PromptTuningConfig(num_virtual_tokens=3), INSIDE["ia3"]):
        model = wrapped(make_dream(), config, task_type=task).train()
        output = model(input_ids=IDS, attention_mask=torch.ones_like(IDS))
        assert len(output[0]) == 2


def test_an_adapter_that_begins_at_a_token_is_refused(make_dream):
    model = wrapped(make_dream(), peft.LoraConfig(**TARGETS, alora_invocation_tokens=[5]), task_type="CAUSAL_LM")
    message = r"must be called with adapters for whole texts, got LORA with `alora_invocation_tokens`, which begins"
    with pytest.raises(ValueError, match=message):
        model.generate(input_ids=IDS, **SETTINGS)


def test_a_method_with_two_forwards_is_refused(make_dream):
    if not hasattr(peft, "ShadowConfig"):
        pytest.skip("needs a newer peft")
    model = wrapped(make_dream(), peft.ShadowConfig(**TARGETS))
    with pytest.raises(ValueError, match=r"must be called with adapters that run in one forward, got SHADOW\."):
        model.generate(input_ids=IDS, **SETTINGS)


@pytest.mark.parametrize("task", TASKS)
def test_an_adapter_for_each_row_is_explained(make_dream, task):
    model = wrapped(make_dream(), INSIDE["lora"], task_type=task)
    model.add_adapter("other", peft.LoraConfig(**TARGETS, init_lora_weights=False, task_type=task))
    expected = model.generate(input_ids=IDS, **SETTINGS)
    message = r"`adapter_names` must not be given to `generate`, got \['default', 'other'\]: rows leave the batch when"
    with pytest.raises(ValueError, match=message):
        model.generate(input_ids=IDS, adapter_names=["default", "other"], **SETTINGS)
    with pytest.raises(ValueError, match=message):
        model.get_base_model().generate(IDS, adapter_names=["default", "other"], **SETTINGS)
    # PEFT's hooks of the refused call are gone, and each adapter decodes alone.
    assert torch.equal(model.generate(input_ids=IDS, **SETTINGS), expected)
    model.set_adapter("other")
    assert not torch.equal(model.generate(input_ids=IDS, **SETTINGS), expected)
