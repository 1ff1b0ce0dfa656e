"""`diffusion_generate`, by which Dream's own code is called, in terms of `generate`."""

from typing import Any

import torch

from ...generation.configuration import DemaskGenerationConfig
from ...generation.mixin import DemaskGenerationMixin, DemaskGenerationOutput


# What Dream's code does where neither its caller nor the checkpoint says anything.
_NUM_STEPS = 512
_ALGORITHM = "origin"
# Names of Dream's code, and ours; fields of the strategy "schedule" but for the last.
_NAMES = {"alg": "algorithm", "eps": "eps", "alg_temp": "alg_temp", "steps": "max_denoising_steps"}


class DreamGenerationMixin(DemaskGenerationMixin):
    """`generate`, and the call that Dream's README shows."""

    def diffusion_generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: DemaskGenerationConfig | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | DemaskGenerationOutput:
        """Decode with Dream's own sampler: `generate` with the strategy "schedule", to the last position.

        Where the caller names none, algorithm and steps are those of the checkpoint, or else "origin" and 512.

        Args:
            inputs (`torch.LongTensor` of shape `(batch, prompt_length)`):
                Prompts, padded on the left.
            generation_config ([`DemaskGenerationConfig`], *optional*):
                Settings, which may have Dream's names.
            kwargs:
                `alg`, `alg_temp`, `eps` and `steps` as in Dream's code, and arguments of `generate`.

        Returns:
            What `generate` returns. As in Dream's code, the history begins after the first step.

        Raises:
            ValueError: if an argument is unknown or outside its range.
        """
        given = {_NAMES.get(name, name): value for name, value in kwargs.items() if value is not None}
        for config in (generation_config, self.generation_config):
            # Also a config of transformers may hold Dream's names.
            known = None if config is None else DemaskGenerationConfig.from_dict(config.to_dict())
            if known is not None and known.strategy is not None and known.is_schedule:
                fields = {name: value for name, value in known.strategy.items() if name != "name"}
                given = {**fields, "max_denoising_steps": known.max_denoising_steps, **given}
                break
        defaults = {"algorithm": _ALGORITHM, "max_denoising_steps": _NUM_STEPS, "stop_at_eos": False}
        given = {**defaults, **{name: value for name, value in given.items() if value is not None}}
        output = self.generate(inputs, generation_config=generation_config, strategy="schedule", **given)
        if isinstance(output, DemaskGenerationOutput) and output.history is not None:
            output.history = output.history[1:]
        return output


__all__ = ["DreamGenerationMixin"]
