"""Total variation between the product of marginals and the model's chain joint, exact or by Monte Carlo."""

from dataclasses import dataclass

import torch

from ..functional.distributions import entropy, total_variation
from ..functional.probes import Predict
from ..functional.sampling import inverse_transform


# Continuations of a state per forward.
_BATCH_SIZE = 256
# Limit on tokens times continuations in an enumeration.
_MAX_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class OrderedSet:
    """Masked positions of one state that are unmasked together, in the order in which the joint reveals them.

    Args:
        predict (`Callable`):
            Maps sequences, the batch row of each (always 0) and the requested positions to the distributions that
            tokens are drawn from, as in [`measure_dependencies`].
        sequence (`torch.LongTensor` of shape `(length,)`):
            The state, masks included.
        order (`torch.LongTensor` of shape `(size,)`):
            Columns of the set, at least one, in order.
    """

    predict: Predict
    sequence: torch.Tensor
    order: torch.Tensor

    def marginals(self) -> torch.Tensor:
        """Return the predictions for the set in this state, shape `(size, vocabulary)`, float64, in order."""
        asked = torch.zeros_like(self.sequence, dtype=torch.bool)
        asked[self.order] = True
        row = torch.zeros(1, dtype=torch.long, device=self.sequence.device)
        probabilities = self.predict(self.sequence[None], row, asked[None]).double()
        return probabilities[self.order.argsort().argsort()]

    def conditional(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the predictions for position `t` of the order after its first `t` positions are revealed.

        Args:
            tokens (`torch.LongTensor` of shape `(continuations, t)`):
                Tokens of the first `t` positions, `t` at least 1. Equal rows are predicted once.

        Returns:
            `torch.Tensor` of shape `(continuations, vocabulary)`, float64.
        """
        distinct, inverse = tokens.unique(dim=0, return_inverse=True)
        target = self.order[tokens.shape[1]]
        predictions = []
        for part in distinct.split(_BATCH_SIZE):
            revealed = self.sequence.repeat(part.shape[0], 1)
            revealed[:, self.order[: tokens.shape[1]]] = part
            asked = torch.zeros_like(revealed, dtype=torch.bool)
            asked[:, target] = True
            rows = torch.zeros(part.shape[0], dtype=torch.long, device=revealed.device)
            predictions.append(self.predict(revealed, rows, asked).double())
        return torch.cat(predictions)[inverse]

    def reordered(self, order: torch.Tensor) -> "OrderedSet":
        """Return the same positions in another order."""
        return OrderedSet(self.predict, self.sequence, order)


@dataclass(frozen=True)
class ExactError:
    """Result of an enumeration; each true value is between the stored value and that value plus the omitted mass.

    Args:
        total_variation (`float`):
            TV(product of marginals, chain joint), in [0, 1].
        left_out (`float`):
            Product mass of the omitted continuations.
        terms (`tuple[float, ...]`):
            Telescoped terms `E_{x_<t ~ joint} TV(q_t, q_t given x_<t)` for t = 2, 3, ... in order.
        terms_left_out (`tuple[float, ...]`):
            Joint mass omitted from each term.
    """

    total_variation: float
    left_out: float
    terms: tuple[float, ...]
    terms_left_out: tuple[float, ...]


@torch.no_grad()
def exact_error(ordered: OrderedSet, max_continuations: int = 512, tolerance: float = 1e-4) -> ExactError | None:
    """Enumerate the continuations of a set and compare the product of marginals with the chain joint.

    The least likely continuations, with a total mass of at most `tolerance` in the product and in the joint, are
    omitted. The last position is summed over without a separate forward, so a pair needs one forward per token.

    Args:
        ordered ([`OrderedSet`]):
            The set.
        max_continuations (`int`, *optional*, defaults to 512):
            Give up if more continuations of some length would be needed.
        tolerance (`float`, *optional*, defaults to 1e-4):
            Mass that may be omitted; 0 enumerates everything possible.

    Returns:
        [`ExactError`], or `None` if there are too many continuations.
    """
    marginals = ordered.marginals()
    size, vocab_size = marginals.shape
    if float(entropy(marginals[:-1]).sum().exp()) > 2 * max_continuations:
        # Roughly the number of typical continuations of the product: too many to start.
        return None
    # A single empty continuation.
    tokens = ordered.order.new_zeros(1, 0)
    product = joint = torch.ones(1, dtype=torch.float64, device=marginals.device)
    left_out = torch.zeros(2, dtype=torch.float64, device=marginals.device)
    terms, terms_left_out = [], []
    for place, marginal in enumerate(marginals):
        conditional = ordered.conditional(tokens) if place else marginal[None]
        if place:
            terms.append(float((joint * total_variation(conditional, marginal)).sum()))
            terms_left_out.append(float(left_out[1]))
        product, joint = (product[:, None] * marginal).flatten(), (joint[:, None] * conditional).flatten()
        if place == size - 1:
            break
        kept = _likeliest(torch.stack([product, joint]), tolerance / (size - 1))
        if kept.numel() > max_continuations or kept.numel() * vocab_size > _MAX_ELEMENTS:
            return None
        left_out = left_out + torch.stack([product.sum() - product[kept].sum(), joint.sum() - joint[kept].sum()])
        parents = torch.div(kept, vocab_size, rounding_mode="floor")
        tokens = torch.cat([tokens[parents], (kept % vocab_size)[:, None]], dim=1)
        product, joint = product[kept], joint[kept]
    error = float((product - joint).clamp(min=0).sum())
    return ExactError(error, max(float(left_out[0]), 0.0), tuple(terms), tuple(terms_left_out))


def _likeliest(masses: torch.Tensor, allowance: float) -> torch.Tensor:
    """Return all indices except the smallest ones, whose total mass in both rows is at most `allowance`."""
    order = masses.sum(dim=0).argsort()
    is_left_out = masses.sum(dim=0)[order].cumsum(dim=0) <= allowance
    return order[~is_left_out].sort().values


@torch.no_grad()
def sampled_errors(ordered: OrderedSet, num_draws: int, generator: torch.Generator) -> torch.Tensor:
    """Return independent unbiased estimates of TV(product of marginals, chain joint).

    Each is `max(0, 1 - joint(x) / product(x))` for one x drawn from the product, with the last position summed over
    instead of drawn, which keeps the expectation and reduces the noise. A draw needs `size - 1` forwards.

    Args:
        ordered ([`OrderedSet`]):
            The set.
        num_draws (`int`):
            Number of estimates, at least 1.
        generator (`torch.Generator`):
            Draws the tokens; on the CPU.

    Returns:
        `torch.Tensor` of shape `(num_draws,)`, float64, in [0, 1].
    """
    marginals = ordered.marginals()
    drawn = [_draw(marginal.expand(num_draws, -1), generator) for marginal in marginals[:-1]]
    tokens = torch.stack([*drawn, torch.zeros(num_draws, dtype=torch.long, device=marginals.device)], dim=1)
    ratio = torch.ones(num_draws, dtype=torch.float64, device=marginals.device)
    for place in range(1, len(marginals)):
        conditional = ordered.conditional(tokens[:, :place])
        if place == len(marginals) - 1:
            return (marginals[-1] - ratio[:, None] * conditional).clamp(min=0).sum(dim=-1).clamp(max=1.0)
        token = tokens[:, place, None]
        ratio = ratio * (conditional.gather(1, token) / marginals[place].expand_as(conditional).gather(1, token))[:, 0]
    return torch.zeros_like(ratio)


@dataclass(frozen=True)
class JointDraws:
    """Draws from a chain joint.

    Args:
        tokens (`torch.LongTensor` of shape `(draws, size)`):
            Tokens of the set, in order.
        log_probabilities (`torch.Tensor` of shape `(draws,)`):
            Their log probability under the joint, in nats, float64.
        terms (`torch.Tensor` of shape `(draws, size - 1)`):
            `TV(q_t, q_t given x_<t)` for t = 2, 3, ...; their means estimate the telescoped terms without bias.
        errors (`torch.Tensor` of shape `(draws,)`):
            `max(0, 1 - product(x) / joint(x))` with the last position summed over: total variation is symmetric, so
            their mean is an unbiased estimate, too, as that of [`sampled_errors`].
    """

    tokens: torch.Tensor
    log_probabilities: torch.Tensor
    terms: torch.Tensor
    errors: torch.Tensor


@torch.no_grad()
def draw_from_joint(ordered: OrderedSet, num_draws: int, generator: torch.Generator) -> JointDraws:
    """Reveal the positions one by one, each drawn from its prediction given the previous ones.

    Args:
        ordered ([`OrderedSet`]):
            The set.
        num_draws (`int`):
            Number of draws, at least 1.
        generator (`torch.Generator`):
            Draws the tokens; on the CPU.
    """
    marginals = ordered.marginals()
    tokens = ordered.order.new_zeros(num_draws, 0)
    log_probabilities = torch.zeros(num_draws, dtype=torch.float64, device=marginals.device)
    log_product, errors, terms = log_probabilities, log_probabilities, []
    for place, marginal in enumerate(marginals):
        conditional = ordered.conditional(tokens) if place else marginal.expand(num_draws, -1)
        if place:
            terms.append(total_variation(conditional, marginal))
            ratio = (log_product - log_probabilities).exp()[:, None]
            errors = (conditional - ratio * marginal).clamp(min=0).sum(dim=-1).clamp(max=1.0)
        token = _draw(conditional, generator)[:, None]
        tokens = torch.cat([tokens, token], dim=1)
        log_probabilities = log_probabilities + conditional.gather(1, token)[:, 0].log()
        log_product = log_product + marginal[token[:, 0]].log()
    stacked = torch.stack(terms, dim=1) if terms else log_probabilities.new_zeros(num_draws, 0)
    return JointDraws(tokens, log_probabilities, stacked, errors)


@torch.no_grad()
def order_distances(ordered: OrderedSet, draws: JointDraws, order: torch.Tensor) -> torch.Tensor:
    """Return unbiased estimates of the total variation between the joints of two orders of one set.

    Args:
        ordered ([`OrderedSet`]):
            The set in the order of the draws.
        draws ([`JointDraws`]):
            Draws from its joint.
        order (`torch.LongTensor` of shape `(size,)`):
            The same columns in another order.

    Returns:
        `torch.Tensor` of shape `(draws,)`, float64, in [0, 1]: `max(0, 1 - other(x) / joint(x))`.
    """
    other = ordered.reordered(order)
    place = {column: index for index, column in enumerate(ordered.order.tolist())}
    tokens = draws.tokens[:, [place[column] for column in order.tolist()]]
    log_probabilities = torch.zeros_like(draws.log_probabilities)
    for index, marginal in enumerate(other.marginals()):
        conditional = other.conditional(tokens[:, :index]) if index else marginal.expand(len(tokens), -1)
        log_probabilities = log_probabilities + conditional.gather(1, tokens[:, index, None])[:, 0].log()
    return (1.0 - (log_probabilities - draws.log_probabilities).exp()).clamp(min=0)


def _draw(probabilities: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw one token from each row of `(draws, vocabulary)`, float64."""
    noise = torch.rand(probabilities.shape[0], generator=generator, dtype=torch.float64)
    return inverse_transform(probabilities, noise.to(probabilities.device))
