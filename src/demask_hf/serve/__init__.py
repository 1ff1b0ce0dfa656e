"""A server with the interface of OpenAI, for `demask-hf serve`; needs the extra `serve`.

Read `scheduler.py` first: one thread runs the model for all rows, and between forward passes rows join and leave.
`turns.py` lets each row run the usual loop up to its next forward pass, `sharing.py` puts these passes together,
`rows.py` is the decoding of one row, `chances.py` keeps its log-probabilities, `answers.py` is what it hands out.
`schema.py` reads requests with `formats.py`, `trial.py` tries their JSON schemas out, `decoding.py` lets the rows of
one join, `replies.py` writes answers, `app.py` is the web application. FastAPI is imported by `app.py`, and the
Prometheus client by `metrics.py`; the others need neither.
"""

from .answers import RowAnswer
from .rows import ServedModel
from .scheduler import QueueFullError, Scheduler


__all__ = ["QueueFullError", "RowAnswer", "Scheduler", "ServedModel"]
