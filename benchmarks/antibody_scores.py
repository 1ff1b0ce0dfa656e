"""What `antibodies.py` measures: how likely a model finds what was written, and what heads and walks are worth."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from antibody_model import TEMPERATURE, Batch

from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.functional.dependency import dependency_bound_of, low_dependency_subset, net_influence
from demask_hf.training.examples import DependencyExample, Examples, collate_examples


_STATES_PER_FORWARD = 64
# Limits of the walks whose first sets are compared; between two of them sizes and sums are interpolated.
_LIMITS = np.geomspace(0.005, 3, 40)
_SIZES = (3, 4, 5, 6)
_FARTHEST = 8


def decode(
    model: Any, tokenizer: Any, batch: Batch, setting: dict[str, Any], seeds: list[int]
) -> list[dict[str, Any]]:
    """Decode a batch, and return what was written in each chain, what it took, and how likely the model finds it.

    Returns:
        `list[dict]` with `num_forward_passes`, `num_probe_passes`, `written` (letters), `num_right` residues that are
        those of the chain; log-probabilities, summed over the residues: `written_log_p` as they were drawn, and
        `steps_log_q` drawn one at a time in the order of the steps, within a step from the left; and `divergence`, an
        estimate of the mean of their difference.
    """
    strategy, mask = dict(setting), tokenizer.mask_token_id
    steps = {name: strategy.pop(name) for name in ("max_denoising_steps",) if name in strategy}
    output = model.generate(
        batch.masked(mask),
        batch.attention_mask,
        strategy=strategy,
        max_new_tokens=0,
        temperature=TEMPERATURE,
        seed=seeds,
        return_dict_in_generate=True,
        **steps,
    )
    one_at_a_time, together, divergence = likelihoods(
        Backbone.of(model), batch, output.sequences, output.unmask_step
    ).tolist()
    is_right = (output.sequences == batch.truth) & batch.is_open
    return [
        {
            "num_forward_passes": int(output.num_forward_passes[row]),
            "num_probe_passes": int(output.num_probe_passes[row]),
            "written": "".join(tokenizer.convert_ids_to_tokens(output.sequences[row][batch.is_open[row]].tolist())),
            "num_right": int(is_right[row].sum()),
            "written_log_p": together[row],
            "steps_log_q": one_at_a_time[row],
            "divergence": divergence[row],
        }
        for row in range(len(seeds))
    ]


def add_order_from_left(model: Any, tokenizer: Any, batch: Batch, found: list[dict[str, Any]]) -> None:
    """Add `left_log_q` to what [`decode`] found: how likely it is, drawn one residue at a time from the left."""
    sequences = batch.truth.clone()
    written = "".join(one["written"] for one in found)
    sequences[batch.is_open] = torch.tensor(tokenizer.convert_tokens_to_ids(list(written)))
    columns = torch.arange(sequences.shape[1]).expand_as(sequences)
    from_left = likelihoods(Backbone.of(model), batch, sequences, columns)[0]
    for one, value in zip(found, from_left.tolist(), strict=True):
        one["left_log_q"] = value


@torch.no_grad()
def likelihoods(backbone: Backbone, batch: Batch, sequences: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Return how likely what was written is, drawn one at a time, and drawn together in each step.

    The divergence of the second from the first is the mean, over what is drawn, of the sum over the places of the
    divergence of two distributions: the one at the start of a place's step, which it was drawn from, from the one
    given all places before it. One draw tells it more exactly than it tells the difference of the log-probabilities.

    Args:
        backbone ([`Backbone`]): The model.
        batch ([`Batch`]): Which places are open.
        sequences (`torch.LongTensor` of shape `(chains, length)`): What was written.
        steps (`torch.LongTensor` of shape `(chains, length)`): Step of each place; one at a time, a step goes from the
            left.

    Returns:
        `torch.Tensor` of shape `(3, chains)`: log-probability one at a time, together, and divergence; float64.
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
        kind, chain = own[place, column], row[place]
        written = found.gather(-1, sequences[chain, column][:, None]).squeeze(-1)
        is_single, is_begun = (kind & 1) > 0, (kind & 2) > 0
        if begun is None:
            begun = torch.zeros(*sequences.shape, found.shape[-1], dtype=torch.float64)
        begun[chain[is_begun], column[is_begun]] = found[is_begun]
        before = begun[chain[is_single], column[is_single]]
        apart = torch.where(before.exp() > 0, before.exp() * (before - found[is_single]), 0.0).sum(dim=-1)
        sums[0].index_add_(0, chain[is_single], written[is_single])
        sums[1].index_add_(0, chain[is_begun], written[is_begun])
        sums[2].index_add_(0, chain[is_single], apart)
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
        for order in ("confidence", "influence") if name not in ("distance", "table") else ("confidence",):
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
        scores = net_influence(dependencies[None], everything) if order == "influence" else example.confidence[None]
        kept = low_dependency_subset(dependencies[None], scores, everything, limit, rule)[0]
        walk = scores[0].argsort(descending=True, stable=True)
        sizes.append(int(kept.sum()))
        costs.append(float(dependency_bound_of(example.labels.clamp(min=0), walk[kept[walk]])))
    return float(np.mean(sizes)), float(np.mean(costs))
