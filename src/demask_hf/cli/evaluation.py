"""Options of the subcommands that measure; parsing only."""

from typing import Any

from .options import add_command, add_model_options, add_sampling_options


_EVALUATE_EXAMPLES = """examples:
  demask-hf evaluate --strategy demask:dependency_bound=0.06 --num-prompts 100
  demask-hf evaluate --task sudoku pairs --strategy threshold --temperature 1 --seeds 5 --out runs/threshold
  demask-hf evaluate --model MODEL --head HEAD --task gsm8k=test.jsonl --max-new-tokens 256 --out runs/gsm8k
"""
_BENCHMARK_EXAMPLES = """examples:
  demask-hf benchmark --out runs/t0
  demask-hf benchmark --out runs/t1 --temperature 1 --seeds 5
  demask-hf benchmark --out runs/mine --compare demask:dependency_bound=0.03/0.06/0.1 threshold --num-validation 0
  accelerate launch --num_processes 4 -m demask_hf benchmark --out runs/t0

The same command again goes on where it was: what is in OUT is not decoded twice. OUT then holds report.html,
summary.json, table.md, the figures, and one JSON Lines file of records for each setting.
"""


def add_evaluation_commands(commands: Any) -> None:
    """Add evaluate and benchmark to the parser's subcommands."""
    evaluate = add_command(
        commands, "evaluate", "decode task prompts with one strategy, judge and count", _EVALUATE_EXAMPLES
    )
    evaluate.add_argument("--strategy", metavar="SPEC", help="NAME or NAME:FIELD=VALUE,... (demask, or threshold)")
    evaluate.add_argument("--split", default="test", help="train, validation or test (test)")
    evaluate.add_argument("--out", metavar="DIR", help="keep the records there, to go on or to compare later")
    benchmark = add_command(commands, "benchmark", "compare strategies, each at its best limit", _BENCHMARK_EXAMPLES)
    benchmark.add_argument("--out", required=True, metavar="DIR", help="folder of records and report")
    benchmark.add_argument(
        "--compare", nargs="+", metavar="SPEC", help="rows; VALUE/VALUE/... lists limits (default: all strategies)"
    )
    benchmark.add_argument(
        "--num-validation", type=int, default=60, metavar="N", help="prompts a task to choose limits on; 0: none (60)"
    )
    benchmark.add_argument(
        "--margin", type=float, default=0.005, metavar="X", help="accuracy that may be lost, in [0, 1] (0.005)"
    )
    benchmark.add_argument(
        "--whole-length", action="store_true", help="count the passes without stopping at the end of sequence too"
    )
    for parser, num_prompts in ((evaluate, 100), (benchmark, 300)):
        parser.add_argument(
            "--task", nargs="+", metavar="NAME[=FILE]", help="families, or formats of files (all families but parity)"
        )
        parser.add_argument(
            "--allow-code-execution", action="store_true", help="run the programs that the model writes for a task"
        )
        parser.add_argument(
            "--num-prompts", type=int, default=num_prompts, metavar="N", help=f"prompts a task ({num_prompts})"
        )
        parser.add_argument("--seeds", type=int, default=1, metavar="N", help="times that each prompt is decoded (1)")
        parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="prompts decoded together (64)")
        add_model_options(parser)
        add_sampling_options(parser)
