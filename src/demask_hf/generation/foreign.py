"""Options of other decoders: accepted where they change nothing, else refused with what to use here."""

from collections.abc import Collection
from functools import cache
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig


_BEAMS = "`num_return_sequences` gives several answers"
_LEFT_TO_RIGHT = "text does not grow from the left here"
_TOKENS = "`suppress_tokens` and one-token `bad_words_ids` work in any order"
_FILTERS = "use `temperature`, `top_p` or `top_k`, or pass a logits processor"
_ONE_MODEL = "strategies decode several tokens in a pass with one model"
_CACHES = "see the setting `block_cache`"
_NO_GUIDANCE = "there is no guidance"
_OUTPUTS = "`return_dict_in_generate` returns what is recorded, and a logits processor sees the scores"

#: What to do in place of an option of transformers.
_INSTEAD = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping"), _BEAMS),
    **dict.fromkeys(("constraints", "force_words_ids", "prefix_allowed_tokens_fn"), _LEFT_TO_RIGHT),
    **dict.fromkeys(("min_length", "min_new_tokens"), "`stop_at_eos=False` decodes every position"),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), "use `repetition_penalty`"),
    **dict.fromkeys(("encoder_repetition_penalty", "sequence_bias", "watermarking_config"), "pass a logits processor"),
    **dict.fromkeys(("begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"), _TOKENS),
    **dict.fromkeys(("exponential_decay_length_penalty", "token_healing"), _LEFT_TO_RIGHT),
    **dict.fromkeys(("min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"), _FILTERS),
    **dict.fromkeys(("guidance_scale", "negative_prompt_ids", "negative_prompt_attention_mask"), _NO_GUIDANCE),
    **dict.fromkeys(("assistant_model", "assistant_tokenizer", "prompt_lookup_num_tokens", "use_mtp"), _ONE_MODEL),
    **dict.fromkeys(("assistant_early_exit", "speculation_type", "dola_layers", "penalty_alpha"), _ONE_MODEL),
    **dict.fromkeys(("cache_implementation", "cache_config", "max_cache_len", "past_key_values", "cache"), _CACHES),
    **dict.fromkeys(("output_scores", "output_logits", "output_attentions", "output_hidden_states"), _OUTPUTS),
    "remove_invalid_values": "NaN is always refused",
    "compile_config": "use `compile`",
    "continuous_batching_config": "pass a left-padded batch",
    "inputs_embeds": "pass `input_ids`, which hold the masks",
    "position_ids": "positions are counted from `attention_mask`",
    "synced_gpus": "processes that share weights would need equally many forward passes",
}
#: What options of public samplers are called here. Values that ask for nothing are accepted.
_RENAMED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "alg": ("`strategy='schedule'` with `algorithm`", ()),
    "steps": ("`max_denoising_steps`", ()),
    "gen_length": ("`max_new_tokens`", ()),
    "mask_id": ("`mask_token_id`", ()),
    "remasking": ("`strategy='sequential'`, with `order='random'` for \"random\"", ()),
    "logits_eos_inf": ("`suppress_tokens` with the ids of the end", (False,)),
    "confidence_eos_eot_inf": ("`eos_penalty=float('inf')`, whose tokens are `eos_token_id`", (False,)),
    "cfg_scale": (f"nothing, as {_NO_GUIDANCE}", (0,)),
    "sampler_config": ("`strategy='renoise'` with `entropy_bound`", ()),
    "threshold": ("`strategy='threshold'` with `confidence_threshold`", ()),
    "generation_tokens_hook_func": ("`streamer`", ()),
    "generation_logits_hook_func": ("`logits_processor`", ()),
}
#: Options without an effect on what is decoded, whatever their value.
_IGNORED = frozenset(
    {
        *("use_cache", "disable_compile", "renormalize_logits", "low_memory", "prefill_chunk_size"),
        *("labels", "trust_remote_code", "use_model_defaults"),
    }
)


class WithoutOptions:
    """Goes before `GenerationConfig`: options of other decoders read as `None` and are stored nowhere.

    Code of transformers reads them of any config.
    """

    # Type checkers are not to believe that every name is there.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in _defaults():
                return None
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


@cache
def _defaults() -> dict[str, tuple[Any, ...]]:
    """Return the values of each option of transformers that ask for nothing."""
    fields, used = GenerationConfig().__dict__, GenerationConfig._get_default_generation_params()
    return {name: (fields.get(name), used.get(name)) for name in {*fields, *used}}


def without_foreign(given: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return what remains of options without those of other decoders, which must ask for nothing.

    Args:
        given (`dict[str, Any]`):
            Options by name.
        known (`Collection[str]`):
            Names that this package knows.

    Returns:
        `dict[str, Any]`: the options that are known, and those that nobody knows.

    Raises:
        ValueError: if an option of another decoder asks for something.
    """
    return {name: value for name, value in given.items() if name in known or not _is_foreign(name, value)}


def _is_foreign(name: str, value: Any) -> bool:
    """Return whether an option is another decoder's; raise a `ValueError` if it asks for something."""
    if name in _IGNORED:
        return True
    if name in _RENAMED:
        here, neutral = _RENAMED[name]
        if value is None or value in neutral:
            return True
        raise ValueError(f"`{name}` must be given as {here}, got {_shown(value)}.")
    if name not in _INSTEAD and name not in _defaults():
        return False
    neutral = (None, False, *_defaults().get(name, ()))
    # 0 is not False here, and 1 is 1.0.
    equal = (one for one in neutral if isinstance(one, bool) == isinstance(value, bool))
    if any(value is one or (type(value) in (int, float, str) and value == one) for one in equal):
        return True
    plain = next((one for one in neutral[2:] if one is not None), None)
    instead = _INSTEAD.get(name, "decoding by unmasking does not have it")
    raise ValueError(f"`{name}` must be {plain!r} for decoding by unmasking, got {_shown(value)}: {instead}.")


def _shown(value: Any) -> str:
    """Return a value as messages show it: in one line, and not all of it if it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
