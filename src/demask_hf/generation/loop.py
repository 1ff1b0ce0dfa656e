"""The denoising loop: forward, predict, select, write, until nothing is masked. It is the only loop."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessorList

from ..backbones.backbone import Backbone
from ..functional.automaton import TokenAutomaton
from ..functional.candidates import CandidateIndex
from ..strategies import Decision, DecodingSettings, DenoisingStep, Drafts, UnmaskingStrategy
from .blocks import BlockLayout, block_plans, first_blocks
from .caching import CachedForward
from .canvases import DecodingCanvas
from .constrained import ConstrainedPredictor, Constraint
from .drafting import in_block_of_row, moved, versions_of
from .ending import EosPenalty
from .predictor import Predictor
from .remasking import change_written, most_remasks, written_positions
from .state import DecodingState, OnStep


class DenoisingLoop:
    """Decode by unmasking: the strategy selects where to write, the loop decides what.

    Args:
        backbone ([`Backbone`]): The model.
        strategy ([`UnmaskingStrategy`]): The rule, a fresh copy for this call.
        settings ([`DecodingSettings`]): Everything else.
        automaton ([`TokenAutomaton`], *optional*): Accepts what an answer may be; by default everything.
    """

    def __init__(
        self,
        backbone: Backbone,
        strategy: UnmaskingStrategy,
        settings: DecodingSettings,
        automaton: TokenAutomaton | None = None,
    ):
        self.backbone, self.strategy, self.settings, self.automaton = backbone, strategy, settings, automaton
        self._plans: torch.Tensor | None = None

    def run(
        self,
        state: DecodingState,
        logits_processor: LogitsProcessorList | None = None,
        on_step: Sequence[OnStep] = (),
    ) -> None:
        """Unmask until no row has an open position; see `generate` for the numbered steps.

        Args:
            state ([`DecodingState`]):
                Where to start; changed in place.
            logits_processor (`LogitsProcessorList`, *optional*):
                Applied once per step to the candidates' raw logits.
            on_step (`Sequence[Callable]`, *optional*):
                Called in turn after every step.

        Raises:
            ValueError: if the model's logits hold NaN.
        """
        self._plans = block_plans(self.settings, state.blocks)
        layout = BlockLayout.of(self.settings, state.blocks)
        cached = CachedForward.of(self.backbone, self.settings, state, layout) or DecodingCanvas.of(
            self.backbone, self.strategy, self.settings, state, self.kept_lengths
        )
        predictor = self._predictor(state, cached, layout)
        max_remasks = most_remasks(self.settings.max_remasks, self.open_positions(state))
        drafts: Drafts | None = None
        while True:
            versions = state if drafts is None else versions_of(state, drafts, self.settings.max_steps)
            # 1. Open positions: masked, not after an end-of-sequence token, in a row that was not stopped.
            is_open = self.open_positions(versions)
            # 2. Candidates: the open positions of the row's first unfinished block; of all blocks in the last step.
            candidates, is_last = self._candidates(versions, is_open)
            in_block = None
            if self.strategy.selects_in_all_blocks:
                candidates, in_block = is_open, candidates
            if cached is not None and drafts is not None:
                candidates = candidates & in_block_of_row(versions, len(state.seeds))
            index, written = _index(candidates, versions.faults), None
            if self.strategy.remasks:
                written = self._written(state, candidates)
            if not index.host_active and (written is None or not written.any()):
                return
            # 3. One forward. 4. The token that each candidate would get.
            step = predictor.step(versions, candidates, index, logits_processor, written, in_block)
            # 5. Select, on candidates only, and at least one in each unfinished row; move on to verified drafts.
            entered = [] if cached is None else cached.entered
            decision, selected, tokens = self._decided(versions, step, entered, candidates & is_last)
            if drafts is not None:
                step, selected, tokens = moved(self.strategy, state, versions, step, selected, tokens)
            # 6. Write the tokens, change written ones where the strategy does, and count the forward pass.
            before, drafted, runs = state.sequences, step.candidates, step.candidates.any(dim=-1)
            state.sequences = torch.where(selected, tokens, before)
            state.unmask_step = torch.where(selected, state.num_forward_passes[:, None], state.unmask_step)
            if written is not None:
                rest = (tokens, before, written & ~is_last, self.backbone.mask_token_id, max_remasks)
                drafted = drafted | change_written(state, decision, *rest)
                runs = runs | written.any(dim=-1)
            drafts = self.strategy.drafts(step, selected)
            for count in (state.num_forward_passes, state.num_steps, state.num_row_forwards):
                count += runs
            for callback in on_step:
                callback(state, torch.where(drafted, tokens, before))

    def _predictor(
        self, state: DecodingState, cached: CachedForward | DecodingCanvas | None, layout: BlockLayout | None
    ) -> Predictor:
        """Return what does steps 3 and 4."""
        mask_token_id = self.backbone.mask_token_id
        given = (
            *(self.backbone, self.settings, self.settings.scored, self.strategy.needs),
            *(state.attention_mask, state.token_type_ids, cached, EosPenalty.of(self.settings, mask_token_id)),
        )
        if self.automaton is None:
            return Predictor(*given, layout=layout)
        constraint = Constraint(self.automaton.to(state.sequences.device), self.settings, mask_token_id)
        return ConstrainedPredictor(*given, constraint=constraint, open_positions=self.open_positions)

    def open_positions(self, state: DecodingState) -> torch.Tensor:
        """Return the positions still to be written, shape `(batch, length)`."""
        columns = torch.arange(state.sequences.shape[1], device=state.sequences.device)
        is_open = (state.sequences == self.backbone.mask_token_id) & (columns < self.kept_lengths(state)[:, None])
        return is_open if state.attention_mask is None else is_open & state.attention_mask.bool()

    def kept_lengths(self, state: DecodingState) -> torch.Tensor:
        """Return the number of columns that each row keeps: up to its first end-of-sequence token or its stop."""
        columns = torch.arange(state.sequences.shape[1], device=state.sequences.device)
        # One comparison per id: a tensor of ids would have to be copied to the device in every step.
        is_end = torch.zeros_like(state.sequences, dtype=torch.bool)
        for token in self.settings.eos_token_ids:
            is_end |= state.sequences == token
        is_end &= columns >= self.settings.prompt_length
        return torch.where(is_end, columns + 1, state.stop_lengths[:, None]).amin(dim=-1)

    def _written(self, state: DecodingState, candidates: torch.Tensor) -> torch.Tensor:
        """Return the positions that the strategy may change, see [`written_positions`]."""
        written = written_positions(state, candidates, self.kept_lengths(state), self.settings.max_steps)
        # With block-causal attention, what was computed from a finished block would change with it.
        return written if self.settings.block_alignment is None else written & (state.blocks == state.block[:, None])

    def _candidates(self, state: DecodingState, is_open: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the candidates, and whether it is the last step of a row, of shape `(batch, 1)`.

        Rows that enter a block start to count its steps.
        """
        current = torch.where(is_open, state.blocks, is_open.shape[1]).min(dim=-1).values
        if self.settings.block_alignment is not None and self.strategy.remasks:
            # A row that its strategy wants to see again stays in its block, which is not changed later.
            current = torch.where(state.is_revisited, state.block, current)
        # The rows of canvases share a cache: none moves on before all do.
        has_canvas = self.backbone.quirks.noise == "uniform"
        candidates = is_open & (state.blocks == (current.min() if has_canvas else current[:, None]))
        is_new = (candidates if has_canvas else is_open).any(dim=-1) & (current != state.block)
        state.block = torch.where(is_new, current, state.block)
        state.block_start = torch.where(is_new, state.num_steps, state.block_start)
        state.num_block_steps = torch.where(is_new, self._planned(state, candidates, current), state.num_block_steps)
        is_last = torch.zeros_like(is_new)[:, None]
        if self.settings.max_steps is not None and has_canvas:
            is_last = (state.num_steps - state.block_start == self.settings.max_steps - 1)[:, None]
        elif self.settings.max_steps is not None:
            is_last = (state.num_steps == self.settings.max_steps - 1)[:, None]
            candidates = torch.where(is_last, is_open, candidates)
        return candidates, is_last

    def _planned(self, state: DecodingState, candidates: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
        """Return the steps planned for each row's block: its share of the plan, or one per position."""
        if self._plans is None:
            return candidates.sum(dim=-1)
        # Versions of a row have its plan.
        rows = torch.arange(len(block), device=block.device) % len(self._plans)
        number = block - first_blocks(self.settings, state.blocks)
        return self._plans[rows, number.clamp(min=0, max=self.settings.num_blocks - 1)]

    def _decided(
        self, state: DecodingState, step: DenoisingStep, entered: list[int], forced: torch.Tensor
    ) -> tuple[Decision, torch.Tensor, torch.Tensor]:
        """Return what the strategy decides, the candidates to write under the rules of the loop, and all tokens.

        `entered` are the rows at a new block, `forced` the candidates that must be written now.
        """
        offered = step if step.postponed is None else step.among(self._offered(step, step.postponed))
        name, decision = type(self.strategy).__name__, self.strategy.select(offered)
        if isinstance(decision, torch.Tensor):
            decision = Decision(decision)
        elif not self.strategy.remasks and (decision.remasked is not None or decision.revisited is not None):
            raise ValueError(f"`remasks` must be True for a strategy that remasks or revisits, got False for {name}.")
        elif decision.revisited is not None and "review" not in self.strategy.needs:
            raise ValueError(f"`needs` must name 'review' for a strategy that revisits, got no such need of {name}.")
        selected, tokens = decision.selected & offered.candidates, step.at_positions(step.tokens, 0)
        if decision.tokens is not None:
            self._check_tokens(step, decision, tokens)
            tokens = torch.where(decision.selected, decision.tokens, tokens)
            is_mask = (decision.selected & (tokens == self.backbone.mask_token_id)).any()
            state.faults = torch.cat([state.faults, is_mask[None]])
        if not self.strategy.allows_empty_step:
            is_empty = ~selected.any(dim=-1, keepdim=True)
            selected = selected | (offered.best(offered.score("confidence"), 1) & is_empty)
        if entered and self.settings.cache_commits_first:
            has_entered = torch.zeros_like(step.seeds, dtype=torch.bool)
            has_entered[entered] = True
            selected = torch.where(has_entered[:, None], step.at_positions(step.index.slots == 0, False), selected)
        return decision, selected | forced, tokens

    def _check_tokens(self, step: DenoisingStep, decision: Decision, tokens: torch.Tensor) -> None:
        """Refuse other tokens than those of an answer that matches a constraint."""
        if self.automaton is None or decision.tokens is None:
            return
        expected = torch.where(step.candidates, tokens, step.sequences)
        if (decision.selected & (decision.tokens != expected)).any():
            raise ValueError(
                f"`constraint` must be None for strategy {self.strategy.name!r} with these fields, which chose a "
                "token of its own."
            )

    def _offered(self, step: DenoisingStep, postponed: torch.Tensor) -> torch.Tensor:
        """Return the candidates that need not wait; the last step of a plan writes everything."""
        waits = step.at_positions(postponed, False)
        if self.strategy.follows_schedule:
            waits &= (step.block_step_index < step.num_block_steps - 1)[:, None]
        return step.candidates & ~waits


def _index(candidates: torch.Tensor, faults: torch.Tensor) -> CandidateIndex:
    """Return the places of the candidates; the one transfer per step also reports faults of the previous step."""
    on_host = torch.cat([faults, candidates.flatten()]).cpu()
    if on_host[: len(faults)].any():
        # Where nothing is possible, the probabilities are NaN, too.
        if on_host[1]:
            raise ValueError(
                "`logits` must leave a token other than the mask at every position, got a position without one from "
                "the model, a logits processor or `suppress_tokens`."
            )
        if on_host[0]:
            raise ValueError("`logits` must not hold NaN, got some from the model or a logits processor.")
        raise ValueError("`tokens` of a decision must not hold the mask token at a selected position, got some.")
    return CandidateIndex.of(candidates, on_host[len(faults) :].view(candidates.shape))
