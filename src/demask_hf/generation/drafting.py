"""Drafts in the loop: the versions of each row that one forward computes, and the one that the row moves to."""

import copy

import torch

from ..strategies import DenoisingStep, Drafts, ProbeLedger, UnmaskingStrategy
from .state import DecodingState


# What belongs to a row and is the same in all of its versions, until they are decoded further.
_SHARED = ("attention_mask", "positions", "seeds", "token_type_ids", "blocks", "num_forward_passes", "stop_lengths")
_OWN = ("block", "block_start", "num_block_steps")


def versions_of(state: DecodingState, drafts: Drafts, max_steps: int | None) -> DecodingState:
    """Return a state with a row for each version: the rows themselves, then the first draft of each, and so on.

    So the batch row of a version is its number modulo the size of the batch.

    Args:
        state ([`DecodingState`]):
            The rows.
        drafts ([`Drafts`]):
            Their drafts.
        max_steps (`int`, *optional*):
            Steps after which decoding without drafts ends; drafts of the last one are left out, as it writes all.
    """
    versions, num_versions = copy.copy(state), len(drafts.sequences) + 1
    for name in (*_SHARED, *_OWN):
        tensor = getattr(state, name)
        if tensor is not None:
            setattr(versions, name, tensor.repeat(num_versions, *[1] * (tensor.ndim - 1)))
    versions.sequences = torch.cat([state.sequences, drafts.sequences.flatten(0, 1)])
    num_ahead = drafts.num_steps.flatten()
    versions.num_steps = state.num_steps.repeat(num_versions)
    versions.num_steps[len(state.seeds) :] += num_ahead
    is_absent = num_ahead == 0
    if max_steps is not None:
        is_absent |= versions.num_steps[len(state.seeds) :] >= max_steps - 1
    # Nothing is open in a version that is not there.
    versions.stop_lengths[len(state.seeds) :].masked_fill_(is_absent, 0)
    versions.ledger = ProbeLedger(
        torch.zeros_like(versions.seeds), torch.zeros(versions.seeds.shape, device=versions.seeds.device)
    )
    return versions


def in_block_of_row(versions: DecodingState, num_rows: int) -> torch.Tensor:
    """Return which versions are in the block of their row, whose keys and values are kept, shape `(versions, 1)`."""
    blocks = versions.block.unflatten(0, (-1, num_rows))
    return (blocks == blocks[:1]).flatten()[:, None]


def moved(
    strategy: UnmaskingStrategy,
    state: DecodingState,
    versions: DecodingState,
    step: DenoisingStep,
    selected: torch.Tensor,
    tokens: torch.Tensor,
) -> tuple[DenoisingStep, torch.Tensor, torch.Tensor]:
    """Move each row to the last of its verified versions; return the step, selection and tokens of these versions.

    The row itself is verified. A draft is, if the strategy accepts it as what a verified version becomes in this step.

    Args:
        strategy ([`UnmaskingStrategy`]):
            Accepts drafts.
        state ([`DecodingState`]):
            The rows; changed in place.
        versions ([`DecodingState`]):
            Their versions.
        step ([`DenoisingStep`]):
            The step of all versions.
        selected (`torch.BoolTensor` of shape `(versions, length)`):
            Where each version writes in it.
        tokens (`torch.LongTensor` of shape `(versions, length)`):
            What it writes there.
    """
    rows = torch.arange(len(state.seeds), device=state.seeds.device)
    outcomes, drafts, is_open, steps = (
        each.unflatten(0, (-1, len(rows)))
        for each in (
            torch.where(selected, tokens, versions.sequences),
            versions.sequences,
            step.candidates.any(dim=-1),
            versions.num_steps,
        )
    )
    numbers, places = torch.arange(len(drafts), device=rows.device)[:, None], torch.zeros_like(rows)
    for _ in range(len(drafts) - 1):
        is_next = strategy.accepts(drafts, outcomes[places, rows], steps - steps[places, rows])
        is_next &= is_open & (numbers > places)
        furthest = torch.where(is_next, numbers, places).amax(dim=0)
        if torch.equal(furthest, places):
            break
        places = furthest
    chosen = places * len(rows) + rows
    is_written = versions.sequences[chosen] != state.sequences
    state.unmask_step = torch.where(is_written, state.num_forward_passes[:, None], state.unmask_step)
    for name in ("sequences", "num_steps", *_OWN):
        setattr(state, name, getattr(versions, name)[chosen])
    # The loop counts the forwards of the rows themselves; a draft has open positions only where its row has.
    state.num_row_forwards += is_open[1:].sum(dim=0)
    state.faults = versions.faults
    state.ledger.num_probe_passes += versions.ledger.num_probe_passes.unflatten(0, (-1, len(rows))).sum(dim=0)
    uncovered = versions.ledger.uncovered_mass.unflatten(0, (-1, len(rows))).amax(dim=0)
    torch.maximum(state.ledger.uncovered_mass, uncovered, out=state.ledger.uncovered_mass)
    return step.of_rows(chosen), selected[chosen], tokens[chosen]
