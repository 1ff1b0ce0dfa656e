"""`demask-hf push`: upload a head to the Hub."""

import tempfile
from dataclasses import dataclass

from .export import PublishingOptions, trained_head
from .parser import CommandParser, Switch, same_as


EXAMPLES = """examples:
  demask-hf push ORG/NAME --head head --license apache-2.0 --private
"""


@dataclass(frozen=True)
class PushOptions:
    """How the repository is written to, as in [`push_head`]."""

    private: bool = same_as("head.publishing.push_head", "is_private", action=Switch)
    token: str | None = same_as("head.publishing.push_head", "token")


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    parser = CommandParser("push", PublishingOptions, PushOptions, epilog=EXAMPLES)
    parser.add_argument("repo", metavar="ORG/NAME", help="The repository; created if it does not exist")
    return parser


def run(options: PublishingOptions, push: PushOptions, repo: str) -> None:
    """Export a trained head to a temporary folder and upload that."""
    if options.license is None:
        raise ValueError(
            "`--license` must be given to publish a head, such as apache-2.0; see those of the backbone and the data."
        )
    from ..head.publishing import export_head, push_head

    head, record = trained_head(options.head)
    with tempfile.TemporaryDirectory() as folder:
        export_head(head, folder, record, repo_id=repo, license=options.license)
        print(push_head(folder, repo, push.private, push.token))
