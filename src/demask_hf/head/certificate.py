"""The certificate of a head: the settings that its bound was calibrated for, and differences from them."""

from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging


logger = logging.get_logger(__name__)
# Of certificates that were issued before there was such a setting.
_BEFORE = {"selection": "walk"}


def differences(certificate: dict[str, Any], used: dict[str, Any]) -> list[str]:
    """Return in words how the settings of a decoding differ from the certified ones.

    Args:
        certificate (`dict[str, Any]`):
            The certificate, as `demask-hf calibrate` stores it in the head's configuration.
        used (`dict[str, Any]`):
            The settings of the decoding, by the same names. A revision that is unknown on one side is not compared: a
            folder has none.
    """
    others = []
    certificate = _BEFORE | certificate
    for name, value in used.items():
        is_unknown = name == "backbone_revision" and None in (value, certificate.get(name))
        if name in certificate and certificate[name] != value and not is_unknown:
            others.append(f"{name} {value!r} instead of {certificate[name]!r}")
    return others


def warn_of_differences(certificate: dict[str, Any], used: dict[str, Any]) -> None:
    """Warn once if a decoding differs from what the certificate was issued for, see [`differences`]."""
    others = differences(certificate, used)
    if others:
        logger.warning_once(
            f"The head's certificate ({certificate.get('risk')} at most {certificate.get('epsilon')}) does not apply "
            f"here: it was issued for other settings, got {', '.join(others)}."
        )


def uncertify(head: PreTrainedModel) -> None:
    """Remove the certificate of a head whose weights are about to change."""
    head.config.certificate = None
