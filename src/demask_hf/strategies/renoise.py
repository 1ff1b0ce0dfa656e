"""DiffusionGemma's own rule: tokens of low entropy stay for one step, the others become noise again."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ..validation import check_count, check_interval
from .base import Compiled, UnmaskingStrategy, as_it_is, register_strategy
from .canvas import Canvas
from .decision import Decision
from .needs import Need
from .settings import DecodingSettings
from .step import DenoisingStep


DEFAULT_CANVAS_STEPS = 48


@register_strategy("renoise")
@dataclass
class RenoiseStrategy(UnmaskingStrategy):
    r"""Unmask a canvas as a whole, once its predictions are stable and confident; until then, accept and renoise.

    Each step draws a token at every position. In ascending order of entropy, those with `H_1 + ... + H_k - max(H_1,
    ..., H_k) <= entropy_bound` are accepted (EB-sampler, arXiv 2505.24857): the next step sees them, and new random
    tokens elsewhere. Nothing is accepted for more than one step. What is written in the end is the most likely token
    of each position. This is the sampler of `DiffusionGemmaForBlockDiffusion.generate` of transformers, whose public
    classes it runs; without a `seed` its results are the same as there, from the same state of torch's generator.
    With a `seed`, each row has its own noise.

    With `max_denoising_steps` (48 by default) a canvas has that many steps at most, and their temperature falls
    from `t_max` towards `t_min`: `t_min + (t_max - t_min) * n / max_denoising_steps` with `n` steps left.

    Args:
        entropy_bound (`float`, *optional*, defaults to 0.1):
            Upper limit in nats, above 0.
        t_min (`float`, *optional*, defaults to 0.4):
            Temperature after the last step, at least 0.
        t_max (`float`, *optional*, defaults to 0.8):
            Temperature of the first step, above `t_min`.
        stability_threshold (`int`, *optional*, defaults to 1):
            Number of steps before the current one that must have had the same most likely tokens; at least 0.
        confidence_threshold (`float`, *optional*, defaults to 0.005):
            A canvas is finished if it is stable and the mean entropy is below this, in nats, above 0.

    Example:

    ```python
    >>> model = demask_hf.attach(model)  # doctest: +SKIP
    >>> sequences = model.generate(**inputs, strategy="renoise", entropy_bound=0.2)  # doctest: +SKIP

    ```
    """

    runs_on_canvases: ClassVar[bool] = True

    entropy_bound: float = 0.1
    t_min: float = 0.4
    t_max: float = 0.8
    stability_threshold: int = 1
    confidence_threshold: float = 0.005
    _sampler: Any = field(default=None, init=False, repr=False, compare=False)
    _stop: Any = field(default=None, init=False, repr=False, compare=False)
    _tempered: Any = field(default=None, init=False, repr=False, compare=False)
    # Steps left, rows that ran at the first step, rows that are finished, and the most likely tokens.
    _num_left: int = field(default=0, init=False, repr=False, compare=False)
    _is_live: torch.Tensor = field(default_factory=lambda: torch.empty(0), init=False, repr=False, compare=False)
    _is_done: torch.Tensor = field(default_factory=lambda: torch.empty(0), init=False, repr=False, compare=False)
    _guess: torch.Tensor = field(default_factory=lambda: torch.empty(0), init=False, repr=False, compare=False)

    @property
    def allows_empty_step(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"canvas"})

    def __post_init__(self):
        check_interval("entropy_bound", self.entropy_bound, 0, open_low=True, infinite=True)
        check_interval("t_min", self.t_min, 0)
        check_interval("t_max", self.t_max, self.t_min, open_low=True)
        check_count("stability_threshold", self.stability_threshold, lowest=0)
        check_interval("confidence_threshold", self.confidence_threshold, 0, open_low=True, infinite=True)

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        from transformers.models.diffusion_gemma import generation_diffusion_gemma as theirs

        self._num_steps = DEFAULT_CANVAS_STEPS if settings is None else settings.max_steps or DEFAULT_CANVAS_STEPS
        config: Any = model.config
        self._sampler = theirs.EntropyBoundSampler(
            theirs.EntropyBoundSamplerConfig(float(self.entropy_bound)),
            config.canvas_length,
            config.get_text_config().vocab_size,
            self._num_steps,
        )
        self._stop = theirs.StableAndConfidentStoppingCriteria(self.stability_threshold, self.confidence_threshold)
        self._tempered = theirs.LinearTemperatureScheduleLogitsProcessor(self.t_min, self.t_max, self._num_steps)

    def select(self, step: DenoisingStep) -> Decision:
        canvas: Canvas = step.given("canvas")
        if canvas.is_new:
            self._stop.reset()
            self._num_left, self._is_live = self._num_steps, step.candidates.any(dim=-1)
            self._is_done, self._guess = torch.zeros_like(self._is_live), canvas.tokens
        self._denoise(canvas)
        # In transformers, rows that ended keep the others waiting, and draw from the generator that all share.
        while canvas.seeds is None and self._num_left and self._only_ended_rows_run():
            canvas.look()
            self._denoise(canvas)
        is_finished = self._is_done if self._num_left else torch.ones_like(self._is_done)
        tokens = step.sequences.clone()
        tokens[:, canvas.columns] = self._guess
        return Decision(step.candidates & is_finished[:, None], tokens)

    def _only_ended_rows_run(self) -> bool:
        return bool(self._is_done[self._is_live].all() & ~self._is_done.all())

    def _denoise(self, canvas: Canvas) -> None:
        """Accept, renoise, and find the rows whose canvas is finished; these do not change any more."""
        device, is_done, before = canvas.tokens.device, self._is_done, (self._guess, canvas.tokens)
        num_left = torch.tensor(self._num_left, device=device, dtype=torch.int32)
        logits = self._tempered(None, canvas.logits, cur_step=num_left)
        drawn = canvas.drawn(torch.softmax(logits, dim=-1, dtype=torch.float32))
        accepted = self._sampler.accept_canvas(canvas.tokens, drawn, logits, num_left)
        after = (logits.argmax(dim=-1), torch.where(self._sampler.accepted_token_mask, accepted, canvas.noise()))
        pairs = zip(before, after, strict=True)
        self._guess, canvas.tokens = (torch.where(is_done[:, None], old, new) for old, new in pairs)
        if canvas.conditioning is not None:
            logits = torch.where(is_done[:, None, None], canvas.conditioning, logits)
        self._is_done = is_done | self._stop(self._guess, logits)
        canvas.condition(logits)
        self._num_left -= 1
