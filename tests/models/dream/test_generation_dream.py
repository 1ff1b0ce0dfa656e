"""`diffusion_generate`, as Dream's README calls it, against `generate` and Dream's recorded outputs."""

import json

import pytest
import torch
from transformers import AutoModel, GenerationConfig

from demask_hf import DemaskGenerationConfig, LLaDAModelLM


IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])
HUB = {"alg": "origin", "alg_temp": None, "eps": 0.001, "steps": 512, "temperature": 0.0, "top_k": None, "top_p": None}


def test_the_call_of_dreams_readme(dream):
    output = dream.diffusion_generate(
        IDS,
        attention_mask=torch.ones_like(IDS),
        max_new_tokens=8,
        output_history=True,
        return_dict_in_generate=True,
        steps=8,
        temperature=0.2,
        top_p=0.95,
        alg="entropy",
        alg_temp=0.0,
        seed=1,
    )
    expected = dream.generate(
        IDS,
        strategy="schedule",
        algorithm="entropy",
        alg_temp=0.0,
        max_denoising_steps=8,
        max_new_tokens=8,
        temperature=0.2,
        top_p=0.95,
        seed=1,
        stop_at_eos=False,
    )
    assert torch.equal(output.sequences, expected)
    # One entry for each step, as in Dream's code.
    assert len(output.history) == 8
    assert torch.equal(output.history[-1], expected)
    assert (output.history[1] == 1).any()


def test_recorded_outputs_of_dreams_code(goldens):
    recorded = json.loads((goldens / "R1_dream_official.json").read_text())
    model = AutoModel.from_pretrained(goldens / "checkpoints" / recorded["checkpoint"]).eval()
    names = ("alg", "steps", "eps", "temperature", "top_k", "top_p")
    cases = [
        case for case in recorded["cases"] if case["settings"]["alg"] in ("maskgit_plus", "topk_margin", "entropy")
    ]
    for case in cases[:6]:
        settings = {name: case["settings"][name] for name in names}
        mask = case.get("attention_mask")
        mask = None if mask is None else torch.tensor(mask)
        ids = model.diffusion_generate(
            torch.tensor(case["prompt"]), attention_mask=mask, max_new_tokens=24, **settings
        )
        assert ids.tolist() == case["sequences"]


@pytest.mark.parametrize("stored", [DemaskGenerationConfig.from_dict({**HUB, "steps": 9}), DemaskGenerationConfig()])
def test_what_the_caller_leaves_out_is_the_checkpoints_or_dreams(make_dream, make_head, stored):
    model = make_dream()
    model.generation_config = stored
    # A head does not matter: this is Dream's own sampler.
    model.set_demask_head(make_head(model))
    kwargs = {"max_new_tokens": 6, "return_dict_in_generate": True, "seed": 2}
    output = model.diffusion_generate(IDS, **kwargs)
    steps = stored.max_denoising_steps or 512
    named = {"strategy": "schedule", "algorithm": "origin", "max_denoising_steps": steps, "stop_at_eos": False}
    assert torch.equal(output.unmask_step, model.generate(IDS, **named, **kwargs).unmask_step)
    assert output.history is None


def test_a_given_config_may_have_dreams_names(dream):
    kwargs = {"max_new_tokens": 6, "return_dict_in_generate": True}
    expected = dream.diffusion_generate(IDS, alg="topk_margin", steps=3, **kwargs)
    assert expected.num_forward_passes.tolist() == [3, 3]
    stock = GenerationConfig()
    stock.alg, stock.steps = "topk_margin", 3
    for config in (DemaskGenerationConfig(alg="topk_margin", steps=3), stock):
        output = dream.diffusion_generate(inputs=IDS, generation_config=config, **kwargs)
        assert torch.equal(output.unmask_step, expected.unmask_step)


def test_wrong_arguments_are_refused_in_a_sentence(dream):
    with pytest.raises(ValueError, match=r"`algorithm` must be one of origin, maskgit_plus, .*, got 'random'\."):
        dream.diffusion_generate(IDS, alg="random")
    with pytest.raises(ValueError, match=r"`generation_logits_hook_func` must be given as `logits_processor`, got"):
        dream.diffusion_generate(IDS, generation_logits_hook_func=lambda step, x, logits: logits)
    with pytest.raises(ValueError, match=r"`num_beams` must be 1 for decoding by unmasking, got 2"):
        dream.diffusion_generate(IDS, num_beams=2)


def test_other_models_do_not_have_it():
    assert not hasattr(LLaDAModelLM, "diffusion_generate")
