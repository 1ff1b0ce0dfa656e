"""Memory of a model and of decoding with it, by number format, length of the answer and batch.

    python benchmarks/memory.py --shapes 7b --formats bfloat16 int8 --lengths 256 1024 --batches 1 8 --device cuda

Random weights in the shape of a model, and two steps of demask. "int8" are weights quantised by torchao (pip install
torchao), all but those of the output layer. "above weights" is the peak of the allocator on a GPU, and that of the
resident set on a CPU (Linux), where it is rough.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import torch
from speed_common import FixedSchedule, build_model, random_prompts, report, seconds_of


PROMPT_LENGTH = 32
NUM_STEPS = 2


def formatted(shape: str, number_format: str, device: str) -> torch.nn.Module:
    """Return a model in a number format.

    Raises:
        ImportError: if torchao is needed and missing.
    """
    dtype = torch.bfloat16 if number_format == "int8" else getattr(torch, number_format)
    model = build_model(shape, device, dtype)
    if number_format == "int8":
        try:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
        except ImportError:
            raise ImportError("`torchao` must be installed for int8 weights: pip install torchao.") from None
        quantize_(model.model, Int8WeightOnlyConfig())
    return model


def weight_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of all weights; quantised ones are made of several tensors."""
    return sum(nbytes for weight in model.state_dict().values() for nbytes in _parts(weight))


def _parts(weight: torch.Tensor) -> Iterator[int]:
    if hasattr(weight, "__tensor_flatten__"):
        for name in weight.__tensor_flatten__()[0]:
            yield from _parts(getattr(weight, name))
    else:
        yield weight.numel() * weight.element_size()


def peak_above(device: str, work: Callable[[], object]) -> int:
    """Return the bytes that some work needs above what is allocated before it."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    work()
    return max(_resident("VmHWM") - before, 0)


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def measure(arguments: argparse.Namespace) -> list[dict]:
    """Return a row for each shape, format, length and batch."""
    rows = []
    for shape, number_format in product(arguments.shapes, arguments.formats):
        model = formatted(shape, number_format, arguments.device)
        for length, batch in product(arguments.lengths, arguments.batches):
            prompts = random_prompts(model, batch, PROMPT_LENGTH)
            strategy = FixedSchedule(rule="demask", num_per_step=-(-length // NUM_STEPS))
            settings = {"max_new_tokens": length, "stop_at_eos": False}

            def decode(model=model, prompts=prompts, strategy=strategy, settings=settings):
                return model.generate(prompts, strategy=strategy, **settings)

            decode()
            row = {"shape": shape, "format": number_format, "length": length, "batch": batch}
            row |= {"weights GB": weight_bytes(model) / 1e9}
            row |= {"above weights GB": peak_above(arguments.device, decode) / 1e9}
            rows.append(row | {"ms/step": 1e3 * seconds_of(decode) / NUM_STEPS})
        del model
    return rows


def main(argv: list[str] | None = None) -> list[dict]:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["tiny"], help="tiny, 2m, 100m, 7b")
    parser.add_argument("--formats", nargs="+", default=["bfloat16"], choices=("float32", "bfloat16", "int8"))
    parser.add_argument("--lengths", nargs="+", type=int, default=[64])
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(argv)
    rows = measure(arguments)
    report(rows, arguments.device, arguments.out)
    return rows


if __name__ == "__main__":
    main()
