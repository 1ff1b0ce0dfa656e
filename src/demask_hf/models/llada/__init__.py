"""LLaDA: Llama blocks with full attention; logits are not shifted."""

__all__: list[str] = []
