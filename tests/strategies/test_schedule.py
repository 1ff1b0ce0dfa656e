import pytest
import torch

from demask_hf import make_strategy


PROMPT = torch.tensor([[9]])
SCRIPT = [{5: 0.5}, {6: 0.9}, {7: 0.7}, {8: 0.8}]


def _decode(model, num_tokens=4, **kwargs):
    return model.generate(
        PROMPT, max_new_tokens=num_tokens, strategy="schedule", return_dict_in_generate=True, **kwargs
    )


def test_one_step_per_token_frees_nothing_first_and_two_last(scripted):
    # int(4 * .24975) = 0, int(4 * .3329) = 1, int(3 * .499) = 1, the rest.
    output = _decode(scripted(SCRIPT))
    assert output.unmask_step.tolist() == [[-1, 3, 1, 3, 2]]
    assert output.num_forward_passes.tolist() == [4]
    assert output.tokens_per_forward.tolist() == [1.0]


@pytest.mark.parametrize(
    ("num_steps", "expected"), [(1, [[-1, 0, 0, 0, 0]]), (2, [[-1, 1, 0, 1, 1]]), (3, [[-1, 2, 0, 2, 1]])]
)
def test_fewer_steps_free_more_at_once(scripted, num_steps, expected):
    # Two steps: int(4 * .4995) = 1, then 3. Three steps: int(4 * .333) = 1, int(3 * .4995) = 1, then 2.
    output = _decode(scripted(SCRIPT), max_denoising_steps=num_steps)
    assert output.unmask_step.tolist() == expected
    assert output.num_forward_passes.tolist() == [num_steps]


@pytest.mark.parametrize(
    ("plan", "num_steps", "expected"),
    [
        # Ceilings of 5 / 3, 3 / 2 and 1; halves go to the even number: 5 / 2 to 2, 3 / 1.
        ("llada", 3, [2, 2, 1]),
        ("mdlm", 3, [2, 2, 1]),
        ("llada", 2, [3, 2]),
        ("mdlm", 2, [2, 3]),
        ("llada", 5, [1, 1, 1, 1, 1]),
        ("mdlm", 5, [1, 1, 1, 1, 1]),
        ("dream", 2, [2, 3]),
        ("llada", 7, [1, 1, 1, 1, 1, 0, 0]),
    ],
)
def test_plans_by_hand(scripted, plan, num_steps, expected):
    output = _decode(scripted([*SCRIPT, {4: 0.6}]), 5, plan=plan, max_denoising_steps=num_steps)
    steps = output.unmask_step[0, 1:].tolist()
    assert [steps.count(step) for step in range(num_steps)] == expected


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        # 1, 2 and 4 positions, the surest first; two blocks: the first three positions wait for nobody else.
        (1, [2, 0, 1, 1, 2, 2, 2]),
        (2, [1, 0, 1, 2, 2, 2, 2]),
        (3, [0, 1, 1, 2, 2, 2, 2]),
        (5, [0, 1, 1, 2, 2, 2, 2]),
    ],
)
def test_ascending_blocks_by_hand(scripted, blocks, expected):
    script = [{5: 0.5}, {6: 0.9}, {7: 0.7}, {8: 0.8}, {3: 0.4}, {4: 0.3}, {5: 0.45}]
    fields = {"plan": "ass", "algorithm": "maskgit_plus", "max_denoising_steps": 3, "ascending_blocks": blocks}
    output = _decode(scripted(script), 7, **fields)
    assert output.unmask_step[0, 1:].tolist() == expected


def test_ascending_blocks_belong_to_their_plan():
    with pytest.raises(ValueError, match="`ascending_blocks` must be 1 with `plan='llada'`, got 2"):
        make_strategy("schedule", plan="llada", algorithm="maskgit_plus", ascending_blocks=2)
    with pytest.raises(ValueError, match="`ascending_blocks` must be an integer of at least 1, got 0"):
        make_strategy("schedule", plan="ass", ascending_blocks=0)


def test_a_plan_is_known_and_flips_no_coins():
    with pytest.raises(ValueError, match="`plan` must be one of dream, llada, mdlm, ass, got 'even'"):
        make_strategy("schedule", plan="even")
    with pytest.raises(ValueError, match="`plan` must be 'dream' for algorithm 'origin', which flips coins, got 'mdl"):
        make_strategy("schedule", plan="mdlm", algorithm="origin")


def test_more_steps_than_tokens_are_all_run(scripted):
    output = _decode(scripted(SCRIPT), max_denoising_steps=10)
    assert output.num_forward_passes.tolist() == [10]
    assert output.tokens_per_forward.tolist() == pytest.approx([0.4])
    assert (output.unmask_step[0, 1:] >= 0).all()


def test_eps_is_the_noise_level_at_the_end(scripted):
    # t = 1, .75, .5: the first share is 1/4 of 4 positions exactly, and the last step frees the rest.
    output = _decode(scripted(SCRIPT), max_denoising_steps=2, eps=0.5)
    assert output.unmask_step.tolist() == [[-1, 1, 0, 1, 1]]


@pytest.mark.parametrize(("algorithm", "first"), [("maskgit_plus", 2), ("entropy", 0), ("topk_margin", 1)])
def test_each_algorithm_has_its_own_score(make_step, algorithm, first):
    probabilities = [[0.59, 0.405, 0.005], [0.6, 0.2, 0.2], [0.61, 0.37, 0.02], [0.4, 0.3, 0.3]]
    step = make_step(probabilities, num_block_steps=torch.tensor([3]))
    strategy = make_strategy("schedule", algorithm=algorithm)
    assert strategy.select(step).nonzero().tolist() == [[0, first]]


def test_maskgit_plus_looks_at_the_drawn_token(make_step):
    step = make_step([[0.7, 0.3], [0.6, 0.4]], tokens=[1, 0], num_block_steps=torch.tensor([1]), candidates=[[1, 1]])
    late = make_step([[0.7, 0.3], [0.6, 0.4], [0.5, 0.5]], tokens=[1, 0, 0], num_block_steps=torch.tensor([2]))
    assert make_strategy("schedule", algorithm="maskgit_plus").select(step).all()
    assert make_strategy("schedule", algorithm="maskgit_plus").select(late).nonzero().tolist() == [[0, 1]]


def test_rows_follow_their_own_schedules(make_step):
    step = make_step(
        torch.full((8, 2), 0.5),
        candidates=torch.ones(2, 4),
        block_step_index=torch.tensor([0, 1]),
        num_block_steps=torch.tensor([2, 2]),
    )
    assert make_strategy("schedule").select(step).sum(dim=-1).tolist() == [1, 4]


def test_steps_beyond_the_plan_free_the_rest(make_step):
    step = make_step(torch.full((4, 2), 0.5), block_step_index=torch.tensor([7]), num_block_steps=torch.tensor([3]))
    assert make_strategy("schedule").select(step).all()


def test_origin_flips_a_coin_for_each_position(make_step):
    batch, size = 2000, 4
    step = make_step(
        torch.full((batch * size, 2), 0.5),
        candidates=torch.ones(batch, size),
        num_block_steps=torch.full((batch,), 4),
        block_step_index=torch.full((batch,), 1),
        seeds=torch.arange(batch),
    )
    selected = make_strategy("schedule", algorithm="origin").select(step).float()
    # 1 - t[2] / t[1] with t = 1, .75025, .5005, ...: four standard errors over 2,000 rows are 0.042.
    assert (selected.mean(dim=0) - 0.33289).abs().max() < 0.042
    # Positions are independent: the count is binomial, with variance 4 p (1 - p).
    assert selected.sum(dim=-1).var().item() == pytest.approx(4 * 0.33289 * 0.66711, abs=0.12)


def test_origin_frees_everything_in_the_last_step(scripted):
    output = _decode(scripted(SCRIPT), algorithm="origin", seed=0)
    assert output.sequences.tolist() == [[9, 5, 6, 7, 8]]
    assert output.num_forward_passes.item() <= 4


def test_origin_can_need_fewer_passes_than_steps_and_counts_them(scripted):
    passes = {_decode(scripted(SCRIPT), algorithm="origin", seed=seed).num_forward_passes.item() for seed in range(30)}
    assert max(passes) == 4
    assert min(passes) < 4


def test_alg_temp_draws_positions_from_a_softmax_without_replacement(make_step):
    batch = 4000
    # Confidences .9, .7 and .5; two of three positions in the first of two steps with eps 1/3: int(3 * 1/3) = 1.
    step = make_step(
        torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.5, 0.5]]).repeat(batch, 1),
        candidates=torch.ones(batch, 3),
        num_block_steps=torch.full((batch,), 2),
        seeds=torch.arange(batch),
    )
    strategy = make_strategy("schedule", algorithm="maskgit_plus", alg_temp=0.2)
    selected = strategy.select(step)
    assert (selected.sum(dim=-1) == 1).all()
    expected = torch.tensor([0.9, 0.7, 0.5]).div(0.2).softmax(dim=-1)
    # Four standard errors of a share are below 0.032.
    assert (selected.float().mean(dim=0) - expected).abs().max() < 0.032


def test_steps_are_split_over_blocks(scripted):
    # Three steps for two blocks of two tokens: two for the first (0, then 2), one for the second.
    output = _decode(scripted(SCRIPT), max_denoising_steps=3, block_length=2)
    assert output.unmask_step.tolist() == [[-1, 1, 1, 2, 2]]
    assert output.num_forward_passes.tolist() == [3]


def test_default_in_blocks_is_one_step_per_token(scripted):
    # In each block int(2 * .4995) = 0, then both.
    output = _decode(scripted(SCRIPT), block_length=2)
    assert output.unmask_step.tolist() == [[-1, 1, 1, 3, 3]]
    assert output.num_forward_passes.tolist() == [4]


def test_fewer_steps_than_blocks_are_refused(scripted):
    with pytest.raises(ValueError, match=r"`max_denoising_steps` must be at least one per block \(2\), got 1\."):
        _decode(scripted(SCRIPT), max_denoising_steps=1, block_length=2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"algorithm": "klass"},
            r"`algorithm` must be one of origin, maskgit_plus, topk_margin, entropy, got 'klass'",
        ),
        ({"eps": 0}, r"`eps` must be a number in \(0, 1\], got 0\."),
        ({"eps": 1.5}, r"`eps` must be a number in \(0, 1\], got 1\.5\."),
        ({"alg_temp": -1}, r"`alg_temp` must be a number in .* got -1\."),
    ],
)
def test_limits_outside_their_interval_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("schedule", **fields)
