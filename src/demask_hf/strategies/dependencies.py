"""Where `demask` takes its dependencies from: the head, or probe forwards that measure them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..functional.probes import measure_dependencies
from .base import Compiled
from .needs import Need
from .step import DenoisingStep


# Threads that share a head wait until it is moved as a whole.
_MOVING = threading.Lock()


@dataclass(frozen=True)
class HeadDependencies:
    """`D[source, target]` as the model's dependency head predicts it."""

    head: torch.nn.Module
    predict: Callable[..., Any]

    needs: ClassVar[frozenset[Need]] = frozenset({"hidden_states", "entropy"})

    @classmethod
    def of(cls, model: torch.nn.Module, compiled: Compiled, estimator: str = "expectation") -> "HeadDependencies":
        """Return the dependencies of a model's head, which has one estimate.

        Raises:
            ValueError: if the model has no head.
        """
        head = getattr(model, "demask_head", None)
        if head is None:
            raise ValueError(
                "`strategy='demask'` must have a dependency head, got a model without one: load one with "
                "`model.load_demask_head(repository_or_folder)`, or pass `dependencies='exact'` to measure "
                "dependencies with extra forwards."
            )
        return cls(head, compiled(head))

    @property
    def certificate(self) -> dict[str, Any] | None:
        """Certificate of the head; `None` if there is none."""
        # A head loaded with the code of an older repository has no such field.
        return getattr(self.head.config, "certificate", None)

    def __call__(self, step: DenoisingStep, is_position: torch.Tensor) -> torch.Tensor:
        """Return dependencies of shape `(rows, positions, positions)`."""
        index, states = step.index, step.given("hidden_states")
        # If the backbone is spread over devices, the head moves to the device of the hidden states.
        with _MOVING:
            if next(self.head.parameters()).device != states.device:
                self.head.to(states.device)
        inputs = {"positions": index.padded(step.positions[step.rows, step.columns])}
        if not index.is_full:
            inputs["is_position"] = is_position
        if getattr(self.head.config, "reads_certainty", False):
            inputs["certainty"] = index.padded(step.certainty)
        inputs = {name: tensor.to(states.device) for name, tensor in inputs.items()}
        return self.predict(index.padded(states), **inputs).dependencies.to(index.ranks.device)


@dataclass(frozen=True)
class ExactDependencies:
    """`D[source, target]` measured with probe forwards."""

    estimator: str
    certificate: None = None

    needs: ClassVar[frozenset[Need]] = frozenset({"probabilities"})

    @classmethod
    def of(cls, model: torch.nn.Module, compiled: Compiled, estimator: str = "expectation") -> "ExactDependencies":
        """Return dependencies measured with an estimator; works with any model."""
        return cls(estimator)

    def __call__(self, step: DenoisingStep, is_position: torch.Tensor) -> torch.Tensor:
        """Return dependencies of shape `(rows, positions, positions)`."""
        probabilities = step.given("probabilities")
        measured = measure_dependencies(
            step.forward, step.sequences, step.candidates, probabilities, step.mask_token_id, self.estimator
        )
        step.ledger.num_probe_passes += measured.num_probes
        torch.maximum(step.ledger.uncovered_mass, measured.uncovered_mass, out=step.ledger.uncovered_mass)
        return measured.dependencies[step.index.active]


Source = HeadDependencies | ExactDependencies
#: Sources by the name that `demask` has for them.
SOURCES: dict[str, type[Source]] = {"head": HeadDependencies, "exact": ExactDependencies}
