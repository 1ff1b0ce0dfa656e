"""Recordings of public code on small models, see siblings.md beside them."""

import json
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def siblings():
    folder = Path(__file__).resolve().parents[3] / "shared" / "siblings"
    if not folder.is_dir():
        pytest.skip("needs the recordings of other models in ../shared/siblings, beside the repository")
    return folder


@pytest.fixture
def decode_recorded(siblings):
    """Return a function that decodes the prompts of recorded cases in one batch, and yields each with what was found.

    Found are the whole sequence, the step that first filled each new position, and the forwards before the block that
    begins at a column. The rows are longer than the recorded ones, which changes nothing in earlier blocks.
    """

    def decode(model, cases, block_length, num_new_tokens, mask_token_id, **rule):
        prompts = [case["prompt"][0] for case in cases]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        output = model.generate(
            ids,
            mask,
            max_new_tokens=num_new_tokens,
            block_length=block_length,
            stop_at_eos=False,
            output_history=True,
            return_dict_in_generate=True,
            **rule,
        )
        steps = (torch.stack(output.history[1:])[..., width:] != mask_token_id).long().argmax(dim=0)
        for row, (case, prompt) in enumerate(zip(cases, prompts, strict=True)):
            yield case, output.sequences[row, width - len(prompt) :].tolist(), steps[row].tolist()

    return decode


@pytest.fixture
def recorded_groups(siblings):
    """Return a function that groups the recorded cases of a model with one row by everything but their stops."""

    def groups(name):
        recorded, found = json.loads((siblings / f"{name}_decode.json").read_text()), {}
        for case in recorded["cases"]:
            if len(case["prompt"]) == 1:
                stops = ("eos_id", "eos_token_id", "eos_early_stop", "stopping_criteria_idx")
                settings = {key: value for key, value in case["settings"].items() if key not in stops}
                key = json.dumps([case["alg"], dict(sorted(settings.items()))])
                found.setdefault(key, []).append(case)
        return list(found.values())

    return groups
