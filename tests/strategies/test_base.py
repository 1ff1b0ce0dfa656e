import dataclasses
from dataclasses import dataclass

import pytest
import torch

from demask_hf import UnmaskingStrategy, make_strategy, register_strategy, strategy_fields, strategy_names
from demask_hf.strategies import LastLayers, WrappingStrategy, base


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))


@dataclass
class FromTheLeft(UnmaskingStrategy):
    """Unmask the given number of positions from the left."""

    count: int = 1

    def select(self, step):
        return step.best(-step.columns.double(), self.count)


def test_a_registered_strategy_is_known_by_name(scripted):
    register_strategy("from_the_left")(FromTheLeft)
    assert "from_the_left" in strategy_names()
    assert strategy_fields("from_the_left") == {"count": 1}
    assert make_strategy("from_the_left", count=3) == FromTheLeft(3)
    model = scripted([{5: 1.0}] * 4)
    output = model.generate(
        torch.tensor([[9]]), max_new_tokens=4, strategy="from_the_left", count=3, return_dict_in_generate=True
    )
    assert output.unmask_step.tolist() == [[-1, 0, 0, 0, 1]]


def test_a_strategy_object_needs_no_registration(scripted):
    output = scripted([{5: 1.0}] * 4).generate(
        torch.tensor([[9]]), max_new_tokens=4, strategy=FromTheLeft(2), return_dict_in_generate=True
    )
    assert output.unmask_step.tolist() == [[-1, 0, 0, 1, 1]]


def test_a_taken_name_is_refused():
    with pytest.raises(
        ValueError, match=r"`name` must not be taken, got 'klass'; registered are .*demask, .*threshold"
    ):
        register_strategy("klass")(FromTheLeft)
    assert make_strategy("klass") != FromTheLeft()


@pytest.mark.parametrize("thing", [dict, type("Plain", (UnmaskingStrategy,), {"select": None}), FromTheLeft()])
def test_only_dataclasses_that_inherit_the_base_are_registered(thing):
    if isinstance(thing, type) and issubclass(thing, UnmaskingStrategy):
        assert not dataclasses.is_dataclass(thing)
    with pytest.raises(TypeError, match="A strategy must be a dataclass that inherits UnmaskingStrategy, got"):
        register_strategy("new")(thing)


@pytest.mark.parametrize("call", [make_strategy, strategy_fields])
def test_an_unknown_name_is_refused_with_the_nearest_ones(call):
    with pytest.raises(ValueError, match=r"`strategy` must be a registered name, got 'demsk'; nearest: demask\."):
        call("demsk")


def test_an_unknown_field_is_refused_with_the_nearest_ones():
    message = r"`entropy_limit` must be a field of strategy 'entropy_bound', got an unknown keyword; .*entropy_bound"
    with pytest.raises(ValueError, match=message):
        make_strategy("entropy_bound", entropy_limit=1)


RAGGED = [[True, False, True], [False, False, False], [False, True, True]]


def test_rows_and_columns_of_candidates_are_row_major(make_step):
    step = make_step(torch.eye(4), candidates=RAGGED)
    assert step.rows.tolist() == [0, 0, 2, 2]
    assert step.columns.tolist() == [0, 2, 1, 2]


def test_values_are_spread_over_the_positions(make_step):
    step = make_step(torch.eye(4), candidates=RAGGED)
    spread = step.at_positions(torch.tensor([1.0, 2.0, 3.0, 4.0]), -1.0)
    assert spread.tolist() == [[1.0, -1.0, 2.0], [-1.0, -1.0, -1.0], [-1.0, 3.0, 4.0]]


def test_best_takes_the_highest_scores_of_each_row(make_step):
    step = make_step(torch.eye(4), candidates=RAGGED)
    scores = torch.tensor([0.1, 0.9, 0.8, 0.2])
    assert step.best(scores, 1).tolist() == [[False, False, True], [False] * 3, [False, True, False]]
    assert step.best(scores, torch.tensor([2, 1, 0])).tolist() == [[True, False, True], [False] * 3, [False] * 3]
    assert torch.equal(step.best(scores, 9), step.candidates)


def test_ties_go_to_the_earlier_position(make_step):
    step = make_step(torch.eye(4), candidates=[[True] * 4])
    assert step.best(torch.zeros(4), 2).tolist() == [[True, True, False, False]]


def test_ranks_count_from_the_highest_score(make_step):
    step = make_step(torch.eye(4), candidates=RAGGED)
    ranks = step.rank(torch.tensor([0.1, 0.9, 0.8, 0.2]))
    assert ranks[step.candidates].tolist() == [1, 0, 0, 1]


def test_token_probability_is_that_of_the_token_to_be_written(make_step):
    step = make_step([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]], tokens=[0, 1])
    assert step.score("token_probability").tolist() == [0.5, 0.125]


def test_noise_depends_on_seed_step_and_position_of_the_candidate_alone(make_step):
    candidates = [[True, True, False], [False, True, True]]
    fields = {"step_index": torch.tensor([4, 6]), "seeds": torch.tensor([11, 12])}
    together = make_step(torch.eye(4), candidates=candidates, **fields).noise(stream=1)
    assert together.shape == (4,)
    assert ((together > 0) & (together < 1)).all()
    assert together.unique().numel() == 4
    for row in range(2):
        alone = make_step(
            torch.eye(4)[:2], candidates=[candidates[row]], **{name: value[[row]] for name, value in fields.items()}
        ).noise(stream=1)
        assert torch.equal(alone, together[2 * row : 2 * row + 2])


def test_a_step_cannot_be_changed(make_step):
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_step(torch.eye(4)).mask_token_id = 3


def _with_needs(*needs):
    @dataclasses.dataclass
    class Asking(UnmaskingStrategy):
        name = "asking"

        def select(self, step):
            return step.candidates

    Asking.needs = frozenset(needs)
    return Asking()


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (["logits"], r"`needs` must hold names among confidence, .*, or LastLayers, got 'logits'\."),
        ([LastLayers(count=1), LastLayers(share=0.5)], "`needs` must hold one LastLayers at most, got 2"),
    ],
)
def test_a_strategy_that_needs_what_no_step_has_is_refused(dream, needs, message):
    with pytest.raises(ValueError, match=message):
        dream.generate(torch.tensor([[5, 6]]), strategy=_with_needs(*needs), max_new_tokens=2)


def test_a_wrapping_strategy_needs_what_any_of_them_needs():
    @dataclasses.dataclass
    class Both(WrappingStrategy):
        @property
        def wrapped(self):
            return make_strategy("schedule"), make_strategy("dawn")

        def select(self, step):
            return step.candidates

    both = Both()
    assert both.needs == {"entropy", "context_confidence", LastLayers(count=4)}
    assert (both.allows_empty_step, both.follows_schedule, both.sequential_order) == (True, True, "entropy")


@pytest.mark.parametrize(
    ("layers", "expected"), [(LastLayers(), 12), (LastLayers(count=4), 4), (LastLayers(share=0.3), 4)]
)
def test_last_layers_are_counted_from_the_last(layers, expected):
    assert layers.of(12) == expected
