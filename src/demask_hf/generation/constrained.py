"""Steps 3 and 4 of the loop where every answer must match a `constraint`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessorList

from ..backbones.prediction import Prediction
from ..functional.automaton import TokenAutomaton
from ..functional.candidates import CandidateIndex
from ..functional.distributions import certainty
from ..functional.restriction import completion_weights, factors, walk
from ..functional.sampling import Sampling, filter_logits, inverse_transform
from ..strategies import DecodingSettings, DenoisingStep
from .predictor import Predictor
from .review import processed_logits
from .state import DecodingState


# Subtracted from the logarithm of a token that top-k or top-p removes: it is taken where nothing goes without it.
_REMOVED = 1000.0


@dataclass(frozen=True)
class Constraint:
    r"""What an answer must match, and the distributions that are restricted to it (DINGO, arXiv 2505.23061).

    Dependencies that a head predicts are those of the model alone, from what the model itself is sure of. Tokens of
    one step match together, as they are taken from one completion. That a token changes, through the constraint, what
    is probable elsewhere is in the marginals of the next step, and not in the head's dependencies.
    Measured ones (`dependencies="exact"`) include the constraint.

    Args:
        automaton ([`TokenAutomaton`]): Accepts what matches.
        settings ([`DecodingSettings`]): Where the answer is, and how tokens are drawn.
        mask_token_id (`int`): Token that is never written.

    Example:

    The answer of a model for pairs of digits with given sums, of which the first digit is at most 4:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> settings = {"constraint": r"[0-4]\+[0-9](, [0-9]\+[0-4]){5}", "tokenizer": tokenizer}
    >>> output = model.generate(**prompt, strategy="threshold", return_dict_in_generate=True, **settings)
    >>> print(*output.drafts(tokenizer)[-3:], sep="\n")
    _+_, 9+3, 1+4, 9+4, 1+2, 7+4
    1+_, 9+3, 1+4, 9+4, 1+2, 7+4
    1+6, 9+3, 1+4, 9+4, 1+2, 7+4

    ```
    """

    automaton: TokenAutomaton
    settings: DecodingSettings
    mask_token_id: int

    def log_probabilities(self, logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
        """Return the distributions to restrict, logarithms of shape `(positions, vocabulary)`.

        The mask token is left out, and what a filter removes is less probable than any answer without it.
        """
        lowest = torch.finfo(logits.dtype).min
        is_never = logits <= lowest
        is_never[:, self.mask_token_id] = True
        allowed = logits.masked_fill(is_never, float("-inf"))
        if sampling.is_plain:
            return allowed.log_softmax(dim=-1)
        is_removed = filter_logits(logits, sampling.temperature, sampling.top_p, sampling.top_k) <= lowest
        if sampling.temperature > 0:
            allowed = allowed / sampling.temperature
        return torch.where(is_removed, allowed - _REMOVED, allowed).log_softmax(dim=-1)

    def weights(self, sequences: torch.Tensor, is_open: torch.Tensor, log_probabilities: torch.Tensor, is_sum: bool):
        """Return the weight of each class of tokens at each position of the answers.

        Args:
            sequences (`torch.LongTensor` of shape `(rows, length)`):
                Token ids, masks included.
            is_open (`torch.BoolTensor` of shape `(rows, length)`):
                Positions to be written, of prompts, too.
            log_probabilities (`torch.Tensor` of shape `(open positions, vocabulary)`):
                Their distributions, row-major.
            is_sum (`bool`):
                Whether a class weighs as much as all its tokens together, or as its most probable token.

        Returns:
            `torch.Tensor` of shape `(rows, num_new_tokens, classes)`, float64, logarithms.
        """
        answer = self._answer(sequences)
        weights = self.automaton.fixed_weights(answer.masked_fill(answer == self.mask_token_id, -1))
        is_free = self._answer(is_open)
        in_answer = self._in_answer(is_open)
        weights[is_free] = self.automaton.class_weights(log_probabilities[in_answer], is_sum)
        return weights

    def marginals(
        self, sequences: torch.Tensor, is_open: torch.Tensor, logits: torch.Tensor, sampling: Sampling
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distribution of each open position in the restricted product.

        Args:
            sequences (`torch.LongTensor` of shape `(rows, length)`):
                Token ids, masks included.
            is_open (`torch.BoolTensor` of shape `(rows, length)`):
                Positions to be written.
            logits (`torch.Tensor` of shape `(open positions, vocabulary)`):
                Their predictions.
            sampling ([`Sampling`]):
                Temperature and filters.

        Returns:
            Logarithms of shape `(open positions, vocabulary)`, float32; and whether each row has a completion: in a
            row without any, distributions are as they are.
        """
        automaton, log_probabilities = self.automaton, self.log_probabilities(logits, sampling)
        weights = self.weights(sequences, is_open, log_probabilities, True)
        sums = completion_weights(automaton, weights, True)
        # Not a number counts as one here; the loop reports it.
        is_possible = ~sums[:, 0, automaton.initial].isneginf()
        found = factors(automaton, weights, sums)[self._answer(is_open)]
        favour = torch.logaddexp(found, found[:, automaton.any_class :])[:, automaton.class_of]
        in_answer = self._in_answer(is_open) & is_possible[is_open.nonzero(as_tuple=True)[0]]
        of_answer = in_answer[self._in_answer(is_open)]
        restricted = log_probabilities.clone()
        restricted[in_answer] += favour[of_answer].to(restricted.dtype)
        return restricted, is_possible

    def tokens(
        self, sequences: torch.Tensor, is_open: torch.Tensor, logits: torch.Tensor, noise: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the tokens of the most probable completion of each row, or of one that is drawn.

        Args:
            sequences (`torch.LongTensor` of shape `(rows, length)`):
                Token ids, masks included.
            is_open (`torch.BoolTensor` of shape `(rows, length)`):
                Positions to be written.
            logits (`torch.Tensor` of shape `(open positions, vocabulary)`):
                Their predictions.
            noise (`torch.Tensor` of shape `(open positions,)`, *optional*):
                Uniform numbers to draw with; by default the most probable completion is taken.

        Returns:
            `torch.LongTensor` of shape `(open positions,)`.
        """
        sampling = Sampling() if noise is None else self.settings
        log_probabilities = self.log_probabilities(logits, sampling)
        weights = self.weights(sequences, is_open, log_probabilities, noise is not None)
        completions = completion_weights(self.automaton, weights, noise is not None)
        uniform = None
        if noise is not None:
            spread = torch.full(is_open.shape, 0.5, dtype=torch.float64, device=noise.device)
            spread[is_open] = noise
            uniform = self._answer(spread)
        classes, left = walk(self.automaton, weights, completions, uniform)
        # Masks in the prompt may get any token.
        of_places = classes.new_full((len(logits),), self.automaton.any_class)
        in_answer, is_free = self._in_answer(is_open), self._answer(is_open)
        of_places[in_answer] = classes[is_free]
        is_any = (of_places == self.automaton.any_class)[:, None]
        is_of_class = is_any | (self.automaton.class_of == of_places[:, None])
        chosen = log_probabilities.masked_fill(~is_of_class, float("-inf"))
        if noise is None:
            return chosen.argmax(dim=-1)
        left_over = noise.clone()
        left_over[in_answer] = left[is_free]
        return inverse_transform((chosen.double() - chosen.amax(dim=-1, keepdim=True)).exp(), left_over)

    def _answer(self, values: torch.Tensor) -> torch.Tensor:
        """Return the columns of the answer."""
        start = self.settings.prompt_length
        return values[:, start : start + self.settings.num_new_tokens]

    def _in_answer(self, is_open: torch.Tensor) -> torch.Tensor:
        """Return which open positions lie in the answer and not in the prompt."""
        return is_open.nonzero(as_tuple=True)[1] >= self.settings.prompt_length


@dataclass
class ConstrainedPredictor(Predictor):
    """The predictions of a model, restricted to completions that match.

    Every step looks at all open positions, those of later blocks included. The strategy sees the marginals of the
    product of their distributions, restricted to what the automaton accepts; the tokens that it may write are those of
    one completion, so that after every step a completion is left. Probes are restricted in the same way. Logits
    processors are called for all open positions.

    Args:
        constraint ([`Constraint`], *optional*):
            What must match; always given.
        open_positions (`Callable`, *optional*):
            Returns the positions of a state that are still to be written; always given.
    """

    constraint: Constraint = None  # type: ignore[assignment]
    open_positions: Callable[[DecodingState], torch.Tensor] = None  # type: ignore[assignment]
    _is_open: torch.Tensor = field(init=False, repr=False)
    _tokens: torch.Tensor = field(init=False, repr=False)
    _processors: LogitsProcessorList | None = field(init=False, repr=False, default=None)

    def __post_init__(self):
        super().__post_init__()
        # What the parent class reads as logits is already restricted, with temperature and filters.
        self._scored_before, self.scored = self.scored, Sampling()

    def step(
        self,
        state: DecodingState,
        candidates: torch.Tensor,
        index: CandidateIndex,
        logits_processor: LogitsProcessorList | None = None,
        written: torch.Tensor | None = None,
        in_block: torch.Tensor | None = None,
    ) -> DenoisingStep:
        self._processors = logits_processor
        return super().step(state, candidates, index, None, written, in_block)

    def probe(self, sequences: torch.Tensor, rows: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        # What a probe reveals stands fixed; at such a position the prediction is not restricted.
        is_free = self._is_open[rows] & (sequences == self.backbone.mask_token_id)
        is_wide = asked | is_free
        logits = self.backbone.predict(self._request(sequences, is_wide, rows)).logits
        restricted, _ = self.constraint.marginals(sequences, is_free, logits[is_free[is_wide]], self._scored_before)
        logits = self._scored_before.probabilities(logits).log()
        logits[is_free[is_wide]] = restricted
        logits = logits[asked[is_wide]]
        if self.ending is not None and self._is_lowered is not None:
            is_lowered = self._is_lowered[rows][asked.nonzero(as_tuple=True)[0]]
            logits = torch.where(is_lowered[:, None], self.ending.lowered(logits), logits)
        return logits.softmax(dim=-1)

    def _forward(
        self,
        state: DecodingState,
        candidates: torch.Tensor,
        index: CandidateIndex,
        is_whole: bool,
        written: torch.Tensor | None,
    ) -> tuple[Prediction, dict[str, Any], torch.Tensor | None]:
        is_open = self._is_open = self.open_positions(state) & candidates.any(dim=-1, keepdim=True)
        every = CandidateIndex.of(is_open)
        prediction, observed, reviewed = super()._forward(state, is_open, every, True, written)
        if not every.host_active:
            self._tokens = every.rows
            return prediction, observed, reviewed
        mask, rows = self.backbone.mask_token_id, every.rows
        logits = prediction.logits
        logits = processed_logits(self._processors, state.sequences[rows], rows, self.attention_mask, mask, logits)
        active = every.active
        restricted, is_possible = self.constraint.marginals(
            state.sequences[active], is_open[active], logits, self._scored_before
        )
        if not is_possible.all():
            raise ValueError(
                "`constraint` must leave a completion of every answer, got none where logits processors forbid tokens."
            )
        noise = self._noise(state, every.rows, every.columns)
        tokens = self.constraint.tokens(state.sequences[active], is_open[active], logits, noise)
        is_candidate = candidates[every.rows, every.columns]
        self._tokens = tokens[is_candidate]
        states = prediction.hidden_states
        if "hidden_states" in self.needs:
            # A head was trained with what the model itself is sure of.
            observed["model_certainty"] = certainty(self._scored_before.probabilities(logits[is_candidate]))
        states = states if states is None else states[is_candidate.to(states.device)]
        return Prediction(restricted[is_candidate], states), observed, reviewed

    def _chosen(self, part: slice, *unused: Any) -> torch.Tensor:
        return self._tokens[part]

    def _review(
        self, state: DecodingState, written: torch.Tensor, logits: torch.Tensor, _: LogitsProcessorList | None
    ) -> Any:
        plain = Predictor(self.backbone, self.sampling, self._scored_before, attention_mask=self.attention_mask)
        return plain._review(state, written, logits, self._processors)
