import pytest
import torch

from demask_hf.training.prompts import TokenizedPrompt
from demask_hf.training.states import CollectionSettings, MeasuredStates


MASK, EOS = 1, 2
PROMPTS = [TokenizedPrompt((3, 4, 5)[: 1 + row % 3], (6, 7, 8, 9)[: 1 + row % 4]) for row in range(7)]


@pytest.fixture
def seen(monkeypatch):
    """Keep what is measured: sequences, attention mask and candidates of every batch."""
    calls = []

    def keep(backbone, sequences, attention_mask, candidates, *rest, **options):
        calls.append((sequences, attention_mask, candidates))
        return measure(backbone, sequences, attention_mask, candidates, *rest, **options)

    from demask_hf.training import states

    measure = states.measure_examples
    monkeypatch.setattr(states, "measure_examples", keep)
    return calls


def _states(model, **settings):
    return MeasuredStates(
        model, PROMPTS, CollectionSettings(**{"num_states": 28, "answer_length": 6, "batch_size": 7, **settings})
    )


@pytest.mark.parametrize("trajectory_ratio", [0.0, 0.4, 1.0])
def test_states_keep_prompt_and_answer_and_have_something_to_predict(dream, seen, trajectory_ratio):
    states = _states(dream, trajectory_ratio=trajectory_ratio)
    examples = states.__getitems__(range(28))
    (sequences, attention_mask, candidates) = seen[0]
    assert candidates.any(dim=-1).all()
    for row, example in enumerate(examples):
        prompt = PROMPTS[example.record]
        assert sequences[row][attention_mask[row].bool()][: len(prompt.prompt)].tolist() == list(prompt.prompt)
        answer, length = sequences[row, -6:], len(prompt.answer)
        if trajectory_ratio == 0.0:
            whole = torch.tensor([*prompt.answer, *[EOS] * (6 - length)])
            assert ((answer == whole) | (answer == MASK)).all()
        ends = (answer == EOS).nonzero()
        first_end = int(ends[0]) if len(ends) else 6
        expected = (answer == MASK) & (torch.arange(6) < first_end)
        assert candidates[row, -6:].tolist() == expected.tolist()
        assert not candidates[row, :-6].any()


def test_masks_cover_every_ratio(dream, seen):
    _states(dream, trajectory_ratio=0.0, num_states=60).__getitems__(range(60))
    counts = (seen[0][0][:, -6:] == MASK).sum(-1)
    assert set(counts.tolist()) == {1, 2, 3, 4, 5, 6}


def test_visited_states_are_states_of_the_decoding(dream, seen):
    settings = {"trajectory_ratio": 1.0, "strategy": {"name": "sequential", "order": "left_to_right"}}
    states = _states(dream, **settings)
    states.__getitems__(range(14))
    sequences, attention_mask, _ = seen[0]
    prompts = sequences[:, :-6].masked_fill(attention_mask[:, :-6] == 0, EOS)
    output = dream.generate(
        prompts, attention_mask[:, :-6], max_new_tokens=6, output_history=True, return_dict_in_generate=True,
        strategy="sequential", order="left_to_right",
    )  # fmt: skip
    history = torch.stack(output.history)[:, :, -6:]
    for row in range(14):
        assert (history[:, row] == sequences[row, -6:]).all(-1).any()


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 1.0])
def test_the_share_of_visited_states_is_exact(dream, ratio):
    states = _states(dream, trajectory_ratio=ratio)
    assert sum(states._is_visited(index) for index in range(28)) == 28 * ratio


def test_every_pass_over_the_prompts_uses_each_once(dream):
    states = _states(dream)
    passes = [[states._record(index) for index in range(start, start + 7)] for start in (0, 7)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(7))
    assert passes[0] != passes[1]


def test_a_batch_is_a_function_of_seed_and_numbers(dream):
    first, again = (_states(dream)[5] for _ in range(2))
    assert torch.equal(first.targets, again.targets)
    assert torch.equal(first.hidden_states, again.hidden_states)
    other = _states(dream, seed=1)
    assert [other._record(index) for index in range(7)] != [_states(dream)._record(index) for index in range(7)]


def test_shards_hold_every_state_once(dream):
    states = _states(dream, num_states=23, states_per_shard=10)
    sizes = [sum(map(len, states.shard(index))) for index in range(states.settings.num_shards)]
    assert sizes == [10, 10, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_states": 0}, r"`num_states` must be an integer of at least 1, got 0\."),
        ({"num_sources": 0}, r"`num_sources` must be an integer of at least 1, got 0\."),
        ({"estimator": "exact"}, r"`estimator` must be one of expectation, argmax, sample, got 'exact'\."),
        ({"trajectory_ratio": 1.5}, r"`trajectory_ratio` must be a number in \[0, 1\], got 1\.5\."),
        ({"top_p": 0.0}, r"`top_p` must be a number in \(0, 1\], got 0\.0\."),
        ({"temperature": -1.0}, r"`temperature` must be a number in \[0, inf\), got -1\.0\."),
        ({"strategy": "none"}, r"none"),
    ],
)
def test_settings_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CollectionSettings(**{"num_states": 4, "answer_length": 6, **settings})


def test_a_model_without_an_end_token_is_refused(make_dream):
    model = make_dream(eos_token_id=None)
    model.generation_config.eos_token_id = None
    with pytest.raises(ValueError, match=r"`model` must have an `eos_token_id` in its config, got None\."):
        _states(model)
