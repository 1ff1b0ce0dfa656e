"""The loop: forward, predict, select, write, until nothing is masked. There is no other."""

from collections.abc import Sequence

import torch
from transformers import LogitsProcessorList

from ..backbones.backbone import Backbone
from ..backbones.prediction import Prediction
from ..functional.candidates import CandidateIndex
from ..functional.distributions import confidence, scores_of
from ..functional.masking import steps_of_blocks
from ..functional.sampling import filter_logits, uniform_noise
from ..strategies import DenoisingStep, UnmaskingStrategy
from .caching import CachedForward
from .scoring import part_size_of, score_candidates
from .state import DecodingSettings, DecodingState, OnStep


class DenoisingLoop:
    """Decode by unmasking: which token is written is decided here, where only by the strategy.

    Args:
        backbone ([`Backbone`]): The model.
        strategy ([`UnmaskingStrategy`]): The rule, a copy of its own for this call.
        settings ([`DecodingSettings`]): Everything else.
    """

    def __init__(self, backbone: Backbone, strategy: UnmaskingStrategy, settings: DecodingSettings):
        self.backbone, self.strategy, self.settings = backbone, strategy, settings
        self._plan, self._cached, self._score = None, None, backbone.compiled(scores_of)
        self._vocab_size = getattr(getattr(backbone.model, "config", None), "vocab_size", None)
        if settings.num_steps is not None:
            self._plan = torch.tensor(steps_of_blocks(settings.num_steps, settings.num_blocks))

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
                Applied once a step to the candidates' raw logits.
            on_step (`Sequence[Callable]`, *optional*):
                Called in turn after every step.

        Raises:
            ValueError: if the model's logits hold NaN.
        """
        block = torch.full_like(state.seeds, -1)
        block_start, num_block_steps = state.num_forward_passes.clone(), torch.zeros_like(state.seeds)
        self._cached = None if self.settings.cache == "none" else self._empty_cache(state)
        has_nan = torch.zeros_like(state.seeds[:1], dtype=torch.bool)
        while True:
            # 1. Open positions: masked, not behind an end-of-sequence token, in a row that was not stopped.
            is_open = self.open_positions(state)
            # 2. Candidates: the open positions of the row's first unfinished block.
            candidates, current = self._first_block(is_open)
            is_new = is_open.any(dim=-1) & (current != block)
            block = torch.where(is_new, current, block)
            block_start = torch.where(is_new, state.num_forward_passes, block_start)
            num_block_steps = torch.where(is_new, self._planned(candidates, current), num_block_steps)
            is_last = torch.zeros_like(is_new)
            if self.settings.max_steps is not None:
                is_last = state.num_forward_passes == self.settings.max_steps - 1
                candidates = torch.where(is_last[:, None], is_open, candidates)
            index = _index(candidates, has_nan)
            if not index.host_active:
                return
            steps = (state.num_forward_passes - block_start, num_block_steps)
            step, has_nan = self._predict(state, index, candidates, steps, logits_processor)
            # 5. Select, on candidates only, and at least one in each unfinished row.
            selected = self._select(step) | (candidates & is_last[:, None])
            # 6. Write the tokens and count the forward pass.
            draft = step.at_positions(step.tokens, 0)
            state.sequences = torch.where(selected, draft, state.sequences)
            state.unmask_step = torch.where(selected, state.num_forward_passes[:, None], state.unmask_step)
            state.num_forward_passes += candidates.any(dim=-1)
            for callback in on_step:
                callback(state, torch.where(candidates, draft, state.sequences))

    def _select(self, step: DenoisingStep) -> torch.BoolTensor:
        """Return the strategy's choice, made to obey the rules of the loop."""
        selected = self.strategy.select(step) & step.candidates
        if not self.strategy.allows_empty_step:
            is_empty = ~selected.any(dim=-1, keepdim=True)
            selected = selected | (step.best(step.score("confidence"), 1) & is_empty)
        if self._cached is not None and self.settings.cache_commits_first and self._cached.entered:
            entered = torch.zeros_like(step.seeds, dtype=torch.bool)
            entered[self._cached.entered] = True
            selected = torch.where(entered[:, None], step.at_positions(step.index.slots == 0, False), selected)
        return selected

    def kept_lengths(self, state: DecodingState) -> torch.LongTensor:
        """Return the number of columns that each row keeps: up to its first end-of-sequence token or its stop."""
        columns = torch.arange(state.sequences.shape[1], device=state.sequences.device)
        # One comparison for each id: a tensor of ids would have to be sent to the device in every step.
        is_end = torch.zeros_like(state.sequences, dtype=torch.bool)
        for token in self.settings.eos_token_ids:
            is_end |= state.sequences == token
        is_end &= columns >= self.settings.prompt_length
        return torch.where(is_end, columns + 1, state.stop_lengths[:, None]).amin(dim=-1)

    def open_positions(self, state: DecodingState) -> torch.BoolTensor:
        """Return the positions still to be written, shape `(batch, length)`."""
        columns = torch.arange(state.sequences.shape[1], device=state.sequences.device)
        is_open = (state.sequences == self.backbone.mask_token_id) & (columns < self.kept_lengths(state)[:, None])
        return is_open if state.attention_mask is None else is_open & state.attention_mask.bool()

    def _first_block(self, is_open: torch.BoolTensor) -> tuple[torch.BoolTensor, torch.LongTensor]:
        """Return the open positions of each row's first block that has some, and that block's number."""
        columns = torch.arange(is_open.shape[1], device=is_open.device)
        blocks = ((columns - self.settings.prompt_length) // self.settings.block_length).clamp(min=0)
        current = torch.where(is_open, blocks, self.settings.num_blocks).min(dim=-1).values
        return is_open & (blocks == current[:, None]), current

    def _planned(self, candidates: torch.BoolTensor, block: torch.LongTensor) -> torch.LongTensor:
        """Return the steps planned for each row's block: its share of the plan, or one per position."""
        if self._plan is None:
            return candidates.sum(dim=-1)
        return self._plan.to(block.device)[block.clamp(max=self.settings.num_blocks - 1)]

    def _empty_cache(self, state: DecodingState) -> CachedForward:
        settings, mask = self.settings, state.attention_mask
        return CachedForward(
            backbone=self.backbone,
            kind=settings.cache,
            refresh_interval=settings.cache_refresh_interval,
            commits_first=settings.cache_commits_first,
            prompt_length=settings.prompt_length,
            block_length=settings.block_length,
            first_real=[0] * len(state.sequences) if mask is None else mask.argmax(dim=-1).tolist(),
            length=state.sequences.shape[1],
        )

    def _predict(
        self,
        state: DecodingState,
        index: CandidateIndex,
        candidates: torch.BoolTensor,
        block_steps: tuple[torch.LongTensor, torch.LongTensor],
        logits_processor: LogitsProcessorList | None,
    ) -> tuple[DenoisingStep, torch.BoolTensor]:
        """Run the backbone on the unfinished rows; return the step, and whether NaN was met, of shape `(1,)`.

        `block_steps` are index and plan.
        """
        # 3. One forward over the rows that still have a candidate.
        if self._cached is not None:
            self._cached.plan(index)
        reads = None if logits_processor else self.strategy.reads
        part_size = None if reads is None else part_size_of(self._vocab_size)
        prediction, observed = self._observe(state, index, candidates, part_size)
        # 4. Logits processors, temperature and filters; then the token each candidate would get.
        rows, columns = index.rows, index.columns
        noise = None
        if self.settings.temperature > 0:
            steps = state.num_forward_passes[rows]
            noise = uniform_noise(state.seeds[rows], steps, state.positions[rows, columns])

        def distribution(part, logits):
            if logits_processor:
                logits = logits_processor(state.sequences[rows[part]], logits)
            return logits, self._probabilities(logits)

        def forward(sequences, probe_rows, asked):
            return self._probabilities(self._forward(state, sequences, probe_rows, asked).logits)

        names = None if reads is None else {"confidence", *reads}
        tokens, scores, has_nan, probabilities = score_candidates(
            prediction, names, distribution, self.backbone.mask_token_id, noise, self._score
        )
        step = DenoisingStep(
            sequences=state.sequences,
            candidates=candidates,
            positions=state.positions,
            probabilities=probabilities,
            tokens=tokens,
            step_index=state.num_forward_passes,
            block_step_index=block_steps[0],
            num_block_steps=block_steps[1],
            seeds=state.seeds,
            mask_token_id=self.backbone.mask_token_id,
            hidden_states=prediction.hidden_states,
            forward=forward,
            ledger=state.ledger,
            known_index=index,
            known_scores=scores,
            **observed,
        )
        return step, has_nan

    def _observe(
        self, state: DecodingState, index: CandidateIndex, candidates: torch.BoolTensor, part_size: int | None
    ) -> tuple[Prediction, dict[str, torch.Tensor]]:
        """Predict the candidates, and return what else the strategy wants to see of the step."""
        strategy, observed, active, places = self.strategy, {}, index.active, index.places
        if strategy.needs_context_confidence:
            asked = (candidates | self._visible(state))[active]
            places = asked.nonzero(as_tuple=True)
        layers = strategy.attention_layers if strategy.needs_attentions else None
        prediction = self._forward(
            state, state.sequences[active], active, places, index.host_active, layers, part_size
        )
        if layers is not None:
            attentions = prediction.attentions
            observed["attentions"] = attentions.new_zeros((len(candidates), *attentions.shape[1:]))
            observed["attentions"][active] = attentions
        if strategy.needs_context_confidence:
            logits, states = prediction.logits, prediction.hidden_states
            is_candidate = candidates[active][places]
            rows, columns = active[places[0][~is_candidate]], places[1][~is_candidate]
            certainty = confidence(self._probabilities(logits[~is_candidate]))
            observed["context_confidence"] = certainty.new_zeros(candidates.shape)
            observed["context_confidence"][rows, columns] = certainty
            states = states if states is None else states[is_candidate.to(states.device)]
            prediction = Prediction(logits[is_candidate], states)
        return prediction, observed

    def _visible(self, state: DecodingState) -> torch.BoolTensor:
        """Return the positions that hold a token of prompt or answer, shape `(batch, length)`."""
        is_visible = state.sequences != self.backbone.mask_token_id
        return is_visible if state.attention_mask is None else is_visible & state.attention_mask.bool()

    def _forward(
        self, state: DecodingState, sequences, rows, asked, host_rows=None, attention_layers=None, part_size=None
    ):
        """Run the model; without `host_rows` it is a probe, of which a cache keeps nothing."""
        given = (state.attention_mask, state.token_type_ids)
        attention_mask, token_type_ids = (None if tensor is None else tensor[rows] for tensor in given)
        with_states = self.strategy.needs_hidden_states
        if self._cached is None:
            return self.backbone.predict(
                sequences, asked, attention_mask, token_type_ids, with_states, attention_layers, None, part_size
            )
        if host_rows is not None:
            return self._cached.predict(sequences, asked, attention_mask, host_rows, with_states, part_size=part_size)
        places = asked.nonzero(as_tuple=True)
        return self._cached.predict(sequences, places, attention_mask, rows.tolist(), with_states, is_probe=True)

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        settings = self.settings
        return filter_logits(logits, settings.temperature, settings.top_p, settings.top_k).softmax(dim=-1)


def _index(candidates: torch.BoolTensor, has_nan: torch.BoolTensor) -> CandidateIndex:
    """Return where the candidates are; the one transfer of a step also tells whether the last one met NaN."""
    on_host = torch.cat([has_nan, candidates.flatten()]).cpu()
    if on_host[0]:
        raise ValueError("`logits` must not hold NaN, got some from the model or a logits processor.")
    return CandidateIndex.of(candidates, on_host[1:].view(candidates.shape))
