"""Take in a head that somebody else trained: a dot product of queries and keys of the final hidden states."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .configuration_demask import DemaskConfig
from .modeling_demask import DemaskHead
from .weights import find, read_header


# Last part of a module's name that says what it is.
_NAMES = {
    "query": r"(w?q|query)(_?(proj|projection|linear|head|layer))?|to_q|linear_q|proj_q",
    "key": r"(w?k|key)(_?(proj|projection|linear|head|layer))?|to_k|linear_k|proj_k",
}
_PICKLES = (".pt", ".pth", ".bin")


def read_tensors(source: str) -> dict[str, torch.Tensor]:
    """Return the tensors of somebody's head.

    Args:
        source (`str`):
            A safetensors file, a file of torch (`.pt`, `.pth` or `.bin`; tensors are read, and no code), or a folder
            or Hub repository with a `model.safetensors`.

    Raises:
        ValueError: if the file is damaged, or holds something else.
        OSError: if it does not exist.
    """
    path = Path(source)
    if path.suffix in _PICKLES:
        return _pickled(path)
    file = path if path.suffix == ".safetensors" else find(source, "model.safetensors", {})
    if file is None or not file.exists():
        raise OSError(f"`head` must be a file, or have a model.safetensors, got {source!r}, where there is none.")
    read_header("head", file, source)
    return load_file(file)


def _pickled(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file that `torch.save` wrote, a state dict or an object with one."""
    if not file.exists():
        raise OSError(f"`head` must be a file, or have a model.safetensors, got {str(file)!r}, where there is none.")
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"`head` must be a file of tensors alone, got {str(file)!r}, which torch does not read as such ({reason})."
        ) from None
    for name in ("state_dict", "model", "head"):
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not found or not all(torch.is_tensor(value) for value in found.values()):
        raise ValueError(f"`head` must hold named tensors, got {str(file)!r}, which holds something else.")
    return found


def projections_of(tensors: Mapping[str, torch.Tensor], given: Mapping[str, str | None]) -> dict[str, str]:
    """Return the names of the modules that project to queries and keys.

    Args:
        tensors (`Mapping[str, torch.Tensor]`):
            What [`read_tensors`] returns.
        given (`Mapping[str, str | None]`):
            Names that the user gave for "query" and "key"; `None` to find one by its usual names.

    Raises:
        ValueError: if a name is not there, or none or several fit.
    """
    modules = [name.removesuffix(".weight") for name, value in tensors.items() if value.ndim == 2]
    found = {}
    for kind, name in given.items():
        usual = [module for module in modules if re.fullmatch(_NAMES[kind], module.rpartition(".")[2].lower())]
        fits = usual if name is None else [module for module in modules if module == name.removesuffix(".weight")]
        if len(fits) != 1:
            asked = "one matrix with a usual name" if name is None else f"a matrix {name!r}"
            raise ValueError(
                f"`{kind}` must name the {kind} projection: the head must have {asked}, got "
                f"{', '.join(fits) or 'none'} among {', '.join(modules) or 'no matrices'}."
            )
        found[kind] = fits[0]
    return found


def import_head(
    tensors: Mapping[str, torch.Tensor],
    backbone: Mapping[str, Any],
    query: str | None = None,
    key: str | None = None,
    scale: float | None = None,
    is_swapped: bool = False,
) -> DemaskHead:
    """Return a [`DemaskHead`] that computes what somebody's dot-product head computes.

    That head must be `sigmoid(scale * q_i . k_j)` with linear queries and keys of the final hidden states that predict
    the positions; sums over attention heads are such a product, too. Nothing can be left out of it.

    Args:
        tensors (`Mapping[str, torch.Tensor]`):
            What [`read_tensors`] returns.
        backbone (`Mapping[str, Any]`):
            Fields of [`DemaskConfig`] that describe the backbone.
        query (`str`, *optional*):
            Name of the module that projects to queries, by default the one with a usual name.
        key (`str`, *optional*):
            The same of keys.
        scale (`float`, *optional*):
            Factor of the product; by default `1 / sqrt(width)`.
        is_swapped (`bool`, *optional*, defaults to `False`):
            Whether the query belongs to the position that is changed and the key to the one that is revealed; here the
            query belongs to the revealed one, the source.

    Raises:
        ValueError: if a projection is missing, tensors are left over, or shapes do not fit the backbone.
    """
    names = projections_of(tensors, {"query": query, "key": key})
    hidden_size = backbone["backbone_hidden_size"]
    width = tensors[_weight(tensors, names["query"])].shape[0]
    parts: dict[str, torch.Tensor] = {}
    used = set()
    for kind, module in names.items():
        weight = tensors[_weight(tensors, module)].float()
        if tuple(weight.shape) != (width, hidden_size):
            raise ValueError(
                f"`{kind}` must be a matrix of shape ({width}, {hidden_size}), the widths of the head and of the "
                f"backbone's hidden states, got {module} of shape {tuple(weight.shape)}."
            )
        bias = tensors.get(f"{module}.bias", torch.zeros(width)).float()
        parts |= {f"{kind}.weight": weight, f"{kind}.bias": bias}
        used |= {_weight(tensors, module), f"{module}.bias"}
    if left := sorted(tensors.keys() - used):
        raise ValueError(
            f"`head` must be nothing but queries and keys to be imported, got {len(left)} further tensors, such as "
            f"{left[0]}: what they do would be lost."
        )
    factor = 1.0 if scale is None else scale * math.sqrt(width)
    parts = {name: value * factor if name.startswith("query") else value for name, value in parts.items()}
    if is_swapped:
        other = {"query": "key", "key": "query"}
        parts = {other[name.partition(".")[0]] + name[name.index(".") :]: value for name, value in parts.items()}
    head = DemaskHead(DemaskConfig(**backbone, width=width, is_dot_product=True))
    head.load_state_dict(parts)
    return head.eval()


def _weight(tensors: Mapping[str, torch.Tensor], module: str) -> str:
    """Return the name of a module's matrix, which may be stored without the ending of a linear layer."""
    return f"{module}.weight" if f"{module}.weight" in tensors else module
