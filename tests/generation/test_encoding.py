"""Prompts become token ids in one way: no second beginning of sequence, padding on the left."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from demask_hf.generation.encoding import encode, encode_batch, left_padded


TEMPLATE = (
    "{{ bos_token }}{% for message in messages %} {{ message['role'] }} {{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)
BOS, PAD, USER, ASSISTANT = 0, 1, 2, 3


@pytest.fixture
def chat_tokenizer():
    """A tokenizer that adds a beginning of sequence to texts, and whose chat template writes one, too."""
    words = ["<bos>", "<pad>", "user", "assistant", "hello", "world", "yes"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


MESSAGES = [{"role": "user", "content": "hello world"}]


def test_a_text_gets_the_special_tokens_of_the_tokenizer(chat_tokenizer):
    assert encode(chat_tokenizer, "hello world") == [BOS, 4, 5]


def test_messages_begin_once(chat_tokenizer):
    assert encode(chat_tokenizer, MESSAGES) == [BOS, USER, 4, 5, ASSISTANT]


def test_a_rendered_template_begins_once(chat_tokenizer):
    text = chat_tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert chat_tokenizer(text)["input_ids"][:2] == [BOS, BOS]
    assert encode(chat_tokenizer, text) == encode(chat_tokenizer, MESSAGES)


def test_a_tokenizer_without_a_beginning_adds_none(tokenizer):
    assert encode(tokenizer, "w5 w6") == tokenizer("w5 w6")["input_ids"] == [5, 6]


def test_messages_need_a_chat_template(tokenizer):
    with pytest.raises(ValueError, match="`tokenizer` must have a chat template for a prompt of messages, got one"):
        encode(tokenizer, MESSAGES)


def test_a_batch_ends_alike(chat_tokenizer):
    ids, attention_mask = encode_batch(chat_tokenizer, ["hello", "hello world yes", MESSAGES])
    assert ids.tolist() == [[PAD, PAD, PAD, BOS, 4], [PAD, BOS, 4, 5, 6], [BOS, USER, 4, 5, ASSISTANT]]
    assert attention_mask.tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 1]]


def test_a_batch_is_that_of_the_tokenizer(tokenizer):
    texts = ["w5 w6", "w7", "w8 w9 w3"]
    expected = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    ids, attention_mask = encode_batch(tokenizer, texts)
    assert torch.equal(ids, expected["input_ids"])
    assert torch.equal(attention_mask, expected["attention_mask"])


def test_without_a_padding_token_zeros_stand_there():
    assert left_padded([[5], [6, 7]], None)[0].tolist() == [[0, 5], [6, 7]]
