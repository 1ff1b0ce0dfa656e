"""From dataclasses of options to the parser of a command.

The dataclasses are read by `transformers.HfArgumentParser`, which users of transformers know and which is based on
argparse: unlike tyro or typer it adds no dependency, and importing it does not import torch.
"""

import argparse
import dataclasses
import inspect
import re
from collections.abc import Sequence
from typing import Any

from transformers import HfArgumentParser

from demask_hf_command import COMMANDS, RaisingParser

from .limits import check_options


_METAVARS: dict[Any, str] = {int: "N", float: "X"}


def option(default: Any = None, **arguments: Any) -> Any:
    """Return a field of a dataclass of options.

    Args:
        default (`Any`, *optional*):
            Its default.
        arguments:
            Further arguments of `add_argument`, apart from those that follow from the type, such as `metavar` or
            `choices`.
    """
    return dataclasses.field(default=default, metadata=arguments)


def same_as(documented: Any, name: str, **arguments: Any) -> Any:
    """Return a field with the default and the description of an argument of a function or class.

    Args:
        documented (`Callable`):
            The function or class; its docstring describes its arguments.
        name (`str`):
            The argument; if it has no default, the option's default is `None`.
        arguments:
            As in [`option`].
    """
    parameter = inspect.signature(documented).parameters.get(name)
    has_default = parameter is not None and parameter.default is not parameter.empty
    help_text = descriptions(documented)[name]
    return option(parameter.default if parameter and has_default else None, help=help_text, **arguments)


def descriptions(documented: Any) -> dict[str, str]:
    """Return the description of each argument in a docstring, as plain text.

    Args:
        documented (`Callable`):
            A function or class whose docstring has a section `Args` in the form of this package.
    """
    _, _, section = (inspect.getdoc(documented) or "").partition("\nArgs:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.split("\n"):
        if line and not line.startswith(" "):
            break
        header = re.match(r" {4}(\w+(?:, \w+)*)(?: \(.*?\))?:(.*)", line)
        if header is not None:
            names, line = header[1].split(", "), header[2]
        for name in names:
            found[name] = f"{found.get(name, '')} {line.strip()}".strip()
    # Marks for code and links are removed for a terminal.
    return {name: re.sub(r"\[?`([^`]*)`\]?", r"\1", text) for name, text in found.items()}


class Switch(argparse.Action):
    """An option without a value: `--name` means true, and `--no-name`, where it is an alias, false."""

    def __init__(self, option_strings: Sequence[str], dest: str, default: Any = None, **arguments: Any):
        super().__init__(option_strings, dest, nargs=0, default=default, help=arguments.get("help"))

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, not (option_string or "").startswith("--no-"))


class Repeated(argparse.Action):
    """An option that takes one value and may be given several times."""

    def __init__(self, option_strings: Sequence[str], dest: str, nargs: Any = None, **arguments: Any):
        super().__init__(option_strings, dest, **arguments)

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])


class AnyNumber(argparse.Action):
    """An option that takes any number of values, also none."""

    def __init__(self, option_strings: Sequence[str], dest: str, nargs: Any = None, **arguments: Any):
        super().__init__(option_strings, dest, nargs="*", **arguments)

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)


def switch(**arguments: Any) -> Any:
    """Return a field that is false unless the option is given; arguments as in [`option`]."""
    return option(False, action=Switch, **arguments)


def repeated(metavar: str) -> Any:
    """Return a field that collects the values of an option that may be given several times."""
    return dataclasses.field(default_factory=list, metadata={"action": Repeated, "metavar": metavar})


class CommandParser(RaisingParser, HfArgumentParser):
    """The parser of one command.

    Options are named after the fields of the dataclasses, have their types and defaults, and are explained by their
    docstrings.

    Args:
        command (`str`):
            Its name.
        options (`type`):
            Dataclasses; `_argument_group_name` is the title over the options of one.
        epilog (`str`, *optional*):
            Examples and facts, printed as they are.
    """

    def __init__(self, command: str, *options: Any, epilog: str | None = None):
        line = COMMANDS[command]
        super().__init__(
            options,
            prog=f"demask-hf {command}",
            description=f"{line[0].upper()}{line[1:]}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        texts: dict[str, str] = {}
        for base in (base for cls in options for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base)):
            texts |= descriptions(base)
        for action in self._actions:
            # The parser also accepts --like_this, which would only lengthen help and messages.
            action.option_strings = [name for name in action.option_strings if "_" not in name]
            text = action.help or texts.get(action.dest, "")
            action.help = text.rstrip(".").replace("%", "%%") + _shown_default(action.default)
            if action.metavar is None and action.type in _METAVARS:
                action.metavar = _METAVARS[action.type]

    def parse(self, arguments: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
        """Return an instance of each dataclass, and the positional arguments by name.

        Raises:
            ValueError: if an argument is unknown or wrong, or a number outside its limits.
        """
        *found, unknown = self.parse_args_into_dataclasses(
            list(arguments), return_remaining_strings=True, look_for_args_file=False
        )
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        positionals = dict(vars(found.pop())) if len(found) > len(list(self.dataclass_types)) else {}
        for options in found:
            check_options(options)
        return found, positionals


def _shown_default(default: Any) -> str:
    """Return the end of a help text, which names the default if it is a value."""
    if default is None or default is False or default in ([], argparse.SUPPRESS):
        return ""
    return f" (default: {' '.join(map(str, default)) if isinstance(default, list) else '%(default)s'})"
