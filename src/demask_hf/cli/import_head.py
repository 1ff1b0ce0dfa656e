"""`demask-hf import-head`: take in a head that somebody else trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..tables import Column, text_lines
from .parser import CommandParser, same_as, switch


if TYPE_CHECKING:
    import torch

_IMPORT_HEAD = "head.importing.import_head"

EXAMPLES = """examples:
  demask-hf import-head theirs.safetensors --model Dream-org/Dream-v0-Instruct-7B --out head
  demask-hf import-head theirs.pt --model MODEL --query predictor.w_a --key predictor.w_b --scale 0.0883 --out head

What is imported is sigmoid(scale * query . key) of the final hidden states. Nothing here can tell whether that is what
the head was trained as: measure it with demask-hf verify before you use it.
"""


@dataclass(frozen=True)
class ImportOptions:
    """Whose head it is, and what its tensors mean.

    Args:
        model (`str`):
            Folder or Hub repository of the backbone; only its config is read.
        out (`str`):
            Folder to write.
        revision (`str`, *optional*):
            Revision of the backbone.
        swap (`bool`, *optional*, defaults to `False`):
            The query belongs to the position that is changed, and the key to the one that is revealed.
    """

    model: str = field(metadata={"metavar": "PATH"})
    out: str = field(metadata={"metavar": "DIR"})
    revision: str | None = None
    query: str | None = same_as(_IMPORT_HEAD, "query", metavar="NAME")
    key: str | None = same_as(_IMPORT_HEAD, "key", metavar="NAME")
    scale: float | None = same_as(_IMPORT_HEAD, "scale")
    swap: bool = switch()


_COLUMNS = (
    Column("tensor", "tensor", is_text=True),
    Column("shape", "shape"),
    Column("taken as", "place", is_text=True),
)


def make_parser() -> CommandParser:
    """Return the parser of the command."""
    parser = CommandParser("import-head", ImportOptions, epilog=EXAMPLES)
    parser.add_argument("source", metavar="SOURCE", help="safetensors or torch file, folder or Hub repository")
    return parser


def run(options: ImportOptions, source: str) -> None:
    """List the tensors, and write the head if they are those of a dot product."""
    import torch
    from transformers import AutoConfig, AutoModel

    from ..backbones.backbone import backbone_facts
    from ..head.importing import import_head, read_tensors
    from ..head.loading import check_finite

    tensors = read_tensors(source)
    names = {"query": options.query, "key": options.key}
    print("\n".join(text_lines(_COLUMNS, _rows(tensors, names))))
    config = AutoConfig.from_pretrained(options.model, revision=options.revision)
    with torch.device("meta"):
        backbone = backbone_facts(AutoModel.from_config(config))
    facts: dict[str, Any] = {**backbone, "base_model_name_or_path": options.model}
    head = import_head(tensors, facts, options.query, options.key, options.scale, options.swap)
    check_finite(head, repr(source))
    head.save_pretrained(options.out)
    print(f"wrote a head of width {head.config.width} to {options.out}; check it with demask-hf verify")


def _rows(tensors: dict[str, torch.Tensor], given: dict[str, str | None]) -> list[dict[str, Any]]:
    """Return a row for each tensor, with the projection that it belongs to."""
    from ..head.importing import projections_of

    try:
        places = {module: kind for kind, module in projections_of(tensors, given).items()}
    except ValueError:
        # The import says why; what is there is listed before.
        places = {}
    return [
        {
            "tensor": name,
            "shape": " x ".join(map(str, value.shape)),
            "place": places.get(name.removesuffix(".weight").removesuffix(".bias"), "no place"),
        }
        for name, value in tensors.items()
    ]
