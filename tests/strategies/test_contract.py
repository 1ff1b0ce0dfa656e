"""What every registered strategy must do; a new one is tested here without another line."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from demask_hf import make_strategy, strategy_fields, strategy_names
from demask_hf.strategies import Decision, Review
from demask_hf.strategies.wino import FORMS


# A table of six positions.
TABLE = str(Path(__file__).parent / "table.json")
# Further settings of the strategies that ship, beside the defaults of everything that is registered.
VARIANTS = [
    *(
        ("sequential", {"order": score})
        for score in ("entropy", "margin", "left_to_right", "random", "token_probability")
    ),
    *(("schedule", {"algorithm": algorithm}) for algorithm in ("origin", "maskgit_plus", "topk_margin")),
    ("schedule", {"alg_temp": 0.5}),
    *(("schedule", {"algorithm": "maskgit_plus", "plan": plan}) for plan in ("llada", "mdlm")),
    ("schedule", {"algorithm": "maskgit_plus", "plan": "ass", "ascending_blocks": 3}),
    ("threshold", {"confidence_threshold": 0.3}),
    *(("threshold", {"factor": 1.5, "factor_variant": variant}) for variant in ("stated", "fast_dllm", "d2cache")),
    ("entropy_bound", {"entropy_bound": 3.0}),
    ("entropy_bound", {"entropy_bound": 3.0, "order": "confidence"}),
    ("frechet", {"frechet_margin": 0.0}),
    ("local_leap", {"confidence_threshold": 0.4, "relaxed_threshold": 0.2, "radius": 2}),
    ("punt", {"kl_threshold": 2.0}),
    ("mean_field", {"intensity_threshold": 0.5, "num_iterations": 1}),
    ("adas", {"rule": "entropy_bound", "limit": 3.0, "discount": 2.0}),
    ("adas", {"rule": "top_k", "limit": 3}),
    *(("distance", {"gap": gap, "order": order}) for gap, order in ((1, "entropy"), (3, "random"))),
    *(("table", {"table": TABLE, "rule": rule, "dependency_bound": 0.4}) for rule in ("total", "norm", "max")),
    ("table", {"table": TABLE, "order": "influence", "symmetric": True, "dependency_bound": 0.4}),
    ("table", {"table": TABLE, "selection": "partition", "dependency_bound": 0.4}),
    ("klass", {"confidence_threshold": 0.2, "kl_threshold": 0.5}),
    ("klass", {"confidence_threshold": 0.2, "kl_threshold": 5.0, "history_length": 1}),
    *(("demask", {"rule": rule, "dependency_bound": 0.6}) for rule in ("total", "token", "norm", "max")),
    ("demask", {"symmetric": True, "order": "entropy", "dependency_bound": 0.8}),
    ("demask", {"order": "margin", "confidence_threshold": 0.4, "dependency_bound": 1.0}),
    ("demask", {"order": "token_probability"}),
    ("demask", {"order": "influence", "dependency_bound": 0.6}),
    ("demask", {"order": "degree", "dependency_bound": 0.6}),
    *(("demask", {"selection": "partition", "rule": rule, "dependency_bound": 0.6}) for rule in ("token", "norm")),
    ("demask", {"selection": "partition", "order": "influence", "confidence_threshold": 0.2, "dependency_bound": 0.6}),
    ("demask", {"order": "influence", "max_candidates": 3, "confidence_threshold": 0.2, "dependency_bound": 0.6}),
    ("demask", {"dependencies": "exact", "dependency_bound": 0.3}),
    ("demask", {"dependencies": "exact", "estimator": "argmax"}),
    ("dawn", {"confidence_threshold": 0.2, "anchor_threshold": 0.6, "induced_threshold": 0.3, "sink_threshold": 1.0}),
    ("dawn", {"confidence_threshold": 0.2, "sink_threshold": 0.2, "edge_threshold": 0.15, "num_layers": 1}),
    ("dapd", {"initial_bound": 0.5, "final_bound": 0.9, "layer_share": 1.0}),
    ("freedave", {"num_versions": 3, "order": "left_to_right"}),
    ("freedave", {"confidence_threshold": 0.4}),
    ("lossless", {"num_versions": 4, "order": "entropy"}),
    ("prophet", {"inner": "threshold", "early_gap": 1.0, "answer_start": 2}),
    ("prophet", {"inner": {"name": "lossless", "num_versions": 4}, "early_gap": 9.0, "middle_gap": 2.0}),
    ("t2m", {"confidence_threshold": 0.3, "remask_threshold": 0.5, "max_position_remasks": 2, "remask_share": 1.0}),
    ("t2m", {"confidence_threshold": 0.3, "rule": "t2t_remask", "remask_threshold": 0.2}),
    ("t2m", {"confidence_threshold": 0.3, "rule": "logit_diff", "remask_threshold": 0.05}),
    ("t2m", {"confidence_threshold": 0.3, "rule": "t2t", "max_review_steps": 3}),
    *(("wino", {"confidence_threshold": 0.3, "verification_threshold": 0.6, "form": form}) for form in FORMS),
    ("edit", {"inner": "sequential", "edit_share": 0.5}),
    ("edit", {"inner": {"name": "schedule", "plan": "llada"}, "edit_threshold": 0.9, "max_looks": 1}),
    ("edit", {"inner": {"name": "demask", "dependency_bound": 0.8}, "max_probes": 2}),
    ("edit", {"inner": {"name": "demask", "dependency_bound": 0.8}, "doubt": "dependency", "edit_share": 0.4}),
    ("dapd", {"initial_bound": 0.8, "final_bound": 0.8, "confidence_threshold": None}),
]
CASES = [(name, {}) for name in strategy_names()] + VARIANTS
every_case = pytest.mark.parametrize(
    ("name", "fields"),
    CASES,
    ids=[
        ",".join([name, *(f"{field}={value}" for field, value in fields.items() if field != "table")])
        for name, fields in CASES
    ],
)
every_strategy = pytest.mark.parametrize("name", strategy_names())

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]
NUM_NEW_TOKENS = 6
SEEDS = [11, 12, 13]


def _padded(prompts):
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    return ids, torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])


def _decode(model, prompts, strategy, **kwargs):
    ids, attention_mask = _padded(prompts)
    settings = {"max_new_tokens": NUM_NEW_TOKENS, "return_dict_in_generate": True, "stop_at_eos": False}
    return model.generate(ids, attention_mask, strategy=strategy, **{**settings, **kwargs})


def _review(candidates, generator):
    """Return what a model predicts at the positions that are no candidates, all of them written."""
    values = torch.rand(3, *candidates.shape, generator=generator) * ~candidates
    return Review(values[0], (values[1] * 9 + 3).long(), values[2])


@every_case
def test_selection_is_a_subset_of_the_candidates(dream_with_head, make_step, name, fields):
    strategy = make_strategy(name, **fields)
    strategy.bind(dream_with_head)
    generator, vocabulary = torch.Generator().manual_seed(0), dream_with_head.config.vocab_size
    candidates = torch.rand(4, 9, generator=generator) < 0.6
    candidates[2] = False

    def forward(sequences, rows, asked):
        return torch.full((int(asked.sum()), vocabulary), 1 / vocabulary)

    for index in range(4):
        count = int(candidates.sum())
        probabilities = torch.randn(count, vocabulary, generator=generator).mul(2).softmax(dim=-1)
        step = make_step(
            probabilities,
            candidates=candidates,
            step_index=torch.full((4,), index),
            block_step_index=torch.full((4,), index),
            hidden_states=torch.randn(count, dream_with_head.config.hidden_size, generator=generator),
            forward=forward,
            attentions=torch.randn(4, 9, 9, generator=generator).softmax(dim=-1),
            logit_gaps=torch.rand(4, 9, generator=generator),
            context_confidence=torch.rand(4, 9, generator=generator) * ~candidates,
            written=~candidates,
            review=_review(candidates, generator),
        )
        selected = strategy.select(step)
        if isinstance(selected, Decision):
            # Written positions may be edited; nothing else that is no candidate is selected.
            changed = selected.selected if selected.remasked is None else selected.selected | selected.remasked
            assert strategy.remasks or not (changed & ~candidates).any()
            selected = selected.selected & candidates
        assert selected.dtype == torch.bool
        assert selected.shape == candidates.shape
        assert not (selected & ~candidates).any()
        if not strategy.allows_empty_step:
            assert torch.equal(selected.any(dim=-1), candidates.any(dim=-1))
        candidates = candidates & ~selected & (torch.rand(4, 9, generator=generator) < 0.8)
        if not candidates.any():
            break


@every_case
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_of_a_batch_equals_the_row_alone(dream_with_head, name, fields, temperature):
    kwargs = {"temperature": temperature}
    together = _decode(dream_with_head, PROMPTS, name, **fields, **kwargs, seed=SEEDS)
    width = max(map(len, PROMPTS))
    for row, prompt in enumerate(PROMPTS):
        alone = _decode(dream_with_head, [prompt], name, **fields, **kwargs, seed=SEEDS[row])
        begin = width - len(prompt)
        assert together.sequences[row, begin:].tolist() == alone.sequences[0].tolist()
        assert together.unmask_step[row, begin:].tolist() == alone.unmask_step[0].tolist()
        assert together.num_forward_passes[row] == alone.num_forward_passes[0]
        assert together.num_probe_passes[row] == alone.num_probe_passes[0]
        assert together.num_row_forwards[row] == alone.num_row_forwards[0]
        assert together.num_remasked[row] == alone.num_remasked[0]


@every_case
@pytest.mark.parametrize("block_length", [None, 3])
def test_every_position_is_written_once_and_every_pass_is_counted(dream_with_head, name, fields, block_length):
    output = _decode(dream_with_head, PROMPTS, name, **fields, block_length=block_length, output_history=True)
    mask = dream_with_head.config.mask_token_id
    assert not (output.sequences == mask).any()
    steps = output.unmask_step[:, -NUM_NEW_TOKENS:]
    assert (steps >= 0).all()
    assert (output.unmask_step[:, :-NUM_NEW_TOKENS] == -1).all()
    if make_strategy(name, **fields).remasks:
        # Every pass but those that write nothing and the last look changes something.
        assert (output.num_forward_passes <= 2 * NUM_NEW_TOKENS + 2 * output.num_remasked + 1).all()
        prompts = [each[:, :-NUM_NEW_TOKENS] for each in output.history]
        assert all(torch.equal(each, prompts[0]) for each in prompts)
        return
    assert not output.num_remasked.any()
    assert torch.equal(steps.max(dim=-1).values + 1, output.num_forward_passes)
    # A strategy that may leave a step empty needs its schedule to end; others write something in every pass.
    assert (output.num_forward_passes <= NUM_NEW_TOKENS).all()
    if not make_strategy(name, **fields).allows_empty_step:
        for row, passes in enumerate(output.num_forward_passes.tolist()):
            assert set(steps[row].tolist()) == set(range(passes))
    for before, after in zip(output.history, output.history[1:], strict=False):
        assert torch.equal(before[before != mask], after[before != mask])


@every_case
def test_nothing_is_remembered_from_call_to_call(dream_with_head, name, fields):
    strategy = make_strategy(name, **fields)
    first = _decode(dream_with_head, PROMPTS, strategy, seed=SEEDS)
    _decode(dream_with_head, [[20, 21]], strategy, max_new_tokens=5, seed=1)
    again = _decode(dream_with_head, PROMPTS, strategy, seed=SEEDS)
    assert torch.equal(first.sequences, again.sequences)
    assert torch.equal(first.unmask_step, again.unmask_step)
    fresh = make_strategy(name, **fields)
    for field in dataclasses.fields(strategy):
        assert getattr(strategy, field.name) == getattr(fresh, field.name)


@every_case
def test_name_and_fields_make_an_equal_strategy(name, fields):
    strategy = make_strategy(name, **fields)
    described = json.loads(json.dumps(strategy.to_dict()))
    assert described == {"name": name, **strategy_fields(name), **fields}
    assert make_strategy(**described) == strategy
    assert dataclasses.replace(strategy) == strategy


@every_strategy
def test_every_field_is_documented_with_its_default(name):
    docstring = type(make_strategy(name)).__doc__
    fields = strategy_fields(name)
    documented = dict(re.findall(r"^ +(\w+) \((.+)\):$", docstring, flags=re.MULTILINE))
    assert set(documented) == set(fields)
    for field, default in fields.items():
        if default is None:
            assert documented[field].endswith("*optional*")
            continue
        stated = re.search(r"defaults to (.+)$", documented[field])
        assert stated, f"{name}.{field} does not state its default"
        assert stated[1].strip('`"') == str(default)


@every_strategy
def test_every_strategy_says_what_it_unmasks(name):
    summary = type(make_strategy(name)).__doc__.splitlines()[0]
    assert summary.endswith(".")
    assert re.search("unmask", summary, flags=re.IGNORECASE)


@every_strategy
def test_private_memory_is_neither_shown_nor_compared(name):
    for field in dataclasses.fields(make_strategy(name)):
        if field.name.startswith("_"):
            assert not any((field.init, field.repr, field.compare))


@every_strategy
def test_every_strategy_shows_a_decode(name):
    docstring = type(make_strategy(name)).__doc__
    assert f'strategy="{name}"' in docstring
    assert ">>> print(*output.drafts(tokenizer)" in docstring
