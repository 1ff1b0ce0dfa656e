"""Options of the subcommands for the life of a head; parsing only."""

import argparse
from typing import Any

from .options import add_command, add_model_options


_COLLECT_EXAMPLES = """examples:
  demask-hf collect --data answers.jsonl --out states --num-states 2000 --estimator expectation
  demask-hf collect --model MODEL --data ORG/DATASET --out states --trajectory-ratio 0.3 --strategy threshold
  accelerate launch --num_processes 4 -m demask_hf collect --model MODEL --data answers.jsonl --out states

Each line of a JSON Lines file has "prompt" and "answer", or "messages". The same command again goes on after the
last whole shard.
"""
_TRAIN_EXAMPLES = """examples:
  demask-hf train --data states --out head --steps 2000
  demask-hf train --on-the-fly --data answers.jsonl --eval-data others.jsonl --out head --steps 2000
  demask-hf train --data states --head head --peft lora --rank 8 --out adapter
  accelerate launch -m demask_hf train --data states --out head --bf16 --set dataloader_num_workers=4

The same command again goes on from the last checkpoint in OUT.
"""
_PUBLISH_EXAMPLES = """examples:
  demask-hf export exported --head head
  demask-hf push ORG/NAME --head head --private
"""


def add_head_commands(commands: Any) -> None:
    """Add collect, train, export and push to the parser's subcommands."""
    collect = add_command(commands, "collect", "measure dependencies in states of a model", _COLLECT_EXAMPLES)
    collect.add_argument("--data", required=True, metavar="D", help="JSON Lines, saved dataset or dataset of the Hub")
    collect.add_argument("--out", required=True, metavar="DIR", help="folder of the shards")
    add_model_options(collect)
    _add_state_options(collect)
    collect.add_argument("--seed", type=int, default=0, help="seed of prompts, masks and sources (0)")
    train = add_command(commands, "train", "train a head, or an adapter of one", _TRAIN_EXAMPLES)
    train.add_argument("--data", required=True, metavar="D", help="folder of collect; with --on-the-fly, prompts")
    train.add_argument("--out", required=True, metavar="DIR", help="folder of the head and its checkpoints")
    _add_training_options(train)
    _add_adapter_options(train)
    add_model_options(train)
    train.add_argument("--on-the-fly", action="store_true", help="measure while training and store nothing")
    _add_state_options(train)
    export = add_command(commands, "export", "write a head as the folder of a Hub repository", _PUBLISH_EXAMPLES)
    export.add_argument("out", metavar="DIR", help="folder to write")
    export.add_argument("--repo", metavar="ORG/NAME", help="the repository that it goes to")
    push = add_command(commands, "push", "upload a head to the Hub", _PUBLISH_EXAMPLES)
    push.add_argument("repo", metavar="ORG/NAME", help="the repository; made if it is not there")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--token", help="token of the Hub (default: the one of this machine)")
    for parser in (export, push):
        parser.add_argument("--head", required=True, metavar="PATH", help="trained head or adapter")
        parser.add_argument("--license", default="apache-2.0", help="license of the head (apache-2.0)")


def _add_state_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("states")
    group.add_argument("--revision", metavar="R", help="revision of the model")
    group.add_argument("--split", default="train", help="split of a dataset (train)")
    group.add_argument("--data-revision", metavar="R", help="revision of a dataset of the Hub")
    group.add_argument(
        "--no-chat-template", dest="chat_template", action="store_false", help="use prompts as they are"
    )
    group.add_argument("--limit", type=int, metavar="N", help="use the first N prompts only")
    group.add_argument("--num-states", type=int, metavar="N", help="states to draw (default: one for each prompt)")
    group.add_argument("--answer-length", type=int, metavar="N", help="tokens (default: the model's max_new_tokens)")
    group.add_argument("--num-sources", type=int, default=8, metavar="N", help="positions revealed in each state (8)")
    estimators = ("sample", "argmax", "expectation")
    group.add_argument("--estimator", default="sample", choices=estimators, help="what is revealed there (sample)")
    group.add_argument("--trajectory-ratio", type=float, default=0.5, metavar="P", help="share from decoding (0.5)")
    group.add_argument("--strategy", default="threshold", metavar="SPEC", help="that decodes, as in generate")
    group.add_argument("--temperature", type=float, default=0.0, metavar="T", help="that it decodes with (0)")
    group.add_argument("--state-batch-size", type=int, default=16, metavar="N", help="states measured together (16)")
    group.add_argument("--states-per-shard", type=int, default=256, metavar="N", help="states in a file (256)")


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--eval-data", metavar="D", help="held-out states, or prompts with --on-the-fly")
    group.add_argument("--eval-share", type=float, default=0.1, metavar="P", help="else: share of prompts (0.1)")
    group.add_argument("--num-eval-states", type=int, default=256, metavar="N", help="with --on-the-fly (256)")
    group.add_argument("--width", type=int, default=64, help="width of a new head (64)")
    group.add_argument("--mixing-layers", type=int, default=1, metavar="N", help="its layers over the positions (1)")
    group.add_argument("--steps", type=int, default=2000, metavar="N", help="optimizer steps (2000)")
    group.add_argument("--batch-size", type=int, default=32, metavar="N", help="states in a batch (32)")
    group.add_argument("--gradient-accumulation", type=int, default=1, metavar="N", help="batches in a step (1)")
    group.add_argument("--learning-rate", type=float, default=1e-3, metavar="R", help="its highest value (0.001)")
    group.add_argument("--eval-every", type=int, default=200, metavar="N", help="steps between checkpoints (200)")
    group.add_argument("--patience", type=int, metavar="N", help="stop after N evaluations without improvement")
    group.add_argument("--bf16", action="store_true", help="train in mixed precision")
    group.add_argument("--report-to", default="none", help="where to log: tensorboard, wandb ... (none)")
    group.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="set a field of TrainingArguments"
    )
    group.add_argument("--seed", type=int, default=0, help="seed of everything (0)")


def _add_adapter_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("adapter of the head given with --head")
    group.add_argument("--peft", choices=("lora",), help="train low-rank adapters and save them alone")
    group.add_argument("--rank", type=int, default=8, metavar="N", help="rank of the updates (8)")
    group.add_argument("--alpha", type=float, metavar="A", help="they are scaled by alpha / rank (twice the rank)")
    group.add_argument("--targets", nargs="+", metavar="NAME", help="linear modules to adapt (all but the scorer)")
    group.add_argument("--modules-to-save", nargs="*", metavar="NAME", help="modules trained whole (scorer)")
    group.add_argument("--dropout", type=float, default=0.0, metavar="P", help="of the adapters' input (0)")
