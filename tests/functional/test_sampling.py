import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demask_hf.functional.sampling import draw_tokens, filter_logits, uniform_noise


INT64 = st.integers(-(2**63), 2**63 - 1)


def _noise(seed, step, position, stream=0):
    return uniform_noise(torch.tensor([seed]), torch.tensor([step]), torch.tensor([position]), stream).item()


def _grid(num_seeds=20, num_steps=20, num_positions=20, stream=0):
    axes = torch.meshgrid(*map(torch.arange, (num_seeds, num_steps, num_positions)), indexing="ij")
    return uniform_noise(*(axis.flatten() for axis in axes), stream)


@given(INT64, st.integers(0, 10_000), st.integers(0, 200_000))
def test_noise_is_a_function_of_its_arguments_in_the_open_unit_interval(seed, step, position):
    value = _noise(seed, step, position)
    assert 0 < value < 1
    assert value == _noise(seed, step, position)


def test_noise_does_not_depend_on_the_other_elements():
    seeds, steps, positions = torch.tensor([5, 7, 5]), torch.tensor([0, 3, 1]), torch.tensor([9, 9, 2])
    together = uniform_noise(seeds, steps, positions)
    alone = [_noise(*values) for values in zip(seeds.tolist(), steps.tolist(), positions.tolist(), strict=True)]
    assert together.tolist() == alone


@pytest.mark.parametrize("changed", [(8, 3, 4), (7, 4, 4), (7, 3, 5), (3, 7, 4), (7, 4, 3)])
def test_noise_changes_with_seed_step_and_position(changed):
    assert _noise(*changed) != _noise(7, 3, 4)


@pytest.mark.parametrize("stream", [0, 1, 2, 17])
def test_noise_is_uniform_in_every_stream(stream):
    values = _grid(stream=stream).sort().values
    expected = (torch.arange(values.numel()) + 0.5) / values.numel()
    # Kolmogorov-Smirnov at the 0.1 % level.
    assert (values - expected).abs().max() < 1.95 / values.numel() ** 0.5


def test_streams_are_independent():
    first, second = _grid(stream=0), _grid(stream=1)
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]
    assert correlation.abs() < 4 / first.numel() ** 0.5


def test_neighbouring_steps_and_positions_are_uncorrelated():
    values = _grid().view(20, 20, 20)
    for first, second in (
        (values[1:], values[:-1]),
        (values[:, 1:], values[:, :-1]),
        (values[..., 1:], values[..., :-1]),
    ):
        correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
        assert correlation.abs() < 4 / first.numel() ** 0.5


@pytest.mark.gpu
def test_noise_is_the_same_on_a_gpu():
    arguments = (torch.arange(50) - 9, torch.arange(50) * 3, torch.arange(50) * 1001)
    assert uniform_noise(*(a.cuda() for a in arguments)).tolist() == uniform_noise(*arguments).tolist()


def test_without_filters_logits_stay_as_they_are():
    logits = torch.randn(3, 7)
    assert torch.equal(filter_logits(logits), logits)
    assert torch.equal(filter_logits(logits, 0.0, 1.0, 7), logits)


def test_temperature_divides():
    assert filter_logits(torch.tensor([[1.0, -2.0]]), temperature=0.5).tolist() == [[2.0, -4.0]]


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, 1), (0.55, 2), (0.79, 2), (0.85, 3), (0.99, 4), (0.001, 1)])
def test_top_p_keeps_tokens_until_their_mass_exceeds_it(top_p, kept):
    logits = torch.tensor([[0.05, 0.5, 0.15, 0.3]]).log()
    probabilities = filter_logits(logits, top_p=top_p).softmax(dim=-1)[0]
    best = [1, 3, 2, 0][:kept]
    assert probabilities.nonzero().flatten().tolist() == sorted(best)
    assert probabilities.sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_keeps_the_most_likely_tokens(top_k):
    logits = torch.tensor([[0.1, 0.5, 0.4]]).log()
    probabilities = filter_logits(logits, top_k=top_k).softmax(dim=-1)[0]
    assert probabilities.nonzero().flatten().tolist() == sorted([1, 2, 0][:top_k])


def test_filters_come_in_the_order_temperature_top_p_top_k():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    # At temperature 0.5 the distribution is (.66, .24, .11), so a mass of 0.6 holds the first token only.
    assert (filter_logits(logits, 0.5, 0.6).softmax(-1) > 0).sum().item() == 1
    assert (filter_logits(logits, 0.0, 0.6).softmax(-1) > 0).sum().item() == 2
    # top-k first would leave (.62, .38), of which a mass of 0.55 would hold one token; top-p first keeps two.
    assert (filter_logits(torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log(), 0.0, 0.55, 2).softmax(-1) > 0).sum().item() == 2


def _public_filter(logits, temperature, top_p, top_k):
    """Restate Dream's public filters row by row with plain loops."""
    rows = []
    for row in logits:
        row = row / temperature if temperature > 0 else row.clone()
        if top_p is not None and top_p < 1:
            mass, removed = 0.0, []
            for token in row.argsort(descending=True).tolist():
                if mass > top_p:
                    removed.append(token)
                mass += row.softmax(-1)[token].item()
            row[removed] = torch.finfo(row.dtype).min
        if top_k is not None:
            limit = row.sort(descending=True).values[min(top_k, row.numel()) - 1]
            row = row.masked_fill(row < limit, torch.finfo(row.dtype).min)
        rows.append(row)
    return torch.stack(rows)


@given(
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([None, 0.35, 0.9, 1.0]),
    st.sampled_from([None, 1, 3, 50]),
)
def test_filters_equal_the_public_ones(seed, temperature, top_p, top_k):
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(seed)) * 3
    torch.testing.assert_close(
        filter_logits(logits, temperature, top_p, top_k), _public_filter(logits, temperature, top_p, top_k)
    )


def test_likeliest_token_is_drawn_without_noise():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert draw_tokens(logits, logits.softmax(-1), 2, None).tolist() == [1, 0]


@pytest.mark.parametrize("noise", [None, 1e-15, 0.3, 0.999999, 1 - 1e-16])
def test_mask_token_is_never_drawn(noise):
    logits = torch.tensor([[0.0, 9.0, 1.0]]).repeat(2, 1)
    noise = None if noise is None else torch.full((2,), noise, dtype=torch.float64)
    tokens = draw_tokens(logits, logits.softmax(-1), 1, noise)
    assert 1 not in tokens.tolist()


def test_drawing_inverts_the_distribution_function():
    probabilities = torch.tensor([[0.25, 0.25, 0.5]]).repeat(5, 1)
    noise = torch.tensor([0.1, 0.2499, 0.2501, 0.4999, 0.9999], dtype=torch.float64)
    padded = torch.cat([probabilities, torch.zeros(5, 1)], dim=-1)
    assert draw_tokens(padded, padded, 3, noise).tolist() == [0, 0, 1, 1, 2]


def test_drawing_spreads_the_mass_of_the_mask_over_the_others():
    # Without the mask token (index 0) the others weigh 1 to 3.
    probabilities = torch.tensor([[0.5, 0.125, 0.375]]).repeat(3, 1)
    noise = torch.tensor([0.24, 0.26, 0.9], dtype=torch.float64)
    assert draw_tokens(probabilities, probabilities, 0, noise).tolist() == [1, 2, 2]


def test_tokens_of_probability_zero_are_never_drawn():
    probabilities = torch.tensor([[0.0, 0.6, 0.0, 0.4, 0.0, 0.0]]).repeat(1000, 1)
    noise = torch.cat([torch.linspace(1e-12, 1, 999, dtype=torch.float64), torch.tensor([1 - 2.0**-53])])
    tokens = draw_tokens(probabilities, probabilities, 0, noise)
    assert set(tokens.tolist()) == {1, 3}


def test_only_the_mask_left_by_the_filters_falls_back_to_the_next_best_token():
    logits = torch.tensor([[1.0, 9.0, 2.0]])
    probabilities = filter_logits(logits, temperature=1.0, top_k=1).softmax(-1)
    assert draw_tokens(logits, probabilities, 1, torch.tensor([0.5], dtype=torch.float64)).tolist() == [2]
