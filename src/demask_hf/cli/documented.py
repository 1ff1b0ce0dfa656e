"""What functions and classes say about their arguments, read from their source: to import them would import torch.

An option with the default and the description of an argument of `generate`, say, can so be parsed, and its help be
printed, in a moment.
"""

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any


_PACKAGE = Path(__file__).parents[1]


def documented(place: str, name: str) -> tuple[Any, str]:
    """Return the default of an argument, `None` if it has none, and its description as plain text.

    Args:
        place (`str`):
            A function or class of this package with the path of its file, such as `"models.loading.load_model"`.
        name (`str`):
            The argument; of a class, one of its `__init__` or a field.

    Raises:
        LookupError: if there is no such function or class, or it does not describe the argument.

    Example:

    ```python
    >>> documented("models.loading.load_model", "dtype")
    ('auto', 'Number format of the weights; "auto" keeps that of the file.')

    ```
    """
    found = _definition(place)
    default = _defaults(found).get(name)
    described = descriptions(ast.get_docstring(found) or "")
    value = None if default is None else _value(default, _tree(place))
    return value, described[name]


def constant(place: str) -> Any:
    """Return the value of a constant with the path of its file, such as `"generation.configuration.SCORES"`.

    Example:

    ```python
    >>> constant("functional.probes.TARGET_ESTIMATORS")
    ('expectation', 'argmax', 'sample')

    ```
    """
    return _value(ast.Name(place.rpartition(".")[2]), _tree(place))


def descriptions(docstring: str) -> dict[str, str]:
    """Return the description of each argument in a docstring, as plain text.

    Args:
        docstring (`str`):
            The docstring of a function or class, with a section `Args` in the form of this package.
    """
    _, _, section = inspect.cleandoc(docstring).partition("\nArgs:\n")
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


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _tree(place: str) -> ast.Module:
    """Return the file of a place."""
    return _parsed(_PACKAGE.joinpath(*place.split(".")[:-1]).with_suffix(".py"))


def _definition(place: str) -> ast.FunctionDef | ast.ClassDef:
    for node in _tree(place).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == place.rpartition(".")[2]:
            return node
    raise LookupError(f"there is no function or class {place}")


def _defaults(found: ast.FunctionDef | ast.ClassDef) -> dict[str, ast.expr | None]:
    """Return the expression of each default: of a class, those of its `__init__` or else of its fields."""
    if isinstance(found, ast.ClassDef):
        inits = [node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        if not inits:
            fields = [node for node in found.body if isinstance(node, ast.AnnAssign)]
            return {node.target.id: node.value for node in fields if isinstance(node.target, ast.Name)}
        found = inits[0]
    arguments, given = found.args, found.args.defaults
    positional = zip(reversed(arguments.args), reversed(given), strict=False)
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return {argument.arg: default for argument, default in [*positional, *keywords]}


def _value(node: ast.expr, tree: ast.Module) -> Any:
    """Return the value of a literal, a constant of the same file, or a tuple of such."""
    if isinstance(node, ast.Name):
        values = [each.value for each in tree.body if isinstance(each, ast.Assign) and _names(each) == node.id]
        return _value(values[0], tree)
    if isinstance(node, ast.Tuple):
        parts = [_value(each.value if isinstance(each, ast.Starred) else each, tree) for each in node.elts]
        pairs = zip(node.elts, parts, strict=True)
        return tuple(value for each, part in pairs for value in (part if isinstance(each, ast.Starred) else (part,)))
    return ast.literal_eval(node)


def _names(assigned: ast.Assign) -> str | None:
    target = assigned.targets[0]
    return target.id if isinstance(target, ast.Name) else None
