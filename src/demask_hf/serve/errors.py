"""Requests that are refused, in the form of OpenAI."""

import re
from typing import Any


class RequestError(Exception):
    """A request that is refused.

    Args:
        message (`str`): Why, in one sentence.
        status (`int`, *optional*, defaults to 400): HTTP status.
        code (`str`, *optional*): Short name of the reason.
    """

    def __init__(self, message: str, status: int = 400, code: str | None = None):
        super().__init__(message)
        self.message, self.status, self.code = message, status, code

    def to_dict(self) -> dict[str, Any]:
        """Return the error in the form of OpenAI."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = "server_error" if self.status >= 500 else kinds.get(self.status, "invalid_request_error")
        named = re.match(r"`([\w.\[\]]+)`", self.message)
        parameter = named[1] if named and kind == "invalid_request_error" else None
        return {"error": {"message": self.message, "type": kind, "param": parameter, "code": self.code}}


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line that is not too long."""
    return " ".join(str(error).split())[:1000]


def short(value: Any) -> str:
    """Return a value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
