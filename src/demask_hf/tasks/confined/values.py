"""How the two processes talk: lines of JSON; plain values are copied, other objects stay where they are."""

import builtins
import json
import socket
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from numbers import Integral
from typing import Any


MAX_LINE_BYTES = 16 * 2**20
# Types that JSON lacks, each with the way to parts that JSON has and back. `pickle` could run code of the sender.
_TYPES: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "tuple": (tuple, list, tuple),
    "set": (set, list, set),
    "frozenset": (frozenset, list, frozenset),
    "deque": (deque, list, deque),
    "dict": (dict, lambda value: [list(pair) for pair in value.items()], dict),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "int": (int, hex, lambda value: int(value, 16)),
    "complex": (complex, lambda value: [value.real, value.imag], lambda value: complex(*value)),
    "Decimal": (Decimal, str, Decimal),
    "Fraction": (Fraction, str, Fraction),
}
# Integers up to here are written as JSON; Python refuses to read very long ones in decimal.
_PLAIN_INTEGER = 2**63


class EndedError(Exception):
    """The other process is gone, or sends what is not in the protocol."""


class Channel:
    """One end of the connection.

    Args:
        connection (`socket.socket`):
            Connected to the other process.
        hold (`Callable[[Any], int]`):
            Returns the number that stands for an object of this process or of the other one.
        held (`Callable[[int], Any]`):
            Returns the object of a number.
    """

    def __init__(self, connection: socket.socket, hold: Callable[[Any], int], held: Callable[[int], Any]):
        self._stream = connection.makefile("rwb")
        self._hold, self._held = hold, held

    def send(self, value: Any) -> None:
        """Send a value.

        Raises:
            TypeError, RecursionError: if it cannot be sent; then nothing is.
        """
        line = json.dumps(self._encoded(value)).encode() + b"\n"
        self._stream.write(line)
        self._stream.flush()

    def receive(self) -> Any:
        """Return the next value of the other process.

        Raises:
            EndedError: if there is none, or it is broken or too long.
        """
        line = self._stream.readline(MAX_LINE_BYTES + 1)
        if not line.endswith(b"\n") or len(line) > MAX_LINE_BYTES:
            raise EndedError
        try:
            return self._decoded(json.loads(line))
        except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, RecursionError):
            raise EndedError from None

    def _encoded(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | float | str):
            return value
        if isinstance(value, Integral):
            # Also one of numpy.
            value = int(value)
            if abs(value) < _PLAIN_INTEGER:
                return value
        if isinstance(value, list):
            return [self._encoded(part) for part in value]
        for name, (kind, parts_of, _) in _TYPES.items():
            if isinstance(value, kind):
                return {"type": name, "value": self._encoded(parts_of(value))}
        return {"type": "object", "value": self._hold(value)}

    def _decoded(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._decoded(part) for part in value]
        if not isinstance(value, dict):
            return value
        if value["type"] == "object":
            return self._held(value["value"])
        return _TYPES[value["type"]][2](self._decoded(value["value"]))


def error_class(name: Any) -> type[Exception]:
    """Return the built-in exception of a name, or `RuntimeError` for others."""
    found = getattr(builtins, name, None) if isinstance(name, str) else None
    return found if isinstance(found, type) and issubclass(found, Exception) else RuntimeError
