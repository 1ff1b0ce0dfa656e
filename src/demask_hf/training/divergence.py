"""Stop a training whose numbers mean nothing any more, before it writes a head over the last good one."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from .checkpoints import last_checkpoint


class WatchedTrainer(Trainer):
    """A trainer that refuses data and losses that are NaN or infinite; it stops in the step in which they appear."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.add_callback(_DivergenceCallback())

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Train on a batch, see [`~transformers.Trainer.training_step`].

        Raises:
            ValueError: if the batch or its loss is not finite.
        """
        _check_batch(inputs)
        loss = super().training_step(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss).all():
            raise _diverged(self.args, self.state, f"a loss of {float(loss.mean())}")
        return loss

    def prediction_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch, see [`~transformers.Trainer.prediction_step`].

        Raises:
            ValueError: if the batch is not finite.
        """
        _check_batch(inputs)
        return super().prediction_step(model, inputs, *args, **kwargs)


class _DivergenceCallback(TrainerCallback):
    """Looks at gradients before they are applied, and at losses and weights before they are stored."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # With fp16, infinite gradients belong to the search for a scale, which leaves such a step out.
        gradients = (parameter.grad for parameter in kwargs["model"].parameters())
        if not args.fp16 and not _are_finite(gradient for gradient in gradients if gradient is not None):
            raise _diverged(args, state, "gradients that are NaN or infinite")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if (control.should_save or control.should_evaluate) and not _are_finite(kwargs["model"].parameters()):
            raise _diverged(args, state, "weights that are NaN or infinite")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loss = (kwargs.get("metrics") or {}).get("eval_loss", 0.0)
        if not math.isfinite(loss):
            raise _diverged(args, state, f"a held-out loss of {loss}")


def _check_batch(inputs: dict[str, Any]) -> None:
    """Refuse measured states with numbers that are not finite: one of them would spread over the whole head."""
    floats = {name: value for name, value in inputs.items() if torch.is_tensor(value) and value.is_floating_point()}
    if _are_finite(floats.values()):
        return
    bad = [name for name, value in floats.items() if not torch.isfinite(value).all()]
    raise ValueError(
        f"`data` must hold finite numbers, got NaN or infinity in the {', '.join(bad)} of a state: collect it again."
    )


def _are_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether all numbers are finite; the device is waited for once."""
    found = [torch.isfinite(tensor).all() for tensor in tensors]
    return not found or bool(torch.stack([one.to(found[0].device) for one in found]).all())


def _diverged(args: Any, state: Any, what: str) -> ValueError:
    kept = last_checkpoint(args.output_dir)
    where = "no head was stored before" if kept is None else f"the last good head is {kept!r}"
    return ValueError(
        f"`learning_rate` must let the training converge, got {what} at step {state.global_step + 1} with "
        f"{args.learning_rate}; {where}."
    )
