"""Publish a dependency head: a folder or Hub repository that works with its backbone, and alone."""

import copy
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from ..files import write_json
from ..tables import Column, Row, markdown_lines
from .modeling_demask import DemaskHead
from .weights import read_object


_SOURCES = Path(__file__).parent
#: Name of the training record in a head's folder, for the model card.
TRAINING_RECORD = "training.json"
#: How well a head fits, see [`fit_rows`].
FIT_COLUMNS = (
    Column("predictor", "predictor", is_text=True),
    Column("MAE", "mae", ".4f"),
    Column("R^2", "r2", ".4f"),
    Column("AUC", "auc", ".4f"),
)
# Copied unchanged: with them, transformers loads the head where demask_hf is not installed.
CODE_FILES = ("configuration_demask.py", "layers_demask.py", "modeling_demask.py")
_AUTO_MAP = {"AutoConfig": "configuration_demask.DemaskConfig", "AutoModel": "modeling_demask.DemaskHead"}


def export_head(
    head: DemaskHead,
    folder: str | Path,
    record: dict[str, Any] | None = None,
    repo_id: str | None = None,
    license: str | None = None,
) -> Path:
    """Write a head as the folder of a Hub repository.

    Args:
        head ([`DemaskHead`]):
            The head; adapters must be merged first.
        folder (`str` or `Path`):
            Where to write; files of an earlier export are replaced.
        record (`dict`, *optional*):
            What `demask-hf train` wrote about the training, for the model card.
        repo_id (`str`, *optional*):
            The repository that the folder will be pushed to; its `custom_generate` then finds the head.
        license (`str`, *optional*):
            License of the head, such as apache-2.0; without it the model card asks for one.

    Returns:
        `Path`: the folder.

    Raises:
        TypeError: if `head` is not a [`DemaskHead`].
    """
    if not isinstance(head, DemaskHead):
        raise TypeError(f"`head` must be a DemaskHead, got {type(head).__name__}: merge an adapter first.")
    folder = Path(folder)
    config = head.config
    head.config = copy.deepcopy(config)
    head.config.auto_map = dict(_AUTO_MAP)
    try:
        head.save_pretrained(folder)
    finally:
        head.config = config
    for name in CODE_FILES:
        shutil.copyfile(_SOURCES / name, folder / name)
    custom = folder / "custom_generate"
    custom.mkdir(exist_ok=True)
    code = (_SOURCES.parent / "custom_generate.py").read_text(encoding="utf-8")
    code = code.replace("HEAD_REPOSITORY = None", f"HEAD_REPOSITORY = {json.dumps(repo_id) if repo_id else None}")
    (custom / "generate.py").write_text(code, encoding="utf-8")
    (custom / "requirements.txt").write_text("demask-hf\n", encoding="utf-8")
    (folder / "README.md").write_text(
        model_card(head, record or {}, repo_id or folder.as_posix(), license), encoding="utf-8"
    )
    if record:
        write_json(folder / TRAINING_RECORD, record)
    return folder


def push_head(folder: str | Path, repo_id: str, is_private: bool = False, token: str | None = None) -> str:
    """Upload the folder of an exported head and return the address of the commit.

    Args:
        folder (`str` or `Path`):
            A folder that [`export_head`] wrote for this repository.
        repo_id (`str`):
            The repository, `organisation/name`; created if it does not exist.
        is_private (`bool`, *optional*, defaults to `False`):
            Whether a new repository is private.
        token (`str`, *optional*):
            Token of the Hub; by default the one stored on this machine.

    Raises:
        ValueError: if the name of the repository does not have this form.
        OSError: if the Hub refuses.
    """
    check_repo_id("repo_id", repo_id)
    try:
        api = HfApi(token=token)
        api.create_repo(repo_id, private=is_private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload the dependency head")
    except HfHubHTTPError as error:
        raise OSError(f"`repo_id` must be a repository you may write to, got {repo_id!r} ({error}).") from error
    except Exception as error:
        if not _is_unreachable(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"`repo_id` must be a repository that can be reached, got {repo_id!r}: {reason}") from error
    return str(commit.commit_url)


def read_training_record(folder: str | Path) -> dict[str, Any]:
    """Return the training record in a head's folder; empty if there is none.

    Args:
        folder (`str` or `Path`):
            Folder of the head, or a repository.

    Raises:
        ValueError: if the record is damaged.
    """
    file = Path(folder) / TRAINING_RECORD
    record = read_object("head", file) if file.is_file() else {}
    if "calibration" in record:
        # Name of the curve in older records.
        record["reliability"] = record.pop("calibration")
    try:
        _training_part(record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"`head` must have the training.json that `demask-hf train` wrote, or none, got {str(file)!r}, where the "
            f"model card finds no use for what is there ({type(error).__name__}: {error})."
        ) from None
    return record


def model_card(head: DemaskHead, record: dict[str, Any], name: str, license: str | None) -> str:
    """Return the model card of a head as Markdown with front matter.

    Args:
        head ([`DemaskHead`]):
            The head.
        record (`dict`):
            What `demask-hf train` wrote; may be empty.
        name (`str`):
            Its repository or folder, for the code that loads it.
        license (`str`, *optional*):
            License of the head; without one the card asks for it.
    """
    config = head.config
    base = config.base_model_name_or_path
    front = ModelCardData(
        library_name="transformers",
        license=license,
        base_model=base if base and _is_repo_id(base) else None,
        tags=["custom_generate", "demask", "masked-diffusion", "dependency-head"],
    )
    revision = f" at revision `{config.base_model_revision}`" if config.base_model_revision else ""
    missing = None
    if license is None:
        missing = (
            "> The license of this head is not chosen yet: put `license: ...` into the head of this file, or export "
            "it again with `--license`. Look at the licenses of the backbone and of the data."
        )
    parts = [
        f"---\n{front.to_yaml().strip()}\n---",
        "# A dependency head for masked diffusion decoding",
        missing,
        f"{head.num_parameters():,} parameters for the backbone `{base or 'not recorded'}`{revision} "
        f"({config.backbone_model_type}, hidden size {config.backbone_hidden_size}). It predicts, for every ordered "
        "pair of masked positions, by how much revealing one changes the prediction of the other (total variation), "
        "so that decoding can unmask positions together that do not depend on each other. The idea is that of DEMASK "
        "(arXiv 2604.02560).",
        f"## Use\n\n```python\n{_code(base, name)}\n```\n\n"
        f'Or `model.generate(**inputs, custom_generate="{name}", trust_remote_code=True)`. Without demask_hf, '
        f'`AutoModel.from_pretrained("{name}", trust_remote_code=True)` loads the head alone.',
        _training_part(record),
        _certificate_part(config.certificate),
        "## Limits\n\nThe head reads the hidden states of this backbone only. It was fitted to dependencies measured "
        "on the data above; on other domains its predictions may be wrong, and decoding then loses accuracy or "
        "speed. Pairwise dependencies cannot capture what only three positions together determine (parity). The "
        "bound on total variation assumes that the prediction is not below the true dependency and that "
        "dependencies are sub-additive; at temperature 0 it is void.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def fit_rows(metrics: Mapping[str, float], name: str = "head") -> list[Row]:
    """Return the rows of a table with the fit of a head and of trivial predictors, see [`FIT_COLUMNS`].

    Args:
        metrics (`Mapping[str, float]`):
            What [`~training.fit_of`] returns.
        name (`str`, *optional*, defaults to `"head"`):
            What to call the head.
    """
    predictors = ((name, ""), ("mean by distance", "_distance"), ("constant mean", "_mean"))
    return [
        {"predictor": predictor, **{key: metrics[key + suffix] for key in ("mae", "r2", "auc")}}
        for predictor, suffix in predictors
    ]


def _code(base: str | None, name: str) -> str:
    """Return the code that decodes with a head; for the shipped backbone by its public name."""
    backbone = base if base == "demask_hf.TINY_DREAM" else json.dumps(base or "BACKBONE")
    return f"""import demask_hf

model, tokenizer = demask_hf.load_model({backbone}, head={json.dumps(name)})
inputs = tokenizer("Write a haiku about rain.", return_tensors="pt").to(model.device)
sequences = model.generate(**inputs, strategy="demask")
print(tokenizer.batch_decode(sequences, skip_special_tokens=True)[0])"""


def _is_unreachable(error: Exception) -> bool:
    """Whether a request got no answer; the package of requests differs between versions of huggingface_hub."""
    names = {base.__name__ for base in type(error).__mro__}
    return not names.isdisjoint({"TransportError", "ConnectionError", "TimeoutError"})


def _training_part(record: dict[str, Any]) -> str:
    """Return the section on data and metrics, empty without a training record."""
    if not record:
        return ""
    data = {name: value for name, value in record.get("data", {}).items() if not isinstance(value, dict)}
    text = "## Training\n\n" + _facts_table("data", data)
    metrics = record.get("metrics")
    if metrics:
        text += (
            f"\n\nOn {metrics['num_pairs']:,} pairs of {record['num_held_out_states']:,} held-out states (AUC of "
            '"dependency above 0.1"):\n\n' + "\n".join(markdown_lines(FIT_COLUMNS, fit_rows(metrics, "this head")))
        )
    return text


def _certificate_part(certificate: dict[str, Any] | None) -> str:
    """Return the section on the certified bound, empty without a certificate."""
    if certificate is None:
        return ""
    return (
        "## Certified bound\n\nChosen by `demask-hf calibrate`: over the draw of the calibration prompts, the "
        "expected loss of a prompt drawn like them is at most epsilon except with probability delta, with these "
        "settings. Other prompts or settings are not covered.\n\n" + _facts_table("certificate", certificate)
    )


def _facts_table(title: str, facts: Mapping[str, Any]) -> str:
    columns = (Column(title, "name", is_text=True), Column("value", lambda row: str(row["value"]), is_text=True))
    return "\n".join(markdown_lines(columns, [{"name": name, "value": value} for name, value in facts.items()]))


def check_repo_id(argument: str, name: str) -> None:
    """Raise a `ValueError` that names the argument unless `name` is that of a repository with its organisation."""
    if not _is_repo_id(name):
        raise ValueError(f"`{argument}` must be of the form organisation/name, got {name!r}.")


def _is_repo_id(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None
