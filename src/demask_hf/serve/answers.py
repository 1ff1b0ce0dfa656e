"""What a row is asked for besides decoding, and what it hands out."""

from dataclasses import dataclass
from typing import Any

from .chances import SpelledChance


@dataclass(frozen=True)
class RowAnswer:
    """One answer and what it cost.

    Args:
        text (`str`): The answer, up to a stop sequence.
        finish_reason (`str`): "stop" at an end-of-sequence token or a stop sequence, else "length".
        num_prompt_tokens (`int`): Tokens of the prompt.
        num_tokens (`int`): Tokens written, those of the stop sequence and of the end included.
        num_forward_passes (`int`): Forward passes that the row needed.
        num_probe_passes (`int`): Forward passes spent on measuring dependencies.
        chances (`tuple`, *optional*): Chances of its tokens that no step has handed out, for rows that ask for them.
        trace (`dict`, *optional*): Last part of the trace, for rows that ask for it.
    """

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_tokens: int
    num_forward_passes: int
    num_probe_passes: int
    chances: tuple[SpelledChance, ...] | None = None
    trace: dict[str, Any] | None = None


@dataclass(frozen=True)
class Progress:
    """What a step changed.

    Args:
        text (`str`): Text that is finished from the left, added by this step; may be empty.
        num_forward_passes (`int`): Forward passes of the row so far.
        draft (`list[str | None]`, *optional*):
            Text of each token of the answer, `None` where it is masked; for rows that ask for it.
        chances (`tuple`): Chances of the tokens of the text, for rows that ask for them.
        trace (`dict`, *optional*): Next part of the trace, for rows that ask for it.
    """

    text: str
    num_forward_passes: int
    draft: list[str | None] | None = None
    chances: tuple[SpelledChance, ...] = ()
    trace: dict[str, Any] | None = None


@dataclass(frozen=True)
class Wanted:
    """What a row is to do besides decoding.

    Args:
        stop (`tuple[str, ...]`): Texts that end the answer, and are no part of it.
        drafts (`bool`): Whether steps hand out drafts.
        trace (`bool`): Whether steps hand out the parts of a trace.
        num_likely (`int`, *optional*): Most likely tokens with each [`Chance`]; by default no chances are kept.
    """

    stop: tuple[str, ...] = ()
    drafts: bool = False
    trace: bool = False
    num_likely: int | None = None
