"""How probable each token of an answer was at the step that wrote it, for `logprobs`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..watching.observing import ObservingStrategy


# What OpenAI's interface has in place of the logarithm of nothing.
_LOWEST = -9999.0


@dataclass(frozen=True)
class Chance:
    """A token that was written, and what it was chosen from.

    Args:
        token (`int`): Its id.
        logprob (`float`): Logarithm of its probability, as the strategy read it in that step.
        number (`int`): Number of the pass that wrote it, from 1.
        likely (`tuple[tuple[int, float], ...]`): The most likely tokens with their logarithms, the most likely first.
    """

    token: int
    logprob: float
    number: int
    likely: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class SpelledChance:
    """A [`Chance`] as text.

    Args:
        text (`str`): The token.
        offset (`int`): Characters of the answer before it.
        logprob (`float`): As of [`Chance`].
        number (`int`): As of [`Chance`].
        likely (`tuple[tuple[str, float], ...]`): As of [`Chance`].
    """

    text: str
    offset: int
    logprob: float
    number: int
    likely: tuple[tuple[str, float], ...]


@dataclass
class ChanceKeeper(ObservingStrategy):
    """Decode with a strategy and keep the probability of each token at the step that writes it.

    Args:
        strategy ([`UnmaskingStrategy`]):
            The strategy that decodes, which must neither change what it wrote nor make drafts.
        num_likely (`int`, *optional*, defaults to 0):
            Most likely tokens to keep.
        chances (`dict[int, Chance]`):
            What was kept, by column.
    """

    num_likely: int = 0
    chances: dict[int, Chance] = field(default_factory=dict)

    def __call__(self, state: Any, draft: torch.Tensor) -> None:
        """Keep what a step wrote.

        Args:
            state ([`DecodingState`]):
                The state after the step, with one row.
            draft (`torch.LongTensor` of shape `(1, length)`):
                Not used.
        """
        choice = self._take_choice()
        if choice is None:
            return
        step = choice.step
        after = state.sequences[0, step.columns]
        (places,) = (after != step.mask_token_id).nonzero(as_tuple=True)
        probabilities = step.given("probabilities")[places]
        own = probabilities.gather(-1, after[places, None]).squeeze(-1)
        likely = probabilities.topk(min(self.num_likely, probabilities.shape[-1]), dim=-1)
        number = int(state.num_forward_passes[0])
        columns = (step.columns[places], after[places], own, likely.indices, likely.values)
        for column, token, chance, ids, values in zip(*(each.tolist() for each in columns), strict=True):
            pairs = tuple((other, _logarithm(value)) for other, value in zip(ids, values, strict=True))
            self.chances[column] = Chance(token, _logarithm(chance), number, pairs)


class ChanceSpeller:
    """Hands out the chances of an answer as its text grows from the left.

    Special tokens, which are no part of the text, and tokens that begin after its end are left out.

    Args:
        keeper ([`ChanceKeeper`]):
            What kept them.
        tokenizer (`PreTrainedTokenizerBase`):
            Spells the tokens.
        start (`int`):
            First column of the answer.
    """

    def __init__(self, keeper: ChanceKeeper, tokenizer: Any, start: int):
        self._keeper, self._tokenizer, self._start = keeper, tokenizer, start
        self._special = set(tokenizer.all_special_ids)
        self._num_seen = 0

    def next(self, tokens: Sequence[int], length: int) -> tuple[SpelledChance, ...]:
        """Return those of tokens that begin before the end of a text and were not returned yet.

        Args:
            tokens (`Sequence[int]`):
                The answer from its first token to the last one that is finished.
            length (`int`):
                Characters of its text.
        """
        found = []
        while self._num_seen < len(tokens):
            place = self._num_seen
            if tokens[place] not in self._special:
                offset = len(self._text(tokens[:place]))
                if offset >= length:
                    break
                found.append(self._spelled(self._keeper.chances[self._start + place], offset))
            self._num_seen += 1
        return tuple(found)

    def _spelled(self, chance: Chance, offset: int) -> SpelledChance:
        likely = tuple((self._text([token], False), value) for token, value in chance.likely)
        return SpelledChance(self._text([chance.token], False), offset, chance.logprob, chance.number, likely)

    def _text(self, tokens: Sequence[int], without_special: bool = True) -> str:
        plain = {"skip_special_tokens": without_special, "clean_up_tokenization_spaces": False}
        return str(self._tokenizer.decode(list(tokens), **plain))


def _logarithm(probability: float) -> float:
    return math.log(probability) if probability > 0 else _LOWEST
