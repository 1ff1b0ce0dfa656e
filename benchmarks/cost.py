"""What a head for Dream-7B or LLaDA-8B would cost: computed from measured parts, nothing here is measured itself.

    python benchmarks/cost.py                    # prints the tables of docs/dream7b.md
    python benchmarks/cost.py --write            # puts them there
    python benchmarks/cost.py --num-states 50000 --price 2.5 --gflops 300000

Measured parts, all in docs/results: the rate of a step in the shape of Dream-7B and the time of the head in it
(gpu_speed_floor.json, gpu_speed_share.json), and the memory above the weights (gpu_straightforward.json on a GPU,
straightforward_7b.json on a CPU). Assumptions are arguments, with their defaults in the text of the tables.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demask_hf.files import read_text, write_text
from demask_hf.tables import Column, markdown_lines


ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "dream7b.md"
BEGIN, END = "<!-- computed by benchmarks/cost.py -->", "<!-- end of computed -->"
NUM_SOURCES = 8
NUM_BOUNDS = 10
NUM_CALIBRATION_PROMPTS = 50
TRAINING_BATCH, TRAINING_STEPS = 32, 5000


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, as in its config file.

    Args:
        name (`str`): The model.
        hidden (`int`): Width of its hidden states.
        intermediate (`int`): Width of its MLP.
        layers (`int`): Layers.
        key_values (`int`): Width of keys, and of values.
        vocabulary (`int`): Tokens.
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    key_values: int
    vocabulary: int

    @property
    def body_weights(self) -> int:
        """Weights of the matrices of all layers."""
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * self.key_values
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def weights(self) -> int:
        """All weights but norms and biases: embeddings and output layer are not shared."""
        return self.body_weights + 2 * self.vocabulary * self.hidden

    def forward_gflop(self, tokens: float, masked: float) -> float:
        """Return the operations of a forward pass of a row, as benchmarks/speed.py counts them."""
        attention = 4 * tokens * tokens * self.hidden * self.layers
        return (2 * self.body_weights * tokens + attention + 2 * masked * self.hidden * self.vocabulary) / 1e9

    @property
    def state_bytes(self) -> int:
        """Bytes of activations for each token, relative between models: the MLP's three and half a dozen others."""
        return 2 * (3 * self.intermediate + 6 * self.hidden)


DREAM = Shape("Dream-7B", 3584, 18944, 28, 512, 152064)
LLADA = Shape("LLaDA-8B", 4096, 12288, 32, 4096, 126464)


def _rows(name: str) -> list[dict[str, Any]]:
    return json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text(encoding="utf-8"))["rows"]


def measured_rate() -> float:
    """Return GFLOP per second of a step of 8 rows in the shape of Dream-7B, everything in the step included."""
    rows = [row for row in _rows("gpu_speed_floor") if row["batch"] == 8]
    return min(row["GFLOP"] / (row["step ms"] / 1e3) for row in rows)


def head_seconds() -> float:
    """Return the time of the head's forward pass over the most positions that were measured."""
    row = max(_rows("gpu_speed_share"), key=lambda row: row["length"])
    return row["head"] * row["step ms"] / 1e3


def memory_of_token() -> float:
    """Return the measured bytes above the weights for each token of a step, in the shape of Dream-7B on a GPU."""
    (row,) = _rows("gpu_straightforward")
    return row["ours MiB"] * 2**20 / (row["batch"] * (row["length"] + 32))


def least_memory() -> float:
    """Return the bytes above the weights that a small step needs, measured on a CPU."""
    return min(row["ours MiB"] for row in _rows("straightforward_7b")) * 2**20


def memory_table(shape: Shape) -> list[str]:
    """Return GPU memory by tokens of a row (prompt and answer) and batch."""
    rows = []
    for tokens in (512, 1024, 2048, 4096):
        row: dict[str, Any] = {"tokens": tokens}
        for batch in (1, 8, 32):
            above = max(memory_of_token() * shape.state_bytes / DREAM.state_bytes * tokens * batch, least_memory())
            row[str(batch)] = (2 * shape.weights + above) / 1e9
        rows.append(row | {"cache": 2 * 2 * shape.layers * shape.key_values * tokens / 1e9})
    columns = [
        Column("tokens of a row", "tokens"),
        *(Column(f"batch {size}, GB", size, ".1f") for size in ("1", "8", "32")),
    ]
    return markdown_lines([*columns, Column("and with a cache, GB a row", "cache", ".2f")], rows)


def stage_table(shape: Shape, arguments: argparse.Namespace) -> list[str]:
    """Return hours, disk and price of each stage."""
    tokens, masked = arguments.prompt_length + arguments.answer_length, arguments.answer_length / 2
    seconds = shape.forward_gflop(tokens, masked) / arguments.gflops
    passes = arguments.answer_length / arguments.tokens_per_pass
    visited = arguments.num_states / 2
    bytes_of_state = masked * (2 * shape.hidden + 16 + 4 * NUM_SOURCES) + 4 * NUM_SOURCES + 20
    read_bytes = TRAINING_BATCH * bytes_of_state
    decoded = arguments.answer_length + NUM_BOUNDS * passes
    stages = [
        ("collect: measure, 1 + 8 passes a state", arguments.num_states * (1 + NUM_SOURCES) * seconds),
        (f"collect: decode to half of the states, {passes:.0f} passes each", visited * passes * seconds),
        (
            f"train: {TRAINING_STEPS} steps of {TRAINING_BATCH} states, read at {arguments.reading:g} GB a second",
            TRAINING_STEPS * (training_seconds(shape, masked) + read_bytes / arguments.reading / 1e9),
        ),
        (
            f"calibrate: {NUM_CALIBRATION_PROMPTS} prompts, {NUM_BOUNDS} bounds, --risk disagreement",
            NUM_CALIBRATION_PROMPTS * decoded * seconds,
        ),
    ]
    stages.append(("all", sum(spent for _, spent in stages)))
    disk = {0: arguments.num_states * bytes_of_state}
    rows = [
        {"stage": stage, "hours": spent / 3600, "disk": disk.get(number), "price": arguments.price * spent / 3600}
        for number, (stage, spent) in enumerate(stages)
    ]
    return markdown_lines(
        [
            Column("stage", lambda row: row["stage"]),
            Column("GPU hours", "hours", ".2f"),
            Column("disk, GB", lambda row: "" if row["disk"] is None else f"{row['disk'] / 1e9:.1f}"),
            Column("USD", "price", ".2f"),
        ],
        rows,
    )


def training_seconds(shape: Shape, masked: float) -> float:
    """Return the time of an optimizer step: forward and twice that backward, scaled by positions and width."""
    longest = max(row["length"] for row in _rows("gpu_speed_share"))
    share = max(TRAINING_BATCH * masked / longest, 1.0) * shape.hidden / DREAM.hidden
    return 3 * head_seconds() * share


def lines_of(arguments: argparse.Namespace) -> list[str]:
    """Return the tables with what they are computed from."""
    lines = []
    for shape in (DREAM, LLADA):
        tokens = arguments.prompt_length + arguments.answer_length
        seconds = shape.forward_gflop(tokens, arguments.answer_length / 2) / arguments.gflops
        scaled = "" if shape is DREAM else ", scaled by the widths of this model,"
        token = f"{memory_of_token() / 1e3:.0f} kB a token, measured in the shape of Dream-7B{scaled}"
        weights = f"{shape.weights / 1e9:.2f} billion weights, {2 * shape.weights / 1e9:.1f} GB in bfloat16"
        lines += [
            f"**{shape.name}**: {weights}",
            f"(computed). GPU memory, computed from {token}",
            f"and at least {least_memory() / 1e9:.2f} GB, measured on a CPU:",
            "",
            *memory_table(shape),
            "",
            f"{arguments.num_states:,} states, prompts of {arguments.prompt_length} and answers of "
            f"{arguments.answer_length} tokens, one forward pass of a row {1e3 * seconds:.0f} ms",
            f"({arguments.gflops / 1e3:.0f} TFLOP/s, measured in batches of 8 on one H200), decoding at "
            f"{arguments.tokens_per_pass:g} tokens a pass, {arguments.price:g} USD a GPU hour:",
            "",
            *stage_table(shape, arguments),
            "",
        ]
    return lines


def main(argv: Sequence[str] | None = None) -> str:
    """Print the tables, or write them into the page; returns them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-states", type=int, default=10_000)
    parser.add_argument("--prompt-length", type=int, default=200)
    parser.add_argument("--answer-length", type=int, default=256)
    parser.add_argument(
        "--tokens-per-pass", type=float, default=4.0, help="of the strategy that decodes, an assumption"
    )
    parser.add_argument("--price", type=float, default=3.0, help="USD of a GPU hour, an assumption")
    parser.add_argument("--reading", type=float, default=0.5, help="GB a second from disk, an assumption")
    parser.add_argument("--gflops", type=float, default=math.floor(measured_rate() / 1e3) * 1e3)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args(argv)
    text = "\n".join(lines_of(arguments)).strip() + "\n"
    print(text)
    if arguments.write:
        before, _, rest = read_text(PAGE).partition(BEGIN)
        write_text(PAGE, f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")
    return text


if __name__ == "__main__":
    main()
