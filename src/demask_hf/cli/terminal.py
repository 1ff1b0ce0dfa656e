"""What a chat shows: in a terminal the answer after every forward pass, elsewhere plain text."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import torch
    from rich.live import Live
    from rich.text import Text
    from transformers import PreTrainedTokenizerBase

_MASK = "░"
# Written earlier, in this pass, or not yet.
_STYLES = {"old": "", "new": "bold green", "mask": "dim"}


class Screen:
    """Reads lines, and shows answers and notes.

    In a terminal answers are drawn while they are written, and characters that would control it are shown as their
    codes. Elsewhere answers go to standard output as they are, and notes to standard error.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Spells the tokens.
        delay (`float`, *optional*, defaults to 0.0):
            Pause after each forward pass that is shown, in seconds.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, delay: float = 0.0):
        self.tokenizer, self.delay = tokenizer, delay
        self.console: Any = None
        if sys.stdout.isatty():
            from rich.console import Console

            self.console = Console(file=sys.stdout, highlight=False)

    def lines(self) -> Iterator[str]:
        """Yield the lines of standard input without their ends."""
        if not sys.stdin.isatty():
            yield from (line.removesuffix("\n") for line in sys.stdin)
            return
        with suppress(ImportError):
            # Lets `input` edit lines and recall earlier ones.
            import readline  # noqa: F401
        while True:
            try:
                line = input("> " if self.console is not None else "")
            except EOFError:
                return
            yield line

    def note(self, text: str) -> None:
        """Show what is not part of an answer."""
        if self.console is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self.console.print(printable(text), style="dim", markup=False)

    def answer(self, text: str) -> None:
        """Show an answer."""
        if self.console is None:
            print(text, flush=True)
        else:
            self.console.print(printable(text), markup=False)

    @contextmanager
    def live(self) -> Iterator[LiveAnswer | None]:
        """Return what draws an answer as one `streamer` of `generate`; outside of a terminal `None`."""
        if self.console is None:
            yield None
            return
        from rich.live import Live

        with Live(console=self.console, transient=True, auto_refresh=False) as drawn:
            yield LiveAnswer(self.tokenizer, drawn, self.delay)


class LiveAnswer:
    """A streamer that draws the answer after every forward pass.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Spells the tokens.
        drawn (`rich.live.Live`):
            Where to draw.
        delay (`float`):
            Pause after each pass, in seconds.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, drawn: Live, delay: float):
        self.tokenizer, self.drawn, self.delay = tokenizer, drawn, delay
        self.num_passes = 0

    def put(self, value: torch.Tensor) -> None:
        """Ignore finished text, which a step holds, too."""

    def put_step(self, tokens: torch.Tensor, unmask_step: torch.Tensor, num_forward_passes: int) -> None:
        """Draw the row after a step, see [`StepStreamer`]."""
        self.drawn.update(self.text_of(tokens.tolist(), unmask_step.tolist(), num_forward_passes), refresh=True)
        if self.delay:
            time.sleep(self.delay)

    def end(self) -> None:
        """Leave the screen to the finished answer."""

    def text_of(self, tokens: list[int], steps: list[int], num_forward_passes: int) -> Text:
        """Return the answer with the number of passes below it.

        Args:
            tokens (`list[int]`):
                Ids from the first position that is or was a mask.
            steps (`list[int]`):
                Step that wrote each of them; -1 where none has.
            num_forward_passes (`int`):
                Passes so far.
        """
        from rich.text import Text

        last = max(steps, default=-1)
        kinds = ["mask" if step < 0 else "new" if step == last else "old" for step in steps]
        drawn = Text()
        for kind, run in groupby(zip(kinds, tokens, strict=True), key=lambda pair: pair[0]):
            ids = [token for _, token in run]
            spelled = _MASK * len(ids) if kind == "mask" else str(self.tokenizer.decode(ids, skip_special_tokens=True))
            drawn.append(printable(spelled), _STYLES[kind])
        num_written = sum(kind != "mask" for kind in kinds)
        drawn.append(f"\npass {num_forward_passes}, {num_written} of {len(kinds)} tokens", "dim")
        return drawn


def printable(text: str) -> str:
    r"""Return a text whose control characters cannot move the cursor or change colours.

    Example:

    ```python
    >>> printable("red\x1b[31m\n")
    'red\\x1b[31m\n'

    ```
    """
    return "".join(each if each.isprintable() or each in "\n\t" else f"\\x{ord(each):02x}" for each in text)
