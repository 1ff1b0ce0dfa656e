"""What a strategy sees of one denoising step."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from ..functional.candidates import CandidateIndex
from ..functional.dependency import ranks
from ..functional.distributions import certainty_of, score_of
from ..functional.probes import Predict
from ..functional.sampling import uniform_noise
from .canvas import Canvas
from .decision import Review


# What a step holds for each candidate, and for each row, as tensors.
_OF_CANDIDATES = ("probabilities", "tokens", "hidden_states", "postponed")
_OF_ROWS = (
    *("sequences", "positions", "step_index", "block_step_index", "num_block_steps", "seeds"),
    *("attentions", "context_confidence", "logit_gaps", "in_block", "written"),
)


@dataclass
class ProbeLedger:
    """What probe forwards cost, summed over the steps of a `generate` call.

    Args:
        num_probe_passes (`torch.LongTensor` of shape `(batch,)`):
            Probe forwards spent on each row; they are not counted as forward passes.
        uncovered_mass (`torch.Tensor` of shape `(batch,)`):
            Largest probability mass that the probes of a row did not cover, in [0, 1].
    """

    num_probe_passes: torch.Tensor
    uncovered_mass: torch.Tensor


@dataclass(frozen=True)
class DenoisingStep:
    """What a strategy sees of one denoising step. Tensors of `num_candidates` rows are row-major over `candidates`.

    Args:
        sequences (`torch.LongTensor` of shape `(batch, length)`):
            Token ids, masks included.
        candidates (`torch.BoolTensor` of shape `(batch, length)`):
            Positions that may be unmasked now; none in finished rows.
        positions (`torch.LongTensor` of shape `(batch, length)`):
            Position of each column counted from the first real token of its row.
        probabilities (`torch.Tensor` of shape `(num_candidates, vocabulary)`, *optional*):
            Predictions after logits processors, temperature and filters, mask token included, float32; for strategies
            that need "probabilities".
        tokens (`torch.LongTensor` of shape `(num_candidates,)`):
            Token that would be written at each candidate.
        step_index (`torch.LongTensor` of shape `(batch,)`):
            Number of forward passes of the row before this one.
        block_step_index (`torch.LongTensor` of shape `(batch,)`):
            The same, within the row's current block.
        num_block_steps (`torch.LongTensor` of shape `(batch,)`):
            Steps planned for the row's current block, for strategies that follow a schedule.
        seeds (`torch.LongTensor` of shape `(batch,)`):
            Seed of each row.
        mask_token_id (`int`):
            Id of the mask token.
        forward (`Callable`):
            Probe forward: maps sequences of shape `(probes, length)`, the batch row of each and the requested
            positions to probabilities, filtered like those above (except for logits processors, which run once per
            step).
        ledger ([`ProbeLedger`]):
            Where the cost of probe forwards is recorded.
        hidden_states (`torch.Tensor` of shape `(num_candidates, hidden_size)`, *optional*):
            Final hidden states used to predict the candidates; for strategies that need "hidden_states".
        attentions (`torch.Tensor` of shape `(batch, length, length)`, *optional*):
            Attention of each query (first) to each key, averaged over heads and the last layers; float32 in [0, 1], 0
            at padding and in finished rows. For strategies that need [`LastLayers`].
        context_confidence (`torch.Tensor` of shape `(batch, length)`, *optional*):
            Probability of the most likely token that the model would predict now at positions that are visible
            already, filtered like `probabilities`; 0 elsewhere. For strategies that need "context_confidence".
        written (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
            Positions that this call wrote before, up to the end of their row; none in finished rows. For strategies
            that remask.
        review ([`Review`], *optional*):
            What the model predicts now at the positions that are written; for strategies that need "review".
        logit_gaps (`torch.Tensor` of shape `(batch, length)`, *optional*):
            Largest logit minus the second largest one where a strategy needs it, see [`AnswerGaps`]; 0 elsewhere.
        canvas ([`Canvas`], *optional*):
            The current block as the model sees it, noise included; for strategies that need "canvas", which also say
            what the next step sees. Not for `of_rows` and `among`, which leave it whole.
        in_block (`torch.BoolTensor` of shape `(batch, length)`, *optional*):
            The row's current block, for strategies that select in all blocks; the candidates are those of all.
        postponed (`torch.BoolTensor` of shape `(num_candidates,)`, *optional*):
            Candidates that the loop keeps from the strategy in this step, see `eos_penalty` of `generate`.
        model_certainty (`torch.Tensor` of shape `(num_candidates, 2)`, *optional*):
            Confidence and entropy of what the model itself predicts, where `probabilities` are those under a
            `constraint`; read `certainty`.
        known_num_masked (`torch.LongTensor` of shape `(batch,)`, *optional*):
            Candidates of each row before some were left out; read `num_masked`.
        known_index ([`CandidateIndex`], *optional*):
            Places of the candidates, if known; read `index`, which computes them otherwise.
        known_scores (`dict[str, torch.Tensor]`, *optional*):
            Scores that are already computed; read them with `score`, which computes others.
    """

    sequences: torch.Tensor
    candidates: torch.Tensor
    positions: torch.Tensor
    probabilities: torch.Tensor | None
    tokens: torch.Tensor
    step_index: torch.Tensor
    block_step_index: torch.Tensor
    num_block_steps: torch.Tensor
    seeds: torch.Tensor
    mask_token_id: int
    forward: Predict
    ledger: ProbeLedger
    hidden_states: torch.Tensor | None = None
    attentions: torch.Tensor | None = None
    context_confidence: torch.Tensor | None = None
    written: torch.Tensor | None = None
    review: Review | None = None
    logit_gaps: torch.Tensor | None = None
    canvas: Canvas | None = None
    in_block: torch.Tensor | None = None
    postponed: torch.Tensor | None = None
    model_certainty: torch.Tensor | None = None
    known_num_masked: torch.Tensor | None = None
    known_index: CandidateIndex | None = None
    known_scores: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def is_real(self) -> torch.Tensor:
        """Which columns are not left padding, shape `(batch, length)`."""
        columns = torch.arange(self.positions.shape[1], device=self.positions.device)
        return columns >= columns.numel() - 1 - self.positions[:, -1:]

    @property
    def num_masked(self) -> torch.Tensor:
        """Masked positions of each row's block, those that must wait included, shape `(batch,)`."""
        return self.candidates.sum(dim=-1) if self.known_num_masked is None else self.known_num_masked

    @cached_property
    def index(self) -> CandidateIndex:
        """Places of the candidates; the loop provides them, so no synchronisation is needed."""
        return CandidateIndex.of(self.candidates) if self.known_index is None else self.known_index

    @property
    def certainty(self) -> torch.Tensor:
        """Confidence and entropy of the model's own predictions, as a head reads them, `(num_candidates, 2)`."""
        known = self.model_certainty
        return certainty_of(self.score("confidence"), self.score("entropy")) if known is None else known

    @property
    def rows(self) -> torch.Tensor:
        """Batch row of each candidate, shape `(num_candidates,)`."""
        return self.index.rows

    @property
    def columns(self) -> torch.Tensor:
        """Column of each candidate, shape `(num_candidates,)`."""
        return self.index.columns

    def score(self, name: str) -> torch.Tensor:
        """Return a score of each candidate's prediction, shape `(num_candidates,)`.

        Args:
            name (`str`):
                "confidence" (of the most likely token), "entropy" (in nats), "margin" (between the two most likely
                tokens) or "token_probability" (of the token that would be written).

        Raises:
            KeyError: if the strategy's `needs` do not name it.
        """
        if name not in self.known_scores:
            if self.probabilities is None:
                raise KeyError(f"`needs` of the strategy must name {name!r}, got {', '.join(self.known_scores)}.")
            self.known_scores[name] = score_of(name, self.probabilities, self.tokens)
        return self.known_scores[name]

    def given(self, name: str) -> Any:
        """Return what the loop computes only for strategies that need it.

        Args:
            name (`str`):
                "probabilities", "hidden_states", "attentions", "context_confidence", "review", "logit_gaps",
                "canvas", or "written".

        Raises:
            KeyError: if the strategy's `needs` do not name it.
        """
        value = getattr(self, name)
        if value is None:
            need = {"attentions": "LastLayers", "logit_gaps": "AnswerGaps"}.get(name, repr(name))
            if name == "written":
                raise KeyError("`remasks` of the strategy must be True to read `step.written`, got a step without it.")
            raise KeyError(f"`needs` of the strategy must hold {need} to read `step.{name}`, got a step without it.")
        return value

    def noise(self, stream: int) -> torch.Tensor:
        """Return a uniform number per candidate, shape `(num_candidates,)`; strategies may use streams from 1 on."""
        return uniform_noise(
            self.seeds[self.rows], self.step_index[self.rows], self.positions[self.rows, self.columns], stream
        )

    def at_positions(self, values: torch.Tensor, fill: float | bool) -> torch.Tensor:
        """Write values of the candidates into a tensor of shape `(batch, length)`, with `fill` elsewhere."""
        spread = torch.full(self.candidates.shape, fill, dtype=values.dtype, device=values.device)
        spread[self.rows, self.columns] = values
        return spread

    def among(self, candidates: torch.Tensor) -> "DenoisingStep":
        """Return the step with fewer candidates; their places are looked up, which waits for the device.

        Args:
            candidates (`torch.BoolTensor` of shape `(batch, length)`):
                A subset of the candidates.
        """
        kept = candidates[self.rows, self.columns].nonzero().squeeze(-1)
        states = self.hidden_states
        return replace(
            self,
            candidates=candidates,
            probabilities=None if self.probabilities is None else self.probabilities[kept],
            known_scores={name: scores[kept] for name, scores in self.known_scores.items()},
            tokens=self.tokens[kept],
            hidden_states=None if states is None else states[kept.to(states.device)],
            postponed=None if self.postponed is None else self.postponed[kept],
            model_certainty=None if self.model_certainty is None else self.model_certainty[kept],
            known_num_masked=self.num_masked,
            known_index=None,
        )

    def of_rows(self, rows: torch.Tensor) -> "DenoisingStep":
        """Return the step of some rows; the places of their candidates are looked up, which waits for the device.

        Args:
            rows (`torch.LongTensor` of shape `(num_rows,)`):
                The rows, in the order in which they are wanted.
        """
        candidates = self.candidates[rows]
        kept = self.at_positions(torch.arange(len(self.tokens), device=rows.device), -1)[rows][candidates]
        chosen: dict[str, Any] = {"candidates": candidates, "known_num_masked": self.num_masked[rows]}
        for names, index in ((_OF_CANDIDATES, kept), (_OF_ROWS, rows)):
            for name in names:
                value = getattr(self, name)
                chosen[name] = None if value is None else value[index.to(value.device)]
        if self.review is not None:
            seen = self.review.kept_probability, self.review.tokens, self.review.token_probability
            chosen["review"] = Review(*(values[rows] for values in seen))
        scores = {name: values[kept] for name, values in self.known_scores.items()}
        return replace(self, known_index=None, known_scores=scores, **chosen)

    def best(self, scores: torch.Tensor, counts: torch.Tensor | int) -> torch.Tensor:
        """Select the candidates with the highest scores in each row; ties go to the earlier position.

        Args:
            scores (`torch.Tensor` of shape `(num_candidates,)`):
                Score of each candidate.
            counts (`torch.LongTensor` of shape `(batch,)` or `int`):
                How many to select in each row.

        Returns:
            `torch.BoolTensor` of shape `(batch, length)`.
        """
        limits = counts.view(-1, 1) if isinstance(counts, torch.Tensor) else counts
        return self.candidates & (self.rank(scores) < limits)

    def rank(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the rank of each candidate in its row, 0 for the highest score, shape `(batch, length)`."""
        return ranks(self.at_positions(scores.double(), float("-inf")))
