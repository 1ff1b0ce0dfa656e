"""The word-level tokenizer of the small checkpoint: its tokens are words, digits, letters and marks."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ..tasks import FAMILIES, TaskFamily


SPECIAL_TOKENS = ("<|endoftext|>", "<|mask|>", "<|unk|>")
# A first word with its colon, the arrow, separators, a word with the space before it, or a single character.
TOKEN_PATTERN = r"[a-z]+: | -> |, |; | ?[a-z]+|[\s\S]"


def build_tokenizer(
    families: Iterable[TaskFamily] = tuple(FAMILIES.values()), num_samples: int = 2_000
) -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer; its vocabulary is every piece of text in the task families."""
    pattern = Regex(TOKEN_PATTERN)
    splitter = pre_tokenizers.Split(pattern, behavior="isolated")
    pieces: set[str] = set()
    for family in families:
        stream = family.examples("train")
        for _ in range(num_samples):
            example = next(stream)
            pieces.update(piece for piece, _ in splitter.pre_tokenize_str(example.prompt + example.answer))
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *sorted(pieces)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        mask_token="<|mask|>",
        unk_token="<|unk|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
