import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demask_hf.functional.masking import random_mask, steps_of_blocks, unmask_shares


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 12))
def test_random_mask_is_a_subset_with_at_least_one_position_a_row(seed, batch, length):
    generator = torch.Generator().manual_seed(seed)
    maskable = torch.rand(batch, length, generator=generator) < 0.5
    masked = random_mask(maskable, generator)
    assert masked.shape == maskable.shape
    assert masked.dtype == torch.bool
    assert not (masked & ~maskable).any()
    assert torch.equal(masked.any(dim=-1), maskable.any(dim=-1))


def test_random_mask_covers_every_stratum_of_the_mask_ratio():
    batch, length = 20, 20_000
    masked = random_mask(torch.ones(batch, length, dtype=torch.bool), torch.Generator().manual_seed(0))
    ratios = masked.float().mean(dim=-1).sort().values
    # Row k has a ratio in [k / batch, (k + 1) / batch]; 4 standard errors of a share are below 0.015.
    edges = torch.arange(batch) / batch
    assert (ratios > edges - 0.015).all()
    assert (ratios < edges + 1 / batch + 0.015).all()


def test_random_mask_follows_its_generator():
    maskable = torch.ones(4, 50, dtype=torch.bool)
    first, again, other = (random_mask(maskable, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_random_mask_treats_positions_alike():
    generator = torch.Generator().manual_seed(0)
    maskable = torch.ones(8, 5, dtype=torch.bool)
    shares = torch.stack([random_mask(maskable, generator) for _ in range(1000)]).float().mean(dim=(0, 1))
    # 8,000 draws a position; 4 standard errors are 0.022.
    assert (shares - shares.mean()).abs().max() < 0.022


@given(st.integers(1, 50), st.integers(0, 200))
def test_steps_of_blocks_are_even_and_add_up(num_blocks, extra):
    steps = steps_of_blocks(num_blocks + extra, num_blocks)
    assert len(steps) == num_blocks
    assert sum(steps) == num_blocks + extra
    assert max(steps) - min(steps) <= 1
    assert steps == sorted(steps, reverse=True)


def test_unmask_shares_by_hand():
    # t = 1, 0.7525, 0.505, 0.2575, 0.01.
    shares = unmask_shares(4, eps=0.01)
    torch.testing.assert_close(shares, torch.tensor([0.2475, 0.2475 / 0.7525, 0.2475 / 0.505, 1.0]))
    assert shares.dtype == torch.float32


@pytest.mark.parametrize("num_steps", [1, 2, 7, 256])
def test_last_share_is_everything(num_steps):
    shares = unmask_shares(num_steps, eps=0.001)
    assert shares.shape == (num_steps,)
    assert shares[-1].item() == 1.0
    assert ((shares > 0) & (shares <= 1)).all()


def test_one_step_per_token_frees_nothing_first_and_two_last():
    num_masked, freed = 24, []
    for share in unmask_shares(24, eps=0.001):
        freed.append(int(num_masked * share))
        num_masked -= freed[-1]
    assert freed == [0] + [1] * 22 + [2]
