"""An automaton over tokens that says which answers are accepted; `restriction.py` computes with it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch


_IMPOSSIBLE = float("-inf")


@dataclass(frozen=True)
class Edges:
    """Edges of an automaton, sorted by one of their ends; all of shape `(edges,)` but the last.

    Args:
        sources (`torch.LongTensor`): State that each edge leaves.
        classes (`torch.LongTensor`): Class of tokens that it reads.
        targets (`torch.LongTensor`): State that it reaches.
        counts (`torch.LongTensor` of shape `(groups,)`): Number of edges of each state, or class, that they are sorted
            by.
    """

    sources: torch.Tensor
    classes: torch.Tensor
    targets: torch.Tensor
    counts: torch.Tensor

    def by(self, keys: torch.Tensor, num_groups: int) -> "Edges":
        """Return the edges in the order of these keys, one for each edge."""
        order = keys.argsort(stable=True)
        counts = torch.bincount(keys, minlength=num_groups)
        return Edges(self.sources[order], self.classes[order], self.targets[order], counts)

    def to(self, device: torch.device) -> "Edges":
        """Return the edges on a device."""
        sources, classes, targets = (each.to(device) for each in (self.sources, self.classes, self.targets))
        return Edges(sources, classes, targets, self.counts.to(device))

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the sum of each group's `exp(values)`, given as logarithms per edge and row."""
        highest = self.highest(values)
        finite = highest.masked_fill(highest.isinf(), 0.0)
        shifted = (values - finite.repeat_interleave(self.counts, dim=0)).exp_()
        return finite + torch.segment_reduce(shifted, "sum", lengths=self.counts, axis=0, unsafe=True).log_()

    def highest(self, values: torch.Tensor) -> torch.Tensor:
        """Return the highest value of each group, given values of shape `(edges, rows)`."""
        return torch.segment_reduce(values, "max", lengths=self.counts, axis=0, unsafe=True, initial=_IMPOSSIBLE)


@dataclass(frozen=True)
class TokenAutomaton:
    """A deterministic automaton over tokens. Tokens that it never tells apart form a class, so edges read classes.

    One more class, `any_class`, stands for every token; it is read behind the end of an answer.

    Args:
        class_of (`torch.LongTensor` of shape `(vocabulary,)`): Class of each token; 0 is read by no edge.
        leaving ([`Edges`]): Sorted by source.
        reaching ([`Edges`]): Sorted by target.
        reading ([`Edges`]): Sorted by class, `any_class` included.
        accepts (`torch.BoolTensor` of shape `(states,)`): Whether an answer may end in this state.
        initial (`int`): State before the first token.
    """

    class_of: torch.Tensor
    leaving: Edges
    reaching: Edges
    reading: Edges
    accepts: torch.Tensor
    initial: int

    @property
    def any_class(self) -> int:
        """The class that stands for every token."""
        return self.reading.counts.numel() - 1

    @property
    def num_edges(self) -> int:
        """Number of edges, each for a class of tokens."""
        return self.leaving.sources.numel()

    @classmethod
    def of(
        cls,
        transitions: Iterable[tuple[int, int, int]],
        initial: int,
        accepting: Iterable[int],
        vocab_size: int,
        eos_token_ids: Sequence[int] = (),
    ) -> "TokenAutomaton":
        """Build an automaton that accepts what others leave in an accepting state, and anything behind its end.

        Args:
            transitions (`Iterable[tuple[int, int, int]]`):
                State, token and next state; states are any integers. End-of-sequence tokens must not occur.
            initial (`int`):
                State before the first token.
            accepting (`Iterable[int]`):
                States in which an answer may end.
            vocab_size (`int`):
                Number of tokens.
            eos_token_ids (`Sequence[int]`, *optional*):
                Tokens that end an answer.
        """
        edges = torch.tensor(list(transitions), dtype=torch.long).view(-1, 3)
        accepting = torch.tensor(sorted(accepting), dtype=torch.long)
        names = torch.cat([edges[:, 0], edges[:, 2], accepting, torch.tensor([initial])]).unique()
        end, accepting = names.numel(), torch.searchsorted(names, accepting)
        sources, targets = (torch.searchsorted(names, edges[:, side].contiguous()) for side in (0, 2))
        edges = torch.stack([edges[:, 1], sources, targets], dim=-1)
        for token in eos_token_ids:
            columns = (torch.full_like(accepting, token), accepting, torch.full_like(accepting, end))
            edges = torch.cat([edges, torch.stack(columns, dim=-1)])
        class_of, edges = _classes(edges, vocab_size)
        any_class = int(class_of.max()) + 1
        classes, sources, targets = torch.cat([edges, torch.tensor([[any_class, end, end]])]).T.contiguous()
        all_edges, num_states = Edges(sources, classes, targets, torch.empty(0)), end + 1
        accepts = torch.zeros(num_states, dtype=torch.bool).index_fill_(0, accepting, True)
        accepts[end] = True
        return cls(
            class_of,
            all_edges.by(sources, num_states),
            all_edges.by(targets, num_states),
            all_edges.by(classes, any_class + 1),
            accepts,
            int(torch.searchsorted(names, initial)),
        )

    def to(self, device: torch.device) -> "TokenAutomaton":
        """Return the automaton on a device."""
        leaving, reaching, reading = (edges.to(device) for edges in (self.leaving, self.reaching, self.reading))
        class_of, accepts = self.class_of.to(device), self.accepts.to(device)
        return TokenAutomaton(class_of, leaving, reaching, reading, accepts, self.initial)

    def class_weights(self, log_probabilities: torch.Tensor, is_sum: bool) -> torch.Tensor:
        """Return the weight of each class of tokens at positions that are free.

        Args:
            log_probabilities (`torch.Tensor` of shape `(positions, vocabulary)`):
                Logarithms of distributions; minus infinity for tokens that are never written.
            is_sum (`bool`):
                Whether a class weighs as much as all its tokens together, or as its most probable token.

        Returns:
            `torch.Tensor` of shape `(positions, classes)`, float64, logarithms; 0 for `any_class`.
        """
        values, classes = log_probabilities.double(), self.class_of.expand_as(log_probabilities)
        weights = values.new_full((len(values), self.any_class + 1), _IMPOSSIBLE)
        weights.scatter_reduce_(1, classes, values, "amax")
        if is_sum:
            highest = weights.masked_fill(weights.isinf(), 0.0)
            sums = torch.zeros_like(weights).index_add_(1, self.class_of, (values - highest[:, self.class_of]).exp_())
            weights = highest + sums.log_()
        weights[:, self.any_class] = 0.0
        return weights

    def fixed_weights(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the weights of positions that hold a token; -1 is a position of which nothing is known.

        Args:
            tokens (`torch.LongTensor` of any shape):
                The tokens; those with -1 can only lie behind the end.

        Returns:
            `torch.Tensor` of the shape of `tokens` and one more axis for the classes, float64, logarithms.
        """
        shape = (*tokens.shape, self.any_class + 1)
        weights = torch.full(shape, _IMPOSSIBLE, dtype=torch.float64, device=tokens.device)
        classes = torch.where(tokens < 0, self.any_class, self.class_of[tokens.clamp(min=0)])
        weights.scatter_(-1, classes[..., None], 0.0)
        weights[..., self.any_class] = 0.0
        return weights

    def shortest(self, excluded: Sequence[int] = ()) -> int | None:
        """Return the number of tokens of the shortest accepted answer, without its end; `None` if there is none.

        Args:
            excluded (`Sequence[int]`, *optional*):
                Tokens that are never written.
        """
        is_free = torch.ones_like(self.class_of, dtype=torch.bool)
        is_free[list(excluded)] = False
        is_read = torch.zeros(self.any_class + 1, dtype=torch.bool, device=is_free.device)
        is_read[self.class_of[is_free]] = True
        kept = is_read[self.leaving.classes]
        sources, targets = self.leaving.sources[kept], self.leaving.targets[kept]
        accepts = self.accepts.clone()
        # The state behind the end, reached by an end-of-sequence token.
        accepts[-1] = False
        is_reached = torch.zeros_like(accepts)
        is_reached[self.initial] = True
        for length in range(len(accepts)):
            if (is_reached & accepts).any():
                return length
            is_reached = is_reached.index_fill(0, targets[is_reached[sources]], True)
        return None


def _classes(edges: torch.Tensor, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the class of each token, and the edges of one token of each class.

    Edges of shape `(edges, 3)` hold token, or class, source and target.
    """
    order = edges[:, 1].argsort(stable=True)
    edges = edges[order][edges[order][:, 0].argsort(stable=True)]
    counts = torch.bincount(edges[:, 0], minlength=vocab_size)
    known: dict[bytes, int] = {}
    class_of, kept = torch.zeros(vocab_size, dtype=torch.long), []
    for token, own in enumerate(edges[:, 1:].split(counts.tolist())):
        if len(own):
            key = own.numpy().tobytes()
            if key not in known:
                known[key] = len(known) + 1
                kept.append(torch.nn.functional.pad(own, (1, 0), value=known[key]))
            class_of[token] = known[key]
    return class_of, torch.cat([edges[:0], *kept])
