"""The package's metadata agree with each other and with what is in the tree."""

import ast
import configparser
import re
import stat
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import demask_hf


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "demask_hf"


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def constraints() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def _requirements(setup: configparser.ConfigParser) -> list[Requirement]:
    texts = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    return [Requirement(line) for text in texts for line in text.split("\n") if line]


def test_constraints_are_exact_and_within_the_ranges(setup, constraints):
    for name, pinned in constraints.items():
        assert [specifier.operator for specifier in pinned.specifier] == ["=="], name
    for required in _requirements(setup):
        pinned = constraints.get(canonicalize_name(required.name))
        if pinned is not None:
            version = next(iter(pinned.specifier)).version
            assert required.specifier.contains(version), f"{required} excludes the tested {version}"


def test_everything_that_tests_need_is_constrained(setup, constraints):
    needed = setup["options"]["install_requires"] + setup["options.extras_require"]["dev"]
    names = {canonicalize_name(Requirement(line).name) for line in needed.split("\n") if line}
    assert names <= constraints.keys()


def test_what_is_imported_is_required(setup):
    required = {canonicalize_name(requirement.name) for requirement in _requirements(setup)}
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    providers = metadata.packages_distributions()
    for module in (imported & providers.keys()) - {"demask_hf", "demask_hf_command"}:
        assert {canonicalize_name(name) for name in providers[module]} & required, f"{module} is not required"


def test_package_data_holds_the_assets_the_viewer_and_the_type_marker(setup):
    patterns = setup["options.package_data"]["demask_hf"].split()
    matched = {path for pattern in patterns for path in PACKAGE.glob(pattern.replace("**", "**/*")) if path.is_file()}
    assert PACKAGE / "py.typed" in matched
    assets = {path for path in (PACKAGE / "assets").rglob("*") if path.is_file()}
    assert assets <= matched
    assert sum(path.stat().st_size for path in assets) < 16_000_000
    pages = {path for path in (PACKAGE / "watching").iterdir() if path.suffix in (".html", ".css", ".js")}
    assert len(pages) == 8
    assert pages <= matched


def test_every_package_has_an_init_file():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert all((folder / "__init__.py").exists() for folder in folders)


def test_version_is_written_once(setup):
    assert setup["metadata"]["version"] == "attr: demask_hf.__version__"
    assert f"## [{demask_hf.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_installed_metadata_name_the_command():
    try:
        distribution = metadata.distribution("demask-hf")
    except metadata.PackageNotFoundError:
        pytest.skip("needs the package to be installed, as `make test` does")
    assert distribution.version == demask_hf.__version__
    commands = {entry.name: entry.value for entry in distribution.entry_points}
    assert commands["demask-hf"] == "demask_hf_command:main"


def test_the_command_starts_in_a_module_that_is_installed(setup):
    module, _, function = setup["options.entry_points"]["console_scripts"].split("=")[1].strip().partition(":")
    assert setup["options"]["py_modules"] == module
    tree = ast.parse((PACKAGE.parent / f"{module}.py").read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_project_facts_stand_in_setup_cfg_alone():
    assert "[project]" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()


def test_license_is_apache(setup):
    assert setup["metadata"]["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_ci_script_can_be_started():
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("name", ["README.md", "model_card.md", "CHANGELOG.md"])
def test_links_of_a_document_exist(name):
    document = ROOT / name
    if not document.exists():
        pytest.skip(f"{name} is not written yet")
    targets = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    for target in targets:
        if not re.match(r"[a-z]+:|#", target):
            assert (ROOT / target.split("#")[0]).exists(), f"{name} links to {target}"


def test_versions_to_test_are_named(setup):
    run = subprocess.run([ROOT / ".ci" / "versions", "oldest"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr == "The version must be lowest, pinned or newest, got 'oldest'.\n"
    # What the script takes the lowest version from.
    assert "transformers >= 5.17, < 6" in setup["options"]["install_requires"]
