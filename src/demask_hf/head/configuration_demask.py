"""Configuration of the dependency head."""

import functools
import math
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig


# Far above every useful head, and far below what fills a memory while an empty head is built.
_LARGEST = {
    "backbone_hidden_size": 1 << 17,
    "width": 1 << 13,
    "num_attention_heads": 1 << 12,
    "num_mixing_layers": 1 << 8,
    "num_distance_buckets": 1 << 16,
    "max_distance": 1 << 22,
}


class DemaskFieldError(StrictDataclassError, ValueError):
    """A field of a head's config that cannot be used, in one sentence."""


def _in_a_sentence(config_class: Any) -> Any:
    """Say in one sentence, by a `ValueError`, that a field has another type than it must have."""
    assign = config_class.__setattr__

    @functools.wraps(assign)
    def checked(config: Any, name: str, value: Any) -> None:
        try:
            assign(config, name, value)
        except StrictDataclassError as error:
            wanted = config.__dataclass_fields__[name].type
            wanted, shown = getattr(wanted, "__name__", None) or str(wanted), repr(value)
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            raise DemaskFieldError(f"`{name}` must be of type {wanted}, got {shown}.") from error

    build = config_class.__init__

    @functools.wraps(build)
    def built(config: Any, *args: Any, **kwargs: Any) -> None:
        try:
            build(config, *args, **kwargs)
        except (AttributeError, KeyError, OverflowError, TypeError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
            raise DemaskFieldError(f"`config` must have fields of the right types, got {reason}.") from error

    config_class.__setattr__, config_class.__init__ = checked, built
    return config_class


@_in_a_sentence
@strict
class DemaskConfig(PreTrainedConfig):
    """Describe a dependency head and the backbone it was made for.

    The backbone fields are compared when the head is attached to a model: the head reads the hidden states of that
    model, and its output is meaningless for others.

    Args:
        backbone_hidden_size (`int`, *optional*, defaults to 3584):
            Width of the backbone's final hidden states.
        backbone_model_type (`str`, *optional*, defaults to `"Dream"`):
            `model_type` of the backbone.
        backbone_num_layers (`int`, *optional*):
            Number of the backbone's layers; not compared if `None`.
        backbone_vocab_size (`int`, *optional*):
            Size of the backbone's vocabulary; not compared if `None`.
        logits_shift (`int`, *optional*, defaults to 1):
            Offset between a position and the hidden state used to predict it: 1 for Dream (the position before), else
            0.
        base_model_name_or_path (`str`, *optional*):
            Repository or folder of the backbone, for information.
        base_model_revision (`str`, *optional*):
            Its revision, for information.
        width (`int`, *optional*, defaults to 64):
            Width of the head.
        reads_certainty (`bool`, *optional*, defaults to `False`):
            Whether confidence and entropy of each position's prediction are inputs too, as [`~training.new_head`]
            chooses.
        is_dot_product (`bool`, *optional*, defaults to `False`):
            Whether the head is nothing but queries and keys of the hidden states, as in a head that was imported; the
            fields below that describe inputs and mixing are then not read.
        num_mixing_layers (`int`, *optional*, defaults to 1):
            Number of transformer layers over the masked positions.
        num_attention_heads (`int`, *optional*, defaults to 4):
            Attention heads of those layers; must divide `width`.
        num_distance_buckets (`int`, *optional*, defaults to 64):
            Number of learned biases for the signed distance between source and target; even.
        max_distance (`int`, *optional*, defaults to 1024):
            Distances of at least this share a bucket.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights.
        initial_dependency (`float`, *optional*, defaults to 0.02):
            Prediction of an untrained head for every pair, in (0, 1).
        certificate (`dict`, *optional*):
            Result of `demask-hf calibrate`: `dependency_bound`, which decoding then uses by default, with the risk
            (`risk`, `epsilon`, `delta`, `num_prompts`) and the settings that it was chosen for.

    Raises:
        ValueError: if a field has another type or is outside its range.

    Example:

    ```python
    >>> from demask_hf import DemaskConfig, DemaskHead

    >>> DemaskHead(DemaskConfig(backbone_hidden_size=32, width=16)).num_parameters() < 10_000
    True

    ```
    """

    model_type = "demask"

    backbone_hidden_size: int = 3584
    backbone_model_type: str = "Dream"
    backbone_num_layers: int | None = None
    backbone_vocab_size: int | None = None
    logits_shift: int = 1
    base_model_name_or_path: str | None = None
    base_model_revision: str | None = None
    width: int = 64
    reads_certainty: bool = False
    is_dot_product: bool = False
    num_mixing_layers: int = 1
    num_attention_heads: int = 4
    num_distance_buckets: int = 64
    max_distance: int = 1024
    initializer_range: float = 0.02
    initial_dependency: float = 0.02
    certificate: dict | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self._check_sizes()
        if self.is_dot_product and self.reads_certainty:
            raise ValueError("`reads_certainty` must be False for a head that is a dot product, got True.")
        if self.logits_shift not in (0, 1):
            raise ValueError(f"`logits_shift` must be 0 or 1, got {self.logits_shift}.")
        if not 0.0 <= self.initializer_range < math.inf:
            raise ValueError(f"`initializer_range` must be in [0, inf), got {self.initializer_range}.")
        if not 0.0 < self.initial_dependency < 1.0:
            raise ValueError(f"`initial_dependency` must be in (0, 1), got {self.initial_dependency}.")
        if self.certificate is not None:
            bound = self.certificate.get("dependency_bound")
            if isinstance(bound, bool) or not isinstance(bound, int | float) or not bound >= 0:
                raise ValueError(f"`certificate` must hold a `dependency_bound` of at least 0, got {bound!r}.")

    def _check_sizes(self):
        """Refuse sizes that no head has, or that do not fit each other."""
        for name, largest in _LARGEST.items():
            lowest = 0 if name == "num_mixing_layers" else 1
            if getattr(self, name) < lowest:
                raise ValueError(f"`{name}` must be at least {lowest}, got {getattr(self, name)}.")
            if getattr(self, name) > largest:
                raise ValueError(f"`{name}` must be at most {largest}, got {getattr(self, name)}.")
        if not self.is_dot_product and self.width % (2 * self.num_attention_heads):
            raise ValueError(
                f"`width` must be a multiple of twice `num_attention_heads` ({self.num_attention_heads}), "
                f"got {self.width}."
            )
        if self.num_distance_buckets < 4 or self.num_distance_buckets % 2:
            raise ValueError(f"`num_distance_buckets` must be even and at least 4, got {self.num_distance_buckets}.")
        # Nearer distances have buckets of their own.
        num_exact = self.num_distance_buckets // 4
        if self.max_distance <= num_exact:
            raise ValueError(
                f"`max_distance` must be above a quarter of `num_distance_buckets` ({num_exact}), "
                f"got {self.max_distance}."
            )


__all__ = ["DemaskConfig"]
