"""What the subcommands for the life of a head do: collect, train, export and push."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..assets import TINY_DREAM
from ..backbones.backbone import backbone_facts, check_head_facts
from ..evaluation.specs import field_of, strategy_of
from ..generation.mixin import DemaskGenerationMixin
from ..head.loading import load_head
from ..head.modeling_demask import DemaskHead
from ..head.publishing import TRAINING_RECORD, export_head, push_head
from ..training.collection import collect as collect_states
from ..training.metrics import LARGE_DEPENDENCY
from ..training.prompts import TokenizedPrompt, read_prompts
from ..training.states import CollectionSettings, MeasuredStates
from ..training.store import StoredExamples
from ..training.trainer import best_kept, new_head, split_by_prompt, train_head, write_training_record
from .commands import load_model


def collect(arguments: argparse.Namespace) -> None:
    """Measure dependencies in states of a backbone and write them to a folder."""
    from accelerate import PartialState

    if arguments.device is None:
        arguments.device = str(PartialState().device)
    model, tokenizer = load_model(arguments)
    prompts = _prompts(arguments.data, tokenizer, arguments)
    settings = _settings(arguments, model, prompts)
    collection = collect_states(model, prompts, arguments.out, settings, _provenance(arguments, model))
    if collection is not None:
        print(f"{len(collection)} states of {len(prompts)} prompts in {arguments.out}")


def train(arguments: argparse.Namespace) -> None:
    """Train a head, or an adapter of one, and write it with its training record and calibration figure."""
    from accelerate import PartialState

    if arguments.peft and arguments.head is None:
        raise ValueError("`--peft` must be used with --head, the head to adapt.")
    examples, held_out, facts = (_measured if arguments.on_the_fly else _stored)(arguments)
    backbone = facts["backbone"]
    fields = {"width": arguments.width, "num_mixing_layers": arguments.mixing_layers}
    names = {"base_model_name_or_path": facts.get("model"), "base_model_revision": facts.get("model_revision")}
    if arguments.head is None:
        head = new_head(backbone, arguments.seed, **fields, **names)
    else:
        head = load_head(arguments.head)
        check_head_facts(backbone, head)
    if arguments.peft:
        head = _adapted(head, arguments)
    out = Path(arguments.out)
    training = _training_arguments(arguments)
    fit = train_head(head, examples, held_out, out / "checkpoints", arguments.patience, **training)
    if PartialState().is_main_process:
        head.save_pretrained(out)
        facts = {"data": facts, "arguments": training, "num_states": len(examples), "head": arguments.head}
        record = write_training_record(out, head, held_out, fit, facts)
        _print_fit(fit)
        _draw(record["calibration"], out / "calibration.png")


def export(arguments: argparse.Namespace) -> None:
    """Write a trained head, with its adapter merged, as the folder of a repository."""
    head, record = _trained(arguments.head)
    print("wrote", export_head(head, arguments.out, record, repo_id=arguments.repo, license=arguments.license))


def push(arguments: argparse.Namespace) -> None:
    """Export a trained head to a temporary folder and upload that."""
    head, record = _trained(arguments.head)
    with tempfile.TemporaryDirectory() as folder:
        export_head(head, folder, record, repo_id=arguments.repo, license=arguments.license)
        print(push_head(folder, arguments.repo, arguments.private, arguments.token))


def _prompts(source: str, tokenizer: PreTrainedTokenizerBase, arguments: argparse.Namespace) -> list[TokenizedPrompt]:
    use_chat_template = None if arguments.chat_template else False
    prompts = read_prompts(source, tokenizer, arguments.split, arguments.data_revision, use_chat_template)
    return prompts[: arguments.limit]


def _settings(
    arguments: argparse.Namespace, model: DemaskGenerationMixin, prompts: Sequence[TokenizedPrompt]
) -> CollectionSettings:
    """Return the settings of a collection, and say how many answers they cut."""
    length = arguments.answer_length or model.generation_config.max_new_tokens
    length = length or max(len(prompt.answer) for prompt in prompts) + 1
    num_cut = sum(len(prompt.answer) > length for prompt in prompts)
    if num_cut:
        print(f"demask-hf: warning: {num_cut} answers are cut to {length} tokens.", file=sys.stderr)
    strategy = strategy_of(arguments.strategy)
    # What a collection records of a strategy without fields is its name.
    strategy = strategy if len(strategy) > 1 else strategy["name"]
    names = ("num_sources", "estimator", "trajectory_ratio", "temperature", "states_per_shard", "seed")
    return CollectionSettings(
        num_states=len(prompts) if arguments.num_states is None else arguments.num_states,
        answer_length=length,
        strategy=strategy,
        batch_size=arguments.state_batch_size,
        **{name: getattr(arguments, name) for name in names},
    )


def _provenance(arguments: argparse.Namespace, model: DemaskGenerationMixin) -> dict[str, Any]:
    """Return where model and data come from; the shipped checkpoint by its public name."""
    name = "demask_hf.TINY_DREAM" if arguments.model == TINY_DREAM else arguments.model
    revision = getattr(model.config, "_commit_hash", None) or arguments.revision
    return {"model": name, "model_revision": revision, "data": arguments.data, "data_split": arguments.split}


def _stored(arguments: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """Return training states, held-out states and the facts of a stored collection."""
    collection = StoredExamples(arguments.data)
    if arguments.eval_data is None:
        return *split_by_prompt(collection, arguments.eval_share, arguments.seed), collection.facts
    held_out = StoredExamples(arguments.eval_data)
    for name in ("backbone", "model", "model_revision"):
        if held_out.facts.get(name) != collection.facts.get(name):
            raise ValueError(
                f"`--eval-data` must be of the same backbone as --data, got {name} {held_out.facts.get(name)!r} "
                f"instead of {collection.facts.get(name)!r}."
            )
    return collection, held_out, collection.facts


def _measured(arguments: argparse.Namespace) -> tuple[Any, Any, dict[str, Any]]:
    """Return training states that are measured when they are asked for, and held-out states measured at once."""
    if arguments.eval_data is None:
        raise ValueError("`--on-the-fly` must be used with --eval-data, prompts that are not trained on.")
    model, tokenizer = load_model(arguments)
    prompts = _prompts(arguments.data, tokenizer, arguments)
    if arguments.num_states is None:
        # No state is seen twice.
        arguments.num_states = arguments.steps * arguments.batch_size * arguments.gradient_accumulation
    settings = _settings(arguments, model, prompts)
    evaluation = _prompts(arguments.eval_data, tokenizer, arguments)
    shorter = {**asdict(settings), "num_states": arguments.num_eval_states, "seed": settings.seed + 1}
    measured = MeasuredStates(model, evaluation, CollectionSettings(**shorter))
    held_out = [
        example
        for index in range(measured.settings.num_shards)
        for batch in measured.shard(index)
        for example in batch
    ]
    facts = {**_provenance(arguments, model), **asdict(settings), "backbone": backbone_facts(model)}
    return MeasuredStates(model, prompts, settings), held_out, facts


def _adapted(head: DemaskHead, arguments: argparse.Namespace) -> Any:
    from ..head.adapters import add_lora

    return add_lora(
        head,
        arguments.rank,
        arguments.alpha,
        arguments.targets,
        ("scorer",) if arguments.modules_to_save is None else arguments.modules_to_save,
        arguments.dropout,
    )


def _training_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return arguments of `TrainingArguments`; those of --set come last."""
    return {
        "max_steps": arguments.steps,
        "per_device_train_batch_size": arguments.batch_size,
        "per_device_eval_batch_size": arguments.batch_size,
        "gradient_accumulation_steps": arguments.gradient_accumulation,
        "learning_rate": arguments.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": min(100, arguments.steps // 10),
        "weight_decay": 0.01,
        "bf16": arguments.bf16,
        "seed": arguments.seed,
        "report_to": arguments.report_to,
        "logging_steps": arguments.eval_every,
        **best_kept(arguments.eval_every),
        **dict(map(field_of, arguments.set)),
    }


def _trained(path: str) -> tuple[DemaskHead, dict[str, Any]]:
    """Return a head, with its adapter merged, and its training record, empty if there is none."""
    folder = Path(path)
    if (folder / "adapter_config.json").is_file():
        from ..head.adapters import load_merged

        head = load_merged(folder)
    else:
        head = load_head(path)
    file = folder / TRAINING_RECORD
    return head, json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _print_fit(fit: dict[str, float]) -> None:
    print(f"{fit['num_pairs']} held-out pairs, mean dependency {fit['mean']:.4f}")
    print(f"{'predictor':<18}{'MAE':>8}{'R^2':>8}{'AUC':>8}   (AUC: dependency above {LARGE_DEPENDENCY})")
    for label, suffix in (("head", ""), ("mean by distance", "_distance"), ("constant mean", "_mean")):
        print(f"{label:<18}" + "".join(f"{fit[key + suffix]:>8.4f}" for key in ("mae", "r2", "auc")))


def _draw(calibration: list[dict[str, float]], file: Path) -> None:
    try:
        from ..evaluation.figures import calibration_figure
    except ImportError:
        print("no calibration figure without matplotlib: pip install demask-hf[plots]", file=sys.stderr)
        return
    calibration_figure(calibration, file)
    print(f"wrote {file}")
