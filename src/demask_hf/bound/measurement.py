"""One set of positions: its measured factorisation error and the sum of dependencies that should bound it."""

import dataclasses
from dataclasses import dataclass
from random import Random

import torch

from ..backbones.prediction import PredictionRequest
from ..evaluation.statistics import Interval, empirical_bernstein
from ..functional.distributions import certainty
from ..functional.probes import MeasuredDependencies, Predict, measure_dependencies
from ..generation.predictor import Predictor
from ..head.modeling_demask import DemaskHead
from ..validation import check_count, check_interval
from .joint import ExactError, OrderedSet, draw_from_joint, exact_error, order_distances, sampled_errors


# Differences of total variation that are ignored: mass omitted by enumeration, and rounding.
RESOLUTION = 1e-3


@dataclass(frozen=True)
class VerificationSettings:
    """How sets are measured.

    Args:
        num_draws (`int`, *optional*, defaults to 256):
            Monte Carlo draws for sets that are too large to enumerate, and for comparing orders; at least 2.
        max_continuations (`int`, *optional*, defaults to 512):
            Enumerate a set exactly if at most this many continuations of each length are needed.
        num_orders (`int`, *optional*, defaults to 1):
            Other orders of each selected set to measure: the reverse first, then random ones.
        min_probability (`float`, *optional*, defaults to 1e-4):
            Source tokens below this probability are not probed for exact dependencies; their mass is reported.
        confidence (`float`, *optional*, defaults to 0.95):
            Two-sided confidence of the Monte Carlo intervals, in (0, 1).
        seed (`int`, *optional*, defaults to 0):
            Seed of everything.

    Raises:
        ValueError: if a setting is outside its range.
    """

    num_draws: int = 256
    max_continuations: int = 512
    num_orders: int = 1
    min_probability: float = 1e-4
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self):
        for name, lowest in (("num_draws", 2), ("max_continuations", 0), ("num_orders", 0)):
            check_count(name, getattr(self, name), lowest)
        check_interval("min_probability", self.min_probability, 0, 1, open_high=True)
        check_interval("confidence", self.confidence, 0, 1, open_low=True, open_high=True)


@dataclass(frozen=True)
class OrderMeasurement:
    """Measurements of another order of a set.

    Args:
        positions (`tuple[int, ...]`): The columns in that order.
        total_variation (`Interval`): Between the product of marginals and the joint in that order.
        distance (`Interval`): Total variation between the joints of the two orders; 0 if they were consistent.
    """

    positions: tuple[int, ...]
    total_variation: Interval
    distance: Interval


@dataclass(frozen=True)
class SetMeasurement:
    """One set of positions: its error and its bounds. All values except `positions` are total variations in [0, 1].

    Args:
        positions (`tuple[int, ...]`): Columns in the order of the walk.
        is_exact (`bool`): Whether the error was enumerated; otherwise it is a Monte Carlo estimate.
        total_variation (`Interval`): Between the product of marginals and the chain joint in that order.
        terms (`tuple[Interval, ...]`): Telescoped terms of the second position, the third, ...
        costs (`tuple[float, ...]`): Sums of exact dependencies of the same positions on those before them.
        head_costs (`tuple[float, ...]`, *optional*): The same sums predicted by the head.
        uncovered_mass (`float`): Each exact dependency is at most this much larger.
        orders (`tuple[OrderMeasurement, ...]`): Other orders of the set.
    """

    positions: tuple[int, ...]
    is_exact: bool
    total_variation: Interval
    terms: tuple[Interval, ...]
    costs: tuple[float, ...]
    head_costs: tuple[float, ...] | None = None
    uncovered_mass: float = 0.0
    orders: tuple[OrderMeasurement, ...] = ()

    @property
    def telescoped(self) -> float:
        """Sum of the telescoped terms, which bounds the error without any assumption."""
        return sum(term.value for term in self.terms)

    @property
    def tightness(self) -> float | None:
        """Sum of exact dependencies / error; `None` if the error is too small."""
        error = self.total_variation.value
        return sum(self.costs) / error if error > RESOLUTION else None

    @property
    def subadditive(self) -> str:
        """Whether no term exceeds its summed dependencies: "holds", "fails", or "open" within the intervals."""
        verdicts = {
            _compared(term, cost, place * self.uncovered_mass)
            for place, (term, cost) in enumerate(zip(self.terms, self.costs, strict=True), start=1)
        }
        return next((verdict for verdict in ("fails", "open") if verdict in verdicts), "holds")

    @property
    def bounded(self) -> str:
        """Whether the sum of exact dependencies is at least the error: "holds", "fails" or "open"."""
        num_pairs = len(self.positions) * (len(self.positions) - 1) // 2
        return _compared(self.total_variation, sum(self.costs), num_pairs * self.uncovered_mass)

    @property
    def bounded_by_head(self) -> str | None:
        """The same with the dependencies that the head predicts; `None` without a head."""
        return None if self.head_costs is None else _compared(self.total_variation, sum(self.head_costs), 0.0)


def _compared(measured: Interval, limit: float, slack: float) -> str:
    """Compare a measurement with a limit that may be `slack` higher; differences within the resolution are ignored."""
    if measured.upper <= limit + RESOLUTION:
        return "holds"
    return "fails" if measured.lower > limit + slack + RESOLUTION else "open"


@torch.no_grad()
def measure_set(
    ordered: OrderedSet,
    dependencies: MeasuredDependencies,
    head_dependencies: torch.Tensor | None = None,
    settings: VerificationSettings | None = None,
    num_orders: int = 0,
) -> SetMeasurement:
    """Measure one set in one state.

    Args:
        ordered ([`OrderedSet`]):
            The set.
        dependencies ([`MeasuredDependencies`]):
            Exact dependencies `D[source, target]` of one row, `(1, size, size)`, in the order of the set.
        head_dependencies (`torch.Tensor` of shape `(size, size)`, *optional*):
            Predictions of the head for them.
        settings ([`VerificationSettings`], *optional*):
            Settings of the measurement.
        num_orders (`int`, *optional*, defaults to 0):
            Other orders to measure.

    Returns:
        [`SetMeasurement`]
    """
    settings = settings or VerificationSettings()
    columns = ordered.order.tolist()
    random = Random(f"{settings.seed}/{ordered.sequence.tolist()}/{columns}")
    generator = torch.Generator().manual_seed(random.getrandbits(62))
    error = exact_error(ordered, settings.max_continuations)
    if error is None or num_orders:
        draws = draw_from_joint(ordered, settings.num_draws, generator)
    costs, uncovered = _costs(dependencies.dependencies[0]), float(dependencies.uncovered_mass[0])
    if error is None:
        terms = [empirical_bernstein(term.cpu().numpy(), settings.confidence) for term in draws.terms.T]
        # The second position's term is its dependency on the first, by definition.
        terms[:1] = [Interval(cost, cost, cost + uncovered) for cost in costs[:1]]
        total_variation = empirical_bernstein(draws.errors.cpu().numpy(), settings.confidence)
    else:
        total_variation = _enumerated(error)
        parts = zip(error.terms, error.terms_left_out, strict=True)
        terms = [Interval(term, term, term + left_out) for term, left_out in parts]
    orders = []
    for number in range(num_orders):
        other = columns[::-1] if number == 0 else random.sample(columns, len(columns))
        order = ordered.order.new_tensor(other)
        distance = empirical_bernstein(order_distances(ordered, draws, order).cpu().numpy(), settings.confidence)
        orders.append(
            OrderMeasurement(tuple(other), _total_variation(ordered.reordered(order), settings, generator), distance)
        )
    return SetMeasurement(
        positions=tuple(columns),
        is_exact=error is not None,
        total_variation=total_variation,
        terms=tuple(terms),
        costs=costs,
        head_costs=None if head_dependencies is None else _costs(head_dependencies),
        uncovered_mass=uncovered,
        orders=tuple(orders),
    )


def _total_variation(ordered: OrderedSet, settings: VerificationSettings, generator: torch.Generator) -> Interval:
    """Return the error of a set, enumerated if possible."""
    error = exact_error(ordered, settings.max_continuations)
    if error is not None:
        return _enumerated(error)
    return empirical_bernstein(
        sampled_errors(ordered, settings.num_draws, generator).cpu().numpy(), settings.confidence
    )


def _enumerated(error: ExactError) -> Interval:
    return Interval(error.total_variation, error.total_variation, error.total_variation + error.left_out)


def _costs(dependencies: torch.Tensor) -> tuple[float, ...]:
    """Return the summed dependency of every position but the first on those before it."""
    return tuple(dependencies.double().triu(diagonal=1).sum(dim=0)[1:].tolist())


@torch.no_grad()
def measured_among(
    predict: Predict, sequence: torch.Tensor, columns: torch.Tensor, mask_token_id: int, min_probability: float
) -> MeasuredDependencies:
    """Measure the dependencies among columns of one state, in the order of `columns`.

    Args:
        predict (`Callable`):
            As in [`measure_dependencies`].
        sequence (`torch.LongTensor` of shape `(length,)`):
            The state.
        columns (`torch.LongTensor` of shape `(size,)`):
            Masked columns.
        mask_token_id (`int`):
            Token that is never revealed.
        min_probability (`float`):
            As in [`measure_dependencies`].
    """
    candidates = torch.zeros_like(sequence, dtype=torch.bool)
    candidates[columns] = True
    row = torch.zeros(1, dtype=torch.long, device=sequence.device)
    found = measure_dependencies(
        predict,
        sequence[None],
        candidates[None],
        predict(sequence[None], row, candidates[None]),
        mask_token_id,
        min_probability=min_probability,
    )
    place = columns.argsort().argsort()
    return dataclasses.replace(found, dependencies=found.dependencies[:, place][:, :, place])


@torch.no_grad()
def predicted_among(
    predictor: Predictor, head: DemaskHead | None, sequence: torch.Tensor, candidates: torch.Tensor
) -> torch.Tensor | None:
    """Return the head's predictions for the candidates of one state, in their order; `None` without a head.

    Args:
        predictor ([`Predictor`]):
            Predictions as in the loop, for heads that read confidence and entropy.
        head ([`DemaskHead`], *optional*):
            The head.
        sequence (`torch.LongTensor` of shape `(length,)`):
            The state, without padding.
        candidates (`torch.LongTensor` of shape `(count,)`):
            All columns that the head sees.

    Returns:
        `torch.Tensor` of shape `(count, count)`.
    """
    if head is None:
        return None
    asked = torch.zeros_like(sequence, dtype=torch.bool)
    asked[candidates] = True
    prediction = predictor.backbone.predict(PredictionRequest(sequence[None], asked[None]))
    states = prediction.hidden_states
    if states is None:
        raise ValueError("`model` must return hidden states for a dependency head, got none.")
    probabilities = predictor.scored.probabilities(prediction.logits)
    inputs = {"positions": candidates.sort().values, "certainty": certainty(probabilities)}
    inputs = {name: tensor[None].to(states.device) for name, tensor in inputs.items()}
    module: torch.nn.Module = head
    module.to(states.device)
    found = head(states[None], **inputs).dependencies[0].to(sequence.device)
    place = candidates.argsort().argsort()
    return found[place][:, place]
