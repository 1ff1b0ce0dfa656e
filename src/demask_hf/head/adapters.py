"""Fine-tuning of a dependency head with PEFT. Needs peft (`pip install demask-hf[train]`)."""

from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import nn

from ..validation import check_count, check_interval
from .certificate import uncertify
from .loading import check_finite, load_head
from .modeling_demask import DemaskHead
from .weights import adapter_files


LORA_TARGETS = (
    "input_projection",
    "position_projection",
    "mix_qkv",
    "mix_output",
    "mlp_up",
    "mlp_down",
    "query",
    "key",
)


def add_lora(
    head: DemaskHead,
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    modules_to_save: Sequence[str] = ("scorer",),
    dropout: float = 0.0,
) -> PeftModel:
    """Wrap a head in low-rank adapters; only they and `modules_to_save` are trained.

    Args:
        head ([`DemaskHead`]):
            The head to adapt.
        rank (`int`, *optional*, defaults to 8):
            Rank of the updates.
        alpha (`float`, *optional*):
            The update is scaled by `alpha / rank`; by default `2 * rank`.
        targets (`Sequence[str]`, *optional*):
            Names of the linear modules to adapt; by default all but the scorer.
        modules_to_save (`Sequence[str]`, *optional*, defaults to `("scorer",)`):
            Modules that are trained and saved whole.
        dropout (`float`, *optional*, defaults to 0.0):
            Dropout of the adapters' input, in [0, 1).

    Returns:
        `PeftModel`: the wrapped head; its `save_pretrained` writes the adapter alone.

    Raises:
        ValueError: if a number is outside its range or a name is not a module of the head.
    """
    check_count("rank", rank)
    check_interval("dropout", dropout, 0, 1, open_high=True)
    linear = {name.rsplit(".")[-1] for name, module in head.named_modules() if isinstance(module, nn.Linear)}
    known = {"targets": linear, "modules_to_save": {name.rsplit(".")[-1] for name, _ in head.named_modules() if name}}
    targets = [name for name in LORA_TARGETS if name in linear] if targets is None else list(targets)
    for field, names in (("targets", targets), ("modules_to_save", modules_to_save)):
        for name in names:
            if name not in known[field]:
                raise ValueError(f"`{field}` must be among {', '.join(sorted(known[field]))}, got {name!r}.")
    config = LoraConfig(
        r=rank,
        # PEFT divides by the rank, so a fraction works as well as a whole number.
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]
        target_modules=targets,
        modules_to_save=list(modules_to_save) or None,
        lora_dropout=dropout,
    )
    return get_peft_model(head, config)


def load_merged(adapter: str | Path, head: str | Path | None = None) -> DemaskHead:
    """Load an adapter with its head and merge the two.

    Args:
        adapter (`str` or `Path`):
            Folder or repository of the adapter.
        head (`str` or `Path`, *optional*):
            The head it was trained on; by default the one named in the adapter's configuration.

    Returns:
        [`DemaskHead`]: an ordinary head, without PEFT.

    Raises:
        OSError: if a folder, repository or file does not exist.
        ValueError: if a file is damaged or of another format than safetensors, or adapter and head do not fit.
    """
    try:
        config, header = adapter_files("adapter", adapter, {})
    except OSError as error:
        reason = next(iter(str(error).splitlines()), "").rstrip(".:")
        raise OSError(
            f"`adapter` must be a folder or Hub repository of an adapter, got {str(adapter)!r} ({reason})."
        ) from error
    head = head or config.get("base_model_name_or_path")
    if not head or not isinstance(head, str | Path):
        raise ValueError(f"`head` must be given for an adapter that names none, got {str(adapter)!r}.")
    base = load_head(str(head))
    # The certificate was issued for the head without the adapter.
    uncertify(base)
    try:
        adapted = PeftModel.from_pretrained(base, str(adapter))
        places = set(get_peft_model_state_dict(adapted))
        merged = adapted.merge_and_unload()
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".:")
        raise ValueError(f"`adapter` must fit the head {str(head)!r}, got {str(adapter)!r} ({reason}).") from error
    if others := sorted(places ^ header.keys()):
        raise ValueError(
            f"`adapter` must hold the tensors of an adapter of the head {str(head)!r}, got {str(adapter)!r} with or "
            f"without {others[0]}."
        )
    check_finite(merged, repr(str(adapter)))
    return merged
