"""The decoding of one row: from a prompt and its settings to text that grows from the left, and what it cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..backbones.prediction import Prediction
from ..generation.arguments import resolve_config
from ..generation.callbacks import finished_lengths
from ..generation.loop import DenoisingLoop
from ..generation.mixin import DemaskGenerationMixin, finish
from ..generation.preparation import prepare
from ..generation.processors import processors_of
from ..generation.state import DecodingState, OnStep
from ..head.certificate import differences
from ..strategies import DemaskStrategy, UnmaskingStrategy, strategy_names
from ..watching import Trace, WatchingStrategy
from ..watching.form import closing_of, frame_of, opening_of
from .answers import Progress, RowAnswer, Wanted
from .chances import ChanceKeeper, ChanceSpeller
from .sharing import Pass, WaitingBackbone


# What a tokenizer returns for the bytes of a character that is not complete.
_INCOMPLETE = "\ufffd"
_NOTHING = Wanted()


@dataclass(frozen=True)
class ServedModel:
    """The model of a server and how it decodes where a request says nothing.

    Args:
        model ([`DemaskGenerationMixin`]):
            The model, with its head if it has one.
        tokenizer (`PreTrainedTokenizerBase`):
            Its tokenizer.
        name (`str`):
            Its public name.
        strategy ([`UnmaskingStrategy`], *optional*):
            The strategy; by default that of `generate`.
        settings (`dict[str, Any]`, *optional*):
            Settings of `generate`.
        max_length (`int`, *optional*, defaults to 4096):
            Longest prompt and answer together, in tokens.
    """

    model: DemaskGenerationMixin
    tokenizer: PreTrainedTokenizerBase
    name: str
    strategy: UnmaskingStrategy | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    max_length: int = 4096

    @property
    def vocab_size(self) -> int:
        """Number of tokens of the model."""
        return getattr(self.model.config, "vocab_size", None) or len(self.tokenizer)

    def facts(self) -> dict[str, Any]:
        """Return what requests may ask for, and what they get where they ask for nothing."""
        config, rule = resolve_config(self.model, None, self.strategy, dict(self.settings))
        # A table is a file, which no request may name.
        names = [name for name in strategy_names() if name != "table" and (name != "demask" or self._has_head)]
        return {
            "strategies": names,
            "strategy": rule.name,
            "max_new_tokens": config.max_new_tokens,
            "has_chat_template": getattr(self.tokenizer, "chat_template", None) is not None,
        }

    @property
    def _has_head(self) -> bool:
        return getattr(self.model, "demask_head", None) is not None

    def row(
        self,
        prompt: Sequence[int],
        strategy: dict[str, Any] | None,
        settings: dict[str, Any],
        wanted: Wanted = _NOTHING,
        on_step: Callable[[Progress], None] | None = None,
    ) -> "Row":
        """Return a row that is ready to run; everything that a request may get wrong is checked here.

        Args:
            prompt (`Sequence[int]`):
                Token ids.
            strategy (`dict[str, Any]`, *optional*):
                Name and fields of the strategy; fields without a name change those of the server's strategy.
            settings (`dict[str, Any]`):
                Further arguments of `generate`.
            wanted ([`Wanted`], *optional*):
                What else it is to do.
            on_step (`Callable`, *optional*):
                Called after every step.

        Raises:
            ValueError: if prompt and answer are too long, the prompt is empty or holds a mask, or a value is wrong.
        """
        fields = dict(strategy or {})
        named = fields.pop("name", None)
        # Without its name, fields belong to the strategy that decodes anyway.
        chosen: Any = self.strategy if named is None else named
        config, rule = resolve_config(self.model, None, chosen, {**self.settings, **settings, **fields})
        ids = torch.tensor([list(prompt)], dtype=torch.long)
        num_asked = config.max_new_tokens
        if num_asked is not None and len(prompt) + num_asked > self.max_length:
            raise ValueError(
                f"`max_tokens` must leave prompt and answer at most {self.max_length} tokens, got {len(prompt)} and "
                f"{num_asked}."
            )
        if not num_asked:
            raise ValueError("`max_tokens` must be at least 1, got 0 or nothing, and the server has no default.")
        if wanted.num_likely is not None and (rule.remasks or rule.num_versions > 1):
            raise ValueError(
                f"`logprobs` must be left out with strategy {rule.name!r}, which drafts or changes what it wrote."
            )
        watching = WatchingStrategy(rule) if wanted.trace else None
        keeper = None if wanted.num_likely is None else ChanceKeeper(watching or rule, wanted.num_likely)
        loop, state = prepare(self.model, config, keeper or watching or rule, ids, tokenizer=self.tokenizer)
        if (ids == loop.backbone.mask_token_id).any():
            raise ValueError("`prompt` must not hold the mask token, which marks what is to be written, got one.")
        if watching is not None:
            watching.start(state, loop.backbone.mask_token_id)
        return Row(self.tokenizer, loop, state, config, wanted, on_step, rule, watching, keeper)


@dataclass
class Row:
    """A row that is ready to run; see [`ServedModel.row`]. `rule` is its strategy without what looks on."""

    tokenizer: PreTrainedTokenizerBase
    loop: DenoisingLoop
    state: DecodingState
    config: Any
    wanted: Wanted
    on_step: Callable[[Progress], None] | None
    rule: UnmaskingStrategy
    watching: WatchingStrategy | None
    keeper: ChanceKeeper | None

    def __post_init__(self):
        # A closing token, such as [SEP], stands after the answer.
        self._start = self.loop.settings.prompt_length
        self._end = self._start + self.loop.settings.num_new_tokens
        self._num_prompt_tokens = self.state.sequences.shape[1] - self.loop.settings.num_new_tokens
        self._num_seen = 0
        self._sent = ""
        self._is_stopped = False
        self._speller = None if self.keeper is None else ChanceSpeller(self.keeper, self.tokenizer, self._start)
        self._opened: Trace | None = None

    @property
    def certificate(self) -> dict[str, Any] | None:
        """The head's certificate, if it holds for the settings of this row."""
        rule = self.rule
        if not isinstance(rule, DemaskStrategy) or rule.certificate is None or self.config.constraint is not None:
            return None
        used = rule.certified_settings(self.loop.backbone.model, self.loop.settings)
        return None if differences(rule.certificate, used) else rule.certificate

    @property
    def dependency_bound(self) -> float | None:
        """The bound in force, for the demask strategy."""
        return self.rule.limit if isinstance(self.rule, DemaskStrategy) else None

    @torch.no_grad()
    def run(self, ask: Callable[[Pass], Prediction]) -> RowAnswer:
        """Decode the row; its forward passes are those that `ask` returns."""
        loop, state = self.loop, self.state
        loop.backbone = WaitingBackbone(loop.backbone, ask)
        processors = processors_of(self.config, None, loop.backbone.mask_token_id, state.sequences.device)
        callbacks: list[OnStep] = [each for each in (self.watching, self.keeper) if each is not None]
        if self.wanted.stop or self.on_step is not None:
            callbacks.append(self._after_step)
        self._open_trace()
        loop.run(state, processors, callbacks)
        output = finish(loop, state)
        written = output.unmask_step[0, self._start : self._end] >= 0
        tokens = state.sequences[0, self._start : self._end][written].tolist()
        has_ended = self._is_stopped or any(token in tokens for token in loop.settings.eos_token_ids)
        text = self._before_stop(self._text(tokens))[0]
        return RowAnswer(
            text=text,
            finish_reason="stop" if has_ended else "length",
            num_prompt_tokens=self._num_prompt_tokens,
            num_tokens=len(tokens),
            num_forward_passes=int(output.num_forward_passes[0]),
            num_probe_passes=int(output.num_probe_passes[0]),
            chances=None if self._speller is None else self._speller.next(tokens, len(text)),
            trace=None if self.watching is None else closing_of(self.watching.trace(output, self.tokenizer)),
        )

    def rest_of(self, answer: RowAnswer) -> str:
        """Return the text of the answer that no step has handed out."""
        return answer.text.removeprefix(self._sent)

    def _text(self, tokens: list[int]) -> str:
        # Without the clean-up of some tokenizers a text never changes before its end when it grows.
        found = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(found)

    def _before_stop(self, text: str) -> tuple[str, bool]:
        """Return the text up to the first stop sequence, and whether there is one."""
        places = [place for place in (text.find(stop) for stop in self.wanted.stop) if place >= 0]
        return (text[: min(places)], True) if places else (text, False)

    def _after_step(self, state: DecodingState, draft: torch.Tensor) -> None:
        finished = min(finished_lengths(self.loop, state)[0], self._end)
        tokens = state.sequences[0, self._start : finished].tolist()
        text, is_stopped = self._before_stop(self._text(tokens))
        if is_stopped and not self._is_stopped:
            self._is_stopped = True
            # The first token that completes the sequence is the last one to keep.
            lengths = range(self._num_seen, len(tokens) + 1)
            kept = next(length for length in lengths if self._before_stop(self._text(tokens[:length]))[1])
            state.stop_lengths[0] = self._start + kept
        self._num_seen = len(tokens)
        if self.on_step is None:
            return
        steady = text if is_stopped else self._steady(text)
        added, passes = "", int(state.num_forward_passes[0])
        # What is sent cannot be taken back: of a strategy that remasks, the text comes at the end.
        if not self.rule.remasks and len(steady) > len(self._sent) and steady.startswith(self._sent):
            added, self._sent = steady[len(self._sent) :], steady
        chances = self._speller.next(tokens, len(self._sent)) if self._speller is not None and added else ()
        drafted = self._drafted(state) if self.wanted.drafts else None
        self.on_step(Progress(added, passes, drafted, chances, self._next_frame()))

    def _open_trace(self) -> None:
        """Hand out what is known of a trace before the first step."""
        if self.watching is not None and self.on_step is not None:
            self._opened = self.watching.opened(self.tokenizer)
            self.on_step(Progress("", 0, trace=opening_of(self._opened)))

    def _next_frame(self) -> dict[str, Any] | None:
        """Return the part of the trace that the last step adds."""
        if self.watching is None or self._opened is None:
            return None
        number, passes = len(self.watching.passes), self.watching.passes
        before = passes[-2].tokens if number > 1 else self._opened.first
        return {"frame": frame_of(self._opened, number, passes[-1], before)}

    def _steady(self, text: str) -> str:
        """Return the text without what the next token may change: half a character, or the start of a stop."""
        text = text.rstrip(_INCOMPLETE)
        longest = max(map(len, self.wanted.stop), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self.wanted.stop):
                return text[:-size]
        return text

    def _drafted(self, state: DecodingState) -> list[str | None]:
        """Return the text of each token of the answer, `None` at masks."""
        end = min(int(self.loop.kept_lengths(state)[0]), self._end)
        tokens = state.sequences[0, self._start : end].tolist()
        mask = self.loop.backbone.mask_token_id
        return [None if token == mask else self._text([token]) for token in tokens]
