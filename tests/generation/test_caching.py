import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig

import demask_hf
from demask_hf.backbones.backbone import Backbone
from demask_hf.generation.caching import BlockCache
from demask_hf.generation.configuration import CACHES
from demask_hf.models.llada.configuration_llada import LLaDAConfig
from demask_hf.models.llada.modeling_llada import LLaDAModelLM
from demask_hf.strategies import strategy_names


MASK, EOS = 1, 2
# Those that look at every position take no cache.
READERS = {"adas", "dawn", "dapd", "edit", "prophet", "t2m", "wino"}
# Drafts use the keys and values of their block, which are not renewed within it; see `strategies/test_lossless.py`.
DRAFTERS = {"freedave", "lossless"}
RULES = [{"strategy": name} for name in strategy_names() if name not in READERS | DRAFTERS]
RULES += [{"strategy": "demask", "dependencies": "exact"}, {"strategy": "threshold", "temperature": 1.0, "seed": 5}]
PROMPTS = torch.tensor([[0, 0, 5, 6, 7], [4, 8, 9, 10, 11], [0, 3, 12, MASK, 14]])
ATTENTION = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])

every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, rule.values())))
every_cache = pytest.mark.parametrize("cache", ["prefix", "dual"])


def build_llada():
    torch.manual_seed(3)
    config = LLaDAConfig(
        vocab_size=24,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        mask_token_id=MASK,
        pad_token_id=0,
        eos_token_id=EOS,
        initializer_range=0.3,
    )
    return LLaDAModelLM(config).eval()


@pytest.fixture(scope="module", params=["dream", "dream-eager", "llada"])
def model(request, dream_with_head):
    if request.param == "llada":
        return build_llada()
    dream_with_head.set_attn_implementation("eager" if request.param == "dream-eager" else "sdpa")
    return dream_with_head


def decode(model, prompts=PROMPTS, attention_mask=ATTENTION, **arguments):
    settings = {"max_new_tokens": 12, "block_length": 4, "return_dict_in_generate": True, **arguments}
    return model.generate(prompts, attention_mask, **settings)


def needs_another_model(model, rule):
    return rule["strategy"] == "demask" and "dependencies" not in rule and model.demask_head is None


def widths_of(model, **arguments):
    """Return rows and columns of every forward that a call makes."""
    shapes = []
    handle = model.model.layers[0].register_forward_hook(lambda module, args, output: shapes.append(args[0].shape[:2]))
    try:
        output = decode(model, **arguments)
    finally:
        handle.remove()
    return [tuple(shape) for shape in shapes], output


@every_rule
@every_cache
def test_a_row_of_a_batch_is_the_row_alone(model, rule, cache):
    if needs_another_model(model, rule):
        pytest.skip("has no head")
    together = decode(model, block_cache=cache, cache_refresh_interval=3, **rule)
    for row, first in enumerate([2, 0, 1]):
        alone = decode(
            model, PROMPTS[row : row + 1, first:], None, block_cache=cache, cache_refresh_interval=3, **rule
        )
        assert together.sequences[row, first:].tolist() == alone.sequences[0].tolist()
        assert together.unmask_step[row, first:].tolist() == alone.unmask_step[0].tolist()
        assert together.num_forward_passes[row] == alone.num_forward_passes[0]


@every_rule
@every_cache
def test_a_cache_renewed_in_every_step_is_exact(model, rule, cache):
    if needs_another_model(model, rule):
        pytest.skip("has no head")
    exact = decode(model, **rule)
    renewed = decode(model, block_cache=cache, cache_refresh_interval=1, **rule)
    for name in ("sequences", "unmask_step", "num_forward_passes", "num_probe_passes"):
        assert exact[name].tolist() == renewed[name].tolist()


@every_cache
def test_caches_approximate(dream, cache):
    # If they gave the same history here, the other tests would compare nothing.
    exact, approximate = (decode(dream, strategy="sequential", block_cache=kind) for kind in ("none", cache))
    assert exact.sequences.tolist() != approximate.sequences.tolist()


@pytest.mark.parametrize(
    ("cache", "commits_first", "widths"),
    [
        # 5 prompt and 8 new tokens in blocks of 4. Dream reads a position from the one before it.
        ("none", False, [13] * 8),
        ("prefix", False, [13, 9, 9, 9, 13, 5, 5, 5]),
        ("dual", False, [13, 5, 5, 5, 13, 5, 5, 5]),
        ("prefix", True, [13, 8, 8, 8, 13, 4, 4, 4]),
        ("dual", True, [13, 4, 4, 4, 13, 4, 4, 4]),
    ],
)
def test_short_forwards_compute_the_window_only(dream, cache, commits_first, widths):
    shapes, output = widths_of(
        dream,
        prompts=PROMPTS[1:2],
        attention_mask=None,
        strategy="sequential",
        max_new_tokens=8,
        stop_at_eos=False,
        block_cache=cache,
        cache_commits_first=commits_first,
    )
    assert shapes == [(1, width) for width in widths]
    assert output.num_forward_passes.tolist() == [8]


@pytest.mark.parametrize(
    ("interval", "widths"), [(1, [9, 9, 9, 9]), (2, [9, 5, 9, 5]), (3, [9, 5, 5, 9]), (4, [9, 5, 5, 5])]
)
def test_full_forwards_come_again_after_the_interval(dream, interval, widths):
    arguments = {"prompts": PROMPTS[1:2], "attention_mask": None, "strategy": "sequential", "max_new_tokens": 4}
    shapes, _ = widths_of(dream, block_cache="dual", cache_refresh_interval=interval, stop_at_eos=False, **arguments)
    assert shapes == [(1, width) for width in widths]


def test_without_a_shift_the_window_is_the_block():
    arguments = {"prompts": PROMPTS[1:2], "attention_mask": None, "strategy": "sequential", "max_new_tokens": 4}
    shapes, _ = widths_of(build_llada(), block_cache="dual", stop_at_eos=False, **arguments)
    assert shapes == [(1, 9), (1, 4), (1, 4), (1, 4)]


def test_rows_at_different_points_take_forwards_of_their_own(dream):
    arguments = {"strategy": "threshold", "confidence_threshold": 0.5, "stop_at_eos": False, "block_cache": "dual"}
    shapes, output = widths_of(dream, **arguments)
    assert len(set(output.num_forward_passes.tolist())) > 1
    # Every row's forward counts once, whatever its kind.
    assert sum(rows for rows, _ in shapes) == output.num_forward_passes.sum()
    assert len(shapes) > output.num_forward_passes.max()


def test_the_first_position_of_a_block_is_written_alone_and_at_once(dream):
    arguments = {"prompts": PROMPTS[1:2], "attention_mask": None, "stop_at_eos": False, "block_cache": "dual"}
    output = decode(dream, strategy="threshold", confidence_threshold=0.0, cache_commits_first=True, **arguments)
    # With a threshold of 0 the second forward of each block writes the rest.
    assert output.unmask_step[0, 5:].tolist() == [0, 1, 1, 1, 2, 3, 3, 3, 4, 5, 5, 5]


def test_a_cap_on_the_steps_fills_all_blocks_from_a_full_forward(dream):
    arguments = {"prompts": PROMPTS[1:2], "attention_mask": None, "stop_at_eos": False, "block_cache": "dual"}
    shapes, output = widths_of(dream, strategy="sequential", max_denoising_steps=3, **arguments)
    assert [columns for _, columns in shapes] == [17, 5, 17]
    assert not (output.sequences == MASK).any()


@every_cache
def test_keys_of_a_short_forward_do_not_stay(dream, cache):
    kept = BlockCache(1)
    kept.rows = torch.tensor([0])
    given = {Backbone.of(dream).cache_argument: kept}
    ids = torch.tensor([[4, 5, 6, MASK, MASK]])
    with torch.no_grad():
        dream(ids, **given)
        before = [layer.keys.clone() for layer in kept.layers]
        kept.columns = torch.tensor([[2, 3, 4] if cache == "prefix" else [2, 3]])
        changed = torch.tensor([[4, 5, 6, 7, MASK]])
        dream(changed.gather(1, kept.columns), position_ids=kept.columns, **given)
    assert all(torch.equal(layer.keys, keys) for layer, keys in zip(kept.layers, before, strict=True))


def test_a_short_forward_of_all_columns_is_the_full_forward(model):
    ids = torch.tensor([[4, 5, 6, MASK, MASK], [7, 8, MASK, 9, MASK]])
    kept = BlockCache(2)
    kept.rows = torch.arange(2)
    given = {Backbone.of(model).cache_argument: kept}
    with torch.no_grad():
        model(torch.full_like(ids, 3), **given)
        kept.columns = torch.arange(5).expand(2, 5)
        short = model(ids, position_ids=kept.columns, **given).logits
        full = model(ids).logits
    torch.testing.assert_close(short, full, atol=1e-5, rtol=0)


def test_other_models_are_refused():
    config = BertConfig(
        vocab_size=24, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    bert = demask_hf.attach(AutoModelForMaskedLM.from_config(config), mask_token_id=MASK)
    message = (
        r"`block_cache` must be 'none' for a BertForMaskedLM, got 'dual': the native models \(Dream, LLaDA, A2D, "
        r"SDAR\) can keep"
    )
    with pytest.raises(ValueError, match=message):
        bert.generate(PROMPTS, max_new_tokens=4, block_cache="dual")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"block_cache": "block"}, f"`block_cache` must be one of {', '.join(CACHES)}, got 'block'"),
        ({"cache_refresh_interval": 0}, "`cache_refresh_interval` must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(dream, setting, message):
    with pytest.raises(ValueError, match=message):
        decode(dream, **setting)
