"""Dependency-guided parallel decoding for masked diffusion language models, as a transformers plugin.

Importing the package registers Dream, LLaDA, LLaDA-MoE, LLaDA2, A2D, SDAR and the dependency head with the Auto
classes of transformers.
"""

from typing import TYPE_CHECKING

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from .assets import TINY_DEMASK, TINY_DREAM
from .backbones.backbone import Backbone
from .backbones.quirks import BackboneQuirks, declare_backbone
from .functional.dependency import dependency_bound_of, low_dependency_subset
from .functional.probes import measure_dependencies
from .generation.configuration import DemaskGenerationConfig
from .generation.mixin import DemaskGenerationMixin, DemaskGenerationOutput
from .head.configuration_demask import DemaskConfig
from .head.modeling_demask import DemaskHead
from .lazy import lazy_names
from .models.a2d.configuration_a2d import A2DLlamaConfig, A2DQwen2Config, A2DQwen3Config
from .models.a2d.modeling_a2d import A2DLlamaLMHeadModel, A2DQwen2LMHeadModel, A2DQwen3LMHeadModel
from .models.attach import attach
from .models.dream.configuration_dream import DreamConfig
from .models.dream.modeling_dream import DreamModel
from .models.dream.tokenization_dream import DreamTokenizer
from .models.llada.configuration_llada import LLaDAConfig
from .models.llada.modeling_llada import LLaDAModelLM
from .models.llada2.configuration_llada2 import LLaDA2MoeConfig
from .models.llada2.modeling_llada2 import LLaDA2MoeModelLM
from .models.llada_moe.configuration_llada_moe import LLaDAMoEConfig
from .models.llada_moe.modeling_llada_moe import LLaDAMoEModelLM
from .models.sdar.configuration_sdar import SDARConfig
from .models.sdar.modeling_sdar import SDARForCausalLM
from .strategies import (
    DenoisingStep,
    UnmaskingStrategy,
    make_strategy,
    register_strategy,
    strategy_fields,
    strategy_names,
)


__version__ = "0.1.0"

AutoConfig.register("Dream", DreamConfig)
AutoConfig.register("llada", LLaDAConfig)
for _config in (LLaDAMoEConfig, A2DQwen3Config, A2DQwen2Config, A2DLlamaConfig, SDARConfig, LLaDA2MoeConfig):
    AutoConfig.register(_config.model_type, _config)
AutoConfig.register("demask", DemaskConfig)
AutoModel.register(DemaskConfig, DemaskHead)
_llada_models = (LLaDAModelLM, LLaDAMoEModelLM, LLaDA2MoeModelLM)
_a2d_models = (A2DQwen3LMHeadModel, A2DQwen2LMHeadModel, A2DLlamaLMHeadModel)
for _model in (DreamModel, *_llada_models, *_a2d_models, SDARForCausalLM):
    for _auto in (AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM):
        _auto.register(_model.config_class, _model)
AutoTokenizer.register(DreamConfig, DreamTokenizer)

# What decoding does not need (Trainer, PEFT, the Hub) is imported on first use.
if TYPE_CHECKING:
    from .head.adapters import add_lora
    from .head.publishing import export_head, push_head
    from .models.loading import load_model
    from .training.collection import collect
    from .training.prompts import read_prompts
    from .training.states import CollectionSettings, MeasuredStates
    from .training.store import StoredExamples
    from .training.trainer import new_head, split_by_prompt, train_head
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "head.adapters": ("add_lora",),
            "head.publishing": ("export_head", "push_head"),
            "models.loading": ("load_model",),
            "training.collection": ("collect",),
            "training.prompts": ("read_prompts",),
            "training.states": ("CollectionSettings", "MeasuredStates"),
            "training.store": ("StoredExamples",),
            "training.trainer": ("new_head", "split_by_prompt", "train_head"),
        },
    )


__all__ = [
    "TINY_DEMASK",
    "TINY_DREAM",
    "Backbone",
    "BackboneQuirks",
    "CollectionSettings",
    "DemaskConfig",
    "DemaskGenerationConfig",
    "DemaskGenerationMixin",
    "DemaskGenerationOutput",
    "DemaskHead",
    "DenoisingStep",
    "DreamConfig",
    "DreamModel",
    "DreamTokenizer",
    "LLaDAConfig",
    "LLaDAMoEConfig",
    "LLaDAMoEModelLM",
    "LLaDAModelLM",
    "MeasuredStates",
    "StoredExamples",
    "UnmaskingStrategy",
    "add_lora",
    "attach",
    "collect",
    "declare_backbone",
    "dependency_bound_of",
    "export_head",
    "load_model",
    "low_dependency_subset",
    "make_strategy",
    "measure_dependencies",
    "new_head",
    "push_head",
    "read_prompts",
    "register_strategy",
    "split_by_prompt",
    "strategy_fields",
    "strategy_names",
    "train_head",
]
