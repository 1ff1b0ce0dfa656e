"""From a resolved config to the loop and its first state; all checks run here, before the model runs."""

import functools
from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..backbones.backbone import Backbone
from ..backbones.compiling import CompiledBackbone, CompiledHead
from ..backbones.rows import RowwiseBackbone, RowwiseHead
from ..backbones.shadows import check_can_shadow
from ..functional.automaton import TokenAutomaton
from ..functional.masking import left_padded_positions
from ..strategies import DecodingSettings, UnmaskingStrategy
from ..strategies.base import Compiled, as_it_is, check_needs
from ..strategies.needs import Shadows
from .blocks import block_numbers, check_block_causal, num_blocks_of
from .caching import check_can_cache, chosen_cache
from .canvases import check_canvas, check_canvas_length
from .combinations import check_batch_invariance, check_drafts, check_every_position_is_seen
from .configuration import DemaskGenerationConfig
from .constraint import automaton_of, check_fits
from .inputs import check_prompts, row_seeds
from .limits import check_memory, check_positions, check_tokens, special_token
from .loop import DenoisingLoop
from .state import DecodingState


logger = logging.get_logger(__name__)
_DEFAULT_NEW_TOKENS = 256
# Dream's users plan at most one; what is beyond this can only be a mistake.
_MAX_STEPS_PER_TOKEN = 100


def prepare(
    model: torch.nn.Module,
    config: DemaskGenerationConfig,
    rule: UnmaskingStrategy,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    token_type_ids: torch.Tensor | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[DenoisingLoop, DecodingState]:
    """Return the loop for a resolved config with its strategy bound to the model, and the state to start from.

    Args:
        model (`torch.nn.Module`):
            The model.
        config ([`DemaskGenerationConfig`]):
            Resolved settings, see [`resolve_config`].
        rule ([`UnmaskingStrategy`]):
            The strategy, a fresh copy for this call.
        input_ids (`torch.LongTensor` of shape `(batch, prompt_length)`):
            Prompts, padded on the left; each is repeated `num_return_sequences` times.
        attention_mask (`torch.Tensor` of shape `(batch, prompt_length)`, *optional*):
            0 at padding.
        generator (`torch.Generator`, *optional*):
            Draws the seeds of the rows if the config has none.
        token_type_ids (`torch.LongTensor` of shape `(batch, prompt_length)`, *optional*):
            Segment ids, for models that use them.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Spells the tokens, for `constraint`.

    Raises:
        TypeError: if `input_ids` is not a tensor of integers, or `attention_mask` is not a tensor.
        ValueError: if lengths, blocks, steps, prompts, seeds or the strategy do not match each other or the model.
    """
    backbone = _with_written_end(Backbone.of(model, config.mask_token_id), config)
    check_needs(rule)
    check_canvas(backbone, rule, config)
    check_every_position_is_seen(rule, config)
    check_can_cache(backbone, config)
    check_block_causal(backbone, rule, config)
    check_drafts(rule, config)
    if any(isinstance(need, Shadows) for need in rule.needs):
        check_can_shadow(backbone, getattr(rule, "name", type(rule).__name__), bool(config.batch_invariant))
    check_batch_invariance(config)
    input_ids = check_prompts(input_ids, attention_mask)
    check_tokens(backbone, config, input_ids)
    settings = _resolved_settings(backbone, rule, config, input_ids, attention_mask, generator)
    num_answers = config.num_return_sequences or 1
    check_memory(backbone, settings, len(input_ids) * num_answers * rule.num_versions)
    automaton = _automaton(backbone, config, settings, tokenizer)
    seeds = row_seeds(0 if settings.draws_from_torch else config.seed, generator, len(input_ids), num_answers)
    _hint_at_equal_answers(config, input_ids, attention_mask)
    input_ids = input_ids.repeat_interleave(num_answers, dim=0)
    attention_mask, token_type_ids = (
        given if given is None else given.repeat_interleave(num_answers, dim=0)
        for given in (attention_mask, token_type_ids)
    )
    state = _first_state(backbone, settings, input_ids, attention_mask, token_type_ids)
    state.seeds = seeds.to(state.sequences.device)
    compiled: Compiled = as_it_is
    if config.compile:
        backbone = CompiledBackbone(backbone, config.compile)
        compiled = functools.partial(CompiledHead, compile=config.compile)
    elif config.batch_invariant:
        backbone, compiled = RowwiseBackbone(backbone), RowwiseHead
    rule.bind(model, settings, compiled)
    return DenoisingLoop(backbone, rule, settings, automaton), state


def _automaton(
    backbone: Backbone,
    config: DemaskGenerationConfig,
    settings: DecodingSettings,
    tokenizer: PreTrainedTokenizerBase | None,
) -> TokenAutomaton | None:
    """Return what accepts the answers of a call; `None` without a constraint."""
    if config.constraint is None:
        return None
    for name, plain in (("block_cache", "none"), ("compile", False), ("stop_strings", None)):
        if getattr(config, name) not in (plain, None):
            raise ValueError(
                f"`{name}` must be {plain!r} with `constraint`, which computes and matches whole answers, got "
                f"{getattr(config, name)!r}."
            )
    if backbone.vocab_size is None:
        raise ValueError("`vocab_size` of the model must be known with `constraint`, got None.")
    never = [backbone.mask_token_id, *backbone.quirks.special_token_ids, *(config.suppress_tokens or [])]
    never += [token for word in config.bad_words_ids or [] for token in word]
    ends = [token for token in settings.ending_token_ids if token not in never]
    automaton = automaton_of(config.constraint, tokenizer, backbone.vocab_size, ends)
    check_fits(automaton, settings.num_new_tokens, never)
    return automaton


def _with_written_end(backbone: Backbone, config: DemaskGenerationConfig) -> Backbone:
    """Return the backbone with the end-of-sequence tokens that the caller names among those that may be written."""
    ends = set(_eos_token_ids(backbone, config)) if "eos_token_id" in config._asked else set()
    kept = tuple(token for token in backbone.quirks.special_token_ids if token not in ends)
    return replace(backbone, quirks=replace(backbone.quirks, special_token_ids=kept))


def _hint_at_equal_answers(
    config: DemaskGenerationConfig, prompts: torch.Tensor, attention_mask: torch.Tensor | None
) -> None:
    """Say once where answers will be alike although samples were asked for."""
    if (config.num_return_sequences or 1) > 1 and not config.temperature:
        logger.warning_once(
            "The answers of a prompt are alike at temperature 0, unless the strategy draws positions: set "
            "`temperature` for `num_return_sequences` different ones."
        )
    if config.seed is None or isinstance(config.seed, list | tuple) or not config.temperature or len(prompts) == 1:
        return
    real = prompts if attention_mask is None else prompts.masked_fill(~attention_mask.bool(), -1)
    if len(real.unique(dim=0)) < len(real):
        logger.warning_once(
            "Rows with equal prompts get equal answers from one `seed`: give each row its own, or set "
            "`num_return_sequences`."
        )


def _resolved_settings(
    backbone: Backbone,
    rule: UnmaskingStrategy,
    config: DemaskGenerationConfig,
    prompts: torch.Tensor,
    attention_mask: torch.Tensor | None,
    generator: torch.Generator | None,
) -> DecodingSettings:
    """Return the settings of a call, including defaults."""
    prompt_length = prompts.shape[1]
    num_new = _num_new_tokens(config, prompt_length)
    check_canvas_length(backbone, num_new)
    num_closing = _num_closing_tokens(backbone, prompts) if num_new else 0
    block_length = config.block_length or _default_block_length(backbone, num_new)
    alignment = backbone.quirks.block_alignment if backbone.quirks.is_block_causal else None
    if num_new % block_length and alignment is None:
        raise ValueError(f"`block_length` must divide `max_new_tokens` ({num_new}), got {block_length}.")
    lengths = [prompt_length] if attention_mask is None else attention_mask.sum(dim=-1).tolist()
    num_blocks = num_blocks_of(alignment, block_length, num_new, lengths)
    steps = config.max_denoising_steps
    if steps is not None and rule.follows_schedule:
        steps = _planned_steps(backbone, config, prompts, num_new, num_blocks)
        if steps < num_blocks:
            raise ValueError(f"`max_denoising_steps` must be at least one per block ({num_blocks}), got {steps}.")
    eos_token_ids = _eos_token_ids(backbone, config)
    if config.eos_penalty and not eos_token_ids:
        raise ValueError(
            f"`eos_penalty` must be 0 for a model without an end-of-sequence token, got {config.eos_penalty}: set "
            "`eos_token_id`."
        )
    pad = special_token(backbone, config, "pad_token_id")
    pad = pad[0] if isinstance(pad, list | tuple) else pad
    return DecodingSettings(
        prompt_length=prompt_length - num_closing,
        num_new_tokens=num_new,
        block_length=block_length,
        num_blocks=num_blocks,
        block_alignment=alignment,
        num_steps=steps if rule.follows_schedule else None,
        max_steps=None if rule.follows_schedule else steps,
        max_remasks=config.max_remasks,
        temperature=float(config.temperature or 0.0),
        top_p=config.top_p,
        top_k=config.top_k or None,
        # As in Dream's public sampler, a schedule ranks positions by the distribution that it draws from.
        scores=config.scores or ("sampled" if rule.follows_schedule else "model"),
        eos_token_ids=eos_token_ids if config.stop_at_eos else [],
        eos_penalty=float(config.eos_penalty or 0.0),
        ending_token_ids=eos_token_ids,
        pad_token_id=eos_token_ids[0] if pad is None and eos_token_ids else pad,
        block_cache=chosen_cache(backbone, rule, config),
        cache_refresh_interval=config.cache_refresh_interval,
        cache_commits_first=bool(config.cache_commits_first),
        batch_invariant=bool(config.batch_invariant),
        draws_from_torch="canvas" in rule.needs and config.seed is None and generator is None,
    )


def _planned_steps(
    backbone: Backbone, config: DemaskGenerationConfig, prompts: torch.Tensor, num_new: int, num_blocks: int
) -> int:
    """Return the steps of a schedule: those that the caller asks for, or a checkpoint's, at most one for each mask."""
    steps: int = config.max_denoising_steps  # type: ignore[assignment]
    # As in transformers, the steps of a model with canvases are those of one canvas.
    steps *= num_blocks if backbone.quirks.noise == "uniform" else 1
    num_masks = max(num_new + int((prompts == backbone.mask_token_id).sum(dim=-1).max()), 1)
    if "max_denoising_steps" not in config._asked:
        # A checkpoint's plan is for answers of its own length: more steps than masks would unmask nothing.
        return min(steps, num_masks)
    if steps > _MAX_STEPS_PER_TOKEN * num_masks:
        raise ValueError(
            f"`max_denoising_steps` must be at most {_MAX_STEPS_PER_TOKEN} for each of the {num_masks} tokens, got "
            f"{steps}: steps beyond one for each unmask nothing."
        )
    return steps


def _first_state(
    backbone: Backbone,
    settings: DecodingSettings,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    token_type_ids: torch.Tensor | None,
) -> DecodingState:
    """Return the state before the first step: prompts, masks, and a closing token if it is kept; seeds are 0."""
    mask_token_id, num_new, start = backbone.mask_token_id, settings.num_new_tokens, settings.prompt_length
    input_ids = input_ids.to(backbone.device or input_ids.device)
    if num_new == 0 and not (input_ids == mask_token_id).any():
        raise ValueError("`max_new_tokens` must be at least 1 for a prompt without mask tokens, got 0.")
    masks = input_ids.new_full((input_ids.shape[0], num_new), mask_token_id)
    sequences = torch.cat([input_ids[:, :start], masks, input_ids[:, start:]], dim=1)
    token_type_ids = _extended_types(backbone, token_type_ids, input_ids, num_new)
    positions = torch.arange(sequences.shape[1], device=sequences.device).expand_as(sequences)
    if attention_mask is not None:
        attention_mask = attention_mask.to(sequences)
        if attention_mask.all():
            attention_mask = None
        else:
            attention_mask = torch.nn.functional.pad(attention_mask, (0, num_new), value=1)
            positions = left_padded_positions(attention_mask)
    check_positions(backbone, positions)
    aligned = (settings.block_alignment, settings.block_length, settings.prompt_length)
    blocks = block_numbers(*aligned, positions, attention_mask)
    seeds = torch.zeros_like(sequences[:, 0])
    return DecodingState(sequences, attention_mask, positions, seeds, token_type_ids, blocks)


def _num_new_tokens(config: DemaskGenerationConfig, prompt_length: int) -> int:
    if config.max_new_tokens is not None:
        return config.max_new_tokens
    if config.max_length is None:
        return _DEFAULT_NEW_TOKENS
    if config.max_length < prompt_length:
        raise ValueError(
            f"`max_length` must be at least the length of the prompt ({prompt_length}), got {config.max_length}."
        )
    return config.max_length - prompt_length


def _default_block_length(backbone: Backbone, num_new: int) -> int:
    """Return the backbone's own block length if it divides the answer, else the length of the answer."""
    own = backbone.quirks.block_length
    fits = own is not None and (backbone.quirks.is_block_causal or (num_new and num_new % own == 0))
    return own if own is not None and fits else max(num_new, 1)


def _num_closing_tokens(backbone: Backbone, prompts: torch.Tensor) -> int:
    """Return 1 if all prompts end with a special token that stays last, such as [SEP], and 0 if none does."""
    closing = backbone.quirks.closing_token_id
    if closing is None:
        return 0
    is_closed = prompts[:, -1] == closing
    if is_closed.any() and not is_closed.all():
        row = int((~is_closed).nonzero()[0])
        rule = f"must end with token {closing} in all rows or in none"
        raise ValueError(f"`input_ids` {rule}, got row {row} without it.")
    return int(is_closed.all())


def _extended_types(
    backbone: Backbone, token_type_ids: torch.Tensor | None, input_ids: torch.Tensor, num_new: int
) -> torch.Tensor | None:
    """Return the token types of the whole sequences: new tokens get the type of the prompt's last token."""
    if token_type_ids is None:
        return None
    if token_type_ids.shape != input_ids.shape:
        shapes = f"{tuple(input_ids.shape)}, got {tuple(token_type_ids.shape)}"
        raise ValueError(f"`token_type_ids` must have the shape of `input_ids` {shapes}.")
    token_type_ids = token_type_ids.to(input_ids)
    if not backbone.takes("token_type_ids"):
        if token_type_ids.any():
            name = type(backbone.model).__name__
            raise ValueError(f"`token_type_ids` must be 0 for a {name}, which has no token types, got others.")
        return None
    return torch.cat([token_type_ids, token_type_ids[:, -1:].expand(-1, num_new)], dim=1)


def _eos_token_ids(backbone: Backbone, config: DemaskGenerationConfig) -> list[int]:
    eos = special_token(backbone, config, "eos_token_id")
    return list(eos) if isinstance(eos, list | tuple) else [] if eos is None else [eos]
