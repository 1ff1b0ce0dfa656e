"""Recordings of the public code of other models, and how they are reproduced."""

import json
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def siblings():
    """Return the folder with recordings of other models; skip where it is not beside the repository."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "siblings"
    if not folder.is_dir():
        pytest.skip("needs the recordings of other models in ../shared/siblings, beside the repository")
    return folder


@pytest.fixture(scope="session")
def reproduces_mdlm():
    """Return a function that compares a model with recorded decodes of the masked sampler, and counts the rows.

    Rows of the same settings are decoded as one left-padded batch, recorded alone or together. The public code aligns
    prompts on the left and fills the columns behind an answer.
    """

    def compared(model, recorded):
        groups: dict[str, list] = {}
        for case in recorded["cases"]:
            if "mdlm" in case["id"]:
                rows = zip(case["prompt"], case["sequences"], case["unmask_step"], strict=True)
                group = groups.setdefault(json.dumps(case["settings"], sort_keys=True), [])
                group += [(prompt, sequence, steps, case["nfe"]) for prompt, sequence, steps in rows]
        for settings, rows in groups.items():
            settings = json.loads(settings)
            length, width = settings["max_new_tokens"], max(len(row[0]) for row in rows)
            output = model.generate(
                torch.tensor([[recorded["pad_token_id"]] * (width - len(row[0])) + row[0] for row in rows]),
                torch.tensor([[0] * (width - len(row[0])) + [1] * len(row[0]) for row in rows]),
                strategy="schedule",
                algorithm="maskgit_plus",
                plan="mdlm",
                max_denoising_steps=settings["steps"],
                max_new_tokens=length,
                block_length=settings["block_size"],
                stop_at_eos=False,
                mask_token_id=recorded["mask_token_id"],
                return_dict_in_generate=True,
            )
            for row, (prompt, sequence, steps, nfe) in enumerate(rows):
                answer = slice(len(prompt), len(prompt) + length)
                assert output.sequences[row, width:].tolist() == sequence[answer]
                # Of a batch whole rows are recorded, of a prompt alone the answer.
                expected = steps if len(steps) == length else steps[answer]
                assert output.unmask_step[row, width:].tolist() == expected
                assert output.num_forward_passes[row] == nfe
        return sum(map(len, groups.values()))

    return compared
