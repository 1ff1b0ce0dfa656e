"""What watches the loop from outside: recording, streaming, and stopping criteria."""

from typing import Any

import torch
from transformers import StoppingCriteriaList

from .denoising import DecodingState, DenoisingLoop


class StepRecorder:
    """Keep the sequences after every step.

    Args:
        sequences (`torch.LongTensor` of shape `(batch, length)`):
            The sequences before the first step.
    """

    def __init__(self, sequences: torch.LongTensor):
        self.history = [sequences.clone()]

    def __call__(self, state: DecodingState, draft: torch.LongTensor) -> None:
        self.history.append(state.sequences.clone())


class StepStreamer:
    """Hand finished text to a streamer as it grows from the left, and drafts of the rest where it takes them.

    Args:
        streamer (`BaseStreamer`):
            A transformers streamer; `put_draft` is used if it has one.
        mask_token_id (`int`):
            Id of the mask token.
        state ([`DecodingState`]):
            The state before the first step, with one row.

    Raises:
        ValueError: if the batch has several rows.
    """

    def __init__(self, streamer: Any, mask_token_id: int, state: DecodingState):
        if state.sequences.shape[0] != 1:
            raise ValueError(f"`streamer` must be used with a single prompt, got {state.sequences.shape[0]} prompts.")
        self.streamer, self.mask_token_id = streamer, mask_token_id
        self.num_sent = finished_length(state.sequences, mask_token_id)[0]
        streamer.put(state.sequences[0, : self.num_sent].cpu())

    def __call__(self, state: DecodingState, draft: torch.LongTensor) -> None:
        finished = finished_length(state.sequences, self.mask_token_id)[0]
        if finished > self.num_sent:
            self._send(state.sequences[0, self.num_sent : finished])
        if hasattr(self.streamer, "put_draft") and finished < draft.shape[1]:
            self.streamer.put_draft(draft[0, finished:].cpu())

    def end(self, sequences: torch.LongTensor, length: int) -> None:
        """Send what is left of the final sequences, up to `length`, and close the stream."""
        if length > self.num_sent:
            self._send(sequences[0, self.num_sent : length])
        self.streamer.end()

    def _send(self, tokens: torch.LongTensor) -> None:
        self.streamer.put(tokens.cpu())
        self.num_sent += tokens.shape[0]


class StepStopper:
    """Ask stopping criteria about the finished text of each row, token by token as in autoregressive decoding.

    A criterion sees a row's sequence up to its first mask. When it says stop, what follows that text is dropped and
    the row ends; its `end_columns` then holds the length that was kept.

    Args:
        criteria (`StoppingCriteriaList`):
            The criteria; called with ids of shape `(1, finished)` and no scores.
        loop ([`DenoisingLoop`]):
            The loop, asked where a row ended by itself.
        state ([`DecodingState`]):
            The state before the first step.
    """

    def __init__(self, criteria: StoppingCriteriaList, loop: DenoisingLoop, state: DecodingState):
        self.criteria, self.loop = criteria, loop
        self.seen = finished_length(state.sequences, loop.backbone.mask_token_id)
        self.end_columns = torch.full_like(state.seeds, state.sequences.shape[1])

    def __call__(self, state: DecodingState, draft: torch.LongTensor) -> None:
        ends = self.loop.ends(state.sequences).tolist()
        for row, finished in enumerate(finished_length(state.sequences, self.loop.backbone.mask_token_id)):
            if state.is_stopped[row]:
                continue
            for length in range(self.seen[row] + 1, min(finished, ends[row] + 1) + 1):
                if bool(self.criteria(state.sequences[row : row + 1, :length], None).all()):
                    state.is_stopped[row] = True
                    self.end_columns[row] = length
                    break
            self.seen[row] = finished


def finished_length(sequences: torch.LongTensor, mask_token_id: int) -> list[int]:
    """Return the number of columns before each row's first mask."""
    is_mask = sequences == mask_token_id
    columns = torch.arange(sequences.shape[1], device=sequences.device)
    return torch.where(is_mask, columns, sequences.shape[1]).min(dim=-1).values.tolist()
