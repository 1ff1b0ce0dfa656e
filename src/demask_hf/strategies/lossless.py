"""Lossless: the answer of one token per forward pass, in fewer passes, with drafts from learned dependencies."""

from dataclasses import dataclass, field

import numpy as np
import torch

from ..functional.dependency import DEPENDENCY_ORDERS
from ..functional.sampling import uniform_noise
from ..validation import check_choice, check_count
from .base import Compiled, UnmaskingStrategy, as_it_is, register_strategy
from .demask import DemaskStrategy
from .dependencies import HeadDependencies
from .drafts import Drafts
from .lookahead import Lookahead
from .needs import Need
from .sequential import needs_of_order, position_scores
from .settings import DecodingSettings
from .step import DenoisingStep


ORDERS = ("confidence", "entropy", "margin", "token_probability", "left_to_right", *DEPENDENCY_ORDERS)
# Smallest doubt that float32 distinguishes from none, so that a certain position is not infinitely certain.
_SMALLEST_DOUBT = 2e-7


@register_strategy("lossless")
@dataclass
class LosslessStrategy(UnmaskingStrategy):
    r"""Unmask one position at a time, and verify in the same forward what the next steps would write.

    The answer is that of `sequential` with the same order, token by token, at every temperature, whatever the head
    predicts: a row moves on to a version only if one step of a verified version writes exactly that. Versions are
    compared as sets of written tokens, so one that is reached in two orders is computed once. The head decides which
    versions are worth computing, see [`Lookahead`]: prefixes of the walk that `demask` makes, and the most probable
    detours. Without a head all positions count as equally dependent, and fewer drafts are accepted.

    Float32 predictions of a row differ a little with the number of rows that are computed together. Where two
    positions, or two tokens, are closer than that, the answer may be another one, as in any batch; with
    `batch_invariant=True` it is not.

    Args:
        num_versions (`int`, *optional*, defaults to 16):
            Most versions of a row in one forward, the row itself included; at least 1.
        order (`str`, *optional*, defaults to `"confidence"`):
            Order in which positions are written: "confidence", "entropy", "margin", "token_probability" or
            "left_to_right" as of `sequential`, or "influence" or "degree" as of `demask` with a bound of 0.

    Example:

    Each pair of digits has a given sum. The answer of `sequential`, in 5 passes instead of 26:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM, head=demask_hf.TINY_DEMASK)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, strategy="lossless", return_dict_in_generate=True)
    >>> print(*output.drafts(tokenizer), sep="\n")
    _+______________________
    _+_, _+_, _+_, _+_, _+_, _+__
    _+_, _+_, _+_, _+_, _+_, _+__
    1+6, 3+9, 1+4, 9+9, 1+2, _+_
    1+6, 3+9, 1+4, 9+9, 1+2, 5+6

    ```
    """

    num_versions: int = 16
    order: str = "confidence"
    _source: HeadDependencies | None = field(default=None, init=False, repr=False, compare=False)
    _walker: DemaskStrategy | None = field(default=None, init=False, repr=False, compare=False)
    _settings: DecodingSettings | None = field(default=None, init=False, repr=False, compare=False)
    # The last step, of all versions.
    _seen: DenoisingStep | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def sequential_order(self) -> str:
        return self.order

    @property
    def needs(self) -> frozenset[Need]:
        needs = needs_of_order("confidence" if self.order in DEPENDENCY_ORDERS else self.order)
        if self._source is not None:
            needs |= self._source.needs
        return needs | {"probabilities"} if self._draws else needs

    @property
    def _draws(self) -> bool:
        """Whether tokens are drawn, so that those of later steps are not those of this one."""
        return self._settings is not None and self._settings.temperature > 0

    def __post_init__(self):
        check_count("num_versions", self.num_versions)
        check_choice("order", self.order, ORDERS)

    def bind(
        self,
        model: torch.nn.Module,
        settings: DecodingSettings | None = None,
        compiled: Compiled = as_it_is,
    ) -> None:
        self._settings = settings
        if self.order in DEPENDENCY_ORDERS:
            self._walker = DemaskStrategy(dependency_bound=0.0, order=self.order)
            # Without settings: a certificate of the head says nothing about single positions.
            self._walker.bind(model, compiled=compiled)
        if self._walker is not None or getattr(model, "demask_head", None) is not None:
            self._source = HeadDependencies.of(model, compiled)

    def select(self, step: DenoisingStep) -> torch.Tensor:
        self._seen = step
        if self._walker is not None:
            return self._walker.select(step)
        return step.best(position_scores(step, self.order), 1)

    def drafts(self, step: DenoisingStep, selected: torch.Tensor) -> Drafts | None:
        seen, self._seen = self._seen, None
        if seen is None or self.num_versions == 1:
            return None
        written = torch.where(selected, step.at_positions(step.tokens, 0), step.sequences).cpu().numpy()
        by_version = (-1, len(step.seeds))
        certainties, sequences = (
            tensor.unflatten(0, by_version).cpu().numpy()
            for tensor in (seen.at_positions(self._certainties(seen), float("-inf")), seen.sequences)
        )
        tokens = np.stack(
            [seen.at_positions(each, 0).unflatten(0, by_version).cpu().numpy() for each in self._guesses(seen, step)],
            -1,
        )
        dependencies = self._dependencies(step)
        drafts = np.repeat(written[None], self.num_versions - 1, axis=0)
        num_steps = np.zeros(drafts.shape[:2], dtype=np.int64)
        candidates = step.candidates.cpu().numpy()
        for rank, row in enumerate(step.index.host_active):
            (columns,) = candidates[row].nonzero()
            is_seen = np.isfinite(certainties[:, row]).any(axis=-1)
            ahead = Lookahead(
                sequences[is_seen, row][:, columns],
                certainties[is_seen, row][:, columns],
                tokens[is_seen, row][:, columns],
                dependencies[rank, : len(columns), : len(columns)],
                mask_token_id=step.mask_token_id,
                end_token_ids=frozenset(() if self._settings is None else self._settings.eos_token_ids),
                jumps=self.order not in ("left_to_right", *DEPENDENCY_ORDERS),
                is_followed=bool((written[row, columns[-1] + 1 :] == step.mask_token_id).any()),
            )
            start = written[row, columns]
            for number, version in enumerate(ahead.versions(start, self.num_versions - 1)):
                drafts[number, row, columns] = version
                num_steps[number, row] = (version != start).sum()
        device = step.sequences.device
        return Drafts(torch.from_numpy(drafts).to(device), torch.from_numpy(num_steps).to(device))

    def _certainties(self, step: DenoisingStep) -> torch.Tensor:
        """Return the score of each candidate in the order, on a scale on which small differences count alike."""
        if self._walker is not None:
            return self._walker.walk_scores(step)
        scores = position_scores(step, self.order).double()
        if self.order == "left_to_right":
            return scores
        return -((-scores if self.order == "entropy" else 1 - scores) + _SMALLEST_DOUBT).log()

    def _guesses(self, seen: DenoisingStep, step: DenoisingStep) -> list[torch.Tensor]:
        """Return the tokens that each candidate would get in the next step, the one after it, and so on."""
        if not self._draws or self._settings is None:
            return [seen.tokens]
        likely = self._settings.drawn(seen.given("probabilities").log(), step.mask_token_id)
        cumulative = likely.double().cumsum(dim=-1)
        rows = seen.rows % len(step.seeds)
        facts = (seen.seeds[seen.rows], seen.positions[seen.rows, seen.columns])
        # A draft's k-th token is written in the k-th step after this one, with the noise of that step.
        noise = torch.stack(
            [
                uniform_noise(facts[0], step.step_index[rows] + ahead, facts[1])
                for ahead in range(1, self.num_versions)
            ],
            dim=-1,
        )
        drawn = torch.searchsorted(cumulative, noise * cumulative[:, -1:], right=True)
        return list(drawn.clamp(max=cumulative.shape[-1] - 1).unbind(dim=-1))

    def _dependencies(self, step: DenoisingStep) -> np.ndarray:
        """Return dependencies of shape `(rows, positions, positions)`; zeros without a head."""
        index = step.index
        if self._source is None:
            return np.zeros((len(index.host_active), index.width, index.width))
        is_position = index.padded(torch.ones_like(index.ranks, dtype=torch.bool))
        return self._source(step, is_position).double().cpu().numpy()
