"""Mathematics of the dependency matrix: low-dependency subsets and the bound of a set."""

import torch


RULES = ("total", "token", "norm", "max")
# Rounds of the fixed point that run on a device before convergence is checked: on the shipped checkpoint four are
# enough at the default bound. On the CPU the check is free.
_NUM_BLIND_ROUNDS = {"cpu": 0}
_NUM_BLIND_ROUNDS_ELSEWHERE = 4


def ranks(scores: torch.Tensor) -> torch.Tensor:
    """Return the place of each position in a walk by descending score, from 0; ties go to the lower index.

    Args:
        scores (`torch.Tensor` of shape `(..., positions)`):
            Scores.

    Returns:
        `torch.LongTensor` of the same shape.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def net_influence(dependencies: torch.Tensor, is_position: torch.Tensor) -> torch.Tensor:
    """Return the summed dependencies of each position as a source minus its sum as a target.

    A walk from high to low reveals causes before effects. It is not the order with the smallest sum of `D[i, j]` over
    `i` before `j`, which bounds one set (see [`dependency_bound_of`]): that one is a minimum feedback arc set of the
    matrix and puts targets first. What decides the number of passes is which sets remain afterwards. A revealed effect
    makes its causes depend on each other, while causes that are independent are revealed together, and given them
    their effects are independent, too.

    Args:
        dependencies (`torch.Tensor` of shape `(batch, positions, positions)`):
            `D[source, target]`, in [0, 1]; the diagonal is ignored.
        is_position (`torch.BoolTensor` of shape `(batch, positions)`):
            Entries that stand for a position; others count nothing.

    Returns:
        `torch.Tensor` of shape `(batch, positions)`, float64.
    """
    as_source, as_target = _sums(dependencies, is_position)
    return as_source - as_target


def degree(dependencies: torch.Tensor, is_position: torch.Tensor) -> torch.Tensor:
    """Return the summed dependencies of each position, as a source and as a target.

    A walk from high to low reveals first what the others depend on most, in either direction, so that what is left
    depends little on each other. It is the order of Welsh and Powell (1967) for coloring a graph with few colors:
    positions are vertices, dependencies above the bound are edges, and what is unmasked in one pass has one color.
    DAPD (arXiv 2603.12996) walks in this order over attention.

    Args:
        dependencies (`torch.Tensor` of shape `(batch, positions, positions)`):
            `D[source, target]`, in [0, 1]; the diagonal is ignored.
        is_position (`torch.BoolTensor` of shape `(batch, positions)`):
            Entries that stand for a position; others count nothing.

    Returns:
        `torch.Tensor` of shape `(batch, positions)`, float64.
    """
    as_source, as_target = _sums(dependencies, is_position)
    return as_source + as_target


def _sums(dependencies: torch.Tensor, is_position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed dependencies of each position as a source and as a target, float64."""
    is_pair = is_position[:, :, None] & is_position[:, None, :]
    is_pair &= ~torch.eye(is_position.shape[1], dtype=torch.bool, device=is_position.device)
    counted = torch.where(is_pair, dependencies, 0.0).double()
    return counted.sum(dim=2), counted.sum(dim=1)


#: Orders of a walk that come from the dependencies themselves, by name.
DEPENDENCY_ORDERS = {"influence": net_influence, "degree": degree}


def dependency_bound_of(dependencies: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return the sum of dependencies from earlier to later positions of an ordered set.

    It bounds the total variation between the product of marginals and the joint in that order if dependencies are
    sub-additive and not underestimated: `TV <= sum_{u < t} D[s_u, s_t]`.

    Args:
        dependencies (`torch.Tensor` of shape `(positions, positions)`):
            `D[source, target]`, in [0, 1].
        order (`torch.LongTensor` of shape `(size,)`):
            Indices of the set's positions in the order in which the joint reveals them.

    Returns:
        `torch.Tensor` of shape `()`: the bound; a value above 1 is void.
    """
    return dependencies[order][:, order].triu(diagonal=1).sum()


def low_dependency_subset(
    dependencies: torch.Tensor,
    scores: torch.Tensor,
    eligible: torch.Tensor,
    bound: float,
    rule: str = "token",
    symmetric: bool = False,
) -> torch.Tensor:
    """Walk the positions by descending score and keep each whose dependency on those kept so far allows it.

    With `cost_j = sum_{i kept before j} D[i, j]`, position `j` is kept iff

    - "total": `cost_j` plus the costs of the positions kept before is at most `bound`, hence `TV <= bound`;
    - "token": `cost_j <= bound`, hence `TV <= (size - 1) * bound`;
    - "norm": `sqrt(sum_i D[i, j]^2) <= bound` over the same `i`, hence
      `TV <= (sqrt(1) + ... + sqrt(size - 1)) * bound`;
    - "max": `max_i D[i, j] <= bound`, hence `TV <= size * (size - 1) / 2 * bound`

    (under the assumptions of [`dependency_bound_of`]). A divergence in nats is about the square of a total variation
    where both are small (at least twice it, by Pinsker's inequality), so "norm" limits what a position loses in
    nats, and many small dependencies count for less than one of the same sum.

    The walk is computed for all rows at once as the fixed point of `s_j <- [rule given s]`: each decision depends on
    earlier ones only, so after k rounds the first k decisions are final, and the fixed point is unique and equals the
    walk.

    Args:
        dependencies (`torch.Tensor` of shape `(batch, positions, positions)`):
            `D[source, target]`, in [0, 1]; the diagonal is ignored.
        scores (`torch.Tensor` of shape `(batch, positions)`):
            The walk goes from high to low scores; ties go to the lower index.
        eligible (`torch.BoolTensor` of shape `(batch, positions)`):
            Positions that may be kept. The eligible position with the highest score is always kept.
        bound (`float`):
            Upper limit, at least 0.
        rule (`str`, *optional*, defaults to "token"):
            "total", "token", "norm" or "max".
        symmetric (`bool`, *optional*, defaults to `False`):
            Use `max(D[i, j], D[j, i])` instead of `D[i, j]`.

    Returns:
        `torch.BoolTensor` of shape `(batch, positions)`: a subset of `eligible`.
    """
    # 1. Keep the pairs from earlier to later. Only the order among eligible positions matters, as no other is kept.
    places = ranks(scores)
    is_earlier = places[:, :, None] < places[:, None, :]
    if symmetric:
        dependencies = torch.maximum(dependencies, dependencies.transpose(1, 2))
    earlier = torch.where(is_earlier, dependencies.float(), 0.0)
    # Sums over all positions up to a given one need the order itself.
    sums = is_earlier.float() if rule == "total" else None
    # 2. Iterate to the fixed point: a fixed number of rounds first, so that most calls synchronise once. A negative
    # limit excludes positions that are not eligible.
    limits = earlier.new_full(eligible.shape, bound).masked_fill_(~eligible, -1.0)
    num_blind_rounds = _NUM_BLIND_ROUNDS.get(eligible.device.type, _NUM_BLIND_ROUNDS_ELSEWHERE)
    kept = eligible.float()
    for round_index in range(scores.shape[-1] + 1):
        updated = (_costs(earlier, kept, rule, sums) <= limits).float()
        if round_index >= num_blind_rounds and torch.equal(updated, kept):
            break
        kept = updated
    return kept.bool()


def _costs(earlier: torch.Tensor, kept: torch.Tensor, rule: str, sums: torch.Tensor | None) -> torch.Tensor:
    """Return the quantity that the rule limits at every position, given the kept ones (1, others 0)."""
    if rule == "max":
        return (earlier * kept[:, :, None]).amax(dim=1)
    if rule == "norm":
        return (kept[:, None] @ earlier.square()).squeeze(1).sqrt()
    costs = (kept[:, None] @ earlier).squeeze(1)
    return costs if sums is None else costs + ((costs * kept)[:, None] @ sums).squeeze(1)
