"""Steps 3 and 4 of the loop: one forward, then probabilities, tokens and scores of the candidates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessorList

from ..backbones.backbone import Backbone
from ..backbones.prediction import Prediction, PredictionRequest, joined_parts
from ..functional.candidates import CandidateIndex
from ..functional.distributions import SCORES, scores_of
from ..functional.sampling import Sampling, draw_tokens, uniform_noise
from ..strategies import DenoisingStep, Review
from ..strategies.needs import LastLayers, Need, Shadows
from .blocks import BlockLayout
from .caching import CachedForward
from .canvases import CanvasForward
from .ending import EosPenalty
from .observing import OtherPositions, observed_attention
from .review import own_masked, processed_logits, review_of, shadowed, written_in_block
from .state import DecodingState


# Largest size of a tensor over candidates and vocabulary if only scores are kept: 128 MiB. With Dream's vocabulary
# this is 220 candidates, enough to use the output layer efficiently.
_MAX_PART_ELEMENTS = 1 << 25
_SCORE_NAMES = frozenset({*SCORES, "token_probability"})


@dataclass
class Predictor:
    """The predictions of a model for masked positions: for a step of the loop, or for probes of modified sequences.

    Args:
        backbone ([`Backbone`]):
            The model.
        sampling ([`Sampling`]):
            Temperature and filters of the distributions that tokens are drawn from.
        scored ([`Sampling`], *optional*):
            Those of the distributions that the strategy reads; by default none, which gives the model's own
            distribution.
        needs (`frozenset`, *optional*):
            What the strategy reads of a step, see [`UnmaskingStrategy.needs`]; empty if only probes are used.
        attention_mask (`torch.Tensor` of shape `(batch, length)`, *optional*):
            0 at left padding.
        token_type_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*):
            Segment ids, for models that use them.
        cached ([`CachedForward`] or [`CanvasForward`], *optional*):
            Runs the model if keys and values are kept.
        ending ([`EosPenalty`], *optional*):
            Makes candidates that would end the answer wait.
        layout ([`BlockLayout`], *optional*):
            Blocks of a model with block-causal attention; a forward ends with the last one that it needs.
        excludes_mask (`bool`, *optional*, defaults to `False`):
            Make probes return the distributions that tokens are drawn from, without the mask token, instead of those
            that the strategy reads.
    """

    backbone: Backbone
    sampling: Sampling
    scored: Sampling = Sampling()
    needs: frozenset[Need] = frozenset()
    attention_mask: torch.Tensor | None = None
    token_type_ids: torch.Tensor | None = None
    cached: CachedForward | CanvasForward | None = None
    ending: EosPenalty | None = None
    layout: BlockLayout | None = None
    excludes_mask: bool = False

    def __post_init__(self):
        self._scores_of = self.backbone.compiled(scores_of)
        # Rows whose distributions were lowered in the last step, shape `(batch,)`.
        self._is_lowered: torch.Tensor | None = None

    def probe(self, sequences: torch.Tensor, rows: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """Return the predictions for other sequences; logits processors are not applied.

        Args:
            sequences (`torch.LongTensor` of shape `(probes, length)`):
                Token ids, masks included.
            rows (`torch.LongTensor` of shape `(probes,)`):
                Row of the batch that each one is derived from.
            asked (`torch.BoolTensor` of shape `(probes, length)`):
                Requested positions.

        Returns:
            `torch.Tensor` of shape `(number of requested positions, vocabulary)`, row-major; rows sum to 1.
        """
        request = self._request(sequences, asked, rows)
        if self.layout is not None:
            request = request.up_to(self.layout.width(asked, rows))
        if self.cached is None:
            logits = self.backbone.predict(request).logits
        else:
            logits = self.cached.predict(request, rows.tolist(), is_probe=True).logits
        if self.excludes_mask:
            return self.sampling.drawn(logits, self.backbone.mask_token_id)
        if self.ending is not None and self._is_lowered is not None:
            is_lowered = self._is_lowered[rows].to(asked.device)[asked.nonzero(as_tuple=True)[0]]
            logits = torch.where(is_lowered[:, None], self.ending.lowered(logits), logits)
        return self.scored.probabilities(logits)

    def step(
        self,
        state: DecodingState,
        candidates: torch.Tensor,
        index: CandidateIndex,
        logits_processor: LogitsProcessorList | None = None,
        written: torch.Tensor | None = None,
        in_block: torch.Tensor | None = None,
    ) -> DenoisingStep:
        """Run the model on the unfinished rows and return the step that the strategy sees.

        Args:
            state ([`DecodingState`]):
                The state; `faults` are set in it.
            candidates (`torch.BoolTensor` of shape `(batch, length)`):
                Positions that may be unmasked.
            index ([`CandidateIndex`]):
                Where they are.
            logits_processor (`LogitsProcessorList`, *optional*):
                Applied once to the raw logits of all candidates.
            written (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
                Positions that the call wrote before, in rows that run; for strategies that remask.
            in_block (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
                Candidates of each row's block, for strategies that select in all blocks.
        """
        # 3. One forward over the rows that still have a candidate.
        if self.cached is not None:
            self.cached.plan(index)
        is_whole = bool(logits_processor) or "probabilities" in self.needs
        shadows = next((need for need in self.needs if isinstance(need, Shadows)), None)
        seen = written if "review" in self.needs else None
        if written is not None and shadows is not None:
            seen = written_in_block(written, state, self.sampling)
        prediction, observed, reviewed = self._forward(state, candidates, index, is_whole, seen)
        # 4. Logits processors, temperature and filters; then the token that each candidate would get.
        noise, mask = self._noise(state, index.rows, index.columns), self.backbone.mask_token_id

        def processed(part: slice, logits: torch.Tensor) -> torch.Tensor:
            own = index.rows[part]
            return processed_logits(logits_processor, state.sequences[own], own, state.attention_mask, mask, logits)

        tokens, scores, probabilities, postponed, state.faults = self._scored(
            prediction, processed, noise, index, candidates if in_block is None else in_block, is_whole
        )
        if seen is not None and reviewed is not None:
            observed["review"] = self._review(state, seen, reviewed, logits_processor)
        return DenoisingStep(
            sequences=state.sequences,
            candidates=candidates,
            positions=state.positions,
            probabilities=probabilities,
            tokens=tokens,
            step_index=state.num_steps,
            block_step_index=state.num_steps - state.block_start,
            num_block_steps=state.num_block_steps,
            seeds=state.seeds,
            mask_token_id=self.backbone.mask_token_id,
            hidden_states=prediction.hidden_states,
            forward=self.probe,
            ledger=state.ledger,
            written=written,
            in_block=in_block,
            postponed=postponed,
            known_num_masked=None if in_block is None else in_block.sum(dim=-1),
            known_index=index,
            known_scores=scores,
            **observed,
        )

    def _request(
        self,
        sequences: torch.Tensor,
        candidates: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        rows: torch.Tensor,
        **wanted: Any,
    ) -> PredictionRequest:
        """Return a request for sequences that belong to these rows of the batch, or to versions of them."""
        blocks = None if self.layout is None else self.layout.blocks
        given = (self.attention_mask, self.token_type_ids, blocks)
        attention_mask, token_type_ids, blocks = (None if each is None else each[rows % len(each)] for each in given)
        wanted = {"with_hidden_states": False, "blocks": blocks, **wanted}
        return PredictionRequest(sequences, candidates, attention_mask, token_type_ids, **wanted)

    def _noise(self, state: DecodingState, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor | None:
        """Return the uniform numbers that draw tokens at these places; `None` if the most likely ones are taken."""
        if not self.sampling.temperature > 0:
            return None
        return uniform_noise(state.seeds[rows], state.num_steps[rows], state.positions[rows, columns])

    def _forward(
        self,
        state: DecodingState,
        candidates: torch.Tensor,
        index: CandidateIndex,
        is_whole: bool,
        written: torch.Tensor | None,
    ) -> tuple[Prediction, dict[str, Any], torch.Tensor | None]:
        """Predict the candidates; return also other inputs that the strategy needs, and logits of `written`."""
        active, places, asked = index.active, index.places, candidates
        others = OtherPositions.of(self.needs, state, self.backbone.mask_token_id)
        asked = asked if others is None else asked | others.asked
        shadows = next((need for need in self.needs if isinstance(need, Shadows)), None)
        if written is not None and shadows is None:
            asked = asked | written
            active = (candidates | written).any(dim=-1).nonzero().squeeze(-1)
        is_wider = asked is not candidates
        if is_wider:
            seen_rows, seen_columns = asked[active].nonzero(as_tuple=True)
            places = seen_rows, seen_columns
        layers = next((need.of for need in self.needs if isinstance(need, LastLayers)), None)
        request = self._request(
            state.sequences[active],
            places,
            active,
            with_hidden_states="hidden_states" in self.needs,
            attention_layers=layers,
            part_size=None if is_whole or is_wider else part_size_of(self.backbone.vocab_size),
        )
        if self.layout is not None:
            request = request.up_to(self.layout.width(asked) if is_wider else self.layout.reach(index))
        if written is not None and shadows is not None:
            request = shadowed(request, shadows, written, state, active, self.backbone, self.sampling)
            found, count = self.backbone.predict(request), len(index.rows)
            states = None if found.hidden_states is None else found.hidden_states[:count]
            return Prediction(found.logits[:count], states), {}, found.logits[count:]
        if self.cached is not None:
            return self.cached.predict(request, index.host_active), {"canvas": self.cached.canvas}, None
        prediction, reviewed = self.backbone.predict(request), None
        observed = observed_attention(prediction.attentions, active, candidates)
        if is_wider:
            logits, states = prediction.logits, prediction.hidden_states
            is_candidate = candidates[active][places]
            if others is not None:
                observed |= others.observed(logits, (active[places[0]], places[1]), self.scored)
            reviewed = None if written is None else logits[written[active][places]]
            states = states if states is None else states[is_candidate.to(states.device)]
            prediction = Prediction(logits[is_candidate], states)
        return prediction, observed, reviewed

    def _review(
        self,
        state: DecodingState,
        written: torch.Tensor,
        logits: torch.Tensor,
        logits_processor: LogitsProcessorList | None,
    ) -> Review:
        """Return what was predicted at the written positions, given the logits of all, row-major."""
        rows, columns = written.nonzero(as_tuple=True)
        mask_token_id, samplings = self.backbone.mask_token_id, (self.sampling, self.scored)
        ids = own_masked(state.sequences, written, mask_token_id)
        logits = processed_logits(logits_processor, ids, rows, state.attention_mask, mask_token_id, logits)
        noise = self._noise(state, rows, columns)
        return review_of(state.sequences, written, logits, samplings, mask_token_id, noise)

    def _scored(
        self,
        prediction: Prediction,
        processed: Callable[[slice, torch.Tensor], torch.Tensor],
        noise: torch.Tensor | None,
        index: CandidateIndex,
        in_block: torch.Tensor,
        is_whole: bool,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
        """Return the token of each candidate, its scores, and whole distributions instead of scores if `is_whole`.

        Then which candidates wait, and the faults, see [`DecodingState`]. The logits are consumed, one part at a time.
        """
        names = tuple(sorted({"confidence"} | {need for need in self.needs if need in _SCORE_NAMES}))
        tokens: list[torch.Tensor] = []
        faults, waits, read, read_lowered = [], [], [], []

        def values_of(probabilities: torch.Tensor) -> list[torch.Tensor]:
            return [probabilities] if is_whole else self._scores_of(names, probabilities, tokens[-1])

        for part, logits in prediction.parts():
            logits = processed(part, logits)
            probabilities = self.scored.probabilities(logits)
            part_noise = None if noise is None else noise[part]
            tokens.append(self._chosen(part, logits, probabilities, part_noise))
            is_mask = tokens[-1] == self.backbone.mask_token_id
            has_no_token = is_mask | logits.gather(-1, tokens[-1][:, None]).squeeze(-1).isneginf()
            faults.append(torch.stack([probabilities[:, 0].isnan().any(), has_no_token.any()]))
            read.append(values_of(probabilities))
            if self.ending is not None:
                lowered = self.ending.lowered(logits)
                waits.append(self.ending.waits(lowered, tokens[-1]))
                read_lowered.append(values_of(self.scored.probabilities(lowered)))
                del lowered
            del logits, probabilities
        values, postponed = joined_parts(read), None
        if self.ending is not None:
            postponed = torch.cat(waits)
            # The penalty holds in rows where a candidate of the block does not wait; the others end now.
            is_other = ~postponed & in_block[index.rows, index.columns]
            counts = torch.zeros(len(in_block), dtype=torch.long, device=in_block.device)
            self._is_lowered = counts.index_add(0, index.rows, is_other.long()) > 0
            is_lowered = self._is_lowered[index.rows]
            postponed = postponed & is_lowered
            pairs = zip(joined_parts(read_lowered), values, strict=True)
            values = [torch.where(is_lowered.view(-1, *[1] * (old.ndim - 1)), new, old) for new, old in pairs]
        scores = {} if is_whole else dict(zip(names, values, strict=True))
        return torch.cat(tokens), scores, values[0] if is_whole else None, postponed, torch.stack(faults).any(dim=0)

    def _chosen(
        self, part: slice, logits: torch.Tensor, probabilities: torch.Tensor, noise: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the token of each candidate of a part, given what the strategy reads."""
        is_same = self.sampling == self.scored or (self.sampling.is_plain and self.scored.is_plain)
        # The most likely token needs no distribution to be drawn from.
        drawn = probabilities if is_same or noise is None else self.sampling.probabilities(logits)
        return draw_tokens(logits, drawn, self.backbone.mask_token_id, noise)


def part_size_of(vocab_size: int | None) -> int | None:
    """Return how many candidates are scored at once; `None` means all of them."""
    return None if vocab_size is None else max(1, _MAX_PART_ELEMENTS // vocab_size)
