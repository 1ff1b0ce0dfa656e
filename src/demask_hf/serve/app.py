"""The web application: checks a request, lets its rows join the scheduler, and sends what they become."""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from transformers.utils import logging

from ..generation.encoding import encode
from .metrics import Metrics
from .replies import ReplyForm, usage_of
from .rows import Progress, Row, RowAnswer, ServedModel
from .scheduler import CancelledRowError, ClosedError, Job, QueueFullError, Scheduler
from .schema import CompletionRequest, RequestError, one_line, read_object, read_request


logger = logging.get_logger(__name__)
_CHAT, _TEXT = "/v1/chat/completions", "/v1/completions"
# Index of a row, and a step of it, its answer, or what went wrong.
Event = tuple[int, Progress | RowAnswer | BaseException]


class Server:
    """What the endpoints share.

    Args:
        served ([`ServedModel`]):
            The model.
        scheduler ([`Scheduler`]):
            Decodes the rows.
        api_key (`str`, *optional*):
            A key that requests must bear.
        max_body (`int`, *optional*, defaults to 1048576):
            Longest body of a request, in bytes.
    """

    def __init__(self, served: ServedModel, scheduler: Scheduler, api_key: str | None = None, max_body: int = 1 << 20):
        self.served, self.scheduler, self.max_body = served, scheduler, max_body
        self.metrics = Metrics(scheduler)
        self._key = None if api_key is None else f"Bearer {api_key}".encode()
        self._started = int(time.time())

    def check_key(self, request: Request) -> None:
        """Refuse a request without the key; how long the comparison takes does not depend on where they differ."""
        given = request.headers.get("authorization", "").encode()
        if self._key is not None and not hmac.compare_digest(given, self._key):
            raise RequestError("The header `Authorization` must bear the API key of this server.", 401, "invalid_key")

    async def read_body(self, request: Request) -> dict[str, Any]:
        """Return the JSON object that a request holds; a longer one than allowed is not read to its end."""
        # A page of another site can send other kinds of content without asking the browser's permission.
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestError(f"The header `Content-Type` must be application/json, got {kind[:100]!r}.", 415)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self.max_body:
                raise RequestError(f"`body` must be at most {self.max_body} bytes, got more.", 413)
        return read_object(bytes(body))

    async def complete(self, request: Request, is_chat: bool) -> Response:
        """Answer a request for completions, and count it when its answer has ended."""
        started, status = time.perf_counter(), 500

        def count() -> None:
            self.metrics.add_request(request.url.path, status, time.perf_counter() - started)

        try:
            self.check_key(request)
            response = await self._completion(request, is_chat, count)
            status = 200
        except RequestError as error:
            status = error.status
            raise
        finally:
            # A stream counts itself at its end.
            if status != 200 or not isinstance(response, StreamingResponse):
                count()
        return response

    async def _completion(self, request: Request, is_chat: bool, on_end: Callable[[], None]) -> Response:
        asked = read_request(await self.read_body(request), is_chat, self.served.name)
        room = self.scheduler.max_rows + self.scheduler.max_waiting
        if len(asked.prompts) * asked.num_answers > room:
            raise RequestError(f"`n` times the number of prompts must be at most {room}, got more.")
        decoding = _Decoding(self, asked)
        # Reading prompts takes a moment, in which other requests are answered.
        await asyncio.to_thread(decoding.prepare)
        decoding.start()
        form = ReplyForm(is_chat, self.served.name)
        if asked.is_streamed:
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(decoding.stream(form, on_end), media_type="text/event-stream", headers=headers)
        answers = await decoding.answers(request)
        return JSONResponse(form.whole(answers, decoding.usage(answers)))

    def models(self) -> dict[str, Any]:
        """Return the list of models, which is one."""
        model = {"id": self.served.name, "object": "model", "created": self._started, "owned_by": "demask-hf"}
        return {"object": "list", "data": [{**model, "max_model_len": self.served.max_length}]}


class _Decoding:
    """The rows of one request, from prompts to events."""

    def __init__(self, server: Server, asked: CompletionRequest):
        self._server, self._asked = server, asked
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._rows: list[Row] = []
        self._jobs: list[Job] = []

    def prepare(self) -> None:
        """Make the rows.

        Raises:
            RequestError: if a prompt cannot be encoded, or a value does not fit the model.
        """
        asked, served = self._asked, self._server.served
        for prompt in asked.prompts:
            is_ids = isinstance(prompt, list) and isinstance(prompt[0], int)
            try:
                ids = prompt if is_ids else encode(served.tokenizer, prompt)
                for number in range(asked.num_answers):
                    seed = {} if asked.seed is None else {"seed": asked.seed + number}
                    on_step = self._step_sender(len(self._rows)) if asked.is_streamed else None
                    self._rows.append(
                        served.row(
                            ids, asked.strategy, {**asked.settings, **seed}, asked.stop, on_step, asked.with_drafts
                        )
                    )
            except (ValueError, TypeError) as error:
                raise RequestError(one_line(error)) from None
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
            self._server.scheduler.submit(self._jobs)
        except QueueFullError as error:
            raise RequestError(str(error), 429, "queue_full") from None
        except ClosedError as error:
            raise RequestError(str(error), 503, "shutting_down") from None

    def usage(self, answers: Sequence[RowAnswer]) -> dict[str, Any]:
        """Return the usage of the request."""
        return usage_of(self._rows, answers, len(self._asked.prompts))

    async def answers(self, request: Request) -> list[RowAnswer]:
        """Return the answers; if the client goes away, the rows leave."""
        gone = asyncio.ensure_future(_disconnected(request))
        all_of_them = asyncio.ensure_future(self._all_answers())
        try:
            await asyncio.wait({gone, all_of_them}, return_when=asyncio.FIRST_COMPLETED)
            if not all_of_them.done():
                raise RequestError("The client has gone.", 499)
            return all_of_them.result()
        finally:
            self._cancel()
            gone.cancel()
            all_of_them.cancel()

    async def stream(self, form: ReplyForm, on_end: Callable[[], None]) -> AsyncIterator[str]:
        """Yield the events of the answers as they grow; call `on_end` at their end."""
        found: dict[int, RowAnswer] = {}
        try:
            for index in range(len(self._rows) if form.is_chat else 0):
                yield _event(form.opening(index))
            while len(found) < len(self._rows):
                index, event = await self._events.get()
                if isinstance(event, BaseException):
                    yield _event(_refusal(event).to_dict())
                    return
                if isinstance(event, Progress):
                    if event.text or event.draft is not None:
                        yield _event(form.step(index, event))
                    continue
                found[index] = event
                self._server.metrics.add_answer(event)
                yield _event(form.closing(index, self._rows[index].rest_of(event), event))
            if self._asked.with_usage:
                yield _event(form.last(self.usage([found[index] for index in sorted(found)])))
            yield "data: [DONE]\n\n"
        finally:
            self._cancel()
            on_end()

    async def _all_answers(self) -> list[RowAnswer]:
        found: dict[int, RowAnswer] = {}
        while len(found) < len(self._rows):
            index, event = await self._events.get()
            if isinstance(event, BaseException):
                raise _refusal(event)
            if isinstance(event, RowAnswer):
                found[index] = event
                self._server.metrics.add_answer(event)
        return [found[index] for index in sorted(found)]

    def _job(self, index: int, row: Row) -> Job:
        # What the row answered is sent when it has left, so that its place is free when the client knows.
        answers: list[RowAnswer] = []

        def end(error: BaseException | None) -> None:
            self._send(index, answers[0] if error is None else error)

        return Job(lambda ask: answers.append(row.run(ask)), end)

    def _step_sender(self, index: int) -> Callable[[Progress], None]:
        return lambda progress: self._send(index, progress)

    def _send(self, index: int, event: Any) -> None:
        """Hand an event from the thread of a row to the server's."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

    def _cancel(self) -> None:
        for job in self._jobs:
            job.cancel()


async def _disconnected(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _refusal(error: BaseException) -> RequestError:
    """Return what a client is told of an error: the sentence of a wrong value, and nothing of any other."""
    if isinstance(error, CancelledRowError):
        return RequestError("The answer was cancelled.", 499)
    if isinstance(error, ValueError | TypeError):
        return RequestError(one_line(error))
    logger.error(f"A row failed: {error!r}", exc_info=error)
    return RequestError("The server failed to decode this answer; its log says why.", 500, "internal_error")


def create_app(server: Server) -> FastAPI:
    """Return the web application.

    Args:
        server ([`Server`]):
            What its endpoints share.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.scheduler.close)

    # Pages of documentation would load scripts from a network.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    _answer_errors(app)

    @app.post(_CHAT)
    async def chat(request: Request) -> Response:
        return await server.complete(request, is_chat=True)

    @app.post(_TEXT)
    async def text(request: Request) -> Response:
        return await server.complete(request, is_chat=False)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        server.check_key(request)
        return JSONResponse(server.models())

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        server.check_key(request)
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/health")
    async def health() -> Response:
        is_alive = server.scheduler.is_alive
        return JSONResponse({"status": "ok" if is_alive else "closed"}, 200 if is_alive else 503)

    return app


def _answer_errors(app: FastAPI) -> None:
    """Let errors have the form of OpenAI."""

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else None
        return JSONResponse(error.to_dict(), error.status, headers)

    @app.exception_handler(404)
    async def not_found(request: Request, error: Exception) -> Response:
        return JSONResponse(RequestError("This server has no such path.", 404).to_dict(), 404)

    @app.exception_handler(405)
    async def not_allowed(request: Request, error: Exception) -> Response:
        return JSONResponse(RequestError("This path has no such method.", 405).to_dict(), 405)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse(_refusal(RuntimeError(repr(error))).to_dict(), 500)
