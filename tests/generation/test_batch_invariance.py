"""`generate(batch_invariant=True)`: a row of a batch equals the row alone, in every number format."""

import copy

import pytest
import torch
from transformers import AutoTokenizer

import demask_hf
from demask_hf.strategies import strategy_names
from demask_hf.tasks import FAMILIES


PROMPTS = [[3], [4, 5, 6, 7, 8, 9, 10], [11, 12, 13], [14, 15, 16, 17, 18]]
NEW_TOKENS = 16


def padded(prompts):
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def decode(model, ids, mask=None, **arguments):
    arguments = {"max_new_tokens": NEW_TOKENS, "stop_at_eos": False, "return_dict_in_generate": True, **arguments}
    return model.generate(ids, mask, **arguments)


def num_different(model, prompts, alone_too=False, **arguments):
    """Return how many rows of a padded batch differ from the row alone."""
    ids, mask = padded(prompts)
    seeds = list(range(len(prompts)))
    batch = decode(model, ids, mask, seed=seeds, batch_invariant=True, **arguments)
    count = 0
    for row, prompt in enumerate(prompts):
        alone = decode(model, torch.tensor([prompt]), seed=seeds[row], batch_invariant=alone_too, **arguments)
        first, row_slice = ids.shape[1] - len(prompt), slice(row, row + 1)
        is_same = all(
            torch.equal(getattr(batch, name)[row_slice, first:], getattr(alone, name))
            for name in ("sequences", "unmask_step")
        )
        is_same &= all(
            torch.equal(getattr(batch, name)[row_slice], getattr(alone, name))
            for name in ("num_forward_passes", "num_probe_passes", "uncovered_mass")
        )
        count += not is_same
    return count


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float16, torch.float32], ids=str)
def model(request, dream_with_head):
    converted = copy.deepcopy(dream_with_head).to(request.param)
    head = copy.deepcopy(dream_with_head.demask_head)
    converted.set_demask_head(head.to(request.param))
    return converted


every_strategy = pytest.mark.parametrize("strategy", sorted({*strategy_names()} - {"wino"}))


@every_strategy
def test_rows_equal_rows_alone(model, strategy):
    assert num_different(model, PROMPTS, strategy=strategy) == 0


def test_rows_equal_rows_alone_when_tokens_are_drawn(model):
    assert num_different(model, PROMPTS, strategy="demask", temperature=0.7, top_p=0.9) == 0


@pytest.mark.parametrize("strategy", ["demask", "klass", "schedule"])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_rows_equal_rows_alone_with_a_cache(model, strategy, cache):
    settings = {"block_cache": cache, "block_length": 8, "cache_refresh_interval": 3}
    assert num_different(model, PROMPTS, strategy=strategy, **settings) == 0


@pytest.mark.parametrize(
    "fields", [{"rule": "total"}, {"rule": "max"}, {"rule": "norm"}, {"selection": "partition"}], ids=str
)
def test_rows_equal_rows_alone_with_every_rule(model, fields):
    assert num_different(model, PROMPTS, strategy="demask", symmetric=True, **fields) == 0


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_measured_dependencies_equal_those_of_the_row_alone_with_the_same_option(model, cache):
    # Without the option the probes of a row share forwards.
    settings = {"strategy": "demask", "dependencies": "exact", "estimator": "argmax", "block_cache": cache}
    settings |= {"max_new_tokens": 8, "block_length": 4}
    assert num_different(model, PROMPTS[:3], alone_too=True, **settings) == 0


def test_parts_of_the_candidates_and_logits_processors_are_those_of_the_row(model, monkeypatch):
    monkeypatch.setattr("demask_hf.generation.predictor._MAX_PART_ELEMENTS", 24 * 5)
    assert num_different(model, PROMPTS, strategy="demask") == 0
    assert num_different(model, PROMPTS, strategy="threshold", block_cache="dual", block_length=8) == 0
    assert num_different(model, PROMPTS, strategy="demask", logits_processor=[lambda ids, scores: scores * 2]) == 0


def test_masks_in_prompts_ends_and_histories_are_handled_as_in_any_batch(dream_with_head):
    ids, mask = padded([[3, 1, 4], [5, 6, 1, 7, 1]])
    settings = {"strategy": "demask", "stop_at_eos": True, "output_history": True}
    expected = decode(dream_with_head, ids, mask, **settings)
    found = decode(dream_with_head, ids, mask, batch_invariant=True, **settings)
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(found.unmask_step, expected.unmask_step)
    assert len(found.history) == len(expected.history)
    assert all(torch.equal(one, other) for one, other in zip(found.history, expected.history, strict=True))


def test_every_forward_has_one_row_and_no_padding(dream_with_head, monkeypatch):
    shapes, forward = [], type(dream_with_head).forward

    def record(self, input_ids, attention_mask=None, **kwargs):
        shapes.append((tuple(input_ids.shape), attention_mask))
        return forward(self, input_ids, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(type(dream_with_head), "forward", record)
    ids, mask = padded(PROMPTS)
    output = decode(dream_with_head, ids, mask, strategy="sequential", batch_invariant=True)
    assert len(shapes) == int(output.num_forward_passes.sum())
    assert {shape for shape, _ in shapes} == {(1, len(prompt) + NEW_TOKENS) for prompt in PROMPTS}
    assert all(given is None for _, given in shapes)


def test_the_option_is_off_by_default_and_kept_with_the_other_settings(dream, tmp_path):
    config = demask_hf.DemaskGenerationConfig(batch_invariant=True)
    config.save_pretrained(tmp_path)
    assert demask_hf.DemaskGenerationConfig.from_pretrained(tmp_path).batch_invariant is True
    assert demask_hf.DemaskGenerationConfig._get_default_generation_params()["batch_invariant"] is False


def test_compiling_is_refused(dream):
    message = r"`compile` must be False with `batch_invariant=True`, as what is compiled .*, got 'default'\."
    with pytest.raises(ValueError, match=message):
        dream.generate(torch.tensor([[3]]), max_new_tokens=4, batch_invariant=True, compile="default")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["demask", "sequential"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rows_of_the_shipped_checkpoint_equal_rows_alone(dtype, strategy):
    model, _ = demask_hf.load_model(demask_hf.TINY_DREAM, head=demask_hf.TINY_DEMASK, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    families = [family for name, family in FAMILIES.items() if name != "parity"]
    texts = [example.prompt for family in families for example in family.distinct("test", 4)]
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    assert len(prompts) == 28
    assert num_different(model, prompts, strategy=strategy, max_new_tokens=32, stop_at_eos=True) == 0
