"""`demask-hf export`: write a head as the folder of a Hub repository."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .parser import CommandParser, same_as


if TYPE_CHECKING:
    from ..head.modeling_demask import DemaskHead

EXAMPLES = """examples:
  demask-hf export exported --head head
  demask-hf export exported --head adapter --repo ORG/NAME
"""


@dataclass(frozen=True)
class PublishingOptions:
    """The head to publish.

    Args:
        head (`str`):
            Folder or Hub repository of a trained head, or of an adapter, which is merged.
    """

    head: str = field(metadata={"metavar": "PATH"})
    license: str | None = same_as("head.publishing.export_head", "license")


@dataclass(frozen=True)
class ExportOptions:
    """Where the head goes later."""

    repo: str | None = same_as("head.publishing.export_head", "repo_id", metavar="ORG/NAME")


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    parser = CommandParser("export", PublishingOptions, ExportOptions, epilog=EXAMPLES)
    parser.add_argument("out", metavar="DIR", help="Folder to write")
    return parser


def run(options: PublishingOptions, destination: ExportOptions, out: str) -> None:
    """Write a trained head, with its adapter merged, as the folder of a repository."""
    from ..head.publishing import export_head

    head, record = trained_head(options.head)
    print("wrote", export_head(head, out, record, repo_id=destination.repo, license=options.license))


def trained_head(path: str) -> tuple[DemaskHead, dict[str, Any]]:
    """Return a head, with its adapter merged, and its training record, empty if there is none."""
    from ..head.loading import is_adapter, load_head
    from ..head.publishing import read_training_record

    try:
        has_adapter = is_adapter(path, {})
    except OSError:
        # Whatever it is, loading says why.
        has_adapter = False
    if has_adapter:
        from ..head.adapters import load_merged

        head = load_merged(path)
    else:
        head = load_head(path)
    return head, read_training_record(path)
