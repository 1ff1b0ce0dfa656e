"""`generate`: from arguments to a loop, the loop itself, and what surrounds it.

Read `mixin.py` first (`generate` in four lines: merge, prepare, run, finish), then `loop.py`, the six numbered steps,
and `predictor.py`, which does steps 3 and 4. `configuration.py` and `arguments.py` define the settings and how they
are merged; `preparation.py` builds loop and first state; `state.py` is what changes from step to step. `adapters.py`,
`caching.py`, `callbacks.py`, `processors.py` and `profiling.py` each serve one purpose and can be skipped at first.
`constraint.py` compiles what an answer must match, `constrained.py` keeps every step to it.
`checkpoint.py`, `foreign.py` and `refused.py` deal with files, options and methods of transformers.
"""

from .configuration import DemaskGenerationConfig
from .loop import DenoisingLoop
from .mixin import DemaskGenerationMixin, DemaskGenerationOutput
from .predictor import Predictor
from .preparation import prepare
from .profiling import StepProfile, profile_steps
from .state import DecodingState


__all__ = [
    "DecodingState",
    "DemaskGenerationConfig",
    "DemaskGenerationMixin",
    "DemaskGenerationOutput",
    "DenoisingLoop",
    "Predictor",
    "StepProfile",
    "prepare",
    "profile_steps",
]
