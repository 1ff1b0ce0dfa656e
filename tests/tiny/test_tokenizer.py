from itertools import islice

import pytest

from demask_hf.tasks import FAMILIES
from demask_hf.tiny.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_prompts_and_answers_come_back_as_they_were(tokenizer, family):
    for example in islice(family.examples("test"), 100):
        for text in (example.prompt, example.answer, example.prompt + example.answer):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_special_tokens_have_ids_of_their_own(tokenizer):
    assert tokenizer.eos_token_id == tokenizer.pad_token_id
    assert len({tokenizer.eos_token_id, tokenizer.mask_token_id, tokenizer.unk_token_id}) == 3
    assert tokenizer("<|mask|>")["input_ids"] == [tokenizer.mask_token_id]


def test_batches_are_padded_on_the_left_and_hold_what_generate_takes(tokenizer):
    inputs = tokenizer(["copy: A -> ", "copy: AB -> "], padding=True, return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert inputs["attention_mask"].tolist()[0][0] == 0


def test_the_vocabulary_does_not_depend_on_the_run(tokenizer):
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()
