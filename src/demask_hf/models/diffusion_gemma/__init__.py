"""DiffusionGemma of transformers, decoded by our loop; see `docs/backbones.md`."""

__all__: list[str] = []
