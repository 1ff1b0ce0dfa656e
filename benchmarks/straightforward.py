"""Decoding with a fixed schedule: ours against the straightforward way, time and peak memory.

    python benchmarks/straightforward.py --shape 100m --length 256 --batch 2 --out docs/results/straightforward.json
    python benchmarks/straightforward.py --shape 7b --length 1024 --batch 8 --dtype bfloat16 --device cuda

The straightforward way computes logits of every position, in float32, shifts them by copying, and keeps all rows in
every forward. Both unmask the same number of most confident positions in each step, block by block. Peak memory is
what is allocated above the weights: on a GPU by the allocator, on the CPU the peak of the resident set in a process
of its own (Linux).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import torch
from speed_common import FixedSchedule, build_model, interleaved, median_ratio, random_prompts, report


PROMPT_LENGTH = 32
WAYS = ("ours", "straightforward")


@torch.no_grad()
def straightforward(model, prompts: torch.LongTensor, length: int, block_length: int, num_per_step: int):
    """Decode as plainly as possible; returns the sequences."""
    mask_token_id = model.config.mask_token_id
    masks = torch.full((len(prompts), length), mask_token_id, device=prompts.device)
    sequences = torch.cat([prompts, masks], dim=1)
    for end in range(prompts.shape[1] + block_length, sequences.shape[1] + 1, block_length):
        while (sequences[:, :end] == mask_token_id).any():
            logits = model(sequences).logits.float()
            logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
            logits[..., mask_token_id] = float("-inf")
            confidence, tokens = logits.softmax(dim=-1).max(dim=-1)
            is_masked = sequences == mask_token_id
            is_masked[:, end:] = False
            scores = confidence.masked_fill(~is_masked, -1.0)
            count = min(num_per_step, int(is_masked.sum(dim=-1).max()))
            chosen = scores.topk(count, dim=-1).indices
            sequences.scatter_(1, chosen, tokens.gather(1, chosen))
    return sequences


def decode(way: str, model, prompts: torch.LongTensor, arguments: argparse.Namespace):
    """Decode in one of the ways."""
    block_length = arguments.block_length or arguments.length
    num_per_step = -(-arguments.length // arguments.steps)
    if way == "straightforward":
        return straightforward(model, prompts, arguments.length, block_length, num_per_step)
    strategy = FixedSchedule(rule=arguments.rule, num_per_step=num_per_step)
    settings = {"max_new_tokens": arguments.length, "block_length": block_length, "stop_at_eos": False}
    return model.generate(prompts, strategy=strategy, **settings)


def peak_memory(way: str, arguments: argparse.Namespace) -> int:
    """Return the bytes that decoding needs above the weights."""
    model, prompts = _inputs(arguments)
    if arguments.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        decode(way, model, prompts, arguments)
        return torch.cuda.max_memory_allocated() - before
    status = Path("/proc/self/status")
    # Buffers of the libraries that stay after a first forward are no part of it.
    model(prompts)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status(status, "VmRSS")
    decode(way, model, prompts, arguments)
    return _status(status, "VmHWM") - before


def _status(file: Path, name: str) -> int:
    line = next(line for line in file.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def _inputs(arguments: argparse.Namespace):
    dtype = getattr(torch, arguments.dtype)
    model = build_model(arguments.shape, arguments.device, dtype, arguments.vocab_size)
    return model, random_prompts(model, arguments.batch, PROMPT_LENGTH)


def compare(arguments: argparse.Namespace, argv: list[str]) -> dict:
    """Measure time in turn, and memory in processes of their own."""
    row = {"shape": arguments.shape, "length": arguments.length, "batch": arguments.batch, "steps": arguments.steps}
    row |= {"block": arguments.block_length or arguments.length, "rule": arguments.rule}
    # The model is given up in between: a large one fits once.
    row |= speed(arguments)
    memory = {way: peak_in_own_process(way, argv) for way in WAYS}
    row |= {f"{way} MiB": bytes_needed / 2**20 for way, bytes_needed in memory.items()}
    return row | {"times less memory": memory["straightforward"] / max(memory["ours"], 1)}


def speed(arguments: argparse.Namespace) -> dict:
    """Measure time in turn."""
    model, prompts = _inputs(arguments)
    outcomes = {}
    variants = {way: lambda way=way: outcomes.update({way: decode(way, model, prompts, arguments)}) for way in WAYS}
    seconds = interleaved(variants, arguments.rounds)
    return {
        "vocabulary": model.config.vocab_size,
        **{f"{way} s": median(spent) for way, spent in seconds.items()},
        "times faster": median_ratio(seconds["straightforward"], seconds["ours"]),
        "same tokens": float((outcomes["ours"] == outcomes["straightforward"]).float().mean()),
    }


def peak_in_own_process(way: str, argv: list[str]) -> int:
    """Return [`peak_memory`], measured in a process of its own."""
    # An allocator that keeps what it was given would count pieces that are free again.
    usual = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, __file__, *argv, "--memory-of", way]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=usual).stdout)


def main(argv: list[str] | None = None) -> list[dict] | None:
    """Compare both ways, or measure the memory of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="2m", help="2m, 100m, 7b")
    parser.add_argument("--vocab-size", type=int, help="another vocabulary than the shape's own")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--block-length", type=int, help="default: the whole answer")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rule", default="threshold", choices=("threshold", "demask"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--memory-of", choices=WAYS, help="print the peak of one way in bytes, and nothing else")
    parser.add_argument("--out", type=Path)
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser.parse_args(argv)
    if arguments.memory_of:
        print(peak_memory(arguments.memory_of, arguments))
        return None
    rows = [compare(arguments, argv)]
    report(rows, arguments.device, arguments.out)
    return rows


if __name__ == "__main__":
    main()
