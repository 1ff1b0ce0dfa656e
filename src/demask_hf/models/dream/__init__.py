"""Dream: Qwen2.5 blocks with full attention and logits shifted by one."""

__all__: list[str] = []
