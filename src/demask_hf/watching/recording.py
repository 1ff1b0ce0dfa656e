"""Record a decoding: a strategy that wraps another one, and is called after every step, keeps what happened."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..strategies import DecodingSettings, DemaskStrategy, DenoisingStep, UnmaskingStrategy, WrappingStrategy
from ..strategies.base import Compiled, as_it_is, fields_of
from ..validation import check_flag
from .observing import ObservingStrategy, start_of
from .reasons import Choice, Walk, reasons
from .records import Candidate, Decoded, Dependency, Pass
from .trace import Trace


#: Most likely tokens that are kept of each prediction.
NUM_LIKELY = 5
#: Sources that are kept of each target, those with the largest dependencies, and the smallest one that is kept.
NUM_SOURCES, SMALLEST_DEPENDENCY = 16, 0.005


@dataclass
class WatchingStrategy(ObservingStrategy):
    """Decode with a strategy and record every step; also one of the loop's `on_step`.

    Args:
        strategy ([`UnmaskingStrategy`]):
            The strategy that decodes.
        passes (`list[Pass]`):
            What was recorded.
    """

    passes: list[Pass] = field(default_factory=list)
    _settings: DecodingSettings | None = field(default=None, init=False, repr=False)
    _first: tuple[int, ...] = field(default=(), init=False, repr=False)
    _mask_token_id: int = field(default=-1, init=False, repr=False)

    @classmethod
    def of(cls, trace: Any, strategy: UnmaskingStrategy, is_returned: bool | None) -> "WatchingStrategy | None":
        """Return the recorder of a call, or `None` if it asks for no trace.

        Args:
            trace (`bool`, *optional*):
                What the caller of `generate` says.
            strategy ([`UnmaskingStrategy`]):
                The strategy, a fresh copy for this call.
            is_returned (`bool`, *optional*):
                Whether the call returns an output that can hold a trace.

        Raises:
            ValueError: if `trace` is no truth value, or the trace would be lost.
        """
        if trace is None or trace is False:
            return None
        check_flag("trace", trace)
        if not is_returned:
            raise ValueError(f"`return_dict_in_generate` must be True with `trace=True`, got {is_returned}.")
        return cls(strategy)

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        super().bind(model, settings, compiled)
        self._settings = settings
        decides = self._decides
        if isinstance(decides, DemaskStrategy):
            decides.on_walk = self._keep_walk

    @property
    def _decides(self) -> UnmaskingStrategy:
        """The strategy itself, below those that wrap it."""
        strategy = self.strategy
        while isinstance(strategy, WrappingStrategy):
            strategy = strategy.wrapped[0]
        return strategy

    def start(self, state: Any, mask_token_id: int) -> None:
        """Keep the sequence before the first step.

        Args:
            state ([`DecodingState`]):
                The state, with one row.
            mask_token_id (`int`):
                Id of the mask token.

        Raises:
            ValueError: if the batch has several rows.
        """
        num_rows = state.sequences.shape[0]
        if num_rows != 1:
            raise ValueError(f"`trace` must be used with a single prompt, got {num_rows} prompts.")
        self._first = tuple(state.sequences[0, start_of(state.positions) :].tolist())
        self._mask_token_id = mask_token_id

    def __call__(self, state: Any, draft: torch.Tensor) -> None:
        """Record a step once its tokens are written.

        Args:
            state ([`DecodingState`]):
                The state after the step.
            draft (`torch.LongTensor` of shape `(1, length)`):
                The sequence with a token at every candidate.
        """
        choice = self._take_choice()
        start = start_of(state.positions)
        tokens = tuple(state.sequences[0, start:].tolist())
        if choice is None:
            self.passes.append(Pass(tokens))
            return
        self.passes.append(
            Pass(
                tokens,
                _candidates(choice),
                () if choice.walk is None else _dependencies(choice.walk, start),
                self._reasons(choice, state, draft[0, start:].tolist(), tokens),
            )
        )

    def trace(self, output: Any, tokenizer: Any = None) -> Trace:
        """Return the trace of a finished decoding.

        Args:
            output ([`DemaskGenerationOutput`]):
                What `generate` returns, with one row.
            tokenizer (`PreTrainedTokenizerBase`, *optional*):
                Spells the tokens; without one they are shown by their ids.
        """
        num_padding = output.sequences.shape[1] - len(self._first)
        tokens, steps = (values[0, num_padding:].tolist() for values in (output.sequences, output.unmask_step))
        is_dropped = [old == self._mask_token_id and step < 0 for old, step in zip(self._first, steps, strict=True)]
        decoded = Decoded(
            tuple(tokens),
            frozenset(position for position, dropped in enumerate(is_dropped) if dropped),
            int(output.num_forward_passes[0]),
            int(output.num_probe_passes[0]),
        )
        return self._trace(decoded, tuple(self.passes), tokenizer)

    def opened(self, tokenizer: Any = None) -> Trace:
        """Return a trace without any pass, before the first step; for those who follow a decoding.

        Args:
            tokenizer (`PreTrainedTokenizerBase`, *optional*):
                Spells the tokens; without one they are shown by their ids.
        """
        return self._trace(Decoded(self._first, frozenset(), 0), (), tokenizer)

    def _trace(self, decoded: Decoded, passes: tuple[Pass, ...], tokenizer: Any) -> Trace:
        decides = self._decides
        name = getattr(decides, "name", type(decides).__name__)
        facts = {"name": name, **{each: getattr(decides, each) for each in fields_of(type(decides))}}
        if isinstance(decides, DemaskStrategy):
            facts["dependency_bound"] = decides.limit
        settings, mask = self._settings, self._mask_token_id
        return Trace(facts, settings, self._first, passes, decoded, mask, tokenizer)

    def _keep_walk(
        self, step: DenoisingStep, dependencies: torch.Tensor, scores: torch.Tensor, eligible: torch.Tensor
    ) -> None:
        self._walk = Walk(step.columns.tolist(), *(values[0].cpu() for values in (dependencies, scores, eligible)))

    def _reasons(self, choice: Choice, state: Any, draft: list[int], tokens: tuple[int, ...]) -> dict[int, str]:
        """Return why each masked position waits, by position."""
        mask, settings = choice.step.mask_token_id, self._settings
        in_block = choice.step.in_block
        within = choice.step if in_block is None else choice.step.among(choice.step.candidates & in_block)
        own = reasons(self._decides, replace(choice, step=within))
        selected = set((choice.selected[0].nonzero().squeeze(-1) - choice.start).tolist())
        end = _end(tokens, settings, choice.start, int(state.stop_lengths[0]) - choice.start)
        found = {}
        for position in (place for place, token in enumerate(tokens) if token == mask):
            if position >= end:
                found[position] = "lies after the end of the answer"
            elif position in own:
                found[position] = own[position]
            elif position in selected:
                found[position] = "a cache commits only the first position of a new block (cache_commits_first)"
            elif draft[position] != mask and (in_block is None or in_block[0, choice.start + position]):
                found[position] = "would end the answer, so it waits for the rest of its block (eos_penalty)"
            else:
                found[position] = "its block has not begun"
        return found


def _end(tokens: tuple[int, ...], settings: DecodingSettings | None, start: int, stop: int) -> int:
    """Return the number of positions up to the end of the answer."""
    if settings is None:
        return stop
    first = settings.prompt_length - start
    ends = (place + 1 for place, token in enumerate(tokens) if place >= first and token in settings.eos_token_ids)
    return min(next(ends, stop), stop)


def _candidates(choice: Choice) -> tuple[Candidate, ...]:
    """Return what was predicted at each candidate that the strategy saw."""
    step = choice.step
    probabilities = step.given("probabilities")
    likely = probabilities.topk(min(NUM_LIKELY, probabilities.shape[-1]), dim=-1)
    columns = zip(
        (step.columns - choice.start).tolist(),
        step.tokens.tolist(),
        step.score("token_probability").tolist(),
        step.score("entropy").tolist(),
        likely.indices.tolist(),
        likely.values.tolist(),
        strict=True,
    )
    return tuple(
        Candidate(position, token, probability, max(entropy, 0.0), tuple(zip(ids, values, strict=True)))
        for position, token, probability, entropy, ids, values in columns
    )


def _dependencies(walk: Walk, start: int) -> tuple[Dependency, ...]:
    """Return the largest dependencies of each target, in the order of targets, then from large to small."""
    values = walk.dependencies.float().clone()
    values.fill_diagonal_(0.0)
    largest = values.T.topk(min(NUM_SOURCES, len(values)), dim=-1)
    return tuple(
        Dependency(walk.columns[source] - start, walk.columns[target] - start, value)
        for target, (sources, own) in enumerate(zip(largest.indices.tolist(), largest.values.tolist(), strict=True))
        for source, value in zip(sources, own, strict=True)
        if value >= SMALLEST_DEPENDENCY
    )
