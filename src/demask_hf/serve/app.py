"""The web application: checks a request, lets its rows join the scheduler, and sends what they become."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from ..watching import live_page
from .decoding import RequestDecoding, refusal
from .errors import RequestError
from .metrics import Metrics
from .replies import ReplyForm
from .rows import ServedModel
from .scheduler import Scheduler
from .schema import read_object, read_request
from .transformers_chat import LOADED


# What the page itself cannot say of itself.
_PAGE_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_CHAT, _TEXT = "/v1/chat/completions", "/v1/completions"


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
        self.page = live_page()
        self._compiling = ThreadPoolExecutor(1, "demask schemas")

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
        decoding = RequestDecoding(self.served, self.scheduler, self.metrics.add_answer, asked)
        # Reading prompts takes a moment, in which other requests are answered. One schema is compiled at a time.
        thread = self._compiling if decoding.is_constrained else None
        await asyncio.get_running_loop().run_in_executor(thread, decoding.prepare)
        decoding.start()
        form = ReplyForm(is_chat, self.served.name)
        if asked.is_streamed:
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

            def end() -> None:
                decoding.cancel()
                on_end()

            return _EventStream(decoding.stream(form), end, headers)
        answers = await decoding.answers(request.receive)
        return JSONResponse(form.whole(answers, decoding.usage(answers)))

    def models(self) -> dict[str, Any]:
        """Return the list of models, which is one."""
        model = {"id": self.served.name, "object": "model", "created": self._started, "owned_by": "demask-hf"}
        facts = {"max_model_len": self.served.max_length, "demask": self.served.facts()}
        return {"object": "list", "data": [{**model, **facts}]}


class _EventStream(StreamingResponse):
    """A stream of events that says when it is over, also if the client has gone before it began."""

    def __init__(self, events: AsyncIterator[str], on_end: Callable[[], None], headers: dict[str, str]):
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._on_end = on_end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


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

    @app.get("/")
    async def page() -> Response:
        return HTMLResponse(server.page, headers=_PAGE_HEADERS)

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

    @app.post("/load_model")
    async def load_model(request: Request) -> Response:
        # `transformers chat` asks before it begins; nothing is loaded because of it.
        server.check_key(request)
        return Response(LOADED, media_type="text/event-stream")

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
        return JSONResponse(refusal(RuntimeError(repr(error))).to_dict(), 500)
