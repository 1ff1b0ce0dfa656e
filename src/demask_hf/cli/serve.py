"""`demask-hf serve`: answer requests over HTTP, with the interface of OpenAI."""

from __future__ import annotations

import ipaddress
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..validation import check_count
from .options import DecodingOptions, ModelOptions, StrategyOptions, add_model, chosen_strategies
from .parser import CommandParser, option


if TYPE_CHECKING:
    from ..serve import ServedModel
    from ..strategies import UnmaskingStrategy

EXAMPLES = """examples:
  demask-hf serve
  demask-hf serve FOLDER --head FOLDER --max-new-tokens 256
  demask-hf serve ORG/MODEL --head ORG/HEAD --host 0.0.0.0 --api-key-file key --max-rows 32

Options of strategy and decoding are defaults, which a request may change. docs/serving.md describes the endpoints.
The API key is the first line of the file, or the variable DEMASK_API_KEY: a command line can be read by others.
"""
# Where neither the command nor the checkpoint says more.
DEFAULT_NEW_TOKENS = 256
DEFAULT_LENGTH = 4096


@dataclass(frozen=True)
class ServerOptions:
    """Where to listen, and how much to accept.

    Args:
        host (`str`, *optional*, defaults to `"127.0.0.1"`):
            Address to listen at; the default is reached from this machine only.
        port (`int`, *optional*, defaults to 8000):
            Port to listen at.
        name (`str`, *optional*):
            Public name of the model; by default the last part of its path, or its repository.
        api_key_file (`str`, *optional*):
            File with a key that every request but those for `/health` and `/` must bear.
        max_rows (`int`, *optional*, defaults to 16):
            Answers that are decoded at once.
        max_waiting (`int`, *optional*, defaults to 64):
            Answers that may wait; more are refused with status 429.
        max_length (`int`, *optional*):
            Longest prompt and answer together, in tokens; by default the positions of the model, at most 4096.
        max_body (`int`, *optional*, defaults to 1048576):
            Longest body of a request, in bytes.
    """

    _argument_group_name = "server"

    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = option(metavar="NAME")
    api_key_file: str | None = option(metavar="FILE")
    max_rows: int = 16
    max_waiting: int = 64
    max_length: int | None = None
    max_body: int = 1 << 20

    def __post_init__(self) -> None:
        for name in ("max_rows", "max_waiting", "max_body"):
            check_count(name, getattr(self, name))
        if self.max_length is not None:
            check_count("max_length", self.max_length)
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"`port` must be in [0, 65535], got {self.port}.")

    def api_key(self) -> str | None:
        """Return the key; `None` if there is none.

        Raises:
            ValueError: if the file is empty.
        """
        if self.api_key_file is None:
            return os.environ.get("DEMASK_API_KEY") or None
        key = Path(self.api_key_file).read_text(encoding="utf-8").partition("\n")[0].strip()
        if not key:
            raise ValueError(f"`api_key_file` must hold a key in its first line, got none in {self.api_key_file!r}.")
        return key


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    parser = CommandParser("serve", ServerOptions, StrategyOptions, DecodingOptions, ModelOptions, epilog=EXAMPLES)
    add_model(parser)
    return parser


def run(
    server_options: ServerOptions,
    strategy: StrategyOptions,
    decoding: DecodingOptions,
    model_options: ModelOptions,
    path: str | None,
) -> None:
    """Load the model and serve it until the process is told to end."""
    # Both belong to the extra, which the error of a missing package names.
    import uvicorn

    from ..serve import Scheduler
    from ..serve.app import Server, create_app

    if decoding.compile:
        raise ValueError(
            "`compile` must be left out of a server, whose passes change their shape all the time, got "
            f"{decoding.compile!r}."
        )
    model_options = model_options.named(path)
    key = server_options.api_key()
    served = served_model(server_options, strategy, decoding, model_options)
    scheduler = Scheduler(server_options.max_rows, server_options.max_waiting)
    app = create_app(Server(served, scheduler, key, server_options.max_body))
    if key is None and not _is_loopback(server_options.host):
        print(
            "demask-hf: warning: whoever reaches this address can use it; --api-key-file asks for a key.",
            file=sys.stderr,
        )
    print(f"{served.name} with {scheduler.max_rows} answers at once; Ctrl-C ends it", file=sys.stderr, flush=True)
    uvicorn.run(app, host=server_options.host, port=server_options.port, access_log=False, server_header=False)


def served_model(
    server: ServerOptions, strategy: StrategyOptions, decoding: DecodingOptions, model_options: ModelOptions
) -> ServedModel:
    """Load the model and return it with the defaults of requests."""
    from ..serve import ServedModel

    head = model_options.head_or_shipped
    chosen: UnmaskingStrategy | None = None
    if strategy.strategy is not None or strategy.set:
        chosen = next(iter(chosen_strategies(strategy, None, head, model_options).values()))
    model, tokenizer = model_options.load(head)
    settings: dict[str, Any] = decoding.settings()
    config = getattr(model, "generation_config", None)
    settings.setdefault("max_new_tokens", getattr(config, "max_new_tokens", None) or DEFAULT_NEW_TOKENS)
    positions = getattr(model.config, "max_position_embeddings", None) or DEFAULT_LENGTH
    length = server.max_length or min(positions, DEFAULT_LENGTH)
    name = server.name or _name_of(model_options)
    return ServedModel(model, tokenizer, name, chosen, settings, length)


def _name_of(options: ModelOptions) -> str:
    name = options.public_model
    return Path(name).resolve().name if os.path.isdir(name) else name


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
