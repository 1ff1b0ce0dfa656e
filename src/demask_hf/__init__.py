"""Dependency-guided parallel decoding for masked diffusion language models, as a transformers plugin.

Importing the package registers Dream and the dependency head with transformers' Auto classes.
"""

from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from .backbone import Backbone
from .configuration_demask import DemaskConfig
from .configuration_generation import DemaskGenerationConfig
from .dependency import dependency_bound_of, low_dependency_subset
from .generation import DemaskGenerationMixin, DemaskGenerationOutput, attach
from .modeling_demask import DemaskHead
from .models.dream.configuration_dream import DreamConfig
from .models.dream.modeling_dream import DreamModel
from .models.dream.tokenization_dream import DreamTokenizer
from .probes import measure_dependencies
from .strategies import (
    DenoisingStep,
    UnmaskingStrategy,
    make_strategy,
    register_strategy,
    strategy_fields,
    strategy_names,
)


__version__ = "0.1.0"

_ASSETS = Path(__file__).parent / "assets"
#: Folder of the shipped small Dream checkpoint: `AutoModel.from_pretrained(demask_hf.TINY_DREAM)`.
TINY_DREAM = str(_ASSETS / "tiny-dream")
#: Folder of its dependency head: `model.load_demask_head(demask_hf.TINY_DEMASK)`.
TINY_DEMASK = str(_ASSETS / "tiny-demask")

AutoConfig.register("Dream", DreamConfig)
AutoConfig.register("demask", DemaskConfig)
AutoModel.register(DreamConfig, DreamModel)
AutoModel.register(DemaskConfig, DemaskHead)
AutoModelForMaskedLM.register(DreamConfig, DreamModel)
AutoModelForCausalLM.register(DreamConfig, DreamModel)
AutoTokenizer.register(DreamConfig, DreamTokenizer)

__all__ = [
    "TINY_DEMASK",
    "TINY_DREAM",
    "Backbone",
    "DemaskConfig",
    "DemaskGenerationConfig",
    "DemaskGenerationMixin",
    "DemaskGenerationOutput",
    "DemaskHead",
    "DenoisingStep",
    "DreamConfig",
    "DreamModel",
    "DreamTokenizer",
    "UnmaskingStrategy",
    "attach",
    "dependency_bound_of",
    "low_dependency_subset",
    "make_strategy",
    "measure_dependencies",
    "register_strategy",
    "strategy_fields",
    "strategy_names",
]
