"""Which versions of a row are worth computing, to verify what one token per step would write."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


# Chosen on validation prompts of the shipped checkpoint; they decide how many drafts are accepted, not the answer.
# What a written token changes at least elsewhere, in total variation.
_LEAST_CHANGE = 0.01
# A position whose prediction changes less is predicted well enough to be written in the walk.
_WALK_BOUND = 0.3
# A position whose prediction changes more is likely to become certain: this certain.
_JUMP, _CERTAINTY_AFTER_JUMP = 0.5, 5.0
# Differences of certainty that are likely to be overturned.
_SCALE = 0.05
# Detours of a smaller probability are not computed.
_LEAST_PROBABILITY = 0.01
_NUM_DETOURS = 3


@dataclass(frozen=True)
class Lookahead:
    """What the computed versions of a row tell about versions that are not computed yet.

    The prediction of a position in a version is guessed as that of the computed version that differs least from it,
    where each differing position counts with its predicted influence on the position (`D` of `demask`). So the two
    halves of an answer that do not depend on each other may come from two versions.

    Args:
        sequences (`np.ndarray` of shape `(num_versions, positions)`):
            Tokens of the computed versions at the row's candidates, masks included.
        certainties (`np.ndarray` of the same shape):
            Score of each position in the order of writing, higher first; minus infinity where it is not open.
        tokens (`np.ndarray` of shape `(num_versions, positions, steps)`):
            Token that each position would get in the next step, the one after it, and so on; the last one counts for
            all later steps.
        dependencies (`np.ndarray` of shape `(positions, positions)`):
            `D[source, target]`, in [0, 1].
        mask_token_id (`int`):
            Id of the mask token.
        end_token_ids (`frozenset[int]`):
            Tokens behind which nothing is written.
        jumps (`bool`):
            Whether positions become certain when what they depend on is written.
        is_followed (`bool`):
            Whether another block follows, so that a version in which all positions are written is of use.
    """

    sequences: np.ndarray
    certainties: np.ndarray
    tokens: np.ndarray
    dependencies: np.ndarray
    mask_token_id: int
    end_token_ids: frozenset[int]
    jumps: bool
    is_followed: bool

    def __post_init__(self):
        influence = np.maximum(self.dependencies, _LEAST_CHANGE) * (1 - np.eye(len(self.dependencies)))
        object.__setattr__(self, "dependencies", influence)

    def versions(self, start: np.ndarray, count: int) -> list[np.ndarray]:
        """Return the versions to compute, those with fewer tokens first.

        Args:
            start (`np.ndarray` of shape `(positions,)`):
                The row.
            count (`int`):
                Most versions.
        """
        if not self._is_open(start).any():
            return []
        walk = [version for version in self._walk(start) if self._is_of_use(version)]
        # The longest prefix tells most about positions that depend on many, so it is computed in any case.
        kept = {version.tobytes(): version for version in (walk[: max(count - 1, 1)] + walk[-1:])[:count]}
        for version in self._detours(start):
            if len(kept) >= count:
                break
            kept.setdefault(version.tobytes(), version)
        return sorted(kept.values(), key=lambda version: int((version != start).sum()))

    def _walk(self, start: np.ndarray) -> list[np.ndarray]:
        """Return the prefixes of the walk by certainty that skips positions whose prediction has changed too much."""
        version, prefixes = start, list[np.ndarray]()
        while True:
            certainties, tokens, changes = self._predicted(version, len(prefixes))
            certainties[~self._is_open(version) | (changes > _WALK_BOUND)] = -np.inf
            best = certainties.argmax()
            if not np.isfinite(certainties[best]):
                return prefixes
            version = version.copy()
            version[best] = tokens[best]
            prefixes.append(version)

    def _detours(self, start: np.ndarray) -> Iterator[np.ndarray]:
        """Yield versions by descending probability that decoding passes through them."""
        probabilities, versions = {start.tobytes(): 1.0}, {start.tobytes(): start}
        queue, is_done = [(-1.0, start.tobytes())], set()
        while queue:
            lost, key = heapq.heappop(queue)
            if key in is_done or -lost < probabilities[key]:
                continue
            if -lost < _LEAST_PROBABILITY:
                return
            is_done.add(key)
            version = versions[key]
            if key != start.tobytes():
                yield version
            for position, token, share in self._next(version, int((version != start).sum())):
                after = version.copy()
                after[position] = token
                name = after.tobytes()
                if name not in is_done and self._is_of_use(after):
                    # A version is reached in several orders.
                    probabilities[name] = probabilities.get(name, 0.0) - lost * share
                    versions[name] = after
                    heapq.heappush(queue, (-probabilities[name], name))

    def _next(self, version: np.ndarray, num_ahead: int) -> list[tuple[int, int, float]]:
        """Return the most probable next positions with token and probability."""
        is_open = self._is_open(version)
        if not is_open.any():
            return []
        certainties, tokens, changes = self._predicted(version, num_ahead)
        if self.jumps:
            certainties = np.where(changes > _JUMP, np.maximum(certainties, _CERTAINTY_AFTER_JUMP), certainties)
        certainties[~is_open] = -np.inf
        weights = np.exp((certainties - certainties.max()) / _SCALE)
        best = np.argsort(-weights, kind="stable")[:_NUM_DETOURS]
        shares = weights[best] / weights.sum() * np.maximum(1 - changes[best], 0.02)
        return [(int(each), int(tokens[each]), float(share)) for each, share in zip(best, shares, strict=True)]

    def _predicted(self, version: np.ndarray, num_ahead: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return certainty and token of each position in a version, and how much its prediction may have changed."""
        changes = (self.sequences != version).astype(float) @ self.dependencies
        changes[~np.isfinite(self.certainties)] = np.inf
        nearest, positions = changes.argmin(axis=0), np.arange(len(version))
        step = min(num_ahead, self.tokens.shape[-1] - 1)
        changed = np.minimum(changes[nearest, positions], 1.0)
        return self.certainties[nearest, positions], self.tokens[nearest, positions, step], changed

    def _is_open(self, version: np.ndarray) -> np.ndarray:
        """Return the positions that can still be written."""
        is_end = np.isin(version, list(self.end_token_ids))
        return (version == self.mask_token_id) & ~np.logical_or.accumulate(is_end)

    def _is_of_use(self, version: np.ndarray) -> bool:
        """Return whether something is left to predict in a version."""
        return bool(self._is_open(version).any()) or (
            self.is_followed and not np.isin(version, list(self.end_token_ids)).any()
        )
