"""States of a backbone to train a head on: answers masked at random, and states that decoding visits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch.utils.data import Dataset

from ..backbones.backbone import Backbone, text_config
from ..functional.masking import random_mask
from ..functional.probes import TARGET_ESTIMATORS
from ..functional.sampling import Sampling
from ..generation.blocks import BlockLayout
from ..generation.canvases import check_canvas_length
from ..generation.encoding import left_padded
from ..generation.mixin import DemaskGenerationMixin
from ..strategies import make_strategy
from ..validation import check_choice, check_count, check_interval
from .examples import DependencyExample, measure_examples
from .prompts import TokenizedPrompt


@dataclass(frozen=True)
class CollectionSettings:
    """Which states are drawn and how they are measured.

    Args:
        num_states (`int`):
            Number of states; state `k` belongs to one prompt of a shuffled pass over all of them.
        answer_length (`int`):
            Length of the answer in tokens; longer answers are truncated, shorter ones are filled with end-of-sequence
            tokens.
        num_sources (`int`, *optional*, defaults to 8):
            Random positions revealed in each state.
        estimator (`str`, *optional*, defaults to `"sample"`):
            "sample" reveals one drawn token (unbiased, one forward per source), "argmax" the most likely one (a
            proxy), "expectation" every likely token.
        trajectory_ratio (`float`, *optional*, defaults to 0.5):
            Share of the states that decoding visits, in [0, 1]; the others are answers masked at random.
        strategy (`str` or `dict`, *optional*, defaults to `"threshold"`):
            The strategy that decodes, as in `generate`.
        temperature (`float`, *optional*, defaults to 0.0):
            Temperature of this decoding. If it is above 0, dependencies are measured for distributions of this
            temperature; at 0, for those of temperature 1, because point masses depend on nothing.
        top_p (`float`, *optional*):
            Likewise for the mass of the most likely tokens, in (0, 1].
        batch_size (`int`, *optional*, defaults to 16):
            States drawn and measured together.
        states_per_shard (`int`, *optional*, defaults to 256):
            States in a file.
        seed (`int`, *optional*, defaults to 0):
            A shard is a function of the seed, its number and the other settings.

    Raises:
        ValueError: if a setting is outside its range.
    """

    num_states: int
    answer_length: int
    num_sources: int = 8
    estimator: str = "sample"
    trajectory_ratio: float = 0.5
    strategy: str | dict[str, Any] = "threshold"
    temperature: float = 0.0
    top_p: float | None = None
    batch_size: int = 16
    states_per_shard: int = 256
    seed: int = 0

    def __post_init__(self):
        for name in ("num_states", "answer_length", "num_sources", "batch_size", "states_per_shard"):
            check_count(name, getattr(self, name))
        check_choice("estimator", self.estimator, TARGET_ESTIMATORS)
        check_interval("trajectory_ratio", self.trajectory_ratio, 0, 1)
        check_interval("temperature", self.temperature, 0)
        if self.top_p is not None:
            check_interval("top_p", self.top_p, 0, 1, open_low=True)
        make_strategy(**({"name": self.strategy} if isinstance(self.strategy, str) else self.strategy))

    @property
    def num_shards(self) -> int:
        """Number of files."""
        return -(-self.num_states // self.states_per_shard)


class MeasuredStates(Dataset):
    """States that are drawn and measured on access.

    A batch of states depends on the settings and on its state numbers only. `Trainer` can read this dataset directly,
    which trains on the fly and stores nothing.

    Args:
        model ([`DemaskGenerationMixin`]):
            The backbone, with its head if the strategy needs one.
        prompts (`Sequence[TokenizedPrompt]`):
            Prompts with answers.
        settings ([`CollectionSettings`]):
            Which states to draw and how to measure them.

    Raises:
        ValueError: if the model has no end-of-sequence token.
    """

    def __init__(self, model: DemaskGenerationMixin, prompts: Sequence[TokenizedPrompt], settings: CollectionSettings):
        self.model, self.prompts, self.settings = model, prompts, settings
        self.backbone = Backbone.of(model, getattr(model.generation_config, "mask_token_id", None))
        eos = model.generation_config.eos_token_id
        eos = text_config(model).eos_token_id if eos is None else eos
        if eos is None:
            raise ValueError("`model` must have an `eos_token_id` in its config, got None.")
        check_canvas_length(self.backbone, settings.answer_length, "answer_length", is_single=True)
        self._eos = torch.tensor(eos if isinstance(eos, list) else [eos])
        self._orders: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return self.settings.num_states

    def __getitem__(self, index: int) -> DependencyExample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[DependencyExample]:
        """Return the measured states with these numbers; data loaders call this with a batch."""
        random = Random(f"{self.settings.seed}/{list(indices)}")
        generator = torch.Generator().manual_seed(random.getrandbits(62))
        records = [self._record(index) for index in indices]
        tokens = [self.prompts[record].prompt for record in records]
        prompts, attention_mask = left_padded(tokens, int(self._eos[0]))
        answers = self._answers([self.prompts[record].answer for record in records])
        is_visited = torch.tensor([self._is_visited(index) for index in indices])
        masked = self._randomly_masked(answers, generator)
        if is_visited.any():
            masked[is_visited] = self._visited(prompts[is_visited], attention_mask[is_visited], random)
        device = self.backbone.device
        attention_mask = torch.nn.functional.pad(attention_mask, (0, masked.shape[1]), value=1)
        layout, candidates = BlockLayout.of_model(self.backbone, prompts.shape[1], attention_mask.to(device)), None
        if layout is not None:
            blocks = layout.blocks[:, prompts.shape[1] :].cpu()
            masked, candidates = self._in_one_block(masked, answers, blocks, is_visited, generator)
        candidates = self._candidates(masked) if candidates is None else candidates
        sequences = torch.cat([prompts, masked], dim=1)
        candidates = torch.nn.functional.pad(candidates, (prompts.shape[1], 0))
        examples = measure_examples(
            self.backbone,
            sequences.to(device),
            None if attention_mask.all() else attention_mask.to(device),
            candidates.to(device),
            self.settings.num_sources,
            generator,
            self.settings.estimator,
            sampling=Sampling(temperature=self.settings.temperature or 1.0, top_p=self.settings.top_p),
            noise=self._noise(masked, generator),
            layout=layout,
        )
        for example, record in zip(examples, records, strict=True):
            example.record = record
        return examples

    def numbers(self, shard: int) -> range:
        """Return the numbers of the states in a shard."""
        size = self.settings.states_per_shard
        return range(shard * size, min((shard + 1) * size, self.settings.num_states))

    def shard(self, index: int) -> Iterator[list[DependencyExample]]:
        """Yield the batches of a shard."""
        return map(self.__getitems__, self.batches(index))

    def batches(self, index: int) -> list[range]:
        """Return the numbers of the states of each batch of a shard."""
        numbers, size = self.numbers(index), self.settings.batch_size
        return [numbers[start : start + size] for start in range(0, len(numbers), size)]

    def _record(self, index: int) -> int:
        """Return the prompt of a state: each pass over the prompts has its own order."""
        epoch, place = divmod(index, len(self.prompts))
        if epoch not in self._orders:
            order = list(range(len(self.prompts)))
            Random(f"{self.settings.seed}/order/{epoch}").shuffle(order)
            self._orders = {epoch: order}
        return self._orders[epoch][place]

    def _is_visited(self, index: int) -> bool:
        """Return whether this state comes from decoding; the share holds exactly over any range of numbers."""
        ratio = self.settings.trajectory_ratio
        return int((index + 1) * ratio) > int(index * ratio)

    def _answers(self, answers: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Return the answers, truncated or filled with end-of-sequence tokens, `(batch, answer_length)`."""
        rows = torch.full((len(answers), self.settings.answer_length), int(self._eos[0]))
        for row, answer in enumerate(answers):
            kept = answer[: self.settings.answer_length]
            rows[row, : len(kept)] = torch.tensor(kept)
        return rows

    def _randomly_masked(self, answers: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Mask answers at ratios over (0, 1), with at least one masked position before the end."""
        mask_token_id = self.backbone.mask_token_id
        masked = answers.masked_fill(random_mask(torch.ones_like(answers, dtype=torch.bool), generator), mask_token_id)
        is_before_end = torch.isin(answers, self._eos).cumsum(dim=-1) - torch.isin(answers, self._eos).long() == 0
        noise = torch.rand(answers.shape, generator=generator).masked_fill(~is_before_end, 2.0)
        is_chosen = noise == noise.min(dim=-1, keepdim=True).values
        is_empty = ~self._candidates(masked).any(dim=-1, keepdim=True)
        return masked.masked_fill(is_chosen & is_empty, mask_token_id)

    def _noise(self, answers: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        """Return random tokens for two steps, `(2, batch, answer_length)`; `None` for models with a mask token."""
        if self.backbone.quirks.noise != "uniform":
            return None
        noise = torch.randint(self.backbone.mask_token_id, (2, *answers.shape), generator=generator)
        return noise.to(self.backbone.device or "cpu")

    def _in_one_block(
        self,
        masked: torch.Tensor,
        answers: torch.Tensor,
        blocks: torch.Tensor,
        is_visited: torch.Tensor,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return states in which one block is decoded, and its candidates: earlier blocks are written.

        In states that decoding visits it is the first unfinished block, in others a random one.
        """
        candidates, is_end = self._candidates(masked), torch.isin(answers, self._eos)
        # Up to the first end, so that no end is revealed before a candidate.
        is_eligible = candidates & ((is_end.cumsum(dim=-1) - is_end.long() == 0) | is_visited[:, None])
        noise = torch.rand(answers.shape, generator=generator).masked_fill(~is_eligible, 2.0)
        chosen = blocks.gather(1, noise.argmin(dim=-1, keepdim=True))
        first = blocks.masked_fill(~is_eligible, answers.shape[1] + int(blocks.max())).amin(dim=-1, keepdim=True)
        current = torch.where(is_visited[:, None], first, chosen)
        masked = torch.where((blocks < current) & ~is_visited[:, None], answers, masked)
        return masked, self._candidates(masked) & (blocks == current)

    def _visited(self, prompts: torch.Tensor, attention_mask: torch.Tensor, random: Random) -> torch.Tensor:
        """Decode the prompts and return the answers before a random step, `(batch, answer_length)`."""
        strategy, length = self.settings.strategy, self.settings.answer_length
        output: Any = self.model.generate(
            prompts,
            attention_mask,
            strategy=dict(strategy) if isinstance(strategy, dict) else strategy,
            max_new_tokens=length,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            seed=[random.getrandbits(48) for _ in prompts],
            output_history=True,
            return_dict_in_generate=True,
        )
        steps = [random.randrange(count) for count in output.num_forward_passes.tolist()]
        return torch.stack([output.history[step][row, -length:].cpu() for row, step in enumerate(steps)])

    def _candidates(self, answers: torch.Tensor) -> torch.Tensor:
        """Return the masks before the first visible end of each answer."""
        is_open = torch.isin(answers, self._eos).cumsum(dim=-1) == 0
        return (answers == self.backbone.mask_token_id) & is_open
