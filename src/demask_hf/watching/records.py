"""What a trace holds: candidates and dependencies of each pass, what was written, and why positions waited."""

from dataclasses import dataclass, field
from typing import Any

from ..strategies import DecodingSettings


@dataclass(frozen=True)
class Candidate:
    """What a pass predicted at one candidate.

    Args:
        position (`int`):
            Its position, counted from the first token of the prompt.
        token (`int`):
            The token that it would get, or got.
        probability (`float`):
            Probability of that token, in [0, 1], as the strategy reads it.
        entropy (`float`):
            Entropy of the prediction, in nats.
        likely (`tuple[tuple[int, float], ...]`):
            The most likely tokens with their probabilities, the most likely first.
    """

    position: int
    token: int
    probability: float
    entropy: float
    likely: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Dependency:
    """How much revealing one candidate would change the prediction at another.

    Args:
        source (`int`): Position that is revealed.
        target (`int`): Position whose prediction changes.
        value (`float`): `D[source, target]`, in total variation, in [0, 1].
    """

    source: int
    target: int
    value: float


@dataclass(frozen=True)
class Pass:
    """One forward pass and what was written after it.

    Args:
        tokens (`tuple[int, ...]`):
            Token ids after it, masks included.
        candidates (`tuple[Candidate, ...]`):
            What was predicted at the candidates that the strategy saw.
        dependencies (`tuple[Dependency, ...]`):
            The larger dependencies among them, where the strategy has any.
        reasons (`dict[int, str]`):
            Why each position that is still masked waits.
    """

    tokens: tuple[int, ...]
    candidates: tuple[Candidate, ...] = ()
    dependencies: tuple[Dependency, ...] = ()
    reasons: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoded:
    """How a decoding ended.

    Args:
        tokens (`tuple[int, ...]`): Token ids, padding after the end included.
        dropped (`frozenset[int]`): Positions after the end.
        num_forward_passes (`int`): Forward passes.
        num_probe_passes (`int`): Forwards spent on measuring dependencies.
    """

    tokens: tuple[int, ...]
    dropped: frozenset[int]
    num_forward_passes: int
    num_probe_passes: int = 0


@dataclass(frozen=True)
class Recording:
    """One decoding, pass by pass.

    Args:
        strategy (`dict[str, Any]`):
            Name and fields of the strategy.
        settings ([`DecodingSettings`], *optional*):
            Settings of the decoding.
        first (`tuple[int, ...]`):
            Token ids before the first pass, masks included, without padding.
        passes (`tuple[Pass, ...]`):
            The passes.
        decoded ([`Decoded`]):
            How it ended.
        mask_token_id (`int`):
            Id of the mask token.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Spells the tokens; without one they are shown by their ids.
        title (`str`, *optional*):
            What a page calls it; by default the name of the strategy.
        model (`str`, *optional*):
            Name of the model.
    """

    strategy: dict[str, Any]
    settings: DecodingSettings | None
    first: tuple[int, ...]
    passes: tuple[Pass, ...]
    decoded: Decoded
    mask_token_id: int
    tokenizer: Any = field(default=None, repr=False, compare=False)
    title: str | None = None
    model: str | None = None

    @property
    def begin(self) -> int:
        """The first position that was masked; what stands before it is the prompt."""
        return self.first.index(self.mask_token_id) if self.mask_token_id in self.first else len(self.first)

    def text_of(self, *tokens: int, skip_special_tokens: bool = False) -> str:
        """Return the text of tokens; without a tokenizer their ids in brackets."""
        if self.tokenizer is None:
            return "".join(f"[{token}]" for token in tokens)
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens))
