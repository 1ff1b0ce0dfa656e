"""The small Dream checkpoint that ships with the package, and its dependency head."""

from pathlib import Path


__all__ = ["TINY_DEMASK", "TINY_DREAM"]

_FOLDER = Path(__file__).parent
#: Folder of the shipped small Dream checkpoint: `AutoModel.from_pretrained(demask_hf.TINY_DREAM)`.
TINY_DREAM = str(_FOLDER / "tiny-dream")
#: Folder of its dependency head: `model.load_demask_head(demask_hf.TINY_DEMASK)`.
TINY_DEMASK = str(_FOLDER / "tiny-demask")
