"""A2D: autoregressive models that were trained on to fill masks; Qwen3, Qwen2 and Llama with full attention."""

__all__: list[str] = []
