"""How likely a model finds what was written, and what heads and walks are worth."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from infilling import Batch, Domain, decoded

from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.functional.dependency import DEPENDENCY_ORDERS, dependency_bound_of, low_dependency_subset
from demask_hf.training.examples import DependencyExample, Examples, collate_examples


_STATES_PER_FORWARD = 64
# Limits of the walks whose first sets are compared; between two of them sizes and sums are interpolated.
_LIMITS = np.geomspace(0.005, 3, 40)
_SIZES = (3, 4, 5, 6)
_FARTHEST = 8


def decode(
    domain: Domain, batch: Batch, setting: dict[str, Any], seeds: list[int], num_orders: int
) -> list[dict[str, Any]]:
    """Decode a batch, and return what was written in each row, what it took, and how likely the model finds it.

    Args:
        domain ([`Domain`]): The model.
        batch ([`Batch`]): What to write.
        setting (`dict[str, Any]`): The strategy, with `max_denoising_steps` if it needs it.
        seeds (`list[int]`): One for each row.
        num_orders (`int`): Orders of the model's own chain: that of the steps, and from the left.

    Returns:
        `list[dict]` with what `domain.record` tells, `num_forward_passes`, `num_probe_passes`, `num_written` tokens,
        and `num_right` of them that are those of the sequence; log-probabilities, summed over the tokens:
        `written_log_p` as they were drawn, `steps_log_q` drawn one at a time in the order of the steps, within a step
        from the left, and with two orders `left_log_q`, drawn one at a time from the left; and `divergence`, an
        estimate of the mean of the difference of the first two.
    """
    strategy = dict(setting)
    steps = {name: strategy.pop(name) for name in ("max_denoising_steps",) if name in strategy}
    output = decoded(domain, batch, strategy, seeds, **steps)
    backbone, sequences = Backbone.of(domain.model), output.sequences
    one_at_a_time, together, divergence = likelihoods(backbone, batch, sequences, output.unmask_step).tolist()
    facts: dict[str, list[Any]] = {
        "num_forward_passes": output.num_forward_passes.tolist(),
        "num_probe_passes": output.num_probe_passes.tolist(),
        "num_written": batch.is_open.sum(dim=-1).tolist(),
        "num_right": ((sequences == batch.truth) & batch.is_open).sum(dim=-1).tolist(),
        "written_log_p": together,
        "steps_log_q": one_at_a_time,
        "divergence": divergence,
    }
    if num_orders == 2:
        columns = torch.arange(sequences.shape[1]).expand_as(sequences)
        facts["left_log_q"] = likelihoods(backbone, batch, sequences, columns)[0].tolist()
    own = [domain.record(sequence, is_open) for sequence, is_open in zip(sequences, batch.is_open, strict=True)]
    return [{**one, **{name: values[row] for name, values in facts.items()}} for row, one in enumerate(own)]


@torch.no_grad()
def likelihoods(backbone: Backbone, batch: Batch, sequences: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Return how likely what was written is, drawn one at a time, and drawn together in each step.

    The divergence of the second from the first is the mean, over what is drawn, of the sum over the places of the
    divergence of two distributions: the one at the start of a place's step, which it was drawn from, from the one
    given all places before it. One draw tells it more exactly than it tells the difference of the log-probabilities.

    Args:
        backbone ([`Backbone`]): The model.
        batch ([`Batch`]): Which places are open.
        sequences (`torch.LongTensor` of shape `(rows, length)`): What was written.
        steps (`torch.LongTensor` of shape `(rows, length)`): Step of each place; one at a time, a step goes from the
            left.

    Returns:
        `torch.Tensor` of shape `(3, rows)`: log-probability one at a time, together, and divergence; float64.
    """
    states, asked, rows = [], [], []
    for row, sequence in enumerate(sequences):
        order = sorted(batch.is_open[row].nonzero().squeeze(-1).tolist(), key=lambda place: int(steps[row, place]))
        for index, place in enumerate(order):
            state, own = sequence.clone(), torch.zeros_like(batch.is_open[row], dtype=torch.long)
            state[order[index:]] = backbone.mask_token_id
            if index == 0 or steps[row, place] != steps[row, order[index - 1]]:
                own[(steps[row] == steps[row, place]) & batch.is_open[row]] = 2
            # 1: one at a time; 2: together; 3: both.
            own[place] += 1
            states.append(state)
            asked.append(own)
            rows.append(row)
    sums = torch.zeros(3, len(sequences), dtype=torch.float64)
    begun: torch.Tensor | None = None
    for start in range(0, len(states), _STATES_PER_FORWARD):
        part = slice(start, start + _STATES_PER_FORWARD)
        own, row = torch.stack(asked[part]), torch.tensor(rows[part])
        request = PredictionRequest(torch.stack(states[part]), own > 0, batch.attention_mask[row])
        logits = backbone.predict(request).logits.double()
        logits[:, backbone.mask_token_id] = float("-inf")
        found = logits.log_softmax(dim=-1)
        place, column = (own > 0).nonzero(as_tuple=True)
        kind, origin = own[place, column], row[place]
        written = found.gather(-1, sequences[origin, column][:, None]).squeeze(-1)
        is_single, is_begun = (kind & 1) > 0, (kind & 2) > 0
        if begun is None:
            begun = torch.zeros(*sequences.shape, found.shape[-1], dtype=torch.float64)
        begun[origin[is_begun], column[is_begun]] = found[is_begun]
        before = begun[origin[is_single], column[is_single]]
        apart = torch.where(before.exp() > 0, before.exp() * (before - found[is_single]), 0.0).sum(dim=-1)
        sums[0].index_add_(0, origin[is_single], written[is_single])
        sums[1].index_add_(0, origin[is_begun], written[is_begun])
        sums[2].index_add_(0, origin[is_single], apart)
    return sums


def spread_by_distance(states: Examples) -> list[dict[str, float]]:
    """Return mean, spread and upper tenth of the dependencies at each distance, in both directions."""
    found: dict[int, list[float]] = {}
    for example in (states[index] for index in range(len(states))):
        apart = (example.positions[None, :] - example.positions[example.sources][:, None]).abs()
        for distance, value in zip(apart.flatten().tolist(), example.targets.flatten().tolist(), strict=True):
            if distance:
                found.setdefault(min(distance, _FARTHEST), []).append(value)
    return [
        {
            "distance": distance,
            "num_pairs": len(values),
            "mean": float(np.mean(values)),
            "sd": float(np.std(values)),
            "upper_tenth": float(np.quantile(values, 0.9)),
        }
        for distance, values in sorted(found.items())
    ]


def first_sets(
    heads: dict[str, Any], table: torch.Tensor, states: Sequence[DependencyExample]
) -> list[dict[str, Any]]:
    """Return what the first sets of several walks cost in exact dependencies, at equal mean sizes.

    The cost of a set is the sum of its exact dependencies from earlier to later positions of the walk, which bounds
    the error of drawing it together.

    Args:
        heads (`dict[str, DemaskHead]`): Heads by name.
        table (`torch.Tensor`): Mean dependencies by distance.
        states (`Sequence[DependencyExample]`): States in which all sources are measured.
    """

    def of_table(example: DependencyExample) -> torch.Tensor:
        apart = example.positions[None, :] - example.positions[:, None]
        return table[apart.clamp(-(len(table) // 2), len(table) // 2) + len(table) // 2]

    def of_head(head: Any) -> Callable[[DependencyExample], torch.Tensor]:
        def predicted(example: DependencyExample) -> torch.Tensor:
            with torch.no_grad():
                batch = collate_examples([example])
                batch.pop("labels")
                return head(**batch).dependencies[0]

        return predicted

    def near(example: DependencyExample) -> torch.Tensor:
        apart = (example.positions[None, :] - example.positions[:, None]).abs()
        return 1 / apart.clamp(min=1).float()

    walks = {"exact": lambda example: example.labels, "distance": near, "table": of_table}
    walks |= {name: of_head(head) for name, head in heads.items()}
    rows = []
    for name, source in walks.items():
        found = [source(example).float().clamp(min=0) for example in states]
        for order in ("confidence",) if name == "distance" else ("confidence", *DEPENDENCY_ORDERS):
            rule = "max" if name == "distance" else "token"
            points = [_mean_set(found, order, rule, float(limit), states) for limit in _LIMITS]
            sizes, costs = np.array(sorted(set(points))).T
            # The widest gaps and the loosest limits reach no size beyond these.
            at = {str(size): float(np.interp(size, sizes, costs)) for size in _SIZES if sizes[0] <= size <= sizes[-1]}
            rows.append({"dependencies": name, "order": order, "cost": at})
    return rows


def _mean_set(
    found: Sequence[torch.Tensor],
    order: str,
    rule: str,
    limit: float,
    states: Sequence[DependencyExample],
) -> tuple[float, float]:
    """Return mean size and mean exact cost of the first sets."""
    sizes, costs = [], []
    for example, dependencies in zip(states, found, strict=True):
        everything = torch.ones(1, len(dependencies), dtype=torch.bool)
        of_order = DEPENDENCY_ORDERS.get(order)
        scores = example.confidence[None] if of_order is None else of_order(dependencies[None], everything)
        kept = low_dependency_subset(dependencies[None], scores, everything, limit, rule)[0]
        walk = scores[0].argsort(descending=True, stable=True)
        sizes.append(int(kept.sum()))
        costs.append(float(dependency_bound_of(example.labels.clamp(min=0), walk[kept[walk]])))
    return float(np.mean(sizes)), float(np.mean(costs))
