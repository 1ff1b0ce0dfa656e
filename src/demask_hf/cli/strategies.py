"""`demask-hf strategies`: list the strategies with their fields and defaults."""

import json
from dataclasses import dataclass

from .parser import CommandParser, switch


@dataclass(frozen=True)
class ListOptions:
    """How the list is printed.

    Args:
        json (`bool`, *optional*, defaults to `False`):
            Print one JSON object for each strategy.
    """

    json: bool = switch()


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    return CommandParser("strategies", ListOptions)


def run(options: ListOptions) -> None:
    """Print every registered strategy with its fields and their defaults."""
    from ..strategies import make_strategy, strategy_fields, strategy_names

    for name in strategy_names():
        description = (type(make_strategy(name)).__doc__ or "").strip().split("\n")[0]
        fields = strategy_fields(name)
        if options.json:
            print(json.dumps({"name": name, "description": description, "fields": fields}))
        else:
            print(name, f"    {description}", sep="\n")
            print(*(f"    {field} = {json.dumps(default)}" for field, default in fields.items()), sep="\n", end="\n\n")
