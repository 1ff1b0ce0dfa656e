"""What a step shows to strategies that ask for more than predictions."""

from dataclasses import dataclass

import pytest
import torch

from demask_hf import UnmaskingStrategy
from demask_hf.strategies import LastLayers


MASK = 1
PROMPTS = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
ATTENTION_MASK = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])


@dataclass
class Watching(UnmaskingStrategy):
    """Unmask one position of the first row and three of the others, and keep every step."""

    needs = frozenset({"probabilities", "context_confidence", LastLayers(count=1)})
    steps = []

    def select(self, step):
        self.steps.append(step)
        counts = torch.full((len(step.candidates),), 3)
        counts[0] = 1
        return step.best(-step.columns.double(), counts)


class Plain(Watching):
    needs = frozenset({"probabilities"})


@pytest.fixture
def watched(dream):
    def watch(strategy, **kwargs):
        strategy.steps = type(strategy).steps = []
        dream.generate(PROMPTS, ATTENTION_MASK, strategy=strategy, max_new_tokens=3, stop_at_eos=False, **kwargs)
        return strategy.steps

    return watch


def test_context_confidence_is_what_the_model_would_write_at_visible_positions(dream, watched):
    steps = watched(Watching())
    assert len(steps) == 3
    for step, rows in zip(steps, ([0, 1], [0], [0]), strict=True):
        mask = torch.nn.functional.pad(ATTENTION_MASK, (0, 3), value=1)
        logits = dream(step.sequences, attention_mask=mask).logits
        certainty = logits.softmax(dim=-1).max(dim=-1).values
        # Read at the position before, the first of a row at its own.
        shifted = torch.cat([certainty[:, :1], certainty[:, :-1]], dim=1)
        shifted[0, 2] = certainty[0, 2]
        is_shown = (step.sequences != MASK) & mask.bool()
        is_shown[[row for row in range(2) if row not in rows]] = False
        torch.testing.assert_close(step.context_confidence[is_shown], shifted[is_shown], atol=1e-5, rtol=0)
        assert not step.context_confidence[~is_shown].any()


def test_candidates_are_the_same_with_and_without_context(watched):
    for with_context, without in zip(watched(Watching()), watched(Plain()), strict=True):
        assert torch.equal(with_context.candidates, without.candidates)
        torch.testing.assert_close(with_context.probabilities, without.probabilities)
        torch.testing.assert_close(with_context.hidden_states, without.hidden_states)
        assert without.attentions is None
        assert without.context_confidence is None


def test_context_confidence_is_filtered_like_predictions(watched):
    for step in watched(Watching(), temperature=0.7, top_k=1, seed=0, scores="sampled"):
        shown = step.context_confidence[step.context_confidence > 0]
        assert torch.equal(shown, torch.ones_like(shown))


def test_attentions_are_zero_in_padding_and_finished_rows(watched):
    steps = watched(Watching())
    for step, is_open in zip(steps, ([True, True], [True, False], [True, False]), strict=True):
        assert step.attentions.shape == (2, 7, 7)
        assert not step.attentions[0, :2].any()
        assert not step.attentions[0, :, :2].any()
        sums = step.attentions.sum(dim=-1)
        torch.testing.assert_close(sums[0, 2:], torch.ones(5))
        torch.testing.assert_close(sums[1], torch.full((7,), float(is_open[1])))


def test_real_columns_are_those_behind_the_padding(watched):
    for step in watched(Plain()):
        assert step.is_real.tolist() == [[False] * 2 + [True] * 5, [True] * 7]
