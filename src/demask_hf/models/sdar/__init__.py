"""SDAR: Qwen3 that was trained on to fill blocks of masks, one block after another."""

__all__: list[str] = []
