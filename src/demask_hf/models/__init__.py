"""Native backbones, each written as its difference from a transformers model, and models that are already loaded.

Read `bidirectional.py` first (what makes a causal model attend in both directions), then `dream/` or `llada/`;
`blockwise.py` is the same from block to block. A model that transformers has, such as BERT, gets `generate` from
`attach.py`; `probing.py` runs one that nobody described. `lookalikes.py`, `fields.py` and `checkpoint.py` refuse what
is not a native model's own. `loading.py` loads a model with its head, `fingerprints.py` tells models apart.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names


if TYPE_CHECKING:
    from .attach import attach
    from .dream.configuration_dream import DreamConfig
    from .dream.modeling_dream import DreamBaseModel, DreamModel
    from .dream.tokenization_dream import DreamTokenizer
    from .fingerprints import model_facts, weights_fingerprint
    from .llada.configuration_llada import LLaDAConfig
    from .llada.modeling_llada import LLaDAModel, LLaDAModelLM
    from .llada_moe.configuration_llada_moe import LLaDAMoEConfig
    from .llada_moe.modeling_llada_moe import LLaDAMoEModel, LLaDAMoEModelLM
    from .loading import load_model
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "attach": ("attach",),
            "fingerprints": (
                "model_facts",
                "weights_fingerprint",
            ),
            "loading": ("load_model",),
            "dream.configuration_dream": ("DreamConfig",),
            "dream.modeling_dream": (
                "DreamBaseModel",
                "DreamModel",
            ),
            "dream.tokenization_dream": ("DreamTokenizer",),
            "llada.configuration_llada": ("LLaDAConfig",),
            "llada.modeling_llada": (
                "LLaDAModel",
                "LLaDAModelLM",
            ),
            "llada_moe.configuration_llada_moe": ("LLaDAMoEConfig",),
            "llada_moe.modeling_llada_moe": (
                "LLaDAMoEModel",
                "LLaDAMoEModelLM",
            ),
        },
    )

__all__ = [
    "DreamBaseModel",
    "DreamConfig",
    "DreamModel",
    "DreamTokenizer",
    "LLaDAConfig",
    "LLaDAMoEConfig",
    "LLaDAMoEModel",
    "LLaDAMoEModelLM",
    "LLaDAModel",
    "LLaDAModelLM",
    "attach",
    "load_model",
    "model_facts",
    "weights_fingerprint",
]
