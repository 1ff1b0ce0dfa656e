"""Write the outcome of a calibration into a head: the bound, and the settings that it was chosen for."""

import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..files import read_json, write_json
from ..generation.arguments import resolve_config
from ..generation.encoding import encode_batch
from ..generation.preparation import prepare
from ..head.loading import load_head
from .calibration import Calibration
from .risks import Rollouts


_CONFIG = "config.json"


def certificate_of(rollouts: Rollouts, calibration: Calibration) -> dict[str, Any]:
    """Return the certificate of the bound that a calibration chose.

    Args:
        rollouts ([`Rollouts`]):
            The source of the losses.
        calibration ([`Calibration`]):
            Its outcome, with a certified bound.

    Returns:
        `dict` of JSON types: the bound, the risk with its limit and probability, the number of prompts and their
        fingerprint, the test, every setting that the guarantee covers, and the date (UTC).

    Raises:
        ValueError: if the calibration certified no bound.
    """
    chosen = calibration.chosen
    if chosen is None:
        raise ValueError("`calibration` must have chosen a bound to certify, got one that certified none.")
    rule = rollouts.rule.fresh(dependency_bound=chosen.dependency_bound)
    model = rollouts.model
    config, _ = resolve_config(model, None, rule, dict(rollouts.generate_kwargs))
    ids, _ = encode_batch(rollouts.tokenizer, rollouts.prompts[:1])
    loop, _ = prepare(model, config, rule, ids)
    return {
        "risk": rollouts.risk,
        "epsilon": calibration.epsilon,
        "delta": calibration.delta,
        "num_prompts": calibration.num_prompts,
        "mean_loss": chosen.mean_loss,
        "test": calibration.test,
        "seed": rollouts.seed,
        "data_sha256": rollouts.fingerprint,
        "date": datetime.now(timezone.utc).date().isoformat(),
        **rule.certified_settings(model, loop.settings),
    }


def check_destination(head: str | None, out: str | None) -> None:
    """Raise early, before hours of work, if a certificate cannot be written.

    Args:
        head (`str`, *optional*):
            Folder or Hub repository of the head.
        out (`str`, *optional*):
            Folder for a copy; by default the head's own folder is changed.

    Raises:
        ValueError: if there is no head, the head is an adapter, or there is no folder to write to.
    """
    if head is None:
        raise ValueError("`--head` must be given to calibrate, got none.")
    if (Path(head) / "adapter_config.json").is_file():
        raise ValueError(f"`--head` must be a whole head to calibrate, got the adapter {head!r}: export it first.")
    if out is None and not (Path(head) / _CONFIG).is_file():
        raise ValueError(f"`--out` must be given for a head that is not in a folder, got the repository {head!r}.")


def store_certificate(head: str, out: str | None, certificate: dict[str, Any]) -> Path:
    """Write a certificate into a head's configuration, completely or not at all.

    Args:
        head (`str`):
            Folder or Hub repository of the head.
        out (`str`, *optional*):
            Folder for a copy of the head; by default the head's own folder is changed.
        certificate (`dict`):
            What [`certificate_of`] returns.

    Returns:
        `Path`: the folder with the certificate.
    """
    folder = Path(head if out is None else out)
    if out is not None and Path(head).is_dir():
        shutil.copytree(head, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoints"))
    elif out is not None:
        load_head(head).save_pretrained(out)
    file = folder / _CONFIG
    config = read_json(file)
    write_json(file, {**config, "certificate": certificate})
    return folder
