"""The checkpoints of a training: the newest one that is whole."""

from pathlib import Path
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open

from ..files import read_json


def last_checkpoint(output_dir: str | Path) -> str | None:
    """Return the newest complete checkpoint, or `None`."""
    found = [path.parent for path in Path(output_dir).glob("checkpoint-*/trainer_state.json")]
    ordered = sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)
    return next((str(path) for path in ordered if _is_complete(path)), None)


def _is_complete(checkpoint: Path) -> bool:
    """Return whether the files of a checkpoint can be read; one that was cut off cannot."""
    try:
        read_json(checkpoint / "trainer_state.json")
        for file in checkpoint.glob("*.safetensors"):
            with safe_open(file, framework="pt"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return all(is_zipfile(file) for file in checkpoint.glob("*.pt*"))
