"""The certificate of a head: the settings it speaks about, and a warning where decoding uses others."""

from typing import Any

import torch
from transformers.utils import logging

from ..generation.state import DecodingSettings
from ..strategies import DemaskStrategy, UnmaskingStrategy


logger = logging.get_logger(__name__)


def settings_of(model: torch.nn.Module, rule: DemaskStrategy, settings: DecodingSettings) -> dict[str, Any]:
    """Return the settings of a decoding that a certificate names, by their names there.

    Args:
        model (`torch.nn.Module`):
            The backbone, for its revision.
        rule ([`DemaskStrategy`]):
            The strategy, bound to the model.
        settings ([`DecodingSettings`]):
            Everything else.
    """
    fields = ("rule", "symmetric", "order", "confidence_threshold")
    filters = ("temperature", "top_p", "top_k", "block_length")
    return {
        "dependency_bound": rule.limit,
        **{name: getattr(rule, name) for name in fields},
        **{name: getattr(settings, name) for name in filters},
        "backbone_revision": getattr(getattr(model, "config", None), "_commit_hash", None),
    }


def warn_of_other_settings(model: torch.nn.Module, rule: UnmaskingStrategy, settings: DecodingSettings) -> None:
    """Say once where decoding differs from what the head's certificate was issued for.

    Args:
        model (`torch.nn.Module`):
            The backbone.
        rule ([`UnmaskingStrategy`]):
            The strategy, bound to the model.
        settings ([`DecodingSettings`]):
            Everything else.
    """
    certificate = rule.certificate if isinstance(rule, DemaskStrategy) else None
    if certificate is None:
        return
    used = settings_of(model, rule, settings)
    if None in (used["backbone_revision"], certificate.get("backbone_revision")):
        # A folder has no revision to compare.
        del used["backbone_revision"]
    others = [
        f"{name} {value!r} instead of {certificate[name]!r}"
        for name, value in used.items()
        if name in certificate and certificate[name] != value
    ]
    if others:
        logger.warning_once(
            f"The head's certificate ({certificate.get('risk')} at most {certificate.get('epsilon')}) does not hold "
            f"here: it was issued for other settings, got {', '.join(others)}."
        )
