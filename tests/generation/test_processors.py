"""What settings forbid or penalise, and processors that cannot work in any order."""

import pytest
import torch
from transformers import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
)

from demask_hf.generation.processors import WrittenTokensPenalty


PAD, MASK, EOS = 0, 1, 2
PROMPT = torch.tensor([[9]])


def _decode(model, ids=PROMPT, attention_mask=None, **kwargs):
    kwargs = {"max_new_tokens": 3, "strategy": "sequential", "stop_at_eos": False, **kwargs}
    return model.generate(ids, attention_mask, return_dict_in_generate=True, **kwargs)


def test_tokens_and_words_of_one_token_are_never_written(scripted):
    model = scripted([{5: 0.5, 6: 0.3, 7: 0.2}, {6: 0.5, 7: 0.5 - 0.1}, {5: 0.9}])
    assert _decode(model).sequences.tolist() == [[9, 5, 6, 5]]
    assert _decode(model, suppress_tokens=[5]).sequences[0, 1:3].tolist() == [6, 6]
    output = _decode(model, bad_words_ids=[[5], [6]])
    assert output.sequences[0, 1:3].tolist() == [7, 7]
    assert not {5, 6} & set(output.sequences[0].tolist())


def test_the_end_of_a_text_can_be_suppressed(scripted):
    model = scripted([{EOS: 0.9, 5: 0.1}] * 3)
    kwargs = {"stop_at_eos": True}
    assert _decode(model, suppress_tokens=[EOS], **kwargs).sequences.tolist() == [[9, 5, 5, 5]]
    assert _decode(model, bad_words_ids=[[EOS]], **kwargs).sequences.tolist() == [[9, 5, 5, 5]]


def test_the_penalty_is_for_tokens_of_the_prompt_and_of_the_answer_so_far(scripted):
    # Logits are logarithms: a penalty of 2 squares the probability of a token that stands in the row.
    model = scripted([{9: 0.5, 5: 0.45}, {6: 0.8, 7: 0.15}, {6: 0.6, 7: 0.38}])
    assert _decode(model).sequences.tolist() == [[9, 9, 6, 6]]
    output = _decode(model, repetition_penalty=2.0)
    # The second position is written first; the third one then sees its token, and the first one that of the prompt.
    assert output.sequences.tolist() == [[9, 5, 6, 7]]
    assert output.unmask_step[0, 2] == 0


def test_the_mask_token_is_not_penalised():
    scores = torch.tensor([[1.0, 2.0, -3.0, 4.0]])
    penalised = WrittenTokensPenalty(2, MASK)(torch.tensor([[3, MASK, 2]]), scores)
    assert penalised.tolist() == [[1.0, 2.0, -6.0, 2.0]]
    assert scores.tolist() == [[1.0, 2.0, -3.0, 4.0]]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"repetition_penalty": 1.7},
        {"bad_words_ids": [[5], [6]]},
        {"suppress_tokens": [7, 8, 9]},
        {"logits_processor": [RepetitionPenaltyLogitsProcessor(1.7)]},
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
def test_a_padded_row_gets_what_it_gets_alone(dream, kwargs):
    rows = [[5, 6, 7], [8, 9, 10, 11, 12, 13]]
    padded = torch.tensor([[PAD] * (6 - len(row)) + row for row in rows])
    attention_mask = (padded != PAD).long()
    kwargs = {**kwargs, "max_new_tokens": 8, "pad_token_id": PAD}
    together = _decode(dream, padded, attention_mask, **kwargs)
    for index, row in enumerate(rows):
        alone = _decode(dream, torch.tensor([row]), **kwargs)
        assert together.sequences[index, 6:].tolist() == alone.sequences[0, len(row) :].tolist()
        assert together.unmask_step[index, 6:].tolist() == alone.unmask_step[0, len(row) :].tolist()


def test_processors_see_padding_as_masks(dream):
    seen = []

    def record(ids, scores):
        seen.append(ids[0].tolist())
        return scores

    ids, attention_mask = torch.tensor([[PAD, 5], [6, 7]]), torch.tensor([[0, 1], [1, 1]])
    _decode(dream, ids, attention_mask, max_new_tokens=1, logits_processor=[record])
    assert seen[0] == [MASK, 5, MASK]


FROM_THE_LEFT = [
    MinLengthLogitsProcessor(3, EOS),
    MinNewTokensLengthLogitsProcessor(1, 3, EOS),
    NoBadWordsLogitsProcessor([[5, 6]]),
    SequenceBiasLogitsProcessor([[[5, 6], 1.0]]),
    NoRepeatNGramLogitsProcessor(2),
    PrefixConstrainedLogitsProcessor(lambda batch, ids: [5], 1),
    ForcedBOSTokenLogitsProcessor(5),
    ForcedEOSTokenLogitsProcessor(4, EOS),
]


@pytest.mark.parametrize("processor", FROM_THE_LEFT, ids=lambda processor: type(processor).__name__)
def test_processors_that_need_growth_from_the_left_are_refused_by_name(scripted, processor):
    model = scripted([{5: 0.9}] * 3)
    name = type(processor).__name__
    with pytest.raises(
        ValueError, match=rf"`logits_processor` must hold .* got {name}, which assumes that text grows"
    ):
        _decode(model, logits_processor=[processor])
    own = type("Own", (type(processor),), {"__init__": lambda self: self.__dict__.update(processor.__dict__)})()
    with pytest.raises(ValueError, match="got Own, which assumes"):
        _decode(model, logits_processor=[own])
    assert model.calls == []


def test_processors_for_any_position_work(scripted):
    model = scripted([{5: 0.6, 6: 0.4}] * 3)
    processors = [TemperatureLogitsWarper(0.5), SuppressTokensLogitsProcessor([5]), NoBadWordsLogitsProcessor([[7]])]
    output = _decode(model, logits_processor=LogitsProcessorList(processors))
    assert output.sequences.tolist() == [[9, 6, 6, 6]]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"repetition_penalty": 0}, r"`repetition_penalty` must be a number in \(0, inf\), got 0\."),
        (
            {"bad_words_ids": [[5], [6, 7]]},
            r"`bad_words_ids` must hold words of one token, got \[6, 7\]: in any order",
        ),
        ({"bad_words_ids": [5]}, r"`bad_words_ids` must be a list of lists of token ids, got \[5\]\."),
        ({"bad_words_ids": [[]]}, r"`bad_words_ids` must be a list of lists of token ids, got \[\[\]\]\."),
        ({"suppress_tokens": 5}, r"`suppress_tokens` must be a list of token ids, got 5\."),
        ({"suppress_tokens": [-1]}, r"`suppress_tokens` must be a list of token ids, got \[-1\]\."),
        ({"max_time": -1}, r"`max_time` must be a number in \[0, inf\), got -1\."),
        ({"num_return_sequences": 0}, r"`num_return_sequences` must be an integer of at least 1, got 0\."),
        ({"stop_strings": ["."]}, r"`tokenizer` must be given with `stop_strings`, got None\."),
        ({"stop_strings": [5]}, r"`stop_strings` must be a text or a list of texts, got \[5\]\."),
        ({"stop_strings": []}, r"`stop_strings` must be a text or a list of texts, got \[\]\."),
    ],
)
def test_wrong_values_are_refused_in_a_sentence(dream, kwargs, message):
    with pytest.raises(ValueError, match=message):
        _decode(dream, **kwargs)
