"""Validity, accuracy, passes and time with and without a constraint, on the shipped checkpoint.

python benchmarks/constraints.py
python benchmarks/constraints.py "pairs as JSON" --num-prompts 12
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import demask_hf
from demask_hf.evaluation.decoding import decode_prompts
from demask_hf.tasks import load_task


LINE = r"[a-z]+: [2-9]\*[2-9]=[0-9]{2}"


@dataclass(frozen=True)
class Case:
    """A constraint for the answers of a task family.

    Args:
        family (`str`): The family.
        constraint (`str` or `dict`): As of `generate`.
        matches (`Callable`): Whether a text matches.
        plain (`Callable`, *optional*): Turns a text that matches into the form that the family's checker reads.
    """

    family: str
    constraint: Any
    matches: Callable[[str], bool]
    plain: Callable[[str], str] = str


def _of(family: str, pattern: str) -> Case:
    return Case(family, pattern, lambda text: re.fullmatch(pattern, text) is not None)


def _is_list(text: str) -> bool:
    try:
        content = json.loads(text)
    except ValueError:
        return False
    return isinstance(content, list) and len(content) == 12 and all(each in range(10) for each in content)


def _as_pairs(text: str) -> str:
    digits = json.loads(text)
    return ", ".join(f"{first}+{second}" for first, second in zip(digits[::2], digits[1::2], strict=True))


# The checkpoint has no token for quotation marks, so of JSON it can spell lists of numbers.
LIST = {"type": "array", "items": {"enum": list(range(10))}, "minItems": 12, "maxItems": 12}
CASES = {
    "bill": _of("bill", rf"{LINE}(; {LINE})*"),
    "pairs": _of("pairs", r"[0-9]\+[0-9](, [0-9]\+[0-9])*"),
    "pairs as JSON": Case("pairs", {"json_schema": LIST}, _is_list, _as_pairs),
}
STRATEGIES = [{"name": "demask"}, {"name": "threshold"}]
TEMPERATURES = [0.0, 1.0, 2.0]


def main(argv: list[str] | None = None) -> None:
    """Print a row for each case, strategy and temperature, without and with the constraint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--num-prompts", type=int, default=36)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    model.load_demask_head(demask_hf.TINY_DEMASK)
    print("| case | strategy | temperature | constraint | match | right | passes | CPU ms a pass |")
    for name in arguments.cases:
        case = CASES[name]
        task = load_task(case.family, split="validation", num_examples=arguments.num_prompts)
        for strategy in STRATEGIES:
            for temperature in TEMPERATURES:
                for constraint in (None, case.constraint):
                    settings = {"strategy": strategy, "temperature": temperature, "constraint": constraint}
                    started = time.process_time()
                    prompts = [example.prompt for example in task.examples]
                    found = decode_prompts(model, tokenizer, prompts, batch_size=1, seed=0, **settings)
                    seconds, count = time.process_time() - started, len(found)
                    passes = sum(each.num_forward_passes for each in found)
                    matches = [case.matches(each.answer) for each in found]
                    rows = zip(task.examples, found, matches, strict=True)
                    right = sum(
                        task.check(example, case.plain(each.answer) if is_match else each.answer)
                        for example, each, is_match in rows
                    )
                    print(
                        f"| {name} | {strategy['name']} | {temperature:g} | {'yes' if constraint else 'no'} "
                        f"| {sum(matches) / count:.1%} | {right / count:.1%} | {passes / count:.2f} "
                        f"| {1000 * seconds / passes:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
