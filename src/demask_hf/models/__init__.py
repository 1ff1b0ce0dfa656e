"""Native backbones, each only its difference from a transformers model."""
