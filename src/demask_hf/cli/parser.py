"""From dataclasses of options to the parser of a command.

The dataclasses are read as by `transformers.HfArgumentParser`, which cannot be imported in less than half a second.
"""

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any

from demask_hf_command import COMMANDS, RaisingParser

from .documented import descriptions, documented
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


def same_as(place: str, name: str, **arguments: Any) -> Any:
    """Return a field with the default and the description of an argument of a function or class.

    Args:
        place (`str`):
            The function or class, as in [`documented`]; its docstring describes its arguments.
        name (`str`):
            The argument; if it has no default, the option's default is `None`.
        arguments:
            As in [`option`].
    """
    default, help_text = documented(place, name)
    return option(default, help=help_text, **arguments)


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


class CommandParser(RaisingParser):
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
            prog=f"demask-hf {command}",
            description=f"{line[0].upper()}{line[1:]}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.dataclass_types = options
        for cls in options:
            title = getattr(cls, "_argument_group_name", None)
            group = self if title is None else self.add_argument_group(title)
            described = [base.__doc__ or "" for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base)]
            texts = {name: text for one in described for name, text in descriptions(one).items()}
            kinds = typing.get_type_hints(cls)
            for field in dataclasses.fields(cls):
                _add(group, field, kinds[field.name], texts.get(field.name, ""))

    def parse(self, arguments: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
        """Return an instance of each dataclass, and the positional arguments by name.

        Raises:
            ValueError: if an argument is unknown or wrong, or a number outside its limits.
        """
        values = vars(self.parse_args(list(arguments)))
        found = [
            cls(**{field.name: values.pop(field.name) for field in dataclasses.fields(cls)})
            for cls in self.dataclass_types
        ]
        for options in found:
            check_options(options)
        return found, values


def _add(group: Any, field: dataclasses.Field, kind: Any, text: str) -> None:
    """Add the option of a field."""
    arguments = dict(field.metadata)
    aliases = arguments.pop("aliases", ())
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    if default is dataclasses.MISSING:
        default, arguments["required"] = None, True
    of_one, is_list = _kind_of(kind)
    arguments.setdefault("type", of_one)
    if arguments.get("action") is None and is_list:
        arguments.setdefault("nargs", "+")
    if of_one in _METAVARS:
        arguments.setdefault("metavar", _METAVARS[of_one])
    text = arguments.pop("help", text)
    added = group.add_argument(
        *dict.fromkeys((f"--{field.name.replace('_', '-')}", f"--{field.name}")),
        *([aliases] if isinstance(aliases, str) else aliases),
        dest=field.name,
        default=default,
        help=text.rstrip(".").replace("%", "%%") + _shown_default(default),
        **arguments,
    )
    # As with transformers, --like_this is right as well, which would only lengthen help and messages.
    added.option_strings = [name for name in added.option_strings if "_" not in name]


def _kind_of(kind: Any) -> tuple[Any, bool]:
    """Return the type of a field without `None`, for a list that of its members, and whether it is a list."""
    if isinstance(kind, types.UnionType):
        (kind,) = (each for each in typing.get_args(kind) if each is not type(None))
    if typing.get_origin(kind) is list:
        return typing.get_args(kind)[0], True
    return kind, False


def _shown_default(default: Any) -> str:
    """Return the end of a help text, which names the default if it is a value."""
    if default is None or default is False or default in ([], argparse.SUPPRESS):
        return ""
    return f" (default: {' '.join(map(str, default)) if isinstance(default, list) else '%(default)s'})"
