"""Names of a package that are imported on first use, so that unused ones cost nothing."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, places: dict[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package (PEP 562).

    Type checkers do not understand this, so the package also imports the same names under `TYPE_CHECKING`.

    Args:
        package (`str`):
            Its `__name__`.
        places (`dict[str, tuple[str, ...]]`):
            Names by the module that defines them, relative to the package, such as `"training.states"`.
    """
    module_of = {name: module for module, names in places.items() for name in names}

    def find(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{module_of[name]}", package), name)

    return find, lambda: sorted({*vars(sys.modules[package]), *module_of})
