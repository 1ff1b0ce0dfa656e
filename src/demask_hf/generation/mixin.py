"""`generate` for masked diffusion models: arguments in, the loop, output out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.utils import ModelOutput

from ..strategies import UnmaskingStrategy
from ..watching import Trace, WatchingStrategy
from .adapters import check_adapters, check_around
from .arguments import resolve_config
from .callbacks import StepRecorder, StepStopper, StepStreamer, criteria_of
from .checkpoint import load_settings
from .configuration import DemaskGenerationConfig
from .encoding import draft_texts
from .heads import HeadMethods
from .inputs import check_inputs, check_objects
from .loop import DenoisingLoop
from .preparation import prepare
from .processors import check_processors, processors_of
from .refused import LeftToRightMethods
from .state import DecodingState


@dataclass
class DemaskGenerationOutput(ModelOutput):
    """What `generate` returns with `return_dict_in_generate=True`.

    Args:
        sequences (`torch.LongTensor` of shape `(batch, prompt_length + max_new_tokens)`):
            Prompt and answer; padding after the first end-of-sequence token.
        num_forward_passes (`torch.LongTensor` of shape `(batch,)`):
            Backbone forwards that each row needed (NFE); steps after a row was finished do not count.
        num_row_forwards (`torch.LongTensor` of shape `(batch,)`):
            Versions of each row that these forwards computed, drafts included; one per pass without drafts.
        num_probe_passes (`torch.LongTensor` of shape `(batch,)`):
            Forwards spent on measuring dependencies, not part of `num_forward_passes`.
        num_remasked (`torch.LongTensor` of shape `(batch,)`):
            Written positions that were sent back to mask, or edited; 0 for strategies that do neither.
        tokens_per_forward (`torch.FloatTensor` of shape `(batch,)`):
            Tokens written, up to and including the first end-of-sequence token, per forward pass.
        unmask_step (`torch.LongTensor` of shape `(batch, prompt_length + max_new_tokens)`):
            Step at which each position was finally written, from 0; -1 for the others.
        uncovered_mass (`torch.FloatTensor` of shape `(batch,)`):
            Largest probability mass that the probes of measured dependencies did not cover; 0 without probes.
        history (`tuple(torch.LongTensor)`, *optional*):
            With `output_history=True`, the sequences before the first step and after every step.
        trace ([`Trace`], *optional*):
            With `trace=True`, what each step predicted and wrote, and why positions waited.
    """

    # `generate` sets all of them; a `ModelOutput` requires defaults for all but the first.
    sequences: torch.Tensor
    num_forward_passes: torch.Tensor = None  # type: ignore[assignment]
    num_row_forwards: torch.Tensor = None  # type: ignore[assignment]
    num_probe_passes: torch.Tensor = None  # type: ignore[assignment]
    num_remasked: torch.Tensor = None  # type: ignore[assignment]
    tokens_per_forward: torch.Tensor = None  # type: ignore[assignment]
    unmask_step: torch.Tensor = None  # type: ignore[assignment]
    uncovered_mass: torch.Tensor = None  # type: ignore[assignment]
    history: tuple[torch.Tensor, ...] | None = None
    trace: Trace | None = None

    def drafts(self, tokenizer: PreTrainedTokenizerBase, row: int = 0, mask: str = "_") -> list[str]:
        """Return the answer of one row after each step.

        Args:
            tokenizer (`PreTrainedTokenizerBase`):
                The model's tokenizer.
            row (`int`, *optional*, defaults to 0):
                Row of the batch.
            mask (`str`, *optional*, defaults to `"_"`):
                Text for a token that is not written yet.

        Returns:
            `list[str]`: one text for each step, from the first written position to the last; without special tokens.
            What was remasked or edited later is shown with `output_history=True` only.
        """
        steps, passes = self.unmask_step[row].tolist(), int(self.num_forward_passes[row])
        history = None if self.history is None else [each[row].tolist() for each in self.history[: passes + 1]]
        return draft_texts(tokenizer, self.sequences[row].tolist(), steps, history, mask)


if TYPE_CHECKING:

    class _Generative(PreTrainedModel, GenerationMixin):
        """A model with the mixin, for type checkers."""
else:
    _Generative = GenerationMixin


# The first base refuses methods of transformers, whatever their arguments.
class DemaskGenerationMixin(LeftToRightMethods, HeadMethods, _Generative):  # type: ignore[misc]
    """Adds `generate` and a dependency head to a masked diffusion model."""

    generation_config_class = DemaskGenerationConfig

    # Deliberately not the signature of autoregressive decoding.
    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        generation_config: DemaskGenerationConfig | None = None,
        strategy: str | dict | UnmaskingStrategy | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        streamer: Any | None = None,
        **overrides: Any,
    ) -> torch.Tensor | DemaskGenerationOutput:
        """Fill the masks after (and in) the prompt, several in one forward pass where the strategy allows it.

        ```
        until no row has an open position:
            1. find the open positions: masked, not after an end-of-sequence token, in a row that was not stopped;
            2. take those of each row's first unfinished block as candidates;
            3. run the model on the unfinished rows and gather the candidates' hidden states, then their logits;
            4. apply logits processors, temperature and filters; take the most likely token, or draw one;
            5. let the strategy select candidates, at least one in each unfinished row; if it made drafts of the rows
               after the last step, which ran beside them, move each row on to its last draft that is verified;
            6. write their tokens, remask or edit written ones if the strategy does, up to `max_remasks`, count the
               forward pass, inform streamer and stopping criteria.
        ```

        Rows do not influence each other. In half precision, left padding changes how sums are rounded, and a near tie
        may then go the other way; with `batch_invariant=True` a row's result is that of the row alone in every format.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, prompt_length)`):
                Prompts, padded on the left; `inputs` is another name. Mask tokens in them are filled in place.
            attention_mask (`torch.Tensor` of shape `(batch, prompt_length)`, *optional*):
                0 at padding. Without it every position is attended; none is inferred from `pad_token_id`.
            generation_config ([`DemaskGenerationConfig`], *optional*):
                Settings; those not set come from `model.generation_config`. Options of other decoders must ask for
                nothing.
            strategy (`str`, `dict` or [`UnmaskingStrategy`], *optional*):
                The rule that selects positions; its fields may be passed as keywords. By default "demask" for a model
                with a head, else what `model.generation_config` names, else "threshold".
            logits_processor (`LogitsProcessorList`, *optional*):
                Called once per step with ids of shape `(num_candidates, length)`, in which padding is a mask, and
                matching scores. Processors that need text to grow from the left are refused.
            stopping_criteria (`StoppingCriteriaList`, *optional*):
                Applied to the finished text of each row, from the left; a stopped row is padded after that text.
            streamer (`BaseStreamer`, *optional*):
                Receives the finished text as it grows, drafts if it has `put_draft`, and the answer with its masks
                after each step if it has `put_step`; for a single prompt only.
            overrides:
                Any field of [`DemaskGenerationConfig`] or of the strategy; `generator`, a `torch.Generator` that draws
                the seeds of the rows; `token_type_ids` for models that take them; `tokenizer` for `stop_strings` and
                `constraint`; `trace`; `trace=True` to record the steps of a single prompt, see [`Trace`], with
                `return_dict_in_generate=True`; `custom_generate` as in transformers.

        Returns:
            `torch.LongTensor` of shape `(batch * num_return_sequences, prompt_length + max_new_tokens)`, or
            [`DemaskGenerationOutput`].

        Raises:
            ValueError: if an argument is unknown or outside its range.

        Example:

        ```python
        >>> from transformers import AutoModel, AutoTokenizer
        >>> import demask_hf

        >>> tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
        >>> model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
        >>> head = model.load_demask_head(demask_hf.TINY_DEMASK)
        >>> inputs = tokenizer("sort: DACBE FGAHJ TRNPM KLBCA -> ", return_tensors="pt")
        >>> sequences = model.generate(**inputs, strategy="demask", dependency_bound=0.1)
        >>> tokenizer.decode(sequences[0], skip_special_tokens=True)
        'sort: DACBE FGAHJ TRNPM KLBCA -> ABCDE AFGHJ MNPRT ABCKL'

        ```
        """
        if overrides.get("custom_generate") is not None:
            if callable(overrides["custom_generate"]):
                raise ValueError("`custom_generate` must name a folder or repository, got a function.")
            given: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "strategy": strategy}
            given |= {"generation_config": generation_config, "logits_processor": logits_processor}
            given |= {"stopping_criteria": stopping_criteria, "streamer": streamer}
            given = {name: value for name, value in given.items() if value is not None}
            return GenerationMixin.generate(self, **given, **overrides)  # type: ignore[return-value, arg-type]
        check_adapters(self, overrides.pop("adapter_names", None))
        overrides.pop("custom_generate", None)
        generator, token_type_ids, tokenizer, trace = (
            overrides.pop(name, None) for name in ("generator", "token_type_ids", "tokenizer", "trace")
        )
        input_ids = check_inputs(input_ids, overrides.pop("inputs", None))
        check_objects(
            generation_config, streamer, logits_processor, stopping_criteria, generator, tokenizer, token_type_ids
        )
        config, rule = resolve_config(self, generation_config, strategy, overrides)
        check_processors(logits_processor, rule)
        criteria = criteria_of(config, stopping_criteria, tokenizer)
        watching = WatchingStrategy.of(trace, rule, config.return_dict_in_generate)
        loop, state = prepare(
            self, config, watching or rule, input_ids, attention_mask, generator, token_type_ids, tokenizer
        )
        recorder = StepRecorder(state.sequences) if config.output_history else None
        stopper = StepStopper(criteria, loop, state) if criteria else None
        sender = StepStreamer(streamer, loop, state) if streamer is not None else None
        if watching is not None:
            watching.start(state, loop.backbone.mask_token_id)
        processors = processors_of(config, logits_processor, loop.backbone.mask_token_id, state.sequences.device)
        loop.run(state, processors, [callback for callback in (stopper, recorder, watching, sender) if callback])
        if sender is not None:
            sender.end()
        output = finish(loop, state)
        if recorder is not None:
            output.history = tuple(recorder.history)
        if watching is not None:
            output.trace = watching.trace(output, tokenizer)
        return output if config.return_dict_in_generate else output.sequences

    def adjust_generation_fn(self, generation_config: Any, *args: Any, **kwargs: Any) -> None:
        """Read `generation_config.json` as a [`DemaskGenerationConfig`]; called by `from_pretrained`."""
        names = ["from_auto_class", "from_pipeline", "pretrained_model_name_or_path", "cache_dir", "force_download"]
        names += ["proxies", "local_files_only", "token", "revision", "subfolder", "trust_remote_code"]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if generation_config is not None:
            self.generation_config = DemaskGenerationConfig.from_dict(generation_config.to_dict())
            return
        location = given.pop("pretrained_model_name_or_path", None)
        for name in ("from_auto_class", "from_pipeline", "trust_remote_code"):
            given.pop(name, None)
        settings = None if location is None else load_settings(location, **given)
        # Without such a file the config that was made with the model stays.
        if settings is not None:
            self.generation_config = settings

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Refuse what is around the model; PEFT enters this context where a method has none of its own."""
        check_around(self, kwargs.get("adapter_names"))
        yield


def finish(loop: DenoisingLoop, state: DecodingState) -> DemaskGenerationOutput:
    """Pad everything after the end of each row, and compute the counts."""
    columns = torch.arange(state.sequences.shape[1], device=state.sequences.device)
    is_visible = (state.unmask_step < 0) & (state.sequences != loop.backbone.mask_token_id)
    is_dropped = (columns >= loop.kept_lengths(state)[:, None]) & ~is_visible
    unmask_step = state.unmask_step.masked_fill(is_dropped, -1)
    sequences, pad_token_id = state.sequences, loop.settings.pad_token_id
    # Positions are dropped only after an end-of-sequence token or a stop, and then there is a padding token.
    if pad_token_id is not None:
        sequences = sequences.masked_fill(is_dropped, pad_token_id)
    num_written = (unmask_step >= 0).sum(dim=-1)
    return DemaskGenerationOutput(
        sequences=sequences,
        num_forward_passes=state.num_forward_passes,
        num_row_forwards=state.num_row_forwards,
        num_probe_passes=state.ledger.num_probe_passes,
        num_remasked=state.num_remasked,
        tokens_per_forward=num_written / state.num_forward_passes.clamp(min=1),
        unmask_step=unmask_step,
        uncovered_mass=state.ledger.uncovered_mass,
    )
