"""DAWN: confident positions, positions that attend to confident ones, and others that do not attend to each other."""

from dataclasses import dataclass

import torch

from ..functional.dependency import low_dependency_subset
from ..validation import check_count, check_interval
from .base import UnmaskingStrategy, register_strategy
from .needs import LastLayers, Need
from .step import DenoisingStep


@register_strategy("dawn")
@dataclass
class DawnStrategy(UnmaskingStrategy):
    r"""Unmask confident positions, those induced by visible ones, and an independent set of the attention graph.

    The graph comes from the attention `A[query, key]` of the last layers (DAWN, arXiv 2602.06953, as in its public
    code). A key that receives more than `sink_threshold` on average over all queries is a sink and has no edges;
    otherwise there is an edge from key to query if `A[query, key] >= edge_threshold`. With the confidence of a
    position as the probability of its most likely token, the step unmasks

    1. anchors: confidence at least `anchor_threshold`;
    2. induced positions: confidence at least `induced_threshold`, with an edge from a visible position that the model
       would predict now with at least `anchor_threshold`;
    3. of the positions with confidence from `confidence_threshold` up to `anchor_threshold` that are not induced and
       have no edge from an anchor that is induced itself, in descending order of confidence, each without an edge from
       or to one taken before;

    or else the most confident position. For each neighbour that the third group drops, the public code makes one
    superfluous selection, which rewrites the first token of the prompt; here only masks are ever written. Its scripts
    for Dream-Instruct use `confidence_threshold=0.8`, `induced_threshold=0.75`, `sink_threshold=0.03` and
    `edge_threshold=0.1`. The mean of a column is 1 / length on average, so `sink_threshold` must grow for short texts.

    Args:
        confidence_threshold (`float`, *optional*, defaults to 0.7):
            Lowest confidence of the third group, in [0, 1].
        anchor_threshold (`float`, *optional*, defaults to 0.9):
            Lowest confidence of anchors, and of visible positions that induce others, in (0, 1].
        induced_threshold (`float`, *optional*, defaults to 0.9):
            Lowest confidence of induced positions, in [0, 1].
        sink_threshold (`float`, *optional*, defaults to 0.01):
            Mean attention above which a key is a sink, in [0, 1].
        edge_threshold (`float`, *optional*, defaults to 0.07):
            Lowest attention of an edge, in (0, 1].
        num_layers (`int`, *optional*, defaults to 4):
            Number of last layers that the attention is averaged over, at least 1.

    Example:

    Each pair of digits has a given sum. With limits made for long texts it is cautious here:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="dawn", return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer)[:5], sep="\n")
    _+_, _+_, _+_, 9+9, _+_, _+_
    _+_, _+_, _+_, 9+9, _+2, _+_
    _+_, _+_, _+_, 9+9, 1+2, _+_
    _+_, _+_, 1+_, 9+9, 1+2, _+_
    _+_, _+_, 1+4, 9+9, 1+2, _+_

    ```
    """

    confidence_threshold: float = 0.7
    anchor_threshold: float = 0.9
    induced_threshold: float = 0.9
    sink_threshold: float = 0.01
    edge_threshold: float = 0.07
    num_layers: int = 4

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({LastLayers(count=self.num_layers), "context_confidence"})

    def __post_init__(self):
        for field in ("confidence_threshold", "induced_threshold", "sink_threshold"):
            check_interval(field, getattr(self, field), 0, 1)
        for field in ("anchor_threshold", "edge_threshold"):
            check_interval(field, getattr(self, field), 0, 1, open_low=True)
        check_count("num_layers", self.num_layers)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        certainty = step.score("confidence")
        scores = step.at_positions(certainty, 0.0)
        # Of shape (batch, query, key): True where there is an edge from key to query.
        edges = self._edges(step)
        is_inducing = step.given("context_confidence") >= self.anchor_threshold
        is_induced = step.candidates & _has_edge_from(is_inducing, edges) & (scores >= self.induced_threshold)
        is_anchor = step.candidates & (scores >= self.anchor_threshold)
        is_third = step.candidates & (scores >= self.confidence_threshold) & ~is_anchor & ~is_induced
        is_third = is_third & ~_has_edge_from(is_anchor & is_induced, edges)
        is_independent = low_dependency_subset(edges.float(), scores, is_third, 0.0, "max", symmetric=True)
        selected = is_anchor | is_induced | is_independent
        return selected | (step.best(certainty, 1) & ~selected.any(dim=-1, keepdim=True))

    def _edges(self, step: DenoisingStep) -> torch.Tensor:
        attentions = step.given("attentions")
        # Padding attends to nothing here, so the sum runs over the real queries; in double precision its zeros cannot
        # change how it is rounded.
        received = attentions.sum(dim=1, dtype=torch.float64) / step.is_real.sum(dim=-1, keepdim=True)
        return (attentions >= self.edge_threshold) & (received <= self.sink_threshold)[:, None, :]


def _has_edge_from(sources: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    return (edges & sources[:, None, :]).any(dim=-1)
