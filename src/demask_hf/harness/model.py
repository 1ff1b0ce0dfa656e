"""The model class of lm-evaluation-harness that decodes with any strategy."""

import json
from collections.abc import Sequence
from typing import Any, NoReturn

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from tqdm import tqdm

from ..evaluation.decoding import decode_prompts
from ..generation.arguments import default_strategy
from ..generation.checkpoint import load_settings
from ..generation.configuration import DemaskGenerationConfig
from ..models.loading import load_model
from ..tasks.base import before_stop


@register_model("demask")
class DemaskLM(LM):
    """Answers the tasks of lm-evaluation-harness that generate text.

    A setting passed here applies to all tasks; other settings come from the task, such as `max_gen_toks` and
    `temperature`, or else from the model's generation config. Tasks that need likelihoods are refused.

    Args:
        pretrained (`str`):
            Folder or Hub repository of the model.
        head (`str`, *optional*):
            Folder or Hub repository of its dependency head.
        peft (`str`, *optional*):
            Folder or Hub repository of a PEFT adapter of the model.
        strategy (`str`, *optional*):
            Name of the strategy; by default "demask" with a head, else what the model's settings name, else
            "threshold".
        batch_size (`int`, *optional*, defaults to 1):
            Prompts decoded together; it does not change the answers.
        device (`str`, *optional*):
            Device of torch; by default "cuda" if there is one.
        dtype (`str`, *optional*, defaults to "auto"):
            Type of the weights, by default as stored.
        revision (`str`, *optional*):
            Revision of the model's repository.
        device_map, quantization (`str`, *optional*):
            As in [`load_model`].
        settings:
            Fields of the strategy and settings of `generate`, such as `max_new_tokens`, `block_length`,
            `temperature` and `seed`; request `i` among those with the same settings is decoded with `seed + i`.

    Raises:
        ValueError: if an argument is unknown or outside its range, before anything is loaded.
    """

    def __init__(  # noqa: PLR0913 - the names that the harness has for every model class
        self,
        pretrained: str,
        head: str | None = None,
        peft: str | None = None,
        strategy: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str = "auto",
        revision: str | None = None,
        device_map: str | None = None,
        quantization: str | None = None,
        **settings: Any,
    ):
        super().__init__()
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise ValueError(f"`batch_size` must be a whole number of at least 1, got {batch_size!r}.")
        # The harness passes this to every model class; no batch size is searched for here.
        settings.pop("max_batch_size", None)
        self.strategy: str | dict[str, Any] | None = strategy
        if strategy is None:
            known = load_settings(pretrained, revision=revision or "main")
            self.strategy = default_strategy(None if known is None else known.strategy, head is not None)
        # Builds nothing that is kept: it refuses what is wrong before the model is loaded.
        DemaskGenerationConfig(strategy=self.strategy, **settings)
        self.model, self.tokenizer = load_model(pretrained, head, device, device_map, dtype, revision, quantization)
        if peft is not None:
            self.model.load_adapter(peft)
        self.batch_size, self.settings = int(batch_size), settings
        self.seed = settings.pop("seed", None)
        self._device = self.model.device

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Decode the contexts of requests.

        Args:
            requests (`Sequence[Instance]`):
                Each with context and settings as its arguments.
            disable_tqdm (`bool`, *optional*, defaults to `False`):
                Hide progress.

        Returns:
            `list[str]`: the texts before the first stop string, in the order of the requests.

        Raises:
            ValueError: if a task sets an option that `generate` does not have.
        """
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(index)
        texts = [""] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as progress:
            for indices in groups.values():
                settings, stops = self._settings_of(requests[indices[0]].args[1])
                for start in range(0, len(indices), self.batch_size):
                    batch = indices[start : start + self.batch_size]
                    prompts = [requests[index].args[0] for index in batch]
                    seed = None if self.seed is None else self.seed + start
                    decodings = decode_prompts(
                        self.model, self.tokenizer, prompts, self.strategy, self.batch_size, seed=seed, **settings
                    )
                    for index, decoding in zip(batch, decodings, strict=True):
                        texts[index] = before_stop(decoding.answer, stops)
                        self.cache_hook.add_partial("generate_until", requests[index].args, texts[index])
                    progress.update(len(batch))
        return texts

    def _settings_of(self, asked: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return the settings of `generate` and the stop strings of a task."""
        known = normalize_gen_kwargs(asked, default_max_gen_toks=0)
        stops, length = known.pop("until"), known.pop("max_gen_toks")
        known.pop("do_sample")
        if length:
            known["max_new_tokens"] = length
        return {**known, **self.settings}, [stop for stop in stops if stop]

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> NoReturn:
        """Refuse: a masked diffusion model has no exact likelihood.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "`tasks` must be tasks that generate text (`output_type: generate_until`): a masked diffusion model has "
            "no exact likelihood, and this class makes no estimate of it."
        )

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> NoReturn:
        """Refuse, as `loglikelihood`.

        Raises:
            NotImplementedError: always.
        """
        self.loglikelihood(requests)

    @property
    def tokenizer_name(self) -> str:
        """Name that the harness uses to store requests."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the tokenizer's chat template, by its name if one is given."""
        if not chat_template:
            return None
        return self.tokenizer.get_chat_template(chat_template if isinstance(chat_template, str) else None)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the turns of a chat as text, ready for an answer or for the rest of the last turn."""
        text = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(text)
