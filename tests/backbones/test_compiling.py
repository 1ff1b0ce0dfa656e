import copy

import pytest
import torch

from demask_hf.backbones.compiling import CompiledHead, _filled


PROMPTS = torch.tensor([[0, 0, 5, 6, 7], [4, 8, 9, 10, 11], [0, 3, 12, 13, 14]])
ATTENTION = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
EAGER = {"backend": "eager"}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()


def decode(model, **arguments):
    settings = {"max_new_tokens": 8, "block_length": 4, "return_dict_in_generate": True, **arguments}
    return model.generate(PROMPTS, ATTENTION, **settings)


def assert_same(model, compile, **arguments):
    eager, compiled = decode(model, **arguments), decode(model, compile=compile, **arguments)
    for name in ("sequences", "unmask_step", "num_forward_passes"):
        assert eager[name].tolist() == compiled[name].tolist()


@pytest.mark.parametrize("strategy", ["demask", "klass"])
def test_compiled_decoding_writes_the_same_tokens(dream_with_head, strategy):
    assert_same(dream_with_head, EAGER, strategy=strategy)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_compiled_decoding_with_a_cache_writes_the_same_tokens(dream_with_head, cache):
    assert_same(dream_with_head, EAGER, strategy="threshold", block_cache=cache, cache_refresh_interval=3)


def test_the_graph_of_aot_autograd_writes_the_same_tokens(dream_with_head):
    assert_same(dream_with_head, {"backend": "aot_eager"}, strategy="demask")


RULES = [{"strategy": "threshold", "confidence_threshold": 0.5}, {"strategy": "demask", "dependency_bound": 0.3}]


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["strategy"])
def test_generated_code_writes_the_same_tokens(dream_with_head, rule):
    assert_same(dream_with_head, True, **rule)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["strategy"])
def test_cuda_graphs_write_the_same_tokens(dream_with_head, rule):
    assert_same(copy.deepcopy(dream_with_head).cuda(), "reduce-overhead", **rule)


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_the_body_is_compiled_without_a_break_and_for_few_shapes(dream, cache):
    torch._dynamo.utils.counters.clear()
    rows = []
    hook = dream.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    # Rows end at different steps, so that the number of rows falls from three to one.
    output = decode(dream, strategy="threshold", confidence_threshold=0.5, compile=EAGER, block_cache=cache)
    hook.remove()
    counters = torch._dynamo.utils.counters
    assert len(set(output.num_forward_passes.tolist())) > 1
    # Three numbers of rows at most, full and short; and the scores of one candidate, and of any other number.
    assert counters["stats"]["unique_graphs"] <= (3 if cache == "none" else 6) + 2
    assert set(rows) <= {1, 2, 4}
    assert not counters["graph_break"]


def test_the_head_is_compiled_without_a_break_and_sees_few_shapes(dream_with_head):
    torch._dynamo.utils.counters.clear()
    shapes = []
    hook = dream_with_head.demask_head.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["positions"].shape)), with_kwargs=True
    )
    # An infilled mask makes one row longer than the others.
    prompts = PROMPTS.clone()
    prompts[1, 2] = dream_with_head.config.mask_token_id
    settings = {"strategy": "demask", "max_new_tokens": 6, "return_dict_in_generate": True}
    compiled = dream_with_head.generate(prompts, ATTENTION, compile=EAGER, **settings)
    hook.remove()
    eager = dream_with_head.generate(prompts, ATTENTION, **settings)
    assert compiled.unmask_step.tolist() == eager.unmask_step.tolist()
    assert {rows for rows, _ in shapes} <= {1, 2, 4}
    assert {size for _, size in shapes} <= {1, 2, 3, 4, 6, 8}
    assert shapes[0] == (4, 8)
    assert not torch._dynamo.utils.counters["graph_break"]


def test_dependencies_of_a_compiled_head_are_those_of_the_head(dream_with_head):
    head = dream_with_head.demask_head
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 5, head.config.backbone_hidden_size, generator=generator)
    inputs = {"positions": torch.arange(15).view(3, 5), "is_position": torch.arange(5) < torch.tensor([[5], [0], [3]])}
    inputs["certainty"] = torch.rand(3, 5, 2, generator=generator)
    for given in (inputs, {**inputs, "is_position": None}):
        found = CompiledHead(head, EAGER)(states, **given).dependencies
        torch.testing.assert_close(found, head(states, **given).dependencies)
    assert "forward" not in vars(head)


@pytest.mark.parametrize(("num_rows", "num_filled"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)])
def test_rows_are_filled_up_to_a_power_of_two(num_rows, num_filled):
    rows = torch.arange(num_rows)[:, None]
    filled = _filled(rows)
    assert filled[:, 0].tolist() == [*range(num_rows), *[num_rows - 1] * (num_filled - num_rows)]


def test_the_model_is_left_as_it_was(dream):
    decode(dream, strategy="sequential", compile=EAGER)
    assert "forward" not in vars(dream.model)


def test_a_replaced_forward_is_refused(make_dream):
    model = make_dream()
    model.model.forward = model.model.forward
    with pytest.raises(
        ValueError, match="`compile` must not be used with a model whose forward was replaced, got True"
    ):
        decode(model, compile=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fast", "`compile` must be a boolean, a dict or one of default, reduce-overhead, .*, got 'fast'"),
        (3, "`compile` must be a boolean, a dict or one of default, reduce-overhead, .*, got 3"),
        ({"speed": 1}, "`compile` must hold backend, dynamic, fullgraph, mode, options only, got speed"),
    ],
)
def test_wrong_settings_are_refused(dream, value, message):
    with pytest.raises(ValueError, match=message):
        decode(dream, compile=value)
