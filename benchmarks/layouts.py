"""What a head adds to a fixed table of dependencies, on families whose layout changes from prompt to prompt.

    python benchmarks/layouts.py --out docs/results/layouts.json

A backbone of the shipped size and a head are trained on the families of `layout_families.py`, on one core in about an
hour; limits are chosen on validation prompts and reported on test prompts. Every part is kept in the work folder, and
the same command resumes where it was interrupted.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from layout_families import LATIN, LINKS, MATCH
from transformers import AutoModel

from demask_hf import DemaskHead
from demask_hf.files import write_json
from demask_hf.generation.configuration import DemaskGenerationConfig
from demask_hf.tiny.backbone import ANSWER_LENGTH, BackboneTrainer
from demask_hf.tiny.head import build_head


MIXTURE = {MATCH: 0.8, LINKS: 1.4, LATIN: 1.8}
SEED = 0


def backbone_of(work: Path, num_steps: int) -> tuple[Any, Any]:
    """Return the trained backbone and its tokenizer."""
    work.mkdir(parents=True, exist_ok=True)
    trainer = BackboneTrainer(SEED, num_steps, work / "state.pt", "cpu", MIXTURE)
    trainer.run()
    model = trainer.average.module.eval()
    model.generation_config = DemaskGenerationConfig(max_new_tokens=ANSWER_LENGTH)
    model.save_pretrained(work / "backbone")
    trainer.tokenizer.save_pretrained(work / "backbone")
    return AutoModel.from_pretrained(work / "backbone").eval(), trainer.tokenizer
