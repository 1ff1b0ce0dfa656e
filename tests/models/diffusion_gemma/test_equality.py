"""The rule "renoise" without a seed against transformers' own `generate`: sequences bit for bit."""

import copy

import pytest
import torch


PROMPTS = torch.randint(3, 50, (3, 5), generator=torch.Generator().manual_seed(5))
SETTINGS = [
    # Every canvas takes all its steps.
    {"max_denoising_steps": 3, "max_new_tokens": 16},
    {"entropy_bound": 2.0, "max_new_tokens": 24, "max_denoising_steps": 1},
    # Canvases of a row take different numbers of steps, and rows end in different canvases.
    {"confidence_threshold": 0.6, "stability_threshold": 0, "eos_token_id": [1, 2, 7]},
    {"confidence_threshold": 0.8, "max_new_tokens": 16, "max_denoising_steps": 16, "t_min": 0.1, "t_max": 0.4},
    {"confidence_threshold": 1.5, "max_new_tokens": 8, "stability_threshold": 2, "t_min": 0.1, "t_max": 0.3},
]


def _both(theirs, ours, ids, seed, attention_mask=None, **settings):
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

    given = {"max_new_tokens": 40, **settings}
    masks = {} if attention_mask is None else {"attention_mask": attention_mask}
    own = dict(given)
    if "entropy_bound" in own:
        own["sampler_config"] = EntropyBoundSamplerConfig(own.pop("entropy_bound"))
    torch.manual_seed(seed)
    expected = theirs.generate(ids, **masks, **own)
    after = torch.rand(1)
    torch.manual_seed(seed)
    found = ours.generate(ids, **masks, **given)
    return expected, found, after, torch.rand(1)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("num_rows", [1, 3])
def test_sequences_and_counts_are_those_of_transformers(theirs, ours, settings, num_rows):
    for seed in (1, 4):
        expected, found, after, now = _both(theirs, ours, PROMPTS[:num_rows], seed, **settings)
        width = expected.sequences.shape[1]
        assert found.sequences[:, :width].tolist() == expected.sequences.tolist()
        # Where all rows end early, transformers returns no further canvas.
        assert (found.sequences[:, width:] == 0).all()
        passes = (found.unmask_step >= 0).sum(dim=-1) / found.tokens_per_forward
        assert passes.round().long().tolist() == found.num_forward_passes.tolist()
        assert after == now, "the generators must be in the same state"
        torch.testing.assert_close(found.tokens_per_forward, expected.tokens_per_forward)


def test_a_left_padded_batch_is_that_of_transformers(theirs, ours):
    mask = torch.ones_like(PROMPTS)
    mask[0, :2] = 0
    expected, found, _, _ = _both(theirs, ours, PROMPTS, 3, mask, confidence_threshold=0.6, stability_threshold=0)
    assert len(set(found.num_forward_passes.tolist())) > 1
    assert found.sequences[:, : expected.sequences.shape[1]].tolist() == expected.sequences.tolist()


def test_a_model_in_bfloat16_is_that_of_transformers(theirs, ours):
    pair = (copy.deepcopy(model).to(torch.bfloat16) for model in (theirs, ours))
    expected, found, _, _ = _both(*pair, PROMPTS, 1, confidence_threshold=0.6, stability_threshold=0)
    assert found.sequences[:, : expected.sequences.shape[1]].tolist() == expected.sequences.tolist()


def test_the_rows_of_these_tests_stop_at_different_times(ours):
    differ = ends_differ = False
    for seed in (1, 4):
        torch.manual_seed(seed)
        output = ours.generate(PROMPTS, max_new_tokens=40, **SETTINGS[2])
        canvases = ((output.unmask_step[:, 5:] >= 0).sum(dim=-1) - 1) // 8
        differ |= len(set(output.num_forward_passes.tolist())) > 1
        ends_differ |= len(set(canvases.tolist())) > 1
    assert differ, "canvases take different numbers of steps"
    assert ends_differ, "rows end in different canvases"
