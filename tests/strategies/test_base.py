import dataclasses
from dataclasses import dataclass

import pytest
import torch

from demask_hf import UnmaskingStrategy, make_strategy, register_strategy, strategy_fields, strategy_names, validation
from demask_hf.strategies import base
from demask_hf.validation import nearest


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


def test_nearest_lists_close_words_or_all():
    assert nearest("treshold", ["threshold", "klass"]) == "nearest: threshold"
    assert nearest("xyz", ["threshold", "klass"]) == "known: klass, threshold"
    assert nearest("xyz", []) == ""


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


@pytest.mark.parametrize("value", [None, "0.5", float("nan"), -0.01, 1.01, True])
def test_intervals_refuse_other_values(value):
    with pytest.raises(ValueError, match=r"`limit` must be a number in \[0, 1\], got"):
        validation.check_interval("limit", value, 0, 1)


def test_half_open_intervals():
    validation.check_interval("limit", 1, 0, 1, open_low=True)
    with pytest.raises(ValueError, match=r"`limit` must be a number in \(0, inf\), got 0\."):
        validation.check_interval("limit", 0, 0, open_low=True)


def test_choices_are_listed():
    validation.check_choice("rule", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"`rule` must be one of a, b, got 'c'\."):
        validation.check_choice("rule", "c", ("a", "b"))
