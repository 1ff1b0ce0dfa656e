"""Watch a decoding: what each pass predicted and wrote, and why positions waited.

Read `records.py` first (what a trace holds), then `recording.py` (a strategy that wraps another one and records it)
and `reasons.py` (why a position waits, in words). `trace.py` is what `generate(..., trace=True)` returns, `form.py`
its JSON form. `page.py` puts traces into the page that `viewer.html` and the styles and programs beside it make; with
`live.html` and `live.js` it is the page of a server.
"""

from .page import live_page, page_of, write_page
from .reasons import Choice, Walk, reasons
from .recording import WatchingStrategy
from .records import Candidate, Decoded, Dependency, Pass
from .trace import Trace


__all__ = [
    "Candidate",
    "Choice",
    "Decoded",
    "Dependency",
    "Pass",
    "Trace",
    "Walk",
    "WatchingStrategy",
    "live_page",
    "page_of",
    "reasons",
    "write_page",
]
