"""Weights of 8 or 4 bits, made by torchao while a model is loaded."""

from typing import Any

import torch
from transformers import TorchAoConfig
from transformers.utils import is_torchao_available
from transformers.utils.import_utils import TORCHAO_MIN_VERSION

from ..validation import check_choice


QUANTIZATIONS = ("int8", "int4")


def quantized(
    quantization: str, device: torch.device | None, dtype: str | torch.dtype
) -> tuple[TorchAoConfig, str | torch.dtype]:
    """Return the argument `quantization_config` of `from_pretrained`, and the number format of the other weights.

    Args:
        quantization (`str`):
            "int8", or "int4", for which torchao needs a GPU and bfloat16.
        device (`torch.device`, *optional*):
            Device of the whole model; `None` if it is spread over several.
        dtype (`str` or `torch.dtype`):
            The number format that was asked for.

    Raises:
        ImportError: if torchao is missing or too old.
        ValueError: if the name is unknown, or device or number format do not fit.
    """
    check_choice("quantization", quantization, QUANTIZATIONS)
    if quantization == "int4":
        if device is not None and device.type != "cuda":
            raise ValueError(f"`device` must be a GPU for the quantization 'int4' of torchao, got {str(device)!r}.")
        if dtype not in ("auto", "bfloat16", torch.bfloat16):
            raise ValueError(f"`dtype` must be 'auto' or 'bfloat16' for the quantization 'int4', got {str(dtype)!r}.")
    if not is_torchao_available():
        raise ImportError(
            f"`torchao` {TORCHAO_MIN_VERSION} or newer must be installed for a `quantization`: pip install -U torchao."
        )
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    if quantization == "int8":
        return TorchAoConfig(Int8WeightOnlyConfig()), dtype
    # This layout needs no further package.
    return TorchAoConfig(Int4WeightOnlyConfig(int4_packing_format="tile_packed_to_4d")), "bfloat16"


def check_quantized(model: Any) -> None:
    """Raise a `ValueError` if no weight was quantised: torchao leaves out layers whose sizes do not fit."""
    layers = [each for each in model.modules() if isinstance(each, torch.nn.Linear)]
    if all(type(each.weight) is torch.nn.Parameter for each in layers):
        raise ValueError("`quantization` must fit the sizes of the model's layers, got one that changed no weight.")
