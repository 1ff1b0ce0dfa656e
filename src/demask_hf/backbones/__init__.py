"""A model as the loop sees it: hidden states and logits of chosen positions, whatever the model's quirks.

Read `quirks.py` first, the table of what is special about each kind of model. Then `backbone.py`, which runs a model
according to its quirks, and `prediction.py`, the result of one forward pass. `attention.py` reads attention weights
for strategies that need them; `compiling.py` is the same backbone through `torch.compile`.
"""

from .backbone import Backbone, backbone_facts, check_head
from .compiling import CompiledBackbone, CompiledHead
from .prediction import Prediction, PredictionRequest
from .quirks import BackboneQuirks, declare_backbone, quirks_of


__all__ = [
    "Backbone",
    "BackboneQuirks",
    "CompiledBackbone",
    "CompiledHead",
    "Prediction",
    "PredictionRequest",
    "backbone_facts",
    "check_head",
    "declare_backbone",
    "quirks_of",
]
