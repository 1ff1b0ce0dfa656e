"""The shipped small checkpoint, trained from a seed: `python -m demask_hf.tiny`."""
