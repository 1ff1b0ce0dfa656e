"""The time of a denoising step by part: backbone, output layer, dependency head, selection, and the rest."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from ..backbones.backbone import Backbone
from ..strategies import Decision, DenoisingStep, Drafts, UnmaskingStrategy, WrappingStrategy
from ..tables import Column, text_lines
from ..validation import check_count
from .arguments import resolve_config
from .mixin import DemaskGenerationMixin
from .preparation import prepare
from .state import DecodingState


PARTS = ("backbone", "lm_head", "head", "selection", "rest")
_COLUMNS = (
    Column("part", "part", is_text=True),
    Column("median ms", "ms", ".3f"),
    Column("share", "share", ".1%"),
)


@dataclass(frozen=True)
class StepProfile:
    """The time of every step, by part.

    Args:
        steps (`list[dict[str, float]]`):
            For each step the seconds of each part. "backbone" is the body of the model up to its final hidden
            states, "lm_head" the output layer on those of the candidates, "head" the dependency head, "selection" the
            strategy without its head, "rest" everything else: finding candidates, probabilities, drawing, writing.
    """

    steps: list[dict[str, float]]

    @property
    def median_step_seconds(self) -> float:
        """Median time of a whole step, in seconds."""
        return median(sum(step.values()) for step in self.steps)

    def median_seconds(self, part: str) -> float:
        """Return the median time of a part, in seconds per step."""
        return median(step[part] for step in self.steps)

    def share(self, part: str) -> float:
        """Return the share of a part in the time of all steps, in [0, 1]."""
        return sum(step[part] for step in self.steps) / sum(sum(step.values()) for step in self.steps)

    def table(self) -> str:
        """Return median milliseconds of each part as lines of text, with their shares in the sum of these medians."""
        medians = {part: self.median_seconds(part) for part in PARTS}
        medians["sum"] = sum(medians.values())
        rows = [{"part": part, "ms": 1e3 * each, "share": each / medians["sum"]} for part, each in medians.items()]
        return "\n".join(text_lines(_COLUMNS, rows))


@torch.no_grad()
def profile_steps(
    model: DemaskGenerationMixin,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    strategy: str | dict | UnmaskingStrategy | None = None,
    num_runs: int = 3,
    **overrides: Any,
) -> StepProfile:
    """Decode prompts several times after a warm-up run, and measure the time of each part of a step.

    On a GPU, every change from one part to the next waits for the device, so a step is slower than in `generate`.

    Args:
        model ([`DemaskGenerationMixin`]):
            The model, with its head if the strategy needs one.
        input_ids (`torch.LongTensor` of shape `(batch, prompt_length)`):
            Prompts, padded on the left.
        attention_mask (`torch.Tensor` of shape `(batch, prompt_length)`, *optional*):
            0 at padding.
        strategy (`str`, `dict` or [`UnmaskingStrategy`], *optional*):
            As in `generate`.
        num_runs (`int`, *optional*, defaults to 3):
            How often to decode.
        overrides:
            Settings of `generate`.

    Returns:
        [`StepProfile`]

    Raises:
        ValueError: if `num_runs` is below 1, or an argument of `generate` is wrong.
    """
    check_count("num_runs", num_runs)
    config, rule = resolve_config(model, None, strategy, overrides)
    config.seed = 0 if config.seed is None else config.seed
    steps: list[dict[str, float]] = []
    for run in range(num_runs + 1):
        clock = _Clock(Backbone.of(model, config.mask_token_id).device)
        timed = _TimedStrategy(rule.fresh(), clock)
        loop, state = prepare(model, config, timed, input_ids, attention_mask)
        with _timed_modules(clock, loop.backbone, model.demask_head):
            loop.run(state, on_step=[clock.on_step])
        if run > 0:
            steps += clock.steps
    return StepProfile(steps)


class _Clock:
    """A stopwatch whose parts exclude the parts that run inside them."""

    def __init__(self, device: torch.device | None):
        self.device = device
        self.steps: list[dict[str, float]] = []
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._running, self._since = ["rest"], self._now()

    def enter(self, part: str) -> None:
        self._lap()
        self._running.append(part)

    def leave(self) -> None:
        self._lap()
        self._running.pop()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.enter(name)
        yield
        self.leave()

    def on_step(self, state: DecodingState, draft: torch.Tensor) -> None:
        self.end_step()

    def end_step(self) -> None:
        self._lap()
        self.steps.append(self._seconds)
        self._seconds = dict.fromkeys(PARTS, 0.0)

    def _lap(self) -> None:
        now = self._now()
        self._seconds[self._running[-1]] += now - self._since
        self._since = now

    def _now(self) -> float:
        if self.device is not None and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@contextmanager
def _timed_modules(clock: _Clock, backbone: Backbone, head: torch.nn.Module | None) -> Iterator[None]:
    """Measure the time of the forwards of the model, its body and the head."""
    body = backbone.states_module
    # For a model without a separate body, the output layer is included.
    parts = [(backbone.model, "backbone" if body is None else "lm_head"), (body, "backbone"), (head, "head")]
    handles, thread = [], threading.get_ident()

    def entered(part: str) -> None:
        # Another thread may run the same model, and its time is not measured here.
        if threading.get_ident() == thread:
            clock.enter(part)

    def left(*unused: Any) -> None:
        if threading.get_ident() == thread:
            clock.leave()

    for module, part in parts:
        if module is not None:
            handles.append(module.register_forward_pre_hook(lambda *unused, part=part: entered(part)))
            handles.append(module.register_forward_hook(left))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class _TimedStrategy(WrappingStrategy):
    """A strategy whose selection is timed."""

    strategy: UnmaskingStrategy
    clock: _Clock

    @property
    def wrapped(self) -> tuple[UnmaskingStrategy, ...]:
        return (self.strategy,)

    def select(self, step: DenoisingStep) -> torch.Tensor | Decision:
        with self.clock.part("selection"):
            return self.strategy.select(step)

    @property
    def num_versions(self) -> int:
        return self.strategy.num_versions

    def drafts(self, step: DenoisingStep, selected: torch.Tensor) -> Drafts | None:
        with self.clock.part("selection"):
            return self.strategy.drafts(step, selected)

    def accepts(self, drafts: torch.Tensor, outcomes: torch.Tensor, num_steps: torch.Tensor) -> torch.Tensor:
        return self.strategy.accepts(drafts, outcomes, num_steps)
