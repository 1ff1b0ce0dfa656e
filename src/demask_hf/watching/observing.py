"""A strategy that looks on while another one decodes: the base of what records a decoding."""

from dataclasses import dataclass, field

import torch

from ..strategies import Decision, DenoisingStep, Drafts, UnmaskingStrategy, WrappingStrategy
from ..strategies.needs import Need
from .reasons import Choice, Walk


@dataclass
class ObservingStrategy(WrappingStrategy):
    """Decode with a strategy and keep what it saw and chose in the last step; it changes nothing that it does.

    It needs whole distributions. Its subclasses are called after every step, as one of the loop's `on_step`.

    Args:
        strategy ([`UnmaskingStrategy`]):
            The strategy that decodes.
    """

    strategy: UnmaskingStrategy
    _walk: Walk | None = field(default=None, init=False, repr=False)
    _choice: Choice | None = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:  # type: ignore[override]
        # A strategy need not be registered.
        return getattr(self.strategy, "name", type(self.strategy).__name__)

    @property
    def wrapped(self) -> tuple[UnmaskingStrategy, ...]:
        return (self.strategy,)

    @property
    def needs(self) -> frozenset[Need]:
        return super().needs | {"probabilities"}

    def select(self, step: DenoisingStep) -> torch.Tensor | Decision:
        self._walk = None
        decision = self.strategy.select(step)
        selected = decision.selected if isinstance(decision, Decision) else decision
        self._choice = Choice(step, selected, start_of(step.positions), self._walk)
        return decision

    @property
    def num_versions(self) -> int:
        return self.strategy.num_versions

    def drafts(self, step: DenoisingStep, selected: torch.Tensor) -> Drafts | None:
        if self.strategy.num_versions > 1:
            # `select` saw all versions of the row; this is the one that it moved to.
            self._choice = Choice(step, selected, start_of(step.positions), self._walk)
        return self.strategy.drafts(step, selected)

    def accepts(self, drafts: torch.Tensor, outcomes: torch.Tensor, num_steps: torch.Tensor) -> torch.Tensor:
        return self.strategy.accepts(drafts, outcomes, num_steps)

    def _take_choice(self) -> Choice | None:
        """Return what the strategy saw in this step; `None` in a step without candidates."""
        choice, self._choice = self._choice, None
        return choice


def start_of(positions: torch.Tensor) -> int:
    """Return the first column of the only row that is not padding."""
    return positions.shape[1] - 1 - int(positions[0, -1])
