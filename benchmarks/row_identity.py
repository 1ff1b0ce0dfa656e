"""How many rows of a batch differ from the row alone, by number format and strategy, on the shipped checkpoint.

    python benchmarks/row_identity.py decoding --out docs/results/row_identity.json
    python benchmarks/row_identity.py forward --out docs/results/row_identity_forward.json
    python benchmarks/row_identity.py decoding --device cuda --out docs/results/row_identity_gpu.json

28 test prompts, 4 of each family but parity, in one batch whose rows are padded on the left.

decoding: a row differs if a token
or the step that wrote it does. "no padding" decodes the prompts in batches of equal length instead, which need no
padding, and "invariant" is `batch_invariant=True`. The last two columns are seconds over those of the usual batch,
measured in turn.

forward: one forward of the prompts with masks behind them; a row differs if a bit of its logits does.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from speed_common import interleaved, median_ratio, report
from transformers import PreTrainedTokenizerBase

import demask_hf
from demask_hf import DemaskGenerationOutput
from demask_hf.tasks import FAMILIES


DTYPES = ("float32", "bfloat16", "float16")
STRATEGIES = ("sequential", "schedule", "threshold", "entropy_bound", "klass", "dawn", "dapd", "demask")
CACHED = {"block_cache": "dual", "block_length": 8}
NEW_TOKENS = 32

# Tokens and steps of an answer.
Answer = tuple[list[int], list[int]]
Decode = Callable[..., list[Answer]]


def prompts_of(tokenizer: PreTrainedTokenizerBase, num_prompts: int) -> list[list[int]]:
    """Return token ids of the first test prompts of each family."""
    families = [family for name, family in FAMILIES.items() if name != "parity"]
    texts = [example.prompt for family in families for example in family.distinct("test", num_prompts)]
    return [tokenizer(text)["input_ids"] for text in texts]


def answers_of(output: DemaskGenerationOutput) -> list[Answer]:
    """Return tokens and steps of each row of an output."""
    pairs = zip(output.sequences, output.unmask_step, strict=True)
    return [(tokens[-NEW_TOKENS:].tolist(), steps[-NEW_TOKENS:].tolist()) for tokens, steps in pairs]


def num_different(answers: list[Answer], others: list[Answer]) -> int:
    """Return how many answers differ."""
    return sum(answer != other for answer, other in zip(answers, others, strict=True))


def measure(model: torch.nn.Module, prompts: list[list[int]], num_rounds: int, **settings) -> dict:
    """Decode in a padded batch, in batches of equal length, row by row, and with the option."""
    groups = defaultdict(list)
    for row, prompt in enumerate(prompts):
        groups[len(prompt)].append(row)
    width = max(groups)
    padding = [width - len(prompt) for prompt in prompts]
    ids = torch.tensor([[0] * count + prompt for count, prompt in zip(padding, prompts, strict=True)])
    mask = torch.tensor([[0] * count + [1] * (width - count) for count in padding])
    found: dict[str, list[Answer]] = {}

    def decode(ids: torch.Tensor, mask: torch.Tensor | None = None, **more) -> list[Answer]:
        arguments = {"max_new_tokens": NEW_TOKENS, "return_dict_in_generate": True, **settings, **more}
        return answers_of(model.generate(ids, mask, **arguments))

    def usual() -> None:
        found["usual"] = decode(ids, mask)

    def alone() -> None:
        found["alone"] = [decode(torch.tensor([prompt]))[0] for prompt in prompts]

    def invariant() -> None:
        found["invariant"] = decode(ids, mask, batch_invariant=True)

    seconds = interleaved({"usual": usual, "invariant": invariant, "alone": alone}, num_rounds)
    unpadded: list[Answer] = list(found["alone"])
    for rows in groups.values():
        answers = decode(torch.tensor([prompts[row] for row in rows]))
        for row, answer in zip(rows, answers, strict=True):
            unpadded[row] = answer
    return {
        "rows": len(prompts),
        "usual": num_different(found["usual"], found["alone"]),
        "no padding": num_different(unpadded, found["alone"]),
        "invariant": num_different(found["invariant"], found["alone"]),
        "seconds, invariant": median_ratio(seconds["invariant"], seconds["usual"]),
        "seconds, alone": median_ratio(seconds["alone"], seconds["usual"]),
    }


@torch.no_grad()
def forward_causes(model: torch.nn.Module, prompts: list[list[int]]) -> dict:
    """Count rows whose logits are not those of the row alone, for each thing that a batch changes."""
    counts = defaultdict(int)
    masks = [model.config.mask_token_id] * NEW_TOKENS
    rows = [torch.tensor([prompt + masks], device=model.device) for prompt in prompts]
    alone = [model(input_ids=row).logits for row in rows]
    for row, expected in zip(rows, alone, strict=True):
        for name, left, right in (("mask of ones", 0, 0), ("4 left", 4, 0), ("4 right", 0, 4)):
            ids = torch.nn.functional.pad(row, (left, right))
            is_real = torch.nn.functional.pad(torch.ones_like(row), (left, right)).bool()
            mask = is_real[:, None, None].expand(1, 1, ids.shape[1], -1)
            positions = (torch.arange(ids.shape[1], device=model.device) - left).clamp(min=0)[None]
            full = dict.fromkeys(model.config.layer_types, mask)
            logits = model(input_ids=ids, attention_mask=full, position_ids=positions).logits
            counts[name] += not torch.equal(logits[is_real], expected[0])
    groups = defaultdict(list)
    for number, row in enumerate(rows):
        groups[row.shape[1]].append(number)
    for numbers in groups.values():
        logits = model(input_ids=torch.cat([rows[number] for number in numbers])).logits
        different = [not torch.equal(one, alone[number][0]) for number, one in zip(numbers, logits, strict=True)]
        counts["batch without padding"] += sum(different)
    return {"rows": len(rows), **counts}


def main(argv: list[str] | None = None) -> list[dict]:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", choices=("decoding", "forward"))
    parser.add_argument("--prompts", type=int, default=4, help="prompts of each family")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of the timing")
    parser.add_argument("--dtypes", nargs="+", default=DTYPES, choices=DTYPES)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in arguments.dtypes:
        dtype = getattr(torch, name)
        model, tokenizer = demask_hf.load_model(
            demask_hf.TINY_DREAM, head=demask_hf.TINY_DEMASK, device=arguments.device, dtype=dtype
        )
        prompts = prompts_of(tokenizer, arguments.prompts)
        if arguments.measured == "forward":
            rows.append({"dtype": name, **forward_causes(model, prompts)})
            continue
        runs = [{"strategy": strategy} for strategy in arguments.strategies]
        runs += [{**run, **CACHED} for run in runs if run["strategy"] == "demask"]
        for run in runs:
            label = run["strategy"] + (", block_cache=dual" if "block_cache" in run else "")
            rows.append({"dtype": name, "strategy": label, **measure(model, prompts, arguments.rounds, **run)})
    report(rows, arguments.device, arguments.out)
    return rows


if __name__ == "__main__":
    main()
