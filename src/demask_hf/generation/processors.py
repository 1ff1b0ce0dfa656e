"""Logits processors: those that settings ask for, and those that cannot work at positions in any order."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from ..strategies import UnmaskingStrategy


# Processors of transformers that read the length of the text, its last tokens, or the rows of a batch.
_FROM_THE_LEFT = frozenset(
    {
        *("MinLengthLogitsProcessor", "MinNewTokensLengthLogitsProcessor", "ExponentialDecayLengthPenalty"),
        *("NoRepeatNGramLogitsProcessor", "EncoderNoRepeatNGramLogitsProcessor", "PrefixConstrainedLogitsProcessor"),
        *("ForcedBOSTokenLogitsProcessor", "ForcedEOSTokenLogitsProcessor", "SuppressTokensAtBeginLogitsProcessor"),
        *("ClassifierFreeGuidanceLogitsProcessor", "UnbatchedClassifierFreeGuidanceLogitsProcessor"),
        *("WatermarkLogitsProcessor", "SynthIDTextWatermarkLogitsProcessor", "AlternatingCodebooksLogitsProcessor"),
        *("WhisperTimeStampLogitsProcessor", "WhisperNoSpeechDetection", "DiaClassifierFreeGuidanceLogitsProcessor"),
        *("DiaEOSChannelFilterLogitsProcessor", "DiaEOSDelayPatternLogitsProcessor"),
    }
)


class WrittenTokensPenalty(RepetitionPenaltyLogitsProcessor):
    """The repetition penalty of transformers over what stands in prompt and answer, whatever the order.

    Args:
        penalty (`float`):
            Divides the positive logits of tokens that the row holds, and multiplies the negative ones; above 0.
        mask_token_id (`int`):
            Stands at positions without a token, and is not penalised.
    """

    def __init__(self, penalty: float, mask_token_id: int):
        super().__init__(float(penalty))
        self.mask_token_id = mask_token_id

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        penalised = super().__call__(input_ids, scores)
        penalised[:, self.mask_token_id] = scores[:, self.mask_token_id]
        return penalised


def processors_of(
    settings: Any, given: Iterable[Any] | None, mask_token_id: int, device: torch.device
) -> LogitsProcessorList:
    """Return the processors that settings ask for, then those of the caller.

    Args:
        settings ([`DemaskGenerationConfig`]):
            Checked settings.
        given (`Iterable`, *optional*):
            The caller's processors.
        mask_token_id (`int`):
            Id of the mask token.
        device (`torch.device`):
            Where the scores are.
    """
    processors = LogitsProcessorList()
    if settings.repetition_penalty not in (None, 1):
        processors.append(WrittenTokensPenalty(settings.repetition_penalty, mask_token_id))
    if settings.bad_words_ids:
        processors.append(NoBadWordsLogitsProcessor([list(word) for word in settings.bad_words_ids]))
    if settings.suppress_tokens:
        processors.append(SuppressTokensLogitsProcessor(settings.suppress_tokens, device=str(device)))
    processors.extend(given or ())
    return processors


def check_processors(processors: Iterable[Any] | None, rule: UnmaskingStrategy) -> None:
    """Refuse processors that assume that text grows from the left, and all for a strategy that draws tokens itself.

    Raises:
        ValueError: if one of them does, or the strategy does.
    """
    if processors and "canvas" in rule.needs:
        raise ValueError(
            f"`logits_processor` must be None for strategy {rule.name!r}, which draws the tokens itself, got "
            f"{', '.join(type(each).__name__ for each in processors)}."
        )
    for processor in processors or ():
        classes = [each for each in type(processor).__mro__ if each.__module__.startswith("transformers.")]
        is_longer = isinstance(processor, SequenceBiasLogitsProcessor) and any(
            len(tokens) > 1 for tokens in processor.sequence_bias
        )
        if is_longer or any(each.__name__ in _FROM_THE_LEFT for each in classes):
            raise ValueError(
                "`logits_processor` must hold processors that work at positions in any order, got "
                f"{type(processor).__name__}, which assumes that text grows from the left."
            )
