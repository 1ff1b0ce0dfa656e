"""LLaDA2.0 and LLaDA2.1: mixtures of experts that fill blocks of masks, one block after another."""

__all__: list[str] = []
