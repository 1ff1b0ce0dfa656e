"""The LLaDA model, written as its difference from Llama: every position attends to every position."""

from typing import Any

import torch
from transformers import LlamaForCausalLM, LlamaModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming

from ...generation.mixin import DemaskGenerationMixin
from ..bidirectional import BidirectionalMixin
from ..checkpoint import WholeCheckpointMixin
from .configuration_llada import LLaDAConfig
from .names import LAYER_TENSOR_NAMES, TENSOR_NAMES


def _renamings() -> list[WeightConverter | WeightRenaming]:
    """Return the table in the form that transformers expects; the group captures the layer number."""
    plain: list[WeightConverter | WeightRenaming] = [
        WeightRenaming(f"^{theirs.removesuffix('weight')}", f"^{ours.removesuffix('weight')}")
        for theirs, ours in TENSOR_NAMES.items()
    ]
    return plain + [
        WeightRenaming(rf"^model.transformer.blocks.(\d+).{theirs}.", rf"^model.layers.(\d+).{ours}.")
        for theirs, ours in LAYER_TENSOR_NAMES.items()
    ]


class LLaDAModel(BidirectionalMixin, LlamaModel):
    """Llama blocks without the causal mask; returns hidden states of shape `(batch, length, hidden_size)`."""

    config: LLaDAConfig


class LLaDAModelLM(DemaskGenerationMixin, WholeCheckpointMixin, LlamaForCausalLM):
    """LLaDA with its output embedding: the logits at a position predict the token at that position.

    `generate` decodes by unmasking, see [`DemaskGenerationMixin`]. Labels passed to `forward` are at their own
    positions, -100 where nothing is to be predicted. The class has the name that the Hub's configs use.

    Args:
        config ([`LLaDAConfig`]):
            The model's configuration.
    """

    config: LLaDAConfig
    config_class = LLaDAConfig
    _adapter_hint = (
        ": one trained on LLaDA's own code is loaded by `model.load_adapter`, or with "
        "`config=demask_hf.models.llada.adapters.adapter_config(...)` by `PeftModel.from_pretrained`"
    )

    def __init__(self, config: LLaDAConfig):
        # Skips the constructor of LlamaForCausalLM, which would build the causal model first.
        super(LlamaForCausalLM, self).__init__(config)
        self.model = LLaDAModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.loss_type = "ForMaskedLM"
        self.post_init()

    def load_adapter(
        self,
        peft_model_id: str | None = None,
        *args: Any,
        peft_config: Any = None,
        adapter_kwargs: dict[str, Any] | None = None,
        load_config: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Load a PEFT adapter, see [`WholeCheckpointMixin.load_adapter`]; one of LLaDA's own code is mapped."""
        if peft_model_id is not None and peft_config is None:
            from .adapters import adapter_config

            download = {**getattr(load_config, "download_kwargs", {}), **(adapter_kwargs or {})}
            peft_config = adapter_config(peft_model_id, **download)
            if load_config is None:
                kwargs.setdefault("download_kwargs", download)
            else:
                load_config.download_kwargs.update(download)
        given = {"peft_config": peft_config, "adapter_kwargs": adapter_kwargs, "load_config": load_config}
        return super().load_adapter(peft_model_id, *args, **given, **kwargs)


register_checkpoint_conversion_mapping("llada", _renamings(), overwrite=True)

__all__ = ["LLaDAModel", "LLaDAModelLM"]
