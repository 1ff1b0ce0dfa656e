"""DEMASK: a maximal set of positions whose predicted dependencies on each other stay below a bound."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..functional.dependency import DEPENDENCY_ORDERS, RULES
from ..functional.partition import SELECTIONS
from ..functional.probes import ESTIMATORS
from ..head.certificate import warn_of_differences
from ..validation import check_choice, check_count, check_flag, check_interval
from .base import Compiled, UnmaskingStrategy, as_it_is, register_strategy
from .dependencies import SOURCES, Source
from .needs import Need
from .sequential import needs_of_order, position_scores, scores_of_walk
from .settings import DecodingSettings
from .step import DenoisingStep


# Used if neither the caller nor the checkpoint nor the head's certificate sets a bound.
DEFAULT_DEPENDENCY_BOUND = 0.06
ORDERS = ("confidence", "entropy", "margin", "token_probability", *DEPENDENCY_ORDERS)


@register_strategy("demask")
@dataclass
class DemaskStrategy(UnmaskingStrategy):
    r"""Walk the positions by confidence and unmask each whose dependency on those taken so far allows it.

    See [`~dependency.low_dependency_subset`] for the rules. The bound on total variation that they imply holds per
    step and state, for the joint in selection order, if dependencies are sub-additive and not underestimated. It is
    void at temperature 0 and with `order="token_probability"`, which looks at drawn tokens (DEMASK, arXiv
    2604.02560).

    Args:
        dependency_bound (`float`, *optional*):
            Upper limit of the rule, in total variation, at least 0. By default the certified bound of the head (see
            `demask-hf calibrate`), or else 0.06.
        rule (`str`, *optional*, defaults to `"token"`):
            "total" bounds the sum over all pairs, "token" the sum over the sources of one position, "norm" the root
            of the sum of their squares, "max" each pair.
        symmetric (`bool`, *optional*, defaults to `False`):
            Use the larger of the two directions of a pair.
        order (`str`, *optional*, defaults to `"confidence"`):
            Order of the walk: "confidence", "entropy", "margin", "token_probability" (of the drawn token),
            "influence": positions on which others depend first, see [`~dependency.net_influence`], or "degree":
            positions with the largest dependencies in both directions first, see [`~dependency.degree`].
        selection (`str`, *optional*, defaults to `"walk"`):
            "walk" unmasks every position along the walk that the rule allows, "partition" parts all positions
            into as few sets as the rule allows, and unmasks the first of these in the same order, by the mean of its
            positions, see [`~partition.best_set`].
        confidence_threshold (`float`, *optional*, defaults to 0.0):
            Positions below it wait for a later step, except for the first one of the walk; in [0, 1].
        dependencies (`str`, *optional*, defaults to `"head"`):
            "head" predicts them with the loaded dependency head; "exact" measures them with many probe forwards, which
            are reported as `num_probe_passes`.
        estimator (`str`, *optional*, defaults to `"expectation"`):
            For "exact": "expectation" over the tokens of the source, or "argmax", its most likely token only.
        max_candidates (`int`, *optional*):
            Consider only this many positions of each row, the first ones of the walk, or with "influence" and "degree"
            the most confident ones; the others wait. The cost of the dependencies grows with the square of their
            number.

    Example:

    Each pair of digits has a given sum. The head finds that only the two digits of a pair depend on each other, so
    one of each pair is unmasked, then the other:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM, head=demask_hf.TINY_DEMASK)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="demask", return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer), sep="\n")
    1+_, _+9, 1+_, 9+9, _+2, _+6
    1+6, 3+9, 1+4, 9+9, 1+2, 5+6

    ```
    """

    dependency_bound: float | None = None
    rule: str = "token"
    symmetric: bool = False
    order: str = "confidence"
    selection: str = "walk"
    confidence_threshold: float = 0.0
    dependencies: str = "head"
    estimator: str = "expectation"
    max_candidates: int | None = None
    # Called in every step with what the walk is decided from: the step, dependencies, scores and eligible positions.
    on_walk: Callable[[DenoisingStep, torch.Tensor, torch.Tensor, torch.Tensor], None] | None = field(
        default=None, init=False, repr=False, compare=False
    )
    _source: Source | None = field(default=None, init=False, repr=False, compare=False)
    _certified_bound: float | None = field(default=None, init=False, repr=False, compare=False)
    _walks_row_by_row: bool = field(default=False, init=False, repr=False, compare=False)
    _costs: "torch.Tensor | None" = field(default=None, init=False, repr=False, compare=False)
    _keeps_costs: bool = field(default=False, init=False, repr=False, compare=False)

    @property
    def sequential_order(self) -> str:
        return self.order

    @property
    def needs(self) -> frozenset[Need]:
        return needs_of_order(self._order_before) | SOURCES[self.dependencies].needs

    @property
    def _order_before(self) -> str:
        """The order of positions while their dependencies are not known."""
        return "confidence" if self.order in DEPENDENCY_ORDERS else self.order

    def __post_init__(self):
        if self.dependency_bound is not None:
            check_interval("dependency_bound", self.dependency_bound, 0, infinite=True)
        check_choice("rule", self.rule, RULES)
        check_flag("symmetric", self.symmetric)
        check_choice("order", self.order, ORDERS)
        check_choice("selection", self.selection, tuple(SELECTIONS))
        check_interval("confidence_threshold", self.confidence_threshold, 0, 1)
        check_choice("dependencies", self.dependencies, tuple(SOURCES))
        check_choice("estimator", self.estimator, ESTIMATORS)
        if self.max_candidates is not None:
            check_count("max_candidates", self.max_candidates)

    @property
    def limit(self) -> float:
        """The bound in use: the given one, else the certified one of the head, else the default."""
        known = (self.dependency_bound, self._certified_bound, DEFAULT_DEPENDENCY_BOUND)
        return next(bound for bound in known if bound is not None)

    @property
    def certificate(self) -> dict[str, Any] | None:
        """Certificate of the head, once the strategy is bound; `None` if there is none."""
        return None if self._source is None else self._source.certificate

    def certified_settings(self, model: torch.nn.Module, settings: DecodingSettings) -> dict[str, Any]:
        """Return the settings of a decoding under the names that a certificate uses.

        Args:
            model (`torch.nn.Module`):
                The backbone, for its revision.
            settings ([`DecodingSettings`]):
                How it decodes.
        """
        return {
            "dependency_bound": self.limit,
            **{name: getattr(self, name) for name in ("rule", "symmetric", "order", "selection")},
            "confidence_threshold": self.confidence_threshold,
            **{name: getattr(settings, name) for name in ("temperature", "top_p", "top_k", "scores", "block_length")},
            "eos_penalty": settings.eos_penalty,
            **{
                name: getattr(settings, name)
                for name in ("block_cache", "cache_refresh_interval", "cache_commits_first")
            },
            "backbone_revision": getattr(getattr(model, "config", None), "_commit_hash", None),
        }

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        self._source = SOURCES[self.dependencies].of(model, compiled, self.estimator)
        self._walks_row_by_row = settings is not None and settings.batch_invariant
        certificate = self.certificate
        self._certified_bound = (certificate or {}).get("dependency_bound")
        if certificate is not None and settings is not None:
            warn_of_differences(certificate, self.certified_settings(model, settings))

    def select(self, step: DenoisingStep) -> torch.Tensor:
        source, step = self._bound_source(), self._looked_at(step)
        # Rows with candidates, padded to the longest: entry k of a row is its k-th candidate.
        index = step.index
        is_position = index.padded(torch.ones_like(index.ranks, dtype=torch.bool))
        dependencies = source(step, is_position)
        scores = scores_of_walk(step, self.order, dependencies, is_position)
        eligible = is_position
        if self.confidence_threshold > 0:
            eligible = index.padded(step.score("confidence") >= self.confidence_threshold)
            first = scores.masked_fill(~is_position, float("-inf")).argmax(dim=-1, keepdim=True)
            eligible = (eligible | torch.zeros_like(eligible).scatter(-1, first, True)) & is_position
        if self.on_walk is not None:
            self.on_walk(step, dependencies, scores, eligible)
        kept = self._walked(dependencies, scores, eligible, is_position)
        if self._keeps_costs:
            costs = (dependencies * kept[:, :, None]).sum(dim=1)
            self._costs = step.at_positions(index.flat(costs.masked_fill(~kept, 0.0)), 0.0)
        return step.at_positions(index.flat(kept), False)

    def keep_costs(self) -> None:
        """Let `costs` be known after every selection."""
        self._keeps_costs = True

    @property
    def costs(self) -> torch.Tensor:
        """Summed dependencies of each position that was selected last on the others, shape `(batch, length)`."""
        if self._costs is None:
            raise RuntimeError("`keep_costs` must be called before `select` to know the costs, got none.")
        return self._costs

    def walk_scores(self, step: DenoisingStep) -> torch.Tensor:
        """Return the score of each candidate in the order of the walk, higher first, shape `(num_candidates,)`.

        Candidates that are not considered have the lowest one. With the orders "influence" and "degree" dependencies
        are predicted, or measured, for it.
        """
        looked = self._looked_at(step)
        if self.order in DEPENDENCY_ORDERS:
            is_position = looked.index.padded(torch.ones_like(looked.index.ranks, dtype=torch.bool))
            dependencies = self._bound_source()(looked, is_position)
            scores = looked.index.flat(DEPENDENCY_ORDERS[self.order](dependencies, is_position))
        else:
            scores = position_scores(looked, self.order)
        return looked.at_positions(scores.double(), float("-inf"))[step.rows, step.columns]

    def dependencies_of(self, step: DenoisingStep) -> torch.Tensor:
        """Return the dependencies among all candidates of a step, `D[source, target]`.

        Returns:
            `torch.Tensor` of shape `(active rows, positions, positions)`, padded as in `step.index`.
        """
        return self._bound_source()(step, step.index.padded(torch.ones_like(step.index.ranks, dtype=torch.bool)))

    def _bound_source(self) -> Source:
        """Return where dependencies come from, which `bind` chose."""
        if self._source is None:
            raise RuntimeError("`bind` must be called before `select`, got a strategy without a model.")
        return self._source

    def _looked_at(self, step: DenoisingStep) -> DenoisingStep:
        """Return the step with the candidates to consider."""
        if self.max_candidates is None or step.index.width <= self.max_candidates:
            return step
        return step.among(step.best(position_scores(step, self._order_before), self.max_candidates))

    def _walked(
        self, dependencies: torch.Tensor, scores: torch.Tensor, eligible: torch.Tensor, is_position: torch.Tensor
    ) -> torch.Tensor:
        """Return the positions to keep, of the shape of `scores`."""
        rule, select = (self.limit, self.rule, self.symmetric), SELECTIONS[self.selection]
        if not self._walks_row_by_row:
            return select(dependencies, scores, eligible, *rule)
        kept = torch.zeros_like(eligible)
        for row, width in enumerate(is_position.sum(dim=-1).tolist()):
            own = (slice(row, row + 1), slice(width))
            kept[own] = select(dependencies[own][:, :, :width], scores[own], eligible[own], *rule)
        return kept
