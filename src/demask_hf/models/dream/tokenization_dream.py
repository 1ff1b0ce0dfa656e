"""The tokenizer of Dream's Hub checkpoints, without their remote code."""

from transformers import Qwen2Tokenizer


class DreamTokenizer(Qwen2Tokenizer):
    """A Qwen2 tokenizer with Dream's extra special tokens; the checkpoints refer to it by this name."""


__all__ = ["DreamTokenizer"]
