"""Decode and measure on many machines through Ray Data: what `--engine ray` does. Needs the extra "ray".

A table is one call of a worker, so what is computed together, and with it every result, does not depend on the number
of workers. A worker that dies is started again by Ray, and its table with it. All scheduling is Ray's.
"""

import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import pyarrow
import torch

from .evaluation.decoding import Decoding, decode_prompts
from .evaluation.records import Record, judge
from .evaluation.runs import Batch
from .evaluation.specs import Setting
from .generation.configuration import DemaskGenerationConfig
from .generation.encoding import Prompt, text_of
from .models.loading import load_model
from .training.examples import DependencyExample
from .training.prompts import TokenizedPrompt
from .training.states import CollectionSettings, MeasuredStates
from .validation import check_count


try:
    import ray
    import ray.data
except ImportError:
    raise ImportError("`ray` must be installed to share work among machines: pip install demask-hf[ray].") from None

_COST_TYPES = {"tokens": pyarrow.list_(pyarrow.int64()), "unmask_steps": pyarrow.list_(pyarrow.int64())}
# A table that kills its worker each time, for want of memory, must end the work at last.
_NUM_TRIES = 5


class Decoder:
    """A model with its head that decodes the prompts of tables, for `map_batches` of Ray Data.

    Args:
        model (`str`):
            Folder or Hub repository of the model, which every machine can read.
        head (`str`, *optional*):
            Folder or Hub repository of its dependency head.
        loading (`dict`, *optional*):
            Further arguments of [`load_model`], such as `dtype` and `revision`.
        strategy (`str` or `dict`, *optional*):
            As in `generate`.
        settings:
            Further arguments of `generate`.

    Raises:
        ValueError: if a setting is wrong, before the model is loaded.

    Example:

    ```python
    >>> prompts = ray.data.read_text("prompts.txt").rename_columns({"text": "prompt"})  # doctest: +SKIP
    >>> answers = prompts.map_batches(  # doctest: +SKIP
    ...     Decoder,
    ...     fn_constructor_kwargs={"model": "MODEL", "head": "HEAD", "max_new_tokens": 256},
    ...     batch_size=16,
    ...     batch_format="pyarrow",
    ...     compute=ray.data.ActorPoolStrategy(size=8),
    ...     num_gpus=1,
    ... )

    ```
    """

    def __init__(
        self,
        model: str,
        head: str | None = None,
        loading: dict[str, Any] | None = None,
        strategy: str | dict[str, Any] | None = None,
        **settings: Any,
    ):
        if strategy is not None:
            DemaskGenerationConfig(strategy=strategy, **settings)
        self.model, self.tokenizer = load_model(model, head, **(loading or {}))
        self.strategy, self.settings = strategy, settings

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Decode the prompts of a table together.

        Args:
            batch (`pyarrow.Table`):
                Its column `prompt` holds texts or messages of a chat. Optional columns: `seed`, one for each prompt,
                and `max_new_tokens`, one value for all of them.

        Returns:
            `pyarrow.Table`: the table with a column for each field of [`~evaluation.decoding.Decoding`] but `prompt`.

        Raises:
            TypeError: if the batch is no table of pyarrow.
            ValueError: if it has no column `prompt`, or several values of `max_new_tokens`.
        """
        if not isinstance(batch, pyarrow.Table):
            raise TypeError(
                f'`batch` must be a table of pyarrow (map_batches with batch_format="pyarrow"), got '
                f"{type(batch).__name__}."
            )
        columns = batch.to_pydict()
        if "prompt" not in columns:
            raise ValueError(f"`batch` must have a column `prompt`, got {', '.join(columns) or 'none'}.")
        settings = dict(self.settings)
        lengths = set(columns.get("max_new_tokens", ()))
        if len(lengths) > 1:
            raise ValueError(f"`max_new_tokens` must be one value in a table, got {sorted(lengths)}.")
        if lengths:
            settings["max_new_tokens"] = lengths.pop()
        settings |= {"seed": columns["seed"]} if "seed" in columns else {}
        prompts = columns["prompt"]
        decodings = decode_prompts(
            self.model, self.tokenizer, prompts, self.strategy, max(len(prompts), 1), **settings
        )
        for name in _COSTS:
            found = pyarrow.array([getattr(decoding, name) for decoding in decodings], _COST_TYPES.get(name))
            batch = batch.append_column(name, found)
        return batch


_COSTS = [field.name for field in fields(Decoding) if field.name != "prompt"]


class _Measurer:
    """A model that measures the states of tables, see [`~training.collection.collect`]."""

    def __init__(
        self,
        model: str,
        head: str | None,
        loading: dict[str, Any],
        prompts: Sequence[TokenizedPrompt],
        settings: CollectionSettings,
    ):
        self.states = MeasuredStates(load_model(model, head, **loading)[0], prompts, settings)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        stream = io.BytesIO()
        torch.save(self.states.__getitems__(batch.to_pydict()["number"]), stream)
        return pyarrow.table({"examples": pyarrow.array([stream.getvalue()], pyarrow.large_binary())})


def map_tables(
    worker: type, arguments: dict[str, Any], tables: Sequence[pyarrow.Table], num_workers: int | None = None
) -> Iterator[pyarrow.Table]:
    """Map tables, each as a whole, and yield the results in their order.

    Args:
        worker (`type`):
            A class like [`Decoder`]; every worker holds an instance of it.
        arguments (`dict`):
            Keyword arguments of its constructor.
        tables (`Sequence[pyarrow.Table]`):
            The tables.
        num_workers (`int`, *optional*):
            Workers at most, each with one GPU, or with one CPU core where the cluster has no GPU; by default one for
            each GPU, or one.

    Raises:
        ValueError: if `num_workers` is below 1. What a worker raises is raised here.
        OSError: if Ray or a worker cannot start, or a table has ended its worker five times.
    """
    if num_workers is not None:
        check_count("num_workers", num_workers)
    if not tables:
        return
    if not ray.is_initialized():
        try:
            # Joins the cluster that RAY_ADDRESS names or that runs here, else starts one on this machine.
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            # Of any class, also this one itself.
            raise OSError(f"Ray cannot start: {error}") from error
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    size = min(num_workers or max(num_gpus, 1), len(tables))
    dataset = ray.data.from_arrow(list(tables))
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False
    dataset.context.raise_original_map_exception = True
    # Its errors are raised here, too.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    mapped = dataset.map_batches(
        worker,
        fn_constructor_kwargs=arguments,
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=size, initial_size=size),
        **({"num_gpus": 1} if num_gpus else {"num_cpus": 1}),
        max_task_retries=_NUM_TRIES - 1,
    )
    try:
        yield from mapped.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise OSError(f"workers of Ray cannot go on: {str(error).strip().splitlines()[-1].strip()}") from None


def _absolute(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with whole paths, because workers may run in another folder."""
    paths = {name: arguments.get(name) for name in ("model", "head")}
    return arguments | {name: os.path.abspath(path) for name, path in paths.items() if path and os.path.isdir(path)}


def decode_batches(
    arguments: dict[str, Any],
    batches: Sequence[tuple[Sequence[Prompt], Sequence[int]]],
    num_workers: int | None = None,
    max_new_tokens: Sequence[int | None] | None = None,
) -> Iterator[list[Decoding]]:
    """Decode batches of prompts and yield the results in their order.

    Args:
        arguments (`dict`):
            Of [`Decoder`].
        batches (`Sequence[tuple[Sequence[Prompt], Sequence[int]]]`):
            Prompts that are decoded together, and the seed of each.
        num_workers (`int`, *optional*):
            As in [`map_tables`].
        max_new_tokens (`Sequence[int]`, *optional*):
            The length of the answers of each batch, where the arguments name none.
    """
    tables = [pyarrow.table({"prompt": list(prompts), "seed": list(seeds)}) for prompts, seeds in batches]
    for index, length in enumerate(max_new_tokens or ()):
        if length is not None:
            tables[index] = tables[index].append_column("max_new_tokens", [[length] * len(tables[index])])
    for result in map_tables(Decoder, _absolute(arguments), tables, num_workers):
        yield [Decoding(text_of(row["prompt"]), **_costs_of(row)) for row in result.to_pylist()]


def _costs_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a [`Decoding`] in a row of a result."""
    return {name: tuple(row[name]) if name in _COST_TYPES else row[name] for name in _COSTS}


def decode_runs(
    arguments: dict[str, Any], setting: Setting, batches: Sequence[Batch], num_workers: int | None = None
) -> Iterator[list[Record]]:
    """Decode runs of task prompts, check the answers here, and yield the records in the order of the batches.

    Args:
        arguments (`dict`):
            Of [`Decoder`], without strategy and settings.
        setting ([`~evaluation.specs.Setting`]):
            How to decode.
        batches (`Sequence[Batch]`):
            What [`~evaluation.runs.Run.missing`] returns.
        num_workers (`int`, *optional*):
            As in [`map_tables`].
    """
    arguments = {**arguments, "strategy": setting.strategy, **setting.options}
    asked = [([example.prompt for example in batch.task.examples], batch.seeds) for batch in batches]
    is_free = "max_new_tokens" not in setting.options
    lengths = [batch.task.max_new_tokens if is_free else None for batch in batches]
    decoded = decode_batches(arguments, asked, num_workers, lengths)
    for batch, decodings in zip(batches, decoded, strict=True):
        yield judge(batch.task, decodings)


def measuring(
    arguments: dict[str, Any],
    prompts: Sequence[TokenizedPrompt],
    settings: CollectionSettings,
    num_workers: int | None = None,
) -> Callable[[list[list[int]]], Iterator[list[DependencyExample]]]:
    """Return what [`~training.collection.collect`] takes to have states measured by workers.

    Args:
        arguments (`dict`):
            `model`, `head` and `loading`, as of [`Decoder`].
        prompts (`Sequence[TokenizedPrompt]`):
            Prompts with answers.
        settings ([`CollectionSettings`]):
            Which states to draw and how to measure them.
        num_workers (`int`, *optional*):
            As in [`map_tables`].
    """

    def measure(batches: list[list[int]]) -> Iterator[list[DependencyExample]]:
        tables = [pyarrow.table({"number": numbers}) for numbers in batches]
        own = {**_absolute(arguments), "prompts": prompts, "settings": settings}
        for result in map_tables(_Measurer, own, tables, num_workers):
            # Written by our own workers; a class of this package is in it.
            yield torch.load(io.BytesIO(result["examples"][0].as_py()), weights_only=False)

    return measure
