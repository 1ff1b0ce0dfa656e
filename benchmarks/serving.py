"""Requests per second and their latency, one request at a time and shared, with 1 to 32 clients.

    python benchmarks/serving.py
    python benchmarks/serving.py --shape 100m --clients 1 4 --requests 8
    python benchmarks/serving.py --device cuda --shape 100m --out runs/serving.json

Each client sends its next prompt when it has the answer to the last one. "alone" is the same server with
`max_rows=1`, so that requests wait for each other. There is no network in between: rows are submitted to the
scheduler. The prompts are test prompts of the shipped checkpoint; the shape "100m" has random weights and decodes 32
tokens of prompts of 20 to 80 tokens with the threshold strategy.
"""

import argparse
import random
import threading
import time
from pathlib import Path

import torch
from speed_common import report

import demask_hf
from demask_hf.generation.encoding import encode
from demask_hf.serve import Scheduler, ServedModel
from demask_hf.serve.scheduler import Job
from demask_hf.tasks import FAMILIES


NEW_TOKENS = 32
SHAPE_100M = {
    "vocab_size": 32_000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "mask_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def shipped(device: str) -> tuple[ServedModel, list[list[int]]]:
    """Return the shipped checkpoint and prompts of its tasks."""
    model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM, demask_hf.TINY_DEMASK, device=device)
    families = [family for name, family in FAMILIES.items() if name != "parity"]
    prompts = [encode(tokenizer, each.prompt) for family in families for each in family.distinct("test", 20)]
    random.Random(0).shuffle(prompts)
    return ServedModel(model, tokenizer, "shipped"), prompts


def of_shape(device: str) -> tuple[ServedModel, list[list[int]]]:
    """Return a Dream of 100 million random weights, and prompts of random tokens."""
    torch.manual_seed(0)
    model = demask_hf.DreamModel(demask_hf.DreamConfig(**SHAPE_100M)).to(device).eval()
    _, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM, device="cpu")
    draw = random.Random(0)
    prompts = [[draw.randrange(2, 32_000) for _ in range(draw.randrange(20, 80))] for _ in range(200)]
    settings = {"stop_at_eos": False, "max_denoising_steps": 8}
    return ServedModel(model, tokenizer, "100m", demask_hf.make_strategy("threshold"), settings), prompts


def serve(served: ServedModel, prompts: list[list[int]], num_clients: int, num_requests: int, max_rows: int):
    """Return the seconds that each request took, those of all together, and the scheduler."""
    scheduler, todo, taken = Scheduler(max_rows, 64), list(prompts[:num_requests]), []

    def client() -> None:
        while todo:
            try:
                prompt = todo.pop()
            except IndexError:
                return
            started, ended = time.perf_counter(), threading.Event()
            row = served.row(prompt, None, {"max_new_tokens": NEW_TOKENS, "seed": 0})
            scheduler.submit([Job(row.run, lambda error, ended=ended: ended.set())])
            ended.wait()
            taken.append(time.perf_counter() - started)

    clients = [threading.Thread(target=client) for _ in range(num_clients)]
    started = time.perf_counter()
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    total = time.perf_counter() - started
    scheduler.close()
    return sorted(taken), total, scheduler


def main(argv: list[str] | None = None) -> list[dict]:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("shipped", "100m"), default="shipped")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    served, prompts = (shipped if arguments.shape == "shipped" else of_shape)(arguments.device)
    serve(served, prompts, 1, 2, 1)
    print(f"{arguments.shape} on {arguments.device}, {torch.get_num_threads()} threads, {arguments.requests} requests")
    rows = []
    for num_clients in arguments.clients:
        for max_rows in dict.fromkeys((1, arguments.rows)):
            taken, total, scheduler = serve(served, prompts, num_clients, arguments.requests, max_rows)
            middle, late = taken[len(taken) // 2], taken[min(int(0.99 * len(taken)), len(taken) - 1)]
            counts = scheduler.counts
            row = {"clients": num_clients, "rows": max_rows, "requests/s": len(taken) / total}
            row |= {"p50 s": middle, "p99 s": late}
            rows.append(row | {"rows/pass": counts.num_row_passes / counts.num_forward_passes})
            print(rows[-1], flush=True)
    report(rows, arguments.device, arguments.out)
    return rows


if __name__ == "__main__":
    main()
