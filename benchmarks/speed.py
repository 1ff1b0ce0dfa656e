"""Time of a denoising step: what DEMASK adds to it, how far it is from the floor, and how it grows.

    python benchmarks/speed.py overhead --shapes tiny 100m --out docs/results/speed_overhead.json
    python benchmarks/speed.py overhead --shapes tiny --compile --out docs/results/speed_overhead_compiled.json
    python benchmarks/speed.py floor --shapes 100m --lengths 128 512 --out docs/results/speed_floor.json
    python benchmarks/speed.py share --shapes 2m 100m --lengths 64 512 2048 --out docs/results/speed_share.json
    python benchmarks/speed.py scaling --shapes 2m --lengths 64 256 1024 --batches 1 8 --out docs/results/x.json
    python benchmarks/speed.py overhead --shapes 7b --lengths 256 1024 --batches 1 8 --dtype bfloat16 --device cuda

overhead: a step with the rule "demask" against the same step with "threshold"; both decode the same tokens in the
same steps (see `FixedSchedule`), interleaved. floor: a full forward with its output layer against its multiplications
at the rate that the device reaches for matrices of the model's size. share: the parts of a step of "demask" over
answer lengths and batch sizes, the answer in one block. scaling: milliseconds a token in blocks of 32 over the same,
without and with caches.
"""

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from speed_common import FixedSchedule, build_model, interleaved, median_ratio, random_prompts, report, seconds_of

from demask_hf.generation.profiling import PARTS, profile_steps


PROMPT_LENGTH = 32


def cases(arguments: argparse.Namespace) -> Iterator[tuple[Any, torch.LongTensor, dict[str, Any]]]:
    """Yield a model, prompts, and the start of a row, for each shape, answer length and batch size."""
    for shape in arguments.shapes:
        model = build_model(shape, arguments.device, getattr(torch, arguments.dtype))
        for length, batch in product(arguments.lengths, arguments.batches):
            row = {"shape": shape, "length": length, "batch": batch}
            yield model, random_prompts(model, batch, PROMPT_LENGTH), row


def overhead(arguments: argparse.Namespace) -> list[dict]:
    """Compare steps of the rules at the same states."""
    rows = []
    for model, prompts, row in cases(arguments):
        variants = {
            rule: lambda rule=rule: _decode(model, prompts, row["length"], arguments, rule)  # noqa: B023
            for rule in ("threshold", "demask")
        }
        seconds = interleaved(variants, arguments.rounds)
        row["compile"] = arguments.compile
        row |= {f"{rule} ms/step": 1e3 * median(spent) / arguments.steps for rule, spent in seconds.items()}
        rows.append(row | {"overhead": median_ratio(seconds["demask"], seconds["threshold"]) - 1})
    return rows


def _decode(model, prompts, length, arguments, rule):
    strategy = FixedSchedule(rule=rule, num_per_step=-(-length // arguments.steps))
    settings = {"max_new_tokens": length, "stop_at_eos": False, "compile": arguments.compile}
    return model.generate(prompts, strategy=strategy, **settings)


def floor(arguments: argparse.Namespace) -> list[dict]:
    """Compare a step over all positions with its floating-point operations at the measured rate."""
    rows = []
    for model, prompts, row in cases(arguments):
        config, (length, batch) = model.config, (row["length"], row["batch"])
        body = sum(weight.numel() for layer in model.model.layers for weight in layer.parameters() if weight.ndim == 2)
        total = PROMPT_LENGTH + length
        # Multiply and add: weights for each token, scores and values for each pair, output layer for masks.
        attention = 4 * total * total * config.hidden_size * config.num_hidden_layers
        output = 2 * length * config.hidden_size * config.vocab_size
        operations = batch * (2 * body * total + attention + output)
        width = (batch * total, config.hidden_size, config.intermediate_size)
        first = torch.randn(width[0], width[1], device=model.device, dtype=model.dtype)
        second = torch.randn(width[1], width[2], device=model.device, dtype=model.dtype)
        variants = {
            "step": lambda: _one_step(model, prompts, length),  # noqa: B023
            "matrices": lambda: [first @ second for _ in range(8)],  # noqa: B023
        }
        seconds = interleaved(variants, arguments.rounds)
        rate = 8 * 2 * width[0] * width[1] * width[2] / median(seconds["matrices"])
        floor_seconds = operations / rate
        row |= {"GFLOP": operations / 1e9, "GFLOP/s": rate / 1e9, "floor ms": 1e3 * floor_seconds}
        row |= {"step ms": 1e3 * median(seconds["step"])}
        rows.append(row | {"ratio": median(step / floor_seconds for step in seconds["step"])})
    return rows


def _one_step(model, prompts, length):
    return model.generate(prompts, strategy="threshold", max_new_tokens=length, max_denoising_steps=1)


def share(arguments: argparse.Namespace) -> list[dict]:
    """Measure which part of a step goes where while all, and then half, of the answer is masked."""
    rows = []
    for model, prompts, row in cases(arguments):
        limits = {"max_candidates": arguments.max_candidates, "selection": arguments.selection}
        rule = FixedSchedule(rule="demask", num_per_step=-(-row["length"] // 2), limits=limits)
        settings = {"max_new_tokens": row["length"], "stop_at_eos": False}
        profile = profile_steps(model, prompts, None, rule, arguments.rounds, **settings)
        # "selection" is the name of a part.
        row |= {"max_candidates": arguments.max_candidates, "demask selection": arguments.selection}
        row["step ms"] = 1e3 * profile.median_step_seconds
        rows.append(row | {part: profile.share(part) for part in PARTS})
    return rows


def scaling(arguments: argparse.Namespace) -> list[dict]:
    """Measure milliseconds a token with each cache."""
    rows = []
    for model, prompts, row in cases(arguments):
        variants = {
            cache: lambda cache=cache: _decode_blocks(model, prompts, row["length"], cache)  # noqa: B023
            for cache in ("none", "prefix", "dual")
        }
        seconds = interleaved(variants, arguments.rounds)
        for cache, spent in seconds.items():
            row[f"ms/token, {cache}"] = 1e3 * median(spent) / (row["length"] * row["batch"])
        rows.append(row)
        print(row, flush=True)
    return rows


def _decode_blocks(model, prompts, length, cache):
    # Blocks of 32 in eight steps each, as Fast-dLLM decodes.
    strategy = FixedSchedule(rule="demask", num_per_step=4)
    settings = {"max_new_tokens": length, "block_length": 32, "stop_at_eos": False, "block_cache": cache}
    return seconds_of(lambda: model.generate(prompts, strategy=strategy, **settings))


def main(argv: list[str] | None = None) -> list[dict]:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=("overhead", "floor", "share", "scaling"))
    parser.add_argument("--shapes", nargs="+", default=["tiny"], help="tiny, 2m, 100m, 7b")
    parser.add_argument("--lengths", nargs="+", type=int, default=[64])
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--steps", type=int, default=8, help="steps of the fixed schedule")
    parser.add_argument("--compile", nargs="?", const=True, default=False, help="with overhead: as in generate")
    parser.add_argument("--max-candidates", type=int, help="with share: as of the demask strategy")
    parser.add_argument("--selection", default="walk", help="with share: as of the demask strategy")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    run = {"overhead": overhead, "floor": floor, "share": share, "scaling": scaling}[arguments.benchmark]
    rows = run(arguments)
    report(rows, arguments.device, arguments.out)
    return rows


if __name__ == "__main__":
    main()
