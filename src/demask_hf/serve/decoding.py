"""The decoding of one request: its rows join the scheduler, and their events become an answer or a stream."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from transformers.utils import logging

from ..generation.encoding import encode
from .answers import Progress, RowAnswer
from .errors import RequestError, one_line
from .replies import ReplyForm, usage_of
from .rows import Row, ServedModel
from .scheduler import CancelledRowError, ClosedError, Job, QueueFullError, Scheduler
from .schema import CompletionRequest
from .trial import check_schema


logger = logging.get_logger(__name__)
# Steps that a client has not read, above which it gets no drafts.
MAX_UNREAD = 64
# Index of a row, and a step of it, its answer, or what went wrong.
Event = tuple[int, Progress | RowAnswer | BaseException]
# Returns the next message of a client, as ASGI defines it.
Receive = Callable[[], Awaitable[Any]]


class RequestDecoding:
    """The rows of one request, from prompts to events; made in the event loop that waits for them.

    Args:
        served ([`ServedModel`]):
            The model.
        scheduler ([`Scheduler`]):
            Decodes the rows.
        on_answer (`Callable`):
            Called with each answer.
        asked ([`CompletionRequest`]):
            The request.
    """

    def __init__(
        self,
        served: ServedModel,
        scheduler: Scheduler,
        on_answer: Callable[[RowAnswer], None],
        asked: CompletionRequest,
    ):
        self._served, self._scheduler, self._on_answer, self._asked = served, scheduler, on_answer, asked
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._rows: list[Row] = []
        self._jobs: list[Job] = []

    @property
    def is_constrained(self) -> bool:
        """Whether answers must match a schema, which is compiled in `prepare`."""
        return "constraint" in self._asked.settings

    def prepare(self) -> None:
        """Make the rows.

        Raises:
            RequestError: if a prompt cannot be encoded, or a value does not fit the model.
        """
        asked, served = self._asked, self._served
        for prompt in asked.prompts:
            is_ids = isinstance(prompt, list) and isinstance(prompt[0], int)
            try:
                if self.is_constrained:
                    check_schema(asked.settings["constraint"]["json_schema"], served.vocab_size)
                ids = prompt if is_ids else encode(served.tokenizer, prompt)
                for number in range(asked.num_answers):
                    seed = {} if asked.seed is None else {"seed": asked.seed + number}
                    on_step = self._step_sender(len(self._rows)) if asked.is_streamed else None
                    settings = {**asked.settings, **seed}
                    self._rows.append(served.row(ids, asked.strategy, settings, asked.wanted, on_step))
            except (ValueError, TypeError, ImportError) as error:
                # What is called a constraint here has another name in a request.
                raise RequestError(one_line(error).replace("`constraint`", "`response_format`")) from None
            except Exception as error:
                # Templates raise what they like where a conversation does not suit them.
                if type(error).__module__.split(".")[0] != "jinja2":
                    raise
                raise RequestError(f"`messages` must suit the chat template, which says: {one_line(error)}") from None

    def start(self) -> None:
        """Let the rows join.

        Raises:
            RequestError: if there is no room, or the server shuts down.
        """
        self._jobs = [self._job(index, row) for index, row in enumerate(self._rows)]
        try:
            self._scheduler.submit(self._jobs)
        except QueueFullError as error:
            raise RequestError(str(error), 429, "queue_full") from None
        except ClosedError as error:
            raise RequestError(str(error), 503, "shutting_down") from None

    def usage(self, answers: Sequence[RowAnswer]) -> dict[str, Any]:
        """Return the usage of the request."""
        return usage_of(self._rows, answers, len(self._asked.prompts))

    async def answers(self, receive: Receive) -> list[RowAnswer]:
        """Return the answers; if the client goes away, the rows leave."""
        gone = asyncio.ensure_future(_disconnected(receive))
        all_of_them = asyncio.ensure_future(self._all_answers())
        try:
            await asyncio.wait({gone, all_of_them}, return_when=asyncio.FIRST_COMPLETED)
            if not all_of_them.done():
                raise RequestError("The client has gone.", 499)
            return all_of_them.result()
        finally:
            self.cancel()
            gone.cancel()
            all_of_them.cancel()

    async def stream(self, form: ReplyForm) -> AsyncIterator[str]:
        """Yield the events of the answers as they grow."""
        found: dict[int, RowAnswer] = {}
        for index in range(len(self._rows) if form.is_chat else 0):
            yield _event(form.opening(index))
        while len(found) < len(self._rows):
            index, event = await self._events.get()
            if isinstance(event, BaseException):
                yield _event(refusal(event).to_dict())
                return
            if isinstance(event, Progress):
                if event.text or event.draft is not None or event.trace is not None:
                    yield _event(form.step(index, event))
                continue
            found[index] = event
            self._on_answer(event)
            yield _event(form.closing(index, self._rows[index].rest_of(event), event))
        if self._asked.with_usage:
            yield _event(form.last(self.usage([found[index] for index in sorted(found)])))
        yield "data: [DONE]\n\n"

    async def _all_answers(self) -> list[RowAnswer]:
        found: dict[int, RowAnswer] = {}
        while len(found) < len(self._rows):
            index, event = await self._events.get()
            if isinstance(event, BaseException):
                raise refusal(event)
            if isinstance(event, RowAnswer):
                found[index] = event
                self._on_answer(event)
        return [found[index] for index in sorted(found)]

    def _job(self, index: int, row: Row) -> Job:
        # What the row answered is sent when it has left, so that its place is free when the client knows.
        answers: list[RowAnswer] = []

        def end(error: BaseException | None) -> None:
            self._send(index, answers[0] if error is None else error)

        return Job(lambda ask: answers.append(row.run(ask)), end)

    def _step_sender(self, index: int) -> Callable[[Progress], None]:
        def send(progress: Progress) -> None:
            # A client that reads slowly misses drafts: they must not pile up.
            is_behind = self._events.qsize() > MAX_UNREAD
            if is_behind and progress.trace is not None:
                raise ValueError("`demask.trace` must be read as it is sent, got a client that does not keep up.")
            self._send(index, dataclasses.replace(progress, draft=None) if is_behind else progress)

        return send

    def _send(self, index: int, event: Any) -> None:
        """Hand an event from the thread of a row to the server's."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

    def cancel(self) -> None:
        """Let the rows leave that have not ended."""
        for job in self._jobs:
            job.cancel()


async def _disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def refusal(error: BaseException) -> RequestError:
    """Return what a client is told of an error: the sentence of a wrong value, and nothing of any other."""
    if isinstance(error, CancelledRowError):
        return RequestError("The answer was cancelled.", 499)
    if isinstance(error, ValueError | TypeError):
        return RequestError(one_line(error))
    logger.error(f"A row failed: {error!r}", exc_info=error)
    return RequestError("The server failed to decode this answer; its log says why.", 500, "internal_error")
