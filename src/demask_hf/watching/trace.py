"""A trace: one decoding, pass by pass, as Python objects, as JSON and as a page."""

import json
from pathlib import Path
from typing import Any

from .form import form_of
from .page import frame_of, write_page
from .records import Recording


class Trace(Recording):
    """One decoding, pass by pass: what `generate(..., trace=True, return_dict_in_generate=True)` returns as `trace`.

    Its fields are those of [`Recording`].

    Example:

    Each pair of digits has a given sum, and each digit waits for the other one of its pair:

    ```python
    >>> import demask_hf

    >>> model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM, head=demask_hf.TINY_DEMASK)
    >>> prompt = tokenizer("pairs: =07, =12, =05, =18, =03, =11 -> ", return_tensors="pt")
    >>> output = model.generate(**prompt, trace=True, tokenizer=tokenizer, return_dict_in_generate=True)
    >>> position, reason = next(iter(output.trace.passes[0].reasons.items()))
    >>> print(f"Position {position} {reason}.")
    Position 27 waits for position 25: D = 0.88, sum 0.91 above the bound 0.06.

    ```
    """

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as JSON types, in the form that docs/watching.md describes."""
        return form_of(self)

    def to_json(self) -> str:
        """Return [`to_dict`] as a text of ASCII characters."""
        return json.dumps(self.to_dict(), allow_nan=False, separators=(",", ":"))

    def to_html(self, file: str | Path) -> None:
        """Write a page that shows the trace; it needs a browser, and no network.

        Args:
            file (`str` or `Path`):
                File to write; its folder must exist.

        Raises:
            WriteError: if it cannot be written.
        """
        write_page([self.to_dict()], file)

    def _repr_html_(self) -> str:
        """Return the page as a frame of a notebook."""
        return frame_of([self.to_dict()])
