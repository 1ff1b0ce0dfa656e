"""Settings of `generate`: `DemaskGenerationConfig`."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import GenerationConfig
from transformers.utils import logging

from ..strategies import UnmaskingStrategy, make_strategy, strategy_fields, strategy_names
from ..validation import check_choice, check_count, check_flag, check_interval, nearest
from .checks import check_compile, check_sampling, check_special_token, check_texts, check_tokens, check_words
from .constraint import check_constraint
from .foreign import WithoutOptions, without_foreign


logger = logging.get_logger(__name__)

CACHES = ("none", "prefix", "dual", "exact")
SCORES = ("model", "sampled")
# Names in the generation_config.json of Dream's Hub repositories, and ours.
_DREAM_NAMES = {"alg": "algorithm", "eps": "eps", "alg_temp": "alg_temp"}
#: The check of each setting that is set, called with its name and value.
_CHECKS: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(("max_new_tokens", "max_remasks", "top_k"), partial(check_count, lowest=0)),
    **dict.fromkeys(("max_length", "block_length", "max_denoising_steps", "cache_refresh_interval"), check_count),
    "num_return_sequences": check_count,
    **dict.fromkeys(("do_sample", "stop_at_eos", "batch_invariant", "cache_commits_first"), check_flag),
    **dict.fromkeys(("return_dict_in_generate", "output_history"), check_flag),
    **dict.fromkeys(("mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id"), check_special_token),
    "block_cache": partial(check_choice, choices=CACHES),
    "scores": partial(check_choice, choices=SCORES),
    "temperature": partial(check_interval, low=0),
    "top_p": partial(check_interval, low=0, high=1, open_low=True),
    "repetition_penalty": partial(check_interval, low=0, open_low=True),
    "eos_penalty": partial(check_interval, low=0, infinite=True),
    "max_time": partial(check_interval, low=0),
    "suppress_tokens": check_tokens,
    "bad_words_ids": check_words,
    "stop_strings": check_texts,
    "compile": check_compile,
    "constraint": check_constraint,
}
_METADATA = ("_commit_hash", "_from_model_config", "_original_object_hash", "transformers_version")
# Names of the settings that came from the caller of `generate` and not from the checkpoint.
_ASKED = "_asked"


class DemaskGenerationConfig(WithoutOptions, GenerationConfig):
    """Settings of [`DemaskGenerationMixin.generate`]; `None` means not set.

    Fields of a strategy may be given as keywords and are kept with it. The `generation_config.json` of Dream's Hub
    repositories loads: `alg`, `eps` and `alg_temp` become the "schedule" strategy, `steps` becomes
    `max_denoising_steps`.

    Args:
        max_new_tokens (`int`, *optional*):
            Positions to generate after the prompt; 256 if nothing is set. 0 fills masks in the prompt only.
        max_length (`int`, *optional*):
            Length of prompt and answer; used when `max_new_tokens` is not set.
        block_length (`int`, *optional*):
            Decode the answer block by block, each of this many tokens; must divide `max_new_tokens`, unless attention
            is causal between blocks. By default that of the model, else the whole answer is one block.
        max_denoising_steps (`int`, *optional*):
            For the "schedule" strategy the total number of steps, by default one per token; those of a checkpoint are
            at most that. For others a cap on the steps of a row, or a canvas: the last one writes all that is masked.
        max_remasks (`int`, *optional*):
            Cap on what a strategy may change of a row after it was written, each remasked and each edited position
            counted; by default 8 for each position to write. A step that would exceed it changes nothing.
        strategy (`str`, `dict` or [`UnmaskingStrategy`], *optional*):
            Name, name and fields, or object. Where the caller of `generate` names none, it is "demask" if the model
            has a head, else the checkpoint's, else "threshold".
        temperature (`float`, *optional*):
            Sampling temperature, at least 0; tokens are sampled iff it is above 0, which is the default.
        top_p (`float`, *optional*):
            Draw from the most likely tokens up to this mass, in (0, 1]; at temperature 0 it only affects "sampled"
            scores.
        top_k (`int`, *optional*):
            Draw from this many most likely tokens; at temperature 0 it only affects "sampled" scores; 0 is no limit.
        scores (`str`, *optional*):
            Distribution from which the strategy and the head read confidence, entropy and everything else: "model"
            (default) is the model's own, before temperature and filters; "sampled" is the one that tokens are drawn
            from (default of "schedule", as in Dream's public sampler). At low temperatures the latter is nearly a
            point everywhere, so every position looks certain and independent.
        do_sample (`bool`, *optional*):
            `False` forces temperature 0. `True` needs a temperature above 0; without one it means 1, or what the
            checkpoint says.
        repetition_penalty (`float`, *optional*):
            Penalise tokens that stand in the prompt, or in the answer already; above 0, and 1 is none.
        bad_words_ids (`list[list[int]]`, *optional*):
            Words that are never written, each of one token.
        suppress_tokens (`list[int]`, *optional*):
            Tokens that are never written.
        seed (`int` or `list[int]`, *optional*):
            Seed of the noise, one for all rows or one per row. A row's noise depends on its seed, the step and the
            position only: rows with equal prompts and equal seeds get equal answers.
        num_return_sequences (`int`, *optional*):
            Answers for each prompt, one after another in the batch. From one seed `s` of a prompt answer `k` gets
            the seed `s + k`.
        stop_at_eos (`bool`, *optional*):
            Drop the positions after the first end-of-sequence token (default); `False` decodes every position.
        eos_penalty (`float`, *optional*):
            Make positions that would end the answer wait: subtracted from the logits of end-of-sequence tokens in what
            the strategy reads, at least 0. Where another token is then more likely, such a position is left out until
            the others of its block are written, and then counts as it is. `float("inf")` writes the end last. Tokens
            are drawn as without it. 0 (default) is off.
        stop_strings (`str` or `list[str]`, *optional*):
            End a row where its finished text from the left ends with one of them; `generate` needs `tokenizer` then.
        constraint (`str` or `dict`, *optional*):
            What an answer must match: a regular expression, or a dict with "regex", "json_schema" or "grammar"; needs
            `tokenizer` of `generate`, and the extra "constraints". See `docs/strategies.md`.
        max_time (`float`, *optional*):
            Seconds after which decoding ends, asked after every step. Finished text from the left stays, the rest
            becomes padding.
        block_cache (`str`, *optional*):
            "prefix" and "dual" keep keys and values within a block, which is approximate: only the columns from the
            block to the end, or only those of the block, are recomputed. "none" (default) is exact, and so is "exact",
            for models whose attention is causal between blocks, and their default. For native models only.
        cache_refresh_interval (`int`, *optional*):
            With a cache, the number of forwards from one full forward of a row to the next; 1 is exact. By default
            there is a full one at the start of each block.
        cache_commits_first (`bool`, *optional*):
            With a cache, write only the first position of a block after its full forward, whatever its confidence, as
            Fast-dLLM's code for Dream does. With `False` (default) the strategy decides.
        compile (`bool`, `str` or `dict`, *optional*):
            Run the model's body, the head and the scores through `torch.compile`: `True`, a mode such as
            "reduce-overhead" (CUDA graphs), or arguments of `torch.compile`.
        batch_invariant (`bool`, *optional*):
            Run every row of a batch through model and head alone and without its padding, so that its answer does not
            depend on the rest of the batch in any number format. Takes the time of the rows one after another; not
            with `compile`.
        return_dict_in_generate (`bool`, *optional*):
            Return a [`DemaskGenerationOutput`] instead of the sequences.
        output_history (`bool`, *optional*):
            Keep the sequences after every step; needs `return_dict_in_generate`.
        mask_token_id, pad_token_id, bos_token_id (`int`, *optional*):
            Special tokens; by default those of the model's config.
        eos_token_id (`int` or `list[int]`, *optional*):
            End-of-sequence tokens; by default those of the model's config.

    Raises:
        ValueError: if a keyword is unknown or a value is outside its range.
    """

    #: What of a checkpoint's file could not be used, in words; it is not saved.
    _left_out: str | None = None

    def __init__(self, **kwargs: Any):  # noqa: PLR0915, one line for each setting
        # The parent is deliberately not called: it would set the options of autoregressive decoding.
        self.max_new_tokens: int | None = kwargs.pop("max_new_tokens", None)
        self.max_length: int | None = kwargs.pop("max_length", None)
        self.block_length: int | None = kwargs.pop("block_length", None)
        self.max_denoising_steps: int | None = kwargs.pop("max_denoising_steps", None)
        self.max_remasks: int | None = kwargs.pop("max_remasks", None)
        self.temperature: float | None = kwargs.pop("temperature", None)
        self.top_p: float | None = kwargs.pop("top_p", None)
        self.top_k: int | None = kwargs.pop("top_k", None)
        self.scores: str | None = kwargs.pop("scores", None)
        self.do_sample: bool | None = kwargs.pop("do_sample", None)
        self.repetition_penalty: float | None = kwargs.pop("repetition_penalty", None)
        self.bad_words_ids: list[list[int]] | None = kwargs.pop("bad_words_ids", None)
        self.suppress_tokens: list[int] | None = kwargs.pop("suppress_tokens", None)
        self.seed: int | list[int] | None = kwargs.pop("seed", None)
        self.num_return_sequences: int | None = kwargs.pop("num_return_sequences", None)
        self.stop_at_eos: bool | None = kwargs.pop("stop_at_eos", None)
        self.eos_penalty: float | None = kwargs.pop("eos_penalty", None)
        self.stop_strings: str | list[str] | None = kwargs.pop("stop_strings", None)
        self.constraint: str | dict[str, Any] | None = kwargs.pop("constraint", None)
        self.max_time: float | None = kwargs.pop("max_time", None)
        self.block_cache: str | None = kwargs.pop("block_cache", None)
        self.cache_refresh_interval: int | None = kwargs.pop("cache_refresh_interval", None)
        self.cache_commits_first: bool | None = kwargs.pop("cache_commits_first", None)
        self.compile: bool | str | dict[str, Any] | None = kwargs.pop("compile", None)
        self.batch_invariant: bool | None = kwargs.pop("batch_invariant", None)
        self.return_dict_in_generate: bool | None = kwargs.pop("return_dict_in_generate", None)
        self.output_history: bool | None = kwargs.pop("output_history", None)
        self.mask_token_id: int | None = kwargs.pop("mask_token_id", None)
        self.pad_token_id: int | None = kwargs.pop("pad_token_id", None)
        self.bos_token_id: int | None = kwargs.pop("bos_token_id", None)
        self.eos_token_id: int | list[int] | None = kwargs.pop("eos_token_id", None)
        for name in _METADATA:
            setattr(self, name, kwargs.pop(name, None))
        self._asked: frozenset[str] = frozenset()
        strategy = kwargs.pop("strategy", None)
        if "alg" in kwargs:
            strategy = strategy or "schedule"
            steps = kwargs.pop("steps", None)
            self.max_denoising_steps = steps if self.max_denoising_steps is None else self.max_denoising_steps
            for theirs, ours in _DREAM_NAMES.items():
                if theirs in kwargs:
                    kwargs[ours] = kwargs.pop(theirs)
        self.strategy: dict[str, Any] | None = None
        self.set_strategy(strategy, kwargs)
        self.validate()
        check_sampling(self.do_sample, self.temperature)

    def set_strategy(self, strategy: str | dict | UnmaskingStrategy | None, fields: dict[str, Any]) -> None:
        """Set the strategy; with `None`, change fields of the current one.

        Args:
            strategy (`str`, `dict` or [`UnmaskingStrategy`], *optional*):
                As in the constructor.
            fields (`dict[str, Any]`):
                Fields of the strategy, which override its own.

        Raises:
            ValueError: if a name, field or value is wrong.
            TypeError: if `strategy` has another type.
        """
        if strategy is None:
            if fields and self.strategy is None:
                check_keywords(fields, {})
            chosen = dict(self.strategy) if self.strategy else None
        elif isinstance(strategy, str):
            # Naming the current strategy keeps its fields.
            before = self.strategy if isinstance(self.strategy, dict) else {}
            chosen = dict(before) if before.get("name") == strategy else {"name": strategy}
        elif isinstance(strategy, UnmaskingStrategy):
            chosen = strategy.to_dict()
        elif isinstance(strategy, dict):
            if "name" not in strategy:
                raise ValueError(f"`strategy` must hold its `name`, got {strategy!r}.")
            chosen = dict(strategy)
        else:
            raise TypeError(f"`strategy` must be a name, a dict or an UnmaskingStrategy, got {strategy!r}.")
        if chosen is not None:
            known = strategy_fields(chosen["name"])
            check_keywords(fields, known)
            own = {name: value for name, value in fields.items() if name in known}
            chosen = make_strategy(**{**chosen, **own}).to_dict()
        self.strategy = chosen

    @property
    def is_schedule(self) -> bool:
        """Whether the current strategy uses `max_denoising_steps` as its plan."""
        return self.strategy is not None and make_strategy(**self.strategy).follows_schedule

    def validate(self, *args: Any, **kwargs: Any) -> None:
        """Check every value that is set. Arguments of the parent's method are accepted and ignored.

        Raises:
            ValueError: if a value is outside its range.
        """
        for name, check in _CHECKS.items():
            if getattr(self, name) is not None:
                check(name, getattr(self, name))

    @staticmethod
    def _get_default_generation_params() -> dict[str, Any]:
        """Return the defaults for values that neither the caller nor the checkpoint sets."""
        return {
            "temperature": 0.0,
            "stop_at_eos": True,
            "eos_penalty": 0.0,
            "block_cache": "none",
            "cache_commits_first": False,
            "compile": False,
            "batch_invariant": False,
            "return_dict_in_generate": False,
            "output_history": False,
        }

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save the settings, see [`~transformers.GenerationConfig.save_pretrained`]; warn of those that are lost."""
        if self._left_out is not None:
            logger.warning(f"{save_directory} is saved without what could not be used {self._left_out}.")
        super().save_pretrained(save_directory, *args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are set."""
        fields = {name: value for name, value in copy.deepcopy(self.__dict__).items() if value is not None}
        return {name: value for name, value in fields.items() if not name.startswith("_")}

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the fields that are set, with the version of transformers."""
        from transformers import __version__

        return {**self.to_dict(), "transformers_version": __version__}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a config from a dictionary; options of other decoding methods are ignored."""
        return_unused = kwargs.pop("return_unused_kwargs", False)
        given = {**config_dict, **{name: value for name, value in kwargs.items() if not name.startswith("_from")}}
        known = {*DemaskGenerationConfig().__dict__, *known_names()}
        foreign = {name: given.pop(name) for name in list(given) if name not in known}
        left_out = sorted(name for name, value in foreign.items() if value is not None and not name.startswith("_"))
        if left_out:
            logger.info(f"Options that do not apply to decoding by unmasking are ignored: {', '.join(left_out)}.")
        config = cls(**given)
        return (config, foreign) if return_unused else config

    def get_generation_mode(self, *args: Any, **kwargs: Any):
        raise NotImplementedError("DemaskGenerationConfig has no generation mode: it always decodes by unmasking.")

    @classmethod
    def from_model_config(cls, *args: Any, **kwargs: Any):
        raise NotImplementedError("DemaskGenerationConfig is not read from a model's config.")


def check_keywords(given: dict[str, Any], fields: dict[str, Any]) -> None:
    """Raise a `ValueError` with the nearest valid names if a keyword is neither a setting nor in `fields`."""
    for name in without_foreign(given, fields):
        if name not in fields:
            raise ValueError(
                f"`{name}` must be an argument of generate or a field of the strategy, got an unknown keyword; "
                f"{nearest(name, [*setting_names(), *fields])}."
            )


def setting_names() -> list[str]:
    """Return the names of all settings of [`DemaskGenerationConfig`]."""
    return [name for name in DemaskGenerationConfig().__dict__ if name not in (*_METADATA, _ASKED)]


def known_names() -> set[str]:
    """Return the names that a stored config may hold: settings, fields of strategies, and Dream's names."""
    fields = {field for name in strategy_names() for field in strategy_fields(name)}
    return {*setting_names(), *fields, "alg", "steps", *_DREAM_NAMES}
