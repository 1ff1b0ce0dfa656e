"""Validity, accuracy, passes and time with and without a regular expression, on the shipped checkpoint."""

import re
import time

import torch

import demask_hf
from demask_hf.evaluation.decoding import decode_prompts
from demask_hf.tasks import load_task


LINE = r"[a-z]+: [2-9]\*[2-9]=[0-9]{2}"
PATTERNS = {"bill": rf"{LINE}(; {LINE})*", "pairs": r"[0-9]\+[0-9](, [0-9]\+[0-9])*"}
STRATEGIES = [{"name": "demask"}, {"name": "threshold"}]
TEMPERATURES = [0.0, 1.0, 2.0]


def main() -> None:
    """Print a row for each family, strategy and temperature, without and with the constraint."""
    torch.set_num_threads(1)
    model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    model.load_demask_head(demask_hf.TINY_DEMASK)
    print("| family | strategy | temperature | constraint | match | right | passes | CPU ms a pass |")
    for family, pattern in PATTERNS.items():
        task = load_task(family, split="validation", num_examples=36)
        for strategy in STRATEGIES:
            for temperature in TEMPERATURES:
                for constraint in (None, pattern):
                    settings = {"strategy": strategy, "temperature": temperature, "constraint": constraint}
                    started = time.process_time()
                    prompts = [example.prompt for example in task.examples]
                    found = decode_prompts(model, tokenizer, prompts, batch_size=1, seed=0, **settings)
                    seconds, count = time.process_time() - started, len(found)
                    passes = sum(each.num_forward_passes for each in found)
                    matches = sum(re.fullmatch(pattern, each.answer) is not None for each in found)
                    pairs = zip(task.examples, found, strict=True)
                    right = sum(task.check(example, each.answer) for example, each in pairs)
                    print(
                        f"| {family} | {strategy['name']} | {temperature:g} | {'yes' if constraint else 'no'} "
                        f"| {matches / count:.1%} | {right / count:.1%} | {passes / count:.2f} "
                        f"| {1000 * seconds / passes:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
