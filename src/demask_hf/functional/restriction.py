"""Sequences of independent tokens, restricted to what an automaton accepts; exact, by dynamic programming.

The most probable one is that of DINGO (arXiv 2505.23061). Draws and marginals come from the sums over all accepted
sequences, forward and backward over states and positions. Everything is computed in logarithms, so that no sequence
vanishes, however improbable it is.
"""

import torch

from .automaton import TokenAutomaton


_IMPOSSIBLE = float("-inf")


def completion_weights(automaton: TokenAutomaton, weights: torch.Tensor, is_sum: bool) -> torch.Tensor:
    """Return the weight of all completions of each state at each position, or of the most probable one.

    Args:
        automaton ([`TokenAutomaton`]):
            What is accepted.
        weights (`torch.Tensor` of shape `(rows, length, classes)`):
            Weight of each class at each position, logarithms.
        is_sum (`bool`):
            Whether completions are summed, or the highest is taken.

    Returns:
        `torch.Tensor` of shape `(rows, length + 1, states)`, float64, logarithms; entry 0 of the initial state is
        minus infinity if there is no completion.
    """
    rows, length = weights.shape[:2]
    edges, after = automaton.leaving, weights.new_full((len(automaton.accepts), rows), _IMPOSSIBLE)
    after[automaton.accepts] = 0.0
    found = [after]
    for place in reversed(range(length)):
        values = weights[:, place, edges.classes].T + after[edges.targets]
        after = edges.sums(values) if is_sum else edges.highest(values)
        found.append(after)
    return torch.stack(found[::-1]).permute(2, 0, 1)


def factors(automaton: TokenAutomaton, weights: torch.Tensor, completions: torch.Tensor) -> torch.Tensor:
    """Return how much all other positions favour each class at each position.

    The marginal of a token in the restricted distribution is its probability times `exp` of the factor of its
    class, plus the same with that of `any_class`.

    Args:
        automaton ([`TokenAutomaton`]):
            What is accepted.
        weights (`torch.Tensor` of shape `(rows, length, classes)`):
            Weight of each class at each position, logarithms.
        completions (`torch.Tensor` of shape `(rows, length + 1, states)`):
            Their sums, see [`completion_weights`].

    Returns:
        `torch.Tensor` of shape `(rows, length, classes)`, float64, logarithms.
    """
    reaching, reading = automaton.reaching, automaton.reading
    total = completions[:, 0, automaton.initial]
    before = torch.full_like(completions[:, 0].T, _IMPOSSIBLE)
    before[automaton.initial] = 0.0
    found = []
    for place in range(weights.shape[1]):
        after = completions[:, place + 1].T
        found.append(reading.sums(before[reading.sources] + after[reading.targets]).T - total[:, None])
        before = reaching.sums(before[reaching.sources] + weights[:, place, reaching.classes].T)
    return torch.stack(found, dim=1)


def walk(
    automaton: TokenAutomaton, weights: torch.Tensor, completions: torch.Tensor, noise: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the classes of the most probable completion, or of one that is drawn.

    Args:
        automaton ([`TokenAutomaton`]):
            What is accepted.
        weights (`torch.Tensor` of shape `(rows, length, classes)`):
            Weight of each class at each position, logarithms.
        completions (`torch.Tensor` of shape `(rows, length + 1, states)`):
            See [`completion_weights`]: the highest ones, or the sums for a draw.
        noise (`torch.Tensor` of shape `(rows, length)`, *optional*):
            Uniform numbers in (0, 1), to draw with; by default the most probable completion is taken, and of equal
            ones that with the lowest class at the first difference.

    Returns:
        Classes and what is left of the noise, uniform again, to draw a token of the class with; both of shape
        `(rows, length)`.
    """
    edges, rows = automaton.leaving, torch.arange(len(weights), device=weights.device)
    starts, widest = edges.counts.cumsum(0) - edges.counts, int(edges.counts.max())
    offsets = torch.arange(widest, device=weights.device)
    state, classes, left = torch.full_like(rows, automaton.initial), [], []
    for place in range(weights.shape[1]):
        is_edge = offsets < edges.counts[state][:, None]
        known = (starts[state][:, None] + offsets).clamp(max=automaton.num_edges - 1)
        values = weights[:, place].gather(1, edges.classes[known])
        values = values + completions[:, place + 1].gather(1, edges.targets[known])
        values = values.masked_fill(~is_edge, _IMPOSSIBLE)
        if noise is None:
            chosen = values.argmax(dim=-1)
        else:
            chosen, rest = _drawn(values, noise[:, place])
            left.append(rest)
        edge = known[rows, chosen]
        classes.append(edges.classes[edge])
        state = edges.targets[edge]
    found = torch.stack(classes, dim=1)
    return found, torch.zeros_like(found, dtype=torch.float64) if noise is None else torch.stack(left, dim=1)


def _drawn(values: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw an entry of each row from logarithms of weights; return also what is left of the noise."""
    highest = values.amax(dim=-1, keepdim=True)
    cumulative = (values - highest.masked_fill(highest.isinf(), 0.0)).exp().cumsum(dim=-1)
    target = noise[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)
    # Rounding must not select an entry of weight 0 behind the last possible one.
    last = values.shape[-1] - 1 - values.flip(-1).isfinite().int().argmax(dim=-1, keepdim=True)
    chosen = torch.minimum(chosen, last)
    ends = torch.nn.functional.pad(cumulative, (1, 0)).gather(1, torch.cat([chosen, chosen + 1], dim=1))
    width = (ends[:, 1] - ends[:, 0]).clamp(min=1e-300)
    left = ((target[:, 0] - ends[:, 0]) / width).clamp(0.0, 1.0 - 2.0**-52)
    return chosen.squeeze(-1), left
