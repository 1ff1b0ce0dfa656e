"""Record a decoding: a strategy that wraps another one, and is called after every step, keeps what happened."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..strategies import (
    Decision,
    DecodingSettings,
    DemaskStrategy,
    DenoisingStep,
    Drafts,
    UnmaskingStrategy,
    WrappingStrategy,
)
from ..strategies.base import Compiled, as_it_is, fields_of
from ..strategies.needs import Need
from ..validation import check_flag
from .reasons import Choice, Walk, reasons
from .records import Candidate, Decoded, Dependency, Pass
from .trace import Trace


#: Most likely tokens that are kept of each prediction.
NUM_LIKELY = 5
#: Sources that are kept of each target, those with the largest dependencies, and the smallest one that is kept.
NUM_SOURCES, SMALLEST_DEPENDENCY = 16, 0.005


@dataclass
class WatchingStrategy(WrappingStrategy):
    """Decode with a strategy and keep what it sees in every step; also one of the loop's `on_step`.

    It changes nothing that the strategy does. It needs whole distributions, for the most likely tokens.

    Args:
        strategy ([`UnmaskingStrategy`]):
            The strategy that decodes.
        passes (`list[Pass]`):
            What was recorded.
    """

    strategy: UnmaskingStrategy
    passes: list[Pass] = field(default_factory=list)
    _settings: DecodingSettings | None = field(default=None, init=False, repr=False)
    _first: list[int] = field(default_factory=list, init=False, repr=False)
    _mask_token_id: int = field(default=-1, init=False, repr=False)
    _walk: Walk | None = field(default=None, init=False, repr=False)
    _choice: Choice | None = field(default=None, init=False, repr=False)

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

    @property
    def name(self) -> str:  # type: ignore[override]
        return _name(self.strategy)

    @property
    def wrapped(self) -> tuple[UnmaskingStrategy, ...]:
        return (self.strategy,)

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"probabilities"}

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

    def start(self, state: Any) -> None:
        """Keep the sequence before the first step.

        Args:
            state ([`DecodingState`]):
                The state, with one row.

        Raises:
            ValueError: if the batch has several rows.
        """
        num_rows = state.sequences.shape[0]
        if num_rows != 1:
            raise ValueError(f"`trace` must be used with a single prompt, got {num_rows} prompts.")
        self._first = state.sequences[0, _start(state.positions) :].tolist()

    def select(self, step: DenoisingStep) -> torch.Tensor | Decision:
        self._walk, self._mask_token_id = None, step.mask_token_id
        decision = self.strategy.select(step)
        selected = decision.selected if isinstance(decision, Decision) else decision
        self._choice = Choice(step, selected, _start(step.positions), self._walk)
        return decision

    @property
    def num_versions(self) -> int:
        return self.strategy.num_versions

    def drafts(self, step: DenoisingStep, selected: torch.Tensor) -> Drafts | None:
        if self.strategy.num_versions > 1:
            # `select` saw all versions of the row; this is the one that it moved to.
            self._choice = Choice(step, selected, _start(step.positions), self._walk)
        return self.strategy.drafts(step, selected)

    def accepts(self, drafts: torch.Tensor, outcomes: torch.Tensor, num_steps: torch.Tensor) -> torch.Tensor:
        return self.strategy.accepts(drafts, outcomes, num_steps)

    def __call__(self, state: Any, draft: torch.Tensor) -> None:
        """Record a step once its tokens are written.

        Args:
            state ([`DecodingState`]):
                The state after the step.
            draft (`torch.LongTensor` of shape `(1, length)`):
                The sequence with a token at every candidate.
        """
        choice, self._choice = self._choice, None
        start = _start(state.positions)
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
        decides = self._decides
        # A strategy need not be registered.
        facts = {"name": _name(decides), **{each: getattr(decides, each) for each in fields_of(type(decides))}}
        if isinstance(decides, DemaskStrategy):
            facts["dependency_bound"] = decides.limit
        num_padding = output.sequences.shape[1] - len(self._first)
        tokens, steps = (values[0, num_padding:].tolist() for values in (output.sequences, output.unmask_step))
        is_dropped = [old == self._mask_token_id and step < 0 for old, step in zip(self._first, steps, strict=True)]
        return Trace(
            strategy=facts,
            settings=self._settings,
            first=tuple(self._first),
            passes=tuple(self.passes),
            decoded=Decoded(
                tuple(tokens),
                frozenset(position for position, dropped in enumerate(is_dropped) if dropped),
                int(output.num_forward_passes[0]),
                int(output.num_probe_passes[0]),
            ),
            mask_token_id=self._mask_token_id,
            tokenizer=tokenizer,
        )

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


def _name(strategy: UnmaskingStrategy) -> str:
    return getattr(strategy, "name", type(strategy).__name__)


def _start(positions: torch.Tensor) -> int:
    """Return the first column of the only row that is not padding."""
    return positions.shape[1] - 1 - int(positions[0, -1])


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
