import json

import pytest
import torch

from demask_hf import make_strategy
from demask_hf.strategies.table import read_table, write_table


PROMPT = torch.tensor([[9]])
# Position 0 says much about 1, and 2 about 3 in both directions.
TABLE = [[0, 0.5, 0, 0], [0, 0, 0, 0], [0, 0.25, 0, 0.5], [0, 0, 0.5, 0]]


@pytest.fixture
def file(tmp_path):
    write_table(tmp_path / "table.json", torch.tensor(TABLE))
    return str(tmp_path / "table.json")


def _bound(model, **fields):
    strategy = make_strategy("table", **fields)
    strategy.bind(model)
    return strategy


def _selected(strategy, step):
    return strategy.select(step).nonzero()[:, 1].tolist()


def _step(make_step, confidences, **kwargs):
    return make_step([[1 - confidence, confidence] for confidence in confidences], **kwargs)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # By confidence 0, 1, 2, 3.
        ({"dependency_bound": 0.4}, [0, 2]),
        ({"dependency_bound": 0.5}, [0, 1, 2, 3]),
        ({"dependency_bound": 0.5, "rule": "total"}, [0, 1, 2]),
        ({"dependency_bound": 0.0}, [0, 2]),
        # 1 on 2 as much as 2 on 1.
        ({"dependency_bound": 0.5, "rule": "total", "symmetric": True}, [0, 1, 3]),
        ({"dependency_bound": 0.2, "rule": "max", "symmetric": True}, [0, 2]),
        # Net influences .5, -.75, .25, 0.
        ({"dependency_bound": 0.4, "order": "influence"}, [0, 2]),
        ({"dependency_bound": 0.74, "order": "influence"}, [0, 2, 3]),
        # Degrees .5, .75, 1.25, 1.
        ({"dependency_bound": 0.4, "order": "degree"}, [0, 1, 2]),
    ],
)
def test_the_walk_by_hand(file, dream, make_step, fields, expected):
    assert _selected(_bound(dream, table=file, **fields), _step(make_step, [0.9, 0.8, 0.7, 0.6])) == expected


def test_order_and_remaining_positions_count(file, dream, make_step):
    strategy = _bound(dream, table=file, dependency_bound=0.1)
    assert _selected(strategy, _step(make_step, [0.6, 0.9, 0.7, 0.8])) == [0, 1, 3]
    step = _step(make_step, [0.6, 0.9, 0.7], candidates=[[False, True, True, True]])
    assert _selected(strategy, step) == [2]


def test_places_are_those_of_the_answer(file, scripted):
    model = scripted(lambda position, context: {5: 0.9 - 0.1 * (position - context.index(9))})
    settings = {"max_new_tokens": 4, "strategy": "table", "table": file, "return_dict_in_generate": True}
    expected = [0, 1, 0, 1]
    assert model.generate(PROMPT, **settings).unmask_step[0, 1:].tolist() == expected
    ids, mask = torch.tensor([[0, 0, 9], [3, 3, 9]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
    assert model.generate(ids, mask, **settings).unmask_step[:, 3:].tolist() == [expected, expected]
    assert model.generate(PROMPT, block_length=2, **settings).unmask_step[0, 1:].tolist() == [0, 1, 2, 3]


def test_masks_in_the_prompt_depend_on_everything(file, scripted):
    model = scripted(lambda position, context: {5: 0.9 - 0.1 * position})
    output = model.generate(
        torch.tensor([[9, 1]]), max_new_tokens=4, strategy="table", table=file, return_dict_in_generate=True
    )
    assert output.unmask_step[0, 1:].tolist() == [0, 1, 2, 1, 2]


def test_a_table_by_distance_covers_masks_in_the_prompt(tmp_path, scripted):
    # A position says much about the next one, and nothing about the others.
    write_table(tmp_path / "table.json", torch.tensor([0.0, 0.0, 0.0, 0.5, 0.0]))
    assert json.loads((tmp_path / "table.json").read_text()) == {"dependencies": [0.0, 0.0, 0.0, 0.5, 0.0]}
    model = scripted(lambda position, context: {5: 0.9 - 0.1 * position})
    settings = {"strategy": "table", "table": str(tmp_path / "table.json"), "return_dict_in_generate": True}
    output = model.generate(torch.tensor([[9, 1, 1]]), max_new_tokens=4, **settings)
    # By confidence from left to right, with bound 0.06: every second one, then the rest.
    assert output.unmask_step[0, 1:].tolist() == [0, 1, 0, 1, 0, 1]
    # From right to left nobody is known to depend on one taken before.
    model = scripted(lambda position, context: {5: 0.1 + 0.1 * position})
    output = model.generate(torch.tensor([[9, 1, 1]]), max_new_tokens=4, **settings)
    assert output.unmask_step[0, 1:].tolist() == [0] * 6


def test_a_table_that_is_too_short_is_refused(file, scripted):
    message = "`table` must cover the 5 positions of the answer, got one of 4 positions"
    with pytest.raises(ValueError, match=message):
        scripted([{5: 1.0}]).generate(PROMPT, max_new_tokens=5, strategy="table", table=file)


def test_a_table_comes_back_in_fractions(tmp_path):
    table = torch.tensor([[0.0, 0.12346], [1.0, 0.5]])
    write_table(tmp_path / "table.json", table)
    assert json.loads((tmp_path / "table.json").read_text()) == {"dependencies": [[0.0, 0.1235], [1.0, 0.5]]}
    read = read_table(tmp_path / "table.json")
    torch.testing.assert_close(read, table, atol=2e-4, rtol=0)
    assert torch.equal(read * 4096, (read * 4096).round())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "must hold a JSON object, got list"),
        ("{", "must hold a JSON object"),
        ("{}", "`dependencies` in `.*table.json` must be rows of numbers, all of one length"),
        ('{"dependencies": [[0, 1], [0]]}', "must be rows of numbers, all of one length"),
        ('{"dependencies": [["a"]]}', "must be rows of numbers, all of one length"),
        ('{"dependencies": [[0, 1]]}', r"must have one row and one column a position, got shape \(1, 2\)"),
        ('{"dependencies": []}', r"must have one row and one column a position, got shape \(0,\)"),
        ('{"dependencies": [0.5, 0.5]}', "must have an odd number of distances, from -n to n, got 2"),
        ('{"dependencies": [0, 2, 0]}', r"must hold numbers in \[0, 1\], got one that is not"),
        ('{"dependencies": 1}', r"must have one row and one column a position, got shape \(\)"),
        ('{"dependencies": [[1.5]]}', r"must hold numbers in \[0, 1\], got one that is not"),
        ('{"dependencies": [[-0.5]]}', r"must hold numbers in \[0, 1\], got one that is not"),
        ('{"dependencies": [[NaN]]}', r"must hold numbers in \[0, 1\], got one that is not"),
    ],
)
def test_files_without_a_table_are_refused(tmp_path, dream, content, message):
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        _bound(dream, table=str(tmp_path / "table.json"))


def test_a_missing_table_is_refused(tmp_path, dream, make_step):
    with pytest.raises(
        ValueError, match=r"`table` must be a file with a table of dependencies, got '.*', which is no"
    ):
        _bound(dream, table=str(tmp_path))
    with pytest.raises(RuntimeError, match="`bind` must be called before `select`"):
        make_strategy("table", table="somewhere").select(_step(make_step, [0.9, 0.8]))


@pytest.mark.parametrize("order", ["confidence", "influence"])
def test_without_a_table_positions_are_unmasked_one_by_one(scripted, order):
    model = scripted([{5: 0.7}, {6: 0.9}, {7: 0.8}])
    output = model.generate(PROMPT, max_new_tokens=3, strategy="table", order=order, return_dict_in_generate=True)
    expected = [0, 1, 2] if order == "influence" else [2, 0, 1]
    assert output.unmask_step[0, 1:].tolist() == expected


def test_what_is_no_table_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"`table` must have one row and one column a position, got shape \(2, 3\)"):
        write_table(tmp_path / "table.json", torch.zeros(2, 3))
    assert not (tmp_path / "table.json").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"table": 3}, "`table` must be the name of a file as text, got 3"),
        ({"dependency_bound": -1}, r"`dependency_bound` must be a number in \[0, inf\], got -1"),
        ({"rule": "sum"}, "`rule` must be one of total, token, norm, max, got 'sum'"),
        ({"selection": "best"}, "`selection` must be one of walk, partition, got 'best'"),
        ({"symmetric": 1}, "`symmetric` must be True or False, got 1"),
        ({"order": "random"}, "`order` must be one of confidence, .*, got 'random'"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_strategy("table", **fields)
