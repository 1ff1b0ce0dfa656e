"""Observers of the loop: recording, streaming, and stopping criteria."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import MaxTimeCriteria, PreTrainedTokenizerBase, StoppingCriteriaList, StopStringCriteria

from .configuration import DemaskGenerationConfig
from .loop import DenoisingLoop
from .state import DecodingState


class StepRecorder:
    """Keep the sequences after every step.

    Args:
        sequences (`torch.LongTensor` of shape `(batch, length)`):
            The sequences before the first step.
    """

    def __init__(self, sequences: torch.Tensor):
        self.history = [sequences.clone()]

    def __call__(self, state: DecodingState, draft: torch.Tensor) -> None:
        self.history.append(state.sequences.clone())


class StepStreamer:
    """Pass finished text to a streamer as it grows from the left, and drafts of the rest if it accepts them.

    What is sent cannot be taken back: of a strategy that remasks, the text comes at the end.

    Args:
        streamer (`BaseStreamer`):
            A transformers streamer; `put_draft` is used if it has one. So is `put_step(tokens, unmask_step,
            num_forward_passes)`, after every step: the answer of shape `(answer,)` with its masks, the step that wrote
            each position, else -1, and the passes so far.
        loop ([`DenoisingLoop`]):
            The loop, which knows where the row ends.
        state ([`DecodingState`]):
            The state before the first step, with one row.

    Raises:
        ValueError: if the batch has several rows.
    """

    def __init__(self, streamer: Any, loop: DenoisingLoop, state: DecodingState):
        if state.sequences.shape[0] != 1:
            raise ValueError(f"`streamer` must be used with a single prompt, got {state.sequences.shape[0]} prompts.")
        self.streamer, self.loop, self.state = streamer, loop, state
        self.num_sent = finished_lengths(loop, state)[0]
        streamer.put(state.sequences[0, : self.num_sent].cpu())

    def __call__(self, state: DecodingState, draft: torch.Tensor) -> None:
        finished = finished_lengths(self.loop, state)[0]
        if self.loop.strategy.remasks:
            finished = self.num_sent
        if finished > self.num_sent:
            self.streamer.put(state.sequences[0, self.num_sent : finished].cpu())
            self.num_sent = finished
        kept = slice(self.loop.settings.prompt_length, self.loop.kept_lengths(state)[0])
        if hasattr(self.streamer, "put_step"):
            row = state.sequences[0, kept].cpu(), state.unmask_step[0, kept].cpu()
            self.streamer.put_step(*row, state.num_forward_passes[0].item())
        rest = draft[0, finished : kept.stop]
        if self.loop.backbone.quirks.noise != "mask":
            # No token stands for a position of a later canvas.
            rest = rest[rest != self.loop.backbone.mask_token_id]
        if hasattr(self.streamer, "put_draft") and rest.numel():
            self.streamer.put_draft(rest.cpu())

    def end(self) -> None:
        """Send what is left, and close the stream."""
        finished = finished_lengths(self.loop, self.state)[0]
        if finished > self.num_sent:
            self.streamer.put(self.state.sequences[0, self.num_sent : finished].cpu())
        self.streamer.end()


class StepStopper:
    """Apply stopping criteria to the finished text of each row, token by token as in autoregressive decoding.

    A criterion sees a row's sequence up to its first mask. If it returns stop, everything after that text is dropped
    and the row ends. Limits of time are asked after every step, whether text was finished or not, and end all rows.

    Args:
        criteria (`StoppingCriteriaList`):
            The criteria; called with ids of shape `(1, finished)` and no scores.
        loop ([`DenoisingLoop`]):
            The loop, which knows where a row ended by itself.
        state ([`DecodingState`]):
            The state before the first step.

    Raises:
        ValueError: if there is no padding token to write after a stop.
    """

    def __init__(self, criteria: StoppingCriteriaList, loop: DenoisingLoop, state: DecodingState):
        if loop.settings.pad_token_id is None:
            raise ValueError("`pad_token_id` must be set to use stopping criteria, got None.")
        self.limits = [each for each in criteria if isinstance(each, MaxTimeCriteria)]
        self.criteria = StoppingCriteriaList([each for each in criteria if not isinstance(each, MaxTimeCriteria)])
        self.loop = loop
        self.seen = finished_lengths(loop, state)

    def __call__(self, state: DecodingState, draft: torch.Tensor) -> None:
        is_over = any(bool(limit(state.sequences, None).all()) for limit in self.limits)  # type: ignore[arg-type]
        for row, finished in enumerate(finished_lengths(self.loop, state)):
            if is_over:
                state.stop_lengths[row] = finished
            for length in range(self.seen[row] + 1, finished + 1):
                if self.criteria and bool(self.criteria(state.sequences[row : row + 1, :length], None).all()):
                    state.stop_lengths[row] = length
                    break
            self.seen[row] = finished


def criteria_of(
    config: DemaskGenerationConfig, given: Iterable[Any] | None, tokenizer: PreTrainedTokenizerBase | None
) -> StoppingCriteriaList:
    """Return the stopping criteria that settings ask for, then those of the caller; time runs from now.

    Args:
        config ([`DemaskGenerationConfig`]):
            Settings of the call.
        given (`Iterable`, *optional*):
            The caller's criteria.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Spells the tokens, for `stop_strings`.

    Raises:
        ValueError: if there are stop strings and no tokenizer.
    """
    criteria = StoppingCriteriaList()
    if config.max_time is not None:
        criteria.append(MaxTimeCriteria(config.max_time))
    if config.stop_strings is not None:
        if tokenizer is None:
            raise ValueError("`tokenizer` must be given with `stop_strings`, got None.")
        criteria.append(StopStringCriteria(tokenizer, config.stop_strings))
    criteria.extend(given or ())
    return criteria


def finished_lengths(loop: DenoisingLoop, state: DecodingState) -> list[int]:
    """Return the number of columns before each row's first mask, or up to its end."""
    is_mask = state.sequences == loop.backbone.mask_token_id
    columns = torch.arange(state.sequences.shape[1], device=state.sequences.device)
    first_mask = torch.where(is_mask, columns, state.sequences.shape[1]).amin(dim=-1)
    return torch.minimum(first_mask, loop.kept_lengths(state)).tolist()
