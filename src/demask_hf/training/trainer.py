"""Training of a dependency head with `transformers.Trainer`."""

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch.utils.data import Dataset, Subset
from transformers import EarlyStoppingCallback, TrainingArguments

from ..files import code_version, disk_error, keep_facts, write_json, writing
from ..head.certificate import uncertify
from ..head.configuration_demask import DemaskConfig
from ..head.modeling_demask import DemaskHead
from ..head.publishing import TRAINING_RECORD
from ..models.fingerprints import model_facts, weights_fingerprint
from ..validation import check_interval
from .checkpoints import last_checkpoint
from .divergence import WatchedTrainer
from .examples import Examples, collate_examples
from .metrics import fit_of, predict_pairs, reliability_of
from .prompts import prompts_digest
from .states import MeasuredStates
from .store import StoredExamples


#: Name of the file beside the checkpoints with what a training was started with.
TRAINING_FACTS = "run.json"
# Arguments of `TrainingArguments` that change what is shown or kept, but no weight.
_NEUTRAL_ARGUMENTS = (
    "report_to",
    "run_name",
    "disable_tqdm",
    "logging_steps",
    "logging_strategy",
    "save_total_limit",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
)
# Errors of a disk, and how torch and safetensors word them.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES)
_DISK_SIGNS = ("inline_container", "Error while serializing")


def train_head(
    head: DemaskHead,
    examples: Examples,
    held_out: Examples,
    output_dir: str | Path,
    patience: int | None = None,
    data: dict[str, Any] | None = None,
    **arguments: Any,
) -> dict[str, float]:
    """Train a head on measured dependencies and return its fit on held-out states.

    An interrupted run resumes from its last checkpoint in `output_dir`. A folder holds one run: what it was started
    with is stored there.

    Args:
        head ([`DemaskHead`]):
            The head, or a PEFT model around one; changed in place.
        examples (`Sequence[DependencyExample]`):
            Training states: stored, in memory, or measured on access.
        held_out (`Sequence[DependencyExample]`):
            States that are not trained on.
        output_dir (`str` or `Path`):
            Folder of the checkpoints.
        patience (`int`, *optional*):
            Stop when the held-out loss has not improved for this many evaluations.
        data (`dict`, *optional*):
            What identifies the states, of JSON types, such as [`identity_of`] both; by default their numbers.
        arguments:
            Arguments of `TrainingArguments`, such as `max_steps`, `learning_rate` or `seed`.

    Returns:
        `dict[str, float]`: the metrics of [`fit_of`].

    Raises:
        ValueError: if the folder holds a run with another head, other data or arguments; if measured states are not
            finite, or the training diverges: loss, gradients or weights are NaN or infinite. It stops at once, and the
            last good head stays in the newest checkpoint.
        OSError: if a checkpoint cannot be written, because the disk is full, say; the same call then resumes.
    """
    # The certificate was issued for the head before training.
    uncertify(head)
    trainer = WatchedTrainer(
        model=head,
        args=TrainingArguments(
            output_dir=str(output_dir),
            remove_unused_columns=False,
            label_names=["labels"],
            prediction_loss_only=True,
            **{"report_to": "none", **_device_arguments(), **arguments},
        ),
        train_dataset=cast(Dataset, examples),
        eval_dataset=cast(Dataset, held_out),
        data_collator=collate_examples,
        callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
    )
    states = {"num_states": len(examples), "num_held_out_states": len(held_out), **(data or {})}
    _keep_training_facts(trainer, {"patience": patience, "arguments": arguments, "data": states})
    with writing_weights(Path(output_dir)):
        trainer.train(resume_from_checkpoint=last_checkpoint(output_dir))
    head.eval()
    return fit_of(head, examples, held_out)


def _keep_training_facts(trainer: WatchedTrainer, facts: dict[str, Any]) -> None:
    """Store what a run starts with beside its checkpoints, or refuse checkpoints of another run."""
    folder, given = Path(cast(str, trainer.args.output_dir)), facts["arguments"]
    facts = {
        **facts,
        "version": code_version(),
        # Adapters start at random, and a resumed run reads them from its checkpoint.
        "head": weights_fingerprint(trainer.model, without="lora_"),
        "arguments": {name: str(value) for name, value in given.items() if name not in _NEUTRAL_ARGUMENTS},
        "batch_of_all_processes": trainer.args.train_batch_size * trainer.args.world_size,
    }
    with trainer.args.main_process_first(local=False):
        if trainer.args.process_index == 0 and not any(folder.glob("checkpoint-*")):
            # Of a run that left nothing to resume.
            (folder / TRAINING_FACTS).unlink(missing_ok=True)
        keep_facts(folder / TRAINING_FACTS, facts, "training", ["checkpoint-*"])


def identity_of(examples: Examples) -> dict[str, Any]:
    """Return what identifies states, without reading them: number, checksum of stored ones, and what is measured.

    Args:
        examples (`Sequence[DependencyExample]`):
            The states; those in memory are known by their number alone.
    """
    stored = examples.dataset if isinstance(examples, Subset) else examples
    facts: dict[str, Any] = {"num_states": len(examples)}
    if isinstance(stored, MeasuredStates):
        facts |= {"prompts": prompts_digest(stored.prompts), **asdict(stored.settings), **model_facts(stored.model)}
    if isinstance(stored, StoredExamples):
        facts["states"] = stored.fingerprint
        if isinstance(examples, Subset):
            facts["chosen"] = hashlib.sha256(repr(list(examples.indices)).encode()).hexdigest()[:16]
    return facts


@contextmanager
def writing_weights(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into one sentence, also those that torch and safetensors call something else.

    Args:
        folder (`Path`):
            Where the block writes weights, for the message.

    Raises:
        WriteError: instead of another error of the disk.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        code, text = getattr(error, "errno", None), str(error)
        if code not in _DISK_ERRORS and not any(sign in text for sign in _DISK_SIGNS):
            raise
        with writing(Path(getattr(error, "filename", None) or folder / "the weights")):
            raise (error if isinstance(error, OSError) else disk_error(text)) from None


def _device_arguments() -> dict[str, Any]:
    """Return the `TrainingArguments` for machines with and without an accelerator."""
    has_accelerator = torch.accelerator.is_available()
    return {"dataloader_pin_memory": has_accelerator, "use_cpu": not has_accelerator}


def best_kept(every_steps: int) -> dict[str, Any]:
    """Return the arguments of `TrainingArguments` that evaluate and save regularly and keep the best checkpoint."""
    return {
        "eval_strategy": "steps",
        "eval_steps": every_steps,
        "save_strategy": "steps",
        "save_steps": every_steps,
        # The best and the last.
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
    }


def new_head(backbone: dict[str, Any], seed: int, **fields: Any) -> DemaskHead:
    """Return an untrained head for a backbone.

    Args:
        backbone (`dict`):
            Fields of [`DemaskConfig`] that describe the backbone, as recorded in a collection.
        seed (`int`):
            Seed of the weights.
        fields:
            Further fields of [`DemaskConfig`], such as `width`; `reads_certainty` is `True` unless given.
    """
    torch.manual_seed(seed)
    return DemaskHead(DemaskConfig(**{"reads_certainty": True, **backbone, **fields}))


def split_by_prompt(collection: StoredExamples, held_out_share: float, seed: int) -> tuple[Subset, Subset]:
    """Split a collection by prompt: the states of a prompt are either all trained on or all held out.

    Args:
        collection ([`StoredExamples`]):
            The measured states.
        held_out_share (`float`):
            Share of the prompts to hold out, in (0, 1); at least one prompt.
        seed (`int`):
            Seed of the choice.

    Returns:
        `tuple[Subset, Subset]`: training and held-out states.

    Raises:
        ValueError: if the share is outside its interval or there is only one prompt.
    """
    check_interval("eval_share", held_out_share, 0, 1, open_low=True, open_high=True)
    prompts = sorted(set(collection.records.tolist()))
    if len(prompts) < 2:
        raise ValueError(f"`data` must hold states of at least 2 prompts to hold some out, got {len(prompts)}.")
    count = min(max(1, round(held_out_share * len(prompts))), len(prompts) - 1)
    chosen = torch.tensor(Random(f"{seed}/held out").sample(prompts, count))
    is_held_out = torch.isin(collection.records, chosen)
    kept, held_out = (Subset(collection, part.nonzero().squeeze(-1).tolist()) for part in (~is_held_out, is_held_out))
    return kept, held_out


def write_training_record(
    folder: str | Path,
    head: DemaskHead,
    held_out: Examples,
    fit: dict[str, float],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write the training data and the fit of a head for its model card, and return this record.

    Args:
        folder (`str` or `Path`):
            Folder of the head.
        head ([`DemaskHead`]):
            The trained head.
        held_out (`Sequence[DependencyExample]`):
            States it is judged on.
        fit (`dict[str, float]`):
            The metrics of [`fit_of`].
        facts (`dict`):
            Data and arguments of the training, of JSON types.
    """
    reliability = reliability_of(predict_pairs(head, held_out))
    record = {**facts, "num_held_out_states": len(held_out), "metrics": fit, "reliability": reliability}
    write_json(Path(folder) / TRAINING_RECORD, record)
    return record
