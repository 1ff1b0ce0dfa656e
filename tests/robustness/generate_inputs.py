"""Wrong arguments of `generate`: every setting, every field of a strategy, and every kind of prompt."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from campaign import Case

import demask_hf
from demask_hf.strategies import strategy_fields, strategy_names


PROMPT = torch.tensor([[3, 4, 5]])
NAN, INF = float("nan"), float("inf")
_OBJECTS = ({}, {"a": 1}, object(), (), b"1", 1j)
_NO_COUNTS = (-1, 1.5, "3", True, NAN, INF, [], [1], *_OBJECTS)
_NO_NUMBERS = ("0.5", True, NAN, [], [0.5], *_OBJECTS)
_NO_FLAGS = ("no", "False", "true", 2, -1, 0.5, NAN, [], *_OBJECTS)
_NO_TOKENS = (-1, 1.5, "3", True, NAN, 10**9, 2**70, [], [-1], [1.5], ["3"], [10**9], [True], [[3]], *_OBJECTS)
_NO_CHOICES = ("", "None", "x", 0, 1, True, NAN, [], ["none"], *_OBJECTS)

#: Wrong values of each setting; other types than those named are among them.
SETTINGS: dict[str, tuple[Any, ...]] = {
    "max_new_tokens": (*_NO_COUNTS, 10**12, 2**70),
    "max_length": (*_NO_COUNTS, 0, 1, 2, 10**12, 2**70),
    "block_length": (*_NO_COUNTS, 0, 3, 10**12),
    "max_denoising_steps": (*_NO_COUNTS, 0, 2**70),
    "temperature": (*_NO_NUMBERS, -1, -0.1, INF, -INF),
    "top_p": (*_NO_NUMBERS, 0, -0.1, 1.1, INF),
    "top_k": (*_NO_COUNTS, 2**70),
    "scores": _NO_CHOICES,
    "do_sample": _NO_FLAGS,
    "repetition_penalty": (*_NO_NUMBERS, 0, -1, INF),
    "bad_words_ids": (3, "3", [3], [[]], [[3, 4]], [["3"]], [[-1]], [[10**9]], [[1.5]], [[True]], NAN, *_OBJECTS[1:3]),
    "suppress_tokens": (3, "3", [[3]], ["3"], [-1], [10**9], [1.5], [True], NAN, *_OBJECTS[1:3]),
    "seed": (1.5, "3", NAN, INF, 2**70, -(2**70), [], [1, 2], ["3"], [1.5], [NAN], *_OBJECTS),
    "num_return_sequences": (*_NO_COUNTS, 0, 10**12, 2**70),
    "stop_at_eos": _NO_FLAGS,
    "eos_penalty": (*_NO_NUMBERS, -1, -INF),
    "stop_strings": (3, "", [], [""], [3], ["a", 3], NAN, *_OBJECTS[1:3]),
    "max_time": (*_NO_NUMBERS, -1, -INF, INF),
    "block_cache": _NO_CHOICES,
    "cache_refresh_interval": (*_NO_COUNTS, 0),
    "cache_commits_first": _NO_FLAGS,
    "compile": ("no", "fast", 2, 0.5, NAN, [], object(), {"mod": "default"}, {"backend": 3}, {"dynamic": "no"}),
    "batch_invariant": _NO_FLAGS,
    "return_dict_in_generate": _NO_FLAGS,
    "output_history": _NO_FLAGS,
    "trace": (*_NO_FLAGS, True),
    "mask_token_id": _NO_TOKENS,
    "pad_token_id": (*_NO_TOKENS, 1),
    "bos_token_id": _NO_TOKENS,
    "eos_token_id": (*_NO_TOKENS, 1, [2, 1]),
    "strategy": ("", "demsk", "demask ", 3, NAN, [], ["demask"], {}, {"name": 3}, {"nam": "demask"}, object(), True),
    "generator": (3, "cuda", object(), [torch.Generator()]),
    "streamer": (3, "text", object(), []),
    "generation_config": (3, "config", object(), {"max_new_tokens": 3}, []),
    "logits_processor": (3, "x", object(), [3], [object()], {}),
    "stopping_criteria": (3, "x", object(), [3], [object()], {}),
    "tokenizer": (3, "x", object()),
    "token_type_ids": (3, "x", [0], torch.zeros(1, 2), torch.ones(1, 3, dtype=torch.long)),
    "attention_mask": (3, "x", [1, 1, 1], object()),
    "adapter_names": (["a"], "a", 3),
    "num_beams": (2, "2", 0, -1, NAN),
    "cahce": (1,),
    "min_new_tokens": (1, 5),
    "steps": (3, "3", -1),
    "gen_length": (3,),
}

_FLOAT_FIELDS = {"eps": (0.0, 1.1), "alg_temp": (-0.1,), "kl_threshold": (0.0, -1.0)}
# Counted from the start of the answer, on both sides.
_ANY_INTEGER_FIELDS = {"answer_start"}


def _wrong_fields(value: Any) -> tuple[Any, ...]:
    """Return wrong values of a strategy's field by its default."""
    if isinstance(value, bool):
        return _NO_FLAGS
    if isinstance(value, int):
        return (*_NO_COUNTS, 0)
    if isinstance(value, str):
        return _NO_CHOICES
    return (*_NO_NUMBERS, -1, -INF)


def _prompts() -> Iterator[tuple[str, tuple[Any, ...]]]:
    ids = PROMPT
    yield from (
        ("none", (None,)),
        ("text", ("hello",)),
        ("list", ([[3, 4]],)),
        ("floats", (ids.float(),)),
        ("booleans", (ids.bool(),)),
        ("complex", (ids.to(torch.complex64),)),
        ("one dimension", (ids[0],)),
        ("three dimensions", (ids[None],)),
        ("no token", (ids[:, :0],)),
        ("no row", (ids[:0],)),
        ("negative id", (ids - 9,)),
        ("id at the vocabulary", (ids + 19,)),
        ("huge id", (ids + 2**40,)),
        ("meta", (ids.to("meta"),)),
        ("sparse", (ids.to_sparse(),)),
        ("numpy", (ids.numpy(),)),
        ("dictionary", ({"input_ids": ids},)),
        ("a mask of no id", (ids * 0 - 1,)),
    )
    ones = torch.ones_like(ids)
    masks = {
        "2": ones * 2,
        "5": ones * 5,
        "-1": -ones,
        "0.5": ones * 0.5,
        "nan": ones * NAN,
        "inf": ones * INF,
        "one 2": torch.tensor([[0, 2, 1]]),
        "-1 for 0": torch.tensor([[-1, 1, 1]]),
        "zeros": ones * 0,
        "right padding": torch.tensor([[1, 1, 0]]),
        "hole": torch.tensor([[1, 0, 1]]),
        "short": ones[:, :2],
        "long": torch.ones(1, 4),
        "two rows": ones.repeat(2, 1),
        "one dimension": ones[0],
        "four dimensions": ones[None, None],
        "meta": ones.to("meta"),
        "sparse": ones.to_sparse(),
        "additive": torch.tensor([[-1e9, 0.0, 0.0]]),
        "text": "111",
        "list": [[1, 1, 1]],
    }
    yield from ((f"mask {name}", (ids, mask)) for name, mask in masks.items())


def cases(model: torch.nn.Module) -> Iterator[Case]:
    """Yield calls of `generate` that must be refused before the model runs."""
    ids = PROMPT
    forwards: list[int] = []
    model.register_forward_pre_hook(lambda *unused: forwards.append(1))
    model.model.register_forward_pre_hook(lambda *unused: forwards.append(1))

    def call(*inputs: Any, **given: Any) -> None:
        forwards.clear()
        settings = {} if "max_length" in given else {"max_new_tokens": 4}
        inputs = inputs or (ids,)
        try:
            model.generate(*inputs, **{**settings, **given})
        except Exception:
            assert not forwards, "the model ran before the refusal"
            raise

    for name, values in SETTINGS.items():
        for value in values:
            yield Case(f"generate {name}", f"{name}={value!r}", partial(call, **{name: value}))
    for strategy in strategy_names():
        for field, default in strategy_fields(strategy).items():
            wrong = (*_FLOAT_FIELDS.get(field, ()), *_wrong_fields(default))
            if field in _ANY_INTEGER_FIELDS:
                wrong = tuple(value for value in wrong if isinstance(value, bool) or not isinstance(value, int))
            for value in wrong:
                given = {"strategy": strategy, field: value}
                yield Case(f"strategy {strategy}", f"{strategy}:{field}={value!r}", partial(call, **given))
    for name, given in _prompts():
        yield Case("prompts", name, partial(call, *given))


def make_model() -> torch.nn.Module:
    """Return a tiny Dream with a head."""
    config = demask_hf.DreamConfig(
        vocab_size=24,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        mask_token_id=1,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=2,
    )
    torch.manual_seed(0)
    model = demask_hf.DreamModel(config).eval()
    head = demask_hf.DemaskConfig(backbone_hidden_size=32, width=16, num_attention_heads=2)
    model.set_demask_head(demask_hf.DemaskHead(head).eval())
    return model
