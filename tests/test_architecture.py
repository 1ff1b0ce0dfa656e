"""The house: which room may import which, and how large files and functions may grow."""

import ast
import doctest
import importlib
import importlib.util
import inspect
from fnmatch import fnmatch
from pathlib import Path

import pytest

import demask_hf
from demask_hf.strategies import base


PACKAGE = Path(demask_hf.__file__).parent

# Lowest level first. A file belongs to the first glob that fits, and imports its own room and lower levels only.
LEVELS = [
    ("files", "schema", "lazy", "validation", "tables", "assets/*"),
    ("functional/*", "drawing", "locking"),
    ("head/*", "backbones/*", "models/*/configuration_*", "models/bidirectional", "models/lookalikes"),
    ("strategies/*",),
    ("watching/*",),
    ("generation/*",),
    ("models/*",),
    ("training/*", "tasks/*", "evaluation/*"),
    ("bound/*", "tiny/*", "serve/*", "ray"),
    ("cli/*", "harness/*", "custom_generate", "transformers", "__init__", "__main__"),
]
# Rooms of one level that may import each other all the same, (importing, imported).
NEIGHBOURS = {("evaluation", "tasks"), ("__main__", "cli"), ("custom_generate", "__init__"), ("cli", "__init__")}
MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 70
LONG_FUNCTIONS = {
    "generation/mixin.DemaskGenerationMixin.generate": "its docstring numbers the algorithm and shows its use"
}
# Files that cannot be imported without a package of an extra.
NEEDED_PACKAGES = {"harness/model": "lm_eval", "serve/app": "prometheus_client", "serve/metrics": "prometheus_client"}
NEEDED_PACKAGES |= {"ray": "ray"}
# The files of a head's Hub repository must work alone.
HEAD_FILES = {"head/modeling_demask", "head/layers_demask", "head/configuration_demask"}
HEAD_IMPORTS = {"torch", "transformers", "huggingface_hub", "functools", "json", "math", "dataclasses", "typing"}

FILES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def _level_of(name):
    # `*` matches slashes, too; a glob without one names a file on top.
    fits = [any(fnmatch(name, glob) for glob in globs) for globs in LEVELS]
    return fits.index(True) if any(fits) else None


def _room_of(name):
    return name.split("/")[0]


def _imported_files(name):
    """Return the files of the package that a file imports, by name."""
    imported = set()
    folder = name.split("/")[:-1]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names if alias.name.split(".")[0] == "demask_hf"]
            parts = [module.split(".")[1:] for module in modules]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0 and (node.module or "").split(".")[0] != "demask_hf":
                continue
            start = folder[: len(folder) - node.level + 1] if node.level else []
            module = (node.module or "").split(".")[0 if node.level else 1 :]
            parts = [[*start, *filter(None, module), alias.name] for alias in node.names]
        else:
            continue
        for path in parts:
            # What is imported is a module, a package, or something defined in one.
            candidates = ["/".join(path), "/".join([*path, "__init__"])]
            candidates += ["/".join(path[:-1]), "/".join([*path[:-1], "__init__"])]
            imported.add(next(candidate for candidate in candidates if candidate in FILES))
    return imported - {name}


def _functions(name):
    """Yield the qualified name and the length in lines of every function of a file."""

    def visit(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                qualified = f"{prefix}.{child.name}"
                if not isinstance(child, ast.ClassDef):
                    yield qualified, child.end_lineno - child.lineno + 1
                yield from visit(child, qualified)

    yield from visit(TREES[name], name)


every_file = pytest.mark.parametrize("name", FILES)


@every_file
def test_every_file_has_its_level(name):
    assert _level_of(name) is not None, f"{name} belongs to no room: give it a place in LEVELS"


@every_file
def test_no_import_runs_upward_or_to_a_neighbour(name):
    for imported in _imported_files(name):
        rooms = _room_of(name), _room_of(imported)
        is_allowed = _level_of(imported) < _level_of(name) or rooms[0] == rooms[1] or rooms in NEIGHBOURS
        assert is_allowed, f"{name} must not import {imported}, which lies above it or in another room of its level"


def test_imports_have_no_cycles():
    waiting = {name: _imported_files(name) for name in FILES}
    while waiting:
        ready = [name for name, imported in waiting.items() if not imported & waiting.keys()]
        assert ready, f"these files import each other: {', '.join(sorted(waiting))}"
        for name in ready:
            del waiting[name]


def test_the_parser_of_imports_sees_them():
    assert _imported_files("generation/mixin") >= {"generation/heads", "generation/loop", "watching/__init__"}
    assert _imported_files("models/dream/modeling_dream") >= {"models/bidirectional", "models/dream/generation_dream"}
    assert "generation/mixin" in _imported_files("models/dream/generation_dream")
    assert "functional/distributions" in _imported_files("strategies/klass")
    assert _imported_files("functional/distributions") == set()


@pytest.mark.parametrize("name", sorted(HEAD_FILES))
def test_the_files_of_the_head_work_alone(name):
    assert _imported_files(name) <= HEAD_FILES
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= HEAD_IMPORTS
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.split(".")[0] in HEAD_IMPORTS


def test_the_functional_room_imports_torch_only():
    for name in (name for name in FILES if _room_of(name) == "functional"):
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
                assert {module.split(".")[0] for module in modules} <= {"torch", "collections", "dataclasses", "math"}


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.endswith("/__init__")))
def test_every_room_says_where_to_begin(name):
    docstring = ast.get_docstring(TREES[name]) or ""
    assert len(docstring) > 20, f"{name} must say what the room is for"
    if name.count("/") == 1:
        package = importlib.import_module(f"demask_hf.{_room_of(name)}")
        assert all(hasattr(package, public) for public in package.__all__)


@every_file
def test_files_stay_short(name):
    num_lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_FILE_LINES, f"{name} has {num_lines} lines: split it"


@every_file
def test_functions_stay_short(name):
    for function, num_lines in _functions(name):
        if function not in LONG_FUNCTIONS:
            assert num_lines <= MAX_FUNCTION_LINES, f"{function} has {num_lines} lines: split it"


def test_exceptions_are_needed():
    lengths = {function: length for name in FILES for function, length in _functions(name)}
    for function in LONG_FUNCTIONS:
        assert lengths[function] > MAX_FUNCTION_LINES, f"{function} is short enough now"


@every_file
def test_there_is_no_drawer_for_everything(name):
    assert name.split("/")[-1] not in ("utils", "helpers", "misc", "common")


@every_file
def test_every_file_says_what_it_is_for(name):
    assert ast.get_docstring(TREES[name])


@every_file
def test_there_are_no_assertions_in_the_source(name):
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(TREES[name]))


@pytest.mark.parametrize("name", [name for name in demask_hf.__all__ if not name.startswith("TINY")])
def test_public_names_are_documented(name):
    documented = getattr(demask_hf, name)
    # A docstring of its own, not one that is inherited or made up by `dataclass`.
    docstring = documented.__dict__.get("__doc__") if inspect.isclass(documented) else documented.__doc__
    assert docstring
    assert not docstring.startswith(f"{name}(")


@pytest.mark.parametrize("name", ["TINY_DREAM", "TINY_DEMASK"])
def test_paths_of_the_shipped_checkpoint_lie_in_the_package(name):
    assert Path(getattr(demask_hf, name)).parent == PACKAGE / "assets"


def test_public_names_that_others_rely_on():
    names = {"DemaskGenerationMixin", "DemaskGenerationConfig", "DemaskConfig", "DemaskHead", "DreamConfig"}
    names |= {"DreamModel", "TINY_DREAM", "TINY_DEMASK", "attach", "register_strategy"}
    assert names <= set(demask_hf.__all__)
    assert all(hasattr(demask_hf, name) for name in demask_hf.__all__)
    assert callable(demask_hf.DreamModel.load_demask_head)


@pytest.mark.parametrize("method", ["generate", "load_demask_head", "set_demask_head"])
def test_public_methods_are_documented(method):
    assert inspect.getdoc(getattr(demask_hf.DemaskGenerationMixin, method))


def _examples():
    finder = doctest.DocTestFinder()
    for name in FILES:
        is_missing = name in NEEDED_PACKAGES and importlib.util.find_spec(NEEDED_PACKAGES[name]) is None
        if name.split("/")[-1] == "__main__" or is_missing:
            continue
        module = importlib.import_module(".".join(["demask_hf", *name.split("/")]).removesuffix(".__init__"))
        for test in finder.find(module, module=module):
            if test.examples:
                yield pytest.param(test, id=test.name)


@pytest.mark.parametrize("example", list(_examples()))
def test_examples_in_docstrings(example, monkeypatch):
    source = "".join(line.source for line in example.examples)
    for asset in ("TINY_DREAM", "TINY_DEMASK"):
        if asset in source and not Path(getattr(demask_hf, asset)).is_dir():
            pytest.skip(f"needs the shipped checkpoint {asset}, which is not built yet")
    # Strategies that examples register must not stay.
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_examples_are_found():
    names = {parameter.id for parameter in _examples()}
    assert "demask_hf.functional.distributions.total_variation" in names
    assert "demask_hf.strategies.base.register_strategy" in names
    assert "demask_hf.generation.mixin.DemaskGenerationMixin.generate" in names
