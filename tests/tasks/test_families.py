"""What every task family must do."""

from itertools import islice

import pytest

from demask_hf.tasks import FAMILIES, SPLITS, split_of


NAMES = ["pairs", "sentences", "bill", "shuffle", "brackets", "lists", "sudoku", "parity"]
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def _examples(family, split="train", count=300, seed=0):
    return list(islice(family.examples(split, seed), count))


def test_families_are_known_by_name():
    assert sorted(FAMILIES) == sorted(NAMES)
    assert all(family.name == name for name, family in FAMILIES.items())


@every_family
def test_generated_answers_are_right(family):
    for split in SPLITS:
        for example in _examples(family, split):
            assert family.check(example.prompt, example.answer), example


@every_family
def test_prompts_are_readable_and_end_with_an_arrow(family):
    for example in _examples(family, count=50):
        assert example.family == family.name
        assert example.prompt.endswith(" -> ")
        assert example.prompt.count(" -> ") == 1
        assert ": " in example.prompt
        assert (example.prompt + example.answer).replace("\n", "").isprintable()
        assert example.answer == example.answer.strip()


@every_family
def test_other_answers_are_mostly_wrong(family):
    examples = _examples(family, count=100)
    others = [
        family.check(first.prompt, second.answer)
        for first, second in zip(examples, examples[1:], strict=False)
        if first.prompt != second.prompt
    ]
    assert sum(others) <= 0.02 * len(others)


@every_family
def test_damaged_answers_are_wrong(family):
    for example in _examples(family, count=30):
        for damaged in ("", example.answer[:-1], example.answer + "?", example.answer + " " + example.answer, "?"):
            assert not family.check(example.prompt, damaged), (example, damaged)
        # Every character carries information: none can be replaced by one that no answer holds.
        for position in range(len(example.answer)):
            damaged = example.answer[:position] + "~" + example.answer[position + 1 :]
            assert not family.check(example.prompt, damaged), (example, damaged)


@every_family
def test_a_checker_says_true_or_false(family):
    example = _examples(family, count=1)[0]
    assert family.check(example.prompt, example.answer) is True
    assert family.check(example.prompt, "~") is False


@every_family
def test_streams_are_functions_of_split_and_seed(family):
    assert _examples(family, seed=3) == _examples(family, seed=3)
    assert _examples(family, seed=3) != _examples(family, seed=4)
    assert _examples(family, "test") != _examples(family, "validation")


@every_family
def test_splits_are_disjoint(family):
    prompts = {split: {example.prompt for example in _examples(family, split, 400)} for split in SPLITS}
    assert not prompts["train"] & prompts["test"]
    assert not prompts["train"] & prompts["validation"]
    assert not prompts["validation"] & prompts["test"]
    for split in SPLITS:
        assert all(split_of(prompt) == split for prompt in prompts[split])


@every_family
def test_there_are_thousands_of_prompts(family):
    examples = family.distinct("test", 500)
    assert len(examples) == len({example.prompt for example in examples}) == 500
    assert examples[:20] == family.distinct("test", 20)
    # If a tenth of 2,000 draws repeat, there are about 10,000 prompts.
    prompts = [example.prompt for example in _examples(family, count=2000)]
    assert len(set(prompts)) > 1700


def test_shares_of_the_splits():
    shares = [split_of(f"prompt {number}") for number in range(20_000)]
    for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert abs(shares.count(split) / len(shares) - share) < 0.012


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"`split` must be one of train, validation, test, got 'dev'\."):
        next(FAMILIES["pairs"].examples("dev"))


def test_more_prompts_than_there_are_is_an_error():
    from demask_hf.tasks import TaskFamily

    coin = TaskFamily("coin", "heads or tails", lambda random: (f"{random.randint(0, 40)} -> ", "x"), lambda *_: True)
    with pytest.raises(
        ValueError, match=r"`num_examples` must be at most about \d+ for the test split of coin, got 20"
    ):
        coin.distinct("test", 20)
