"""Options of where the work is done: in this process, or by workers of Ray."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .options import ModelOptions
from .parser import option


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..generation.mixin import DemaskGenerationMixin


@dataclass(frozen=True)
class EngineOptions:
    """Where the work is done.

    Args:
        engine (`str`, *optional*, defaults to "local"):
            local is this process, or those of accelerate or torchrun; ray is workers of Ray on one machine or many.
        workers (`int`, *optional*):
            Workers of Ray at most; by default one for each GPU, or one.
    """

    _argument_group_name = "machines"

    engine: str = option("local", choices=("local", "ray"))
    workers: int | None = option()

    def check(self) -> None:
        """Raise a `ValueError` if workers are asked for without Ray, or Ray in a launch of several processes."""
        if self.workers is not None and not self.is_ray:
            raise ValueError(f"`--workers` must be used with --engine ray, got {self.workers} with {self.engine}.")
        num_processes = int(os.environ.get("WORLD_SIZE", "1"))
        if self.is_ray and num_processes > 1:
            raise ValueError(
                f"`--engine` must be local in a launch of several processes, got ray in one of {num_processes}."
            )

    @property
    def is_ray(self) -> bool:
        """Whether workers of Ray do the work."""
        return self.engine == "ray"

    def load(self, options: ModelOptions, head: str | None) -> tuple[DemaskGenerationMixin, PreTrainedTokenizerBase]:
        """Load the model: with Ray on the CPU, only to record what the results depend on.

        Args:
            options ([`ModelOptions`]):
                The model.
            head (`str`, *optional*):
                The head: `head` or `head_or_shipped`.
        """
        if self.is_ray:
            options = replace(options, device="cpu", device_map=None)
        return options.load(head, is_shared=True)
