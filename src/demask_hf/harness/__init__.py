"""lm-evaluation-harness with the model class `demask`: `python -m demask_hf.harness` is its `lm_eval`.

`model.py` is the class; importing it registers it. Needs the extra "harness".
"""

__all__: list[str] = []
