"""The resolved settings of a decoding, which are the same for every step."""

from dataclasses import dataclass, field

from ..functional.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class DecodingSettings(Sampling):
    """Resolved settings of a `generate` call, including those of [`Sampling`].

    Args:
        prompt_length (`int`): Columns before the answer.
        num_new_tokens (`int`): Length of the answer.
        block_length (`int`): Tokens in a block of the answer; at least 1.
        num_blocks (`int`): Number of blocks; at least 1. Masks in the prompt belong to the first.
        block_alignment (`str`, *optional*): How blocks are counted in a model with block-causal attention, see
            [`BackboneQuirks`]. A finished block is then not changed any more.
        num_steps (`int`, *optional*): Planned steps of a schedule; `None` is one per token.
        max_steps (`int`, *optional*): Cap on the steps of a row.
        max_remasks (`int`, *optional*): Cap on what is remasked or edited of a row; `None` is 8 for each position.
        scores (`str`): "model" or "sampled": the distributions that strategy and head read.
        eos_token_ids (`list[int]`): Tokens that end an answer; empty if every position is to be decoded.
        eos_penalty (`float`): Subtracted from the logits of `ending_token_ids` in what the strategy reads.
        ending_token_ids (`list[int]`): End-of-sequence tokens that it holds for, whether they end an answer or not.
        pad_token_id (`int`, *optional*): Token written after the end.
        block_cache (`str`): "none", "prefix", "dual" or "exact".
        cache_refresh_interval (`int`, *optional*): Forwards of a row from one full forward to the next.
        cache_commits_first (`bool`): With a cache, write the first position of a block after its full forward.
        batch_invariant (`bool`): Compute every row in the shapes that it has alone.
        draws_from_torch (`bool`): Draw from torch's own generator instead of the seeds of the rows, which are 0.
    """

    prompt_length: int
    num_new_tokens: int
    block_length: int
    num_blocks: int
    block_alignment: str | None = None
    num_steps: int | None = None
    max_steps: int | None = None
    max_remasks: int | None = None
    scores: str = "model"
    eos_token_ids: list[int] = field(default_factory=list)
    eos_penalty: float = 0.0
    ending_token_ids: list[int] = field(default_factory=list)
    pad_token_id: int | None = None
    block_cache: str = "none"
    cache_refresh_interval: int | None = None
    cache_commits_first: bool = False
    batch_invariant: bool = False
    draws_from_torch: bool = False

    @property
    def scored(self) -> Sampling:
        """Temperature and filters of the distributions that strategy and head read: none, or those of the draws."""
        return self if self.scores == "sampled" else Sampling()
