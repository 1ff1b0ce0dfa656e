"""What the benchmarks of speed share: shapes of models, a fixed schedule, interleaved timing, and reports."""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModel

import demask_hf
from demask_hf.strategies import DenoisingStep, WrappingStrategy, make_strategy
from demask_hf.tables import Column, markdown_lines


# Random weights; the shipped checkpoint is "tiny". The second is Dream of about 100 M parameters.
SHAPES = {
    "2m": {"hidden_size": 160, "intermediate_size": 432, "num_hidden_layers": 6, "heads": (5, 5), "vocab_size": 117},
    "100m": {
        "hidden_size": 640,
        "intermediate_size": 1792,
        "num_hidden_layers": 12,
        "heads": (10, 2),
        "vocab_size": 32_768,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "heads": (28, 4),
        "vocab_size": 152_064,
    },
}


@dataclass
class FixedSchedule(WrappingStrategy):
    """Let a rule choose, throw its choice away, and unmask the most confident positions, so many in each step.

    Every rule then decodes the same tokens in the same steps, and what is left between two rules is their cost.

    Args:
        rule (`str`): Name of the strategy that is asked.
        num_per_step (`int`): Positions to unmask in each row.
        limits (`dict`): Fields of the strategy that is asked.
    """

    rule: str = "threshold"
    num_per_step: int = 1
    limits: dict[str, Any] = field(default_factory=dict)
    _rule: demask_hf.UnmaskingStrategy = field(default=None, init=False, repr=False, compare=False)

    name = "fixed_schedule"

    def __post_init__(self):
        self._rule = make_strategy(self.rule, **self.limits)

    @property
    def wrapped(self) -> tuple[demask_hf.UnmaskingStrategy, ...]:
        """The rule."""
        return (self._rule,)

    def select(self, step: DenoisingStep) -> torch.BoolTensor:
        """Ask the rule and return the most confident positions."""
        self._rule.select(step)
        return step.best(step.score("confidence"), self.num_per_step)


def build_model(shape: str, device: str, dtype: torch.dtype = torch.float32, vocab_size: int | None = None):
    """Return the shipped checkpoint ("tiny") or a model of random weights, with a head."""
    if shape == "tiny":
        model = AutoModel.from_pretrained(demask_hf.TINY_DREAM, dtype=dtype).to(device)
        model.load_demask_head(demask_hf.TINY_DEMASK)
        return model.eval()
    settings = dict(SHAPES[shape])
    heads, kv_heads = settings.pop("heads")
    settings["vocab_size"] = vocab_size or settings["vocab_size"]
    special = {"mask_token_id": 1, "pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 0}
    config = demask_hf.DreamConfig(
        **settings, num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=4096, **special
    )
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = demask_hf.DreamModel(config).eval()
        head = demask_hf.DemaskHead(demask_hf.DemaskConfig(backbone_hidden_size=config.hidden_size))
    torch.set_default_dtype(default)
    model.set_demask_head(head)
    return model


def random_prompts(model: torch.nn.Module, batch: int, length: int) -> torch.LongTensor:
    """Return prompts of random words."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, model.config.vocab_size, (batch, length), generator=generator).to(model.device)


def seconds_of(work: Callable[[], object]) -> float:
    """Return the wall-clock time of some work, waiting for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def interleaved(variants: dict[str, Callable[[], object]], num_rounds: int) -> dict[str, list[float]]:
    """Time variants in turn, round by round, after one round that does not count."""
    seconds = {name: [] for name in variants}
    for round_index in range(num_rounds + 1):
        for name, work in variants.items():
            spent = seconds_of(work)
            if round_index:
                seconds[name].append(spent)
    return seconds


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the median over the rounds of one variant's time over that of another."""
    return median(one / other for one, other in zip(first, second, strict=True))


def environment(device: str) -> dict[str, str | int]:
    """Return what the numbers depend on besides the code."""
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    # What glibc is told about giving memory back decides how often a large tensor costs page faults.
    malloc = {name: value for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")}
    machine = {"device": f"{device}: {name}", "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {**machine, **versions, **malloc}


def report(rows: list[dict], device: str, out: Path | None) -> None:
    """Print rows as a Markdown table and write them, with the environment, as JSON."""
    columns = [Column(name, name, ".3g" if isinstance(value, float) else "") for name, value in rows[0].items()]
    print("\n".join(markdown_lines(columns, rows)))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({**environment(device), "rows": rows}, indent=1) + "\n", encoding="utf-8")
