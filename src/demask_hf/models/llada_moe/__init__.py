"""LLaDA-MoE: Qwen3Moe blocks with full attention; its published configs say `model_type: "llada"`, as LLaDA's do."""

__all__: list[str] = []
