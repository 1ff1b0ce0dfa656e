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
