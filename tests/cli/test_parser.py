"""From dataclasses to parsers: names, defaults, descriptions, and options without a value."""

from dataclasses import dataclass, field
from importlib import import_module

import pytest

from demask_hf.cli.documented import constant, descriptions, documented
from demask_hf.cli.parser import AnyNumber, CommandParser, Switch, option, repeated, same_as, switch
from demask_hf_command import COMMANDS


SOURCE = '''
KINDS = ("a", "b")
ALL_KINDS = (*KINDS, "c")

def measure(model, num_draws: int = 7, *, share: float = 0.5, kinds: tuple = ALL_KINDS, **rest) -> None:
    """Measure something.

    Args:
        num_draws (`int`, *optional*, defaults to 7):
            Draws of a set, see [`draw`]; at
            least 2.
        share (`float`): Up to 100 % of `all`.
        first, second (`int`):
            Both.
        kinds (`tuple`):
            Kinds.
        rest:
            What is left.

    Returns:
        `None`: nothing.
    """

class Measured:
    """What was measured.

    Args:
        seed (`int`): Seed.
        name (`str`): Name.
    """

    name: str
    seed: int = -3

class Built:
    """What was built.

    Args:
        size (`int`): Size.
    """

    name: str = "x"

    def __init__(self, size: int = 4):
        pass
'''


@dataclass(frozen=True)
class Options:
    """Options for tests.

    Args:
        folder (`str`):
            Where to write.
        dry_run (`bool`):
            Write nothing.
        names (`list[str]`):
            Some names.
        sizes (`list[float]`):
            Some sizes.
        set (`list[str]`):
            Fields.
        mode (`str`):
            A mode.
        stop_early (`bool`):
            Stop.
    """

    _argument_group_name = "things"

    folder: str = field(metadata={"metavar": "DIR"})
    num_draws: int = same_as("bound.measurement.VerificationSettings", "num_draws")
    share: float = same_as("bound.calibration.calibrate", "epsilon")
    rest: int | None = same_as("models.loading.load_model", "name")
    dry_run: bool = switch(aliases="-d")
    names: list[str] | None = option(action=AnyNumber, metavar="NAME")
    sizes: list[float] = field(default_factory=lambda: [0.5, 2.0])
    set: list[str] = repeated("FIELD=VALUE")
    mode: str | None = option(nargs="?", const="default")
    stop_early: bool | None = option(action=Switch, aliases="--no-stop-early")


@pytest.fixture
def parse():
    """Return a function that parses arguments into the options."""

    def run(*arguments):
        parser = CommandParser("demo", Options)
        parser.add_argument("prompts", nargs="*")
        (options,), positionals = parser.parse(["--folder", "x", *arguments])
        return options, positionals["prompts"]

    return run


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A package with one file."""
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "measuring.py").write_text(SOURCE)
    monkeypatch.setattr("demask_hf.cli.documented._PACKAGE", tmp_path)


def test_descriptions_are_read_from_a_docstring_as_plain_text():
    docstring = SOURCE.split('"""')[1]
    assert descriptions(docstring) == {
        "num_draws": "Draws of a set, see draw; at least 2.",
        "share": "Up to 100 % of all.",
        "first": "Both.",
        "second": "Both.",
        "kinds": "Kinds.",
        "rest": "What is left.",
    }
    assert descriptions("Nothing.") == {}


@pytest.mark.parametrize(
    ("place", "name", "expected"),
    [
        ("measure", "num_draws", (7, "Draws of a set, see draw; at least 2.")),
        ("measure", "share", (0.5, "Up to 100 % of all.")),
        ("measure", "rest", (None, "What is left.")),
        ("measure", "kinds", (("a", "b", "c"), "Kinds.")),
        ("Measured", "seed", (-3, "Seed.")),
        ("Measured", "name", (None, "Name.")),
        ("Built", "size", (4, "Size.")),
    ],
)
def test_defaults_and_descriptions_are_read_from_the_source(source, place, name, expected):
    assert documented(f"room.measuring.{place}", name) == expected


def test_what_is_not_in_the_source_is_an_error_of_the_programmer(source):
    assert constant("room.measuring.ALL_KINDS") == ("a", "b", "c")
    with pytest.raises(LookupError, match=r"there is no function or class room\.measuring\.nothing"):
        documented("room.measuring.nothing", "name")
    with pytest.raises(LookupError, match="model"):
        documented("room.measuring.measure", "model")


def test_defaults_are_those_of_the_function(parse):
    assert parse() == (Options("x", 256, 0.05, None, False, None, [0.5, 2.0], [], None, None), [])


def test_options_without_a_value_leave_prompts_alone(parse):
    options, prompts = parse("--dry-run", "--no-stop-early", "a", "b")
    assert (options.dry_run, options.stop_early, prompts) == (True, False, ["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["-d"], "dry_run", True),
        (["--stop-early"], "stop_early", True),
        (["--no-stop-early"], "stop_early", False),
        (["--names"], "names", []),
        (["--names", "a", "b"], "names", ["a", "b"]),
        (["--sizes", "1", "2"], "sizes", [1.0, 2.0]),
        (["--set", "a=1", "--set", "b=2"], "set", ["a=1", "b=2"]),
        (["--mode"], "mode", "default"),
        (["--mode", "fast"], "mode", "fast"),
        (["--num-draws", "3"], "num_draws", 3),
        (["--num_draws", "3"], "num_draws", 3),
    ],
)
def test_values_reach_their_field(parse, arguments, name, value):
    assert getattr(parse(*arguments)[0], name) == value


def test_a_repeated_option_takes_one_value_at_a_time(parse):
    options, prompts = parse("--set", "a=1", "prompt")
    assert (options.set, prompts) == (["a=1"], ["prompt"])
    assert parse()[0].set == []


def test_help_has_titles_descriptions_and_defaults():
    text = " ".join(CommandParser("demo", Options, epilog="examples:\n  none").format_help().split())
    for part in (
        "things:",
        "--folder DIR Where to write",
        "--share X Limit of the expected loss, in (0, 1) (default: 0.05)",
        "comparing orders; at least 2 (default: 256)",
        "--dry-run, -d Write nothing",
        "--sizes X [X ...] Some sizes (default: 0.5 2.0)",
        "--stop-early, --no-stop-early Stop",
    ):
        assert part in text
    assert "_draws" not in text
    assert text.endswith("examples: none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folder", "x", "--num-draws", "many"], "argument --num-draws: invalid int value: 'many'"),
        ([], "the following arguments are required: --folder"),
        (["--folder", "x", "--nonsense", "1"], "unrecognized arguments: --nonsense 1"),
    ],
)
def test_bad_input_is_a_value_error_that_names_the_help(arguments, message):
    with pytest.raises(ValueError, match=message) as raised:
        CommandParser("demo", Options).parse(arguments)
    assert str(raised.value).endswith("(see demask-hf demo --help)")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_is_explained(command):
    parser = import_module(f"demask_hf.cli.{command.replace('-', '_')}").make_parser()
    assert parser.prog == f"demask-hf {command}"
    for action in parser._actions:
        assert action.help, f"{command}: {action.dest} has no description"
    parser.format_help()


@pytest.mark.parametrize("command", ["collect", "train", "evaluate", "benchmark", "verify", "calibrate"])
def test_long_commands_say_how_they_resume(command):
    text = import_module(f"demask_hf.cli.{command.replace('-', '_')}").make_parser().format_help()
    assert "run the same command again" in text or "does not resume" in text
