"""Names that are imported late are listed, found, and refused like any others; type checkers see them, too."""

import ast
import importlib
from pathlib import Path

import pytest

import demask_hf


PACKAGES = ["demask_hf", *(f"demask_hf.{room}" for room in ("head", "models", "training", "evaluation", "bound"))]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_listed_and_found(name):
    package = importlib.import_module(name)
    assert set(package.__all__) <= set(dir(package))
    assert all(getattr(package, public) is not None for public in package.__all__)


@pytest.mark.parametrize("name", PACKAGES)
def test_other_names_are_refused(name):
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nonsense'"):
        getattr(importlib.import_module(name), "nonsense")  # noqa: B009 - the lookup is what is tested
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        exec(f"from {name} import nonsense")


@pytest.mark.parametrize("name", PACKAGES)
def test_type_checkers_see_the_names_that_are_imported_late(name):
    file = Path(importlib.import_module(name).__file__)
    (typed,) = (node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.If))
    imported = {alias.name: node.module for node in typed.body for alias in node.names}
    (call,) = (node for node in ast.walk(typed) if isinstance(node, ast.Call))
    places = ast.literal_eval(call.args[1])
    assert imported == {public: module for module, names in places.items() for public in names}


def test_importing_the_package_imports_no_training():
    import subprocess
    import sys

    code = "import sys, demask_hf; print([name for name in sys.modules if name.startswith('demask_hf.training')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert demask_hf.collect.__module__ == "demask_hf.training.collection"
