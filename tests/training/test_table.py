import pytest
import torch

from demask_hf.strategies import DemaskStrategy
from demask_hf.strategies.table import read_table, write_table
from demask_hf.training import DependencyExample, distance_dependencies, mean_dependencies


@pytest.fixture
def model(scripted, scripted_head):
    """Return a model whose answer begins at position 1 or 2, with a head that knows absolute positions."""
    places = torch.arange(8)
    # What stands at i depends on what stands at i - 1, the more the later.
    table = torch.where(places[:, None] + 1 == places[None, :], places[None, :] / 16, 0.0)
    return scripted(lambda position, context: {5: 0.9 - 0.05 * position}, head=scripted_head(table))


def test_means_by_hand(model, tokenizer):
    rule = DemaskStrategy(dependency_bound=0.0)
    # "w9": the answer begins at 1. Steps: 0 and 2 of it, then 1; the pair (0, 1) is seen once, with 2 / 16.
    table = mean_dependencies(model, tokenizer, ["w9"], rule, max_new_tokens=3)
    assert table.tolist() == [[1, 2 / 16, 0], [0, 1, 3 / 16], [0, 0, 1]]
    # "w9 w9" begins at 2.
    table = mean_dependencies(model, tokenizer, ["w9 w9"], rule, max_new_tokens=3)
    assert table.tolist() == [[1, 3 / 16, 0], [0, 1, 4 / 16], [0, 0, 1]]
    # Left-padded together, and in two batches.
    for batch_size in (1, 2):
        table = mean_dependencies(model, tokenizer, ["w9", "w9 w9"], rule, batch_size, max_new_tokens=3)
        assert table.tolist() == [[1, 2.5 / 16, 0], [0, 1, 3.5 / 16], [0, 0, 1]]


def test_later_states_count_as_well(model, tokenizer):
    def script(position, context):
        return {5: 0.5 + 0.1 * position}

    model.script = script
    # From the last to the first, one a step, as every position depends on the one before: 3 and 2 are never seen
    # without their sources.
    model.demask_head.table.data = torch.full((8, 8), 0.5)
    table = mean_dependencies(model, tokenizer, ["w9"], DemaskStrategy(dependency_bound=0.1), max_new_tokens=3)
    assert table.tolist() == [[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]]


def test_exact_dependencies_are_averaged_too(model, tokenizer):
    rule = DemaskStrategy(dependencies="exact")
    table = mean_dependencies(model, tokenizer, ["w9"], rule, max_new_tokens=3)
    torch.testing.assert_close(table, torch.eye(3), atol=1e-6, rtol=0)


def test_what_was_never_masked_together_depends_fully(model, tokenizer):
    table = mean_dependencies(model, tokenizer, ["w9"], max_new_tokens=4, block_length=2)
    assert table[:2, 2:].tolist() == [[1, 1], [1, 1]]
    assert table[0, 1] == 2 / 16


def test_no_prompts_are_refused(model, tokenizer):
    with pytest.raises(ValueError, match="`prompts` must hold at least one prompt, got none"):
        mean_dependencies(model, tokenizer, [])


def test_a_decode_with_the_means_follows_the_head(model, tokenizer, tmp_path):
    write_table(tmp_path / "table.json", mean_dependencies(model, tokenizer, ["w9"], max_new_tokens=4))
    inputs = tokenizer("w9", return_tensors="pt")
    settings = {"max_new_tokens": 4, "return_dict_in_generate": True}
    by_head = model.generate(**inputs, strategy="demask", **settings)
    by_table = model.generate(**inputs, strategy="table", table=str(tmp_path / "table.json"), **settings)
    assert by_table.unmask_step.tolist() == by_head.unmask_step.tolist()
    assert read_table(tmp_path / "table.json").shape == (4, 4)


def test_means_by_distance_by_hand():
    def example(targets):
        facts = {"hidden_states": torch.zeros(3, 4), "confidence": torch.ones(3), "entropy": torch.zeros(3)}
        places = {"positions": torch.tensor([4, 5, 7]), "sources": torch.tensor([1]), "tokens": torch.zeros(3).long()}
        return DependencyExample(**facts, **places, targets=torch.tensor([targets]))

    # From place 5 to 4 and to 7; the distances -3, -2, 1 and 3 were not measured.
    table = distance_dependencies([example([0.1, 0.0, 0.5]), example([0.3, 0.0, 0.7])])
    torch.testing.assert_close(table, torch.tensor([0.4, 0.2, 0.4, 0.4, 0.6]))
