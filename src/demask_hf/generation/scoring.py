"""From logits to tokens and scores, for a part of the candidates at a time where no strategy reads more."""

from collections.abc import Callable, Sequence

import torch

from ..backbones.prediction import Prediction
from ..functional.sampling import draw_tokens


# Elements of a tensor over candidates and vocabulary that is made at once where only scores are kept: 128 MiB. With
# Dream's vocabulary these are 220 candidates, enough to keep the output layer busy.
_MAX_PART_ELEMENTS = 1 << 25


def part_size_of(vocab_size: int | None) -> int | None:
    """Return how many candidates are scored at once; `None` is all of them."""
    return None if vocab_size is None else max(1, _MAX_PART_ELEMENTS // vocab_size)


def score_candidates(
    prediction: Prediction,
    reads: Sequence[str] | None,
    distribution: Callable[[slice, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    mask_token_id: int,
    noise: torch.Tensor | None,
    score: Callable[[tuple[str, ...], torch.Tensor, torch.LongTensor], list[torch.Tensor]],
) -> tuple[torch.LongTensor, dict[str, torch.Tensor], torch.BoolTensor, torch.Tensor | None]:
    """Return the token that each candidate would get, and what the strategy reads of its distribution.

    Args:
        prediction ([`Prediction`]):
            What the forward says; its logits are used up.
        reads (`Sequence[str]`, *optional*):
            Names of scores; `None` keeps the whole distributions instead.
        distribution (`Callable`):
            Maps the place of some candidates and their logits to logits that were processed, and to the distributions
            that tokens are drawn from.
        mask_token_id (`int`):
            Token that is never written.
        noise (`torch.Tensor` of shape `(num_candidates,)`, *optional*):
            As in [`draw_tokens`].
        score (`Callable`):
            [`scores_of`], which may be compiled.

    Returns:
        `tuple`: tokens `(num_candidates,)`; the scores, each `(num_candidates,)`; whether a distribution is NaN, of
        shape `(1,)`; and the distributions `(num_candidates, vocabulary)` if `reads` is `None`.
    """
    names, tokens, scores, has_nan, kept = tuple(sorted(reads or ())), [], [], [], None
    for part, logits in prediction.parts():
        logits, probabilities = distribution(part, logits)
        tokens.append(draw_tokens(logits, probabilities, mask_token_id, None if noise is None else noise[part]))
        has_nan.append(probabilities[:, 0].isnan().any())
        if reads is None:
            # Without parts there is one round only.
            kept = probabilities
        else:
            scores.append(score(names, probabilities, tokens[-1]))
        del logits, probabilities
    return (
        torch.cat(tokens),
        {name: torch.cat(values) for name, *values in zip(names, *scores, strict=True)},
        torch.stack(has_nan).any()[None],
        kept,
    )
