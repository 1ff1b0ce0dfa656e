"""The two roles: a process that holds a model's program and answers calls, and one that runs the tests.

The verdict is the status of the second. The program cannot reach it: it sees the arguments of calls, never what the
tests expect or compare, and what it returns is a copy of plain values, or the number of an object that equals itself
only.
"""

import ast
import builtins
import os
import socket
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from .values import Channel, EndedError, error_class


#: Status of a process of tests that got past the last of them; that a file of tests exits with 0 is no pass.
PASSED = 90


def serve(program: str, connection: socket.socket) -> None:
    """Run a program, then answer what the tests ask about it, until they end.

    Args:
        program (`str`): Its source code.
        connection (`socket.socket`): To the process of the tests.
    """
    objects: list[Any] = []
    numbers: dict[int, int] = {}

    def hold(value: Any) -> int:
        # Held objects live on, so an id stays that of its object.
        if id(value) not in numbers:
            objects.append(value)
            numbers[id(value)] = len(objects) - 1
        return numbers[id(value)]

    namespace: dict[str, Any] = {"__name__": "__main__"}
    operations: dict[str, Callable[..., Any]] = {
        "names": lambda names: {name: namespace[name] for name in names if name in namespace},
        "call": lambda function, arguments, named: function(*arguments, **named),
        "get": getattr,
        "set": setattr,
        "item": lambda value, key: value[key],
        "list": list,
        "length": len,
        "truth": bool,
        "text": str,
    }
    channel = Channel(connection, hold, objects.__getitem__)
    _answer(channel, lambda: exec(compile(program, "program.py", "exec"), namespace))
    while True:
        try:
            operation, *arguments = channel.receive()
        except EndedError:
            return
        _answer(channel, operations[operation], *arguments)


def _answer(channel: Channel, function: Callable[..., Any], *arguments: Any) -> None:
    """Send the result of a call, or the name of the exception that it raised."""
    try:
        channel.send((True, function(*arguments)))
    except BaseException as error:
        names = [cls.__name__ for cls in type(error).__mro__ if cls.__module__ == "builtins"]
        channel.send((False, names[0]))


class _Asker:
    """Asks the process of the program."""

    def __init__(self, connection: socket.socket):
        self._channel = Channel(connection, lambda value: value._number, lambda number: Remote(self, number))

    def result(self) -> Any:
        """Return what the program answers, or raise the exception that it raised; without an answer, fail."""
        try:
            is_value, value = self._channel.receive()
        except (EndedError, OSError, TypeError, ValueError):
            # An exception could be caught by a test that expects one.
            os._exit(1)
        if not is_value:
            raise error_class(value)
        return value

    def ask(self, *request: Any) -> Any:
        try:
            self._channel.send(request)
        except AttributeError:
            raise TypeError("a test must pass plain values, or objects of the program") from None
        except OSError:
            os._exit(1)
        return self.result()


class Remote:
    """An object of the program, such as a function or an instance of its class.

    It is equal to itself only, whatever the program defines as `__eq__`.
    """

    def __init__(self, asker: _Asker, number: int):
        self.__dict__.update(_asker=asker, _number=number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._asker.ask("call", self, arguments, named)

    def __getattr__(self, name: str) -> Any:
        return self._asker.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._asker.ask("set", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._asker.ask("item", self, key)

    def __iter__(self) -> Any:
        return iter(self._asker.ask("list", self))

    def __len__(self) -> Any:
        return self._asker.ask("length", self)

    def __bool__(self) -> Any:
        return self._asker.ask("truth", self)

    def __str__(self) -> Any:
        return self._asker.ask("text", self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other._number == self._number

    def __hash__(self) -> int:
        return hash(self._number)


def judge(tests: str, connection: socket.socket) -> None:
    """Run tests and exit with `PASSED` after their last line; names that they do not define are those of the program.

    Args:
        tests (`str`): Source code of the tests.
        connection (`socket.socket`): To the process of the program.

    Raises:
        Exception: if the program does not load, or a test fails.
    """
    tree = ast.parse(tests)
    asker = _Asker(connection)
    asker.result()
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name)} - vars(builtins).keys()
    # Tests that rely on an import of the program, such as for `math.isclose`, get the library itself.
    owners = {node.value.id for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    modules = owners & sys.stdlib_module_names
    found = asker.ask("names", sorted(names - modules))
    namespace: dict[str, Any] = {"__name__": "__main__", **{name: import_module(name) for name in modules}}
    # Never more than what was asked for, such as a `print` or an `AssertionError` of the program.
    namespace.update({name: found[name] for name in (names - modules) & found.keys()})
    exec(compile(tree, "tests.py", "exec"), namespace)
    os._exit(PASSED)
