"""One compressed file with the records of a comparison, from which its tables are computed again without a model."""

import dataclasses
import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing
from .benchmark import Report, report_of
from .comparison import Outcome
from .specs import Setting


#: Name of the file in the folder of a benchmark.
ARCHIVE_FILE = "records.json.xz"
_VERSION = 1
# Digits kept of measured times and of rank correlations.
_NUM_DIGITS = 5


@dataclass(frozen=True)
class Archive:
    """The records of a comparison.

    Args:
        facts (`dict[str, Any]`):
            What the records depend on: model, prompts, versions; of JSON types.
        grid (`list[list[Setting]]`):
            The settings of each row.
        options (`dict[str, Any]`):
            The other arguments of [`~benchmark.report_of`].
        outcomes (`dict[tuple[str, str], Outcome]`):
            What was decoded, by split ("validation" or "test"; in studies of several models also the name of the
            model) and key of the setting.
    """

    facts: dict[str, Any]
    grid: list[list[Setting]]
    options: dict[str, Any]
    outcomes: dict[tuple[str, str], Outcome]

    def report(self) -> Report:
        """Return the report of the comparison, computed again.

        Raises:
            ValueError: if a record is missing.
        """
        return report_of(self.grid, self.outcome, **self.options)

    def outcome(self, split: str, setting: Setting) -> Outcome:
        """Return what a setting decoded, or one that decodes like it: strategies may have got fields since.

        Raises:
            ValueError: if there is none.
        """
        if (split, setting.key) in self.outcomes:
            return self.outcomes[split, setting.key]
        for (own, _), outcome in self.outcomes.items():
            if own == split and outcome.setting.decodes_like(setting):
                return outcome
        raise ValueError(f"the archive must hold the {split} records of {setting.label!r}, got none.")

    def write(self, file: Path) -> None:
        """Write everything, completely or not at all; times and correlations are rounded."""
        splits: dict[str, dict[str, Any]] = {}
        for (split, _), outcome in self.outcomes.items():
            own = splits.setdefault(split, {"family": outcome.family.tolist(), "prompt": outcome.prompt.tolist()})
            own.setdefault("texts", {})
            own.setdefault("outcomes", []).append(_packed(outcome, own["texts"]))
        for own in splits.values():
            own["texts"] = list(own["texts"])
        content = {
            "version": _VERSION,
            "facts": self.facts,
            "grid": [[dataclasses.asdict(setting) for setting in row] for row in self.grid],
            "options": self.options,
            "splits": splits,
        }
        with replacing(file) as temporary, lzma.open(temporary, "wt", encoding="utf-8") as stream:
            json.dump(content, stream, separators=(",", ":"))

    @classmethod
    def read(cls, file: Path) -> "Archive":
        """Read what [`write`] wrote.

        Raises:
            ValueError: if the file holds something else.
            OSError: if it cannot be read.
        """
        try:
            with lzma.open(file, "rt", encoding="utf-8") as stream:
                content = json.load(stream)
            if content["version"] != _VERSION:
                raise ValueError(f"version {content['version']}")
            outcomes = {}
            for split, own in content["splits"].items():
                for packed in own["outcomes"]:
                    outcome = _unpacked(packed, own)
                    outcomes[split, outcome.setting.key] = outcome
            grid = [[Setting(**setting) for setting in row] for row in content["grid"]]
            return cls(content["facts"], grid, content["options"], outcomes)
        except (lzma.LZMAError, EOFError, ValueError, TypeError, KeyError, IndexError) as error:
            raise ValueError(f"{str(file)!r} must hold the records of a benchmark ({error}).") from None


def _packed(outcome: Outcome, texts: dict[str, int]) -> dict[str, Any]:
    """Return an outcome as lists, its answers as numbers of texts; new texts are added."""
    packed: dict[str, Any] = {"setting": dataclasses.asdict(outcome.setting)}
    for name, values in _arrays(outcome).items():
        packed[name] = [[_plain(value, texts) for value in row] for row in values.tolist()]
    return packed


def _plain(value: Any, texts: dict[str, int]) -> float | None:
    """Return a number for a value, or `None` for NaN."""
    if isinstance(value, str):
        return texts.setdefault(value, len(texts))
    if isinstance(value, float):
        return None if value != value else round(value, _NUM_DIGITS)
    return int(value)


def _unpacked(packed: dict[str, Any], split: dict[str, Any]) -> Outcome:
    """Return the outcome that [`_packed`] made lists of."""
    shared = {"family": np.array(split["family"]), "prompt": np.array(split["prompt"])}
    kinds = {"is_correct": bool, "parallelism": float, "left_to_right": float, "seconds": float}
    arrays = {
        name: np.array(values, dtype=kinds.get(name)) for name, values in packed.items() if name not in ("setting",)
    }
    # Archives of the time before drafts do not say that a forward computed each row once.
    arrays.setdefault("num_row_forwards", arrays["num_forward_passes"])
    arrays["answers"] = np.array(split["texts"])[arrays["answers"]]
    outcome = Outcome(Setting(**packed["setting"]), **shared, **arrays)
    shape = (len(outcome.family), outcome.is_correct.shape[1])
    if len(outcome.prompt) != shape[0] or any(array.shape != shape for array in _arrays(outcome).values()):
        raise ValueError(f"`{outcome.setting.label}` must have arrays of {shape}")
    return outcome


def _arrays(outcome: Outcome) -> dict[str, np.ndarray]:
    """Return the arrays of shape `(prompts, seeds)`."""
    shared = ("setting", "family", "prompt")
    return {name: value for name, value in vars(outcome).items() if name not in shared}
