"""Continuous batching: rows join and leave between the forward passes of one thread, which owns the model."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.utils import logging

from ..backbones.prediction import Prediction
from ..validation import check_count
from .sharing import Pass, grouped, predict_together
from .turns import TurnTaker


logger = logging.get_logger(__name__)


class QueueFullError(Exception):
    """As many rows wait as may."""


class ClosedError(Exception):
    """The scheduler takes no more rows."""


class CancelledRowError(Exception):
    """Nobody wants the row any more."""


@dataclass(eq=False)
class Job:
    """A row to decode.

    Args:
        work (`Callable`):
            Decodes it; called with a function that returns the [`Prediction`] of a [`Pass`].
        on_end (`Callable`):
            Called when it left, with `None` or what it raised.
    """

    work: Callable[[Callable[[Pass], Prediction]], Any]
    on_end: Callable[[BaseException | None], None]
    _is_cancelled: bool = field(default=False, init=False)

    def cancel(self) -> None:
        """Let the row leave before its next forward pass."""
        self._is_cancelled = True

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._is_cancelled


@dataclass(eq=False)
class _Running:
    job: Job
    turns: TurnTaker
    waits_for: Any = None


@dataclass
class Counts:
    """What the scheduler did so far.

    Args:
        num_forward_passes (`int`): Forward passes of the model.
        num_row_passes (`int`): Rows in them.
        num_positions (`int`): Positions in them, without padding between rows.
        num_padding (`int`): Positions of padding between rows.
        num_failed_passes (`int`): Forward passes that failed and were run again for each row alone.
    """

    num_forward_passes: int = 0
    num_row_passes: int = 0
    num_positions: int = 0
    num_padding: int = 0
    num_failed_passes: int = 0


class Scheduler:
    """Decodes rows together, each with settings of its own.

    Every row runs the loop of `generate` up to its next forward pass. Then the passes of all rows are run, those of
    similar length as one, and every row goes on with its own prediction. So rows join and leave between passes,
    whatever their strategies, lengths and limits, and a row computes what it computes alone: only the forward pass is
    shared.

    Args:
        max_rows (`int`, *optional*, defaults to 16):
            Rows that run at once.
        max_waiting (`int`, *optional*, defaults to 64):
            Rows that may wait to join.

    Raises:
        ValueError: if a number is below 1.
    """

    def __init__(self, max_rows: int = 16, max_waiting: int = 64):
        check_count("max_rows", max_rows)
        check_count("max_waiting", max_waiting)
        self.max_rows, self.max_waiting = max_rows, max_waiting
        self.counts = Counts()
        self._running: list[_Running] = []
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="demask scheduler", daemon=True)
        self._thread.start()

    @property
    def num_running(self) -> int:
        """Rows that run."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Rows that wait to join."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether rows are accepted and decoded."""
        return self._thread.is_alive() and not self._is_closed

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let rows join as soon as there is room: all of them, or none.

        Raises:
            QueueFullError: if not all of them may wait.
            ClosedError: after `close`.
        """
        with self._changed:
            if self._is_closed:
                raise ClosedError("The server is shutting down.")
            room = max(self.max_rows - len(self._running), 0) + self.max_waiting
            if len(self._waiting) + len(jobs) > room:
                raise QueueFullError(f"{len(self._waiting)} answers wait already, of at most {self.max_waiting}.")
            self._waiting.extend(jobs)
            self._changed.notify()

    def close(self) -> None:
        """Take no more rows, and return when those that run and wait are finished."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._admit():
                self._leave()
                groups = grouped([row.waits_for for row in self._running])
                for group in [[self._running[index] for index in group] for group in groups]:
                    for row, answer in zip(group, self._predictions(group), strict=True):
                        self._resume(row, answer)
        except BaseException as error:
            # An error of the scheduler itself: nobody may wait for ever.
            logger.error(f"The scheduler ends: {error!r}", exc_info=error)
            with self._changed:
                self._is_closed = True
                jobs = [*(row.job for row in self._running), *self._waiting]
                self._waiting.clear()
            for job in jobs:
                _tell(job, error)

    def _admit(self) -> bool:
        """Let waiting rows join; wait for one if none runs. Return whether any runs, or may come."""
        with self._changed:
            while not (self._running or self._waiting or self._is_closed):
                self._changed.wait()
            joining = []
            while self._waiting and len(self._running) < self.max_rows:
                row = _Running(self._waiting[0], TurnTaker(self._waiting.popleft().work))
                self._running.append(row)
                joining.append(row)
        for row in joining:
            if row.job.is_cancelled:
                self._end(row, CancelledRowError())
            else:
                self._resume(row)
        return bool(self._running or self._waiting) or not self._is_closed

    def _leave(self) -> None:
        """Let cancelled rows leave, also those that have not joined yet."""
        for row in [row for row in self._running if row.job.is_cancelled]:
            self._resume(row, CancelledRowError())
        with self._changed:
            gone = [job for job in self._waiting if job.is_cancelled]
            for job in gone:
                self._waiting.remove(job)
        for job in gone:
            _tell(job, CancelledRowError())

    def _resume(self, row: _Running, answer: Any = None) -> None:
        """Let a row run to its next forward pass, or to its end."""
        row.waits_for = row.turns.resume(answer)
        if row.turns.is_over:
            self._end(row, row.turns.error)

    def _end(self, row: _Running, error: BaseException | None) -> None:
        with self._changed:
            self._running.remove(row)
        _tell(row.job, error)

    def _predictions(self, group: Sequence[_Running]) -> list[Prediction | Exception]:
        """Return the prediction of each row, or what went wrong with it."""
        passes = [row.waits_for for row in group]
        self._count(passes)
        try:
            return list(predict_together(passes))
        except Exception as error:
            if len(passes) == 1:
                return [error]
            logger.warning(f"A forward pass of {len(passes)} requests failed and is run for each alone: {error!r}.")
        # Outside of the handler: the traceback would keep the tensors of the failed pass in memory.
        self.counts.num_failed_passes += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return [self._predictions([row])[0] for row in group]

    def _count(self, passes: Sequence[Pass]) -> None:
        counts, width = self.counts, max(one.shape[1] for one in passes)
        counts.num_forward_passes += 1
        for rows, length in (one.shape for one in passes):
            counts.num_row_passes += rows
            counts.num_positions += rows * length
            counts.num_padding += rows * (width - length)


def _tell(job: Job, error: BaseException | None) -> None:
    """Tell who waits for a row that it left; their errors are not ours."""
    try:
        job.on_end(error)
    except Exception as failure:
        logger.warning(f"The end of a row could not be reported: {failure!r}.")
