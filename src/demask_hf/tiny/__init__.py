"""The shipped small checkpoint, trained from a seed: `python -m demask_hf.tiny` (`make tiny`).

Read `__main__.py` first, the stages in their order: `tokenizer.py`, `backbone.py`, `head.py`.
"""

__all__: list[str] = []
