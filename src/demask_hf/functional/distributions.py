"""Scores of single positions: confidence, margin, entropy, and distances between two predictions."""

import torch


_TINY = 1e-12


def confidence(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the probability of the most likely token.

    Args:
        probabilities (`torch.Tensor` of shape `(..., vocabulary)`):
            Predicted distributions.

    Returns:
        `torch.Tensor` of shape `(...)`, in [0, 1].
    """
    # Without computing the index of the maximum, which takes most of the time on a CPU.
    return probabilities.amax(dim=-1)


def margin(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the probability of the most likely token minus that of the second most likely one.

    Args:
        probabilities (`torch.Tensor` of shape `(..., vocabulary)`):
            Predicted distributions over at least two tokens.

    Returns:
        `torch.Tensor` of shape `(...)`, in [0, 1].
    """
    best, second = probabilities.topk(2, dim=-1).values.unbind(-1)
    return best - second


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the entropy in nats, `-sum p log(p + 1e-10)` as in Dream's public sampler.

    Args:
        probabilities (`torch.Tensor` of shape `(..., vocabulary)`):
            Predicted distributions.

    Returns:
        `torch.Tensor` of shape `(...)`, in nats; for a point mass about -1e-10 instead of 0.
    """
    # In place, so not differentiable: with a large vocabulary, every additional tensor costs as much as the logarithm.
    return -(probabilities + 1e-10).log_().mul_(probabilities).sum(dim=-1)


def certainty(probabilities: torch.Tensor) -> torch.Tensor:
    """Return confidence and entropy side by side, as [`DemaskHead`] reads them.

    Args:
        probabilities (`torch.Tensor` of shape `(..., vocabulary)`):
            Predicted distributions.

    Returns:
        `torch.Tensor` of shape `(..., 2)`.
    """
    return certainty_of(confidence(probabilities), entropy(probabilities))


def certainty_of(confidence: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
    """Stack known confidences and entropies in the order of [`certainty`], shape `(..., 2)`."""
    return torch.stack([confidence, entropy], dim=-1)


def kl_divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return KL(first || second) in nats, in double precision, with 1e-12 added inside both logarithms.

    Args:
        first (`torch.Tensor` of shape `(..., vocabulary)`):
            Distribution that the expectation is taken over.
        second (`torch.Tensor` of shape `(..., vocabulary)`):
            Distribution to compare with.

    Returns:
        `torch.Tensor` of shape `(...)`, float64, in nats.
    """
    first, second = first.double(), second.double()
    return (first * ((first + _TINY).log() - (second + _TINY).log())).sum(dim=-1)


def total_variation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the total variation distance, `1/2 sum |p - q|`.

    Args:
        first (`torch.Tensor` of shape `(..., vocabulary)`):
            A distribution.
        second (`torch.Tensor` of shape `(..., vocabulary)`):
            Another distribution.

    Returns:
        `torch.Tensor` of shape `(...)`, in [0, 1].

    Example:

    ```python
    >>> total_variation(torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.75])).item()
    0.75

    ```
    """
    return (0.5 * (first - second).abs().sum(dim=-1)).clamp(max=1.0)


#: Scores of a candidate that need its distribution only; "token_probability" needs its token as well.
SCORES = {"confidence": confidence, "entropy": entropy, "margin": margin}


def scores_of(names: tuple[str, ...], probabilities: torch.Tensor, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Return several scores, see [`score_of`]; compiled, they take one pass over the vocabulary."""
    return [score_of(name, probabilities, tokens) for name in names]


def score_of(name: str, probabilities: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return a score of each candidate by name, shape `(num_candidates,)`.

    Args:
        name (`str`):
            "confidence", "entropy", "margin" or "token_probability".
        probabilities (`torch.Tensor` of shape `(num_candidates, vocabulary)`):
            Distributions.
        tokens (`torch.LongTensor` of shape `(num_candidates,)`):
            Token that each candidate would get.
    """
    if name == "token_probability":
        return probabilities.gather(-1, tokens[:, None]).squeeze(-1)
    return SCORES[name](probabilities)
