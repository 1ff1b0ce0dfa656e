"""What a server answers: the objects of OpenAI's interface, with ours under `demask`."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .answers import Progress, RowAnswer
from .chances import SpelledChance
from .rows import Row


def usage_of(rows: Sequence[Row], answers: Sequence[RowAnswer], num_prompts: int) -> dict[str, Any]:
    """Return the usage of a request: tokens, and under `demask` what they cost and which bound was in force.

    Args:
        rows (`Sequence[Row]`):
            Its rows, those of one prompt one after another.
        answers (`Sequence[RowAnswer]`):
            What was decoded in each.
        num_prompts (`int`):
            Number of prompts; each counts once.
    """
    per_prompt = max(len(answers) // num_prompts, 1)
    num_prompt_tokens = sum(answer.num_prompt_tokens for answer in answers[::per_prompt])
    num_tokens = sum(answer.num_tokens for answer in answers)
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_tokens,
        "total_tokens": num_prompt_tokens + num_tokens,
        "demask": {
            **_cost(num_tokens, answers),
            "strategy": rows[0].rule.name,
            "dependency_bound": rows[0].dependency_bound,
            "certificate": rows[0].certificate,
        },
    }


def _cost(num_tokens: int, answers: Sequence[RowAnswer]) -> dict[str, Any]:
    num_passes = sum(answer.num_forward_passes for answer in answers)
    return {
        "forward_passes": num_passes,
        "probe_passes": sum(answer.num_probe_passes for answer in answers),
        "tokens_per_forward": num_tokens / max(num_passes, 1),
    }


@dataclass(frozen=True)
class ReplyForm:
    """The form of the answers to one request.

    Args:
        is_chat (`bool`):
            Whether it asks for a chat completion.
        model (`str`):
            Name of the model.
    """

    is_chat: bool
    model: str
    identifier: str = field(init=False)
    created: int = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "identifier", f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}")
        object.__setattr__(self, "created", int(time.time()))

    def whole(self, answers: Sequence[RowAnswer], usage: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a request that is not streamed."""
        choices = [
            self._choice(index, "message", answer.text, answer.finish_reason, answer.chances, _own(answer))
            for index, answer in enumerate(answers)
        ]
        return {**self._head("chat.completion" if self.is_chat else "text_completion"), **_of(choices, usage)}

    def opening(self, index: int) -> dict[str, Any]:
        """Return the chunk that opens an answer of a chat."""
        chunk = self._chunk(index, "")
        chunk["choices"][0]["delta"] = {"role": "assistant", "content": ""}
        return chunk

    def step(self, index: int, progress: Progress) -> dict[str, Any]:
        """Return the chunk of a step."""
        extras = {"draft": progress.draft, "trace": progress.trace}
        extras = {name: value for name, value in extras.items() if value is not None}
        extension = {"forward_passes": progress.num_forward_passes, **extras} if extras else None
        return self._chunk(index, progress.text, None, progress.chances or None, extension)

    def closing(self, index: int, rest: str, answer: RowAnswer) -> dict[str, Any]:
        """Return the chunk that ends an answer, with the text that no step has sent."""
        return self._chunk(index, rest, answer.finish_reason, answer.chances or None, _own(answer))

    def last(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Return the chunk with the usage."""
        return {**self._head("chat.completion.chunk" if self.is_chat else "text_completion"), **_of([], usage)}

    def _chunk(self, index: int, *parts: Any) -> dict[str, Any]:
        choice = self._choice(index, "delta", *parts)
        return {**self._head("chat.completion.chunk" if self.is_chat else "text_completion"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.identifier, "object": kind, "created": self.created, "model": self.model}

    def _choice(
        self,
        index: int,
        key: str,
        text: str,
        finish_reason: str | None = None,
        chances: Sequence[SpelledChance] | None = None,
        extension: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        logprobs = (_chat_logprobs if self.is_chat else _text_logprobs)(chances) if chances is not None else None
        choice: dict[str, Any] = {"index": index, "finish_reason": finish_reason, "logprobs": logprobs}
        if not self.is_chat:
            choice["text"] = text
        elif key == "message":
            choice[key] = {"role": "assistant", "content": text}
        else:
            choice[key] = {"content": text} if text else {}
        return choice if extension is None else {**choice, "demask": extension}


def _own(answer: RowAnswer) -> dict[str, Any]:
    """Return what an answer has under `demask`."""
    cost = _cost(answer.num_tokens, [answer])
    return cost if answer.trace is None else {**cost, "trace": answer.trace}


def _chat_logprobs(chances: Sequence[SpelledChance]) -> dict[str, Any]:
    content = [
        {
            **_token(chance.text, chance.logprob),
            "top_logprobs": [_token(*pair) for pair in chance.likely],
            "demask": {"pass": chance.number},
        }
        for chance in chances
    ]
    return {"content": content, "refusal": None}


def _token(text: str, logprob: float) -> dict[str, Any]:
    # A token may hold a part of a character, whose bytes its text does not tell.
    is_whole = "\ufffd" not in text
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if is_whole else None}


def _text_logprobs(chances: Sequence[SpelledChance]) -> dict[str, Any]:
    return {
        "tokens": [chance.text for chance in chances],
        "token_logprobs": [chance.logprob for chance in chances],
        # The token itself is always there.
        "top_logprobs": [{**dict(chance.likely), chance.text: chance.logprob} for chance in chances],
        "text_offset": [chance.offset for chance in chances],
        "demask": {"passes": [chance.number for chance in chances]},
    }


def _of(choices: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
    return {"choices": choices, "usage": usage}
