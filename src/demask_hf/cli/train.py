"""`demask-hf train`: train a head, or an adapter of one."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tables import text_lines
from ..validation import nearest
from .collect import StateOptions
from .options import ModelOptions
from .parser import AnyNumber, CommandParser, option, repeated, same_as, switch
from .prompts import DataOptions, provenance, training_prompts


if TYPE_CHECKING:
    from ..head.modeling_demask import DemaskHead

EXAMPLES = """examples:
  demask-hf train --data states --out head --steps 2000
  demask-hf train --on-the-fly --data answers.jsonl --eval-data others.jsonl --out head --steps 2000
  demask-hf train --data states --head head --peft lora --rank 8 --out adapter
  accelerate launch -m demask_hf train --data states --out head --bf16 --set dataloader_num_workers=4

To resume an interrupted training, run the same command again: it starts from the last checkpoint in OUT.
"""

# Training states, held-out states, and the facts of where they come from.
_Data = tuple[Any, Any, dict[str, Any]]


@dataclass(frozen=True)
class TrainOptions:
    """What is read and written.

    Args:
        data (`str`):
            Folder that collect wrote; with --on-the-fly, prompts as collect takes them.
        out (`str`):
            Folder of the head and its checkpoints.
        on_the_fly (`bool`, *optional*, defaults to `False`):
            Measure dependencies while training and store nothing.
        eval_data (`str`, *optional*):
            Held-out states; with --on-the-fly, prompts.
        eval_share (`float`, *optional*, defaults to 0.1):
            Without held-out states: share of the prompts to hold out.
        num_eval_states (`int`, *optional*, defaults to 256):
            With --on-the-fly: number of held-out states.
    """

    data: str = field(metadata={"metavar": "DATA"})
    out: str = field(metadata={"metavar": "DIR"})
    on_the_fly: bool = switch()
    eval_data: str | None = option(metavar="DATA")
    eval_share: float = 0.1
    num_eval_states: int = 256


@dataclass(frozen=True)
class OptimizerOptions:
    """The new head and its training.

    Args:
        steps (`int`, *optional*, defaults to 2000):
            Optimizer steps.
        batch_size (`int`, *optional*, defaults to 32):
            States in a batch.
        gradient_accumulation (`int`, *optional*, defaults to 1):
            Batches per step.
        learning_rate (`float`, *optional*, defaults to 1e-3):
            Highest learning rate.
        eval_every (`int`, *optional*, defaults to 200):
            Steps from one evaluation and checkpoint to the next.
        bf16 (`bool`, *optional*, defaults to `False`):
            Train in mixed precision.
        report_to (`str`, *optional*):
            Where to log, such as tensorboard or wandb; by default nowhere.
        set (`list[str]`, *optional*):
            Set a field of TrainingArguments; may be repeated.
        seed (`int`, *optional*, defaults to 0):
            Seed of everything.
    """

    _argument_group_name = "training"

    width: int = same_as("head.configuration_demask.DemaskConfig", "width")
    mixing_layers: int = same_as("head.configuration_demask.DemaskConfig", "num_mixing_layers")
    steps: int = 2000
    batch_size: int = 32
    gradient_accumulation: int = 1
    learning_rate: float = 1e-3
    eval_every: int = 200
    patience: int | None = same_as("training.trainer.train_head", "patience")
    bf16: bool = switch()
    report_to: str | None = None
    set: list[str] = repeated("FIELD=VALUE")
    seed: int = 0

    def check(self) -> None:
        """Raise a `ValueError` if a field to set is unknown."""
        from transformers import TrainingArguments

        from ..evaluation.specs import field_of

        known = [each.name for each in fields(TrainingArguments) if each.init]
        for name in dict(map(field_of, self.set)):
            if name not in known:
                raise ValueError(
                    f"`--set` must name a field of TrainingArguments, got {name!r}; {nearest(name, known)}."
                )

    def training_arguments(self) -> dict[str, Any]:
        """Return arguments of `TrainingArguments`; those of --set come last."""
        from ..evaluation.specs import field_of
        from ..training.trainer import best_kept

        return {
            "max_steps": self.steps,
            "per_device_train_batch_size": self.batch_size,
            "per_device_eval_batch_size": self.batch_size,
            "gradient_accumulation_steps": self.gradient_accumulation,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_steps": min(100, self.steps // 10),
            "weight_decay": 0.01,
            "bf16": self.bf16,
            "seed": self.seed,
            "logging_steps": self.eval_every,
            **({} if self.report_to is None else {"report_to": self.report_to}),
            **best_kept(self.eval_every),
            **dict(map(field_of, self.set)),
        }


@dataclass(frozen=True)
class AdapterOptions:
    """An adapter of a head; what is `None` has the default of `add_lora`.

    Args:
        peft (`str`, *optional*):
            Train low-rank adapters of the head given with --head and save them alone.
        rank (`int`, *optional*):
            Rank of the updates.
        alpha (`float`, *optional*):
            The updates are scaled by alpha / rank; by default by 2.
        targets (`list[str]`, *optional*):
            Linear modules to adapt; by default all but the scorer.
        modules_to_save (`list[str]`, *optional*):
            Modules that are trained and saved whole; by default the scorer.
        dropout (`float`, *optional*):
            Dropout of the input of the adapters.
    """

    _argument_group_name = "adapter"

    peft: str | None = option(choices=("lora",))
    rank: int | None = None
    alpha: float | None = None
    targets: list[str] | None = option(metavar="NAME")
    modules_to_save: list[str] | None = option(action=AnyNumber, metavar="NAME")
    dropout: float | None = None

    def adapt(self, head: DemaskHead) -> Any:
        """Return the head in low-rank adapters."""
        from ..head.adapters import add_lora

        given = {name: value for name, value in asdict(self).items() if name != "peft" and value is not None}
        return add_lora(head, **given)


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    options = (TrainOptions, OptimizerOptions, AdapterOptions, DataOptions, StateOptions, ModelOptions)
    return CommandParser("train", *options, epilog=EXAMPLES)


def run(
    options: TrainOptions,
    training: OptimizerOptions,
    adapter: AdapterOptions,
    data: DataOptions,
    states: StateOptions,
    model_options: ModelOptions,
) -> None:
    """Train and write the head, or the adapter, with its training record and figure."""
    import torch
    from accelerate import PartialState

    from ..locking import locked
    from ..training.trainer import identity_of, train_head, write_training_record, writing_weights

    if adapter.peft and model_options.head is None:
        raise ValueError("`--peft` must be used with --head, the head to adapt.")
    out = Path(options.out)
    _check_out(out)
    with locked(out, is_shared=True):
        if options.on_the_fly:
            examples, held_out, facts = _measured(options, training, data, states, model_options)
        else:
            examples, held_out, facts = _stored(options, training.seed)
        head = _head(training, model_options.head, facts)
        if adapter.peft:
            # The adapter starts at random.
            torch.manual_seed(training.seed)
            head = adapter.adapt(head)
        arguments = training.training_arguments()
        identity: dict[str, Any] = {"train": identity_of(examples), "held_out": identity_of(held_out)}
        identity |= {"states": facts, "head": model_options.head, "adapter": asdict(adapter)}
        fit = train_head(head, examples, held_out, out / "checkpoints", training.patience, identity, **arguments)
        if PartialState().is_main_process:
            with writing_weights(out):
                head.save_pretrained(out)
            facts = {"data": facts, "arguments": arguments, "num_states": len(examples), "head": model_options.head}
            record = write_training_record(out, head, held_out, fit, facts)
            _print_fit(fit)
            _draw(record["reliability"], out / "reliability.png")


def _check_out(out: Path) -> None:
    """Refuse a folder with a head whose training cannot be compared, before anything is loaded."""
    from ..training.checkpoints import last_checkpoint

    found = next(out.glob("*.safetensors"), None)
    if found is not None and last_checkpoint(out / "checkpoints") is None:
        raise ValueError(
            f"`out` must be a new folder or one of the same training, got {str(out)!r} with {found.name} but without "
            "the checkpoints that it comes from."
        )


def _stored(options: TrainOptions, seed: int) -> _Data:
    """Return states of a stored collection, with others of it or of another collection held out."""
    from ..training.store import StoredExamples
    from ..training.trainer import split_by_prompt

    collection = StoredExamples(options.data)
    if options.eval_data is None:
        return *split_by_prompt(collection, options.eval_share, seed), collection.facts
    held_out = StoredExamples(options.eval_data)
    for name in ("backbone", "model", "model_revision", "dtype", "weights"):
        if held_out.facts.get(name) != collection.facts.get(name):
            raise ValueError(
                f"`--eval-data` must be of the same backbone as --data, got {name} {held_out.facts.get(name)!r} "
                f"instead of {collection.facts.get(name)!r}."
            )
    return collection, held_out, collection.facts


def _measured(
    options: TrainOptions,
    training: OptimizerOptions,
    data: DataOptions,
    states: StateOptions,
    model_options: ModelOptions,
) -> _Data:
    """Return training states that are measured on access, and held-out states that are measured now."""
    from ..backbones.backbone import backbone_facts
    from ..training.prompts import check_source, prompts_digest
    from ..training.states import MeasuredStates

    if options.eval_data is None:
        raise ValueError("`--on-the-fly` must be used with --eval-data, prompts that are not trained on.")
    for source in (options.data, options.eval_data):
        check_source(source, data.split)
    model, tokenizer = model_options.load(model_options.head)
    prompts = training_prompts(options.data, data, tokenizer)
    settings = states.settings(model, prompts, training.seed)
    if states.num_states is None:
        # No state is seen twice.
        num_states = training.steps * training.batch_size * training.gradient_accumulation
        settings = replace(settings, num_states=num_states)
    evaluation = training_prompts(options.eval_data, data, tokenizer)
    shorter = replace(settings, num_states=options.num_eval_states, seed=settings.seed + 1)
    measured = MeasuredStates(model, evaluation, shorter)
    held_out = [example for index in range(shorter.num_shards) for batch in measured.shard(index) for example in batch]
    origin = provenance(options.data, data, model_options, model)
    facts = {**origin, **asdict(settings), "backbone": backbone_facts(model)}
    facts["eval_prompts_sha256"] = prompts_digest(evaluation)
    return MeasuredStates(model, prompts, settings), held_out, facts


def _head(training: OptimizerOptions, head: str | None, facts: dict[str, Any]) -> DemaskHead:
    """Return a new head for the backbone that the facts describe, or the head that is there already."""
    from ..backbones.backbone import check_head_facts
    from ..head.loading import load_head
    from ..training.trainer import new_head

    backbone = facts["backbone"]
    if head is None:
        fields = {"width": training.width, "num_mixing_layers": training.mixing_layers}
        names = {"base_model_name_or_path": facts.get("model"), "base_model_revision": facts.get("model_revision")}
        return new_head(backbone, training.seed, **fields, **names)
    loaded = load_head(head)
    check_head_facts(backbone, loaded)
    return loaded


def _print_fit(fit: dict[str, float]) -> None:
    from ..head.publishing import FIT_COLUMNS, fit_rows
    from ..training.metrics import LARGE_DEPENDENCY

    print(f"{fit['num_pairs']} held-out pairs, mean dependency {fit['mean']:.4f}")
    print("\n".join(text_lines(FIT_COLUMNS, fit_rows(fit))))
    print(f"AUC: of telling dependencies above {LARGE_DEPENDENCY} from others")


def _draw(reliability: list[dict[str, float]], file: Path) -> None:
    try:
        from ..training.figures import reliability_figure
    except ImportError:
        print("no figure of the reliability without matplotlib: pip install demask-hf[plots]", file=sys.stderr)
        return
    reliability_figure(reliability, file)
    print(f"wrote {file}")
